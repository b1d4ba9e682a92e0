"""The names of score_sde's and RectifiedFlow's PyTorch checkpoints, and their weights in our shapes.

Those checkpoints number a network's modules in the order in which it is built and called, module.all_modules.<i>, and name
their parts inside. So the order is taken from our network by calling it on shapes; only the parts' names are written here.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from scoreflow_jax.models.base import parameter_shapes
from scoreflow_jax.models.blocks import AttentionBlock, GroupNorm, ResamplingConv, ResidualBlock
from scoreflow_jax.models.ncsnpp import FOURIER, NCSNpp
from scoreflow_jax.typing import PyTree

_PREFIX = "module."  # of torch.nn.DataParallel, in which the checkpoints were saved
_SIGMAS = "sigmas"


class PublishedEntry(NamedTuple):
    """One tensor of a published checkpoint.

    Attributes:
        name: in the checkpoint, such as all_modules.4.Conv_0.weight.
        path: of the parameter in our tree.
        axes: its axes in our order; those beyond ours have length 1.
        trained: whether the checkpoint's list of averages has it.
    """

    name: str
    path: tuple[str, ...]
    axes: tuple[int, ...]
    trained: bool = True


_VECTOR, _CONV, _LINEAR, _NIN, _CONV1X1 = (0,), (2, 3, 1, 0), (1, 0), (0, 1), (1, 0, 2, 3)
"""Axes of theirs in our order: 3x3 kernels are (out, in, height, width) there, dense ones (out, in), NIN's (in, out)."""


def published_entries(network: NCSNpp, shape: tuple[int, ...]) -> list[PublishedEntry]:
    """Every tensor that a published checkpoint of this network has, in its order, but for the noise levels.

    Args:
        network: an unconditional one without patches: the published ones know neither classes nor these.
        shape: of its images.

    Raises:
        ValueError: a network with patches, or of two times.
    """
    if network.two_times:
        raise ValueError("it is told two times, and published networks know one")
    if network.patch != 1:
        raise ValueError(
            f"patch is {network.patch}: no published network folds pixels into channels, set config.model.patch=1"
        )
    modules = _modules_in_order(network, shape)
    entries = []
    if network.embedding == "fourier":
        entries.append(PublishedEntry("all_modules.0.W", (FOURIER,), _VECTOR, trained=False))
    first = len(entries)
    for i, (name, module) in enumerate(modules.items()):
        for part, inner, axes in _parts(name, module):
            entries.append(PublishedEntry(f"all_modules.{first + i}.{part}", (name, *inner), axes))
    shapes = parameter_shapes(network, shape)
    return [entry for entry in entries if _find(shapes, entry.path) is not None]


def import_published(
    network: NCSNpp, shape: tuple[int, ...], model: Mapping[str, Any], averages: Sequence[Any]
) -> tuple[PyTree, PyTree]:
    """Makes parameters of a published checkpoint's tensors.

    Args:
        network: the network that the checkpoint is of.
        shape: of its images.
        model: the checkpoint's "model", names to tensors.
        averages: its "ema"'s "shadow_params", in the order of the trained parameters.

    Returns:
        Parameters as trained, and as averaged, both float32.

    Raises:
        ValueError: an entry that is missing, left over, of another shape, or not of floats; noise levels that are not the
            network's.
    """
    if not all(isinstance(name, str) for name in model):
        raise ValueError("the checkpoint's 'model' has names that are not strings")
    given = {name.removeprefix(_PREFIX): tensor for name, tensor in model.items()}
    if len(given) != len(model):
        raise ValueError(f"the checkpoint has some tensors twice, with {_PREFIX!r} before the name and without")
    _check_sigmas(network, given.pop(_SIGMAS, None))
    entries = published_entries(network, shape)
    names = {entry.name for entry in entries}
    missing = [entry.name for entry in entries if entry.name not in given]
    unused = [name for name in given if name not in names]
    for what, found in (("lacks", missing), ("has besides", unused)):
        if found:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            raise ValueError(f"the checkpoint {what} {_PREFIX}{found[0]}{more}: it is of another network")
    trained = [entry for entry in entries if entry.trained]
    if len(averages) != len(trained):
        raise ValueError(f"the checkpoint has {len(averages)} averages, expected {len(trained)}: one a trained tensor")
    shapes = parameter_shapes(network, shape)
    averaged = dict(zip((entry.name for entry in trained), averages, strict=True))
    params: PyTree = {}
    ema: PyTree = {}
    for entry in entries:
        expected = _find(shapes, entry.path).shape
        _insert(params, entry.path, _converted(entry, given[entry.name], expected, "model"))
        value = averaged.get(entry.name, given[entry.name])
        _insert(ema, entry.path, _converted(entry, value, expected, "ema"))
    return params, ema


def export_published(
    network: NCSNpp, shape: tuple[int, ...], params: PyTree
) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """The tensors of a published checkpoint, of parameters: what `import_published` makes them of again.

    Args:
        network: unconditional, without patches and of one time.
        shape: of its images.
        params: of it.

    Returns:
        The checkpoint's "model", names to tensors, and its "ema"'s "shadow_params", the trained ones of these.

    Raises:
        ValueError: a network that no published one is like.
    """
    model = {_PREFIX + _SIGMAS: network.sigmas()}
    shadow = []
    for entry in published_entries(network, shape):
        ours = np.asarray(_find(params, entry.path), np.float32)
        ours = ours.reshape(*ours.shape, *[1] * (len(entry.axes) - ours.ndim))
        tensor = np.ascontiguousarray(ours.transpose(np.argsort(entry.axes)))
        model[_PREFIX + entry.name] = tensor
        if entry.trained:
            shadow.append(tensor)
    return model, shadow


def _modules_in_order(network: NCSNpp, shape: tuple[int, ...]) -> dict[str, nn.Module]:
    """The network's own modules by name, in the order of their first call."""
    found: dict[str, nn.Module] = {}

    def watch(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if context.method_name == "__call__" and len(context.module.path) == 1:
            found.setdefault(context.module.path[0], context.module)
        return call(*args, **kwargs)

    with nn.intercept_methods(watch):
        parameter_shapes(network.clone(remat_resolutions=()), shape)
    return found


def _parts(name: str, module: nn.Module) -> Iterator[tuple[str, tuple[str, ...], tuple[int, ...]]]:
    """The tensors of one module: their names there, their paths here, and how their axes go."""
    match module:
        case ResidualBlock():
            yield from _norm("GroupNorm_0.", "norm_0")
            yield from _weights("Conv_0.", _CONV, "conv_0")
            yield from _weights("Dense_0.", _LINEAR, "time")
            yield from _norm("GroupNorm_1.", "norm_1")
            yield from _weights("Conv_1.", _CONV, "conv_1")
            yield from _weights("Conv_2.", _CONV1X1, "skip") if module.kind == "biggan" else _nin("NIN_0.", "skip")
        case AttentionBlock():
            yield from _norm("GroupNorm_0.", "norm")
            for i, part in enumerate(("query", "key", "value", "out")):
                yield from _nin(f"NIN_{i}.", part)
        case ResamplingConv():
            yield from _weights("Conv2d_0." if module.taps else "Conv_0.", _CONV)
        case GroupNorm():
            yield from _norm("")
        case nn.Conv():
            yield from _weights("", _CONV)
        case nn.Dense() if name.startswith("time"):
            yield from _weights("", _LINEAR)
        case nn.Dense():  # progressive input
            yield from _weights("Conv_0.", _CONV1X1)
        case _:
            raise ValueError(f"{name} is in no published network: only unconditional ones can be imported")


def _norm(prefix: str, *path: str) -> Iterator[tuple[str, tuple[str, ...], tuple[int, ...]]]:
    yield f"{prefix}weight", (*path, "scale"), _VECTOR
    yield f"{prefix}bias", (*path, "bias"), _VECTOR


def _weights(prefix: str, axes: tuple[int, ...], *path: str) -> Iterator[tuple[str, tuple[str, ...], tuple[int, ...]]]:
    yield f"{prefix}weight", (*path, "kernel"), axes
    yield f"{prefix}bias", (*path, "bias"), _VECTOR


def _nin(prefix: str, *path: str) -> Iterator[tuple[str, tuple[str, ...], tuple[int, ...]]]:
    yield f"{prefix}W", (*path, "kernel"), _NIN
    yield f"{prefix}b", (*path, "bias"), _VECTOR


def _converted(entry: PublishedEntry, tensor: Any, expected: tuple[int, ...], source: str) -> jax.Array:
    """The tensor in our order of axes, in float32."""
    where = f"{_PREFIX}{entry.name} ({source})"
    if not isinstance(tensor, np.ndarray) or not jnp.issubdtype(tensor.dtype, jnp.floating):
        raise ValueError(f"{where} is {getattr(tensor, 'dtype', type(tensor).__name__)}, expected a tensor of floats")
    fits = tensor.ndim == len(entry.axes)
    ours = tensor.transpose(entry.axes) if fits else tensor
    if not fits or ours.shape != (*expected, *[1] * (len(entry.axes) - len(expected))):
        raise ValueError(f"{where} has shape {tensor.shape}, expected one for {'/'.join(entry.path)} {expected}")
    if not np.all(np.isfinite(ours)):
        raise ValueError(f"{where} has numbers that are not finite: the file is damaged, or its training had failed")
    with np.errstate(over="ignore"):
        single = np.ascontiguousarray(ours).reshape(expected).astype(np.float32)
    if not np.all(np.isfinite(single)):
        raise ValueError(
            f"{where} has numbers up to {np.max(np.abs(ours)):.3g}, more than float32 holds: the file is damaged"
        )
    return jnp.asarray(single)


def _check_sigmas(network: NCSNpp, sigmas: Any) -> None:
    """Early checkpoints have no noise levels; where there are some, they must be the network's."""
    if sigmas is None:
        return
    expected = network.sigmas()
    if np.shape(sigmas) != expected.shape or not np.allclose(np.asarray(sigmas, np.float64), expected, rtol=1e-5):
        n = np.size(sigmas)
        got = f"{n} noise levels from {np.ravel(sigmas)[0]:g} to {np.ravel(sigmas)[-1]:g}" if n else "no noise levels"
        raise ValueError(
            f"{_PREFIX}{_SIGMAS} holds {got}, expected {network.num_scales} from {network.sigma_max:g} to "
            f"{network.sigma_min:g}: set config.model.num_scales, sigma_max and sigma_min"
        )


def _find(tree: PyTree, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree.get(name) if tree is not None else None
    return tree


def _insert(tree: PyTree, path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value
