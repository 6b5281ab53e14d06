"""The fields of a configuration as the page's controls: label, type, range, help."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Annotated, Any

from unnoise.ranges import Range
from unnoise.reading import helps


def fields(kind: type) -> list[dict[str, Any]]:
    """Give every field of a dataclass as plain data."""
    hints, texts = typing.get_type_hints(kind, include_extras=True), helps(kind)
    return [
        {
            "name": each.name,
            "label": each.name.replace("_", " ").capitalize(),
            "help": texts.get(each.name, ""),
            **_kind(hints[each.name]),
        }
        for each in dataclasses.fields(kind)
    ]


def _kind(hint: Any) -> dict[str, Any]:
    """What a type says: its name, its bounds, its choices."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        found = _kind(arguments[0])
        for limit in arguments[1:]:
            if isinstance(limit, Range):
                found["least"] = limit.least if limit.least is not None else limit.above
                found["most"] = limit.most if limit.most is not None else limit.below
        return found
    if origin in (types.UnionType, typing.Union):
        return {**_kind(next(a for a in arguments if a is not type(None))), "optional": True}
    if origin is typing.Literal:
        return {"type": "choice", "choices": list(arguments)}
    if origin is tuple:
        count = None if arguments[-1] is ... else len(arguments)
        return {"type": "numbers", "count": count}
    return {"type": {int: "int", float: "float", bool: "bool", str: "text"}.get(hint, "other")}
