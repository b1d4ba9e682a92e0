"""A small network that tells points of two sets apart, at any level of noise.

It is no `Network`: it is given a noise level, has one output, and nothing that is trained with it is kept.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from scoreflow_jax.models.blocks import dense
from scoreflow_jax.models.embeddings import positional_embedding
from scoreflow_jax.typing import PerExample, PRNGKey, PyTree, State

_SCALE = 2.0  # of log sigma in its embedding: between neighbouring levels hardly a ripple


class Classifier(nn.Module):
    """Log odds log p_s(x) - log q_s(x) of points with noise N(0, s^2 I) on them: dense residual blocks, told log s.

    Attributes:
        width: numbers in every hidden layer; even.
        num_blocks: residual blocks, of two dense layers each.
    """

    width: int = 256
    num_blocks: int = 2

    @nn.compact
    def __call__(self, x: State, log_sigma: PerExample) -> PerExample:
        """Returns the log odds at the points x, of which each has its own noise level."""
        sigma = jnp.exp(log_sigma)[:, None]
        flat = x.reshape(len(x), -1) / jnp.sqrt(1.0 + sigma**2)  # of order 1 however strong the noise
        time = positional_embedding(_SCALE * log_sigma, self.width)
        time = nn.swish(dense(self.width, name="level", dtype=jnp.float32)(time))
        h = dense(self.width, name="in", dtype=jnp.float32)(flat)
        for i in range(self.num_blocks):
            inner = dense(self.width, name=f"block_{i}_0", dtype=jnp.float32)(nn.swish(h))
            inner = inner + dense(self.width, name=f"block_{i}_level", dtype=jnp.float32)(time)
            h = h + dense(self.width, name=f"block_{i}_1", scale=0.0, dtype=jnp.float32)(nn.swish(inner))
        return dense(1, name="out", scale=0.0, dtype=jnp.float32)(nn.swish(h))[:, 0]

    def init_parameters(self, key: PRNGKey, shape: tuple[int, ...]) -> PyTree:
        """Fresh parameters for points of this shape; the log odds are then as good as 0."""
        return self.init(key, jnp.zeros((1, *shape)), jnp.zeros(1))["params"]

    def log_odds(self, params: PyTree, x: State, sigma: Float[Array, ""]) -> PerExample:
        """The log odds at points that all have this level of noise.

        Args:
            params: of the network.
            x: the points, with their noise.
            sigma: the noise's standard deviation.
        """
        return self.apply({"params": params}, x, jnp.broadcast_to(jnp.log(sigma), x.shape[:1]))  # type: ignore[return-value]

    def log_odds_gradient(self, params: PyTree, x: State, sigma: Float[Array, ""]) -> State:
        """The gradient of the log odds with respect to x: score_p - score_q, as far as the network is the optimal classifier.

        Args:
            params: of the network.
            x: the points, with their noise.
            sigma: the noise's standard deviation.
        """
        return jax.grad(lambda x: jnp.sum(self.log_odds(params, x, sigma)))(x)
