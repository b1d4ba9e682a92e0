"""The one error type whose message is meant for the person at the keyboard."""


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
