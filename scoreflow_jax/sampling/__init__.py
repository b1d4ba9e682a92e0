"""Generate, encode, translate, interpolate: pure functions of a drift, blind to where it came from."""

from scoreflow_jax.sampling.batches import Solved, SolveStats, padded, solve_in_batches
from scoreflow_jax.sampling.flow import encode, generate
from scoreflow_jax.sampling.interpolate import RULES, interpolate_latents
from scoreflow_jax.sampling.noise import noise_for
from scoreflow_jax.sampling.stochastic import Sampler, sample_keys, sample_stochastically
from scoreflow_jax.sampling.translate import (
    TRANSLATIONS,
    Translation,
    methods_by,
    translate_difference,
    translate_latent,
)

__all__ = [
    "RULES",
    "TRANSLATIONS",
    "Sampler",
    "SolveStats",
    "Solved",
    "Translation",
    "encode",
    "generate",
    "interpolate_latents",
    "methods_by",
    "noise_for",
    "padded",
    "sample_keys",
    "sample_stochastically",
    "solve_in_batches",
    "translate_difference",
    "translate_latent",
]
