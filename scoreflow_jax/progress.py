"""How far something long has come, a bar on a terminal and a line a minute in a log, and what memory it took."""

import importlib.util
import sys
from typing import Any

from tqdm import tqdm


def progress(what: str, total: int, unit: str) -> Any:
    """A tqdm bar; call `update` with the number done."""
    every = 0.5 if sys.stderr.isatty() else 60.0
    delay = 0.0 if sys.stderr.isatty() else every
    return tqdm(total=total, desc=what, unit=unit, mininterval=every, maxinterval=every, delay=delay, leave=False)


def peak_memory() -> int:
    """The most bytes of host memory that this process has held; 0 where the system does not tell (Windows)."""
    if importlib.util.find_spec("resource") is None:
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
