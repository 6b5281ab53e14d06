"""Values from outside, read by type and range: settings, arguments of calls, records of files.

What a dataclass says of its fields is all that is said; nothing behind this door checks again.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import operator
import textwrap
import types
import typing
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal, TypeVar, cast

from unnoise.errors import ConfigError, nearest
from unnoise.ranges import Range

T = TypeVar("T")

RETIRED = (
    "sample.deep_cache", "sample.cuda_graphs", "train.fused_norm", "data.white_level",
    "train.pairing", "train.async_save", "train.on_save_error",
)  # fmt: skip
"""Settings that older versions had: ignored in a record, refused from a user."""
MOST_VALUES = 100_000
"""A list has at most so many values: there may be as many names of classes."""


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def from_dict(kind: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Read a configuration from a plain dictionary: the inverse of `to_dict`.

    ConfigError for an unknown key, a wrong type or a number out of range; RETIRED keys are ignored.
    """
    if not isinstance(values, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(
            f"{where.rstrip('.') or kind.__name__}: got {_digits(values)}, expected {KINDS[dict]}"
        )
    choose = getattr(kind, "of_kind", None)
    kind, values = choose(values, where) if choose else (kind, values)
    hints = _hints(kind)
    found = {}
    for key, value in values.items():
        if where + key == "data.white_level" and value is not None:  # what it is called now
            key, value = "grey_range", (0, value)
        if key in hints:
            found[key] = typed(hints[key], value, where + key)
        elif where + key not in RETIRED:
            raise ConfigError(f"{where}{key}: unknown key; {nearest(key, hints)}")
    for each in dataclasses.fields(cast("Any", kind)):
        default = (each.default, each.default_factory)
        if each.name not in found and default == (dataclasses.MISSING, dataclasses.MISSING):
            raise ConfigError(f"{where}{each.name}: is missing")
    return kind(**found)


KINDS: dict[Any, str] = {
    float: "a number", int: "a whole number", bool: "on or off", str: "text", tuple: "a list",
    dict: "names and values",
}  # fmt: skip
"""How a message names the type that it expected."""


def typed(hint: Any, value: Any, where: str) -> Any:
    """Read a value as the annotated type and within its range, or raise a ConfigError.

    This is the door for every value of a user's: settings, arguments of calls, records of files.
    Numbers of numpy and torch count as numbers; a text, or a number with a fraction, is none.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        read = typed(arguments[0], value, where)
        for limit in arguments[1:]:
            if isinstance(limit, Range) and read not in limit:
                got = f"{read:g}" if isinstance(read, float) else _digits(read)
                raise ConfigError(f"{where}: got {got}, expected {limit}")
        return read
    if typing.is_typeddict(hint):
        return _record(hint, value, where)
    if dataclasses.is_dataclass(hint) and not isinstance(value, cast("type[Any]", hint)):
        return from_dict(cast("type[Any]", hint), cast("Mapping[str, Any]", value), where + ".")
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return typed(next(a for a in arguments if a is not type(None)), value, where)
    if origin is tuple and isinstance(value, list | tuple):
        parts = cast("list[Any]", list(value))  # pyright: ignore[reportUnknownArgumentType]
        if arguments[-1] is not ... and len(parts) != len(arguments):
            raise ConfigError(f"{where}: got {len(parts)} values, expected {len(arguments)}")
        if len(parts) > MOST_VALUES:
            raise ConfigError(
                f"{where}: got {len(parts):,} values, expected at most {MOST_VALUES:,}"
            )
        return tuple(typed(arguments[0], part, where) for part in parts)
    if origin is dict and isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value).items()
        return {str(key): typed(arguments[1], part, f"{where}.{key}") for key, part in items}
    if origin is Literal:
        if value in arguments:
            return value
        if len(arguments) == 1:
            raise ConfigError(f"{where}: got {_digits(value)}, expected {arguments[0]}")
        raise ConfigError(f"{where}: got {value!r}; {nearest(str(value), map(str, arguments))}")
    if hint is Any:
        return value
    with suppress(TypeError, OverflowError):
        if hint is int and not isinstance(value, bool | str):
            return operator.index(value)
        if hint is float and not isinstance(value, bool | str | bytes):
            return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and hint not in (int, float):
        return value
    expected = KINDS.get(origin or hint, hint)
    raise ConfigError(f"{where}: got {_digits(value)}, expected {expected}")


def _record(hint: Any, value: Any, where: str) -> dict[str, Any]:
    """Read a TypedDict: a record of a file, whose other keys, of a newer version, stay as they are.

    A key that is NotRequired may be absent.
    """
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where or 'it'}: got {_digits(value)}, expected {KINDS[dict]}")
    found = {str(key): part for key, part in cast("Mapping[str, Any]", value).items()}
    for key, kind in _hints(hint).items():
        optional = typing.get_origin(kind) is typing.NotRequired
        name = f"{where}.{key}" if where else key
        if key in found:
            found[key] = typed(typing.get_args(kind)[0] if optional else kind, found[key], name)
        elif not optional and key in hint.__required_keys__:
            raise ConfigError(f"{name}: is missing")
    return found


def _digits(value: object) -> str:
    """A value in a message; an integer may have more digits than Python prints."""
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a number of more than 30 digits"
    return repr(value)


@functools.cache
def helps(kind: type) -> dict[str, str]:
    """The help text of each field of a dataclass: the docstring below it."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if dataclasses.is_dataclass(base):
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            for one, text in itertools.pairwise(cast("ast.ClassDef", tree).body):
                if isinstance(one, ast.AnnAssign) and isinstance(text, ast.Expr):
                    texts[ast.unparse(one.target)] = " ".join(ast.literal_eval(text.value).split())
    return texts
