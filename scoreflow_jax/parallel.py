"""Devices: one mesh, two shardings, and global arrays from what each process holds.

The same code runs on one CPU and on many devices: the batch is split along the mesh's one axis, the state is on every
device, and XLA puts in the sums of gradients.
"""

import ctypes
import importlib.util
import platform
from collections.abc import Callable
from importlib import metadata
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from scoreflow_jax.errors import UserError
from scoreflow_jax.typing import PyTree


class Layout(NamedTuple):
    """Where arrays live.

    Attributes:
        batch: sharding of arrays whose first axis is the batch.
        replicated: sharding of the state, a copy on each device.
    """

    batch: NamedSharding
    replicated: NamedSharding


def make_layout(devices: list[jax.Device] | None = None) -> Layout:
    """The layout over these devices, by default all of them.

    The axis is Auto: under the default Explicit axes of jax.make_mesh flax's dropout fails.
    """
    devices = devices or jax.devices()
    mesh = jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)
    return Layout(batch=NamedSharding(mesh, PartitionSpec("data")), replicated=NamedSharding(mesh, PartitionSpec()))


def keep_freed_memory() -> bool:
    """Has the C library keep freed memory for the next allocation, on machines that compute on their CPU; returns whether.

    XLA allocates a program's temporary arrays anew at every call, a gigabyte for a training step of DDPM++, and the GNU C
    library asks the kernel for such memory and gives it back each time: 300,000 page faults a step, a tenth of its time.
    Small networks lose by it (the digits' forward pass a fifth: one heap for all threads). Takes effect only before JAX starts
    its threads.
    """
    accelerated = metadata.entry_points(group="jax_plugins") or importlib.util.find_spec("libtpu") is not None
    if platform.libc_ver()[0] != "glibc" or accelerated:
        return False
    library = ctypes.CDLL(None)
    # M_MMAP_MAX: nothing by mmap. M_TRIM_THRESHOLD: never shrink. M_ARENA_MAX: one heap, since others cannot hold as much.
    return all(library.mallopt(name, value) for name, value in ((-4, 0), (-1, -1), (-8, 1)))


def check_batch_size(batch_size: int, layout: Layout) -> None:
    """Refuses a batch that the devices do not divide.

    Raises:
        UserError: with the nearest sizes that they do.
    """
    count = layout.batch.mesh.size
    if batch_size % count:
        below = batch_size // count * count
        sizes = f"{below} or {below + count}" if below else f"{count}"
        raise UserError(f"batch_size {batch_size} does not divide among {count} devices: use {sizes}")


def to_global(batch: PyTree, layout: Layout) -> PyTree:
    """Makes global device arrays of the host arrays that each process read for itself."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(layout.batch, np.asarray(x)), batch)


def one_at_a_time(function: Callable[..., Any], layout: Layout) -> Callable[..., Any]:
    """Waits for each call of a compiled function where several CPU devices share one process; elsewhere returns it as it is.

    Two programs in flight on virtual devices can starve each other's collectives of threads, upon which XLA aborts.
    """
    devices = layout.batch.mesh.devices.flat
    if len(devices) == 1 or devices[0].platform != "cpu":
        return function
    return lambda *args: jax.block_until_ready(function(*args))
