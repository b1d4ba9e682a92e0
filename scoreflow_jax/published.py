"""Folders of one model, to be shared: weights, config, sums, a card. What `--mode=publish` writes and `load` reads.

    model.safetensors    the averaged weights, with what they are of in its header; nothing in it can be run
    config.json          all settings that they were trained with
    data.json            names of the classes, and which data they were
    README.md            the model card
    preview.png          samples
    SHA256SUMS           of all of these; `sha256sum --check` reads it too

Such folders stand in the package for models that are shipped with it (`pretrained:NAME`) and on the Hugging Face hub
(`hf://owner/name`, hub.py). They are read and never written to: what is made with one goes to runs/NAME.
"""

import importlib.util
import pathlib
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from scoreflow_jax import files, hub, sums
from scoreflow_jax.errors import UserError, first_line, nearest
from scoreflow_jax.user_paths import user_path

WEIGHTS, CARD, PREVIEW = "model.safetensors", "README.md", "preview.png"
OWN = (WEIGHTS, "config.json", "data.json", CARD, PREVIEW, "solver_grid.json")
"""Files of such a folder, as far as it has them; SHA256SUMS besides."""

SHIPPED = pathlib.Path(__file__).parent / "pretrained"
PREFIX = "pretrained:"
FORMAT = "scoreflow_jax 1"

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


class Weights(NamedTuple):
    """What a folder holds.

    Attributes:
        params: the averaged parameters, float32.
        step: training steps behind them.
        dtype: that they are stored in.
    """

    params: Any
    step: int
    dtype: str


def shipped() -> list[str]:
    """Names of the models that the package holds."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{WEIGHTS}"))


def locate(place: str | pathlib.Path) -> pathlib.Path:
    """The folder that a name stands for: a path, hf://owner/name[@revision], pretrained:NAME, or NAME itself.

    A folder of the user's that has the name of a shipped model is that folder; a line says so.

    Args:
        place: the name.

    Raises:
        UserError: no such shipped model, or nothing on the hub (`hub.fetch`).
    """
    text = str(place)
    if text.startswith(hub.SCHEME):
        return hub.fetch(text, (*OWN, sums.SUMS))
    path, name = user_path(place), text.removeprefix(PREFIX)
    names = shipped()
    if path.exists():
        if name in names:
            print(f"{text} is a folder here: it is taken, not the model of that name that is shipped", file=sys.stderr)
        return path
    if name in names:
        return SHIPPED / name
    if text.startswith(PREFIX):
        raise UserError(
            f"no model {name!r} is shipped{nearest(name, names)}; expected one of {', '.join(names) or 'none'}"
        )
    return path


def is_published(folder: pathlib.Path) -> bool:
    """Whether it is such a folder, and no run."""
    return (folder / WEIGHTS).is_file()


def outputs_of(folder: pathlib.Path) -> pathlib.Path:
    """Where what is made with a folder's model goes: the workdir itself, of a published one runs/NAME, as this is only read.

    Where runs/NAME is that folder, or a run, whose own results lie there, it is runs/NAME-made.
    """
    if not is_published(folder):
        return folder
    cached = [part.removeprefix("models--") for part in folder.parts if part.startswith("models--")]
    made = pathlib.Path("runs") / (cached[-1] if cached else folder.resolve().name)
    taken = made.resolve() == folder.resolve() or (made / "checkpoints").exists()
    return made.with_name(made.name + "-made") if taken else made


def flatten(params: Any) -> dict[str, Any]:
    """Arrays by their names from the outermost to the innermost, with dots between."""
    return {".".join(names): leaf for names, leaf in _named(params)}


def nested(arrays: dict[str, Any]) -> dict[str, Any]:
    """The tree that `flatten` was given."""
    tree: dict[str, Any] = {}
    for name, leaf in arrays.items():
        *outer, last = name.split(".")
        place = tree
        for each in outer:
            place = place.setdefault(each, {})
        place[last] = leaf
    return tree


def _named(tree: Any, outer: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not isinstance(tree, dict):
        yield outer, tree
        return
    for name, inner in tree.items():
        yield from _named(inner, (*outer, name))


def write_weights(folder: pathlib.Path, params: Any, *, step: int, dtype: str, about: dict[str, str]) -> None:
    """Writes model.safetensors.

    Args:
        folder: gets it.
        params: the averaged parameters.
        step: training steps behind them.
        dtype: to round them to, of `DTYPES`.
        about: more that the header says.
    """
    _safetensors()
    from safetensors.numpy import save

    arrays = {n: np.ascontiguousarray(np.asarray(leaf).astype(DTYPES[dtype])) for n, leaf in flatten(params).items()}
    header = {"format": FORMAT, "step": str(step), "dtype": dtype, **about}
    with files.whole_file(folder / WEIGHTS) as temporary:
        temporary.write_bytes(save(arrays, header))


def finish(folder: pathlib.Path) -> None:
    """Writes SHA256SUMS of all that is there of `OWN`."""
    sums.write_sums(folder, [name for name in OWN if (folder / name).is_file()])


def check(folder: pathlib.Path) -> None:
    """Compares the files with their sums; what else lies there, such as the hub's own files, does not count.

    Raises:
        UserError: a file is damaged or missing.
    """
    try:
        stated = sums.read_sums(folder)
        if stated is None:
            raise sums.Damaged(f"{sums.SUMS} is missing")
        if others := sorted({*stated} - {*OWN}):  # which may lie anywhere on this machine
            raise sums.Damaged(f"{sums.SUMS} names {others[0]!r}, which is no file of a model")
        sums.check_files(folder, stated, {*stated, *(name for name in OWN if (folder / name).is_file())})
    except sums.Damaged as error:
        raise UserError(
            f"{folder} is not as it was published: {error}. Fetch it again, or tell who published it"
        ) from error


def read_weights(folder: pathlib.Path, like: Any) -> Weights:
    """Reads and checks model.safetensors, and every other file by its sum.

    Args:
        folder: of the model.
        like: the parameters' shapes, as its config has them, each with the sharding to give it, if any.

    Raises:
        UserError: it is damaged, or of another network.
    """
    _safetensors()
    from safetensors import SafetensorError, safe_open

    check(folder)
    wanted = {".".join(names): leaf for names, leaf in _named(like)}
    try:
        with safe_open(folder / WEIGHTS, "numpy") as file:
            about = file.metadata() or {}
            if about.get("format") != FORMAT:
                raise UserError(
                    f"{folder / WEIGHTS} is of format {about.get('format')!r}, expected {FORMAT!r}: it is no model of "
                    "scoreflow_jax, or of a later version of it"
                )
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            expected = {name: tuple(leaf.shape) for name, leaf in wanted.items()}
            if shapes != expected:
                other = sorted(n for n in shapes.keys() | expected.keys() if shapes.get(n) != expected.get(n))
                raise UserError(
                    f"{folder / WEIGHTS} is of another network than its config: {other[0]} is {shapes.get(other[0])}, expected "
                    f"{expected.get(other[0])}"
                )
            arrays = {name: file.get_tensor(name).astype(np.float32) for name in wanted}
        return Weights(placed(like, arrays), int(about["step"]), about["dtype"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise UserError(f"{folder / WEIGHTS} cannot be read ({first_line(error)}). Fetch it again") from error


def _safetensors() -> None:
    if importlib.util.find_spec("safetensors") is None:
        raise UserError(f"{WEIGHTS} is of the package safetensors, which is not installed: pip install safetensors")


def placed(like: Any, arrays: dict[str, np.ndarray], outer: tuple[str, ...] = ()) -> Any:
    """The arrays of `flatten` in the tree of shapes again, on the devices that these name.

    Args:
        like: shapes, with shardings or without.
        arrays: by their dotted names.
        outer: names of the trees that `like` stands in.
    """
    if isinstance(like, dict):
        return {name: placed(inner, arrays, (*outer, name)) for name, inner in like.items()}
    import jax  # not where the command line asks for names

    return jax.device_put(arrays[".".join(outer)], getattr(like, "sharding", None))
