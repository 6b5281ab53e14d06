"""Every error that a user can cause, and the nearest valid name. Imports nothing of unnoise.

A message is one line: what, got, expected, fix. The command line prints it and exits with
`exit_code`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)
"""Control characters but tab, line feed and carriage return; and those that turn text around."""
MOST_CHARACTERS = 1000
"""A longer message loses its middle."""


def visible(text: str) -> str:
    r"""Show control characters as escapes: "\x1b[31mred" does not make a terminal red."""
    return CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def one_line(text: str) -> str:
    """A message for people, whatever names of files or settings it repeats."""
    text = visible(" ".join(text.splitlines()))
    half = MOST_CHARACTERS // 2
    return text if len(text) <= MOST_CHARACTERS else f"{text[:half]} .. {text[-half:]}"


class UserError(Exception):
    """The base of the errors below; its message is one line."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


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
    """Training or sampling whose numbers are not finite."""

    exit_code = 3


def closest(name: str, known: Iterable[str]) -> str | None:
    """The name that was probably meant, if any is close: one whose letters are swapped comes first.

    The words of flags ("--train.lr") are also known by their last part.
    """
    known = list(known)
    whole = {each.lstrip("-"): each for each in known}
    parts = {each.rpartition(".")[2]: whole[each] for each in whole} | whole
    word = name.lstrip("-")
    close = difflib.get_close_matches(word, parts, 3, 0.6 if len(word) < 5 else 0.7)
    close.sort(key=lambda part: sorted(part) != sorted(word))
    return parts[close[0]] if close else None


def nearest(name: str, known: Iterable[str], also: str = "") -> str:
    """Suggest the closest of some names ("did you mean 'x'?"), or list them where none is close.

    `also` ends that list with what else would do: "a path".
    """
    known = list(known)
    if found := closest(name, known):
        return f"did you mean {found!r}?"
    return f"expected one of {', '.join(known)}" + (f", or {also}" if also else "")
