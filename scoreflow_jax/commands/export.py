"""--mode=export: a model for other runtimes, which run it without this package.

`--format=stablehlo`, the default, writes by jax.export, for batches of any size, on CPU, CUDA and TPU

    generate.stablehlo, encode.stablehlo, translate.stablehlo
    weights.npz    what they are called with first: the averaged parameters, float32, by name
    run.py         a program that needs jax, numpy and Pillow alone (exported.py)

`--format=onnx` writes generate.onnx and so on by jax2onnx, with the weights in them, for batches of one size. `--format=pytorch`
writes checkpoint.pth, with the names that score_sde's code gives to the tensors of the networks that it has. Beside them lie
export.json, which says what they take and return, and SHA256SUMS.
"""

import importlib
import importlib.metadata
import importlib.util
import logging
import pathlib
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from jax import export

from scoreflow_jax import files, published, sums
from scoreflow_jax.commands import reports
from scoreflow_jax.commands import workdir as workdirs
from scoreflow_jax.errors import UserError, first_line, nearest
from scoreflow_jax.experiment import Experiment
from scoreflow_jax.model import Model
from scoreflow_jax.models import export_published, portable, published_entries
from scoreflow_jax.programs import Encode, Generate, Translate
from scoreflow_jax.settings.solve import MULTISTEP
from scoreflow_jax.torch_writing import write_torch_file

PLATFORMS = ("cpu", "cuda", "tpu")
_ABOUT = "export.json"
_RUN = pathlib.Path(__file__).with_name("exported.py")
_BATCH = "16"
_AGREE = 1e-4  # of images in [-1, 1], by onnxruntime and by JAX


class Exported(NamedTuple):
    """A function that is exported.

    Attributes:
        function: of parameters and arrays.
        takes: the arrays by name.
        returns: a name of what it returns.
    """

    function: Callable[..., Any]
    takes: tuple[str, ...]
    returns: str


def run_command(
    experiment: Experiment,
    workdir: pathlib.Path,
    out: str | None = None,
    format: str = "stablehlo",
    batch: str | None = None,
) -> None:
    """Writes export/ in the workdir, or the folder that is given.

    Args:
        experiment: of the config at hand; programs need a solver with fixed steps.
        workdir: of the run.
        out: the folder to write to; None: export/ in the workdir.
        format: a name of `FORMATS`.
        batch: examples that an ONNX program takes at a time.

    Raises:
        UserError: no run there, an unknown format, a solver that decides its steps as it goes, or a network that the format
            does not have.
    """
    if format not in FORMATS:
        raise UserError(f"--format is {format!r}{nearest(format, FORMATS)}; expected one of {', '.join(FORMATS)}")
    if batch is not None and format != "onnx":
        raise UserError(f"--batch is of --format=onnx: programs of --format={format} have no size of their own")
    check, write = FORMATS[format]
    check(experiment)
    size = _count(_BATCH if batch is None else batch)
    model = workdirs.open_model(experiment, workdir, batch_size=64, with_data=False)
    folder = reports.out_folder("export", workdir, "export", out)
    _make_room(folder)
    facts = write(model, folder, size)
    about = {**reports.report_head(model, "export", seed=None), "format": format, **_arrays(model, workdir), **facts}
    files.write_json(folder / _ABOUT, about)
    written = [*facts["files"], _ABOUT]
    sums.write_sums(folder, written)
    total = sum((folder / name).stat().st_size for name in written) / 1e6
    print(f"wrote {', '.join(facts['files'])} to {folder}, {total:.1f} MB{_advice(folder, facts)}")
    if not experiment.sampler.is_ode and "programs" in facts:
        print(f"they follow the ODE; config.sampler.name {experiment.sampler.name!r} is not exported")


def _make_room(folder: pathlib.Path) -> None:
    """Takes away what an export before has written there, which would be of another time.

    Raises:
        UserError: a folder of something else that has sums, which would be written over.
    """
    about = folder / _ABOUT
    if not about.exists():
        if (folder / sums.SUMS).exists():
            raise UserError(f"{folder} holds something else, with sums of its own: give --out another folder")
        return
    try:
        before = sums.read_object(about)[0].get("files", [])
    except sums.Damaged:
        before = []
    for name in (*(str(each) for each in before), _ABOUT, sums.SUMS):
        if pathlib.Path(name).name == name:
            (folder / name).unlink(missing_ok=True)


def _advice(folder: pathlib.Path, facts: dict[str, Any]) -> str:
    if "run.py" in facts["files"]:
        return f"; python {folder / 'run.py'} runs them"
    if differences := facts.get("differs_by"):
        return f"; by onnxruntime they are at most {max(differences.values()):.1e} from JAX"
    return ""


def _count(batch: str) -> int:
    if not batch.isdecimal() or int(batch) < 1:
        raise UserError(f"--batch is {batch!r}, expected a number of at least 1")
    return int(batch)


def _check_solver(experiment: Experiment) -> None:
    solver = experiment.solver
    if experiment.data.base:
        raise UserError(
            "this model begins with the pictures or points of config.data.base, not with noise: its programs are not exported"
        )
    if solver.num_steps is None:
        few = ", or --config.solver.method=flow_map --config.solver.num_steps=4" if experiment.jumps else ""
        raise UserError(
            f"config.solver.method {solver.method!r} decides its steps as it goes, and an exported program has fixed ones: add "
            f"--config.solver.preset=fast, or a method and --config.solver.num_steps{few}"
        )


def programs_of(model: Model) -> dict[str, Exported]:
    """What is exported, by name.

    Args:
        model: whose solver has fixed steps.
    """
    label = ("class",) if model.num_classes else ()
    found = {
        "generate": Exported(model.as_function(Generate(denoise=True)), ("noise", *label), "images"),
        "encode": Exported(model.as_function(Encode()), ("images", *label), "latents"),
    }
    if model.num_classes > 1:
        found["translate"] = Exported(model.as_function(Translate()), ("images", "source", "target"), "translated")
    return found


def shapes_of(model: Model, program: Exported, batch: Any) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Of the arrays that a program takes.

    Args:
        model: that it is of.
        program: of `programs_of`.
        batch: how many examples; a symbol: any number.
    """
    states = jax.ShapeDtypeStruct((batch, *model.image_shape), jnp.float32)
    return states, *[jax.ShapeDtypeStruct((batch,), jnp.int32) for _ in program.takes[1:]]


def _arrays(model: Model, workdir: pathlib.Path) -> dict[str, Any]:
    names = list(workdirs.class_names(model.experiment, workdir)) or [str(i) for i in range(model.num_classes)]
    return {
        **_units(model, workdir),
        "shape": list(model.image_shape),
        "classes": names if model.num_classes else [],
        "noise_scale": float(model.experiment.path.prior_scale),
        "arrays": "states (noise, latents, images) are float32 (batch, *shape), images about [-1, 1], noise standard normal "
        "times noise_scale; classes int32 (batch,), from 0",
    }


def _units(model: Model, workdir: pathlib.Path) -> dict[str, Any]:
    """Of points of a table, how its own units come of the standardized coordinates that programs take and return."""
    if not model.experiment.spec.is_points:
        return {}
    units = workdirs.read_units(workdir)
    return {"units": {"columns": list(units.columns), "shift": list(units.shift), "scale": list(units.scale)}}


def _of_programs(programs: dict[str, Exported]) -> dict[str, Any]:
    return {name: {"takes": list(each.takes), "returns": each.returns} for name, each in programs.items()}


def stablehlo(model: Model, program: Exported, weights: dict[str, np.ndarray]) -> export.Exported:
    """A program of the weights by name and of arrays, for batches of any size.

    Args:
        model: that it is of.
        program: of `programs_of`.
        weights: the parameters by their dotted names.
    """
    (batch,) = export.symbolic_shape("batch")
    given = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in weights.items()}
    named = jax.jit(lambda weights, *arrays: program.function(published.nested(weights), *arrays))
    return export.export(named, platforms=PLATFORMS)(given, *shapes_of(model, program, batch))


def _stablehlo(model: Model, folder: pathlib.Path, batch: int) -> dict[str, Any]:
    del batch
    weights = {name: np.asarray(leaf, np.float32) for name, leaf in published.flatten(model.params).items()}
    programs = programs_of(model)
    for name, program in programs.items():
        with files.whole_file(folder / f"{name}.stablehlo") as path:
            path.write_bytes(stablehlo(model, program, weights).serialize())
    files.save_arrays(folder / "weights.npz", weights, compressed=False)
    shutil.copyfile(_RUN, folder / "run.py")
    names = [*(f"{name}.stablehlo" for name in programs), "weights.npz", "run.py"]
    return {"programs": _of_programs(programs), "platforms": list(PLATFORMS), "files": names}


def _check_onnx(experiment: Experiment) -> None:
    _check_solver(experiment)
    solver = experiment.solver
    if solver.dtype != "float32":
        raise UserError(
            f"config.solver.dtype is {solver.dtype!r}, which onnxruntime does not compute in: leave it float32"
        )
    if solver.method not in (*MULTISTEP, "flow_map"):
        raise UserError(
            f"config.solver.method {solver.method!r} is diffrax's, which ONNX has no operations for: take "
            f"--config.solver.preset=fast, or one of {', '.join((*MULTISTEP, 'flow_map'))}"
        )
    if importlib.util.find_spec("jax2onnx") is None:
        raise UserError("--format=onnx writes by jax2onnx, which is not installed: pip install jax2onnx onnxruntime")


def _onnx(model: Model, folder: pathlib.Path, batch: int) -> dict[str, Any]:
    programs, differences = programs_of(model), {}
    for name, program in programs.items():
        shapes = shapes_of(model, program, batch)
        with files.whole_file(folder / f"{name}.onnx") as path:
            _convert(model, program, shapes, path)
            differences[name] = _difference(model, program, shapes, path)
    checked = {} if None in differences.values() else {"differs_by": differences}
    names = [f"{name}.onnx" for name in programs]
    return {"programs": _of_programs(programs), "batch": batch, **checked, "files": names}


def _convert(model: Model, program: Exported, shapes: tuple[Any, ...], path: pathlib.Path) -> None:
    """Writes an ONNX file of a program: traced here, since jax2onnx traces by functions of its own that know fewer arguments."""
    to_onnx = importlib.import_module("jax2onnx").to_onnx
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    try:
        with portable():
            traced = jax.make_jaxpr(lambda *arrays: program.function(model.params, *arrays))(*shapes)
        whole = jax.extend.core.jaxpr_as_fun(traced)
        more = {"input_names": list(program.takes), "output_names": [program.returns]}
        model_proto = to_onnx(lambda *arrays: whole(*arrays)[0], list(shapes), return_mode="proto", **more)
        path.write_bytes(
            model_proto.SerializeToString()
        )  # the weights in it, where to_onnx itself would put them beside
    except Exception as error:
        versions = " and ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax2onnx", "jax"))
        raise UserError(
            f"{versions} cannot write this model as ONNX ({type(error).__name__}: {first_line(error)}): try another version of "
            "one of them, or --format=stablehlo"
        ) from error


def _difference(model: Model, program: Exported, shapes: tuple[Any, ...], path: pathlib.Path) -> float | None:
    """How far an ONNX program's result is from JAX's, at most; None: onnxruntime is not there to say.

    Raises:
        UserError: it is another result.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    runtime = importlib.import_module("onnxruntime")
    runtime.set_default_logger_severity(3)
    count = shapes[0].shape[0]
    given = [
        np.asarray(model.source_points(0, count)),
        *((np.arange(count) + i) % model.num_classes for i in range(len(shapes) - 1)),
    ]
    given = [array.astype(shape.dtype) for array, shape in zip(given, shapes, strict=True)]
    if program.takes[0] == "images":
        given[0] = np.tanh(given[0])  # of the range of images
    try:
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (found,) = session.run(None, dict(zip((each.name for each in session.get_inputs()), given, strict=True)))
    except Exception as error:
        raise UserError(
            f"onnxruntime {importlib.metadata.version('onnxruntime')} cannot run what jax2onnx wrote ({first_line(error)}): try "
            "another version of one of them, or --format=stablehlo"
        ) from error
    expected = np.asarray(jax.jit(program.function)(model.params, *given))
    difference = float(np.abs(found - expected).max())
    if not difference <= _AGREE * max(1.0, float(np.abs(expected).max())):
        raise UserError(
            f"what jax2onnx wrote gives {program.returns} {difference:.1e} from JAX's, which is more than rounding: try another "
            "version of it, or --format=stablehlo"
        )
    return difference


def _check_pytorch(experiment: Experiment) -> None:
    network: Any = experiment.network
    known = network.is_published and not experiment.conditional
    try:
        if known:
            published_entries(network, experiment.spec.shape)
            return
        why = (
            "they are unconditional, and this model is told classes" if experiment.conditional else "they are of images"
        )
    except ValueError as error:
        why = str(error)
    raise UserError(
        f"--format=pytorch writes networks that score_sde has: {why}. --format=stablehlo and onnx write any"
    )


def _pytorch(model: Model, folder: pathlib.Path, batch: int) -> dict[str, Any]:
    del batch
    network: Any = model.experiment.network
    weights, shadow = export_published(network, model.image_shape, model.params)
    decay = float(model.trained_config["train"]["ema_decay"])
    ema = {"decay": decay, "num_updates": model.step, "shadow_params": shadow}
    with files.whole_file(folder / "checkpoint.pth") as path:
        write_torch_file(path, {"model": weights, "ema": ema, "step": model.step})
    return {
        "tensors": len(weights),
        "note": "'model' and 'ema' are both the averaged parameters",
        "files": ["checkpoint.pth"],
    }


FORMATS: dict[str, tuple[Callable[[Experiment], None], Callable[[Model, pathlib.Path, int], dict[str, Any]]]] = {
    "stablehlo": (_check_solver, _stablehlo),
    "onnx": (_check_onnx, _onnx),
    "pytorch": (_check_pytorch, _pytorch),
}
"""What refuses a model before it is opened, and what writes it to a folder, so many examples at a time, and says what."""
