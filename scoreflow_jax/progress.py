"""How far something long has come (a bar on a terminal, lines in a log; nothing without tqdm), and what memory it took."""

import importlib.util
import sys
from types import TracebackType
from typing import Any


class _NoBar:
    """What is called of a tqdm bar, and shows nothing."""

    disable = True

    def __init__(self, total: int, done: int = 0) -> None:
        self.total, self.n = total, done

    def __enter__(self) -> "_NoBar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        return None

    def update(self, count: int = 1) -> None:
        """Counts."""
        self.n += count

    def set_postfix_str(self, text: str) -> None:
        """Shows nothing."""

    def close(self) -> None:
        """Does nothing."""


def progress(what: str, total: int, unit: str) -> Any:
    """Opens a tqdm bar; call `update` with the number done.

    Args:
        what: stands before the bar.
        total: how many there are to do.
        unit: what is counted, with a space in front.
    """
    if not _has_tqdm():
        return _NoBar(total)
    from tqdm import tqdm

    every = 0.5 if sys.stderr.isatty() else 60.0
    delay = 0.0 if sys.stderr.isatty() else every
    return tqdm(total=total, desc=what, unit=unit, mininterval=every, maxinterval=every, delay=delay, leave=False)


def peak_memory() -> int:
    """The most bytes of host memory that this process has held; 0 where the system does not tell (Windows)."""
    if importlib.util.find_spec("resource") is None:
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def training_bar(total: int, done: int) -> Any:
    """A tqdm bar of steps; `disable` says that nothing is shown, as in a log, which gets lines instead."""
    if not _has_tqdm():
        return _NoBar(total, done)
    from tqdm import tqdm

    return tqdm(total=total, initial=done, unit="step", disable=None, file=sys.stderr, dynamic_ncols=True)


def _has_tqdm() -> bool:
    return importlib.util.find_spec("tqdm") is not None
