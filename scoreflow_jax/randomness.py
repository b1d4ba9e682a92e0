"""Every random number has an address: a key, the name of the draw, and a number within it.

JAX derives keys by hashing: fold_in(key, n) for a number n, and split(key, k)[n] is that very key. So two draws that number
their keys from 0, each for itself, share their bits, and Rademacher signs, normal and uniform numbers of one key are functions of
the same bits. Here a draw is told by its name, whose number lies beyond any sample's or step's: draws with different names are
independent, whatever else is drawn from the same key, also where a user gives one key to two calls.

Noise alone has no name: that of sample i is drawn from fold_in(key, i), as the README promises.
"""

import hashlib
from typing import Any

import jax
import numpy as np

from scoreflow_jax.errors import UserError

VERSION = 2
"""The addresses' version. In version 1, until 2026-11, some draws shared bits. It stands in what identifies stored samples,
pairs and studies, so that those of one version are not taken for those of another."""

DRAWS = {
    # a run
    "parameters": "of a network before training",
    "training": "everything of a run's steps; step n draws from fold_in(this, n)",
    # a training step
    "source": "points at t = 0",
    "times": "the training times",
    "second times": "the training times of a flow map's jumps' ends",
    "guidance": "weights of guidance that a flow map's jumps are told",
    "latent": "z of a path that has a latent, in evaluation too",
    "flip": "which images are mirrored",
    "dequantization": "where within its level a pixel lies, in evaluation too",
    "base flip": "which images at t = 0 are mirrored",
    "base dequantization": "where within its level a pixel of an image at t = 0 lies",
    "dropout": "of the network, labels left out for guidance included",
    # solving with a trained model
    "base order": "the order of the data set at t = 0",
    "sampler": "noise of a stochastic sampler's steps",
    "probe": "Hutchinson's probes of a divergence",
    "formula": "of the density formula",
    "formula level": "noise levels",
    "formula noise": "noise at these levels",
    "chain": "of DDPM's variational bound",
    "chain step": "which of the chain's steps are computed",
    "chain noise": "noise at these steps",
    "translation": "of translation by an SDE between two data sets, for each way",
    "figure": "of figure n of --mode=figures",
    # an evaluation
    "pilot": "of the measurement by which the density formula's levels are tabulated",
    "pilot level": "noise levels",
    "pilot noise": "noise at these levels",
    "outliers": "of other kinds of images, for each kind",
    # the score-difference flow
    "particles": "where particles begin",
    "examples": "which training examples are taken, and in which order",
    "move": "noise of the flow's steps",
    "smoothing": "noise by which particles are smoothed to estimate a divergence",
    "classifier": "of the classifier that follows the particles",
    "warm-up": "its batches before the first step",
    "follow": "its batches at each step",
    "data batch": "of the data",
    "particle batch": "of the particles",
    "batch members": "which ones",
    "batch noise": "their noise",
}
"""Every draw, by name."""


def key_of(key: jax.Array, name: str) -> jax.Array:
    """The key of the draw of this name: what is drawn from it shares no bits with draws of other names, or with noise.

    Args:
        key: of a run, a step, a sample or a user's call.
        name: in `DRAWS`.

    Raises:
        KeyError: no such name.
    """
    return jax.random.fold_in(key, _NUMBERS[name])


KeyLike = Any
"""A key of jax.random.key, or the seed of one."""


def as_key(key: KeyLike) -> jax.Array:
    """A key as users give it: one of jax.random.key, a seed, or one of the older jax.random.PRNGKey.

    Raises:
        UserError: several keys, or something else.
    """
    if isinstance(key, int | np.integer) and type(key) is not bool:
        if not 0 <= key < 2**32:  # of more JAX takes the last 32 bits
            raise UserError(f"the seed is {key}, expected a whole number from 0 to 2^32 - 1")
        return jax.random.key(int(key))
    if isinstance(key, jax.Array) and jax.numpy.issubdtype(key.dtype, jax.dtypes.prng_key):
        if key.shape:
            raise UserError(
                f"got keys of shape {key.shape}, expected one: sample i draws from fold_in(key, i), so that all differ"
            )
        return key
    older = jax.random.key_data(jax.random.key(0))
    if isinstance(key, jax.Array | np.ndarray) and (key.dtype, key.shape) == (older.dtype, older.shape):
        return jax.random.wrap_key_data(jax.numpy.asarray(key))
    what = f"{key.dtype} of shape {key.shape}" if isinstance(key, jax.Array | np.ndarray) else repr(key)
    raise UserError(f"got {what} for a key, expected jax.random.key(0) or a seed such as 0")


def _number(name: str) -> int:
    """A number from 2^31, beyond those of samples and steps, to 2^32 - 1: by the name alone, so that new draws move no others."""
    return 2**31 | int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


_NUMBERS = {name: _number(name) for name in DRAWS}
