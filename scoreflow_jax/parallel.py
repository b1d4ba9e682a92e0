"""Devices: one mesh, one rule for where arrays live, and global arrays from what each process holds.

The same code runs on one CPU, on several devices and on several hosts: the batch is split among all devices, the state is on
every device or split too, and XLA puts in the sums of gradients.
"""

import ctypes
import dataclasses
import os
import platform
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

from scoreflow_jax.errors import UserError
from scoreflow_jax.processor import computes_elsewhere
from scoreflow_jax.typing import PyTree

DATA, FSDP = "data", "fsdp"
"""The mesh's axes. A batch is split along both; the state is split along the second and repeated along the first."""

_SPLIT_FROM = 2**14  # numbers: below, an array costs more to gather than it saves


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where arrays live.

    Attributes:
        mesh: of the axes `DATA` and `FSDP`.
    """

    mesh: Mesh

    @property
    def batch(self) -> NamedSharding:
        """The sharding of arrays whose first axis is the batch."""
        return NamedSharding(self.mesh, PartitionSpec((DATA, FSDP)))

    @property
    def replicated(self) -> NamedSharding:
        """A copy on each device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def first_device(self) -> jax.Device:
        """The device by which the others are known: all are of one kind."""
        return self.mesh.devices.flat[0]

    def of_state(self, shapes: PyTree) -> PyTree:
        """Shardings of parameters and of all that is kept for them, by one rule.

        An array of at least 16,384 numbers is split along its longest axis that the mesh's fsdp axis divides, the last of
        equally long ones; every other array is repeated. So an optimizer's moments lie where their parameters lie.
        """
        parts = self.mesh.shape[FSDP]

        def rule(x: Any) -> NamedSharding:
            divisible = [axis for axis, n in enumerate(x.shape) if n % parts == 0]
            if parts == 1 or not divisible or np.prod(x.shape) < _SPLIT_FROM:
                return self.replicated
            chosen = max(divisible, key=lambda axis: (x.shape[axis], axis))
            return NamedSharding(self.mesh, PartitionSpec(*(FSDP if a == chosen else None for a in range(chosen + 1))))

        return jax.tree.map(rule, shapes)


all_devices = jax.devices
"""The devices of a layout where none are named. (The suite takes one of its four virtual ones where it tests something else.)"""


def make_layout(devices: list[jax.Device] | None = None, *, fsdp: int = 1) -> Layout:
    """The layout over these devices, by default all of all processes.

    The axes are Auto: under the default Explicit axes of jax.make_mesh flax's dropout fails.

    Args:
        devices: to compute on.
        fsdp: among how many of them parameters and optimizer state are split; neighbors, which share a host where they can.

    Raises:
        UserError: a number that does not divide the devices.
    """
    devices = devices or all_devices()
    count = len(devices)
    if count % fsdp:
        choices = ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
        raise UserError(f"config.train.fsdp is {fsdp}, but there are {count} devices: use one of {choices}")
    axis_types = (AxisType.Auto, AxisType.Auto)
    return Layout(jax.make_mesh((count // fsdp, fsdp), (DATA, FSDP), axis_types=axis_types, devices=devices))


def one_device(device: jax.Device | None = None) -> Layout:
    """The layout of a single device, by default this process's first."""
    return make_layout([device or jax.local_devices()[0]])


def keep_freed_memory() -> bool:
    """Has the C library keep freed memory for the next allocation, on machines that compute on their CPU; returns whether.

    XLA allocates a program's temporary arrays anew at every call, a gigabyte for a training step of DDPM++, and the GNU C
    library asks the kernel for such memory and gives it back each time: 300,000 page faults a step, a tenth of its time.
    Small networks lose by it (the digits' forward pass a fifth: one heap for all threads). Takes effect only before JAX starts
    its threads.
    """
    if platform.libc_ver()[0] != "glibc" or computes_elsewhere(os.environ):
        return False
    library = ctypes.CDLL(None)
    # M_MMAP_MAX: nothing by mmap. M_TRIM_THRESHOLD: never shrink. M_ARENA_MAX: one heap, since others cannot hold as much.
    return all(library.mallopt(name, value) for name, value in ((-4, 0), (-1, -1), (-8, 1)))


def check_batch_size(batch_size: int, layout: Layout, microbatches: int = 1) -> None:
    """Refuses a batch that the devices, and the parts it is computed in, do not divide.

    Args:
        batch_size: of all devices together.
        layout: of the devices.
        microbatches: parts that a batch is computed in, one after the other.

    Raises:
        UserError: with the nearest sizes that they do.
    """
    count = layout.mesh.size * microbatches
    if batch_size % count:
        below = batch_size // count * count
        sizes = f"{below} or {below + count}" if below else f"{count}"
        parts = f", {microbatches} microbatches each" if microbatches > 1 else ""
        raise UserError(f"batch_size {batch_size} does not divide among {layout.mesh.size} devices{parts}: use {sizes}")


def local_rows(batch_size: int, layout: Layout) -> Int[np.ndarray, " rows"]:
    """The rows of a global batch that this process's devices hold, ascending: those that it has to read."""
    slices = layout.batch.addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in slices]))


def to_global(batch: PyTree, layout: Layout) -> PyTree:
    """Makes global device arrays of the host arrays that each process read for itself: its `local_rows`, in their order."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(layout.batch, np.asarray(x)), batch)


def shard(tree: PyTree, layout: Layout) -> PyTree:
    """Splits arrays that every process holds whole, the batch first, among all devices."""
    if jax.process_count() == 1:
        return jax.device_put(tree, layout.batch)
    cut = lambda x: jax.make_array_from_callback(x.shape, layout.batch, lambda index: x[index])  # noqa: E731
    return jax.tree.map(lambda x: cut(np.asarray(x)), tree)


def replicate(tree: PyTree, layout: Layout) -> PyTree:
    """A whole copy on each device of arrays that lie anywhere on the layout's devices."""
    return jax.device_put(tree, layout.replicated)


def one_at_a_time(function: Callable[..., Any], layout: Layout) -> Callable[..., Any]:
    """Waits for each call of a compiled function where several CPU devices share one process; elsewhere returns it as it is.

    Two programs in flight on virtual devices can starve each other's collectives of threads, upon which XLA aborts.
    """
    if layout.mesh.size == 1 or layout.first_device.platform != "cpu":
        return function
    return lambda *args: jax.block_until_ready(function(*args))


_PEAKS = {
    "TPU v2": 22.5, "TPU v3": 61.5, "TPU v4": 275, "TPU v5 lite": 197, "TPU v5e": 197, "TPU v5p": 459, "TPU v5": 459,
    "TPU v6 lite": 918, "TPU v6e": 918, "NVIDIA B200": 2250, "NVIDIA H200": 989, "NVIDIA H100 80GB HBM3": 989,
    "NVIDIA H100 PCIe": 756, "NVIDIA A100": 312, "NVIDIA L4": 121, "Tesla V100": 125, "Tesla T4": 65,
}  # fmt: skip
"""Tera-operations a second in bfloat16 (float16 on V100 and T4), dense, as the makers state them, by the beginning of JAX's name
of the device. A TPU v2 or v3 device is one of a chip's two cores."""


def peak_flops(device: jax.Device) -> float | None:
    """Floating-point operations a second that the device's maker states for 16-bit products; None where it is not known."""
    found = [name for name in _PEAKS if device.device_kind.startswith(name)]
    return _PEAKS[max(found, key=len)] * 1e12 if found else None


def device_memory() -> int | None:
    """The most bytes that any of this process's devices has held; None where they do not tell, as CPUs."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    return max((s["peak_bytes_in_use"] for s in stats if s and "peak_bytes_in_use" in s), default=None)
