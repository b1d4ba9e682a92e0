"""One training step as a pure function: (state, batch) -> (state, metrics)."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from scoreflow_jax.objectives import Objective
from scoreflow_jax.parallel import Layout, one_at_a_time
from scoreflow_jax.paths import Path
from scoreflow_jax.pixels import dequantized, to_unit_range
from scoreflow_jax.randomness import key_of
from scoreflow_jax.settings.train import Schedule
from scoreflow_jax.training.coupling import optimal_transport
from scoreflow_jax.training.optimizer import cooldown_share
from scoreflow_jax.training.state import TrainState
from scoreflow_jax.training.times import TimeDistribution, Uniform
from scoreflow_jax.typing import DriftFn, Images, PRNGKey, PyTree, State


class Compiled(NamedTuple):
    """A compiled step.

    Attributes:
        call: step(state, batch).
        flops: floating-point operations of one call on all devices together, as XLA counts them before it optimizes (what
            rematerialization computes again is counted again); None where it does not count.
    """

    call: Any
    flops: float | None


DriftOf = Callable[[PyTree, PRNGKey], DriftFn]
"""A function of parameters and a dropout key that returns the drift being trained."""

Metrics = dict[str, Float[Array, ""]]
TrainStep = Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]
"""(state, batch) -> (state, metrics)."""


class Drawn(NamedTuple):
    """What the loss of one step is a function of, besides the parameters: the batch, and all that is random.

    Attributes:
        x0, x1: the ends of the paths (batch, ...).
        t: times (batch,).
        label: classes (batch,); None for an unconditional model.
        dropout_key: of the network's dropout.
        z: the latent (batch, ...) of a path that has one; else None.
        s: second times (batch,) of an objective that has them; else None.
        guidance: weights (batch,) of a flow map that is told them; else None.
    """

    x0: Any
    x1: Any
    t: Any
    label: Any
    dropout_key: Any
    z: Any = None
    s: Any = None
    guidance: Any = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainLoss:
    """The loss being minimized, as a function of parameters and of what is drawn for a step.

    Attributes:
        drift_of: the network as a function of its parameters.
        objective: the loss of each example.
        path: gives the source points and the range of times.
        levels: grey levels of the batch's pixels; 0 for points.
        conditional: whether the drift is told the labels.
        flip: mirror each image left to right with probability 1/2.
        dequantize: add uniform noise within each level, as likelihoods need it.
        times: how the times are drawn.
        coupling: "independent" or "optimal_transport", see `coupling.py`.
        most_guidance: the largest weight of guidance that the network is told; 0: it is told none.
        teacher_of: the drift of a teacher's parameters; None: there is no teacher.
        teacher: these parameters, of a loss that is computed.
    """

    drift_of: DriftOf
    objective: Objective
    path: Path
    levels: int
    conditional: bool
    flip: bool
    dequantize: bool = False
    times: TimeDistribution = dataclasses.field(default_factory=Uniform)
    coupling: str = "independent"
    most_guidance: float = 0.0
    teacher_of: Callable[[PyTree], DriftFn] | None = None
    teacher: PyTree = None

    def of(self, state: TrainState) -> "TrainLoss":
        """The loss that knows the teacher of a state."""
        return dataclasses.replace(self, teacher=state.teacher)

    def draw(self, key: PRNGKey, batch: PyTree) -> Drawn:
        """Draws for a batch: each number has its name under the step's key, whatever else is switched on.

        Args:
            key: fold_in(run's key, step).
            batch: {"image": uint8 (batch, height, width, channel), "label": int32 (batch,)}, and perhaps "base", images like
                "image": the points at t = 0, in place of noise. Points of a table are float32 (batch, dimension), and so are
                pairs of reflow, "image" and "base" alike: they are taken as they are.
        """
        x1 = self._scaled(key_of(key, "dequantization"), key_of(key, "flip"), batch["image"])
        if "base" in batch:
            x0 = self._scaled(key_of(key, "base dequantization"), key_of(key, "base flip"), batch["base"])
        else:
            x0 = self.path.sample_source(key_of(key, "source"), x1.shape)
        t = self.times.draw(key_of(key, "times"), len(x1), self.path.t_min, self.path.t_max)
        s = self._second_times(key_of(key, "second times"), len(x1)) if self.objective.two_times else None
        label = batch["label"] if self.conditional else None
        if self.coupling == "optimal_transport":
            x0 = optimal_transport(x0, x1, label)
        z = jax.random.normal(key_of(key, "latent"), x1.shape) if self.path.has_latent else None
        guides = self.objective.two_times and self.most_guidance
        weights = self._weights(key_of(key, "guidance"), len(x1)) if guides else None
        return Drawn(x0, x1, t, label, key_of(key, "dropout"), z, s, weights)

    def _second_times(self, key: PRNGKey, count: int) -> Array:
        """Of the same distribution, each for itself: two ramps of low discrepancy would leave two lengths of jumps in a batch."""
        apart = dataclasses.replace(self.times, low_discrepancy=False)
        return apart.draw(key, count, self.path.t_min, self.path.t_max)

    def _weights(self, key: PRNGKey, count: int) -> Array:
        """Weights of guidance: 1 for half of the rows, the others' even from 1 to the largest."""
        u = jax.random.uniform(key, (count,), minval=-1.0)
        return 1.0 + (self.most_guidance - 1.0) * jnp.maximum(u, 0.0)

    def _scaled(self, key: PRNGKey, flip_key: PRNGKey, pixels: Array) -> State:
        """Data as the drift sees them: 8-bit images in [-1, 1], mirrored and dequantized where wanted; floats as they are."""
        if jnp.issubdtype(pixels.dtype, jnp.floating):
            return pixels
        x = dequantized(key, pixels, self.levels) if self.dequantize else to_unit_range(pixels, self.levels)
        return random_flip(flip_key, x) if self.flip else x

    def per_example(self, params: PyTree, drawn: Drawn) -> Float[Array, " batch"]:
        """The loss of each example."""
        drift = self.drift_of(params, drawn.dropout_key)
        more = {"s": drawn.s} if self.objective.two_times else {}
        if drawn.guidance is not None:
            more["guidance"] = drawn.guidance
        if self.teacher_of is not None:
            more["teacher"] = self.teacher_of(self.teacher)
        return self.objective(drift, drawn.x0, drawn.x1, drawn.t, drawn.label, drawn.z, **more)

    def mean(self, params: PyTree, drawn: Drawn) -> Float[Array, ""]:
        """The loss of the batch."""
        return jnp.mean(self.per_example(params, drawn))


def make_train_step(
    loss: TrainLoss,
    *,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
    microbatches: int = 1,
    unrolled: bool = True,
    schedule: Schedule | None = None,
) -> TrainStep:
    """Builds the step.

    A step whose loss, gradient or new parameters are not finite changes nothing, and no step after it does: the state is held as
    the failed step found it, with ~n in place of its number n, until the host has seen the metrics.

    Args:
        loss: to be minimized.
        optimizer: from gradients to updates.
        ema_decay: of the parameters' average; its warm-up is `ema_update`'s. Where the state has the average's low parts, it is
            `compensated_ema_update`'s.
        microbatches: parts of the batch whose gradients are computed one after the other and averaged: less memory, the same
            gradient but for the dropout, and for which rows of a flow map are jumps.
        unrolled: one after the other in the program, for CPUs; else in a loop of the device. (On CPU XLA's gradients of
            convolutions inside a loop are 40 to 120 times slower.)
        schedule: of the run, for its cool-down; None: there is none.

    Returns:
        step(state, batch), with a batch as `TrainLoss.draw` takes it; the metrics are the batch's mean loss, the gradient's norm
        before clipping and the norm of the new parameters.
    """

    def step(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        """One step; every random number comes from fold_in(state.key, state.step)."""
        drawn = loss.draw(jax.random.fold_in(state.key, state.step), batch)
        value, grads = value_and_grad(loss.of(state), state.params, drawn, microbatches, unrolled)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        if schedule is not None and schedule.cooldown_steps:
            share = cooldown_share(state.step, schedule)
            updates = jax.tree.map(lambda u: share * u, updates)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": value, "grad_norm": optax.tree.norm(grads), "param_norm": optax.tree.norm(params)}
        if state.ema_low is None:
            average, low = ema_update(state.ema_params, params, state.step, ema_decay), None
        else:
            average, low = compensated_ema_update(state.ema_params, state.ema_low, params, state.step, ema_decay)
        new = TrainState(
            step=state.step + 1,
            params=params,
            ema_params=average,
            opt_state=opt_state,
            key=state.key,
            ema_low=low,
            teacher=state.teacher,
        )
        good = jnp.all(jnp.isfinite(jnp.stack(list(metrics.values())))) & (state.step >= 0)
        held = dataclasses.replace(state, step=jnp.where(state.step < 0, state.step, ~state.step))
        return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, held), metrics

    return step


def value_and_grad(
    loss: TrainLoss, params: PyTree, drawn: Drawn, parts: int, unrolled: bool
) -> tuple[Float[Array, ""], PyTree]:
    """Computes the batch's mean loss and its gradient, in so many parts.

    Args:
        loss: to be minimized.
        params: the parameters.
        drawn: the batch, with times and noise.
        parts: how many, which divide the batch.
        unrolled: one after the other in the program; else in a loop of the device, see `make_train_step`.
    """
    if parts == 1:
        return jax.value_and_grad(loss.mean)(params, drawn)
    pieces = _pieces(drawn, parts)

    def add(total: PyTree, piece: Drawn) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, jax.value_and_grad(loss.mean)(params, piece)), None

    total: Any = (jnp.float32(0.0), jax.tree.map(jnp.zeros_like, params))
    if unrolled:
        for i in range(parts):
            total, _ = add(total, jax.tree.map(lambda x, i=i: x[i], pieces))
    else:
        total, _ = jax.lax.scan(add, total, pieces)
    return jax.tree.map(lambda x: x / parts, total)


def per_example(loss: TrainLoss, params: PyTree, drawn: Drawn, parts: int = 1) -> Float[Array, " batch"]:
    """Computes the loss of each example of a batch in so many parts, without gradients.

    Args:
        loss: that training minimizes.
        params: the parameters.
        drawn: the batch, with times and noise.
        parts: how many, which divide the batch.
    """
    if parts == 1:
        return loss.per_example(params, drawn)
    losses = jax.lax.map(lambda piece: loss.per_example(params, piece), _pieces(drawn, parts))
    return jnp.ravel(jnp.swapaxes(losses, 0, 1))


def _pieces(drawn: Drawn, parts: int) -> Drawn:
    """A batch in parts, stacked: part i is every parts-th example from i on, so each device finds its share among its own."""
    cut = lambda x: jnp.swapaxes(jnp.reshape(x, (-1, parts, *x.shape[1:])), 0, 1)  # noqa: E731
    keys = jax.vmap(lambda i: jax.random.fold_in(drawn.dropout_key, i))(jnp.arange(parts))
    return jax.tree.map(cut, drawn._replace(dropout_key=None))._replace(dropout_key=keys)


def ema_update(average: PyTree, params: PyTree, step: Float[Array, ""] | Array, decay: float) -> PyTree:
    """average + (1 - d) (params - average) with d = min(decay, (1 + n) / (10 + n)) at the n-th update, n = step + 1.

    The warm-up is that of score_sde's and TensorFlow's ExponentialMovingAverage.

    Args:
        average: of the parameters, so far.
        params: the new parameters.
        step: n - 1, the number of updates before this one.
        decay: the largest d, below 1.
    """
    rate = _ema_rate(step, decay)
    return jax.tree.map(lambda a, p: a + rate * (p - a), average, params)


def compensated_ema_update(
    average: PyTree, low: PyTree, params: PyTree, step: Float[Array, ""] | Array, decay: float
) -> tuple[PyTree, PyTree]:
    """`ema_update` of average + low, two float32 numbers for one of twice the digits; returns both.

    low is what the sum leaves out when it is rounded to float32 (Kahan 1965; by Knuth's TwoSum, exact whichever is the larger).
    Updates too small to move the average gather there until they do.
    """
    rate = _ema_rate(step, decay)

    def sums(a: Array, b: Array, p: Array) -> tuple[Array, Array]:
        change = b + rate * ((p - a) - b)
        total = a + change
        added = total - a
        return total, (a - (total - added)) + (change - added)

    both = jax.tree.map(sums, average, low, params)
    return jax.tree.transpose(jax.tree.structure(average), None, both)


def _ema_rate(step: Float[Array, ""] | Array, decay: float) -> Float[Array, ""]:
    """1 - d of `ema_update`, directly: float32 rounds 1 - 0.999999 by 1.3 %."""
    n = step.astype(jnp.float32) + 1.0
    return jnp.maximum(1.0 - decay, 9.0 / (10.0 + n))


def random_flip(key: PRNGKey, images: Images) -> Images:
    """Mirrors each image left to right with probability 1/2."""
    chosen = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
    return jnp.where(chosen, images[:, :, ::-1, :], images)


def jit_step(step: Callable[..., Any], layout: Layout, state: TrainState) -> Any:
    """The step for the layout, not yet compiled: the state where it belongs and donated, the batch split.

    Args:
        step: (state, batch) -> (state, metrics).
        layout: of the devices.
        state: whose shapes say where its arrays belong.
    """
    # On CPU XLA drops optimization barriers before it merges equal computations, and so undoes rematerialization: the
    # step of configs/afhq.py would ask for twice the memory (docs/performance.md).
    on_cpu = layout.first_device.platform == "cpu"
    where = layout.of_state(state)
    return jax.jit(
        step,
        in_shardings=(where, layout.batch),
        out_shardings=(where, layout.replicated),
        donate_argnums=0,
        compiler_options={"xla_disable_hlo_passes": "cse_barrier_expander"} if on_cpu else None,
    )


def compile_step(step: TrainStep, layout: Layout, state: TrainState, batch: PyTree) -> Compiled:
    """Compiles a step for the layout and for arrays like these.

    Args:
        step: (state, batch) -> (state, metrics).
        layout: of the devices.
        state, batch: arrays, or their shapes.
    """
    lowered = jit_step(step, layout, state).lower(state, batch)
    cost = lowered.cost_analysis() or {}
    return Compiled(one_at_a_time(lowered.compile(), layout), cost.get("flops"))


def several(step: TrainStep) -> Callable[[TrainState, tuple[PyTree, ...]], Any]:
    """Steps in a loop of the device, one for each of several batches: the host calls once. Metrics come stacked.

    Worth it where a step is shorter than the host needs to call it. Not on CPU (see `make_train_step`).
    """

    def steps(state: TrainState, batches: tuple[PyTree, ...]) -> Any:
        """Takes as many steps as there are batches; returns the last state, and metrics (batches,)."""
        return jax.lax.scan(step, state, jax.tree.map(lambda *each: jnp.stack(each), *batches))

    return steps
