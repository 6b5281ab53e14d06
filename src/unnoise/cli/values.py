"""How words of the command line become values, and what is said of those that cannot."""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from tyro.constructors import PrimitiveConstructorSpec

Read: TypeAlias = Callable[[list[str]], Any]


@dataclass(frozen=True)
class Reading(PrimitiveConstructorSpec[Any]):
    """How tyro reads a value: number of words, name in help, conversion (or a ValueError)."""

    expected: str = ""
    """What a message says of the value."""


def _reading(words: int | Literal["*"], name: str, expected: str, read: Read) -> Reading:
    return Reading(words, name, read, lambda _: True, lambda value: [str(value)], expected=expected)


def _word(name: str, expected: str, convert: Callable[[str], Any]) -> Reading:
    """A value of one word; `convert` raises a ValueError or KeyError for what is none."""

    def read(words: list[str]) -> Any:
        try:
            return convert(words[0])
        except (KeyError, ValueError):
            raise ValueError(f"got {words[0]!r}, expected {expected}") from None

    return _reading(1, name, expected, read)


def _given(word: str) -> str:
    """A text that is one: what a script's unset variable leaves ("") asks for nothing."""
    if not word.strip():
        raise ValueError
    return word


SCALARS = {
    int: _word("INT", "a whole number", int),
    float: _word("FLOAT", "a number", float),
    str: _word("STR", "text", _given),
    Path: _word("PATH", "a path", lambda word: Path(_given(word))),
}


def reading(hint: Any) -> Reading:
    """How a value of a type is read."""
    if hint in SCALARS:
        return SCALARS[hint]
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        own = next((part for part in parts if isinstance(part, Reading)), None)
        return own or reading(parts[0])
    if origin is Literal or hint is bool:
        values = {str(value).lower(): value for value in (parts or (True, False))}
        expected = f"one of {' or '.join(values)}"
        return _word("|".join(values), expected, lambda word: values[word.lower()])
    part = reading(parts[1 if origin is dict else 0])

    def several(words: Sequence[str]) -> tuple[Any, ...]:
        return tuple(part.instance_from_str([word]) for word in words)

    def pairs(words: Sequence[str]) -> dict[str, Any]:
        if len(words) % 2:
            raise ValueError(f"got {' '.join(words)!r}, expected {expected}")
        return dict(zip(words[::2], several(words[1::2]), strict=True))

    def optional(words: list[str]) -> Any:
        none = len(words) == 1 and words[0].lower() == "none"
        return None if none else part.instance_from_str(words)

    if origin is dict:
        expected = f"names, each followed by {part.expected}"
        return _reading("*", f"[NAME {part.metavar} ..]", expected, pairs)
    if origin is not tuple:  # X | None
        return replace(part, instance_from_str=optional)
    if parts[-1] is ...:
        return _reading("*", f"[{part.metavar} ..]", part.expected, several)
    name = " ".join([part.metavar] * len(parts))
    return _reading(len(parts), name, " and ".join([part.expected] * len(parts)), several)


def _four(names: str) -> Reading:
    def convert(word: str) -> tuple[int, ...]:
        left, top, right, bottom = map(int, word.split(","))
        return left, top, right, bottom

    return _word(names, f"{names}, such as 8,8,16,16", convert)


def _seeds(word: str) -> tuple[int, ...]:
    seeds: list[int] = []
    for part in word.split(","):
        match = re.fullmatch(r"\s*(\d{1,18})(?:-(\d{1,18}))?\s*", part)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not 0 <= high - low < 10_000_000 - len(seeds):
            raise ValueError
        seeds += range(low, high + 1)
    return tuple(seeds)


RANGES = "numbers and rising ranges such as 0-63 or 3,7,20-29, at most 10 million"
Box = Annotated[tuple[int, ...], _four("x,y,width,height")]
Sides = Annotated[tuple[int, ...], _four("left,top,right,bottom")]
Seeds = Annotated[tuple[int, ...], _word("0-7,9", RANGES, _seeds)]
