"""A classifier of data against particles, whose gradient moves them: a GAN whose generator are the particles themselves.

Of two densities p_s and q_s, data and particles smoothed by N(0, s^2 I) and drawn equally often, the logistic loss

    E_p log(1 + exp(-l(x))) + E_q log(1 + exp(l(x)))

is least at the log odds l = log p_s - log q_s (Goodfellow et al. 2014, arXiv:1406.2661, proposition 1), whose gradient is
score_p - score_q: with an optimal discriminator, moving the generator's output up its gradient is the score-difference flow
(Weber 2023, arXiv:2304.12906). The network follows the particles by some steps of training before each of theirs.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from scoreflow_jax.models.classifier import Classifier
from scoreflow_jax.randomness import key_of
from scoreflow_jax.typing import PointSet, PRNGKey, PyTree, State, Time


def logistic_loss(
    network: Classifier, params: PyTree, data: State, particles: PointSet, sigma: Time
) -> Float[Array, ""]:
    """The mean of the module's two terms, each over points that have their noise already.

    Args:
        network: the classifier.
        params: of the network.
        data: points of p.
        particles: points of q.
        sigma: the noise's standard deviation.
    """
    real, drawn = (network.log_odds(params, x, sigma) for x in (data, particles))
    return 0.5 * (jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(drawn)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierDifference:
    """The difference of scores by a classifier: a `sampling.difference_flow.Difference` that learns as it goes.

    Its memory is {data, params, opt_state}; begin with `start`.

    Attributes:
        network: of the log odds.
        optimizer: of its parameters.
        num_steps: of training before each step of the particles.
        batch_size: data, and particles, of a step of training.
        key: of parameters, batches and their noise.
    """

    network: Classifier
    optimizer: optax.GradientTransformation
    num_steps: int
    batch_size: int
    key: PRNGKey

    def start(self, data: PointSet, particles: State, sigma: Time, num_steps: int) -> PyTree:
        """Makes the memory to begin with, by so many steps of training on the particles where they are.

        Args:
            data: the examples of p, without noise.
            particles: those of q, likewise.
            sigma: the standard deviation of the noise to train with.
            num_steps: of training.
        """
        params = self.network.init_parameters(key_of(self.key, "parameters"), data.shape[1:])
        memory = {"data": data, "params": params, "opt_state": self.optimizer.init(params)}
        return jax.jit(self._trained)(memory, particles, sigma, key_of(self.key, "warm-up"), num_steps)

    def __call__(
        self, at: State, bandwidth: Time, particles: PointSet, step: Any, memory: PyTree
    ) -> tuple[State, PyTree]:
        """Trains on the particles as they stand, then takes the gradient of the log odds."""
        key = jax.random.fold_in(key_of(self.key, "follow"), step)
        memory = self._trained(memory, particles, bandwidth, key, self.num_steps)
        return self.network.log_odds_gradient(memory["params"], at, bandwidth), memory

    def _trained(self, memory: PyTree, particles: State, sigma: Time, key: PRNGKey, num_steps: Any) -> PyTree:
        """The memory after steps of training at this level of noise."""

        def train(k: Any, state: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
            """One step on a batch of its own."""
            here = jax.random.fold_in(key, k)
            data = self._batch(memory["data"], sigma, key_of(here, "data batch"))
            moved = self._batch(particles, sigma, key_of(here, "particle batch"))
            gradient = jax.grad(lambda params: logistic_loss(self.network, params, data, moved, sigma))(state[0])
            updates, opt_state = self.optimizer.update(gradient, state[1], state[0])
            return optax.apply_updates(state[0], updates), opt_state

        params, opt_state = jax.lax.fori_loop(0, num_steps, train, (memory["params"], memory["opt_state"]))
        return {**memory, "params": params, "opt_state": opt_state}

    def _batch(self, x: PointSet, sigma: Time, key: PRNGKey) -> State:
        """Points drawn with replacement, with noise."""
        some = x[jax.random.randint(key_of(key, "batch members"), (self.batch_size,), 0, len(x))]
        return some + sigma * jax.random.normal(key_of(key, "batch noise"), some.shape)
