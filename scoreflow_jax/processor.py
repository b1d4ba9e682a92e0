"""What the processor can do, and what XLA has to be told of it before JAX starts. Nothing here imports JAX."""

import importlib.metadata
import importlib.util
import mmap
import pathlib
import warnings
from collections.abc import Mapping, MutableMapping

ONEDNN = "--xla_cpu_experimental_onednn_custom_call=true"
"""Matrix products and convolutions by oneDNN, which has kernels in bfloat16; XLA's own on CPU compute in float32 around them."""

_FEATURES = frozenset({"avx512_bf16", "amx_bf16"})
_CPUINFO = pathlib.Path("/proc/cpuinfo")


def has_bfloat16(cpuinfo: pathlib.Path = _CPUINFO) -> bool:
    """Whether the processor multiplies bfloat16 itself, as far as the system says."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(_FEATURES & set(line.split()) for line in lines if line.startswith("flags"))


def computes_elsewhere(environment: Mapping[str, str]) -> bool:
    """Whether JAX will not compute on the processor: by JAX_PLATFORMS, else because what an accelerator takes is installed."""
    if platforms := environment.get("JAX_PLATFORMS"):
        return platforms.partition(",")[0].strip() != "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return bool(plugins) or importlib.util.find_spec("libtpu") is not None


def xla_knows(flag: str) -> bool:
    """Whether the installed XLA has a flag of that name: at one that it has not it ends the process."""
    name = flag.removeprefix("--").partition("=")[0].encode()
    spec = importlib.util.find_spec("jaxlib")
    for folder in spec.submodule_search_locations or () if spec else ():
        for library in pathlib.Path(folder).glob("*.so"):
            with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
                if text.find(name) >= 0:
                    return True
    return False


def prepare_bfloat16(environment: MutableMapping[str, str], cpuinfo: pathlib.Path = _CPUINFO) -> str | None:
    """Sets XLA's flag for training in bfloat16 on a processor that has it, before JAX starts; returns what to say.

    Args:
        environment: of the process, which JAX reads; flags of the user's own stay alone.
        cpuinfo: where the system tells what the processor can do.

    Returns:
        A line; None where nothing changes, as on every other processor, beside an accelerator, where the user has set this very
        flag, and with an XLA that does not know it (any more).
    """
    if not has_bfloat16(cpuinfo) or computes_elsewhere(environment) or not xla_knows(ONEDNN):
        return None
    given = environment.get("XLA_FLAGS", "")
    if ONEDNN in given or not given:
        # XLA 0.12 fails to write oneDNN's convolutions down (std::bad_alloc): only time is lost, at the next start.
        warnings.filterwarnings("ignore", message="Error writing persistent compilation cache entry.*bad_alloc")
    if given:
        known = ONEDNN.partition("=")[0] in given
        advice = f"XLA_FLAGS is set, so bfloat16 is left as it is; {ONEDNN} would make it faster on this processor's CPU devices"
        return None if known else advice
    environment["XLA_FLAGS"] = ONEDNN
    return f"bfloat16 on this processor: XLA_FLAGS={ONEDNN} (faster from JAX 0.12 on, which then compiles anew at each start)"
