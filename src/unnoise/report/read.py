"""What a run folder holds, read without torch; what is missing or broken becomes a note, not an error."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

Record = dict[str, Any]
Series = list[tuple[float, float]]
"""(images seen, value), by images seen."""

LARGEST_HEADER_BYTES = 100_000_000
HUGEST = 1e300


@dataclass
class Checkpoint:
    """A folder of checkpoints/: what it weighs, and what its manifest says of it."""

    name: str
    size_bytes: int
    nimg: float | None
    state: str


@dataclass
class RunFiles:
    """Everything the page shows, and notes of what is not there."""

    folder: Path
    config: Record = field(default_factory=dict)
    fingerprint: str = ""
    starts: list[Record] = field(default_factory=list)
    lines: list[Record] = field(default_factory=list)
    record: Record = field(default_factory=dict)
    evaluation: Record = field(default_factory=dict)
    parameters: int | None = None
    samples: list[tuple[int, Path]] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.folder.resolve().name or str(self.folder)

    def part(self, name: str) -> Record:
        """A part of the model file's record: training, data, shape, tuned."""
        value = self.record.get(name)
        return cast(Record, value) if isinstance(value, dict) else {}

    def series(self) -> dict[str, Series]:
        """Every numeric field of metrics.jsonl but the clock itself, in the order of first appearance."""
        found: dict[str, Series] = {}
        for line in self.lines:
            for name, value in line.items():
                if (
                    name not in ("step", "nimg", "epoch", "train_sec")
                    and (number := finite(value)) is not None
                ):
                    found.setdefault(name, []).append((line["nimg"], number))
        return found

    def last(self, name: str) -> float | None:
        """The last value of a field of metrics.jsonl, or else the model file's."""
        values = [v for line in self.lines if (v := finite(line.get(name))) is not None]
        return values[-1] if values else finite(self.part("training").get(name))


def finite(value: object) -> float | None:
    """A number that can be drawn, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    if abs(number) < 1 / HUGEST:
        return 0.0
    return number if abs(number) < HUGEST else None


def read(folder: Path) -> RunFiles:
    """The run of a folder; CheckpointError where it is none."""
    run = RunFiles(folder)
    if folder.is_dir():
        for part in (_config, _metrics, _model, _samples, _checkpoints, _environment, _evaluation):
            part(run)
    if not (run.config or run.lines or run.record or run.checkpoints):
        from unnoise.errors import CheckpointError

        got = (
            "holds no run"
            if folder.is_dir()
            else "is a file"
            if folder.exists()
            else "is not there"
        )
        raise CheckpointError(
            f"report: {folder} {got}; expected a run folder of `unnoise train`, such as runs/digits"
        )
    return run


def _json(run: RunFiles, name: str, kind: Callable[[Any], bool]) -> Any:
    """A JSON file of the run, or None and a note."""
    path = run.folder / name
    try:
        value = json.loads(path.read_text(errors="replace"))
    except FileNotFoundError:
        run.notes.append(f"{name} is not there")
    except (OSError, ValueError, RecursionError) as error:
        run.notes.append(f"{name} cannot be read ({type(error).__name__})")
    else:
        if kind(value):
            return value
        run.notes.append(f"{name} is not what unnoise train writes")
    return None


def _config(run: RunFiles) -> None:
    value = _json(
        run,
        "config.json",
        lambda v: isinstance(v, dict) and isinstance(v.get("config"), dict) and v["config"],
    )
    if value is not None:
        run.config, run.fingerprint = value["config"], str(value.get("data", ""))


def _environment(run: RunFiles) -> None:
    value = _json(run, "environment.json", lambda v: isinstance(v, list))
    run.starts = [start for start in value or [] if isinstance(start, dict)]


def _evaluation(run: RunFiles) -> None:
    if (run.folder / "evaluation.json").exists():
        run.evaluation = _json(run, "evaluation.json", lambda v: isinstance(v, dict)) or {}


def _metrics(run: RunFiles) -> None:
    """The lines of metrics.jsonl that say how many images they are about, by images seen."""
    try:
        texts = (run.folder / "metrics.jsonl").read_text(errors="replace").splitlines()
    except OSError:
        run.notes.append("metrics.jsonl is not there: no curves yet")
        return
    broken, unreal = [], 0
    for number, text in enumerate(texts, 1):
        line: Record = {}
        nimg = None
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            line = json.loads(text)
            nimg = finite(line["nimg"])
        if nimg is None or nimg < 0:
            broken.append(number)
            continue
        unreal += sum(isinstance(v, float) and finite(v) is None for v in line.values())
        run.lines.append({**line, "nimg": nimg})
    run.lines.sort(key=lambda line: line["nimg"])
    if broken:
        shown = ", ".join(map(str, broken[:5])) + (", .." if len(broken) > 5 else "")
        run.notes.append(f"metrics.jsonl: {len(broken)} broken line(s) left out (line {shown})")
    if unreal:
        run.notes.append(
            f"metrics.jsonl: {unreal} value(s) that are not finite are left out of the curves"
        )
    if not run.lines:
        run.notes.append("metrics.jsonl holds no measurement yet")


def _model(run: RunFiles) -> None:
    """The record in the header of model.safetensors, and the number of parameters."""
    path = run.folder / "model.safetensors"
    try:
        header = read_header(path)
        record = json.loads(header.get("__metadata__", {}).get("unnoise", "null"))
        parameters, ends = _tensors(header)
    except FileNotFoundError:
        run.notes.append("model.safetensors is not there: no model yet")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        run.notes.append(
            f"model.safetensors cannot be read ({type(error).__name__}): truncated or damaged"
        )
    else:
        if not isinstance(record, dict) or "weights" not in record:
            run.notes.append("model.safetensors has no unnoise record")
            return
        run.record, run.parameters = record, parameters
        if path.stat().st_size != ends:
            run.notes.append("model.safetensors is truncated: it cannot be loaded")


def read_header(path: Path) -> Record:
    """The JSON header of a safetensors file; its own size in bytes is added as `__bytes__`."""
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else LARGEST_HEADER_BYTES + 1
        if length > LARGEST_HEADER_BYTES:
            raise ValueError("no safetensors header")
        header = dict(json.loads(file.read(length)))
    return {**header, "__bytes__": 8 + length}


def _tensors(header: Record) -> tuple[int, int]:
    """How many numbers the tensors hold, and where the file ends."""
    tensors = [value for name, value in header.items() if not name.startswith("__")]
    ends = max((int(tensor["data_offsets"][1]) for tensor in tensors), default=0)
    return sum(math.prod(tensor["shape"]) for tensor in tensors), header["__bytes__"] + ends


def _samples(run: RunFiles) -> None:
    """The grids of samples/, named by images seen."""
    for path in (run.folder / "samples").glob("*.png"):
        if re.fullmatch(r"\d{1,15}", path.stem, re.ASCII):
            run.samples.append((int(path.stem), path))
    run.samples.sort()
    if not run.samples:
        run.notes.append("samples/ holds no grid yet")
    if not (run.folder / "data.png").is_file():
        run.notes.append("data.png, the mosaic of the training images, is not there")


def _checkpoints(run: RunFiles) -> None:
    for path in sorted((run.folder / "checkpoints").glob("step-*")):
        with suppress(OSError):  # a run that is still going may delete one just now
            run.checkpoints.append(_checkpoint(path))
    if not run.checkpoints:
        run.notes.append("checkpoints/ holds none yet: a run that stops now starts again")
    if run.parameters is None and run.checkpoints:
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            newest = run.folder / "checkpoints" / run.checkpoints[-1].name
            run.parameters, _ = _tensors(read_header(newest / "ema.safetensors"))


def _checkpoint(path: Path) -> Checkpoint:
    sizes = {file.name: file.stat().st_size for file in path.iterdir() if file.is_file()}
    try:
        files = json.loads((path / "manifest.json").read_text())["files"]
        wrong = [name for name, entry in files.items() if sizes.get(name) != entry["bytes"]]
        state = f"damaged: {', '.join(wrong)}" if wrong else "all files of the right size"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        state = "damaged: no readable manifest"
    try:
        nimg = finite(json.loads((path / "state.json").read_text())["nimg"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        nimg = None
    return Checkpoint(path.name, sum(sizes.values()), nimg, state)
