"""A run folder as plain data, read without torch.

A folder may be half written, damaged or made by somebody else: what is missing or broken becomes a
line of `problems`, never an error.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unnoise.errors import CheckpointError, ConfigError, UserError
from unnoise.evaluation import record as evaluations
from unnoise.evaluation import summary
from unnoise.files import parse_json, read_json
from unnoise.records import LOCK, VERDICT, read_header, read_line, read_manifest, read_starts
from unnoise.studio import commands, trainers
from unnoise.units import seconds

Record = dict[str, Any]

HUGEST = 1e300
EXACT = 2**53
"""JavaScript has no larger whole numbers."""
DEEPEST = 12
"""Levels of nesting that are kept of a record."""
MOST_POINTS = 4000
"""A longer curve is thinned to about this many points: the lowest and highest of each stretch."""
CLOCKS = ("step", "nimg", "epoch", "train_sec")
"""Fields of metrics.jsonl that are no curves."""
QUIET_SEC = 60.0
"""Without a lock, a run that has written nothing for this long, and for three of its intervals, has
stopped."""
TAIL_BYTES = 1 << 15
"""How much of the end of metrics.jsonl a summary reads."""
DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)
"""What reading a damaged file can raise."""


def read(folder: Path) -> Record:
    """Give all that is known of a run, ready for JSON; CheckpointError where there is none."""
    problems: list[str] = []
    recorded = _recorded(folder, problems)
    config = _part(recorded, "config")
    if not (config or problems):
        problems.append("config.json: holds no configuration")
    lines = _lines(folder, problems)
    record, parameters = _model(folder, problems)
    checkpoints = _checkpoints(folder, problems)
    if not (config or lines or record or checkpoints):
        kind = "is a file" if folder.exists() else "is not there"
        what = f"{folder} {'holds no run' if folder.is_dir() else kind}"
        expected = "a run folder of `unnoise train`, such as runs/digits"
        raise CheckpointError(f"{what}; expected {expected}")
    data = {"fingerprint": recorded.get("data"), **_part(record, "data")}
    far = _progress(folder, _part(config, "train"), lines, _part(record, "training"), problems)
    run = {
        "name": folder.resolve().name or str(folder),
        "folder": str(folder),
        "state": state(folder, far.pop("patience"), far["progress"]),
        **far,
        "parameters": parameters,
        "weights": record.get("weights"),
        "shape": _part(record, "shape"),
        "class_names": record.get("class_names"),
        "data": {**data, "picture": picture(folder, "data.png", problems)},
        "samples": _samples(folder, problems),
        "verdict": _verdict(folder, problems),
        "curves": _curves(lines),
        "settings": commands.settings(config),
        "environment": _starts(folder, problems),
        "checkpoints": checkpoints,
        "evaluation": _evaluation(folder, str(record.get("weights", "")), problems),
        "tuned": _part(record, "tuned"),
        "commands": commands.following(folder, config, record),
        "problems": problems,
    }
    return plain(run)


def brief(folder: Path) -> Record:
    """Give the few facts of a run that a list shows, quickly; what is missing or broken is None."""
    config = _part(_recorded(folder, []), "config")
    lines = _lines(folder, [], TAIL_BYTES)
    far = _progress(folder, _part(config, "train"), lines, {}, [])
    return plain({"preset": config.get("preset"), **far.pop("seen"), **far})


def state(folder: Path, patience: float = QUIET_SEC, progress: float | None = None) -> str:
    """Say whether a run is running, finished or stopped; by its lock, or by how quiet it is."""
    if progress == 1:
        return "finished"
    if trainers.process(folder) is not None:
        return "running"
    with suppress(OSError):
        if (folder / LOCK).stat().st_size == 0:  # its trainer has ended in order, or soon has
            return "running" if trainers.held(folder / trainers.LOG) else "stopped"
    files = [path for path in (folder / "config.json", folder / "metrics.jsonl") if path.exists()]
    fresh = any(time.time() - path.stat().st_mtime < patience for path in files)
    return "running" if fresh else "stopped"


def grids(folder: Path) -> list[tuple[int, str]]:
    """Give the grids of samples as images seen and name, in order."""
    paths = [p for p in (folder / "samples").glob("*.png") if re.fullmatch("[0-9]{1,15}", p.stem)]
    return sorted((int(path.stem), f"samples/{path.name}") for path in paths)


def plain(value: Any, depth: int = DEEPEST) -> Any:
    """Copy a value so that every reader of JSON takes it, whatever a damaged file put into it."""
    kind = type(value)
    if kind in (dict, list, tuple) and not depth:
        return ".."
    if kind is dict:
        return {str(key): plain(part, depth - 1) for key, part in value.items()}
    if kind in (list, tuple):
        return [plain(part, depth - 1) for part in value]
    odd = (kind is float and not math.isfinite(value)) or (kind is int and abs(value) > EXACT)
    return str(value) if odd else value


def finite(value: Any) -> float | None:
    """Give a number that can be drawn, or None."""
    drawn = type(value) in (int, float) and -HUGEST < value < HUGEST
    return float(value) if drawn else None


@contextmanager
def _noted(folder: Path, name: str, problems: list[str]) -> Iterator[None]:
    """Turn what reading a missing or damaged file raises into a problem."""
    try:
        yield
    except DAMAGE as error:
        reason = str(error).removeprefix(f"{folder / name}: ")
        if not isinstance(error, UserError):
            reason = f"cannot be read ({type(error).__name__}: {error})"
        there = (folder / name).exists()
        problems.append(f"{name}: {reason}" if there else f"{name} is not there")


def _part(record: Record, name: str) -> Record:
    value = record.get(name)
    return value if isinstance(value, dict) else {}


def _recorded(folder: Path, problems: list[str]) -> Record:
    with _noted(folder, "config.json", problems):
        return read_json(folder / "config.json")
    return {}


def _starts(folder: Path, problems: list[str]) -> list[Record]:
    with _noted(folder, "environment.json", problems):
        return read_starts(folder / "environment.json")
    return []


def _verdict(folder: Path, problems: list[str]) -> list[str]:
    """What training said of the run as it ended."""
    with _noted(folder, VERDICT, problems if (folder / VERDICT).exists() else []):
        return (folder / VERDICT).read_text(errors="replace").splitlines()
    return []


def picture(folder: Path, name: str, problems: list[str]) -> Record | None:
    """Name a picture of the folder, where it is there and whole."""
    with _noted(folder, name, problems):
        content = (folder / name).read_bytes()
        if not (content.startswith(b"\x89PNG\r\n\x1a\n") and b"IEND" in content[-12:]):
            raise CheckpointError("is not a whole PNG")
        return {"path": name}
    return None


def _samples(folder: Path, problems: list[str]) -> list[Record]:
    """Find the grids of samples/, which are named by the images seen."""
    every = grids(folder)
    if not every:
        problems.append("samples/ holds no grid yet")
    found = [(nimg, picture(folder, name, problems)) for nimg, name in every]
    return [{"nimg": nimg, **picture} for nimg, picture in found if picture]


def _lines(folder: Path, problems: list[str], most: int | None = None) -> list[Record]:
    """Read the lines of metrics.jsonl that say how many images they are about, by images seen.

    With `most`, only those in so many bytes at the end.
    """
    texts: list[str] = []
    with _noted(folder, "metrics.jsonl", problems):
        with (folder / "metrics.jsonl").open("rb") as file:
            if most is not None:
                file.seek(max(0, (folder / "metrics.jsonl").stat().st_size - most))
            texts = file.read().decode(errors="replace").splitlines()
        if not texts:
            raise CheckpointError("holds no measurement yet")
    lines: list[Record] = []
    broken: list[str] = []
    for number, text in enumerate(texts, 1):
        try:
            line = read_line(text)
            lines.append({**line, "nimg": float(line["nimg"])})
        except CheckpointError:
            broken.append(str(number))
    if broken:
        shown = ", ".join(broken[:5]) + (", .." if len(broken) > 5 else "")
        problems.append(f"metrics.jsonl: {len(broken)} broken line(s) left out (line {shown})")
    values = [value for line in lines for value in line.values() if type(value) is float]
    if unreal := sum(finite(value) is None for value in values):
        problems.append(f"metrics.jsonl: {unreal} value(s) that are not finite left out")
    return sorted(lines, key=lambda line: line["nimg"])


def _curves(lines: Sequence[Record]) -> Record:
    """Give every numeric field: the number of measurements, and their images seen and values."""
    found: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        for name, value in line.items():
            if name not in CLOCKS and (number := finite(value)) is not None:
                found.setdefault(name, []).append((line["nimg"], number))
    curves = {}
    for name, points in found.items():
        nimg, values = zip(*thinned(points), strict=True)
        curves[name] = {"count": len(points), "nimg": nimg, "values": values}
    return curves


def thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """Keep the ends of a long curve, and the lowest and highest of each stretch."""
    if len(points) <= MOST_POINTS:
        return points
    kept, stretches = {0, len(points) - 1}, MOST_POINTS // 2
    for i in range(stretches):
        stretch = range(len(points) * i // stretches, len(points) * (i + 1) // stretches)
        kept |= {min(stretch, key=lambda j: points[j][1]), max(stretch, key=lambda j: points[j][1])}
    return [points[i] for i in sorted(kept)]


def _model(folder: Path, problems: list[str]) -> tuple[Record, int | None]:
    """Read the record in model.safetensors, and the number of parameters."""
    path = folder / "model.safetensors"
    with _noted(folder, path.name, problems):
        header, start = read_header(path)
        text = header.pop("__metadata__", {}).get("unnoise", "{}")
        record = parse_json(text, path.name)
        if "weights" not in record:
            raise CheckpointError("has no unnoise record")
        tensors = list(header.values())
        ends = max((int(tensor["data_offsets"][1]) for tensor in tensors), default=0)
        if path.stat().st_size != start + ends:
            problems.append("model.safetensors is truncated: it cannot be loaded")
        return record, sum(math.prod(tensor["shape"]) for tensor in tensors)
    return {}, None


def _checkpoints(folder: Path, problems: list[str]) -> list[Record]:
    found = []
    for path in sorted((folder / "checkpoints").glob("step-*")):
        with suppress(OSError):  # a run in progress may delete one just now
            found.append(_checkpoint(path))
    if not found:
        problems.append("checkpoints/ holds none yet: a run that stops now starts again")
    return found


def _checkpoint(path: Path) -> Record:
    sizes = {file.name: file.stat().st_size for file in path.iterdir() if file.is_file()}
    state, nimg = "damaged: no readable manifest", None
    with suppress(*DAMAGE):
        files = read_manifest(path)["files"]
        wrong = [name for name, entry in files.items() if sizes.get(name) != entry["bytes"]]
        state = f"damaged: {', '.join(wrong)}" if wrong else "all files of the right size"
    with suppress(*DAMAGE):
        nimg = finite(read_json(path / "state.json")["nimg"])
    return {"name": path.name, "nimg": nimg, "bytes": sum(sizes.values()), "state": state}


def _progress(
    folder: Path, ends: Record, lines: Sequence[Record], training: Record, problems: list[str]
) -> Record:
    """Give the last value of each clock and loss, the share of the way, and when quiet is long."""
    seen = {}
    for name in ("nimg", "epoch", "train_sec", "loss", "held_out_loss"):
        values = (finite(line.get(name)) for line in reversed(lines))
        seen[name] = next((v for v in values if v is not None), finite(training.get(name)))
    model_at = finite(training.get("nimg"))
    if model_at is not None and model_at < seen["nimg"]:
        reach = f"the curves reach {seen['nimg']:,.0f}"
        problems.append(f"model.safetensors is of {model_at:,.0f} images; {reach}")
    limits = {"nimg": 1000 * (finite(ends.get("kimg")) or 0), "epoch": finite(ends.get("epochs"))}
    with suppress(ConfigError):
        limits["train_sec"] = seconds(str(ends.get("time") or ""))
    shares = [(seen[name] or 0) / limit for name, limit in limits.items() if limit]
    progress = min(1.0, max(0.0, *shares)) if shares else None
    progress = 1.0 if (folder / VERDICT).exists() else progress  # which a finished run has
    times = [sec for line in lines[-20:] if (sec := finite(line.get("train_sec"))) is not None]
    patience = max(QUIET_SEC, 3 * (times[-1] - times[-2]) if len(times) > 1 else 0)
    return {"progress": progress, "patience": patience, "seen": seen}


def _evaluation(folder: Path, weights_now: str, problems: list[str]) -> Record | None:
    """Give evaluation.json as a title, tables, notes and pictures; None where there is none."""
    path = folder / "evaluation.json"
    if not path.exists():
        return None
    with _noted(folder, path.name, problems):
        record = evaluations.read(path)
        weights = (record["model"] or {}).get("weights", "")
        shown = {
            "title": summary.title(record),
            "tables": [asdict(table) for table in summary.tables(record)],
            "notes": record["notes"],
        }
        if weights_now and not weights_now.startswith(weights):
            now = f"model.safetensors ({weights_now[:12]})"
            problems.append(f"evaluation.json is of other weights ({weights}) than {now}")
        for name in ("samples", "neighbours") if record.get("copying") else ("samples",):
            shown[name] = picture(folder, f"evaluation/{name}.png", problems)
        return shown
    return None
