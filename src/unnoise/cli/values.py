"""How words of the command line become values, and what is said of those that cannot."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from tyro.constructors import PrimitiveConstructorSpec

from unnoise.errors import nearest

Spec = PrimitiveConstructorSpec[Any]
SCALARS = {
    int: ("INT", "a whole number"),
    float: ("FLOAT", "a number"),
    str: ("STR", "text"),
    Path: ("PATH", "a path"),
}


def spec(hint: Any) -> Spec:
    """How tyro reads a value of a type: its number of words, its name in help, its conversion."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        own = (part for part in parts if isinstance(part, PrimitiveConstructorSpec))
        return next(own, None) or spec(parts[0])
    if origin in (Union, types.UnionType):
        inner = spec(next(part for part in parts if part is not type(None)))
        return dataclasses.replace(
            inner,
            instance_from_str=lambda words: (
                None
                if [word.lower() for word in words] == ["none"]
                else inner.instance_from_str(words)
            ),
        )
    if origin is dict:
        inner = spec(parts[1])
        return dataclasses.replace(
            inner,
            nargs="*",
            metavar=f"[NAME {inner.metavar} ..]",
            instance_from_str=lambda words: {
                key: inner.instance_from_str([word])
                for key, word in zip(words[::2], words[1::2], strict=True)
            },
        )
    if origin is tuple:
        inner, count = spec(parts[0]), len(parts)
        several = parts[-1] is ...
        return dataclasses.replace(
            inner,
            nargs="*" if several else count,
            metavar=f"[{inner.metavar} ..]" if several else " ".join([inner.metavar] * count),
            instance_from_str=lambda words: tuple(inner.instance_from_str([w]) for w in words),
        )
    if origin is Literal or hint is bool:
        words = {str(value).lower(): value for value in (parts or (True, False))}
        expected = nearest("", words).replace(", ", " or ")
        return _word("|".join(words), words.__getitem__, expected)
    metavar, expected = SCALARS[hint]
    return _word(metavar, hint, f"expected {expected}")


def _word(metavar: str, read: Callable[[str], Any], expected: str) -> Spec:
    """A value of one word; a ValueError or KeyError says that it cannot be read."""

    def convert(words: list[str]) -> Any:
        try:
            return read(words[0] if read is str else words[0].lower())
        except (KeyError, ValueError):
            raise ValueError(f"got {words[0]!r}, {expected}") from None

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=convert,
        is_instance=lambda value: True,
        str_from_instance=lambda value: [str(value)],
    )


def _four(word: str) -> tuple[int, ...]:
    left, top, right, bottom = (int(part) for part in word.split(","))
    return left, top, right, bottom


def _seeds(word: str) -> tuple[int, ...]:
    seeds: list[int] = []
    for part in word.split(","):
        match = re.fullmatch(r"\s*(\d{1,18})(?:-(\d{1,18}))?\s*", part)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not 0 <= high - low <= 10_000_000:
            raise ValueError
        seeds += range(low, high + 1)
    return tuple(seeds)


def _four_words(names: str) -> Spec:
    return _word(names, _four, f"expected {names}, such as 8,8,16,16")


RANGES = "expected numbers and rising ranges such as 0-63 or 3,7,20-29, at most 10 million"
Box = Annotated[tuple[int, ...], _four_words("x,y,width,height")]
Sides = Annotated[tuple[int, ...], _four_words("left,top,right,bottom")]
Seeds = Annotated[tuple[int, ...], _word("0-7,9", _seeds, RANGES)]
