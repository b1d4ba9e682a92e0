"""--mode=export: programs that give what the model gives, run without this package, for batches of any size."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax import export as jax_export

from scoreflow_jax import load
from scoreflow_jax.command_line import load_config, parse
from scoreflow_jax.commands import export, train
from scoreflow_jax.errors import UserError
from scoreflow_jax.experiment import build, resolve
from scoreflow_jax.model import Model
from scoreflow_jax.models import portable
from scoreflow_jax.ode import Solver
from scoreflow_jax.plain_config import to_plain
from scoreflow_jax.programs import Generate
from scoreflow_jax.published import SHIPPED, flatten
from scoreflow_jax.sums import check_files, read_sums
from tests.changes import set_fields
from tests.commands.runs import experiment_of
from tests.conftest import ROOT

DIGITS = SHIPPED / "digits-flow-map"
FAST = {"solver__method": "unipc2", "solver__num_steps": 4, "solver__grid": "edm"}
JUMPS = {"solver__method": "flow_map", "solver__num_steps": 2}


def digits(**changes):
    """The shipped model's config with changes."""
    return build(set_fields(json.loads((DIGITS / "config.json").read_text()), changes))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "out"
    export.run_command(digits(**JUMPS), DIGITS, str(folder))
    return folder


@pytest.fixture(scope="module")
def model():
    return load(DIGITS).with_solver(Solver(method="flow_map", num_steps=2))


def call(folder, name, *arrays):
    program = jax_export.deserialize(bytearray((folder / f"{name}.stablehlo").read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    return np.asarray(program.call(dict(np.load(folder / "weights.npz")), *arrays))


@pytest.mark.parametrize("count", [2, 5])
def test_programs_give_what_the_model_gives(exported, model, count):
    noise, labels = np.asarray(model.source_points(0, count)), np.arange(count, dtype=np.int32)
    images = model.generate(0, labels)
    near = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(call(exported, "generate", noise, labels), images, **near)
    np.testing.assert_allclose(call(exported, "encode", images, labels), model.encode(images, labels), **near)
    others = (labels + 1) % 10
    np.testing.assert_allclose(
        call(exported, "translate", images, labels, others), model.translate(images, labels, others), **near
    )


@pytest.mark.parametrize(
    "fields", [{"method": "unipc2", "num_steps": 4, "grid": "edm"}, {"method": "heun", "num_steps": 3}]
)
def test_the_solver_goes_with_it(model, fields):
    """Steps of several calls on EDM's grid, and those of diffrax."""
    solving = model.with_solver(Solver(**fields))
    weights = {name: np.asarray(leaf) for name, leaf in flatten(solving.params).items()}
    program = export.stablehlo(solving, export.programs_of(solving)["generate"], weights)
    noise, labels = np.asarray(solving.source_points(0, 3)), np.arange(3, dtype=np.int32)
    expected = solving.solve(Generate(), noise, labels).y
    np.testing.assert_allclose(np.asarray(program.call(weights, noise, labels)), expected, rtol=1e-5, atol=1e-5)


def test_samples_end_as_the_models_do():
    """On VP's path, which leaves noise in the data, with the expected data; unconditional, of points."""
    config = to_plain(load_config(f"{ROOT / 'configs' / 'vp'}.py:moons"))
    fields = {"model__width": 16, "model__conditional": False, "solver__method": "heun", "solver__num_steps": 5}
    experiment = build(resolve(set_fields(config, fields)))
    model = Model(experiment, experiment.init(jax.random.key(0)), 0)
    programs = export.programs_of(model)
    assert (list(programs), programs["generate"].takes) == (["generate", "encode"], ("noise",))
    noise = np.asarray(model.source_points(0, 4))
    samples, last = (model.solve(Generate(denoise=ends), noise).y for ends in (True, False))
    assert np.abs(samples - last).max() > 1e-3
    made = jax.jit(programs["generate"].function)(model.params, noise)
    np.testing.assert_allclose(made, samples, rtol=1e-5, atol=1e-5)


def test_the_program_beside_them_needs_jax_numpy_and_pillow(exported):
    """In a process that has nothing else of ours: pictures of the class that is asked for."""
    lines = (exported / "run.py").read_text().splitlines()
    assert len([line for line in lines if line]) < 36
    allowed = (
        "import sys, runpy; sys.modules.update(dict.fromkeys(['scoreflow_jax', 'flax', 'diffrax', 'optax', 'orbax']))"
    )
    run = f"{allowed}; sys.argv = ['run.py', '3', '8']; runpy.run_path(r'{exported / 'run.py'}', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", run], cwd=exported, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < 0.1  # two jumps there, two back
    for name in ("generated", "again", "translated"):
        assert (exported / f"{name}.png").stat().st_size > 200


def test_what_it_says_of_itself(exported):
    about = json.loads((exported / "export.json").read_text())
    assert about["programs"]["translate"] == {"takes": ["images", "source", "target"], "returns": "translated"}
    assert (about["shape"], len(about["classes"]), about["noise_scale"]) == ([8, 8, 1], 10, 1.0)
    assert (about["solver"]["method"], about["solver"]["steps"], about["mode"]) == ("flow_map", 2, "export")
    stated = read_sums(exported)
    assert set(stated) == {*about["files"], "export.json"}
    check_files(exported, stated, set(stated))
    mode, _, workdir, more = parse(
        ["main.py", "--mode=export", "--workdir=pretrained:digits-flow-map", "--format=onnx"]
    )
    assert (mode, workdir, more) == ("export", DIGITS, {"format": "onnx"})


def test_portable_programs_have_common_operations_alone(model):
    """None of ours, and no choice by the platform; the same numbers."""
    program = export.programs_of(model)["generate"]
    noise, labels = np.asarray(model.source_points(0, 2)), np.arange(2, dtype=np.int32)
    trace = lambda: str(jax.make_jaxpr(lambda x, c: program.function(model.params, x, c))(noise, labels))  # noqa: E731
    assert "platform_index" in trace()
    with portable():
        text = trace()
        plain = jax.jit(lambda x, c: program.function(model.params, x, c))(noise, labels)
    assert "platform_index" not in text
    assert "convolve3x3" not in text
    assert "platform_index" in trace()
    np.testing.assert_allclose(plain, model.generate(0, labels), rtol=1e-5, atol=1e-5)


def test_onnx_is_what_the_model_is(tmp_path):
    """Run by onnxruntime, where jax2onnx is installed and knows this version of JAX."""
    pytest.importorskip("jax2onnx")
    runtime = pytest.importorskip("onnxruntime")
    try:
        export.run_command(digits(**JUMPS), DIGITS, str(tmp_path / "out"), format="onnx", batch="3")
    except UserError as error:
        if "cannot write this model" not in str(error):  # which is of versions; anything else is a fault
            raise
        pytest.skip(str(error))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "generate.onnx", "encode.onnx", "translate.onnx", "export.json", "SHA256SUMS",
    }  # fmt: skip
    model = load(DIGITS).with_solver(Solver(method="flow_map", num_steps=2))
    noise, labels = np.asarray(model.source_points(0, 3)), np.arange(3, dtype=np.int32)
    session = runtime.InferenceSession(str(tmp_path / "out" / "generate.onnx"))
    (found,) = session.run(None, {"noise": noise, "class": labels})
    np.testing.assert_allclose(found, model.generate(0, labels), atol=1e-4)
    about = json.loads((tmp_path / "out" / "export.json").read_text())
    assert max(about["differs_by"].values()) < 1e-4


def refusals():
    yield digits(), {}, "'dopri5' decides its steps as it goes.*preset=fast.*flow_map --config.solver.num_steps=4"
    yield (
        digits(**JUMPS),
        {"format": "onx"},
        "--format is 'onx'; did you mean onnx.*expected one of stablehlo, onnx, pytorch",
    )
    yield digits(**JUMPS), {"batch": "8"}, "--batch is of --format=onnx"
    yield digits(**JUMPS), {"format": "onnx", "batch": "-1"}, "--batch is '-1', expected a number of at least 1"
    yield (
        digits(**FAST, solver__dtype="bfloat16"),
        {"format": "onnx"},
        "'bfloat16', which onnxruntime does not compute in",
    )
    yield (
        digits(solver__method="heun", solver__num_steps=2),
        {"format": "onnx"},
        "'heun' is diffrax's, which ONNX has no",
    )
    yield digits(), {"format": "pytorch"}, "that score_sde has: they are unconditional, and this model is told classes"
    plain = {"model__conditional": False}
    yield digits(**plain), {"format": "pytorch"}, "it is told two times, and published networks know one"
    folded = experiment_of("cifar10_small.py", model__conditional=False)
    yield folded, {"format": "pytorch"}, "patch is 2: no published network"


@pytest.mark.parametrize(("experiment", "flags", "match"), list(refusals()))
def test_what_cannot_be_exported_is_said_before_anything_is_written(experiment, flags, match, tmp_path, monkeypatch):
    if flags.get("format") == "onnx":
        found = export.importlib.util.find_spec
        monkeypatch.setattr(
            export.importlib.util, "find_spec", lambda name: True if name == "jax2onnx" else found(name)
        )
    with pytest.raises(UserError, match=match):
        export.run_command(experiment, DIGITS, str(tmp_path / "out"), **flags)
    assert not (tmp_path / "out").exists()


def test_a_folder_holds_one_export_and_nothing_of_another(tmp_path):
    folder = tmp_path / "out"
    experiment = digits(solver__method="euler", solver__num_steps=1)
    export.run_command(experiment, DIGITS, str(folder))
    (folder / "mine.txt").write_text("kept")
    (folder / "export.json").write_text(json.dumps({"files": ["old.onnx", "../mine", "run.py"]}))
    (folder / "old.onnx").write_text("of before")
    (tmp_path / "mine").write_text("kept")
    export.run_command(experiment, DIGITS, str(folder))
    assert not (folder / "old.onnx").exists()
    assert (folder / "mine.txt").exists()
    assert (tmp_path / "mine").exists()
    other = tmp_path / "model"
    other.mkdir()
    (other / "SHA256SUMS").write_text("0  model.safetensors\n")
    with pytest.raises(UserError, match="holds something else, with sums of its own"):
        export.run_command(experiment, DIGITS, str(other))
    assert [path.name for path in other.iterdir()] == ["SHA256SUMS"]


def test_points_go_out_with_their_units(tmp_path):
    """Programs are of standardized coordinates; what turns them into the table's own goes with them."""
    config = to_plain(load_config(f"{ROOT / 'configs' / 'rectified_flow'}.py:moons"))
    fields = {
        "model__width": 16,
        "train__num_steps": 1,
        "train__tensorboard": False,
        "solver__method": "heun",
        "solver__num_steps": 2,
    }
    experiment = build(resolve(set_fields(config, fields)))
    train.run_command(experiment, tmp_path / "run")
    export.run_command(experiment, tmp_path / "run")
    about = json.loads((tmp_path / "run" / "export" / "export.json").read_text())
    stated = json.loads((tmp_path / "run" / "data.json").read_text())
    assert [about["units"][name] for name in ("shift", "scale")] == [stated[name] for name in ("shift", "scale")]


def test_models_between_two_data_sets_are_not_exported(tmp_path):
    config = to_plain(load_config(f"{ROOT / 'configs' / 'gaussians_to_moons'}.py"))
    experiment = build(resolve(set_fields(config, {"solver__method": "heun", "solver__num_steps": 2})))
    with pytest.raises(UserError, match="begins with the pictures or points of config.data.base"):
        export.run_command(experiment, tmp_path)


def test_onnx_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="which is not installed: pip install jax2onnx onnxruntime"):
        export.run_command(digits(**JUMPS), DIGITS, str(tmp_path / "out"), format="onnx")


def test_a_run_is_exported_into_its_workdir(digits_run):
    experiment = experiment_of("digits.py", solver__method="ab2", solver__num_steps=2)
    export.run_command(experiment, digits_run)
    assert {path.name for path in (digits_run / "export").iterdir()} >= {"generate.stablehlo", "export.json", "run.py"}
