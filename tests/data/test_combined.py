"""Some classes of a source, and several sources as one class each."""

import numpy as np
import pytest
from PIL import Image

from scoreflow_jax.command_line import load_config
from scoreflow_jax.data import Digits, Merged, Selected, class_counts, open_source
from scoreflow_jax.data.base import DataSpec, read_all
from scoreflow_jax.errors import UserError
from scoreflow_jax.experiment import build
from scoreflow_jax.plain_config import to_plain
from tests.conftest import ROOT, shared
from tests.data.sources import settings_of


def test_selected_classes_are_numbered_anew_in_the_order_given():
    digits, chosen = Digits("test"), Selected(Digits("test"), (7, 2))
    everything = read_all(digits)
    for new, old in enumerate((7, 2)):
        ours = read_all(chosen)
        np.testing.assert_array_equal(
            ours["image"][ours["label"] == new], everything["image"][everything["label"] == old]
        )
    assert chosen.class_names == ("7", "2")
    assert chosen.spec == DataSpec((8, 8, 1), 2, 17)
    np.testing.assert_array_equal(chosen.labels(), read_all(chosen)["label"])
    np.testing.assert_array_equal(chosen[5]["image"], read_all(chosen)["image"][5])


def test_one_selected_class_is_data_without_labels():
    chosen = Selected(Digits("train"), (3,))
    assert (chosen.spec.num_classes, chosen.class_names, class_counts(chosen)) == (0, ("3",), [len(chosen)])
    assert set(read_all(chosen)["label"]) == {0}


@pytest.mark.parametrize("classes", [(10,), (-1,), (3, 3)])
def test_classes_that_cannot_be_selected(classes):
    with pytest.raises(UserError, match=r"expected different numbers from 0 to 9: 0, 1, 2"):
        Selected(Digits("train"), classes)


def test_classes_of_data_without_classes():
    with pytest.raises(UserError, match="these data have no classes: leave it empty"):
        Selected(Selected(Digits("test"), (1,)), (0,))


def test_examples_labelled_minus_one_are_of_no_class():
    """As the test splits of some sets of tensorflow-datasets are."""

    class Unlabelled(Digits):
        def labels(self):
            return np.where(np.arange(len(self)) < 10, super().labels(), -1).astype(np.int32)

    assert len(Selected(Unlabelled("test"), tuple(range(10)))) == 10


def test_the_share_of_jpeg_of_merged_data_is_weighted():
    parts = {name: Digits(split) for name, split in (("a", "train"), ("b", "test"))}
    counts = [len(part) for part in parts.values()]
    assert "jpeg" not in Merged(parts).facts
    for part, share in zip(parts.values(), (0.5, 1.0), strict=True):
        part.facts = {**part.facts, "jpeg": share}
    assert Merged(parts).facts["jpeg"] == pytest.approx((0.5 * counts[0] + counts[1]) / sum(counts))


def test_merged_sources_are_a_class_each():
    threes, eights = Selected(Digits("train"), (3,)), Selected(Digits("train"), (8,))
    both = Merged({"eight": eights, "three": threes})
    assert both.class_names == ("eight", "three")
    assert class_counts(both) == [len(eights), len(threes)]
    mixed = np.random.default_rng(0).permutation(len(both))
    read = both.read(mixed)
    for label, part in enumerate((eights, threes)):
        np.testing.assert_array_equal(
            np.sort(mixed[read["label"] == label]), np.arange(len(part)) + label * len(eights)
        )
    for place, number in enumerate(mixed[:20].tolist()):
        np.testing.assert_array_equal(both[number]["image"], read["image"][place])
        assert both[number]["label"] == read["label"][place]
    np.testing.assert_array_equal(both.labels(), both.read(np.arange(len(both)))["label"])


def test_parts_have_their_own_settings_and_classes_in_order_of_their_names(pictures_dir, tfds_dir):
    """As configs/celeba_metfaces.py: one part from tensorflow-datasets, another from a folder with classes of its own."""
    data = settings_of(
        "merged",
        shape=(32, 32, 3),
        parts={
            "painted": {"source": "image_folder", "path": str(pictures_dir / "afhq")},
            "cifar": {"source": "tfds", "name": "cifar10", "path": str(tfds_dir)},
        },
    )
    train, test = open_source("train", data), open_source("test", data)
    assert train.class_names == ("cifar", "painted")
    assert (class_counts(train), class_counts(test)) == ([80, 60], [40, 60])
    assert train.facts["parts"]["painted"]["framing"] == "crop"


def test_parts_that_do_not_fit():
    with pytest.raises(UserError, match="1 parts, expected at least two"):
        open_source("train", settings_of("merged", parts={"one": {"source": "digits"}}))
    with pytest.raises(UserError, match="config.data.parts.a has 'pth', expected of config.data's fields source, name"):
        open_source("train", settings_of("merged", parts={"a": {"pth": "x"}, "b": {}}))


def test_the_papers_two_class_set_on_real_pictures():
    """CelebA-HQ (two folders, which are not classes here) and MetFaces, at their own size: the files' own pixels."""
    celeba, metfaces = shared("data", "celeba_hq_samples"), shared("data", "metfaces_samples")
    config = to_plain(load_config(str(ROOT / "configs" / "celeba_metfaces.py")))
    config["data"]["parts"]["celeba"].update(source="image_folder", path=str(celeba))
    config["data"]["parts"]["metfaces"].update(
        path=str(metfaces), test_share=0.3
    )  # one or two of the three, by their names
    experiment = build(config)
    sources = [experiment.split(split) for split in ("train", "test")]
    assert sources[0].class_names == ("celeba", "metfaces")
    counts = np.sum([class_counts(source) for source in sources], axis=0)
    files = [[*folder.rglob("*.jpg"), *folder.rglob("*.png")] for folder in (celeba, metfaces)]
    assert counts.tolist() == [len(found) for found in files] == [56, 3]
    real = {(np.asarray(Image.open(path).convert("RGB")).tobytes(), label) for label in (0, 1) for path in files[label]}
    read = {(e["image"].tobytes(), int(e["label"])) for s in sources for e in (s[i] for i in range(len(s)))}
    assert read == real
