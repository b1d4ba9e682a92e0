"""Array and function types shared by the whole package.

Axis names are the same everywhere: `batch height width channel` for images, `batch` for times and labels. Inside the
package images are float32 in [-1, 1] and time runs from 0 (the source, usually Gaussian noise) to 1 (the data).
"""

from typing import Any, Protocol, runtime_checkable

import jax
from jaxtyping import Array, Float, Int

from scoreflow_jax.host_typing import HostImages as HostImages
from scoreflow_jax.host_typing import HostState as HostState
from scoreflow_jax.host_typing import Pixels as Pixels
from scoreflow_jax.host_typing import Stored as Stored

Images = Float[Array, "batch height width channel"]
"""float32, in [-1, 1] where they are data and unbounded where they are states of an ODE."""

Times = Float[Array, " batch"]
"""One time per example, in [0, 1]."""

Time = Float[Array, ""]
"""One time for a whole batch, in [0, 1]."""

Labels = Int[Array, " batch"]
"""int32 class labels in [0, num_classes)."""

Condition = Labels | Float[Array, "batch condition"]
"""What the drift is told besides point and time: class labels, or vectors such as embeddings of a text."""

State = Float[Array, "batch ..."]
"""Points of any dimension, the batch first: images, or vectors in the tests and the two-dimensional experiments."""

PointSet = Float[Array, "points ..."]
"""A set of points beside a batch, of the same dimension but a number of its own: data to compare particles with."""

PerExample = Float[Array, " batch"]
"""One number per example."""

PRNGKey = jax.Array
"""A typed key, from jax.random.key."""

PyTree = Any
"""Nested containers of arrays. Fields of flax.struct records are annotated so, because tree.map puts shardings and shapes
in the arrays' place."""


@runtime_checkable
class DriftFn(Protocol):
    """The drift f(x, t, c) of the ODE dx/dt = f(x, t, c), the one thing that is learned."""

    def __call__(self, x: State, t: Times, condition: Condition | None) -> State:
        """Returns dx/dt at the points x (batch, ...) and times t (batch,), under conditions, or None."""
        ...


@runtime_checkable
class NetworkFn(Protocol):
    """A network with its parameters: a drift, and where it is told two times also what it says of the way from t to s."""

    def __call__(
        self, x: State, t: Times, condition: Condition | None, jump: Times | None = None, guidance: Times | None = None
    ) -> State:
        """Returns its output at points and times under conditions, for jumps of s - t and their weights where they are given."""
        ...


@runtime_checkable
class FlowMapFn(DriftFn, Protocol):
    """A drift that also knows where its ODE leads: X_{t,s}(x) = x + (s - t) u(x, t, s, c), with u(x, t, t, c) = f(x, t, c)."""

    def mean_velocity(
        self, x: State, t: Times, s: Times, condition: Condition | None, guidance: PerExample | None = None
    ) -> State:
        """Returns u(x, t, s, c), the mean of dx/dt along the solution from x at time t to time s, which may be below t.

        With weights of guidance, of which None is 1, it is that of the guided ODE.
        """
        ...
