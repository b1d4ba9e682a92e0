"""What the sums of a checkpoint cost: saving and restoring a training state with and without them, in turns.

    python -m benchmarks.sums [--millions 70] [--turns 3]

The state is that of Adam: parameters, their average and two moments, random numbers in float32. Prints a JSON line: medians in
seconds of a whole save (to the renamed folder) and of a restore, of the sums alone, and their share of a save. Saving goes on
beside training, so that a run waits for none of it unless it saves again before.
"""

import argparse
import contextlib
import json
import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

from scoreflow_jax import sums
from scoreflow_jax.checkpoints import Checkpoints


def main() -> None:
    """Saves and restores, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=int, default=70)
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    keys = jax.random.split(jax.random.key(0), 4)
    trees = [
        {f"layer_{i}": jax.random.normal(jax.random.fold_in(k, i), (args.millions, 100_000)) for i in range(10)}
        for k in keys
    ]
    ema, train = trees[0], {"step": jnp.int32(0), "params": trees[1], "opt_state": trees[2:]}
    found: dict[str, list[float]] = {
        name: [] for name in ("save", "save_without", "restore", "restore_without", "sums")
    }
    for _ in range(args.turns):
        for suffix in ("", "_without"):
            with tempfile.TemporaryDirectory() as folder, _sums(with_them=not suffix):
                saved = _time(lambda: _save(pathlib.Path(folder), ema, train))
                found[f"save{suffix}"].append(saved)
                found[f"restore{suffix}"].append(_time(lambda: _restore(pathlib.Path(folder), ema, train)))
                if not suffix:
                    found["sums"].append(_time(lambda: sums.check_sums(pathlib.Path(folder, "1"), _listed)))
    medians: dict[str, Any] = {name: round(statistics.median(times), 2) for name, times in found.items()}
    share = round(medians["sums"] / medians["save"], 3)
    print(json.dumps({"millions": args.millions, "turns": args.turns, "seconds": medians, "share_of_a_save": share}))


def _listed(name: str) -> bool:
    return name not in ("_CHECKPOINT_METADATA", "commit_success.txt")


def _time(function: Any) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _save(folder: pathlib.Path, ema: Any, train: Any) -> None:
    with Checkpoints(folder, keep=1) as checkpoints:
        checkpoints.save(1, ema=ema, train=train, meta={"batches": 1, "config": {}})


def _restore(folder: pathlib.Path, ema: Any, train: Any) -> None:
    with Checkpoints(folder, keep=1) as checkpoints:
        jax.block_until_ready(checkpoints.restore_latest(ema=ema, train=train))


@contextlib.contextmanager
def _sums(*, with_them: bool) -> Iterator[None]:
    """Without them none are written, and a checkpoint is taken as an earlier version's."""
    with contextlib.ExitStack() as stack:
        if not with_them:
            stack.enter_context(mock.patch.object(sums, "write_sums", return_value={}))
            stack.enter_context(mock.patch.object(sums, "say_without", return_value=None))
        yield


if __name__ == "__main__":
    main()
