"""The host's loop around the step: batches in, numbers, pictures and checkpoints out. The only one there is."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from scoreflow_jax.errors import UserError
from scoreflow_jax.progress import training_bar
from scoreflow_jax.training.state import TrainState
from scoreflow_jax.training.step import TrainStep
from scoreflow_jax.typing import PyTree
from scoreflow_jax.writers import Writer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """When things happen, in steps.

    Attributes:
        num_steps: the step at which training ends.
        log_every: numbers are fetched from the device, checked and written.
        sample_every: pictures; 0 for none but at the end.
        checkpoint_every: checkpoints; also at the end.
    """

    num_steps: int
    log_every: int
    sample_every: int
    checkpoint_every: int

    def __post_init__(self) -> None:
        """Refuses intervals that never come."""
        for name in ("num_steps", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise UserError(f"train.{name} is {getattr(self, name)}, expected at least 1")


def run(
    state: TrainState,
    step: TrainStep,
    batches: Iterator[PyTree],
    schedule: Schedule,
    *,
    batch_size: int,
    writer: Writer,
    save: Callable[[int, TrainState], None],
    sample: Callable[[int, TrainState], None],
) -> TrainState:
    """Trains from the state's step to the schedule's last.

    Metrics stay on the device between two logs, so the host runs ahead of it; each of them is checked when it is fetched,
    and always before a checkpoint is saved.

    Args:
        state: where to begin; its buffers are donated.
        step: the compiled step.
        batches: of global arrays, the first being the one that the state's step wants.
        schedule: when to log, draw, save and end.
        batch_size: of all processes together, for the rate.
        writer: takes the numbers.
        save, sample: called with the number of steps done and the state.

    Returns:
        The last state.

    Raises:
        UserError: a loss or gradient that is not finite. The checkpoints saved before stay as they are.
    """
    done = int(state.step)
    meter = _Meter(batch_size, done, schedule.num_steps)
    pending: list[dict[str, Any]] = []
    last_saved = done
    with meter:
        while done < schedule.num_steps:
            batch = meter.wait_for(batches, pending)
            state, metrics = step(state, batch)
            pending.append(metrics)
            done += 1
            final = done == schedule.num_steps
            save_now = final or done % schedule.checkpoint_every == 0
            sample_now = final or (schedule.sample_every and done % schedule.sample_every == 0)
            if save_now or sample_now or done % schedule.log_every == 0:
                values = _fetch(pending, done, last_saved)
                writer.scalars(done, meter.report(done, values))
                pending = []
            with meter.paused():
                if save_now:
                    save(done, state)
                    last_saved = done
                if sample_now:
                    sample(done, state)
    return state


def _fetch(pending: list[dict[str, Any]], done: int, last_saved: int) -> dict[str, float]:
    """Means of the metrics since the last log.

    Raises:
        UserError: one of them is not finite, with its step.
    """
    host = jax.device_get(pending)
    for offset, metrics in enumerate(host):
        broken = [f"{name} is {float(value)}" for name, value in metrics.items() if not np.isfinite(value)]
        if broken:
            at = done - len(host) + offset + 1
            kept = f"the checkpoint of step {last_saved} is kept" if last_saved else "no checkpoint was saved yet"
            raise UserError(
                f"{' and '.join(broken)} at step {at}, expected finite numbers; training stopped and {kept}. Look at the "
                "data, or train anew in another --workdir with a lower config.optimizer.learning_rate or a longer warm-up"
            )
    return {name: float(np.mean([m[name] for m in host])) for name in host[0]}


class _Meter:
    """Progress: a bar on a terminal, lines elsewhere; the rate, and the share of time spent waiting for data."""

    def __init__(self, batch_size: int, done: int, total: int) -> None:
        self._batch_size = batch_size
        self._bar = training_bar(total, done)
        self._start = self._last = time.perf_counter()
        self._last_done, self._first = done, done
        self._waited = 0.0

    def __enter__(self) -> "_Meter":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def wait_for(self, batches: Iterator[PyTree], pending: list[dict[str, Any]]) -> PyTree:
        """The next batch. Its time counts as waiting unless the step before was still running at the end of it."""
        start = time.perf_counter()
        batch = next(batches)
        if not pending or pending[-1]["loss"].is_ready():
            self._waited += time.perf_counter() - start
        return batch

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out what happens inside: saving and drawing are not part of the rate."""
        start = time.perf_counter()
        yield
        self._last += time.perf_counter() - start

    def report(self, done: int, values: dict[str, float]) -> dict[str, float]:
        """Adds rates to the values and shows them."""
        now = time.perf_counter()
        elapsed = max(now - self._last, 1e-9)
        steps = done - self._last_done
        rate = steps * self._batch_size / elapsed
        values = {**values, "images_per_second": rate, "data_wait_share": min(1.0, self._waited / elapsed)}
        left = (self._bar.total - done) * (now - self._start) / max(done - self._first, 1)
        self._bar.update(done - self._bar.n)
        self._bar.set_postfix_str(
            f"loss {values['loss']:.4f}, {rate:.0f} images/s, data wait {values['data_wait_share']:.1%}"
        )
        if self._bar.disable:
            print(
                f"step {done}/{self._bar.total}: loss {values['loss']:.4f}, {rate:.0f} images/s, "
                f"data wait {values['data_wait_share']:.1%}, {left:.0f} s left",
                flush=True,
            )
        self._last, self._last_done, self._waited = now, done, 0.0
        return values
