"""How far something long has come: a bar on a terminal, a line a minute in a log."""

import sys
from typing import Any

from tqdm import tqdm


def progress(what: str, total: int, unit: str) -> Any:
    """A tqdm bar; call `update` with the number done."""
    every = 0.5 if sys.stderr.isatty() else 60.0
    delay = 0.0 if sys.stderr.isatty() else every
    return tqdm(total=total, desc=what, unit=unit, mininterval=every, maxinterval=every, delay=delay, leave=False)
