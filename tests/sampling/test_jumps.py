"""Jumps along the flow between Gaussians, x -> m_s + (std_s / std_t) (x - m_t): exact in one, counted, kept on the way."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoreflow_jax.errors import UserError
from scoreflow_jax.ode import Solver
from scoreflow_jax.paths.guidance import network_calls
from scoreflow_jax.programs import Encode, Generate, LogLikelihood, Translate
from scoreflow_jax.sampling import encode, generate, jumps, translate_latent
from scoreflow_jax.settings.fields import FieldError
from tests.known import known_model

MEANS, STDS = np.array([[1.0, -2.0], [-1.0, 0.5]]), np.array([0.25, 1.5])
LABEL = jnp.array([0, 1, 1, 0, 1])
X0 = jax.random.normal(jax.random.key(0), (5, 2))


def exact(x, t, s, label):
    """Along the linear path."""
    m, d = jnp.asarray(MEANS, jnp.float32)[label], jnp.asarray(STDS, jnp.float32)[label][:, None]
    std = lambda t: jnp.hypot(1 - t, t * d)
    return s * m + std(s) / std(t) * (x - t * m)


class Map:
    """The exact map, or one whose jumps are off by `error` times their length squared."""

    def __init__(self, error=0.0):
        self.error = error

    def __call__(self, x, t, c):
        raise AssertionError("a jump asks for no drift")

    def mean_velocity(self, x, t, s, c, w=None):
        h = (s - t)[:, None]
        return (exact(x, t[:, None], s[:, None], c) - x) / h + self.error * h


def solver(steps, **fields):
    """Jumps."""
    return Solver(method="flow_map", num_steps=steps, **fields)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_jumps_go_to_the_end_and_back(steps):
    there = generate(Map(), X0, LABEL, solver(steps))
    np.testing.assert_allclose(there.y, exact(X0, 0.0, 1.0, LABEL), atol=1e-5)
    back = encode(Map(), there.y, LABEL, solver(steps))
    np.testing.assert_allclose(back.y, X0, atol=1e-4)
    assert int(there.num_evaluations) == int(back.num_evaluations) == steps
    assert bool(there.succeeded)


@pytest.mark.parametrize("corrections", [0, 1, 2, 3])
def test_a_jump_towards_noise_is_corrected_until_the_way_forward_undoes_it(corrections):
    """By iterations that contract as the linear map does: 1 - std_t / std_s each; what is generated is left as it is."""

    class Apart(Map):
        """Exact towards the data, off by 0.1 of the squared length towards noise."""

        def mean_velocity(self, x, t, s, c, w=None):
            return super().mean_velocity(x, t, s, c) + jnp.where(s < t, 0.1, 0.0)[:, None] * (s - t)[:, None]

    way = solver(1, corrections=corrections)
    there = generate(Apart(), X0, LABEL, way)
    np.testing.assert_array_equal(there.y, generate(Apart(), X0, LABEL, solver(1)).y)
    back = encode(Apart(), there.y, LABEL, way)
    shrunk = (1.0 - STDS[np.asarray(LABEL)][:, None]) ** corrections * 0.1 * np.ones((1, 2))
    np.testing.assert_allclose(back.y - X0, shrunk, atol=1e-5)
    assert (int(there.num_evaluations), int(back.num_evaluations)) == (1, 1 + corrections)
    several = encode(Apart(), there.y, LABEL, solver(3, corrections=corrections), times=jnp.array([0.5, 0.0]))
    assert int(several.num_evaluations) == 4 * (1 + corrections)


def test_lengths_are_equal_or_as_stated():
    """Of jumps whose error is the square of their length the errors' sum tells the lengths."""
    flat = lambda x, t, c: x * 0
    still = type(
        "Still", (), {"__call__": flat, "mean_velocity": lambda self, x, t, s, c, w: (x * 0 + 1) * (s - t)[:, None]}
    )()
    moved = lambda s: float(generate(still, jnp.zeros((1, 1)), None, s).y[0, 0])
    np.testing.assert_allclose(moved(solver(4)), 4 * 0.25**2, rtol=1e-5)
    np.testing.assert_allclose(moved(solver(3, between=(0.1, 0.7))), 0.1**2 + 0.6**2 + 0.3**2, rtol=1e-5)
    back = float(encode(still, jnp.zeros((1, 1)), None, solver(3, between=(0.1, 0.7))).y[0, 0])
    np.testing.assert_allclose(back, 0.1**2 + 0.6**2 + 0.3**2, rtol=1e-5)


@pytest.mark.parametrize("forwards", [True, False])
def test_states_on_the_way_are_kept_and_counted(forwards):
    """At meeting points for nothing, elsewhere for a call each; neither moves the end."""
    times = np.array([0.0, 0.25, 0.3, 0.45, 0.5, 1.0], np.float32)
    times = times if forwards else times[::-1].copy()
    start, solve = (X0, generate) if forwards else (exact(X0, 0.0, 1.0, LABEL), encode)
    kept = solve(Map(), start, LABEL, solver(4), times=jnp.asarray(times))
    for t, states in zip(times, np.asarray(kept.path), strict=True):
        np.testing.assert_allclose(states, exact(X0, 0.0, float(t), LABEL), atol=1e-4)
    assert int(kept.num_evaluations) == 4 + 2
    wrong = solve(Map(0.3), start, LABEL, solver(4), times=jnp.asarray(times))
    np.testing.assert_allclose(wrong.y, solve(Map(0.3), start, LABEL, solver(4)).y, atol=1e-5)


@pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 1e-3), (0.999, 1e-3), (0.02, 0.98)])
@pytest.mark.parametrize("steps", [1, 3, 6, 7, 10, 11])
def test_meeting_points_are_met_however_they_are_rounded(steps, span):
    """Of states asked for at the very times where jumps meet none costs a call."""
    flat = lambda x, t, c: x * 0
    still = lambda: type("Still", (), {"__call__": flat, "mean_velocity": lambda self, x, t, s, c, w: x * 0})()
    times = jnp.asarray(np.linspace(*span, steps + 1), jnp.float32)
    kept = jumps.follow(still(), jnp.zeros((1, 1)), *span, None, solver(steps), times=times)
    assert int(kept.num_evaluations) == steps


def test_a_translation_is_two_ways():
    image = exact(X0, 0.0, 1.0, LABEL)
    translated = translate_latent(Map(), image, LABEL, 1 - LABEL, solver(2), times=jnp.array([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(translated.y, exact(X0, 0.0, 1.0, 1 - LABEL), atol=1e-4)
    assert int(translated.num_evaluations) == 4
    np.testing.assert_allclose(translated.path[2:4], np.stack([X0, X0]), atol=1e-4)


def test_a_map_that_is_not_finite_failed():
    assert not bool(generate(Map(float("nan")), X0, LABEL, solver(1)).succeeded)


def test_a_model_jumps_and_says_what_it_cannot():
    """One compiled program for every number of jumps; likelihoods, guidance and the difference of drifts need the ODE."""
    network = lambda x, t, c, jump=None, w=None: Map().mean_velocity(x, t, t + jump, c)
    model = known_model(network, model__two_times=True, objective={"name": "flow_map"})
    jumping = model.with_solver(solver(1))
    label, x0 = np.arange(16) % 2, np.asarray(model.source_points(jax.random.key(0), 16))
    np.testing.assert_allclose(jumping.decode(x0, label), exact(x0, 0.0, 1.0, label), atol=1e-4)
    more = jumping.with_solver(solver(6)).solve(Generate(), x0, label)
    assert (more.stats.evaluations, more.stats.compile_seconds < 0.5) == ([6], True)
    images = more.y
    np.testing.assert_allclose(jumping.solve(Encode(), images, label).y, x0, atol=1e-3)
    for program, labels, words in (
        (LogLikelihood(), (label,), "likelihoods integrate more than the drift"),
        (Generate(guidance=2.0), (label,), "was trained without guidance"),
        (Translate("difference"), (label, 1 - label), "method 'difference' solves an ODE of two drifts"),
    ):
        with pytest.raises(UserError, match=words):
            jumping.solve(program, images, *labels)
    with pytest.raises(UserError, match="this network has learned no jumps"):
        known_model(network).with_solver(solver(1))


def test_a_guided_map_is_told_its_weights_and_costs_one_call():
    """By weights for each example; outside of what it was told it refuses, and by the ODE an evaluation costs two calls."""
    network = lambda x, t, c, jump=None, w=None: x * 0 if w is None else x * 0 + w[:, None]
    changes = {"model__two_times": True, "model__most_guidance": 4.0, "objective": {"name": "flow_map"}}
    model = known_model(network, **changes).with_solver(solver(2))
    label, x0, w = np.arange(4) % 2, np.zeros((4, 2), np.float32), np.array([1.0, 2.0, 3.0, 4.0])
    solved = model.solve(Generate(guidance=w), x0, label)
    np.testing.assert_allclose(solved.y, w[:, None] * np.ones((4, 2)), rtol=1e-5)
    assert solved.stats.summary(network_calls(3.0, "flow_map"))["nfe_mean"] == 2
    assert network_calls(3.0, "dopri5") == 2
    for wrong in (0.5, 5.0):
        with pytest.raises(UserError, match="is told weights from 1 to 4"):
            model.solve(Generate(guidance=wrong), x0, label)


def test_refusals():
    for fields, words in (
        ({"num_steps": None}, "flow_map has no error estimate"),
        ({"per_sample": True}, "per_sample is True, but flow_map controls no error"),
        ({"num_steps": 2, "between": (0.2, 0.4)}, "one fewer times than num_steps, 2"),
        ({"num_steps": 3, "between": (0.4, 0.2)}, "expected times that ascend"),
        ({"method": "heun", "corrections": 1}, "corrections is 1, of jumps of the method flow_map"),
    ):
        with pytest.raises((FieldError, ValueError), match=words):
            Solver(**{"method": "flow_map", "num_steps": 1, **fields})
    with pytest.raises(ValueError, match="one fewer times than num_steps"):
        Solver(between=(0.5,))
    adaptive = dataclasses.replace(solver(3, between=(0.1, 0.7)).adaptive, rtol=1e-3)
    assert (adaptive.method, adaptive.num_steps, adaptive.between) == ("dopri5", None, ())
    with pytest.raises(ValueError, match="follows the ODE of its own drift only"):
        solver(1).solve(lambda t, y, args: y, jnp.ones((1, 2)), 0.0, 1.0)
