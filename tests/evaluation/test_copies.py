"""Copies among generated photographs are found by features, and shown beside what they are copies of."""

import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from scoreflow_jax.evaluation.copies import find_copies, nearest_training
from scoreflow_jax.evaluation.data import Data as Everything
from scoreflow_jax.evaluation.extractors import Extractor
from scoreflow_jax.evaluation.generation import Generation
from scoreflow_jax.evaluation.samples import Generated
from scoreflow_jax.metrics.diversity import nearest, nearest_by_products
from scoreflow_jax.pixels import Scaling, to_unit_range_host
from scoreflow_jax.sampling import SolveStats
from tests.known import known_model

RNG = np.random.default_rng(0)
TRAINING = RNG.standard_normal((400, 64)).astype(np.float32)
HELD_OUT = RNG.standard_normal((300, 64)).astype(np.float32)
PIXELS = RNG.integers(0, 256, (400, 32, 32, 3), np.uint8)


class Data:
    """As much of `evaluation.data.Data` as is asked."""

    settings = types.SimpleNamespace(split="train", reference=None)
    experiment = types.SimpleNamespace(scaling=Scaling(256, False))

    def statistics(self, split):
        return types.SimpleNamespace(features=TRAINING if split == "train" else HELD_OUT)

    def some(self, count):
        return np.arange(min(count, len(HELD_OUT)))

    def images(self, split, chosen):
        assert split == "train"
        return to_unit_range_host(PIXELS[chosen], 256), None


def test_copies_are_counted_and_shown(tmp_path):
    """A tenth of the images are training images moved by more and more; the others are drawn as the training images are."""
    features = RNG.standard_normal((200, 64)).astype(np.float32)
    copied = np.arange(20) * 10
    features[copied] = TRAINING[copied] + 0.01 * np.arange(1, 21, dtype=np.float32)[:, None]
    first = RNG.integers(0, 256, (200, 32, 32, 3), np.uint8)
    found, real = find_copies(tmp_path / "nearest.png", Generated(features, None, first, SolveStats()), Data())
    assert 0.1 <= found["nearer_than_held_out"] < 0.14  # one in a hundred of the others besides
    exact, _ = nearest(features, TRAINING)
    np.testing.assert_allclose(found["nearest_training_feature_distance"], exact.mean(), rtol=1e-4)
    held_out, _ = nearest(HELD_OUT, TRAINING)
    np.testing.assert_allclose(real["nearest_training_feature_distance"], held_out.mean(), rtol=1e-4)
    picture = np.asarray(Image.open(tmp_path / "nearest.png").convert("RGB"))
    assert has(picture, first[copied[0]])
    assert has(picture, PIXELS[copied[0]])
    assert not has(picture, first[1])


COLOURS = np.random.default_rng(1).normal(size=(10, 3))


def coloured(path):
    """Ten classes of pictures of one colour each, with noise on them, as a file of arrays."""
    rng, arrays = np.random.default_rng(0), {}
    for split, count in (("train", 600), ("test", 200)):
        label = np.arange(count) % 10
        noise = rng.normal(0, 10, (count, 32, 32, 3))
        image = np.clip(127.5 + 60 * COLOURS[label][:, None, None] + noise, 0, 255)
        arrays |= {f"{split}_images": image.astype(np.uint8), f"{split}_labels": label}
    np.savez(path, **arrays)


@pytest.mark.parametrize(("off", "share"), [(0, 1.0), (1, 0.0)])
def test_photographs_are_recognized_by_their_features(tmp_path, monkeypatch, off, share):
    """A drift to a class's colour, the right class's or the next one's; features are means and deviations of colours."""
    coloured(tmp_path / "images.npz")
    fields = {"data__source": "arrays", "data__path": str(tmp_path / "images.npz"), "model__label_dropout": 0.0}
    fields |= {
        "eval__extractor": "inception",
        "eval__classifier": True,
        "eval__generation__images": 100,
        "eval__cache": str(tmp_path / "cache"),
    }
    # x(1) = exp(-k) x0 + (1 - exp(-k)) colour / (1 - exp(-k)), noise as strong as that of the pictures.
    k = np.log(127.5 / 10)
    colour = jnp.asarray(COLOURS * 60 / 127.5 / (1 - np.exp(-k)), jnp.float32)
    move = lambda x, t, label: k.astype(np.float32) * (colour[(label + off) % 10][:, None, None, :] - x)
    model = known_model(move, "cifar10_small", variant="smoke", batch_size=100, **fields)
    compute = lambda pixels: np.concatenate([pixels.mean((1, 2)), pixels.std((1, 2))], axis=1, dtype=np.float32)
    extractor = Extractor("inception", {"extractor": "colours"}, 6, 100, compute)
    monkeypatch.setattr(Everything, "extractor", extractor)
    figures = model.experiment.eval.generation.measure(model, Everything(model.experiment), tmp_path)
    generated, real = figures["by_seed"]["1"], figures["real"]
    assert generated["recognized"] == pytest.approx(share, abs=0.05)
    assert real["recognized"] > 0.9
    assert "logistic regression" in figures["classifier"]
    assert 0 < real["nearest_training_feature_distance"] < generated["nearest_training_feature_distance"]
    assert generated["nearer_than_held_out"] < 0.05
    page = Generation.page(figures, {"extractor": {"extractor": "colours"}})
    assert "| recognized by a classifier |" in page
    assert "nearest.png" in page
    assert (tmp_path / "nearest.png").is_file()


def has(picture, image):
    """Whether the image stands in the picture, enlarged by repetition or not."""
    for scale in (1, 2, 3, 4):
        large = np.kron(image, np.ones((scale, scale, 1), np.uint8))
        rows, columns = np.nonzero((picture[:, :, 0] == large[0, 0, 0]) & (picture[:, :, 1] == large[0, 0, 1]))
        for r, c in zip(rows, columns, strict=True):
            part = picture[r : r + len(large), c : c + len(large)]
            if part.shape == large.shape and np.array_equal(part, large):
                return True
    return False


def test_without_scikit_learn_hours_of_work_are_not_lost(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    generated = Generated(HELD_OUT, None, PIXELS[:300], SolveStats())
    for found in find_copies(tmp_path / "nearest.png", generated, Data()):
        assert found == {"nearest_training_feature_distance": "not measured: scikit-learn is not installed"}


def test_nearest_by_products_is_nearest():
    distances, numbers = nearest_by_products(HELD_OUT, TRAINING)
    exact, which = nearest(HELD_OUT, TRAINING)
    np.testing.assert_array_equal(numbers, which)
    np.testing.assert_allclose(distances, exact, rtol=1e-5)
    assert len(nearest_training(np.repeat(HELD_OUT, 5, axis=0), Data())[0]) == 1000
