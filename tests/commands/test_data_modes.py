"""Data from the command line: packs, runs that must not go on with other data, and models between two data sets."""

import itertools
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import scoreflow_jax
from scoreflow_jax.command_line import load_config
from scoreflow_jax.commands import evaluate, interpolate, pack, sample, train, translate, translate_base
from scoreflow_jax.commands import workdir as workdirs
from scoreflow_jax.data import Digits, Merged, Packed, Selected, open_source, read_all
from scoreflow_jax.data.pictures import framed
from scoreflow_jax.errors import UserError
from scoreflow_jax.experiment import build, resolve
from scoreflow_jax.plain_config import differences, to_plain
from tests.commands.runs import SHRUNK, experiment_of, report
from tests.conftest import ROOT, shared
from tests.data.folders import write
from tests.data.sources import settings_of

SMALL = {"sample__likelihood": False, "train__num_steps": 2, "train__sample_every": 0, "train__checkpoint_every": 1}


def copy_of(folder, target, classes=("cat", "dog")):
    """Some classes of the pictures, without folders for the splits."""
    for name in classes:
        shutil.copytree(folder / "afhq" / "train" / name, target / name)
    return target


def test_classes_are_found_in_the_data_and_remembered_by_the_run(tmp_path, pictures_dir):
    config = load_config(str(ROOT / "configs" / "image_folder.py:smoke"))
    config["data"]["path"] = str(copy_of(pictures_dir, tmp_path / "two"))
    found = resolve(config)
    assert (found["data"]["num_classes"], found["model"]["conditional"]) == (2, True)
    config["data"]["path"] = str(pictures_dir / "afhq" / "train" / "cat")
    alone = resolve(config)
    assert (alone["data"]["num_classes"], alone["model"]["conditional"]) == (0, False)
    config["data"]["path"] = "/nowhere"  # a run in hand knows it, wherever its data are by now
    assert resolve(config, found)["data"]["num_classes"] == 2
    config["model"]["conditional"] = False
    assert resolve(config, found)["model"]["conditional"] is False
    with pytest.raises(UserError, match="num_classes is None"):
        build(config)


def test_the_line_of_classes_says_a_name_that_is_its_number_once():
    source = Digits("train")
    counts = np.bincount([source[i]["label"] for i in range(len(source))])
    alone = ", ".join(f"{i}: {n}" for i, n in enumerate(counts))
    assert workdirs.describe(source) == f"{counts.sum()} images of 10 classes: {alone}"
    few = Selected(source, (3, 8))
    assert workdirs.describe(few) == f"{counts[3] + counts[8]} images of 2 classes: 0 3: {counts[3]}, 1 8: {counts[8]}"


def test_train_pack_resume_from_it_and_sample_with_the_data_gone(tmp_path, pictures_dir, capsys):
    """The losses after going over to the pack are those of a run that never did."""
    folder = copy_of(pictures_dir, tmp_path / "pictures")
    (folder / "cat" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    go = lambda path, workdir, steps: train.run_command(
        experiment_of("image_folder.py", path, train__num_steps=steps, train__log_every=1), workdir
    )
    go(folder, tmp_path / "whole", 4)
    printed = capsys.readouterr()
    assert re.search(r"data: 3\d images, natural sampling of 2 classes: 0 cat: \d+, 1 dog: \d+", printed.out)
    assert "cat/broken.png: not a picture that Pillow can read" in printed.err
    go(folder, tmp_path / "changed", 2)
    pack.run_command(experiment_of("image_folder.py", folder), tmp_path, out=str(tmp_path / "pack"))
    assert "train with --config.data.path=" in capsys.readouterr().out
    go(tmp_path / "pack", tmp_path / "changed", 4)
    read = lambda run: [json.loads(x)["loss"] for x in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
    assert read("changed") == read("whole")
    shutil.rmtree(folder)
    config = load_config(str(ROOT / "configs" / "image_folder.py:smoke"))
    config["model"].update(SHRUNK)
    sample.run_command(workdirs.build_for("sample", config, tmp_path / "whole"), tmp_path / "whole")
    assert np.load(tmp_path / "whole" / "sample" / "samples.npz")["labels"].tolist() == [0, 1] * 5
    assert workdirs.class_names(workdirs.build_for("sample", config, tmp_path / "whole"), tmp_path / "whole") == (
        "cat",
        "dog",
    )


def test_a_run_does_not_go_on_with_other_data(tmp_path, pictures_dir):
    workdir, folder = tmp_path / "run", copy_of(pictures_dir, tmp_path / "pictures")
    train.run_command(experiment_of("image_folder.py", folder, **SMALL), workdir)
    again = lambda path: train.run_command(
        experiment_of("image_folder.py", path, **{**SMALL, "train__num_steps": 3}), workdir
    )
    other = copy_of(pictures_dir, tmp_path / "other", ("dog", "wild"))
    with pytest.raises(UserError, match="trained on the classes 0 cat, 1 dog, these data have 0 dog, 1 wild"):
        again(other)
    strangers = tmp_path / "strangers"
    for name in ("cat", "dog"):
        (strangers / name).mkdir(parents=True)
        for i in range(20):
            Image.new("RGB", (40 + i, 40), (i, 0, 0)).save(strangers / name / f"{i:02d}.png")
    with pytest.raises(UserError, match="trained on other data: about 0% of its files"):
        again(strangers)
    with pytest.raises(UserError, match="data.num_classes is 3, was 2"):
        again(pictures_dir / "afhq")
    for i in range(100):  # new pictures in the old folder are welcome
        Image.new("RGB", (40, 40), (i, i, 0)).save(folder / "cat" / f"new{i:03d}.png")
    again(folder)


def test_other_parts_and_other_data_at_t_0_are_noticed_too(tmp_path, pictures_dir):
    """By the sketches in data.json, without training."""
    strangers = tmp_path / "strangers"
    strangers.mkdir()
    for i in range(40):
        Image.new("RGB", (40 + i, 40), (i, 0, 0)).save(strangers / f"{i:02d}.png")
    pictures = [pictures_dir / "afhq" / "train" / name for name in ("cat", "dog")]
    folder = lambda path: open_source("train", settings_of("image_folder", path=str(path)))
    merged = lambda second: Merged({"a": folder(pictures[0]), "b": folder(second)})
    (tmp_path / "run" / "checkpoints" / "2").mkdir(parents=True)
    experiment = experiment_of("digits.py")
    workdirs.write_data_facts(experiment, tmp_path / "run", merged(pictures[1]), folder(pictures[0]))
    workdirs.check_same_data(merged(pictures[1]), folder(pictures[0]), tmp_path / "run")
    with pytest.raises(UserError, match="other data of part b: about 0% of its files"):
        workdirs.check_same_data(merged(strangers), folder(pictures[0]), tmp_path / "run")
    with pytest.raises(UserError, match="other data at t = 0: about 0% of its files"):
        workdirs.check_same_data(merged(pictures[1]), folder(strangers), tmp_path / "run")


def test_a_class_that_is_wholly_held_out_is_said(capsys):
    class Lacking(Digits):
        def labels(self):
            return np.minimum(super().labels(), 8)

    workdirs.warn_of_empty_classes(Lacking("train"))
    assert (
        "no training examples of 1 of 10 classes, 9: the model is told of classes that it never sees"
        in capsys.readouterr().err
    )
    workdirs.warn_of_empty_classes(Digits("train"))
    assert capsys.readouterr().err == ""


def test_real_animals_from_scan_to_translation(tmp_path, capsys):
    """AFHQ's samples: scanned, packed, trained on, resumed from the pack with a worker, cats translated to wild animals."""
    animals = shared("data", "afhq_samples")
    made = {"data__test_share": 0.3, "train__num_steps": 1, "train__sample_every": 0, "train__checkpoint_every": 1}
    train.run_command(experiment_of("image_folder.py", animals, **made), tmp_path / "run")
    pack.run_command(experiment_of("image_folder.py", animals, **made), tmp_path, out=str(tmp_path / "pack"))
    again = {**made, "train__num_steps": 2, "train__num_workers": 1}
    train.run_command(experiment_of("image_folder.py", tmp_path / "pack", **again), tmp_path / "run")
    assert "resuming from step 1" in capsys.readouterr().out
    to_wild = {**made, "translate__source": 0, "translate__target": 2}
    translate.run_command(experiment_of("image_folder.py", tmp_path / "pack", **to_wild), tmp_path / "run")
    stored = np.load(tmp_path / "run" / "translate" / "translations.npz")
    cats = {framed(Image.open(path), (32, 32, 3)).tobytes() for path in (animals / "cat").iterdir()}
    assert len(stored["source_images"]) > 2
    assert {image.tobytes() for image in stored["source_images"]} < cats
    assert (set(stored["source_labels"]), set(stored["target_labels"])) == ({0}, {2})
    every = experiment_of("image_folder.py", tmp_path / "pack", **{**made, "translate__num_images": 3})
    job, names, _ = translate._job(every, tmp_path / "run")  # of a source that lists one class after the other
    assert (sorted(job.source), names) == ([0, 1, 2], ("cat", "dog", "wild"))


def test_paths_are_free_and_all_else_of_the_data_is_not():
    plain = lambda: to_plain(load_config(str(ROOT / "configs" / "celeba_metfaces.py")))
    ours, theirs = plain(), plain()
    ours["data"]["parts"]["metfaces"]["path"], ours["data"]["path"], ours["data"]["strict"] = "/a", "/b", True
    assert differences(ours, theirs, ("data",)) == []
    ours["data"]["parts"]["metfaces"]["framing"] = "fit"
    assert differences(ours, theirs, ("data",)) == ["data.parts.metfaces.framing is 'fit', was None"]


def test_what_cannot_be_packed(tmp_path, pictures_dir):
    out = str(tmp_path / "pack")
    digits = experiment_of("digits.py")
    pack.run_command(digits, tmp_path, out=out)
    np.testing.assert_array_equal(read_all(Packed(out, "test"))["image"], read_all(Digits("test"))["image"])
    with pytest.raises(UserError, match="is a pack already"):
        pack.run_command(experiment_of("digits.py", out), tmp_path, out=str(tmp_path / "again"))


def test_a_test_split_that_cannot_be_packed_is_no_reason_to_leave_it_out(tmp_path, pictures_dir):
    folder = tmp_path / "pictures"
    shutil.copytree(pictures_dir / "afhq", folder)
    (folder / "test" / "cat" / "broken.png").write_text("woof")
    experiment = experiment_of("image_folder.py", folder, data__strict=True)
    with pytest.raises(UserError, match="cat/broken.png"):
        pack.run_command(experiment, tmp_path, out=str(tmp_path / "pack"))
    assert not (tmp_path / "pack").exists()


def test_tables_are_not_packed_and_data_at_t_0_apart(tmp_path, capsys):
    np.savez(tmp_path / "points.npz", x=np.random.default_rng(0).normal(size=(50, 2)))
    with pytest.raises(UserError, match="a table needs no packing"):
        pack.run_command(experiment_of("table.py", tmp_path / "points.npz"), tmp_path, out=str(tmp_path / "pack"))
    config = {"data__base": {"source": "digits", "path": None}, "data__num_classes": 0, "model__conditional": False}
    off = {"eval__likelihood__by": "none", "eval__translation__on": False}
    pack.run_command(experiment_of("digits.py", **config, **off), tmp_path, out=str(tmp_path / "pack"))
    assert "only the data at t = 1 are packed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"base": {"framing": "nope"}}, "config.data.base.framing is 'nope'"),
        ({"base": {"test_share": 9.0}}, "config.data.base.test_share is 9.0"),
        (
            {"base": {"sampling": "balanced"}},
            "config.data.base has 'sampling', expected of config.data's fields source",
        ),
        ({"base": {"classes": ("a",)}}, "expected whole numbers"),
        ({"parts": {"x": {"source": "web"}}}, "config.data.parts.x.source is 'web'"),
        ({"label": "colour"}, "classes of digits are not features or columns"),
        ({"shape": (8, 8, 4)}, "expected 1 channel .grey. or 3 .RGB."),
    ],
)
def test_fields_without_meaning_are_refused_before_anything_is_opened(fields, message):
    config = to_plain(load_config(str(ROOT / "configs" / "digits.py")))
    config["data"].update(fields)
    with pytest.raises(UserError, match=message):
        build(config)


def test_a_pack_without_a_test_split_says_so(tmp_path, pictures_dir, capsys):
    folder = copy_of(pictures_dir, tmp_path / "pictures")
    experiment = experiment_of("image_folder.py", folder, data__test_share=0.0)
    pack.run_command(experiment, tmp_path, out=str(tmp_path / "pack"))
    assert "packing without a test split: no pictures of" in capsys.readouterr().out
    assert len(Packed(tmp_path / "pack", "train")) == 40


def threes_to_eights(**changes):
    """Digits 3 at t = 0, digits 8 at t = 1."""
    plain = {
        "data__classes": (8,),
        "data__base": {"classes": (3,)},
        "data__num_classes": 0,
        "model__conditional": False,
    }
    off = {"eval__likelihood__by": "none", "eval__translation__on": False}
    return experiment_of("digits.py", **{**plain, **off, **changes})


@pytest.fixture(scope="module")
def between(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("between")
    train.run_command(threes_to_eights(), workdir)
    return workdir


def test_the_data_at_t_0_are_drawn_apart_from_those_at_t_1():
    """Both streams go through their own data, and pairs differ from epoch to epoch."""
    experiment = threes_to_eights(train__batch_size=8)
    from scoreflow_jax.parallel import make_layout

    layout = make_layout()
    sources = experiment.split("train"), experiment.base_split("train")
    batches = train.global_batches(experiment, sources, layout, 0)
    pairs = [(np.asarray(b["base"]), np.asarray(b["image"])) for b in itertools.islice(batches, 60)]
    batches.close()
    seen = [{image.tobytes() for batch in side for image in batch} for side in zip(*pairs, strict=True)]
    known = [{i.tobytes() for i in read_all(Selected(Digits("train"), (c,)))["image"]} for c in (3, 8)]
    assert seen == known
    assert len({(a.tobytes(), b.tobytes()) for x, y in pairs for a, b in zip(x, y, strict=True)}) > 400


def test_translation_between_data_sets_is_the_ode_itself(between):
    experiment = threes_to_eights()
    translate.run_command(experiment, between)
    stored = np.load(between / "translate" / "translations.npz")
    three, eight = (read_all(Selected(Digits("test"), (c,)), 10)["image"] for c in (3, 8))
    sources = experiment.scaling.to_pixels(experiment.scaling.to_images(np.concatenate([three, eight])))
    np.testing.assert_array_equal(stored["source_images"], sources)
    assert stored["source_labels"].tolist() == [0] * 10 + [1] * 10
    model = scoreflow_jax.load(between)
    forth, back = (
        experiment.scaling.to_pixels(f(experiment.scaling.to_images(x)))
        for f, x in ((model.decode, three), (model.encode, eight))
    )
    np.testing.assert_array_equal(stored["translated_images"], np.concatenate([forth, back]))
    told = report(between / "translate")["translations"]
    assert told.keys() == {"3 to 8", "8 to 3"}
    assert all(t["there_and_back_error"] < 0.02 and t["images"] == 10 for t in told.values())
    one_way = threes_to_eights(translate__source=1)
    translate.run_command(one_way, between)
    assert report(between / "translate")["translations"].keys() == {"8 to 3"}
    with pytest.raises(UserError, match="config.translate.source is 3, expected 0"):
        translate.run_command(threes_to_eights(translate__source=3), between)


def test_a_folder_that_stands_at_t_0_is_read_as_the_data_there_are(tmp_path):
    """White of 12 bits is that of the base alone."""
    Image.fromarray(np.full((8, 8), 4095, np.uint16)).save(tmp_path / "a.png")
    experiment = threes_to_eights(data__base={"classes": (3,), "white_level": 4095}, translate__images=str(tmp_path))
    for way, value in ((0, 255), (1, 16)):  # 4095 of 4095, and of 65535
        _, pixels, names = translate_base._names_and_pixels(experiment, [way])
        assert (names, pixels[way].shape) == (("a.png",), (1, 8, 8, 1))
        np.testing.assert_allclose(pixels[way], value, atol=1)


def test_samples_begin_at_the_data_of_t_0(between):
    import jax

    model = scoreflow_jax.load(between)
    threes = read_all(Selected(Digits("test"), (3,)))["image"]
    known = {image.tobytes() for image in model.experiment.scaling.to_images(threes)}
    points = np.asarray(model.source_points(jax.random.key(0), len(threes)))
    assert {p.tobytes() for p in points} == known
    np.testing.assert_array_equal(points[4:9], model.source_points(jax.random.key(0), 5, first=4))
    assert not np.array_equal(points, model.source_points(jax.random.key(1), len(threes)))
    sample.run_command(threes_to_eights(), between)
    stored = np.load(between / "sample" / "samples.npz")["images"]
    np.testing.assert_array_equal(stored, model.experiment.scaling.to_pixels(model.decode(points[:10])))


def test_what_needs_noise_is_refused_between_data_sets(between):
    with pytest.raises(UserError, match="has no latents to interpolate"):
        interpolate.run_command(threes_to_eights(), between)
    with pytest.raises(UserError, match="its source is not Gaussian"):
        scoreflow_jax.load(between).log_likelihood(np.zeros((1, 8, 8, 1)))


def test_evaluation_between_data_sets_generates_each_image_once(between):
    """37 threes are held out; 40 samples were asked for."""
    evaluate.run_command(threes_to_eights(eval__classifier=False), between)
    measured = report(between / "eval" / "4")
    held_out = len(Selected(Digits("test"), (3,)))
    assert measured["generation"]["images"] == held_out < 40
    assert "reversibility" in measured


def test_packing_names_empty_classes_and_other_numbers_of_them(tmp_path, capsys):
    """Labels 1, 5 and 9 are ten classes, of which seven are empty."""
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 1), np.uint8)
    labels = np.resize([1, 5, 9], 30)
    path = tmp_path / "images.npz"
    np.savez(path, train_images=images, train_labels=labels, test_images=images[:6], test_labels=labels[:6])
    fields = {"data__source": "arrays", "data__levels": 256, "data__num_classes": 10}
    pack.run_command(experiment_of("digits.py", path, **fields), tmp_path, out=str(tmp_path / "pack"))
    assert (
        "no training examples of 7 of 10 classes, 0, 2, 3, 4, 6, 7, 8: the model is told of" in capsys.readouterr().err
    )
    other = experiment_of("digits.py", path, **{**fields, "data__num_classes": 3})
    with pytest.raises(UserError, match="in 10 classes.*but the config describes .*in 3 classes"):
        pack.run_command(other, tmp_path, out=str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_translation_goes_to_classes_that_were_trained(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8)
    labels = np.resize([0, 2], 40)
    path = tmp_path / "images.npz"
    np.savez(path, train_images=images, train_labels=labels, test_images=images[:8], test_labels=labels[:8])
    fields = {"data__source": "arrays", "data__levels": 256, "data__num_classes": 3, "eval__classifier": False}
    experiment = experiment_of("digits.py", path, **fields)
    train.run_command(experiment, tmp_path / "run")
    translate.run_command(experiment, tmp_path / "run")
    with np.load(tmp_path / "run" / "translate" / "translations.npz") as stored:
        np.testing.assert_array_equal(stored["target_labels"], 2 - stored["source_labels"])
        assert "files" not in stored
    pictures = write(tmp_path / "pictures", *(f"{i:03d}.png" for i in range(12)))
    from_folder = {"images": str(pictures), "source": 0, "num_images": 3, "save_pictures": True}
    experiment = experiment_of("digits.py", path, **fields, **{f"translate__{k}": v for k, v in from_folder.items()})
    translate.run_command(experiment, tmp_path / "run", out=str(tmp_path / "out"))
    with np.load(tmp_path / "out" / "translations.npz") as stored:
        assert stored["files"].tolist() == [f"{i:03d}.png" for i in range(12)]
        written = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "out" / "pictures").iterdir())]
        np.testing.assert_array_equal(written, stored["translated_images"][..., 0])
    same = experiment_of("digits.py", path, **fields, translate__source=2, translate__target=2)
    with pytest.raises(UserError, match="source and target are both 2"):
        translate.run_command(same, tmp_path / "run")
