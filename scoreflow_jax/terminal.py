"""Standard streams that outlive their reader: a closed terminal or a finished `head` ends no training."""

import errno
import io
import os
import sys
from collections.abc import Iterable
from typing import Any

_GONE = (errno.EPIPE, errno.EIO, errno.EBADF)


def outlive_readers() -> None:
    """From now on what is printed when nobody reads any more is dropped, silently."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if type(stream) is io.TextIOWrapper:  # as the interpreter makes them; others belong to somebody
            setattr(sys, name, _Lasting(stream))
        elif stream is None:  # closed by whoever started this process
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115


class _Lasting:
    """A text stream that turns to nothing when its reader has gone."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes, or drops."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Writes all, or drops."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flushes, or drops."""
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        """Leads the stream to nowhere, what it still holds included."""
        if error.errno not in _GONE:
            raise error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
