"""Damages stored bytes and looks what becomes of it: whether anything is computed from other numbers without a word.

    python -m benchmarks.corruption [--mutations 2000] [--seed 0] [--kinds checkpoint pairs ...]

A small run is made, with what a run may leave or read: checkpoints, data.json, metrics.jsonl, a report, a chunk of an evaluation,
the examples of a failed step, pairs of reflow, a pack, statistics; and the caches of features and of a scanned folder, and
weights as they are downloaded. Each mutation turns a bit over, replaces a byte, blanks 16 bytes or cuts a file short, in a file
chosen at random of a kind chosen in turn; then what reads it, reads it. Outcomes:

    harmless     the same is read, or a cache made anew, and nothing is said
    noticed      a line says so; the same is read, or the checkpoint before
    refused      an error in one line that names what is damaged
    silent       something else is read without a word: there must be none
    traceback    any other error: there must be none

Prints a JSON line for each that must not be, and one for each kind.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from PIL import Image

from scoreflow_jax.checkpoints import Checkpoints
from scoreflow_jax.command_line import load_config
from scoreflow_jax.commands import evaluate, failures, reflow, status, train
from scoreflow_jax.commands import workdir as workdirs
from scoreflow_jax.data import Digits, Packed, Pairs, TrainedOn, read_all
from scoreflow_jax.data.folder_scan import scan_folder
from scoreflow_jax.data.packed import write_pack
from scoreflow_jax.errors import UserError
from scoreflow_jax.evaluation import samples
from scoreflow_jax.evaluation.comparison import read_report
from scoreflow_jax.evaluation.extractors import Extractor
from scoreflow_jax.evaluation.features import data_features
from scoreflow_jax.evaluation.statistics import load_npz, save_npz, statistics_of
from scoreflow_jax.evaluation.weights import find_inception
from scoreflow_jax.experiment import Experiment, build, resolve
from scoreflow_jax.files import cache_dir, save_arrays
from scoreflow_jax.loading import load_model
from scoreflow_jax.parallel import make_layout
from scoreflow_jax.plain_config import to_plain
from scoreflow_jax.training import split_state, state_shapes
from scoreflow_jax.writers import JsonlWriter

_OUTCOMES = ("harmless", "noticed", "refused", "silent", "traceback")
_PIXELS = Extractor("pixels", {}, 64, 100, lambda pixels: pixels.reshape(len(pixels), 64).astype(np.float32))
_POINTS = Extractor("points", {}, 2, 100, lambda points: points)
_ANEW = object()  # read in place of what is computed again


class Kind:
    """Stored files and what reads them.

    Attributes:
        folder: that holds them, and is put back after each mutation.
        read: reads them as the commands do; returns what they say, as something that can be compared, or `_ANEW`.
        pattern: of the files that are damaged.
        fallback: given the whole and what was read, whether that may be, with a word: the checkpoint before, fewer records.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        read: Callable[[], Any],
        pattern: str = "**/*",
        fallback: Callable[[Any, Any], bool] | None = None,
    ) -> None:
        self.folder, self.read, self.pattern, self.fallback = folder, read, pattern, fallback

    def prepare(self) -> None:
        """Keeps a copy, and what is read of it."""
        self.copy = self.folder.with_name(self.folder.name + "-whole")
        shutil.copytree(self.folder, self.copy)
        self.whole = self.read()
        self.restore()

    def restore(self) -> None:
        """Puts the copy back, with its times, which caches go by."""
        shutil.rmtree(self.folder)
        shutil.copytree(self.copy, self.folder)


def main() -> None:
    """Makes, damages, reads and counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=[])
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_CACHE_HOME"] = f"{name}/cache"
        with _listening():
            kinds = _make(pathlib.Path(name))
            kinds = {name: kind for name, kind in kinds.items() if not args.kinds or name in args.kinds}
            for kind in kinds.values():
                kind.prepare()
        counts = {name: dict.fromkeys(_OUTCOMES, 0) for name in kinds}
        for number in range(args.mutations):
            name = list(kinds)[number % len(kinds)]
            counts[name][_mutate(name, kinds[name], rng)] += 1
    total = {outcome: sum(found[outcome] for found in counts.values()) for outcome in _OUTCOMES}
    for name, found in {**counts, "all": total}.items():
        print(json.dumps({"kind": name, "mutations": sum(found.values()), **found}))
    sys.exit(0 if not total["silent"] + total["traceback"] else 1)


def _mutate(name: str, kind: Kind, rng: np.random.Generator) -> str:
    """Damages one file, reads, and puts it back."""
    files = sorted(p for p in kind.folder.glob(kind.pattern) if p.is_file() and p.stat().st_size)
    path = files[rng.integers(len(files))]
    content, how = bytearray(path.read_bytes()), ("bit", "byte", "blank", "cut")[rng.choice(4, p=(0.6, 0.2, 0.1, 0.1))]
    place, times = int(rng.integers(len(content))), path.stat()
    if how == "bit":
        content[place] ^= 1 << int(rng.integers(8))
    elif how == "byte":
        content[place] = int(rng.integers(256))
    elif how == "blank":
        content[place : place + 16] = bytes(len(content[place : place + 16]))
    else:
        del content[place:]
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    said, found, error = io.StringIO(), None, None
    with _listening(said):
        try:
            found = kind.read()
        except UserError as refused:
            error = refused
        except Exception as other:
            error = other
    outcome = _outcome(kind, found, error, said.getvalue())
    if outcome in ("silent", "traceback"):
        where = f"{path.relative_to(kind.folder)}, {how} at {place}"
        print(json.dumps({"kind": name, "outcome": outcome, "where": where, "error": repr(error)[:200]}), flush=True)
    kind.restore()
    return outcome


def _outcome(kind: Kind, found: Any, error: Exception | None, said: str) -> str:
    if error is not None:
        return "refused" if isinstance(error, UserError) and "\n" not in str(error) else "traceback"
    if found == kind.whole:
        return "noticed" if said else "harmless"
    return "noticed" if found is _ANEW or (said and kind.fallback and kind.fallback(kind.whole, found)) else "silent"


@contextlib.contextmanager
def _listening(into: io.StringIO | None = None) -> Any:
    into = io.StringIO() if into is None else into
    with contextlib.redirect_stdout(into), contextlib.redirect_stderr(into):
        yield


def _make(root: pathlib.Path) -> dict[str, Kind]:
    """Makes one of each kind."""
    flow, table, digits = _flow(), _table(root), Digits("test")
    run, stored = root / "run", {name: root / name for name in ("records", "facts", "report", "chunk", "failure")}
    train.run_command(flow, run)
    evaluate.run_command(flow, run)
    reflow.run_command(flow, run)
    train.run_command(table, root / "table")
    chunk = next((run / "eval").rglob("*.npz"))
    for name, path in (
        ("records", run / "metrics.jsonl"),
        ("facts", root / "table" / "data.json"),
        ("report", next((run / "eval").glob("*/report.json"))),
        ("chunk", chunk),
    ):
        stored[name].mkdir()
        shutil.copy(path, stored[name] / path.name)
    save_arrays(stored["failure"] / "examples.npz", {"image": digits.read(range(8))["image"]})
    shutil.copytree(run / "reflow" / "2" / "pairs", root / "pairs")
    for name in ("to_train", "to_sample"):
        shutil.copytree(run / "checkpoints", root / name / "checkpoints")
        shutil.copy(run / "config.json", root / name)
    write_pack(root / "pack", {"test": digits})
    features = data_features(digits, _PIXELS, root / "features", "digits")
    (root / "statistics").mkdir()
    save_npz(root / "statistics" / "test.npz", statistics_of(features, "digits", "test", _PIXELS))
    pictures = _pictures(root / "pictures", digits)
    scan_folder(pictures)
    origin = _weights(root)
    earlier = [_latest(flow, _only(run / "checkpoints", root / "only", step)) for step in (10, 20)]
    return {
        "checkpoint, to train on": Kind(
            root / "to_train",
            lambda: _latest(flow, root / "to_train"),
            "checkpoints/30/**/*",
            lambda _, f: f in earlier,
        ),
        "checkpoint, to sample": Kind(
            root / "to_sample",
            lambda: _averaged(flow, root / "to_sample"),
            "checkpoints/30/[em]*/**/*",
            lambda _, f: f in [found[:2] for found in earlier],
        ),
        "data.json": Kind(stored["facts"], lambda: _facts(stored["facts"])),
        "metrics.jsonl": Kind(
            stored["records"], lambda: _records(stored["records"]), fallback=lambda whole, f: {*f} <= {*whole}
        ),
        "report.json": Kind(stored["report"], lambda: json.dumps(read_report(str(stored["report"])))),
        "chunk of an evaluation": Kind(stored["chunk"], lambda: _chunk(stored["chunk"] / chunk.name)),
        "examples of a failure": Kind(stored["failure"], lambda: _digest(failures.read_examples(stored["failure"]))),
        "pairs": Kind(root / "pairs", lambda: _digest(read_all(Pairs(root / "pairs", flow.spec)))),
        "pack": Kind(root / "pack", lambda: _digest(read_all(Packed(root / "pack", "test")))),
        "statistics": Kind(root / "statistics", lambda: _statistics(root / "statistics" / "test.npz")),
        "features": Kind(root / "features", lambda: _digest(_features(digits, root / "features"))),
        "scanned folder": Kind(cache_dir() / "folders", lambda: _scan(pictures)),
        "downloaded weights": Kind(root / "weights", lambda: _found(root / "weights", origin)),
    }


def _flow() -> Experiment:
    """A rectified flow on a checkerboard of points, with a reflow of few pairs."""
    config = to_plain(load_config("configs/rectified_flow.py:checkerboard"))
    config["model"].update(width=16, num_blocks=1)
    config["train"].update(
        num_steps=30, checkpoint_every=10, log_every=2, sample_every=0, batch_size=64, tensorboard=False
    )
    config["eval"].update(num_images=200, batch_size=200, reversibility=False, likelihood="none", keep_images=True)
    config["reflow"].update(rounds=2, num_pairs=400, shard_size=150, batch_size=150, num_steps=10)
    return build(resolve(config))


def _table(root: pathlib.Path) -> Experiment:
    points = np.random.default_rng(0).normal(size=(400, 2)) * (3.0, 0.01) + (1e5, 0.5)
    path = root / "points.csv"
    path.write_text("u,v\n" + "".join(f"{u!r},{v!r}\n" for u, v in points.tolist()))
    config = to_plain(load_config("configs/table.py:smoke"))
    config["data"]["path"] = str(path)
    return build(resolve(config))


def _pictures(folder: pathlib.Path, digits: Digits) -> pathlib.Path:
    folder.mkdir()
    for i in range(40):
        Image.fromarray(digits[i]["image"][..., 0] * 15).save(folder / f"{i}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def _weights(root: pathlib.Path) -> pathlib.Path:
    """A file named by its sum, where it comes from and where it was downloaded to."""
    content = np.random.default_rng(0).bytes(5000)
    name = f"weights-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    for folder in ("origin", "weights"):
        (root / folder).mkdir()
        (root / folder / name).write_bytes(content)
    return root / "origin" / name


def _only(checkpoints: pathlib.Path, root: pathlib.Path, step: int) -> pathlib.Path:
    shutil.copytree(checkpoints / str(step), root / str(step) / "checkpoints" / str(step))
    return root / str(step)


# What reads them


def _latest(experiment: Experiment, run: pathlib.Path) -> tuple[Any, ...]:
    """What training would go on from."""
    ema, rest = split_state(state_shapes(experiment.initial_state, make_layout(jax.devices()[:1])))
    with Checkpoints(run / "checkpoints", keep=5) as checkpoints:
        restored = checkpoints.restore_latest(ema=ema, train=rest)
    if restored is None:
        raise UserError("nothing there")  # it would begin anew, which is no fallback
    train_state = {**restored.train, "key": jax.random.key_data(restored.train["key"])}
    return restored.step, _digest(restored.ema), _digest(train_state), json.dumps(restored.meta)


def _averaged(experiment: Experiment, run: pathlib.Path) -> tuple[Any, ...]:
    """What sampling would take."""
    model = load_model(experiment, run, layout=make_layout(jax.devices()[:1]))
    return model.step, _digest(model.params)


def _facts(folder: pathlib.Path) -> Any:
    """What a run knows of its data, and the units that all its points are in."""
    trained = TrainedOn.read(folder)
    return json.dumps(trained and trained.facts), workdirs.read_units(folder)


def _records(folder: pathlib.Path) -> tuple[str, ...]:
    """What a resumed run keeps, and the screen shows."""
    JsonlWriter(folder / "metrics.jsonl", first_step=30, logged=30).close()
    return tuple(json.dumps(record) for record in status.read_records(folder / "metrics.jsonl"))


def _chunk(path: pathlib.Path) -> Any:
    found = samples._read(path, 200, _POINTS, True)
    return _ANEW if found is None else _digest(found)


def _statistics(path: pathlib.Path) -> Any:
    found = load_npz(str(path), _PIXELS)
    return _digest(found.gaussian), found.facts["statistics_sha256"]


def _features(digits: Digits, folder: pathlib.Path) -> Any:
    return data_features(digits, _PIXELS, folder, "digits")


def _scan(folder: pathlib.Path) -> Any:
    """Without how many files had to be read."""
    found = scan_folder(folder)
    return [*found.names], _digest((found.labels, found.sides, found.hashes)), found.sketch, found.skipped


def _found(folder: pathlib.Path, origin: pathlib.Path) -> bytes:
    return find_inception(url=origin.as_uri(), folder=folder).read_bytes()


def _digest(tree: Any) -> str:
    """The sha256 of all numbers."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
