"""Solving for many examples in batches of one size, so that one compiled program serves them all."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from scoreflow_jax.errors import UserError
from scoreflow_jax.ode import Solution


@dataclasses.dataclass
class SolveStats:
    """What solving cost, summed over batches.

    Attributes:
        images: examples solved for.
        evaluations: field evaluations of each batch (under per-sample control that of its slowest member, which is how
            often the network ran).
        rejected: steps thrown away in each batch, likewise.
        seconds: wall clock of solving.
        compile_seconds: wall clock of compiling, before it; 0 where the program was there already.
    """

    images: int = 0
    evaluations: list[int] = dataclasses.field(default_factory=list)
    rejected: list[int] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    compile_seconds: float = 0.0

    def summary(self, network_calls: int = 1) -> dict[str, Any]:
        """The figures for a report; NFE counts network calls, `network_calls` for each evaluation of the field."""
        calls = [n * network_calls for n in self.evaluations]
        return {
            "images": self.images,
            "nfe_mean": float(np.mean(calls)),
            "nfe_max": int(np.max(calls)),
            "rejected_steps_mean": float(np.mean(self.rejected)),
            "batches": len(calls),
            "seconds": self.seconds,
            "compile_seconds": self.compile_seconds,
            "images_per_second": self.images / self.seconds,
        }


@dataclasses.dataclass
class Solved:
    """The ends of many solves, on the host.

    Attributes:
        y: states, the examples first; for a field over several arrays a tuple of them.
        path: states on the way, times first and examples second; None if none were asked for.
        stats: what it cost.
    """

    y: Any
    path: Float[np.ndarray, "times examples ..."] | None
    stats: SolveStats


def padded(count: int) -> int:
    """The number of examples for which a program is compiled, so that few programs serve whatever number is asked for.

    1, 2, 4, 8, 16, then two sizes to each doubling up to 64, then four: half as much again at the most, from 64 on a quarter,
    and a tenth on the average.
    """
    steps = 1 if count <= 16 else 2 if count <= 64 else 4
    unit = max(1, 2 ** ((count - 1).bit_length() - 1) // steps)
    return -(-count // unit) * unit


def solve_in_batches(
    compile_solve: Callable[..., Callable[..., Solution]],
    arrays: tuple[Any, ...],
    batch_size: int,
    *,
    multiple: int = 1,
    advice: str = "the field is not finite, or too steep",
) -> Solved:
    """Calls a compiled solve on slices of the arrays, padding the last one by repetition.

    Args:
        compile_solve: from arrays with the batch first to a compiled function that returns a solution: of the number of
            examples that count, the others being there to fill up the batch, and of such arrays.
        arrays: with the examples first; None is passed on as it is.
        batch_size: at most this many at a time; where there are not that many, their number rounded up by `padded`.
        multiple: the number of devices, which must divide what is solved at a time: it is rounded up to one of its multiples.
        advice: what is said of a solve that failed.

    Raises:
        UserError: there are no examples, or a solve failed: its step became too small, its result was not finite, or it
            ran out of steps.
    """
    count = next(len(a) for a in arrays if a is not None)
    if not count:
        raise UserError("got no images, expected at least one")
    size = -(-min(batch_size, padded(count)) // multiple) * multiple
    stats, ends, paths = SolveStats(), [], []
    start = time.perf_counter()
    first = np.minimum(np.arange(size), count - 1)
    solve = compile_solve(*(None if a is None else a[first] for a in arrays))
    stats.compile_seconds = time.perf_counter() - start
    for first in range(0, count, size):
        chosen = np.minimum(np.arange(first, first + size), count - 1)
        kept = min(size, count - first)
        solution = jax.device_get(solve(np.int32(kept), *(None if a is None else a[chosen] for a in arrays)))
        if not np.all(solution.succeeded[:kept] if solution.succeeded.ndim else solution.succeeded):
            failed = UserError(
                f"the solve of examples {first} to {first + kept - 1} failed after "
                f"{int(np.max(solution.num_evaluations))} evaluations: {advice}"
            )
            failed.everywhere = True  # the solution is the same in all processes
            raise failed
        stats.images += kept
        stats.evaluations.append(int(np.max(solution.num_evaluations)))
        stats.rejected.append(int(np.max(solution.num_rejected)))
        ends.append(jax.tree.map(lambda y, kept=kept: y[:kept], solution.y))
        paths.append(None if solution.path is None else solution.path[:, :kept])
    stats.seconds = time.perf_counter() - start - stats.compile_seconds
    path = None if paths[0] is None else np.concatenate(paths, axis=1)
    return Solved(y=jax.tree.map(lambda *parts: np.concatenate(parts), *ends), path=path, stats=stats)
