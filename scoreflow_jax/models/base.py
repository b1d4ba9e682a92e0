"""What a network is to the rest of the package: parameters, and a drift when it is given them.

A member is a flax.linen module called as module(x, t, condition, train). Only this package imports flax.linen; everything
else holds the module as an opaque value and uses the functions below.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from scoreflow_jax.settings.fields import check_fields
from scoreflow_jax.settings.model import NetworkFields
from scoreflow_jax.typing import Condition, NetworkFn, PRNGKey, PyTree, State, Times


class Network(NetworkFields, nn.Module):
    """The base of every network.

    Attributes:
        num_classes: number of classes of the labels that condition it; 0: none.
        condition_dim: length of the vectors that condition it, such as embeddings of a text, instead of labels; 0: none.
            With neither the network is unconditional.
        outputs: arrays of the examples' shape that it returns, joined along the last axis.
    """

    num_classes: int = 0
    condition_dim: int = 0
    outputs: int = 1

    @property
    def is_published(self) -> bool:
        """Whether checkpoints of such networks were published that `import_published` reads."""
        return False

    @property
    def steep_in_time(self) -> bool:
        """Whether a derivative by t through its embedding of t is too large to train by; default: no."""
        return False

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises a ValueError for examples of a shape, without the batch, that the network cannot take; default: none."""

    def example_condition(self, batch: int) -> Condition | None:
        """A condition of the right shape and dtype; None for an unconditional network."""
        if self.condition_dim:
            return jnp.zeros((batch, self.condition_dim))
        return jnp.zeros((batch,), jnp.int32) if self.num_classes else None

    def check(self) -> None:
        """Checks every field by itself, that guidance is of jumps, and that label dropout has labels to drop.

        Raises:
            ValueError: a value that its field may not have, guidance without jumps, or label dropout without labels.
        """
        check_fields(self)
        if self.most_guidance and not (self.two_times and self.most_guidance > 1):
            raise ValueError(
                f"most_guidance is {self.most_guidance}, of jumps of a network with two_times: expected more than 1, or 0"
            )
        if self.label_dropout and not (self.num_classes or self.condition_dim):
            raise ValueError("label_dropout needs labels: this network is unconditional")

    def check_condition(self, condition: Condition | None) -> None:
        """Refuses a condition that the network does not take.

        Raises:
            ValueError: with what it takes.
        """
        if condition is None and self.label_dropout:
            return
        expected = jax.eval_shape(lambda: self.example_condition(1))
        got = None if condition is None else (condition.shape[1:], jnp.issubdtype(condition.dtype, jnp.integer))
        if got != (None if expected is None else (expected.shape[1:], jnp.issubdtype(expected.dtype, jnp.integer))):
            shape = None if condition is None else (condition.shape, str(condition.dtype))
            raise ValueError(
                f"got {'no condition' if shape is None else f'a condition {shape}'} for a network of {self.num_classes} "
                f"classes and condition_dim {self.condition_dim}, expected {self._takes()}"
            )

    def _takes(self) -> str:
        if self.condition_dim:
            return f"float vectors (batch, {self.condition_dim})"
        return "integer labels (batch,)" if self.num_classes else "None, since it is unconditional"


def init_parameters(network: Network, key: PRNGKey, shape: tuple[int, ...]) -> PyTree:
    """Returns fresh float32 parameters for examples of the given shape, without the batch.

    Args:
        network: whose parameters.
        key: that they are drawn from.
        shape: of one example.
    """
    more: dict[str, Any] = {"jump": jnp.zeros((1,))} if network.two_times else {}
    if network.most_guidance:
        more["guidance"] = jnp.ones((1,))
    return network.init(key, jnp.zeros((1, *shape)), jnp.ones((1,)), network.example_condition(1), **more)["params"]


def make_drift(network: Network, params: PyTree, *, dropout_key: PRNGKey | None = None) -> NetworkFn:
    """Returns f(x, t, c) of a network with these parameters, and of one that is told two times f(x, t, c, s - t, w).

    All calls of one function drop the same activations of the same rows: the dropout key is one.

    Args:
        network: the module.
        params: its parameters.
        dropout_key: given while training, when dropout is on; without it the drift is deterministic.
    """
    train = dropout_key is not None
    rngs = {"dropout": dropout_key} if train else None

    def drift(
        x: State, t: Times, condition: Condition | None, jump: Times | None = None, guidance: Times | None = None
    ) -> State:
        """f(x, t, c), or what the network says of a jump."""
        more: dict[str, Any] = {} if jump is None else {"jump": jump}
        if guidance is not None:
            more["guidance"] = guidance
        output: Any = network.apply({"params": params}, x, t, condition, train=train, rngs=rngs, **more)
        return output

    return drift


def computing_in(dtype: str, network: Network) -> Network:
    """The same network computing in another type: "float32" or "bfloat16"."""
    return network.clone(dtype=dtype)


def parameter_shapes(network: Network, shape: tuple[int, ...]) -> PyTree:
    """The tree of parameter shapes, without computing anything."""
    return jax.eval_shape(lambda key: init_parameters(network, key, shape), jax.random.key(0))


def num_parameters(params: Any) -> int:
    """How many numbers a tree of arrays or shapes holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
