"""What is said of a process that had no time to say it: the runtime of several processes ends one from within its own threads.

A second process, as small as one can be, waits for this one's end at a pipe. It needs no help of the dying one: handlers of
signals, in Python, do not run where a thread of C++ calls abort.
"""

import contextlib
import os
import subprocess
import sys

_WAITS = "import sys\nif sys.stdin.buffer.read() != b'done':\n    sys.stderr.write(sys.argv[1] + '\\n')"
_waiting: "subprocess.Popen[bytes] | None" = None


def prepare(text: str) -> None:
    """From now on this process's end is followed by a line on the standard error that it was started with, until `cancel`.

    Args:
        text: the line.
    """
    global _waiting
    cancel()
    with contextlib.suppress(OSError):  # no more processes are allowed: then nothing is said
        _waiting = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _WAITS, text],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C and a closed terminal are not for it
        )


def cancel(*, wait: bool = True) -> None:
    """Nothing more is to be said: this process has spoken for itself.

    Args:
        wait: for the other one's end; not where this process ends at once, before its runtime ends it with words of its own.
    """
    global _waiting
    waiting, _waiting = _waiting, None
    if waiting is None:
        return
    with contextlib.suppress(OSError):  # it was killed, too
        if wait:
            waiting.communicate(b"done")
        elif waiting.stdin is not None:
            os.write(waiting.stdin.fileno(), b"done")
