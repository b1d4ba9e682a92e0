"""The score-difference flow (Weber 2023, arXiv:2304.12906): particles x of a density q move to a density p by

    dx/dt = score_p(x) - score_q(x) = grad log p(x) - grad log q(x),

of all velocity fields of a given mean square the one along which KL(q || p) falls fastest, at the rate E_q |score_p -
score_q|^2. Both densities are smoothed by N(0, s^2 I), where s follows a schedule; q is that of the particles as they stand, by
their kernel density, or whatever a function says. With `jitter` the difference is taken at z = x + s noise, a draw of the
smoothed q: its mean is then the direction in which x lowers KL(q_s || p_s), and p_s = q_s only where p = q.

It meets denoising diffusion where (tests/sampling/test_difference_flow.py holds each against the other):

    Langevin dynamics   dx = score_p dt + sqrt(2) dW has the marginals of this flow, whose density follows the same Fokker-Planck
                        equation: exact score_q, no smoothing, the same start.
    denoising           With score_q that of the conditional q(z | x) = N(z; x, s^2 I) in place of the density's, -noise / s, a
                        step of s^2 from x ends at z + s^2 score_p(z) = E[x1 | z], Tweedie's denoiser: exact score_p, jitter,
                        rule "bandwidth", step_size 1. The kernel density of particles much further apart than z is from
                        its own has that score.
    the reverse SDE     of VE, dx = 2 s |ds| score_p + sqrt(2 s |ds|) noise as s falls, has the marginals of the ODE
                        dx = s |ds| score_p + s |ds| (score_p - score_q), the probability-flow ODE and this flow at the same
                        rate, from any start: exact score_q of the present density. Where q = p_s the flow rests.

Eq. 7 of ScoreFlow, dx/dt = s^2 (score_p - score_q) with s = s_0 e^t, t in [0, 1], has score_q of a *fixed* q: step_rule
"bandwidth", schedule "geometric" from s_0 to e s_0, step_size 1 / num_steps.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from scoreflow_jax.errors import UserError
from scoreflow_jax.sampling.kernel_score import smoothed_density
from scoreflow_jax.sampling.noise import noise_for
from scoreflow_jax.settings.commands import FlowFields
from scoreflow_jax.typing import HostState, PointSet, PRNGKey, PyTree, State, Time

Score = Callable[[State, Time, PyTree], State]
"""(x, bandwidth, memory) -> score at x of a density smoothed by N(0, bandwidth^2 I); memory is what the difference was given."""


@runtime_checkable
class Difference(Protocol):
    """What moves the particles."""

    def __call__(
        self, at: State, bandwidth: Time, particles: PointSet, step: Any, memory: PyTree
    ) -> tuple[State, PyTree]:
        """score_p - score_q at the points `at` and what to remember for the next step."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class DifferenceFlow(FlowFields):
    """How particles move."""

    def bandwidth(self, step: Any) -> Time:
        """s of a step, from 0 to num_steps - 1."""
        share = jnp.asarray(step, jnp.float32) / max(self.num_steps - 1, 1)
        if self.schedule == "geometric":
            return self.sigma_start * (self.sigma_end / self.sigma_start) ** share
        return self.sigma_start + (self.sigma_end - self.sigma_start) * share * (self.schedule == "linear")

    def step_length(self, bandwidth: Time) -> Time:
        """dt at a bandwidth."""
        return self.step_size * (bandwidth**2 if self.step_rule == "bandwidth" else jnp.ones_like(bandwidth))


def score_difference(score_p: Score, score_q: Score | None = None, *, exclude_self: bool = False) -> Difference:
    """The difference of two scores.

    Args:
        score_p: where the particles are to go.
        score_q: where they are; None: the kernel density of the particles as they stand.
        exclude_self: of that, leave each particle out of its own.
    """

    def difference(at: State, bandwidth: Time, particles: PointSet, step: Any, memory: PyTree) -> tuple[State, PyTree]:
        """Both at the same points."""
        del step
        if score_q is not None:
            here = score_q(at, bandwidth, memory)
        else:
            here = smoothed_density(at, particles, bandwidth, exclude_self=exclude_self).score
        return score_p(at, bandwidth, memory) - here, memory

    return difference


def move(
    difference: Difference, flow: DifferenceFlow, particles: State, step: Any, memory: PyTree, key: PRNGKey
) -> tuple[State, PyTree]:
    """Takes one Euler step. Noise of particle i at step k is drawn from fold_in(fold_in(key, k), i).

    Args:
        difference: of the scores.
        flow: has the bandwidth and length of the step, and whether there is jitter.
        particles: where they are.
        step: k, from 0.
        memory: what the difference is given.
        key: of the noise, which only jitter draws.

    Returns:
        The particles and the memory after the step.
    """
    bandwidth = flow.bandwidth(step)
    at = particles
    if flow.jitter:
        noise = noise_for(jax.random.fold_in(key, step), jnp.arange(len(particles)), particles.shape[1:])
        at = particles + bandwidth * noise
    change, memory = difference(at, bandwidth, particles, step, memory)
    return particles + flow.step_length(bandwidth) * change, memory


class Flowed(NamedTuple):
    """Where particles went.

    Attributes:
        particles: in the end.
        frames: at the steps that were asked for, on the host.
        memory: of the difference, in the end.
    """

    particles: State
    frames: list[HostState]
    memory: PyTree


def flow_particles(
    difference: Difference,
    particles: State,
    flow: DifferenceFlow,
    key: PRNGKey,
    *,
    memory: PyTree = None,
    kept: Sequence[int] = (),
    watch: Callable[[int, State, PyTree], None] = lambda *_: None,
) -> Flowed:
    """Moves particles by all steps of the flow.

    Args:
        difference: of the scores.
        particles: from where.
        flow: how.
        key: of the noise.
        memory: what the difference is given at the first step.
        kept: numbers of steps, ascending from 0 to num_steps, after which to keep a frame.
        watch: called at these with their number, the particles and the memory.

    Raises:
        UserError: particles that are not finite.
    """

    @jax.jit
    def several(particles: State, memory: PyTree, first: Any, last: Any) -> tuple[State, PyTree]:
        """Steps first .. last - 1."""
        body = lambda step, kept: move(difference, flow, kept[0], step, kept[1], key)  # noqa: E731
        return jax.lax.fori_loop(first, last, body, (particles, memory))

    frames = []
    stops = sorted({0, *kept, flow.num_steps})
    for first, last in itertools.pairwise([0, *stops]):
        particles, memory = several(particles, memory, first, last)
        if not bool(jnp.isfinite(particles).all()):
            raise UserError(
                f"particles are not finite after {last} steps of the score-difference flow: lower its step_size or raise "
                "its sigma_end"
            )
        if last in kept:
            frames.append(np.asarray(particles))
            watch(last, particles, memory)
    return Flowed(particles, frames, memory)


class Estimate(NamedTuple):
    """A mean and its standard error."""

    mean: float
    error: float


def smoothed_kl(particles: State, data: PointSet, bandwidth: float, key: PRNGKey) -> Estimate:
    """KL(q_h || p_h) in nats of particles and data, both smoothed by N(0, h^2 I), by its definition

        (1/n) sum_i [log q_h(z_i) - log p_h(z_i)],    z_i = x_i + h noise_i, a draw of q_h,

    with the i-th particle left out of log q_h(z_i), which would else be far too large there. It is biased downwards, by the
    variance of a kernel density of n points, more so the higher the dimension, and by particles that keep their distance from
    each other, as this flow has them do: an estimate below 0 says that. The error is that of the mean over particles alone.

    Args:
        particles: at least two.
        data: points of p.
        bandwidth: h.
        key: noise i is drawn from fold_in(key, i).
    """
    noise = noise_for(key, jnp.arange(len(particles)), particles.shape[1:])
    at = particles + bandwidth * noise
    here = smoothed_density(at, particles, bandwidth, exclude_self=True).log_density
    terms = np.asarray(here - smoothed_density(at, data, bandwidth).log_density, np.float64)
    return Estimate(float(terms.mean()), float(terms.std(ddof=1) / np.sqrt(len(terms))))
