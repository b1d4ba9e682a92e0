"""The host's loop around the step: batches in, numbers, pictures and checkpoints out. The only one there is."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from scoreflow_jax.errors import UserError
from scoreflow_jax.parallel import device_memory
from scoreflow_jax.processes import Stopped, StopRequests
from scoreflow_jax.progress import peak_memory, training_bar
from scoreflow_jax.settings.train import Schedule
from scoreflow_jax.training.state import TrainState
from scoreflow_jax.typing import PyTree
from scoreflow_jax.writers import Writer

Record = dict[str, float]
"""Metrics of one step."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps:
    """The compiled step.

    Attributes:
        one: step(state, batch).
        many: step(state, batches) of `per_call` batches, for stretches in which nothing else is due; None for none.
        per_call: batches of one call of `many`.
        flops: operations of one step on all devices together; None where not known.
        peak_flops: operations a second that all devices together can do; None where not known.
    """

    one: Callable[[TrainState, PyTree], Any]
    many: Callable[[TrainState, tuple[PyTree, ...]], Any] | None = None
    per_call: int = 1
    flops: float | None = None
    peak_flops: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hooks:
    """What the loop calls.

    Attributes:
        save: with the number of steps done, the state, and the metrics since the last log, one record a step: what
            `run` has to be given to go on as if it had not stopped.
        sample: with the number of steps done and the state.
        dump: with the number of a step that was not finite, the state before it and its metrics; says where it put them.
        profile: with the number of the step to come and the state, before every call.
        check: at every log; raises what went wrong in the background.
    """

    save: Callable[[int, TrainState, list[Record]], None]
    sample: Callable[[int, TrainState], None]
    dump: Callable[[int, TrainState, Record], str]
    profile: Callable[[int, TrainState], None] = lambda *_: None
    check: Callable[[], None] = lambda: None


def run(
    state: TrainState,
    steps: Steps,
    batches: Iterator[PyTree],
    schedule: Schedule,
    *,
    batch_size: int,
    writer: Writer,
    hooks: Hooks,
    stop: StopRequests,
    pending: Sequence[Record] = (),
) -> TrainState:
    """Trains from the state's step to the schedule's last.

    Metrics stay on the device between two logs, so the host runs ahead of it; each of them is checked when it is fetched,
    and always before a checkpoint is saved.

    Args:
        state: where to begin; its buffers are donated.
        steps: the compiled step.
        batches: of global arrays, the first being the one that the state's step wants.
        schedule: when to log, draw, save and end.
        batch_size: of all processes together, for the rate.
        writer: takes the numbers.
        hooks: called on the way.
        stop: asked between steps whether to stop.
        pending: the metrics of steps done before the state's since the last log.

    Returns:
        The last state.

    Raises:
        UserError: a loss or gradient that is not finite. The checkpoints saved before stay as they are.
        Stopped: by a signal, after saving.
    """
    done = int(state.step)
    meter = _Meter(batch_size, done, schedule.num_steps, steps)
    metrics = _Pending(done, pending)
    last_saved, calls = done, 0
    with meter:
        while done < schedule.num_steps:
            with meter.paused():
                hooks.profile(done, state)
            count = steps.per_call if steps.many and schedule.next_event(done) - done >= steps.per_call else 1
            batch = [meter.wait_for(batches, metrics) for _ in range(count)]
            state, found = steps.one(state, batch[0]) if count == 1 else steps.many(state, tuple(batch))  # type: ignore[misc]
            metrics.add(found, count)
            done, calls = done + count, calls + 1
            signum = stop.reached(calls)
            due = schedule.due(done)
            if due or signum is not None:
                broken = metrics.fetch()
                if broken is not None:
                    raise _not_finite(broken, state, hooks, last_saved)
            if due:
                hooks.check()
                writer.scalars(done, meter.report(done, metrics.means()))
            with meter.paused():
                if "save" in due or signum is not None:
                    hooks.save(done, state, metrics.records)
                    last_saved = done
                if signum is not None and done < schedule.num_steps:
                    raise Stopped(signum, done)
                if "sample" in due:
                    stop.unless_stopped(functools.partial(hooks.sample, done, state))
    return state


def _not_finite(broken: tuple[int, Record], state: TrainState, hooks: Hooks, last_saved: int) -> UserError:
    """What to say of a step that was not finite; keeps what is needed to repeat it. The state is held as before that step."""
    step, record = broken
    number = jax.device_put(np.int32(step), state.step.sharding)
    where = hooks.dump(step, dataclasses.replace(state, step=number), record)
    what = " and ".join(f"{name} is {value}" for name, value in record.items() if not np.isfinite(value))
    kept = f"the checkpoint of step {last_saved} is kept" if last_saved else "no checkpoint was saved yet"
    error = UserError(
        f"{what} at step {step + 1}, expected finite numbers; training stopped and {kept}. {where} "
        "Look at the data, or train anew in another --workdir with a lower config.optimizer.learning_rate or a longer warm-up"
    )
    error.everywhere = True  # the metrics are the same in all processes
    return error


class _Pending:
    """Metrics of the steps since the last log: on the device until they are fetched, then records, one a step."""

    def __init__(self, done: int, records: Sequence[Record]) -> None:
        self.records = [dict(record) for record in records]
        self._first = done - len(self.records)  # step of the first record
        self._device: list[tuple[dict[str, Any], int]] = []

    def add(self, metrics: dict[str, Any], count: int) -> None:
        """Adds the metrics of one call, for so many steps."""
        self._device.append((metrics, count))

    @property
    def device_is_idle(self) -> bool:
        """Whether the last call has ended."""
        return not self._device or self._device[-1][0]["loss"].is_ready()

    def fetch(self) -> tuple[int, Record] | None:
        """Waits for the device; returns the first record that is not finite with the number of steps before it."""
        calls, self._device = self._device, []
        known = len(self.records)
        for metrics, count in jax.device_get(calls):
            columns = {name: np.reshape(values, count).tolist() for name, values in metrics.items()}
            self.records += [{name: values[i] for name, values in columns.items()} for i in range(count)]
        for i, record in enumerate(self.records[known:], known):
            if not all(map(np.isfinite, record.values())):
                return self._first + i, record
        return None

    def means(self) -> Record:
        """The means over the records, which are then forgotten."""
        records, self.records = self.records, []
        self._first += len(records)
        return {name: float(np.mean([record[name] for record in records])) for name in records[0]}


class _Meter:
    """Progress: a bar on a terminal, lines elsewhere; the rate, the shares of the peak and of waiting, and memory."""

    def __init__(self, batch_size: int, done: int, total: int, steps: Steps) -> None:
        self._batch_size, self._steps = batch_size, steps
        self._bar = training_bar(total, done)
        self._start = self._last = time.perf_counter()
        self._last_done, self._first = done, done
        self._waited = 0.0

    def __enter__(self) -> "_Meter":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def wait_for(self, batches: Iterator[PyTree], metrics: _Pending) -> PyTree:
        """The next batch. Its time counts as waiting unless the step before was still running at the end of it."""
        start = time.perf_counter()
        batch = next(batches)
        if metrics.device_is_idle:
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
        if self._steps.flops and self._steps.peak_flops:
            values["share_of_peak"] = steps / elapsed * self._steps.flops / self._steps.peak_flops
        values["memory_gb"] = (device_memory() or peak_memory()) / 1e9
        left = (self._bar.total - done) * (now - self._start) / max(done - self._first, 1)
        self._bar.update(done - self._bar.n)
        share = f", {values['share_of_peak']:.0%} of peak" if "share_of_peak" in values else ""
        line = f"loss {values['loss']:.4f}, {rate:.0f} images/s{share}, data wait {values['data_wait_share']:.1%}"
        self._bar.set_postfix_str(line)
        if self._bar.disable:
            print(f"step {done}/{self._bar.total}: {line}, {left:.0f} s left", flush=True)
        self._last, self._last_done, self._waited = now, done, 0.0
        return values
