"""The run folder, its checkpoints and the model file: safetensors and JSON, no pickle.

A run folder holds

    config.json                      the whole configuration, and the data's fingerprint
    environment.json                 versions, machine and arithmetic of every start
    data.png                         a mosaic of the training images
    metrics.jsonl                    one line per log interval
    samples/00070000.png             fixed-seed grids by images seen
    checkpoints/step-00001094/       network, ema, optimizer (.safetensors), state.json and a
                                     manifest.json of sizes and SHA-256
    model.safetensors                the averaged network alone, self-describing: what `load` reads
    model-ema-100.safetensors        another average (half-life 100 thousand images)

A checkpoint is there whole or not at all (`files.replacing`), and a damaged one is never loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unnoise import records
from unnoise.errors import CheckpointError
from unnoise.files import discard_leftovers, parse_json, read_json, replacing, sha256

FORMAT = 1
MODEL_FILE = records.MODEL_FILE
MANIFEST = records.MANIFEST
NAME = re.compile(r"step-\d{8,}", re.ASCII)

Tensors = dict[str, Tensor]


def save(folder: Path, step: int, tensors: dict[str, Tensors], state: dict[str, Any]) -> Path:
    """Write `folder/step-<step>` from groups of tensors and a JSON state, whole or not at all."""
    final = folder / name(step)
    try:
        with replacing(final) as temporary:
            temporary.mkdir()
            for part, group in tensors.items():
                save_tensors(group, temporary / f"{part}.safetensors")
            (temporary / "state.json").write_text(json.dumps(state, indent=2) + "\n")
            written = sorted(temporary.iterdir())
            files = {p.name: {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in written}
            manifest = {"format": FORMAT, "torch": torch.__version__, "files": files}
            (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    except (OSError, SafetensorError) as error:
        fix = "make room or choose another --out and run the same command again"
        what = f"checkpoint {final}: not written ({_reason(error)})"
        raise CheckpointError(f"{what}; {intact(folder)}, {fix}") from error
    return final


def save_tensors(tensors: Tensors, path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a file of tensors that others may read too."""
    path.touch()  # safetensors' own mode would let nobody else read the file
    mode = path.stat().st_mode
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata)
    path.chmod(mode)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def name(step: int) -> str:
    """The folder of a step's checkpoint."""
    return f"step-{step:08d}"


def prune(folder: Path, kept: set[str]) -> None:
    """Delete all checkpoints but those kept by name."""
    for path in checkpoints(folder):
        if path.name not in kept and not path.is_symlink():  # what was moved away is the user's
            shutil.rmtree(path)


def intact(folder: Path) -> str:
    """What is still there, for a message that says why something is not."""
    there = checkpoints(folder)
    return f"{there[-1].name} is intact" if there else "there is no earlier checkpoint"


def checkpoints(folder: Path) -> list[Path]:
    """Give the checkpoints of a folder, oldest first; nothing else of that folder is ours."""
    return sorted(p for p in folder.glob("step-*") if NAME.fullmatch(p.name) and p.is_dir())


def load(
    path: Path, device: torch.device | str = "cpu"
) -> tuple[dict[str, Tensors], dict[str, Any]]:
    """Read a checkpoint that `verify` finds sound; CheckpointError where it is not finite."""
    files = sorted(name for name in verify(path) if name.endswith(".safetensors"))
    groups: dict[str, Tensors] = {}
    for file in files:
        try:
            group = groups[Path(file).stem] = load_file(path / file, device=str(device))
        except SafetensorError as error:
            raise CheckpointError(f"checkpoint {path}: {file} is damaged ({error})") from error
        refuse_not_finite(group, f"checkpoint {path}: {file}")
    return groups, read_json(path / "state.json")


def read_averaged(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Read the averaged weights of a checkpoint as a model."""
    groups, record = load(path)
    if "ema" not in groups:
        raise CheckpointError(f"checkpoint {path}: has no ema.safetensors")
    return groups["ema"], records.check_model(record, f"checkpoint {path}")


def verify(path: Path) -> list[str]:
    """Give the files of a checkpoint's manifest: each has its size and SHA-256.

    CheckpointError otherwise. Other files there, such as a sync tool's, do not matter.
    """
    what = f"checkpoint {path}"
    manifest = records.read_manifest(path)
    files, version = manifest["files"], manifest["format"]
    if version != FORMAT:
        raise CheckpointError(f"{what}: format {version}, expected {FORMAT}; update unnoise")
    if "state.json" not in files or any(Path(name).name != name for name in files):
        raise CheckpointError(f"{what}: its manifest.json is damaged")
    for name, entry in files.items():
        file, size = path / name, entry["bytes"]
        if not file.is_file():
            raise CheckpointError(f"{what}: {name} is missing")
        if (got := file.stat().st_size) != size:
            raise CheckpointError(f"{what}: {name} is {got} bytes, expected {size}")
        if sha256(file) != entry["sha256"]:
            raise CheckpointError(f"{what}: {name} is damaged (SHA-256 differs)")
    return list(files)


def newest(folder: Path, sound: Callable[[Path], object] = verify) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is sound, and why newer ones were skipped.

    `sound` raises a CheckpointError for whatever keeps a checkpoint from being used. Only the
    process that owns the run folder may call this: it discards what killed writers left.
    """
    discard_leftovers(folder)
    skipped = []
    for path in reversed(checkpoints(folder)):
        try:
            sound(path)
        except CheckpointError as error:
            skipped.append(str(error))
        else:
            return path, skipped
    return None, skipped


def save_model(path: Path, tensors: Tensors, record: dict[str, Any]) -> None:
    """Write a self-describing model file: weights, and a JSON record in its header."""
    record = _sealed(tensors, record)
    try:
        with replacing(path) as temporary:
            save_tensors(tensors, temporary, {"unnoise": json.dumps(record)})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"model file {path}: not written ({_reason(error)})") from error


def read_model(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Read weights and record of a model file; CheckpointError where it is damaged or foreign."""
    what = f"model file {path}"
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("unnoise")
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        why = f"cannot be read ({error}); it is truncated or damaged"
        raise CheckpointError(f"{what}: {why}") from error
    record = {} if text is None else parse_json(text, what)
    if not {"config", "weights", "shape"} <= record.keys():
        expected = "a file that `unnoise train` wrote"
        raise CheckpointError(f"{what}: has no unnoise record; expected {expected}")
    if _digest(record) != record.get("record"):
        raise CheckpointError(f"{what}: is damaged (its record differs from its SHA-256)")
    if fingerprint(tensors) != record["weights"]:
        raise CheckpointError(f"{what}: is damaged (its weights differ from their SHA-256)")
    return tensors, records.check_model(record, what)


def read_named(name: str | Path) -> tuple[Path, Tensors, dict[str, Any]]:
    """Find a model by bundled name, run folder, model file or checkpoint folder, and read it.

    A checkpoint's weights are its averaged ones.
    """
    path = Path(name) if isinstance(name, str | Path) else Path()  # pyright: ignore
    if name and os.path.isfile(path / MANIFEST):
        return path, *read_averaged(path)
    path = records.find(name)
    return path, *read_model(path)


def fit(module: nn.Module, tensors: Tensors, path: Path) -> None:
    """Load tensors of the file `path` into a module; CheckpointError for the first that misfits."""
    compare(module, tensors, path)
    refuse_not_finite(tensors, str(path))
    module.load_state_dict(tensors)


def compare(module: nn.Module, tensors: Tensors, path: Path) -> None:
    """CheckpointError unless the tensors are those of a module."""
    expected = module.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        values = tensors.get(name), expected.get(name)
        got, want = (None if value is None else tuple(value.shape) for value in values)
        if got is None or got != want:
            why = f"{name} is {got}, expected {want}"
        elif tensors[name].is_floating_point() != expected[name].is_floating_point():
            why = f"{name} is {tensors[name].dtype}, expected {expected[name].dtype}"
        else:
            continue
        raise CheckpointError(f"{path}: the weights do not match the configuration: {why}")


def refuse_not_finite(tensors: Tensors, what: str) -> None:
    for name, value in tensors.items():
        if value.is_floating_point() and not value.float().isfinite().all():
            raise CheckpointError(f"{what}: {name} is not finite; it is damaged or has diverged")


def holds_model(path: Path, tensors: Tensors, record: dict[str, Any]) -> bool:
    """Whether a file is sound and just what `save_model` would write."""
    try:
        return read_model(path)[1]["record"] == _sealed(tensors, record)["record"]
    except CheckpointError:
        return False


def _sealed(tensors: Tensors, record: dict[str, Any]) -> dict[str, Any]:
    """Add the digests of the weights and of the record itself."""
    record = {**record, "format": FORMAT, "weights": fingerprint(tensors)}
    return {**record, "record": _digest(record)}


def _digest(record: dict[str, Any]) -> str:
    """SHA-256 of a record, but for the digest itself."""
    rest = {key: value for key, value in record.items() if key != "record"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def fingerprint(tensors: Tensors) -> str:
    """SHA-256 of names, shapes, types and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
