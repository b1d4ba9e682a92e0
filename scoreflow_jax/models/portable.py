"""Whether what is traced may be written for one kind of machine: not where it becomes a program for other runtimes."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

from jax import lax

_PORTABLE = contextvars.ContextVar("portable", default=False)


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """What is traced within is made of common operations alone: no primitives of ours, no choice by the platform.

    ONNX knows neither. Numbers are the same to rounding.
    """
    token = _PORTABLE.set(True)
    try:
        yield
    finally:
        _PORTABLE.reset(token)


def is_portable() -> bool:
    """Whether `portable` holds."""
    return _PORTABLE.get()


def by_platform(*arrays: Any, cpu: Callable[..., Any], default: Callable[..., Any]) -> Any:
    """One function on CPU and another elsewhere, as `lax.platform_dependent`; `default` where the program is portable.

    Args:
        arrays: that both are called with.
        cpu, default: of equal results.
    """
    return default(*arrays) if is_portable() else lax.platform_dependent(*arrays, cpu=cpu, default=default)
