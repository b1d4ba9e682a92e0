"""Draws with different names share no bits: in a training step with everything on, and in what a user asks of one key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoreflow_jax import randomness
from scoreflow_jax.command_line import load_config
from scoreflow_jax.errors import UserError
from scoreflow_jax.experiment import build, resolve
from scoreflow_jax.model import Model
from scoreflow_jax.plain_config import to_plain
from scoreflow_jax.programs import LogLikelihood
from scoreflow_jax.randomness import key_of
from tests import oracles
from tests.conftest import ROOT

DRAWERS = ("bits", "normal", "uniform", "bernoulli", "rademacher", "permutation", "randint")


def digits(**sections):
    """The digits' smoke variant with an even smaller network, some sections changed."""
    config = to_plain(load_config(f"{ROOT / 'configs/digits.py'}:smoke"))
    config["model"].update(base_channels=8, channel_multipliers=(1,), attention_resolutions=())
    for section, fields in sections.items():
        config[section] = fields if "name" in fields else {**config[section], **fields}
    return build(config)


@pytest.fixture
def drawn_from(monkeypatch):
    """keys_of(function): the data of every key that it draws from, in order. What it draws is not computed."""
    keys = []

    def recording(draw):
        def call(key, *args, **kwargs):
            keys.append(jax.random.key_data(key))
            return draw(key, *args, **kwargs)

        return call

    for name in DRAWERS:
        monkeypatch.setattr(jax.random, name, recording(getattr(jax.random, name)))

    def keys_of(function):
        def recorded():
            keys.clear()
            function()
            return jnp.stack(keys)

        return as_tuples(jax.jit(recorded)())

    return keys_of


def as_tuples(data):
    return [tuple(row.tolist()) for row in np.asarray(data)]


def test_every_name_has_a_number_of_its_own_beyond_any_sample():
    numbers = [randomness._number(name) for name in randomness.DRAWS]
    assert len(set(numbers)) == len(numbers)
    assert min(numbers) >= 2**31 > np.iinfo(np.int32).max
    assert max(numbers) < 2**32
    with pytest.raises(KeyError):
        key_of(jax.random.key(0), "tmies")


@pytest.mark.parametrize("base", [False, True])
def test_a_step_with_everything_on_draws_nothing_twice(drawn_from, base):
    """Base data or noise, times, dequantization, flips, the latent, dropout and dropped labels: as many keys as draws."""
    experiment = digits(
        data={"dequantize": True, "flip": True},
        model={"dropout": 0.1, "label_dropout": 0.1, "num_blocks": 1},
        path={"name": "linear", "latent": "sine"},
        objective={"name": "interpolant"},
    )
    loss, params = experiment.train_loss(), experiment.init(jax.random.key(3))
    batch = {"image": jnp.zeros((4, 8, 8, 1), jnp.uint8), "label": jnp.arange(4) % 2}
    run = key_of(jax.random.key(experiment.seed), "training")
    step = jax.random.fold_in(run, 7)
    found = drawn_from(
        lambda: loss.per_example(params, loss.draw(step, {**batch, **({"base": batch["image"]} if base else {})}))
    )
    names = [
        "dequantization",
        "flip",
        "times",
        "latent",
        *(["base dequantization", "base flip"] if base else ["source"]),
    ]
    assert set(as_tuples(jnp.stack([jax.random.key_data(key_of(step, name)) for name in names]))) <= set(found)
    assert len(found) > len(names) + 2  # a dropout in each block, and the labels'
    assert len(set(found)) == len(found)
    # Nor does a step draw from its own key, another step's, or a sample's.
    others = [step, run, *(jax.random.fold_in(key, i) for key in (step, run, jax.random.key(0)) for i in range(64))]
    assert not set(as_tuples(jnp.stack([jax.random.key_data(key) for key in others]))) & set(found)


def test_the_parts_of_a_batch_have_dropouts_of_their_own():
    """And the network's dropout comes from the draw of that name, so that no other draw moves with it."""
    experiment = digits()
    drawn = experiment.train_loss().draw(
        jax.random.key(0), {"image": jnp.zeros((2, 8, 8, 1), jnp.uint8), "label": jnp.zeros(2, jnp.int32)}
    )
    assert jnp.array_equal(
        jax.random.key_data(drawn.dropout_key), jax.random.key_data(key_of(jax.random.key(0), "dropout"))
    )


class Exact:
    """An exact drift in the place of a network's."""

    def __init__(self, oracle, path):
        self.oracle, self.path = oracle, path

    def __call__(self, x, t, label):
        return self.oracle.velocity(x, t)

    def predict(self, kind, x, t, label):
        data, noise = self.oracle.data_and_noise(x, t)
        return {"data": data, "noise": noise, "velocity": self.oracle.velocity(x, t)}[kind]


@pytest.fixture
def two_points(monkeypatch):
    """A model of the mixture N(±(1, 1), 0.3^2) with its exact drift."""
    config = resolve(load_config(f"{ROOT / 'configs/rectified_flow.py'}:gaussians"))
    config["model"]["conditional"] = False
    experiment = build(config)
    weights, means, stds = np.full(2, 0.5), np.array([[1.0, 1.0], [-1.0, -1.0]]), np.full(2, 0.3)
    oracle = oracles.Mixture(experiment.path, weights, means, stds)
    monkeypatch.setattr(type(experiment), "drift", lambda self, *_: Exact(oracle, experiment.path))
    return Model(experiment, {}, 0, batch_size=4000)


def test_one_key_for_generation_and_likelihood_leaves_the_likelihood_unbiased(two_points):
    """A probe that shares its bits with the latent was off by 0.32 nats, and by 0.27 given to `log_likelihood` afterwards."""
    key, count = jax.random.key(0), 4000
    images, density = two_points.generate_with_likelihood(key, num_images=count)
    exact = two_points.log_likelihood(images, probe="exact")
    for kind in ("rademacher", "gaussian"):
        if kind == "gaussian":
            density = two_points.generate_with_likelihood(key, num_images=count, probe=kind)[1]
        again = two_points.log_likelihood(images, key=key, probe=kind)
        for estimate in (density, again):
            off = np.asarray(estimate - exact, np.float64)
            assert abs(off.mean()) < 4 * off.std() / np.sqrt(count)
            assert off.std() > 0.3  # one probe is noisy: else this shows nothing


def test_several_probes_say_how_far_off_their_mean_may_be(two_points):
    """The error over probes is the standard deviation about the exact trace, and falls as 1 / sqrt(probes)."""
    images = two_points.generate(jax.random.key(1), num_images=2000)
    exact = np.asarray(two_points.log_likelihood(images, probe="exact"), np.float64)
    off = {}
    for probes in (1, 4, 16):
        density, _, error = two_points.solve(LogLikelihood(key=jax.random.key(2), probes=probes), images, None).y
        off[probes] = np.sqrt(np.mean((density - exact) ** 2))
        if probes > 1:
            assert np.sqrt(np.mean(np.square(error))) == pytest.approx(off[probes], rel=0.1)
        else:
            assert np.isnan(error).all()
    # Where the error of the 16 is said to be small, it is.
    small = error < np.median(error)
    assert np.abs(density - exact)[small].mean() < 0.7 * np.abs(density - exact)[~small].mean()
    assert off[1] / off[4] == pytest.approx(2.0, rel=0.12)
    assert off[4] / off[16] == pytest.approx(2.0, rel=0.12)


def test_noise_of_a_sample_is_where_it_always_was(two_points):
    """README promises it, and pairs and samples of earlier versions rest on it."""
    expected = jnp.stack([jax.random.normal(jax.random.fold_in(jax.random.key(5), i), (2,)) for i in (3, 4)])
    np.testing.assert_array_equal(two_points.source_points(jax.random.key(5), 2, first=3), expected)


@pytest.mark.parametrize("seed", [-1, 2**32, 2**40])
def test_seeds_beyond_32_bits_are_refused(seed):
    """JAX takes the last 32 bits, so that 2^32 would be 0."""
    with pytest.raises(UserError, match=f"the seed is {seed}, expected a whole number from 0 to 2"):
        randomness.as_key(seed)
    for section in ("", "sample", "figures"):
        config = to_plain(load_config(f"{ROOT / 'configs/digits.py'}:smoke"))
        (config[section] if section else config)["seed"] = seed
        with pytest.raises(UserError, match=f"seed is {seed}, expected"):
            build(config)


def test_the_largest_seed_is_one_of_its_own():
    data = jax.random.key_data(randomness.as_key(2**32 - 1))
    assert data.tolist() == [0, 2**32 - 1]
