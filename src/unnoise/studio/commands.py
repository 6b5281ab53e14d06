"""The command lines that come next for a run, and how its settings differ from its preset's."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unnoise.config import RunConfig, dotted, flat, override, to_dict
from unnoise.errors import ConfigError
from unnoise.presets import ENDS, PRESETS, origin
from unnoise.reading import RETIRED, from_dict


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Give a configuration's values, and where they differ those of the preset, if it is known."""
    name, own, differs = config.get("preset"), dotted(config), None
    if isinstance(name, str) and name in PRESETS:
        try:
            default = origin(from_dict(RunConfig, config))
        except ConfigError:
            default = PRESETS[name]()
        preset = dotted(json.loads(json.dumps(to_dict(default))))
        changed = (key for key in own if key not in preset or own[key] != preset[key])
        differs = {key: preset.get(key) for key in changed if key not in RETIRED}
    return {"preset": name, "values": own, "differs": differs}


def command(name: str, folder: Path, *flags: str) -> str:
    """Write a command line that works on a folder, which must not look like a flag."""
    first = f"./{folder}" if str(folder).startswith("-") else str(folder)
    return shlex.join(["unnoise", name, first, *flags])


def following(folder: Path, config: Mapping[str, Any], record: Any) -> list[dict[str, str]]:
    """Give what to run next for a model's record, as {"about": .., "line": the command}."""
    tuned = record.get("tuned") or {}
    resume = "Resume the training (a finished run needs a later --time, --kimg or --epochs)"
    lines = {resume: _train(folder, config)}
    if record:
        lines["Make pictures"] = command("sample", folder, "--num", "64")
    if record and not tuned:
        lines["Find the best solver and time steps"] = command("tune-sampler", folder)
    if "balanced" in tuned:
        tuned_line = command("sample", folder, "--sampler", "balanced")
        lines["Make pictures with a tuned sampler"] = tuned_line
    return [{"about": about, "line": line} for about, line in lines.items() if line]


def _train(folder: Path, recorded: Mapping[str, Any]) -> str:
    """`unnoise train` with every setting; nothing where this version cannot read them."""
    try:
        config = from_dict(RunConfig, recorded)
    except ConfigError:
        return ""
    if not recorded or config.preset not in PRESETS:
        return ""
    default, source = origin(config), config.data.source
    same_kind = override(default, {"network.kind": config.network.kind})
    target, preset = config.preset, flat(same_kind) | {"network.kind": default.network.kind}
    if target == "pictures" and source not in PRESETS and not source.startswith("-"):
        target = preset["data.source"] = source
    own = flat(config)
    given = [end for end in ENDS if own[end] not in (None, preset[end])]
    preset |= dict.fromkeys(end for end in ENDS if given and end not in given)
    changed = [key for key in own if key not in preset or own[key] != preset[key]]
    flags = [part for key in changed for part in flag(key, own[key], preset.get(key))]
    return shlex.join(["unnoise", "train", target, *flags, "--out", str(folder)])


def flag(key: str, value: object, default: object = None) -> list[str]:
    """Write a setting as a flag; a switch has none or `no-`, unless its default is neither."""
    group, dot, name = key.replace("_", "-").rpartition(".")
    if isinstance(value, bool) and isinstance(default, bool):
        return [f"--{group}{dot}{'' if value else 'no-'}{name}"]
    if key == "imports" and isinstance(value, tuple):
        return [part for file in value for part in ("--import", file)]
    flag = f"--{group}{dot}{name}"
    if isinstance(value, tuple):
        return [flag, *map(str, value)]
    if isinstance(value, dict):
        return [flag, *(str(part) for pair in value.items() for part in pair)]
    return [f"{flag}={value}"] if str(value).startswith("-") else [flag, str(value)]
