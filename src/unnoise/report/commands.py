"""The command lines that go on from a run folder, and how its configuration differs from its preset's."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unnoise.config import RunConfig, flat, from_dict
from unnoise.errors import ConfigError
from unnoise.presets import PRESETS
from unnoise.report.read import RunFiles


def differing(run: RunFiles) -> dict[str, tuple[Any, Any]] | None:
    """Dotted field -> (the run's value, the preset's); None where the preset is unknown here."""
    name = run.config.get("preset")
    if not isinstance(name, str) or name not in PRESETS:
        return None
    own, preset = dotted(run.config), flat(PRESETS[name]())
    as_json = {key: json.loads(json.dumps(value)) for key, value in preset.items()}
    return {
        key: (value, as_json.get(key))
        for key, value in own.items()
        if key not in as_json or as_json[key] != value
    }


def dotted(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration's plain dictionary by dotted key."""
    values: dict[str, Any] = {}
    for key, value in config.items():
        values |= (
            {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
        )
    return values


def train(run: RunFiles) -> str | None:
    """`unnoise train` with every setting of the run; None where this version cannot read its configuration."""
    try:
        config = from_dict(RunConfig, run.config)
    except ConfigError:
        return None
    if not run.config or config.preset not in PRESETS:
        return None
    target, preset, own = config.preset, flat(PRESETS[config.preset]()), flat(config)
    source = config.data.source
    if config.preset == "pictures" and source not in PRESETS and not source.startswith("-"):
        target = preset["data.source"] = source
    flags = [
        word
        for key, value in own.items()
        if value != preset.get(key)
        for word in _flag(key, value, preset.get(key))
    ]
    return shlex.join(["unnoise", "train", target, *flags, "--out", str(run.folder)])


def _flag(key: str, value: object, default: object) -> list[str]:
    """A field as a flag of the command line; a switch has none or `no-`, unless its default is neither."""
    group, dot, name = key.replace("_", "-").rpartition(".")
    if isinstance(value, bool) and isinstance(default, bool):
        return [f"--{group}{dot}{'' if value else 'no-'}{name}"]
    flag = f"--{group}{dot}{name}"
    if isinstance(value, tuple):
        return [flag, *map(str, value)]
    return [f"{flag}={value}"] if str(value).startswith("-") else [flag, str(value)]


def sample(run: RunFiles, *flags: str) -> str:
    return shlex.join(["unnoise", "sample", word(run.folder), *flags])


def tune(run: RunFiles) -> str:
    return shlex.join(["unnoise", "tune-sampler", word(run.folder)])


def report(run: RunFiles, out: Path | None) -> str:
    own = (
        [] if out is None else [f"--out={out}"] if str(out).startswith("-") else ["--out", str(out)]
    )
    return shlex.join(["unnoise", "report", word(run.folder), *own])


def word(folder: Path) -> str:
    """A folder as the first word of a command, which must not look like a flag."""
    return f"./{folder}" if str(folder).startswith("-") else str(folder)
