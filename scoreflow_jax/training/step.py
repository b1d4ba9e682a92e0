"""One training step as a pure function: (state, batch) -> (state, metrics)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from scoreflow_jax.objectives import Objective
from scoreflow_jax.parallel import Layout, one_at_a_time
from scoreflow_jax.paths import Path
from scoreflow_jax.pixels import dequantized, to_unit_range
from scoreflow_jax.training.state import TrainState
from scoreflow_jax.typing import DriftFn, Images, PRNGKey, PyTree, State

DriftOf = Callable[[PyTree, PRNGKey], DriftFn]
"""From parameters and a dropout key to the drift being trained."""

_DEQUANTIZE, _BASE = 1, 2  # folded into a step's key

Metrics = dict[str, Float[Array, ""]]
TrainStep = Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]


def make_train_step(
    *,
    drift_of: DriftOf,
    objective: Objective,
    path: Path,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
    levels: int,
    conditional: bool,
    flip: bool,
    dequantize: bool = False,
) -> TrainStep:
    """Builds the step.

    Args:
        drift_of: the network as a function of its parameters.
        objective: the loss.
        path: gives the source points and the range of times.
        optimizer: from gradients to updates.
        ema_decay: of the parameters' average; its warm-up is `ema_update`'s.
        levels: grey levels of the batch's pixels.
        conditional: whether the drift is told the labels.
        flip: mirror each image left to right with probability 1/2.
        dequantize: add uniform noise within each level, as likelihoods need it.

    Returns:
        step(state, {"image": uint8 (batch, height, width, channel), "label": int32 (batch,)}), whose metrics are the
        batch's mean loss, the gradient's norm before clipping and the norm of the new parameters. A batch may have "base" too,
        images like "image": the points at t = 0, in place of noise. Points of a table are float32 (batch, dimension).
    """

    def step(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        """One step; every random number comes from fold_in(state.key, state.step)."""
        key = jax.random.fold_in(state.key, state.step)
        source_key, time_key, flip_key, dropout_key = jax.random.split(key, 4)
        # Keys of their own addresses, so that switching one of these on leaves every other draw as it was.
        scaled = lambda key, flip_key, pixels: _scaled(key, flip_key, pixels, levels, flip=flip, dequantize=dequantize)  # noqa: E731
        x1 = scaled(jax.random.fold_in(key, _DEQUANTIZE), flip_key, batch["image"])
        if "base" in batch:
            base_key, base_flip_key = jax.random.split(jax.random.fold_in(key, _BASE))
            x0 = scaled(base_key, base_flip_key, batch["base"])
        else:
            x0 = path.sample_source(source_key, x1.shape)
        t = jax.random.uniform(time_key, x1.shape[:1], minval=path.t_min, maxval=path.t_max)
        label = batch["label"] if conditional else None

        def loss_of(params: PyTree) -> Float[Array, ""]:
            return jnp.mean(objective(drift_of(params, dropout_key), x0, x1, t, label))

        loss, grads = jax.value_and_grad(loss_of)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new_state = TrainState(
            step=state.step + 1,
            params=params,
            ema_params=ema_update(state.ema_params, params, state.step, ema_decay),
            opt_state=opt_state,
            key=state.key,
        )
        norms = {"grad_norm": optax.tree.norm(grads), "param_norm": optax.tree.norm(params)}
        return new_state, {"loss": loss, **norms}

    return step


def _scaled(key: PRNGKey, flip_key: PRNGKey, pixels: Array, levels: int, *, flip: bool, dequantize: bool) -> State:
    """Data as the drift sees them: images in [-1, 1], mirrored and dequantized where that is wanted; points as they are."""
    if not levels:
        return pixels
    x = dequantized(key, pixels, levels) if dequantize else to_unit_range(pixels, levels)
    return random_flip(flip_key, x) if flip else x


def ema_update(average: PyTree, params: PyTree, step: Float[Array, ""] | Array, decay: float) -> PyTree:
    """average + (1 - d) (params - average) with d = min(decay, (1 + n) / (10 + n)) at the n-th update, n = step + 1.

    The warm-up is that of score_sde's and TensorFlow's ExponentialMovingAverage.
    """
    n = step.astype(jnp.float32) + 1.0
    # 1 - d directly: float32 rounds 1 - 0.999999 by 1.3 %.
    rate = jnp.maximum(1.0 - decay, 9.0 / (10.0 + n))
    return jax.tree.map(lambda a, p: a + rate * (p - a), average, params)


def random_flip(key: PRNGKey, images: Images) -> Images:
    """Mirrors each image left to right with probability 1/2."""
    chosen = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
    return jnp.where(chosen, images[:, :, ::-1, :], images)


def compile_step(step: TrainStep, layout: Layout, state: TrainState, batch: PyTree) -> TrainStep:
    """Compiles a step for the layout and for arrays like these: the state replicated and donated, the batch split."""
    # On CPU XLA drops optimization barriers before it merges equal computations, and so undoes rematerialization: the
    # step of configs/afhq.py would ask for twice the memory (docs/performance.md).
    on_cpu = layout.batch.mesh.devices.flat[0].platform == "cpu"
    jitted = jax.jit(
        step,
        in_shardings=(layout.replicated, layout.batch),
        out_shardings=(layout.replicated, layout.replicated),
        donate_argnums=0,
        compiler_options={"xla_disable_hlo_passes": "cse_barrier_expander"} if on_cpu else None,
    )
    return one_at_a_time(jitted.lower(state, batch).compile(), layout)
