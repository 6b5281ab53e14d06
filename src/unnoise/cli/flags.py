"""Flags made from the config dataclasses by tyro, and their errors in one line. Imports no torch."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
from collections.abc import Sequence
from typing import TypeVar

from unnoise.errors import UsageError, nearest

C = TypeVar("C")

SHORT_FLAGS = {
    "--data": "--data.source",
    "--data-path": "--data.path",
    "--image-size": "--data.image-size",
    "--size": "--data.image-size",
    "--channels": "--data.channels",
    "--flip": "--data.flip",
    "--epochs": "--train.epochs",
    "--kimg": "--train.kimg",
    "--time": "--train.time",
    "--batch-size": "--train.batch-size",
    "--lr": "--train.lr",
}
"""Short forms of the flags used most."""


def first_word(arguments: list[str], command: str, what: str) -> tuple[str | None, list[str]]:
    """What the command works on, and the flags; None where only help is asked for."""
    if arguments and not arguments[0].startswith("-"):
        return arguments[0], arguments[1:]
    if "--help" in arguments or "-h" in arguments:
        return None, arguments
    raise UsageError(
        f"{command}: expected {what} as the first word, as in `unnoise {command} digits`"
    )


def short_num(arguments: list[str]) -> list[str]:
    """-n is --num, which torchrun would take for an abbreviation of a flag of its own."""
    return ["--num" if argument == "-n" else argument for argument in arguments]


def switch(arguments: list[str], flag: str) -> tuple[bool, list[str]]:
    return flag in arguments, [a for a in arguments if a != flag]


def parse(default: C, arguments: list[str], prog: str, extra: Sequence[str] = ()) -> C:
    """A dataclass from flags over its defaults; UsageError in one line, with the nearest flag for an unknown one."""
    import tyro

    from unnoise.config import RunConfig, flat, override

    kind, arguments = option(arguments, "--network.kind")
    if kind is not None:
        default = override(default, {"network.kind": kind})
    short = SHORT_FLAGS if isinstance(default, RunConfig) else {}
    if short:
        arguments = [_long(a) for a in arguments]
        arguments = [a.capitalize() if a in ("true", "false", "none") else a for a in arguments]
    switches: dict[str, list[str]] = {}
    known: list[str] = []
    for key, value in flat(default).items():
        flags = _flags(key.replace("_", "-"), value)
        known += flags
        switches |= dict.fromkeys(flags, flags) if len(flags) > 1 else {}
    if not {"--help", "-h"} & set(arguments):
        everything = [*known, *extra, *short]
        for argument, after in itertools.pairwise([*arguments, ""]):
            flag = argument.split("=")[0].replace("_", "-")
            if flag.startswith("--") and flag not in known:
                raise UsageError(f"no flag {flag}; {nearest(flag, everything)}")
            if flag in switches and after.lower() in ("true", "false"):
                raise UsageError(
                    f"{flag}: got {after}, expected nothing after it; {' or '.join(switches[flag])}"
                )
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(type(default), default=default, args=arguments, prog=prog)
    except SystemExit as end:
        if end.code:
            raise UsageError(_one_line(complaint.getvalue())) from None
        raise


def _flags(key: str, value: object) -> list[str]:
    """--train.tf32, and --train.no-tf32 for a switch."""
    group, dot, name = key.rpartition(".")
    return [f"--{key}", f"--{group}{dot}no-{name}"] if isinstance(value, bool) else [f"--{key}"]


def _long(argument: str) -> str:
    flag, equals, value = argument.partition("=")
    return SHORT_FLAGS.get(flag.replace("_", "-"), flag) + equals + value


def _one_line(box: str) -> str:
    """The message inside tyro's box, without its title and help text."""
    text = re.sub(r"\x1b\[[0-9;]*m|[╭╮╰╯│─]", " ", box)
    text = re.split(r"For full helptext|Argument helptext", text)[0]
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(
        r"no type matching (\{None\}\|)?[{\[]*([A-Z]+).*? could be instantiated from (\[.*?\])\..*",
        _expected,
        text,
    )
    return re.sub(
        r"^(Parsing error|Value error|Invalid choice|Missing argument|Unrecognized options)\s*(Error parsing )?",
        "",
        text,
    )


def _expected(match: re.Match[str]) -> str:
    """tyro's account of every type it tried, as got and expected."""
    kinds = {"FLOAT": "a number", "INT": "a whole number"}
    return f"got {match[3].strip('[]')}, expected {kinds.get(match[2], match[2])}"


def option(arguments: list[str], flag: str) -> tuple[str | None, list[str]]:
    """Take `flag VALUE` or `flag=VALUE` out of the arguments."""
    for i, argument in enumerate(arguments):
        if argument == flag:
            if i + 1 == len(arguments):
                raise UsageError(f"{flag}: expected a value after it")
            return arguments[i + 1], arguments[:i] + arguments[i + 2 :]
        if argument.startswith(flag + "="):
            return argument.partition("=")[2], arguments[:i] + arguments[i + 1 :]
    return None, arguments
