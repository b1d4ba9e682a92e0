"""Compiled solves: one for each kind of program, method and batch size, shared by all numbers that it is called with."""

import collections
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scoreflow_jax.parallel import Layout, shard
from scoreflow_jax.programs import How, Program
from scoreflow_jax.typing import PyTree

KEPT = 24
"""Compiled solves that are kept: some 40 MB each for a network of 1.5 million parameters on CPU."""


class CompiledPrograms:
    """Programs compiled for a drift and devices, those that were used last."""

    def __init__(self, drift: Callable[[PyTree, str], Any], layout: Layout) -> None:
        """Begins without any.

        Args:
            drift: the drift of parameters, computing in a type.
            layout: the devices.
        """
        self._drift = drift
        self._layout = layout
        # By what they were compiled for, the one used last at the end.
        self._compiled: collections.OrderedDict[tuple[Any, ...], Callable[..., Any]] = collections.OrderedDict()

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._compiled)

    @property
    def batch_sizes(self) -> list[int]:
        """Examples that each of them solves together, the one used last at the end."""
        return [place[-1] for place in self._compiled]

    def traceable(self, kind: Program, how: How) -> Callable[..., Any]:
        """The program as a function of parameters, the solver's numbers, constants and a batch of each array.

        Args:
            kind: `Program.kind`.
            how: of which only the solver's kind, the times and the span are built in.
        """

        def run(params: PyTree, numbers: dict[str, Any], constants: PyTree, x: Any, *rest: Any) -> Any:
            times = None if how.times is None else jnp.asarray(how.times, jnp.float32)
            drift = self._drift(params, how.solver.dtype)
            solver = how.solver.along(drift.path) if how.solver.of_levels else how.solver
            return kind(drift, x, *rest, how=How(solver.with_numbers(numbers), times, how.span, constants))

        return run

    def compiled(self, kind: Program, how: How, params: PyTree, batch: tuple[Any, ...]) -> Callable[..., Any]:
        """The program for arrays of a batch's shapes, compiled if none of its like is kept.

        Args:
            kind: `Program.kind`.
            how: what it is called with; only the solver's kind and the shapes of constants are compiled.
            params: of the drift.
            batch: arrays with an entry for each example, or None.

        Returns:
            A function of the number of examples that count and of the arrays.
        """
        shapes = tuple(np.shape(leaf) for leaf in jax.tree.leaves(how.constants))
        place = (kind, how.solver.kind, how.times, shapes, *(a is None for a in batch), len(batch[0]))
        numbers = {**how.solver.numbers, "rows": np.int32(0)}
        if place in self._compiled:
            self._compiled.move_to_end(place)
        else:
            run = self.traceable(kind, how)
            # Every process is given all of the solution: what comes of it is computed by all alike.
            jitted = jax.jit(run, out_shardings=self._layout.replicated)
            lowered = jitted.lower(params, numbers, how.constants, *shard(batch, self._layout))
            self._compiled[place] = lowered.compile()
            while len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
        program = self._compiled[place]
        return lambda rows, *arrays: program(
            params, {**numbers, "rows": rows}, how.constants, *shard(arrays, self._layout)
        )
