"""The one error type whose message is meant for the person at the keyboard."""


class UserError(ValueError):
    """Something the user can put right.

    The message is one line and says what was got, what was expected and what to do. The command line prints it without a
    traceback and exits with code 2; from Python it is an ordinary ValueError.
    """
