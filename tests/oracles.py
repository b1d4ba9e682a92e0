"""Closed forms along any affine path x_t = alpha(t) x1 + sigma(t) x0 with x0 ~ N(0, I), from alpha and sigma alone.

For x1 ~ N(m, s^2 I): x_t ~ N(alpha m, v I), v = alpha^2 s^2 + sigma^2, and x1, x0 given x_t are Gaussian with means
m + (alpha s^2 / v)(x - alpha m) and (sigma / v)(x - alpha m). A mixture weighs its components by their posterior; a point mass
is s = 0. Everything else (velocity, score) is a mean of those.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from scoreflow_jax.paths import AffinePath


@dataclasses.dataclass(frozen=True)
class Mixture:
    """sum_k w_k N(m_k, s_k^2 I) as the data of an affine path.

    Attributes:
        path: whose alpha and sigma to use.
        weights: (k,); means: (k, d); stds: (k,).
    """

    path: AffinePath
    weights: np.ndarray
    means: np.ndarray
    stds: np.ndarray

    def _components(self, x, t):
        """Log weights of the components given x_t (batch, k), centered states (batch, k, d), and alpha, sigma, v."""
        alpha, sigma = self.path.alpha(t)[:, None], self._noise(t)[:, None]
        variance = alpha**2 * jnp.asarray(self.stds)[None] ** 2 + sigma**2
        centered = x[:, None, :] - alpha[:, :, None] * jnp.asarray(self.means)[None]
        d = x.shape[-1]
        log_joint = (
            jnp.log(jnp.asarray(self.weights))[None]
            - 0.5 * d * jnp.log(2 * jnp.pi * variance)
            - 0.5 * jnp.sum(centered**2, -1) / variance
        )
        return log_joint, centered, alpha, sigma, variance

    def _noise(self, t):
        """Of x0 and the latent together, which from a Gaussian source are one noise."""
        if not self.path.has_latent:
            return self.path.sigma(t)
        return jnp.sqrt(self.path.sigma(t) ** 2 + self.path.gamma(t) ** 2)

    def log_density(self, x, t):
        """log p(x_t), (batch,)."""
        return jax.nn.logsumexp(self._components(x, t)[0], axis=-1)

    def data_and_noise(self, x, t):
        """E[x1 | x_t] and E[x0 | x_t]."""
        log_joint, centered, alpha, sigma, variance = self._components(x, t)
        posterior = jax.nn.softmax(log_joint, axis=-1)[:, :, None]
        gain = (alpha * jnp.asarray(self.stds)[None] ** 2 / variance)[:, :, None]
        data = jnp.sum(posterior * (jnp.asarray(self.means)[None] + gain * centered), axis=1)
        noise = jnp.sum(posterior * (sigma / variance)[:, :, None] * centered, axis=1)
        return data, noise

    def velocity(self, x, t, label=None):
        """E[dx_t/dt | x_t]: the exact drift."""
        data, noise = self.data_and_noise(x, t)
        ones = jnp.ones_like(t)
        alpha_dot = jax.jvp(self.path.alpha, (t,), (ones,))[1][:, None]
        sigma_dot = jax.jvp(self._noise, (t,), (ones,))[1][:, None]
        return alpha_dot * data + sigma_dot * noise

    def score(self, x, t):
        """grad log p(x_t), from the definition."""
        return jax.vmap(jax.grad(lambda y, s: self.log_density(y[None], s[None])[0]))(x, t)


def gaussian(path, mean, std) -> Mixture:
    """One Gaussian N(mean, std^2 I)."""
    return Mixture(path, np.ones(1), np.asarray(mean, np.float32)[None], np.asarray([std], np.float32))


def class_gaussians(path, means, stds):
    """A conditional drift f(x, t, c): class c is N(means[c], stds[c]^2 I)."""
    means, stds = jnp.asarray(means, jnp.float32), jnp.asarray(stds, jnp.float32)

    def drift(x, t, label):
        """m_c + a(t) (x - t m_c) for the linear path, written for any affine one."""
        one = lambda xi, ti, c: Mixture(path, jnp.ones(1), means[c][None], stds[c][None]).velocity(xi[None], ti[None])[
            0
        ]
        return jax.vmap(one)(x, t, label)

    return drift


def three_modes(path, dim: int = 4) -> Mixture:
    """A mixture that no single Gaussian looks like."""
    means = np.random.default_rng(0).normal(size=(3, dim)) * 2
    return Mixture(
        path, np.array([0.5, 0.3, 0.2], np.float32), means.astype(np.float32), np.array([0.3, 0.6, 0.2], np.float32)
    )
