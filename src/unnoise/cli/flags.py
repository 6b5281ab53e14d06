"""Flags made from dataclasses by tyro, and its errors in one line. Imports no torch.

A command is a dataclass, and so are the settings that it can change. Each field is a flag, with the
field's type, range and help text; what is not given stays what it is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import itertools
import re
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import tyro
from tyro.conf import Positional, UseAppendAction, arg

from unnoise.cli.output import styled
from unnoise.cli.values import reading
from unnoise.config import SampleConfig, dotted
from unnoise.errors import ConfigError, UsageError, closest
from unnoise.reading import from_dict, helps

HELP = ("-h", "--help", "--help-all")


@dataclass(frozen=True)
class Flag:
    """What the flag of a command's field has besides the field's name."""

    short: tuple[str, ...] = ()
    """Other names."""
    metavar: str | None = None
    """The word that stands for the value in help."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """What every command takes; a field without a default is a word."""

    rare: ClassVar[tuple[str, ...]] = ()
    """Fields that only --help-all shows, as it does `imports`."""
    imports: Annotated[tuple[str, ...], UseAppendAction, Flag(("--import",), "FILE.py")] = ()
    """Run a Python file of your own first, which can add samplers, networks, losses and so on; give
    it once for each file."""


@dataclass(frozen=True, kw_only=True)
class ModelCommand(Command):
    """What every command on a model takes."""

    model: Annotated[str, Flag(metavar="RUN|FILE|NAME")]
    """A run folder, a model file or a bundled model."""
    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:1 or mps."""


C = TypeVar("C", bound=Command)


@dataclass(frozen=True)
class Settings:
    """A configuration that a command can change: its fields are flags too."""

    of: Any
    """The dataclass; a field that is a dataclass itself gives flags such as --train.lr."""
    known: bool = True
    """Whether these are the values that the command starts from, which help then shows."""
    often: Collection[str] = ()
    """The dotted fields that --help shows; --help-all shows all."""
    short: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Other names of flags, by dotted field."""


def sampling(model: str | None) -> Settings:
    """How to sample: the settings of a model where one is named, which the flags change."""
    from unnoise.records import find, read_record

    often = ("sampler", "steps", "spacing", "guidance_scale")
    try:
        record = read_record(find(model)) if model else {}
        return Settings(from_dict(SampleConfig, record["config"]["sample"], "sample."), True, often)
    except (KeyError, TypeError, ValueError):  # loading the model will say what is wrong with it
        return Settings(SampleConfig(), False, often)


def check_model_file(name: str) -> None:
    """UsageError for a file that no one can take for a model, such as README.md."""
    path = Path(name)
    if path.is_file() and path.suffix != ".safetensors":
        with path.open("rb") as file:
            if file.read(9)[8:] != b"{":  # where the header of a model file begins
                fix = "expected a run folder, a .safetensors file or a bundled name"
                raise UsageError(f"{name}: is no model file; {fix}")


def first_word(arguments: Sequence[str]) -> str | None:
    """What the command works on, if that is how the arguments begin."""
    return arguments[0] if arguments and not arguments[0].startswith("-") else None


def peek(kind: type[C], arguments: Sequence[str]) -> tuple[C, list[str]]:
    """Read the flags of one command from arguments that also hold others, which are given back."""
    table = Table()
    words = [word for word in arguments if word not in HELP]
    found, rest = table.run(table.of(kind), words, "unnoise")
    return from_dict(kind, found), rest


def parse(
    kind: type[C],
    arguments: Sequence[str],
    name: str,
    settings: Settings | None = None,
    about: str = "",
) -> tuple[C, dict[str, Any]]:
    """Read a command, and the settings that were given by dotted key.

    UsageError in one line for whatever is wrong with the arguments; SystemExit after help.
    """
    table = Table(next((word for word in reversed(HELP) if word in arguments), None))
    own = table.of(kind)
    others = table.of(type(settings.of), settings) if settings else {}
    flags = {**own, **others, **own}  # the command's own come first, and win
    words = ["--help" if word == "--help-all" else word for word in arguments]
    try:
        found, rest = table.run(flags, words, f"unnoise {name}", f"{inspect.getdoc(kind)}\n{about}")
    except SystemExit:
        if table.help != "--help-all":
            print(f"All flags: unnoise {name} --help-all")
        raise
    table.refuse(rest, words, name)
    for each in dataclasses.fields(kind):
        if each.default is MISSING and each.name not in found:
            text = helps(kind)[each.name].rstrip(".")
            text = f"{text[0].lower()}{text[1:]}; see unnoise {name} --help"
            raise UsageError(f"{name}: expected {text}")
    given: dict[str, Any] = {}
    for key in [key for key in found if key not in own]:
        part = {key: found.pop(key)}
        given |= dotted(part) if typing.is_typeddict(flags[key]) else part
    try:
        command = from_dict(kind, found)
        check_model_file(getattr(command, "model", ""))
        return command, given
    except ConfigError as error:
        flag, colon, rest = str(error).partition(":")
        raise UsageError(f"--{flag.replace('_', '-')}{colon}{rest}") from None


@dataclass(frozen=True)
class Table:
    """The types from which tyro makes flags."""

    help: str | None = None
    """The word that asks for help, where one does."""
    expected: dict[str, str] = field(default_factory=dict[str, str])
    """What stands after each flag, in words."""
    switches: set[str] = field(default_factory=set[str])
    """The flags after which nothing stands."""

    def of(self, kind: type, settings: Settings | None = None, group: str = "") -> dict[str, Any]:
        """Name -> type for the fields of a dataclass; for help, of those it shows."""
        hints = typing.get_type_hints(kind, include_extras=True)
        flags: dict[str, Any] = {}
        for each in dataclasses.fields(kind):
            key, name, hint = group + each.name, each.name.replace("_", "-"), hints[each.name]
            extras = getattr(hint, "__metadata__", ())
            if settings:
                default, flag = getattr(settings.of, each.name), Flag(settings.short.get(key, ()))
                rare, shown = key not in settings.often, settings.known
            else:
                default, flag = each.default, next((e for e in extras if type(e) is Flag), Flag())
                rare, shown = each.name in ("imports", *kind.rare), True
            if settings and dataclasses.is_dataclass(default):
                inner = dataclasses.replace(settings, of=default)
                nested = self.of(type(default), inner, f"{each.name}.")
                flags |= {each.name: _only_given(nested)} if nested else {}
            elif not rare or self.help not in ("-h", "--help"):
                switch, repeated = isinstance(default, bool), UseAppendAction in extras
                names = [f"--{group}{name}", *flag.short, *[f"--{group}no-{name}"] * switch]
                read = reading(hint)
                if default is not MISSING:
                    self.expected.update(dict.fromkeys(names, read.expected))
                    self.switches.update(names if switch else ())
                about = arg(
                    aliases=flag.short or None, metavar=flag.metavar,
                    help=helps(kind).get(each.name) if self.help else None,
                    help_behavior_hint=_text(default) if shown else "",
                )  # fmt: skip
                hint = Annotated[hint if switch or repeated else Annotated[str, read], about]
                hint = Positional[hint] if default is MISSING else hint
                # tyro leaves out what was not given, but cannot do so with flags that are repeated
                flags[each.name] = typing.Required[hint] if repeated else hint
        return flags

    def run(
        self, flags: dict[str, Any], arguments: Sequence[str], prog: str, about: str = ""
    ) -> tuple[dict[str, Any], list[str]]:
        """What tyro finds, and what it does not know; its complaint is a UsageError in one line."""
        kind, complaint = _only_given(flags), io.StringIO()
        try:
            with contextlib.redirect_stderr(complaint), styled():
                return tyro.cli(
                    kind, args=arguments, prog=prog, description=about, return_unknown_args=True
                )
        except SystemExit as end:
            if not end.code:
                raise
        lines = re.sub(r"\x1b\[[0-9;]*m|[╭╮╰╯│─]|-{4,}", " ", complaint.getvalue()).splitlines()
        text = " ".join(" ".join(lines[1:]).split())  # the first line is a title
        missing = re.match(r"Missing value for argument '((.*?)(/.*)?)'", text)
        if missing:
            raise UsageError(
                f"{missing[1]}: a value is missing, expected {self.expected[missing[2]]}"
            )
        text = re.split("For full helptext|Argument helptext", text)[0].strip()
        raise UsageError(text.removeprefix("Error parsing "))

    def refuse(self, unknown: Sequence[str], arguments: Sequence[str], name: str) -> None:
        """UsageError for the first argument that tyro does not know."""
        for before, word in itertools.pairwise(arguments):
            if word in unknown and before.replace("_", "-") in self.switches and word[:2] != "--":
                text = f"expected nothing after a switch: it is {before}, or --no-.. for off"
                raise UsageError(f"got {before} {word}, {text}")
        flags = [word.split("=")[0].replace("_", "-") for word in unknown if word.startswith("-")]
        if flags:
            alias = ALIASES.get(flags[0].lstrip("-"), "")
            own = alias if alias.split(" ")[0] in self.expected else None
            known = own if alias else closest(flags[0], self.expected)
            hint = f"did you mean {known!r}?" if known else f"see unnoise {name} --help-all"
            raise UsageError(f"no flag {flags[0]}; {hint}")
        if unknown:
            raise UsageError(f"got {unknown[0]!r}, expected a flag; flags begin with --")


ALIASES = {
    "learning-rate": "--lr", "batch": "--batch-size", "bs": "--batch-size", "epoch": "--epochs",
    "resolution": "--image-size", "wandb": "--train.trackers wandb", "seed": "--seeds",
    "fp16": "--train.precision fp16", "bf16": "--train.precision bf16", "class": "--label",
    "ema": "--train.ema-halflife-kimg", "cfg": "--guidance-scale", "cfg-scale": "--guidance-scale",
    "gpu": "--device cuda", "cpu": "--device cpu", "output": "--out", "output-dir": "--out",
    "guidance": "--guidance-scale",
}  # fmt: skip
"""What other tools call our flags."""


def _text(default: object) -> str:
    """What help says of a flag that is not given."""
    if default is MISSING or default in (None, "", (), {}):
        return ""
    if isinstance(default, bool):
        return f"[{'on' if default else 'off'}]"
    parts = default if isinstance(default, tuple) else (default,)
    words = (f"{part:g}" if isinstance(part, float) else str(part) for part in parts)
    return f"[{' '.join(words)}]"


def _only_given(flags: dict[str, Any]) -> Any:
    """A type of which tyro gives a dictionary with the flags that were given, and no others."""
    return typing.TypedDict("Flags", flags, total=False)  # pyright: ignore
