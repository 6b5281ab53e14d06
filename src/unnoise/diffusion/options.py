"""The options of a registered function: what it takes beyond what it is always given."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable


def own_options(function: Callable[..., object], given: int) -> list[str]:
    """The names of a function's parameters after the first `given`, except those fixed by `partial`."""
    fixed = function.keywords if isinstance(function, functools.partial) else {}
    named = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    return [name for name in named[given:] if name not in fixed]
