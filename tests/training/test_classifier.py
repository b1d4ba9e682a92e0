"""The classifier's log odds and their gradient against the closed forms of Gaussians, and the flow that it drives."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from scoreflow_jax.models.classifier import Classifier
from scoreflow_jax.sampling.difference_flow import DifferenceFlow, flow_particles
from scoreflow_jax.training.classifier import ClassifierDifference, logistic_loss

KEY = jax.random.key(0)
MEAN, STD = np.array([[0.8, -0.4]], np.float32), 0.5


def gaussian(count, mean, std, seed):
    return mean + std * jax.random.normal(jax.random.key(seed), (count, 2))


def classifier(num_steps, rate=2e-3):
    network = Classifier(width=64, num_blocks=2)
    return ClassifierDifference(
        network=network, optimizer=optax.adam(rate), num_steps=num_steps, batch_size=512, key=KEY
    )


def test_gradient_of_the_log_odds_is_the_difference_of_scores():
    """p = N(m, 0.5^2 I), q = N(0, I), both smoothed by 0.4: a linear difference; within 15 % of its size."""
    sigma = jnp.float32(0.4)
    data, particles = gaussian(20_000, MEAN, STD, 1), gaussian(20_000, 0.0, 1.0, 2)
    ours = classifier(0, optax.cosine_decay_schedule(5e-3, 800))
    memory = ours.start(data, particles, sigma, 800)
    x = gaussian(500, 0.0, 0.8, 3)
    found, _ = ours(x, sigma, particles, 0, memory)
    variance_p, variance_q = STD**2 + 0.16, 1.0 + 0.16
    exact = (MEAN - np.asarray(x)) / variance_p + np.asarray(x) / variance_q
    assert np.sqrt(np.mean((found - exact) ** 2)) < 0.15 * np.sqrt(np.mean(exact**2))
    log_odds = ours.network.log_odds(memory["params"], x, sigma)
    squares = lambda mean, variance: np.sum((np.asarray(x) - mean) ** 2, -1) / variance
    exact_odds = 0.5 * (squares(0, variance_q) - squares(MEAN, variance_p)) + np.log(variance_q / variance_p)
    assert np.mean(np.abs(log_odds - exact_odds)) < 0.1


def test_the_loss_is_least_at_the_log_odds():
    """Of constants: with p = q the log odds are 0 and the loss log 2; it is scipy's cross-entropy in any case."""
    network = Classifier(width=16, num_blocks=1)
    params = network.init_parameters(KEY, (2,))
    x, y = gaussian(50, 0.0, 1.0, 1), gaussian(50, MEAN, STD, 2)
    assert float(logistic_loss(network, params, x, y, jnp.float32(0.5))) == pytest.approx(np.log(2), abs=1e-3)
    params = jax.tree.map(lambda p: p + 0.1, params)
    odds = [np.asarray(network.log_odds(params, z, jnp.float32(0.5)), np.float64) for z in (x, y)]
    share = [1 / (1 + np.exp(-o)) for o in odds]
    expected = -0.5 * (np.log(share[0]).mean() + np.log(1 - share[1]).mean())
    assert float(logistic_loss(network, params, x, y, jnp.float32(0.5))) == pytest.approx(expected, rel=1e-4)


def test_particles_follow_the_classifier_to_the_data():
    """A GAN whose generator are 1,000 particles: from N(0, I) to the moments of N(m, 0.5^2 I)."""
    data, start = gaussian(5000, MEAN, STD, 1), gaussian(1000, 0.0, 1.0, 2)
    flow = DifferenceFlow(num_steps=150, sigma_start=0.5, sigma_end=0.3, step_size=0.3)
    ours = classifier(5)
    memory = ours.start(data, start, flow.bandwidth(0), 200)
    end = np.asarray(flow_particles(ours, start, flow, KEY, memory=memory).particles)
    np.testing.assert_allclose(end.mean(0), MEAN[0], atol=0.1)
    np.testing.assert_allclose(end.std(0), STD, atol=0.15)


def test_training_has_an_address():
    """The same key gives the same network, whatever came before."""
    data, particles = gaussian(300, MEAN, STD, 1), gaussian(300, 0.0, 1.0, 2)
    ours = classifier(3)
    memory = ours.start(data, particles, jnp.float32(0.5), 5)
    first, _ = ours(particles, jnp.float32(0.5), particles, 4, memory)
    again, _ = ours(particles, jnp.float32(0.5), particles, 4, ours.start(data, particles, jnp.float32(0.5), 5))
    np.testing.assert_array_equal(first, again)
    other, _ = ours(particles, jnp.float32(0.5), particles, 5, memory)
    assert np.abs(np.asarray(first) - np.asarray(other)).max() > 0
