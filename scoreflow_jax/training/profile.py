"""A trace of a few training steps by JAX's profiler."""

import pathlib

import jax

from scoreflow_jax import files
from scoreflow_jax.training.state import TrainState

PROFILE_AFTER = 3
"""Steps to wait for: the first ones still wait for buffers and caches."""


class Profile:
    """A trace of JAX's profiler over some steps, for TensorBoard, XProf or Perfetto. Use as a context manager."""

    def __init__(self, folder: pathlib.Path, first: int, count: int) -> None:
        """States which steps; a count of 0 is no trace."""
        self._folder, self._first, self._count = folder, first, count if files.writing() else 0
        self._until: int | None = None

    def __enter__(self) -> "Profile":
        """Does nothing yet."""
        return self

    def step(self, number: int, state: TrainState) -> None:
        """Called before step `number`: starts and ends the trace, both when the device has done the steps before."""
        if self._count and self._until is None and number >= self._first:
            jax.block_until_ready(state.params)
            jax.profiler.start_trace(str(self._folder))
            self._until = number + self._count
        elif self._until is not None and number >= self._until:
            jax.block_until_ready(state.params)
            self._end()

    def _end(self) -> None:
        jax.profiler.stop_trace()
        print(f"a profile of {self._count} steps is in {self._folder}", flush=True)
        self._count, self._until = 0, None

    def __exit__(self, *_: object) -> None:
        """Ends a trace that training's end cut short."""
        if self._until is not None:
            self._end()
