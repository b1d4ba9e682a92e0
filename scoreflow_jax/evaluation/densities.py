"""What the parts about densities share: held-out examples, the density formula with its levels, and units."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from scoreflow_jax.density_formula import DensityFormula, LevelTable, Reference, excess, level_range, tabulate
from scoreflow_jax.evaluation.base import Data, Model
from scoreflow_jax.likelihood import bits_per_dim
from scoreflow_jax.paths import AffinePath
from scoreflow_jax.pixels import dequantized
from scoreflow_jax.programs import FormulaDensity
from scoreflow_jax.randomness import key_of
from scoreflow_jax.sampling import SolveStats, sample_keys
from scoreflow_jax.typing import HostState, Images, PRNGKey, Stored

WARNING = (
    "trained on data that were not dequantized: all its mass may sit on the grey levels, and the density between them says "
    "little. Train with config.data.dequantize=True"
)
PILOT_IMAGES, PILOT_LEVELS = 64, 32
"""Examples of the training split, and levels, by which levels are tabulated."""

Values = Float[np.ndarray, " batch"]
HostLabels = Int[np.ndarray, " batch"]


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Test examples whose density is asked for.

    Attributes:
        pixels: as stored; points of a table are themselves.
        x: what densities are taken at: dequantized once, or the points.
        labels: for the model, None for an unconditional one.
        key: of the evaluation.
    """

    pixels: Stored
    x: HostState
    labels: HostLabels | None
    key: PRNGKey

    @classmethod
    def draw(cls, model: Model, data: Data, count: int) -> "HeldOut":
        """`count` test examples, the same for every part that asks for as many."""
        chosen, spec = data.some(count), data.experiment.spec
        pixels, labels = (data.examples("test")[field][chosen] for field in ("image", "label"))
        key = jax.random.key(data.seed)
        x = pixels if spec.is_points else np.asarray(dequantized_images(key, pixels, spec.levels))
        return cls(pixels, x, labels if model.num_classes else None, key)


def of_states(model: Model) -> dict[str, Any]:
    """Says, where the path leaves noise in its last states, that the ODE's density is of these."""
    path = model.experiment.path
    if not isinstance(path, AffinePath) or not path.noise_left:
        return {}
    return {"of_states": {"time": path.t_max, "noise": path.noise_left}}


def chain_data(data: Data, held: HeldOut) -> tuple[HostState, bool]:
    """What DDPM's bound is taken of, and whether that are grey levels."""
    of_levels = not (data.experiment.spec.is_points or data.experiment.data.dequantize)
    return (data.experiment.scaling.to_images(held.pixels) if of_levels else held.x), of_levels


def formula_of(levels: str, calls: int, replicates: int | None = None) -> DensityFormula:
    """The density formula with these levels and about so many network calls: with few, fewer replicates.

    Args:
        levels: a name in `density_formula.LEVELS`.
        calls: network calls for each example, which are rounded down to whole levels but give one at least.
        replicates: at least 2; None: 8 from 64 calls on, 4 from 16 on, else 2.
    """
    if replicates is None:
        replicates = 8 if calls >= 64 else 4 if calls >= 16 else 2
    unit = 2 * replicates
    return DensityFormula(levels=levels, replicates=replicates, num_calls=max(1, calls // unit) * unit)


def gaussian_like(data: Data) -> Reference:
    """Mean and variance of each number of the training examples, dequantized."""
    images, _ = data.images("train")
    levels = data.experiment.spec.levels
    within = (2.0 / levels) ** 2 / 12.0 if levels else 1e-6  # of a cell; of points, against a constant coordinate
    return Reference(images.mean(0), images.var(0) + np.float32(within))


def table_for(model: Model, data: Data, reference: Reference) -> LevelTable:
    """Tabulates where along the levels the formula's draws scatter for this model, by a pilot on training examples.

    Pairs of opposite noises are drawn at levels spread evenly over the range, as in the estimate itself.

    Args:
        model: whose noise predictions are measured.
        data: has the training examples, and the seed of the pilot.
        reference: the Gaussian that the formula is to subtract.
    """
    drift, path = model.experiment.drift(jax.device_get(model.params)), path_of(model)
    pixels, labels = (data.examples("train")[field] for field in ("image", "label"))
    chosen = np.random.default_rng(data.seed).permutation(len(labels))[:PILOT_IMAGES]
    key = key_of(jax.random.key(data.seed), "pilot")
    levels = data.experiment.spec.levels
    x = np.asarray(dequantized_images(key, pixels[chosen], levels)) if levels else pixels[chosen]
    low, high = level_range(path)
    condition = jnp.asarray(labels[chosen]) if model.num_classes else None

    @jax.jit
    def pair(level: Any, noise: Any) -> Any:
        """The mean excess of a noise and its negative."""
        values = [
            excess(drift.predict, path, jnp.asarray(x), condition, level, s * noise, "gaussian", reference)
            for s in (1.0, -1.0)
        ]
        return 0.5 * (values[0] + values[1])

    drawn, found = [], []
    for k in range(PILOT_LEVELS):
        here = jax.random.fold_in(key, k)
        place = np.asarray(jax.random.uniform(key_of(here, "pilot level"), (len(x),)))
        level = low + (k + place) * (high - low) / PILOT_LEVELS
        noise = jax.random.normal(key_of(here, "pilot noise"), x.shape)
        drawn.append(level)
        found.append(np.asarray(pair(jnp.asarray(level, jnp.float32), noise)))
    levels_drawn = np.concatenate([np.asarray([low, high]), *drawn])
    return tabulate(levels_drawn, np.concatenate([np.zeros(2), *found]), PILOT_LEVELS + 1)


def path_of(model: Model) -> AffinePath:
    """The model's path, with its learned numbers where it has some."""
    path = model.experiment.drift(jax.device_get(model.params)).path
    assert isinstance(path, AffinePath)
    return path


def in_unit(nats: HostState, data: Data, *, of_levels: bool = False) -> Values:
    """Converts log densities to the report's unit: bits/dim of images, nats in the table's own units of points.

    Args:
        nats: log densities of images on [-1, 1] or of standardized points, or log probabilities of images.
        data: whose examples they are.
        of_levels: whether they are probabilities of grey levels, not densities; of images only.
    """
    spec = data.experiment.spec
    if spec.is_points:
        return np.asarray(nats, np.float64) - data.units.log_volume
    size = int(np.prod(spec.shape))
    if of_levels:
        return -np.asarray(nats, np.float64) / (size * np.log(2.0))
    return np.asarray(bits_per_dim(jnp.asarray(nats), size, spec.levels), np.float64)


def dequantized_images(key: PRNGKey, pixels: Stored, levels: int) -> Images:
    """Dequantizes image i by the i-th draw of the key.

    Args:
        key: of the evaluation.
        pixels: 0 .. levels - 1, (batch, height, width, channel).
        levels: of grey.
    """
    named = key_of(key, "dequantization")
    draw = jax.vmap(lambda i, pixels: dequantized(jax.random.fold_in(named, i), pixels[None], levels)[0])
    return jax.jit(draw)(jnp.arange(len(pixels)), jnp.asarray(pixels))


def as_trained(model: Model, data: Data, count: int) -> HostState | None:
    """The test examples of `Data.some`, dequantized, where the model was trained so; None: they are as in training.

    Images on their grey levels are no draws of the density of dequantized ones: encoded, they deviate by less than the prior.
    """
    return HeldOut.draw(model, data, count).x if trained_on_dequantized(model) else None


def trained_on_dequantized(model: Model) -> bool:
    """Whether the model was trained on dequantized data, without which its likelihoods carry `WARNING`."""
    return bool(model.trained_config["data"].get("dequantize", False))


def class_densities(
    model: Model, data: Data, x: HostState, key: PRNGKey, calls: int, reference: Reference
) -> tuple[Float[np.ndarray, "batch classes"], SolveStats]:
    """log p(x | c) in nats for every class, from common noise; of an unconditional model one column, log p(x).

    Args:
        model: whose densities.
        data: has the setting of the levels, and the examples by which they are tabulated.
        x: dequantized images, or standardized points.
        key: of levels and noise.
        calls: network calls for each example and class.
        reference: the Gaussian of the formula.
    """
    formula, classes = formula_of(data.settings.density_levels, calls), max(model.num_classes, 1)
    table = table_for(model, data, reference) if formula.levels == "tabulated" else None
    keys = np.asarray(sample_keys(key_of(key, "formula"), np.arange(len(x))))
    solved = model.solve(
        FormulaDensity(keys=np.repeat(keys, classes, axis=0), formula=formula, reference=reference, table=table),
        np.repeat(x, classes, axis=0),
        np.tile(np.arange(classes, dtype=np.int32), len(x)) if model.num_classes else None,
    )
    return solved.y[0].reshape(len(x), classes).astype(np.float64), solved.stats
