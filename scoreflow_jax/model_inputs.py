"""What users give to a model, as its programs take it: states, labels and weights of guidance."""

import warnings
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from scoreflow_jax.errors import UserError

if TYPE_CHECKING:
    from scoreflow_jax.experiment import Experiment
else:  # it is built of what stands below it
    Experiment = Any

LabelsLike = ArrayLike | list[int] | tuple[int, ...] | None
"""A label for all, one for each example, or None for an unconditional model."""

_FAR = 10.0
"""Beyond it nothing is an image in [-1, 1], whatever noise or error is in it."""


def as_states(experiment: Experiment, x: ArrayLike, *, latents: bool = False) -> Float[Array, "batch ..."]:
    """Checks states and makes them float32; 8-bit pictures, which latents are none of, are scaled to [-1, 1].

    Args:
        experiment: says the shape, and how pictures are scaled.
        x: (batch, ...): float32 states, or 8-bit pictures.
        latents: whether they are latents.

    Raises:
        UserError: another shape, or whole numbers of another kind.
    """
    x = x if isinstance(x, jax.Array) else np.asarray(x)
    if x.dtype.kind not in "biuf" and not jnp.issubdtype(x.dtype, jnp.floating):  # text, objects, complex numbers
        raise UserError(f"got images of {x.dtype}, expected uint8 from 0 to 255, or float32")
    if x.shape[1:] != experiment.spec.shape or not x.ndim:
        raise UserError(
            f"got images of shape {x.shape}, expected (batch, {', '.join(map(str, experiment.spec.shape))})"
        )
    if not experiment.spec.is_points and not jnp.issubdtype(x.dtype, jnp.floating):
        if latents or x.dtype != jnp.uint8:
            wanted = "float32" if latents else "uint8 from 0 to 255, or float32 in [-1, 1]"
            raise UserError(f"got {'latents' if latents else 'images'} of {x.dtype}, expected {wanted}")
        x = experiment.scaling.from_eight_bits(np.asarray(x))
    if isinstance(x, jax.Array):
        return jnp.asarray(x, jnp.float32)
    return jax.device_put(np.asarray(x, np.float32))  # jnp.asarray compiles a program for every shape


def as_data(experiment: Experiment, images: ArrayLike) -> Float[Array, "batch ..."]:
    """Images of a user's, at t = 1: `as_states`, whose values can be seen to be no pixels' or other pixels'.

    Raises:
        UserError: values far outside [-1, 1], or not finite.
    """
    x = as_states(experiment, images)
    if experiment.spec.is_points or isinstance(x, jax.core.Tracer) or not x.size:
        return x
    low, high = float(jnp.min(x)), float(jnp.max(x))
    if not (low >= -_FAR and high <= _FAR):
        raise UserError(
            f"got images from {low:.4g} to {high:.4g}, expected -1 (black) to 1 (white): give 8-bit pictures as uint8, which "
            "are scaled, or scale them"
        )
    if 0.0 <= low < high:
        warnings.warn(
            f"images from {low:.4g} to {high:.4g} have nothing darker than the middle grey, which is 0 here: black is -1 and "
            "white 1. Pictures in [0, 1] become such by 2 x - 1",
            stacklevel=3,
        )
    return x


def as_weights(
    experiment: Experiment, guidance: ArrayLike | None, labels: LabelsLike, count: int
) -> Float[np.ndarray, " count"]:
    """Checks weights of guidance and makes them float32, one for each image, (count,).

    Args:
        experiment: of the model.
        guidance: a weight for all, or one for each.
        labels: of the images; None is refused.
        count: how many images there are.

    Raises:
        UserError: a model that cannot be guided, no labels, or weights of another shape.
    """
    told = experiment.network.most_guidance and experiment.solver.method == "flow_map" and experiment.sampler.is_ode
    if not (experiment.network.label_dropout or told) or labels is None:
        what = "labels" if labels is None else "a model trained with config.model.label_dropout, such as 0.1"
        raise UserError(f"guidance needs {what}: it mixes the conditional and the unconditional drift")
    array = np.asarray(guidance, np.float32)
    if array.shape not in ((), (count,)):
        raise UserError(f"got guidance of shape {array.shape} for {count} images, expected one weight, or one for each")
    return np.broadcast_to(array, (count,))


def as_labels(experiment: Experiment, labels: LabelsLike, count: int) -> Any:
    """Checks labels and makes them int32, one for each image, (count,); None for an unconditional model or drift.

    Args:
        experiment: of the model.
        labels: a class for all, or one for each; None for an unconditional model, or for the unconditional drift.
        count: how many images there are.

    Raises:
        UserError: labels missing, too many, of the wrong kind or outside the classes.
    """
    if not experiment.num_classes:
        if labels is not None:
            raise UserError("this model is unconditional: give no labels")
        return None
    if labels is None and experiment.network.label_dropout:
        return None  # the unconditional drift
    if labels is None:
        raise UserError(f"this model has {experiment.num_classes} classes: give a label for each image")
    traced = isinstance(labels, jax.core.Tracer)
    array: Any = labels if traced else np.asarray(labels)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise UserError(f"labels are {array.dtype}, expected integers from 0 to {experiment.num_classes - 1}")
    if array.shape not in ((), (count,)):
        raise UserError(f"got labels of shape {array.shape} for {count} images, expected one, or one for each")
    if traced:  # what they are is not known yet
        return jnp.broadcast_to(array, (count,)).astype(jnp.int32)
    if array.size and not (array.min() >= 0 and array.max() < experiment.num_classes):
        wrong = array[(array < 0) | (array >= experiment.num_classes)].flat[0]
        raise UserError(f"label {wrong} is outside the classes, expected 0 to {experiment.num_classes - 1}")
    return np.broadcast_to(array, (count,)).astype(np.int32)


def count_of(labels: LabelsLike, num_images: int | None) -> int:
    """How many images are asked for: as many as there are labels, unless a number says so.

    Raises:
        UserError: neither, or no number.
    """
    if num_images is not None:
        if type(num_images) is bool or not isinstance(num_images, int | np.integer) or num_images < 1:
            raise UserError(f"num_images is {num_images!r}, expected a whole number of at least 1")
        return int(num_images)
    if labels is None:
        raise UserError("give labels, or num_images for an unconditional model")
    return int(np.size(np.asarray(labels)))
