"""LPIPS with its weights, from the two public PyTorch files that hold them."""

import functools

import jax

from scoreflow_jax.errors import UserError
from scoreflow_jax.models.lpips import LpipsWeights, import_lpips, lpips
from scoreflow_jax.torch_files import read_torch_file
from scoreflow_jax.typing import Images, PerExample


@functools.cache
def lpips_weights(backbone: str, heads: str) -> LpipsWeights:
    """The weights in alexnet-owt-7be5be79.pth of torchvision and alex.pth of the lpips package, version 0.1.

    Raises:
        UserError: a file is missing or does not hold them.
    """
    try:
        return import_lpips(read_torch_file(backbone), read_torch_file(heads))
    except ValueError as error:
        raise UserError(f"{backbone} or {heads} does not hold LPIPS's weights: {error}") from error


class Lpips:
    """The distance of images to others, in [-1, 1]. The files are read when it is first computed."""

    def __init__(self, backbone: str, heads: str) -> None:
        """Remembers the files."""
        self.files = (backbone, heads)

    def read(self) -> LpipsWeights:
        """Its weights, read once."""
        return lpips_weights(*self.files)

    def __call__(self, a: Images, b: Images) -> PerExample:
        """LPIPS of each image of `a` to that of `b`."""
        with jax.ensure_compile_time_eval():
            weights = self.read()
        return lpips(weights, a, b)
