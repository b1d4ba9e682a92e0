"""The model in the hand: its methods undo each other, and say what is wrong with what they are given."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoreflow_jax
from scoreflow_jax import sampling
from scoreflow_jax.command_line import load_config
from scoreflow_jax.experiment import build
from scoreflow_jax.ode import Solver
from scoreflow_jax.plain_config import to_plain
from scoreflow_jax.programs import Generate, LogLikelihood
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def model():
    """An untrained small network, its parameters shaken so that the drift is not zero."""
    config = to_plain(load_config(f"{ROOT / 'configs/digits.py'}:smoke"))
    config["solver"].update(rtol=1e-5, atol=1e-5)
    config["model"]["channel_multipliers"] = (1,)
    experiment = build(config)
    rng = np.random.default_rng(0)
    shapes = experiment.parameter_shapes()
    params = jax.tree.map(lambda s: jnp.asarray(0.08 * rng.normal(size=s.shape), jnp.float32), shapes)
    params["class_embedding"] = jax.tree.map(lambda p: 300 * p, params["class_embedding"])
    return scoreflow_jax.Model(experiment, params, 0, batch_size=4)


LABELS = np.array([3, 1, 4, 1, 5])


def test_decode_undoes_encode(model):
    images = np.asarray(jax.random.uniform(jax.random.key(0), (5, 8, 8, 1), minval=-1, maxval=1))
    latents = model.encode(images, LABELS)
    assert np.abs(latents - images).max() > 0.05
    np.testing.assert_allclose(model.decode(latents, LABELS), images, atol=2e-3)


def test_generate_decodes_the_noise_of_its_key(model):
    key = jax.random.key(1)
    np.testing.assert_array_equal(model.generate(key, LABELS), model.decode(model.source_points(1, 5), LABELS))
    assert model.generate(key, 3, num_images=2).shape == (2, 8, 8, 1)


def test_latent_translation_is_undone_by_swapping(model):
    images = np.asarray(jax.random.uniform(jax.random.key(0), (3, 8, 8, 1), minval=-1, maxval=1))
    there = model.translate(images, 2, [3, 4, 5])
    back = model.translate(there, [3, 4, 5], 2)
    assert np.abs(back - images).max() < np.abs(there - images).max() / 3
    assert np.abs(model.translate(images, 2, 3, method="difference") - there).max() > 1e-4


def test_interpolation_begins_and_ends_at_the_images(model):
    images = np.asarray(jax.random.uniform(jax.random.key(0), (4, 8, 8, 1), minval=-1, maxval=1))
    between = model.interpolate(images[:2], images[2:], 7, num_steps=3)
    assert between.shape == (2, 3, 8, 8, 1)
    np.testing.assert_allclose(between[:, 0], images[:2], atol=2e-3)
    np.testing.assert_allclose(between[:, -1], images[2:], atol=2e-3)


@pytest.mark.parametrize(
    "change", [{"rtol": 1e-2, "atol": 1e-2}, {"rtol": 1e-5, "atol": 1e-4}, {"num_steps": 3}, {"num_steps": 7}]
)
def test_one_program_serves_all_tolerances_and_numbers_of_steps(model, change):
    """What it computes is what the solver itself does, given its numbers when it is compiled."""
    before = model.with_solver(Solver(method="bosh3", num_steps=5 if "num_steps" in change else None))
    noise = before.source_points(jax.random.key(4), 2)
    cost = before.solve(Generate(), noise, LABELS[:2]).stats.evaluations
    programs = len(model._programs)
    solver = Solver(method="bosh3", **change)
    solved = before.with_solver(solver).solve(Generate(), noise, LABELS[:2])
    assert len(model._programs) == programs
    drift, labels = model.experiment.drift(model.params), jnp.asarray(LABELS[:2])
    alone = jax.jit(lambda x: sampling.generate(drift, x, labels, solver))(noise)
    assert (
        abs(solved.stats.evaluations[0] - int(alone.num_evaluations)) <= ("rtol" in change) * 3
    )  # a step, for rounding
    np.testing.assert_allclose(solved.y, alone.y, atol=1e-4)
    assert solved.stats.evaluations != cost


def test_another_method_is_another_program(model):
    noise, cost = model.source_points(jax.random.key(4), 2), {}
    for method in ("euler", "midpoint"):
        at = model.with_solver(Solver(method=method, num_steps=5))
        cost[method] = at.solve(Generate(), noise, LABELS[:2]).stats.evaluations
    assert cost == {"euler": [5], "midpoint": [10]}


def test_solves_in_bfloat16_where_the_solver_says_so_and_only_there(model):
    """The state stays float32 and the network alone is coarse: Euler's steps by it, made here, are what is solved."""
    noise, labels = model.source_points(jax.random.key(4), 2), jnp.asarray(LABELS[:2])
    fine = Solver(method="euler", num_steps=4)
    coarse = dataclasses.replace(fine, dtype="bfloat16")
    found = {s.dtype: model.with_solver(s).decode(noise, LABELS[:2]) for s in (fine, coarse, fine)}
    drift, x = jax.jit(model.experiment.drift(model.params, "bfloat16")), jnp.asarray(noise)
    for i in range(4):
        x = x + drift(x, jnp.full(2, i / 4), labels) / 4
    assert x.dtype == jnp.float32
    rounding = np.abs(found["bfloat16"] - found["float32"]).mean()
    assert rounding > 1e-5
    assert np.abs(found["bfloat16"] - x).mean() < 0.2 * rounding
    assert coarse.stated != fine.stated == {n: v for n, v in coarse.stated.items() if n != "dtype"}
    with pytest.raises(ValueError, match="give num_steps, or preset"):
        Solver(dtype="bfloat16")


def test_drift_takes_one_time_or_many_and_numpy(model):
    x = np.zeros((2, 8, 8, 1))
    one, many = model.drift(x, 0.3, 7), model.drift(x, np.array([0.3, 0.3]), np.array([7, 7]))
    np.testing.assert_allclose(one, many, atol=1e-6)
    assert np.abs(one - model.drift(x, 0.9, 7)).max() > 10 * np.abs(one - many).max()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda m: m.generate(jax.random.key(0), [10]), "label 10 is outside the classes, expected 0 to 9"),
        (lambda m: m.generate(jax.random.key(0), [-1]), "label -1"),
        (lambda m: m.generate(jax.random.key(0), np.array([0.5])), "expected integers"),
        (lambda m: m.generate(jax.random.key(0)), "give labels"),
        (lambda m: m.generate(jax.random.key(0), num_images=3), "give a label for each image"),
        (lambda m: m.encode(np.zeros((2, 8, 8, 1)), [1, 2, 3]), "3.. for 2 images"),
        (lambda m: m.encode(np.zeros((2, 8, 8, 3)), 1), r"expected \(batch, 8, 8, 1\)"),
        (lambda m: m.encode(np.zeros((0, 8, 8, 1)), 1), "got no images"),
        (lambda m: m.encode(np.zeros((8, 8, 1)), 1), r"expected \(batch, 8, 8, 1\)"),
        (lambda m: m.translate(np.zeros((2, 8, 8, 1)), 1, 2, method="magic"), "expected one of latent, difference"),
        (
            lambda m: m.interpolate(np.zeros((1, 8, 8, 1)), np.zeros((1, 8, 8, 1)), 1, rule="x"),
            "unknown interpolation rule",
        ),
        (lambda m: m.encode(np.full((1, 8, 8, 1), np.nan), 1), "from nan to nan, expected -1"),
        (lambda m: m.decode(np.full((1, 8, 8, 1), np.nan), 1), "the solve of examples 0 to 0 failed"),
        (lambda m: m.encode(255.0 * np.ones((1, 8, 8, 1)), 1), "from 255 to 255, expected -1 .black. to 1 .white."),
        (lambda m: m.translate(np.full((1, 8, 8, 1), -30.0), 1, 2), "from -30 to -30"),
        (lambda m: m.log_likelihood(255.0 * np.ones((1, 8, 8, 1)), 1), "from 255 to 255"),
        (lambda m: m.formula_log_density(255.0 * np.ones((1, 8, 8, 1)), 1), "from 255 to 255"),
        (lambda m: m.interpolate(np.full((1, 8, 8, 1), 99.0), np.zeros((1, 8, 8, 1)), 1), "from 99 to 99"),
        (
            lambda m: m.encode(np.ones((1, 8, 8, 1), np.int64), 1),
            "images of int64, expected uint8 from 0 to 255, or float32",
        ),
        (lambda m: m.encode(np.ones((1, 8, 8, 1), bool), 1), "images of bool"),
        (lambda m: m.encode(1j * np.ones((1, 8, 8, 1)), 1), "images of complex128, expected uint8"),
        (lambda m: m.encode(np.array(["a.png"]), 1), "images of <U5, expected uint8"),
        (lambda m: m.decode(np.ones((1, 8, 8, 1), np.uint8), 1), "latents of uint8, expected float32"),
        (
            lambda m: m.generate(jax.random.split(jax.random.key(0), 3), [1, 2, 3]),
            r"keys of shape \(3,\), expected one",
        ),
        (lambda m: m.generate(-1, [1]), "the seed is -1, expected a whole number from 0"),
        (lambda m: m.generate(0.5, [1]), "got 0.5 for a key"),
        (lambda m: m.generate("0", [1]), "got '0' for a key"),
        (lambda m: m.generate(0, num_images=0), "num_images is 0, expected a whole number of at least 1"),
    ],
)
def test_says_what_is_wrong(model, call, match):
    with pytest.raises(ValueError, match=match):
        call(model)


def test_seeds_and_older_keys_are_keys(model):
    images = model.generate(jax.random.key(7), [1])
    np.testing.assert_array_equal(model.generate(7, [1]), images)
    np.testing.assert_array_equal(model.generate(np.int64(7), [1]), images)
    np.testing.assert_array_equal(model.generate(jax.random.PRNGKey(7), [1]), images)
    density = model.log_likelihood(images, 1, key=jax.random.key(3))
    np.testing.assert_array_equal(model.log_likelihood(images, 1, key=3), density)
    np.testing.assert_array_equal(
        model.generate_with_likelihood(7, [1])[0], model.generate_with_likelihood(jax.random.key(7), [1])[0]
    )


def test_eight_bit_pictures_are_scaled(model):
    """In every method that takes images; for a model of 17 levels as the nearest of these, in [-1, 1]."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)
    images = pixels.astype(np.float32) / 127.5 - 1
    np.testing.assert_array_equal(model.encode(pixels, 1), model.encode(images, 1))
    np.testing.assert_array_equal(model.translate(pixels, 1, 2), model.translate(images, 1, 2))
    np.testing.assert_array_equal(model.log_likelihood(pixels, 1), model.log_likelihood(images, 1))
    np.testing.assert_array_equal(model.drift(pixels, 1.0, 1), model.drift(images, 1.0, 1))
    ends = [(pixels[:1], pixels[1:]), (images[:1], images[1:])]
    np.testing.assert_array_equal(*(model.interpolate(*pair, 1, num_steps=2) for pair in ends))


def test_images_from_0_to_1_are_warned_of(model):
    images = np.random.default_rng(0).uniform(0, 1, (2, 8, 8, 1))
    with pytest.warns(
        UserWarning, match=r"nothing darker than the middle grey.*Pictures in \[0, 1\] become such by 2 x - 1"
    ):
        model.encode(images, 1)


def test_what_a_batch_is_filled_up_with_does_not_count_in_its_step_control(model):
    """Five of a program for eight: the steps, and so the samples, of five by themselves; of likelihoods as well."""
    images = model.source_points(jax.random.key(2), 5) * np.array([0.1, 0.1, 0.1, 0.1, 3.0], np.float32).reshape(
        -1, 1, 1, 1
    )
    eight, five = (model.with_experiment(model.experiment) for _ in range(2))
    eight.batch_size, five.batch_size = 8, 5  # the last one is repeated, and is steeper
    for solve in (lambda m: m.solve(Generate(), images, LABELS), lambda m: m.solve(LogLikelihood(), images, LABELS)):
        ours, theirs = solve(eight), solve(five)
        assert ours.stats.evaluations == theirs.stats.evaluations
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours.y, theirs.y)
    assert eight._programs.batch_sizes == [8, 8]
    assert five._programs.batch_sizes == [5, 5]


def test_few_programs_serve_all_numbers_of_images_and_few_are_kept(model, monkeypatch):
    """Compilations counted by JAX's own events; what a batch is padded with changes no sample but through the step control."""
    many = model.with_experiment(dataclasses.replace(model.experiment, solver=Solver(method="euler", num_steps=3)))
    many.batch_size = 64
    images, events = many.generate(0, np.arange(64) % 10), []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: events.append(name))
    for count in (5, 6, 7, 8, 9, 11, 13, 16, 17, 23, 24):
        np.testing.assert_allclose(many.generate(0, np.arange(count) % 10), images[:count], atol=1e-5)
    assert sum("backend_compile" in name for name in events) == 2 * 3  # for 8, 16 and 24 of noise and of the solve
    assert many._programs.batch_sizes == [64, 8, 16, 24]
    monkeypatch.setattr("scoreflow_jax.compiled.KEPT", 2)
    many.generate(0, [1, 2])
    assert many._programs.batch_sizes == [24, 2]


def test_public_names():
    for name in scoreflow_jax.__all__:
        assert getattr(scoreflow_jax, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = scoreflow_jax.nothing
