"""The step: optimizer and average in closed form, randomness by address, devices, compilation, and that it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from scoreflow_jax.errors import UserError
from scoreflow_jax.objectives import PathConstrained
from scoreflow_jax.parallel import check_batch_size, make_layout, to_global
from scoreflow_jax.paths import LinearPath
from scoreflow_jax.randomness import key_of
from scoreflow_jax.settings.train import OptimizerSettings, Schedule
from scoreflow_jax.training import (
    TrainLoss,
    compensated_ema_update,
    compile_step,
    create_state,
    ema_update,
    initial_state,
    jit_step,
    make_optimizer,
    make_train_step,
    several,
    state_of,
)
from scoreflow_jax.training.step import random_flip

pytestmark = pytest.mark.usefixtures("four_devices")

PATH = LinearPath()
BATCH = {
    "image": np.random.default_rng(0).integers(0, 17, (16, 2, 2, 1), np.uint8),
    "label": (np.arange(16) % 2).astype(np.int32),
}


def affine_drift(params, key):
    """a_c + b x + c t x: few parameters, all of them used."""

    def drift(x, t, label):
        return params["a"][label][:, None, None, None] + params["b"] * x + params["c"] * t[:, None, None, None] * x

    return drift


def init(key):
    return {"a": jnp.zeros(2), "b": 0.1 * jax.random.normal(key, ()), "c": jnp.zeros(())}


def build(layout, learning_rate=0.05, ema_decay=0.9, **options):
    optimizer = make_optimizer(OptimizerSettings(learning_rate=learning_rate, warmup_steps=0))
    fields = {"drift_of": affine_drift, "objective": PathConstrained(PATH), "path": PATH, "levels": 17}
    split = {name: options.pop(name) for name in ("microbatches", "unrolled") if name in options}
    loss = TrainLoss(**{**fields, "conditional": True, "flip": True, **options})
    step = make_train_step(loss, optimizer=optimizer, ema_decay=ema_decay, **split)
    return create_state(lambda: initial_state(init, optimizer, 0), layout), step


def train(layout, steps, **options):
    state, step = build(layout, **options)
    compiled = compile_step(step, layout, state, to_global(BATCH, layout)).call
    history = []
    for _ in range(steps):
        state, metrics = compiled(state, to_global(BATCH, layout))
        history.append(jax.device_get((state.params, state.ema_params, metrics)))
    return state, history


def test_ema_in_closed_form():
    """d_n = min(decay, (1 + n) / (10 + n)) for the n-th update, from 1."""
    _, history = train(make_layout(), 30, ema_decay=0.5)
    average = float(init(key_of(jax.random.key(0), "parameters"))["b"])
    for n, (params, ema, _) in enumerate(history, start=1):
        d = min(0.5, (1 + n) / (10 + n))
        average = d * average + (1 - d) * float(params["b"])
        assert float(ema["b"]) == pytest.approx(average, abs=1e-5)


def test_ema_rate_reaches_the_decay():
    for decay in (0.999, 0.999999):
        new = ema_update({"x": jnp.zeros(())}, {"x": jnp.ones(())}, jnp.int32(10**9), decay)
        assert float(new["x"]) == pytest.approx(1 - decay, rel=1e-4)


@pytest.mark.parametrize("start", [-1.0, 0.0, 1e-30, 1.0])
def test_a_compensated_average_follows_float64_where_float32_stands_still(start):
    """A gap of 0.4 % of a parameter at decay 0.999999 shrinks by 1 - 0.999999^200000 = 18 % in 200,000 updates."""
    params = jnp.asarray(start * 1.004 if start else 1e-3, jnp.float32)
    first, steps, decay = jnp.float32(start), 200_000, 0.999999

    @jax.jit
    def averages(first, params):
        def update(n, averages):
            plain, high, low = averages
            step = n + 10**8
            return ema_update(plain, params, step, decay), *compensated_ema_update(high, low, params, step, decay)

        return jax.lax.fori_loop(0, steps, update, (first, first, jnp.zeros(())))

    plain, high, low = (np.float64(x) for x in averages(first, params))
    gap = np.float64(params) - np.float64(first)
    expected = gap * -np.expm1(steps * np.log1p(-1e-6))
    assert high + low - np.float64(first) == pytest.approx(expected, rel=1e-5)
    assert high == np.float32(high + low)
    if abs(start) == 1:
        assert plain == first  # what is mended


def test_optimizer_warms_up_clips_and_is_adam():
    optimizer = make_optimizer(OptimizerSettings(learning_rate=0.1, warmup_steps=4))
    state, params = optimizer.init(jnp.zeros(2)), jnp.zeros(2)
    m = v = np.zeros(2)
    for n in range(1, 9):
        gradient = np.array([3.0, 4.0]) * n
        updates, state = optimizer.update(jnp.asarray(gradient), state, params)
        clipped = gradient / 5 / n
        m, v = 0.9 * m + 0.1 * clipped, 0.999 * v + 0.001 * clipped**2
        rate = 0.1 * min((n - 1) / 4, 1.0)  # the first step is taken at rate 0, as optax counts
        expected = -rate * (m / (1 - 0.9**n)) / (np.sqrt(v / (1 - 0.999**n)) + 1e-8)
        np.testing.assert_allclose(updates, expected, rtol=1e-4, atol=1e-9)


def test_the_rate_falls_to_zero_over_the_last_steps_of_the_run():
    """Adam without memory moves by the rate itself, whatever the gradient. The run began at step 4 from given weights, so that
    the optimizer has made fewer steps than the run; and one without cool-down goes on with one."""
    settings = OptimizerSettings(learning_rate=0.1, b1=0.0, b2=0.0, epsilon=1e-12, warmup_steps=0, clip_norm=0.0)
    optimizer = make_optimizer(settings)
    loss = TrainLoss(
        drift_of=affine_drift, objective=PathConstrained(PATH), path=PATH, levels=17, conditional=True, flip=False
    )
    without, with_it = (
        jax.jit(
            make_train_step(loss, optimizer=optimizer, ema_decay=0.9, schedule=Schedule(num_steps=10, cooldown_steps=n))
        )
        for n in (0, 4)
    )
    params = {"a": jnp.full(2, 5.0), "b": jnp.array(5.0), "c": jnp.array(5.0)}
    state, moved = state_of(params, params, optimizer, 0, step=4), []
    for n in range(4, 10):
        before = state.params["c"]
        state, _ = (without if n < 5 else with_it)(state, BATCH)
        moved.append(abs(float(state.params["c"] - before)))
    np.testing.assert_allclose(moved, 0.1 * np.array([1, 1, 1, 0.75, 0.5, 0.25]), rtol=1e-4)


def test_one_device_and_four_agree():
    one, _ = train(make_layout(jax.devices()[:1]), 20)
    four, _ = train(make_layout(jax.devices()[:4]), 20)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one.params, four.params)
    moved = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(one.params))
    assert moved > 0.05


def test_jitted_step_compiles_once_and_transfers_nothing():
    """The state that comes out has the shapes, types and shardings of the one that went in."""
    layout = make_layout()
    state, step = build(layout)
    batch = to_global(BATCH, layout)
    jitted = jit_step(step, layout, state)
    state, _ = jax.block_until_ready(jitted(state, batch))
    events = []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: events.append(name))
    with jax.transfer_guard("disallow"):
        for _ in range(2):
            state, _ = jax.block_until_ready(jitted(state, batch))
    assert not [name for name in events if "backend_compile" in name]


def test_the_state_is_donated():
    layout = make_layout()
    state, step = build(layout)
    old = jax.tree.leaves(state.params)
    compile_step(step, layout, state, to_global(BATCH, layout)).call(state, to_global(BATCH, layout))
    assert all(leaf.is_deleted() for leaf in old)


@pytest.mark.parametrize("unrolled", [True, False])
def test_microbatches_have_the_gradient_of_the_batch(unrolled):
    """To rounding, on one device and on four."""
    whole, history = train(make_layout(jax.devices()[:1]), 5)
    for devices in (1, 4):
        parts, ours = train(make_layout(jax.devices()[:devices]), 5, microbatches=4, unrolled=unrolled)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), parts.params, whole.params)
        np.testing.assert_allclose(ours[0][2]["loss"], history[0][2]["loss"], rtol=1e-6)


def test_microbatches_drop_out_different_activations():
    keys = []

    def drift_of(params, key):
        jax.debug.callback(lambda k: keys.append(tuple(np.ravel(k).tolist())), jax.random.key_data(key))
        return affine_drift(params, key)

    state, step = build(make_layout(jax.devices()[:1]), drift_of=drift_of, microbatches=4)
    jax.block_until_ready(jax.jit(step)(state, jax.tree.map(jnp.asarray, BATCH)))
    jax.effects_barrier()
    assert len(set(keys)) == 4


def test_several_steps_in_one_call_are_the_same_steps():
    layout = make_layout()
    state, step = build(layout)
    batches = tuple(to_global({**BATCH, "image": np.roll(BATCH["image"], i, 0)}, layout) for i in range(3))
    one = compile_step(step, layout, state, batches[0]).call
    losses = []
    for batch in batches:
        state, metrics = one(state, batch)
        losses.append(float(metrics["loss"]))
    start, _ = build(layout)
    many, metrics = compile_step(several(step), layout, start, batches).call(start, batches)
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), many.params, state.params)
    assert int(many.step) == 3


def test_a_step_that_is_not_finite_holds_the_state_until_the_host_has_seen_it():
    """Step 2 fails; steps 3 and 4 must not move what it found, although their batches are good."""
    layout = make_layout()
    state, step = build(layout, levels=0, flip=False)
    good = {"image": np.float32(BATCH["image"]) / 8 - 1, "label": BATCH["label"]}
    bad = {**good, "image": np.where(np.arange(16)[:, None, None, None] == 5, np.float32(np.nan), good["image"])}
    compiled = compile_step(step, layout, state, to_global(good, layout)).call
    for batch in (good, good):
        state, metrics = compiled(state, to_global(batch, layout))
    before = jax.device_get(state.replace(key=None))
    for batch in (bad, good, good):
        state, metrics = compiled(state, to_global(batch, layout))
    after = jax.device_get(state.replace(key=None))
    assert (int(before.step), int(after.step)) == (2, ~2)
    jax.tree.map(np.testing.assert_array_equal, before.replace(step=0), after.replace(step=0))
    assert np.isfinite(metrics["loss"])


def test_split_state_trains_as_a_replicated_one():
    """Parameters of 2^14 numbers, split among 2 and 4 of 4 devices, and the moments with them."""

    def drift_of(params, key):
        def drift(x, t, label):
            hidden = jnp.tanh(jnp.reshape(x, (len(x), -1)) @ params["first"] + t[:, None] + label[:, None])
            return jnp.reshape(hidden @ params["second"], x.shape)

        return drift

    def start(key):
        shape = (4, 4096)
        return {"first": 0.1 * jax.random.normal(key, shape), "second": jnp.zeros(shape[::-1]), "bias": jnp.zeros(3)}

    ends = {}
    for fsdp in (1, 2, 4):
        layout = make_layout(fsdp=fsdp)
        optimizer = make_optimizer(OptimizerSettings(learning_rate=0.01, warmup_steps=0))
        loss = TrainLoss(
            drift_of=drift_of, objective=PathConstrained(PATH), path=PATH, levels=17, conditional=True, flip=False
        )
        step = make_train_step(loss, optimizer=optimizer, ema_decay=0.9)
        state = create_state(lambda optimizer=optimizer: initial_state(start, optimizer, 0), layout)
        compiled = compile_step(step, layout, state, to_global(BATCH, layout)).call
        for _ in range(10):
            state, _ = compiled(state, to_global(BATCH, layout))
        share = {np.prod(s.data.shape) for s in state.params["first"].addressable_shards}
        assert share == {4 * 4096 // fsdp}
        moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.shape == (4, 4096)]
        assert len(moments) == 2
        assert all(leaf.sharding == state.params["first"].sharding for leaf in moments)
        assert state.params["bias"].sharding.is_fully_replicated
        ends[fsdp] = jax.device_get(state.params)
    for fsdp in (2, 4):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ends[1], ends[fsdp])


def test_fsdp_that_does_not_divide_the_devices_is_refused():
    with pytest.raises(UserError, match="fsdp is 3, but there are 4 devices: use one of 1, 2, 4"):
        make_layout(jax.devices()[:4], fsdp=3)


def test_two_runs_are_bit_equal():
    first, second = (train(make_layout(), 5)[0] for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first.params, second.params)


def test_each_step_draws_anew_and_by_its_number():
    """The same parameters at two steps have different losses, at one step the same."""
    layout = make_layout()
    state, step = build(layout)
    batch = to_global(BATCH, layout)
    at = lambda n: float(jax.jit(step)(state.replace(step=jnp.int32(n)), batch)[1]["loss"])
    assert at(3) == at(3)
    assert at(3) != at(4)


def test_flip_mirrors_half_of_the_images_and_nothing_else():
    x = jax.random.normal(jax.random.key(0), (2000, 2, 3, 1))
    flipped = np.asarray(random_flip(jax.random.key(1), x))
    mirrored = np.array([np.array_equal(f, i[:, ::-1]) for f, i in zip(flipped, np.asarray(x), strict=True)])
    kept = np.array([np.array_equal(f, i) for f, i in zip(flipped, np.asarray(x), strict=True)])
    assert np.all(mirrored ^ kept)
    assert stats.binomtest(int(mirrored.sum()), 2000).pvalue > 1e-4


def test_dequantized_training_sees_other_noise_each_step_and_changes_no_other_draw():
    seen = []

    class Spy(PathConstrained):
        def __call__(self, drift, x0, x1, t, label, z=None):
            seen.append((x0, x1, t))
            return super().__call__(drift, x0, x1, t, label)

    layout = make_layout(jax.devices()[:1])
    for dequantize in (False, True):
        state, step = build(layout, objective=Spy(PATH), flip=False, dequantize=dequantize)
        with jax.disable_jit():
            for number in (0, 1):
                step(state.replace(step=jnp.asarray(number)), jax.tree.map(jnp.asarray, BATCH))
    arrays = [[np.asarray(jax.lax.stop_gradient(a)) for a in s] for s in seen]
    plain, plain_next, noisy, noisy_next = arrays
    np.testing.assert_array_equal(plain[1], BATCH["image"] / np.float32(8) - 1)
    for number in (0, 2):  # source and times
        np.testing.assert_array_equal(plain[number], noisy[number])
    u = [(a[1] + 1) * 17 / 2 - BATCH["image"] for a in (noisy, noisy_next)]
    assert min(v.min() for v in u) > -1e-4
    assert max(v.max() for v in u) < 1 + 1e-4
    assert np.abs(u[0] - u[1]).max() > 0.5
    np.testing.assert_array_equal(plain[1], plain_next[1])


def test_learns_the_drift_between_gaussians():
    """Pixels of N(m, s^2) have the drift m + a(t) (x - t m): the family m' + g a(t) (x - t m') has its optimum at (m, 1)."""
    mean, std = 0.3, 0.25

    def drift_of(params, key):
        def drift(x, t, label):
            slope = (t * std**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * std**2)
            slope, t = slope[:, None, None, None], t[:, None, None, None]
            return params["mean"] + params["gain"] * slope * (x - t * params["mean"])

        return drift

    layout = make_layout(jax.devices()[:1])
    optimizer = optax.adam(0.02)
    loss = TrainLoss(
        drift_of=drift_of, objective=PathConstrained(PATH), path=PATH, levels=256, conditional=False, flip=False
    )
    step = make_train_step(loss, optimizer=optimizer, ema_decay=0.99)
    rng = np.random.default_rng(0)
    start = {"mean": jnp.zeros(()), "gain": jnp.zeros(())}
    state = create_state(lambda: initial_state(lambda key: start, optimizer, 0), layout)
    compiled = None
    for _ in range(600):
        x = np.clip(np.rint(127.5 * rng.normal(mean, std, (256, 2, 2, 1)) + 127.5), 0, 255).astype(np.uint8)
        batch = to_global({"image": x, "label": np.zeros(256, np.int32)}, layout)
        compiled = compiled or compile_step(step, layout, state, batch).call
        state, _ = compiled(state, batch)
    assert float(state.ema_params["mean"]) == pytest.approx(mean, abs=0.02)
    assert float(state.ema_params["gain"]) == pytest.approx(1.0, abs=0.03)


def test_refuses_a_batch_that_the_devices_do_not_divide():
    with pytest.raises(UserError, match="use 8 or 12"):
        check_batch_size(10, make_layout(jax.devices()[:4]))
    with pytest.raises(UserError, match="4 devices: use 4"):
        check_batch_size(3, make_layout(jax.devices()[:4]))
    with pytest.raises(UserError, match="4 devices, 3 microbatches each: use 12 or 24"):
        check_batch_size(16, make_layout(jax.devices()[:4]), 3)
