"""--mode=publish, and what takes such a folder: equal weights, sums that are compared, nothing that runs, a hub that is faked."""

import json
import pathlib
import shutil
import sys
import types

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from scoreflow_jax import files, hub, load, published, sums
from scoreflow_jax.command_line import parse
from scoreflow_jax.commands import publish, sample
from scoreflow_jax.errors import UserError
from scoreflow_jax.model import Model
from scoreflow_jax.ode import Solver
from scoreflow_jax.plain_config import without_places
from scoreflow_jax.published import OWN, WEIGHTS, flatten, locate, outputs_of
from tests.commands.runs import experiment_of, report

QUICK = {"solver__method": "heun", "solver__num_steps": 4, "publish__columns": 2}


@pytest.fixture(scope="module")
def shared(digits_run, tmp_path_factory):
    """The digits' run, which other tests may have evaluated, published in both precisions without that."""
    folder = tmp_path_factory.mktemp("shared")
    digits_run = shutil.copytree(digits_run, folder / "run", ignore=shutil.ignore_patterns("eval"))
    for dtype in ("float32", "bfloat16"):
        publish.run_command(experiment_of("digits.py", publish__dtype=dtype, **QUICK), digits_run, str(folder / dtype))
    return folder


@pytest.fixture
def model_folder(shared, tmp_path):
    """A copy that a test may damage."""
    return pathlib.Path(shutil.copytree(shared / "bfloat16", tmp_path / "model"))


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The working folder of a user."""
    (tmp_path / "user").mkdir()
    monkeypatch.chdir(tmp_path / "user")
    return tmp_path / "user"


def equal(a, b, **tolerance):
    for name, leaf in flatten(a).items():
        np.testing.assert_allclose(np.asarray(flatten(b)[name]), np.asarray(leaf), **tolerance)


def test_float32_is_the_run_bit_for_bit(shared, digits_run):
    run, model = load(digits_run), load(shared / "float32")
    assert model.fingerprint == run.fingerprint
    assert (model.step, model.trained_config["model"]) == (run.step, run.trained_config["model"])
    np.testing.assert_array_equal(model.generate(0, [3, 7]), run.generate(0, [3, 7]))


def test_bfloat16_is_rounded_once(shared, digits_run):
    run, model = load(digits_run).params, load(shared / "bfloat16").params
    for name, leaf in flatten(run).items():
        np.testing.assert_array_equal(
            flatten(model)[name], np.asarray(leaf).astype(ml_dtypes.bfloat16).astype(np.float32)
        )
    sizes = [(shared / dtype / WEIGHTS).stat().st_size for dtype in ("float32", "bfloat16")]
    assert sizes[0] - sizes[1] > 0.99 * 2 * sum(leaf.size for leaf in flatten(run).values())


def test_the_file_is_safetensors_own(shared, digits_run):
    """As their package reads it."""
    theirs = safetensors.numpy.load_file(shared / "float32" / WEIGHTS)
    ours = flatten(load(digits_run).params)
    assert theirs.keys() == ours.keys()
    for name, leaf in ours.items():
        np.testing.assert_array_equal(theirs[name], leaf)


def test_every_file_has_a_sum(shared):
    folder = shared / "bfloat16"
    assert set(sums.files_below(folder)) == {*OWN, sums.SUMS} - {"solver_grid.json"}
    assert sums.check_sums(folder)


def test_no_file_has_a_path_of_the_machine(digits_run, tmp_path, monkeypatch):
    opened = publish.workdirs.open_model

    def private(*args, **more):
        model = opened(*args, **more)
        model.trained_config = {**model.trained_config, "data": {**model.trained_config["data"], "path": "/home/ada/d"}}
        return model

    monkeypatch.setattr(publish.workdirs, "open_model", private)
    publish.run_command(experiment_of("digits.py", **QUICK), digits_run, str(tmp_path / "out"))
    for name in ("config.json", "data.json", "README.md"):
        assert "/home" not in (tmp_path / "out" / name).read_text()


PRIVATE = {
    "data": {
        "path": "/home/ada/d", "pairs": "/home/ada/p", "parts": {"train": {"path": "/home/ada/t"}},
        "base": {"path": "/home/ada/b"},
    },
    "objective": {"teacher": "/home/ada/run", "lpips_heads": "/home/ada/l"},
    "reflow": {"lpips_backbone": "/home/ada/l"},
    "eval": {"cache": "/home/ada/c", "reference": "/r.npz", "inception_weights": "/w", "translation": {"lpips_heads": "/l"}},
    "translate": {"images": "/home/ada/i"},
    "difference": {"other": "/home/ada/run"},
}  # fmt: skip
"""Every field that names a place."""


def test_a_strangers_config_names_no_place_here(model_folder, monkeypatch):
    """Neither in Python nor on the command line, and what says no place stays."""
    file = model_folder / "config.json"
    config = json.loads(file.read_text())
    for section, fields in PRIVATE.items():
        kept = {name: value for name, value in fields.items() if name in config.get(section, {})}
        config.setdefault(section, {}).update(kept if section == "objective" else fields)
    files.write_json(file, config)
    sums.write_sums(model_folder, [name for name in OWN if (model_folder / name).is_file()])
    _, parsed, _, _ = parse(["main.py", "--mode=sample", f"--workdir={model_folder}", "--config.eval.cache=/mine"])
    assert "/home" not in json.dumps(load(model_folder).trained_config)
    assert "/home" not in json.dumps(parsed)
    assert (parsed["eval"]["cache"], parsed["eval"]["reference"]) == ("/mine", None)
    shared = without_places(
        {**PRIVATE, "data": {**PRIVATE["data"], "name": "d"}, "eval": {**PRIVATE["eval"], "batch_size": 5}}
    )
    assert "/" not in json.dumps(shared)
    assert (
        without_places({"data": {"base": {"parts": {"test": {"path": "/s"}}}}})["data"]["base"]["parts"]["test"]["path"]
        is None
    )
    assert (shared["data"]["name"], shared["eval"]["batch_size"]) == ("d", 5)


def test_sums_of_files_elsewhere_are_refused(model_folder):
    with (model_folder / sums.SUMS).open("a") as file:
        file.write(f"{'0' * 64}  ../../etc/passwd\n")
    with pytest.raises(UserError, match="names '../../etc/passwd', which is no file of a model"):
        load(model_folder)


@pytest.mark.parametrize(("classes", "use"), [(0, "num_images=3"), (1, "labels=[0, 0, 0]"), (2, "labels=[0, 1, 0]")])
def test_the_card_names_classes_that_there_are(shared, classes, use, monkeypatch):
    model = load(shared / "float32")
    monkeypatch.setattr(type(model.experiment), "num_classes", classes)
    text = publish.card(model, shared / "float32", None, 0.1)
    assert f"model.generate(0, {use})" in text
    assert ("model.translate" in text) == (classes > 1)


def test_the_card_is_of_the_run(shared):
    text = (shared / "bfloat16" / "README.md").read_text()
    run = json.loads((shared / "bfloat16" / "config.json").read_text())
    seen = run["train"]["num_steps"] * run["train"]["batch_size"]
    facts = (f"{seen:,} examples seen", "10 classes", "It has not been evaluated", "bfloat16")
    for words in ("library_name: scoreflow_jax", *facts):
        assert words in text
    assert "![samples](preview.png)" in text


def test_the_card_has_the_newest_evaluation(digits_run, tmp_path, monkeypatch):
    """Its sections and its manifest, without pictures; one of another step says so."""
    run = pathlib.Path(shutil.copytree(digits_run, tmp_path / "run"))
    from scoreflow_jax.commands import evaluate

    parts = {f"eval__{name}__on": False for name in ("generation", "translation")}
    evaluate.run_command(experiment_of("digits.py", **parts, **QUICK), run)
    publish.run_command(experiment_of("digits.py", **QUICK), run, str(tmp_path / "out"))
    text = (tmp_path / "out" / "README.md").read_text()
    assert "### How they were measured" in text
    assert "| parameters_sha256 |" in text
    assert text.count("![") == 1
    assert "not of this one" not in text
    step = load(run).step
    path = run / "eval" / str(step) / "report.json"
    kept = json.loads(path.read_text())
    del kept["sha256"]
    sums.write_json(path, {**kept, "step": step + 1})
    publish.run_command(experiment_of("digits.py", **QUICK), run, str(tmp_path / "out"))
    assert f"of step {step + 1}, not of this one" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "data.json", "README.md"])
def test_a_damaged_byte_is_refused(model_folder, name):
    path = model_folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"not as it was published: {name} has another sum.*Fetch it again"):
        published.check(model_folder)
    if name == WEIGHTS:
        with pytest.raises(UserError, match="not as it was published"):
            load(model_folder)


@pytest.mark.parametrize("name", [WEIGHTS, "data.json", sums.SUMS])
def test_a_missing_file_is_refused(model_folder, name):
    (model_folder / name).unlink()
    with pytest.raises(UserError, match="is missing|holds no run|no checkpoint"):
        load(model_folder)


def test_what_the_hub_adds_does_not_count(model_folder):
    (model_folder / ".gitattributes").write_text("*.safetensors filter=lfs")
    load(model_folder)


def resummed(folder):
    published.finish(folder)
    return folder


def test_weights_of_another_network_or_format_are_refused(model_folder):
    config = json.loads((model_folder / "config.json").read_text())
    config["model"]["base_channels"] *= 2
    (model_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="of another network than its config: .* is \\(.*\\), expected \\("):
        load(resummed(model_folder))
    safetensors.numpy.save_file({"a": np.zeros(2)}, model_folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(UserError, match="is of format 'pt', expected 'scoreflow_jax 1'"):
        load(resummed(model_folder))
    import pickle

    (model_folder / WEIGHTS).write_bytes(pickle.dumps({"a": print}))
    with pytest.raises(UserError, match="cannot be read"):
        load(resummed(model_folder))


def test_a_step_that_it_does_not_hold(shared):
    with pytest.raises(UserError, match="holds the weights of step .* alone, not of step 7"):
        load(shared / "float32", step=7)


def test_a_mode_takes_the_folder_and_writes_elsewhere(model_folder, elsewhere, capsys):
    before = {name: (model_folder / name).read_bytes() for name in sums.files_below(model_folder)}
    flags = ["--config.sample.num_images=4", "--config.solver.method=heun", "--config.solver.num_steps=2"]
    mode, config, workdir, more = parse(["main.py", "--mode=sample", f"--workdir={model_folder}", *flags])
    assert (mode, workdir, config["model"]) == ("sample", model_folder, load(model_folder).trained_config["model"])
    from scoreflow_jax.commands.workdir import build_for

    sample.run_command(build_for(mode, config, workdir), workdir, **more)
    assert (
        "is a published model, which is only read: what is made of it goes to runs/model/sample"
        in capsys.readouterr().out
    )
    assert report(elsewhere / "runs" / "model" / "sample")["parameters_sha256"] == load(model_folder).fingerprint
    assert before == {name: (model_folder / name).read_bytes() for name in sums.files_below(model_folder)}


def test_a_grid_is_measured_once_and_not_written_there(model_folder, monkeypatch):
    model, measured = load(model_folder), []
    keep = Model._keep_parts  # called after each measurement
    monkeypatch.setattr(Model, "_keep_parts", lambda self, count: measured.append(count) or keep(self, count))
    for steps in (2, 3):
        model.with_solver(Solver(method="heun", num_steps=steps, grid="measured")).generate(0, [1])
    assert measured == [64]
    assert set(sums.files_below(model_folder)) == {*OWN, sums.SUMS} - {"solver_grid.json"}


def test_the_runs_grid_goes_with_it(digits_run, tmp_path, monkeypatch):
    """To the rounded weights, which do not measure it again."""
    run = pathlib.Path(shutil.copytree(digits_run, tmp_path / "run"))
    expected = load(run).parts
    publish.run_command(experiment_of("digits.py", **QUICK), run, str(tmp_path / "out"))
    monkeypatch.setattr(Solver, "local_errors", lambda *_, **__: pytest.fail("measured again"))
    np.testing.assert_array_equal(load(tmp_path / "out").parts, expected)


@pytest.mark.parametrize("mode", ["train", "reflow", "status", "publish"])
def test_modes_that_write_refuse_it(model_folder, mode):
    more = ["--out=x"] if mode == "publish" else []
    with pytest.raises(
        UserError, match=f"is a published model, which is only read: --mode={mode} needs a workdir of its own"
    ):
        parse(["main.py", f"--mode={mode}", f"--workdir={model_folder}", *more])


def test_outputs_never_go_into_the_folder(model_folder, monkeypatch):
    (model_folder.parent / "runs").mkdir()
    inside = pathlib.Path(shutil.move(model_folder, model_folder.parent / "runs" / "model"))
    monkeypatch.chdir(inside.parent.parent)
    assert outputs_of(inside) == pathlib.Path("runs/model-made")
    assert outputs_of(inside.parent) == inside.parent
    cached = inside.parent / "models--ada--digits" / "snapshots" / "abc"
    cached.parent.mkdir(parents=True)
    shutil.move(inside, cached)
    assert outputs_of(cached) == pathlib.Path("runs/ada--digits")
    (inside.parent / "ada--digits" / "checkpoints").mkdir(parents=True)
    assert outputs_of(cached) == pathlib.Path("runs/ada--digits-made")


def test_out_has_to_be_new_or_a_model(digits_run, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear ada")
    with pytest.raises(UserError, match="holds something else than a model"):
        publish.run_command(experiment_of("digits.py", **QUICK), digits_run, str(tmp_path / "letters"))


# Names.


def test_names_of_shipped_models(elsewhere, capsys):
    names = published.shipped()
    assert locate(f"pretrained:{names[0]}") == locate(names[0]) == published.SHIPPED / names[0]
    with pytest.raises(UserError, match=f"no model 'cifar11' is shipped.*expected one of .*{names[0]}"):
        locate("pretrained:cifar11")
    (elsewhere / names[0]).mkdir()
    assert locate(names[0]) == pathlib.Path(names[0])
    assert f"{names[0]} is a folder here: it is taken" in capsys.readouterr().err
    assert locate("runs/digits") == pathlib.Path("runs/digits")


# The hub, by a fake of its package.


class RepositoryNotFoundError(OSError):
    pass


class RevisionNotFoundError(OSError):
    pass


class LocalEntryNotFoundError(FileNotFoundError):
    pass


class LocalTokenNotFoundError(EnvironmentError):
    pass


def fake(monkeypatch, folder=None, error=None):
    """A huggingface_hub that knows one model, or fails; returns what it was asked."""
    asked = []

    def answer(*args, **more):
        asked.append((args, more))
        if error is not None:
            raise error
        return str(folder)

    api = types.SimpleNamespace(create_repo=answer, upload_folder=answer)
    package = types.SimpleNamespace(snapshot_download=answer, HfApi=lambda: api)
    monkeypatch.setitem(sys.modules, "huggingface_hub", package)
    return asked


def test_a_model_of_the_hub(monkeypatch, model_folder):
    asked = fake(monkeypatch, model_folder)
    assert load("hf://ada/digits@v1").fingerprint == load(model_folder).fingerprint
    ((repository,), more), *_ = asked
    assert (repository, more["revision"], set(more["allow_patterns"])) == ("ada/digits", "v1", {*OWN, sums.SUMS})
    _, config, workdir, _ = parse(["main.py", "--mode=sample", "--workdir=hf://ada/digits"])
    assert (workdir, asked[-1][1]["revision"]) == (model_folder, None)
    assert config["model"] == load(model_folder).trained_config["model"]


@pytest.mark.parametrize(
    ("error", "match"),
    [
        (RepositoryNotFoundError("404"), "there is no such model, or it is private"),
        (RevisionNotFoundError("404"), "it has no such revision"),
        (LocalEntryNotFoundError("no file"), "cannot be reached from here .*and the cache does not hold it"),
        (ConnectionError("refused"), "cannot be reached from here"),
        (RuntimeError("a surprise\nand more"), "cannot fetch hf://ada/digits: a surprise"),
    ],
)
def test_what_the_hub_answers_is_said(monkeypatch, error, match):
    fake(monkeypatch, error=error)
    with pytest.raises(UserError, match=match):
        load("hf://ada/digits")


def test_a_name_that_is_none(monkeypatch):
    with pytest.raises(UserError, match="expected hf://owner/name"):
        load("hf://digits")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="is fetched by huggingface_hub, which is not installed: pip install"):
        load("hf://ada/digits")


def test_push_uploads_the_folder(monkeypatch, digits_run, tmp_path, capsys):
    asked = fake(monkeypatch)
    publish.run_command(experiment_of("digits.py", **QUICK), digits_run, str(tmp_path / "out"), push="ada/digits")
    (created, _), (_, uploaded) = asked
    assert created == ("ada/digits",)
    assert (uploaded["repo_id"], uploaded["folder_path"]) == ("ada/digits", str(tmp_path / "out"))
    assert set(uploaded["allow_patterns"]) == set(uploaded["delete_patterns"]) == {*OWN, sums.SUMS}
    assert 'load("hf://ada/digits")' in (tmp_path / "out" / "README.md").read_text()
    assert "uploaded to hf://ada/digits" in capsys.readouterr().out


def test_push_says_who_is_not_logged_in(monkeypatch, digits_run, tmp_path):
    with pytest.raises(UserError, match="--push is 'digits', expected owner/name"):
        publish.run_command(experiment_of("digits.py", **QUICK), digits_run, str(tmp_path / "out"), push="digits")
    assert not (tmp_path / "out").exists()
    fake(monkeypatch, error=LocalTokenNotFoundError("no token"))
    with pytest.raises(UserError, match="nobody who may write there is logged in.*can be uploaded as it is"):
        hub.push(tmp_path, "ada/digits", OWN)
