"""The command line that another package's model was trained by, read as a dataclass."""

from __future__ import annotations

import re
import shlex
import typing
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from unnoise.errors import CheckpointError, ConfigError, UsageError
from unnoise.reading import from_dict, typed

T = TypeVar("T")

SWITCH = {
    **dict.fromkeys(("yes", "true", "t", "y", "1"), True),
    **dict.fromkeys(("no", "false", "f", "n", "0"), False),
}


def read_flags(kind: type[T], text: str, others: Collection[str] | None, where: str = "flag") -> T:
    """Read `--name value`, `--name=value`, `--name` and `--noname` as the fields of a dataclass.

    A flag that is repeated, or has commas, is a tuple. `others` are flags that change nothing, None
    all unknown ones. ConfigError, which begins with `where`, for what the dataclass cannot hold.
    """
    try:
        words = shlex.split(text, comments=True)
    except ValueError as error:
        raise UsageError(f"--flags: {error}") from error
    hints, found = typing.get_type_hints(kind, include_extras=True), dict[str, list[str]]()
    name = None
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            off = name not in hints and name[:2] == "no" and name[2:] in hints
            name = name[2:] if off else name
            found.setdefault(name, []).extend([value] if equals else ["no"] if off else [])
        elif name is None:
            raise UsageError(f"--flags: got {word!r}, expected --name value --name value ..")
        else:
            found[name].append(word)
    known = hints if others is None else {*found} - {*others}
    return from_dict(
        kind, {k: _value(hints.get(k), v) for k, v in found.items() if k in known}, f"{where} "
    )


def _value(hint: Any, words: Sequence[str]) -> Any:
    """The value of a flag, or words that are none, for the message."""
    if typing.get_origin(hint) is tuple:
        parts = [part for word in words for part in word.split(",") if part]
        return [_value(typing.get_args(hint)[0], [part]) for part in parts]
    text = words[-1] if words else "yes"
    whole = re.fullmatch(r"-?[0-9]{1,18}", text)
    number = int(text) if whole else text
    with suppress(ValueError):
        number = number if whole else float(text)
    for value in (text, number, SWITCH.get(text.lower(), text)):
        with suppress(ConfigError):
            return typed(hint, value, "")
    return number


def compare(given: Mapping[str, Any], weights: Mapping[str, Any]) -> None:
    """CheckpointError for a flag that differs from what the weights say; None says nothing."""
    for name, own in weights.items():
        if given[name] not in (None, own):
            got = f"flag {name}: got {word(given[name])}"
            raise CheckpointError(f"{got}, but the weights are of {word(own)}")


def word(value: Any) -> str:
    """A value as a flag has it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
