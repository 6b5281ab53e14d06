"""Every error that a user can cause, and the nearest valid name. Imports nothing of unnoise.

A message is one line: what, got, expected, fix. The command line prints it and exits with
`exit_code`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """The base of the errors below."""

    exit_code = 2


class ConfigError(UserError, ValueError):
    """A setting, or a combination of settings, that cannot be used."""


class UnknownNameError(ConfigError):
    """A name that no registry has."""


class DataError(UserError, ValueError):
    """Images, labels or statistics that cannot be used."""


class CheckpointError(UserError, ValueError):
    """A checkpoint, model file or run folder that cannot be written or read."""


class UsageError(UserError, ValueError):
    """A wrong command line."""


class DivergedError(UserError, RuntimeError):
    """Training whose loss or gradient was not finite too many times in a row."""

    exit_code = 3


def nearest(name: str, known: Iterable[str], also: str = "") -> str:
    """Suggest the closest of some names ("did you mean 'x'?"), or list them where none is close.

    `also` ends that list with what else would do: "a path".
    """
    known = list(known)
    close = difflib.get_close_matches(name, known, 1, 0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"expected one of {', '.join(known)}" + (f", or {also}" if also else "")
