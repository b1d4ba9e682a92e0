"""What a network is to the rest of the package: parameters, and a drift when it is given them.

A member is a flax.linen module called as module(x, t, label, train). Only this package imports flax.linen; everything else
holds the module as an opaque value and uses the functions below.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from scoreflow_jax.typing import DriftFn, Labels, PRNGKey, PyTree, State, Times


class Network(nn.Module):
    """The base of every network."""

    dtype: Any = jnp.float32

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises a ValueError for examples of a shape, without the batch, that the network cannot take; default: none."""


def init_parameters(network: Network, key: PRNGKey, shape: tuple[int, ...], num_classes: int) -> PyTree:
    """Returns fresh float32 parameters for examples of the given shape, without the batch."""
    label = jnp.zeros((1,), jnp.int32) if num_classes else None
    return network.init(key, jnp.zeros((1, *shape)), jnp.zeros((1,)), label)["params"]


def make_drift(network: Network, params: PyTree, *, dropout_key: PRNGKey | None = None) -> DriftFn:
    """Returns f(x, t, c) of a network with these parameters.

    Args:
        network: the module.
        params: its parameters.
        dropout_key: given while training, when dropout is on; without it the drift is deterministic.
    """
    train = dropout_key is not None
    rngs = {"dropout": dropout_key} if train else None

    def drift(x: State, t: Times, label: Labels | None) -> State:
        """f(x, t, c)."""
        output: Any = network.apply({"params": params}, x, t, label, train=train, rngs=rngs)
        return output

    return drift


def float32_compute(network: Network) -> Network:
    """The same network computing in float32, as ODE solves need it: noise in the drift costs an adaptive solver steps."""
    return network.clone(dtype=jnp.float32)


def parameter_shapes(network: Network, shape: tuple[int, ...], num_classes: int) -> PyTree:
    """The tree of parameter shapes, without computing anything."""
    return jax.eval_shape(lambda key: init_parameters(network, key, shape, num_classes), jax.random.key(0))


def num_parameters(params: Any) -> int:
    """How many numbers a tree of arrays or shapes holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
