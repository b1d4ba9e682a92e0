"""The one error type whose message is meant for the person at the keyboard."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user can put right.

    The message is one line and says what was got, what was expected and what to do. The command line prints it without a
    traceback and exits with code 2; from Python it is an ordinary ValueError.

    Attributes:
        everywhere: whether all processes of the run have raised one, so that none waits for this one.
    """

    everywhere = False


def first_line(error: BaseException, limit: int = 200) -> str:
    """The first line of an error's message, cut to `limit` characters; its type where it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:limit]


def nearest(name: str, known: Iterable[str]) -> str:
    """ "; did you mean x?", by likeness of the whole name and then of its last part; empty where nothing is alike."""
    known = list(known)
    found = difflib.get_close_matches(name, known, n=1)
    if not found:
        last = name.rsplit(".", 1)[-1]
        tails = {k.rsplit(".", 1)[-1]: k for k in reversed(known)}
        found = [tails[t] for t in difflib.get_close_matches(last, tails, n=1)]
    return f"; did you mean {found[0]}?" if found else ""
