"""Bits/dim of held-out images, of points of a table nats: by the ODE, by the density formula, by DDPM's bound."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from scoreflow_jax.density_formula import DensityFormula, Gaussian, Table, excess, level_range, tabulate, tail
from scoreflow_jax.evaluation.data import Data
from scoreflow_jax.likelihood import bits_per_dim
from scoreflow_jax.model import Model
from scoreflow_jax.paths import AffinePath, DDPMPath
from scoreflow_jax.pixels import dequantized
from scoreflow_jax.randomness import key_of
from scoreflow_jax.typing import HostState, Images, PRNGKey, Stored

WARNING = (
    "trained on data that were not dequantized: all its mass may sit on the grey levels, and the density between them says "
    "little. Train with config.data.dequantize=True"
)
_PILOT_IMAGES, _PILOT_LEVELS = 64, 32  # of the training split, by which levels are tabulated

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
        chosen, levels = data.some(count), data.experiment.spec.levels
        pixels, labels = (data.examples("test")[field][chosen] for field in ("image", "label"))
        key = jax.random.key(data.settings.seeds[0])
        x = np.asarray(dequantized_images(key, pixels, levels)) if levels else pixels
        return cls(pixels, x, labels if model.num_classes else None, key)


def measure_likelihood(model: Model, data: Data) -> dict[str, Any]:
    """Bits/dim of test images, uniformly dequantized once, or nats of test points, with the standard error over them.

    The density formula's figures stand under "formula", with the gap to the ODE where both are measured; those of DDPM's bound,
    where the path is DDPM's, under "chain".
    """
    settings, spec = data.settings, data.experiment.spec
    held = HeldOut.draw(model, data, settings.likelihood_images)
    figures: dict[str, Any] = {"of": len(held.x)}
    ode = None
    if settings.likelihood in ("ode", "both"):
        kind, probes = settings.likelihood_probe, settings.likelihood_probes
        solved = model.solve_log_likelihood(held.x, held.labels, key=held.key, probe=kind, probes=probes)
        ode = in_unit(solved.y[0], data)
        cost = solved.stats.summary()
        figures |= _summary(ode, data) | {"probe": kind, "evaluations": cost["nfe_mean"], "cost": cost}
        figures |= of_states(model)
        if kind != "exact":
            figures["probes"] = probes
        if probes > 1:
            figures |= _probe_errors(solved.y[2], data)
    if settings.likelihood in ("density", "both"):
        figures["formula"] = _by_formula(model, data, held, ode)
        if isinstance(model.experiment.path, DDPMPath):
            figures["chain"] = _by_chain(model, data, held)
    if not spec.levels:
        return {**figures, "unit": "mean log density of held-out points in the table's own units, in nats"}
    figures |= {"uniform": float(np.log2(spec.levels)), "dequantization": "uniform, (k + u) / levels, drawn once"}
    return figures if trained_on_dequantized(model) else {**figures, "warning": WARNING}


def of_states(model: Model) -> dict[str, Any]:
    """Where the path leaves noise in its last states, that the ODE's density is of these."""
    path = model.experiment.path
    if not isinstance(path, AffinePath) or not path.noise_left:
        return {}
    return {"of_states": {"time": path.t_max, "noise": path.noise_left}}


def _by_formula(model: Model, data: Data, held: HeldOut, ode: Values | None) -> dict[str, Any]:
    settings = data.settings
    formula = dataclasses.replace(formula_of(settings.density_levels, settings.density_calls), tail=True)
    reference = gaussian_like(data)
    table = table_for(model, data, reference) if formula.levels == "tabulated" else None
    solved = model.solve_formula_density(
        held.x, held.labels, key=held.key, formula=formula, reference=reference, table=table
    )
    size = int(np.prod(data.experiment.spec.shape))
    beyond, beyond_error = tail(solved.y[2], held.x, path_of(model), formula.reference, reference)
    beyond = 0.0 if np.isnan(beyond) else beyond  # nothing is known of it
    values = in_unit(solved.y[0] + size * beyond, data)
    sign = -1.0 if data.experiment.spec.levels else 1.0
    figures = _summary(values, data) | {
        "beyond_the_path": sign * size * beyond / _unit(data),
        "beyond_error": None if np.isnan(beyond_error) else size * beyond_error / _unit(data),
        "calls": formula.num_calls + formula.tail_calls,
        "pilot_calls": 2 * _PILOT_LEVELS * _PILOT_IMAGES if table is not None else 0,
        "estimation_error": _root_mean_square(solved.y[1]) / _unit(data),
        **dataclasses.asdict(formula),
        "cost": solved.stats.summary(),
    }
    if ode is not None:
        gap = values - ode
        figures |= {"gap_to_ode": float(gap.mean()), "gap_standard_error": _standard_error(gap)}
    return figures


def _by_chain(model: Model, data: Data, held: HeldOut) -> dict[str, Any]:
    """The bound on what the model was trained on: levels, of whose probability it is, or dequantized images, of whose density."""
    x, of_levels = chain_data(data, held)
    variance = model.experiment.sampler.variance
    solved = model.solve_chain_bound(x, held.labels, key=held.key, variance=variance)
    cost = solved.stats.summary()
    return _summary(in_unit(solved.y[0], data, of_levels=of_levels), data) | {
        "calls": int(cost["nfe_max"]),
        "variance": variance,
        "of": "levels" if of_levels else "a density",
        "cost": cost,
    }


def chain_data(data: Data, held: HeldOut) -> tuple[HostState, bool]:
    """What DDPM's bound is taken of, and whether that are grey levels."""
    of_levels = bool(data.experiment.spec.levels) and not data.experiment.data.dequantize
    return (data.experiment.scaling.to_images(held.pixels) if of_levels else held.x), of_levels


def formula_of(levels: str, calls: int, replicates: int | None = None) -> DensityFormula:
    """The formula with these levels and about so many network calls: with few, fewer replicates."""
    if replicates is None:
        replicates = 8 if calls >= 64 else 4 if calls >= 16 else 2
    unit = 2 * replicates
    return DensityFormula(levels=levels, replicates=replicates, num_calls=max(1, calls // unit) * unit)


def gaussian_like(data: Data) -> Gaussian:
    """Mean and variance of each number of the training examples, dequantized."""
    images, _ = data.images("train")
    levels = data.experiment.spec.levels
    within = (2.0 / levels) ** 2 / 12.0 if levels else 1e-6  # of a cell; of points, against a constant coordinate
    return Gaussian(images.mean(0), images.var(0) + np.float32(within))


def table_for(model: Model, data: Data, reference: Gaussian) -> Table:
    """Where along the levels the formula's draws scatter for this model, by a pilot on training examples.

    Pairs of opposite noises are drawn at levels spread evenly over the range, as in the estimate itself.
    """
    drift, path = model.experiment.drift(jax.device_get(model.params)), path_of(model)
    pixels, labels = (data.examples("train")[field] for field in ("image", "label"))
    chosen = np.random.default_rng(data.settings.seeds[0]).permutation(len(labels))[:_PILOT_IMAGES]
    key = key_of(jax.random.key(data.settings.seeds[0]), "pilot")
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
    for k in range(_PILOT_LEVELS):
        here = jax.random.fold_in(key, k)
        place = np.asarray(jax.random.uniform(key_of(here, "pilot level"), (len(x),)))
        level = low + (k + place) * (high - low) / _PILOT_LEVELS
        noise = jax.random.normal(key_of(here, "pilot noise"), x.shape)
        drawn.append(level)
        found.append(np.asarray(pair(jnp.asarray(level, jnp.float32), noise)))
    levels_drawn = np.concatenate([np.asarray([low, high]), *drawn])
    return tabulate(levels_drawn, np.concatenate([np.zeros(2), *found]), _PILOT_LEVELS + 1)


def path_of(model: Model) -> AffinePath:
    """The model's path, with its learned numbers where it has some."""
    path = model.experiment.drift(jax.device_get(model.params)).path
    assert isinstance(path, AffinePath)
    return path


def in_unit(nats: HostState, data: Data, *, of_levels: bool = False) -> Values:
    """Bits/dim of densities on [-1, 1], or with `of_levels` of probabilities; of points, nats in the table's own units."""
    spec = data.experiment.spec
    if not spec.levels:
        return np.asarray(nats, np.float64) - data.units.log_volume
    size = int(np.prod(spec.shape))
    if of_levels:
        return -np.asarray(nats, np.float64) / (size * np.log(2.0))
    return np.asarray(bits_per_dim(jnp.asarray(nats), size, spec.levels), np.float64)


def _summary(values: Values, data: Data) -> dict[str, Any]:
    """Mean and standard error of what `in_unit` returned."""
    error = {"standard_error": _standard_error(values)}
    if data.experiment.spec.levels:
        return {"images": len(values), "bits_per_dim": float(values.mean()), **error}
    nats = float(values.mean())
    return {"points": len(values), "nats": nats, "nats_per_dim": nats / len(data.units.columns), **error}


def _probe_errors(errors: Values, data: Data) -> dict[str, float]:
    """How far the probes alone may have put an image off, and the mean over images, which its standard error has in it."""
    each = _root_mean_square(errors) / _unit(data)
    return {"probe_error_per_image": each, "probe_error": each / float(np.sqrt(len(errors)))}


def _unit(data: Data) -> float:
    """Nats in one unit of `in_unit`."""
    spec = data.experiment.spec
    return float(np.prod(spec.shape) * np.log(2.0)) if spec.levels else 1.0


def _root_mean_square(values: HostState) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def _standard_error(values: Values) -> float | None:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None


def dequantized_images(key: PRNGKey, pixels: Stored, levels: int) -> Images:
    """Image i by the i-th dequantization of the key."""
    named = key_of(key, "dequantization")
    draw = jax.vmap(lambda i, pixels: dequantized(jax.random.fold_in(named, i), pixels[None], levels)[0])
    return jax.jit(draw)(jnp.arange(len(pixels)), jnp.asarray(pixels))


def trained_on_dequantized(model: Model) -> bool:
    """Without which its likelihoods carry `WARNING`."""
    return bool(model.trained_config["data"].get("dequantize", False))
