"""The options of a registered function: what it takes beyond what it is always given."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable


def own_options(function: Callable[..., object], given: int) -> list[str]:
    """The names of the parameters after the first `given`, without those that `partial` fixed."""
    fixed = function.keywords if isinstance(function, functools.partial) else {}
    return [name for name in [*inspect.signature(function).parameters][given:] if name not in fixed]
