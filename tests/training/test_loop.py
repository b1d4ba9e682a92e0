"""The loop around the step: when things happen, several steps in a call, and what is written of them."""

import jax.numpy as jnp
import numpy as np
import pytest

from scoreflow_jax.processes import Stopped, StopRequests
from scoreflow_jax.settings.train import Schedule
from scoreflow_jax.training import Hooks, Steps, TrainState, run


def schedule(**changes):
    return Schedule(**{"num_steps": 23, "log_every": 5, "sample_every": 7, "checkpoint_every": 10, **changes})


class Writer:
    def __init__(self):
        self.records = []

    def scalars(self, step, values):
        self.records.append((step, values["loss"]))

    def close(self):
        pass


class Recorder:
    """Steps whose loss is their number, from 1."""

    def __init__(self, per_call=1, stop_after=None):
        self.calls, self.saved, self.sampled, self.writer = [], [], [], Writer()
        self.steps = Steps(one=self.one, many=self.many if per_call > 1 else None, per_call=per_call)
        self.stop_after = stop_after

    def one(self, state, batch):
        assert batch == int(state.step)
        self.calls.append(1)
        return state.replace(step=state.step + 1), {"loss": jnp.float32(batch + 1)}

    def many(self, state, batches):
        assert batches == tuple(range(int(state.step), int(state.step) + len(batches)))
        self.calls.append(len(batches))
        return state.replace(step=state.step + len(batches)), {"loss": jnp.asarray(batches, jnp.float32) + 1}

    def reached(self, calls):
        assert calls <= len(self.calls)
        return 15 if self.stop_after is not None and sum(self.calls) >= self.stop_after else None

    def run(self, first=0, pending=(), **changes):
        state = TrainState(step=jnp.int32(first), params=None, ema_params=None, opt_state=None, key=None)
        stop = StopRequests()
        stop.reached = self.reached
        hooks = Hooks(
            save=lambda n, s, records: self.saved.append((n, [r["loss"] for r in records])),
            sample=lambda n, s: self.sampled.append(n),
            dump=lambda *_: pytest.fail("nothing was wrong"),
        )
        state = run(
            state, self.steps, iter(range(first, 1000)), schedule(**changes), batch_size=4, writer=self.writer,
            hooks=hooks, stop=stop, pending=pending,
        )  # fmt: skip
        return int(state.step)


EVENTS = [5, 7, 10, 14, 15, 20, 21, 23]
MEANS = [(b, np.mean(range(a + 1, b + 1))) for a, b in zip([0, *EVENTS], EVENTS, strict=False)]


@pytest.mark.parametrize("per_call", [1, 2, 3, 4, 50])
def test_several_steps_in_a_call_change_no_event(per_call):
    """Calls never reach past a log, a picture or a checkpoint, and every step is in exactly one record."""
    recorder = Recorder(per_call)
    assert recorder.run() == 23
    assert recorder.writer.records == MEANS
    assert recorder.saved == [(10, []), (20, []), (23, [])]
    assert recorder.sampled == [7, 14, 21, 23]
    assert set(recorder.calls) <= {1, per_call}
    assert (per_call in recorder.calls) == (per_call < 6)


@pytest.mark.parametrize("per_call", [1, 3])
@pytest.mark.parametrize("stop_after", [3, 8, 10, 22])
def test_a_stop_and_going_on_write_what_an_undisturbed_run_writes(per_call, stop_after):
    first = Recorder(per_call, stop_after)
    with pytest.raises(Stopped) as stopped:
        first.run()
    step, losses = first.saved[-1]
    assert step == stopped.value.step >= stop_after
    assert len([s for s, _ in first.saved if s == step]) == 1
    second = Recorder(per_call)
    assert second.run(step, [{"loss": loss} for loss in losses]) == 23
    assert first.writer.records + second.writer.records == MEANS


def test_a_stop_at_the_last_step_is_the_end():
    recorder = Recorder(stop_after=23)
    assert recorder.run() == 23
    assert recorder.saved[-1] == (23, [])
