"""The options of a registered function: what it takes beyond what it is always given."""

from __future__ import annotations

import inspect
from collections.abc import Callable


def own_options(function: Callable[..., object], given: int) -> list[str]:
    """The names of the parameters after the first `given`, without those that `partial` fixed."""
    names = [*inspect.signature(function).parameters][given:]
    return [name for name in names if name not in getattr(function, "keywords", {})]
