"""unnoise train."""

from __future__ import annotations

import json
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from unnoise.cli.flags import Command, Flag, Settings, first_word, parse, peek
from unnoise.config import RunConfig, override, to_dict
from unnoise.presets import PRESETS, changed, named

SHORT = {
    "data.source": ("--data",),
    "data.path": ("--data-path",),
    "data.image_size": ("--image-size", "--size"),
    "data.channels": ("--channels",),
    "data.flip": ("--flip",),
    "train.start": ("--from",),
    "train.epochs": ("--epochs",),
    "train.kimg": ("--kimg",),
    "train.time": ("--time",),
    "train.batch_size": ("--batch-size",),
    "train.lr": ("--lr",),
}
"""Short forms of the flags used most."""
OFTEN = ("data.image_size", "train.start", "train.epochs", "train.kimg", "train.time", "train.lr")


@dataclass(frozen=True, kw_only=True)
class Start(Command):
    """The configuration that the other flags change."""

    rare = ("network_kind", "print_config")
    objective: str | None = None
    """Another objective: ddpm, iddpm, v, edm or flow."""
    network_kind: Annotated[str | None, Flag(("--network.kind",))] = None
    """Another kind of network, which has flags of its own."""


@dataclass(frozen=True, kw_only=True)
class Run(Start):
    """What defines a run besides its configuration."""

    target: Annotated[str, Flag(metavar="PRESET|PATH|RUN")]
    """A preset, a folder or file of pictures, hf:owner/name, or a run folder, to resume it with its
    settings."""
    out: str | None = None
    """Run folder [runs/NAME]."""
    resume: Literal["auto", "anyway", "never"] = "auto"
    """Resume an earlier run of the same configuration (auto) or of any (anyway), or refuse to
    (never)."""

    def folder(self, config: RunConfig) -> Path:
        """The run folder."""
        from unnoise import api

        usual = api.default_folder(config, self.objective, self.target)
        return Path(self.out) if self.out else usual


@dataclass(frozen=True, kw_only=True)
class Train(Run):
    """Train a model. The same command resumes a run that was stopped."""

    print_config: bool = False
    """Only print the whole configuration."""


R = TypeVar("R", bound=Run)


def configured(kind: type[R], arguments: list[str], name: str) -> tuple[R, RunConfig]:
    """A command on a run, and the run's configuration: of the target, changed by the flags."""
    target, (start, _) = first_word(arguments), peek(Start, arguments)
    kind_of_network = {} if start.network_kind is None else {"network.kind": start.network_kind}
    base = override(named(target or "digits", start.objective), kind_of_network)
    about = "" if target else textwrap.fill(f"Presets: {', '.join(PRESETS)}.", 80)
    settings = Settings(base, target is not None, OFTEN, SHORT)
    run, given = parse(kind, arguments, name, settings, about)
    given = {**kind_of_network, **given, "imports": run.imports}
    if base.preset != "pictures" and "train.start" not in given:  # those alone need torch
        return run, changed(base, given)
    from unnoise import api

    return run, api.preset(run.target, given, start.objective)


def train(arguments: list[str]) -> int:
    """Run `unnoise train PRESET|PATH|RUN`."""
    run, config = configured(Train, arguments, "train")
    if run.print_config:
        print(json.dumps(to_dict(config), indent=2))
        return 0
    from unnoise import api, parallel

    if run.target in PRESETS and Path(run.target).is_dir() and parallel.world().main:
        print(f"{run.target} is a preset; the folder here is ./{run.target}")
    folder = run.folder(config)
    ending = api.train_here(config, folder, run.resume)
    if parallel.world().main and ending.finished:
        print(f"done: {folder}\nnext: unnoise sample {folder}")
    elif parallel.world().main:
        words = ["unnoise", "train", str(folder), *(f"--import={path}" for path in run.imports)]
        print(f"stopped: everything is saved; {shlex.join(words)} resumes it")
    return 0 if ending.finished else 128 + (ending.signal or 2)
