"""Every data set becomes one memory-mapped uint8 file with labels: decoded once, never again.

A cache entry is a folder `<name>-<key>` with pixels.u8, labels.npy and meta.json, written under a temporary name and
renamed. Its key covers the files (names, sizes, times) and the settings, so a changed file makes a new entry.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from unnoise.data.config import DataConfig, DataError

VERSION = 1
SETTINGS = ("image_size", "image_width", "channels", "background", "held_out", "max_pixels")


@dataclass
class Writer:
    """Takes images one by one, training images first."""

    file: BinaryIO
    shape: tuple[int, ...] = ()
    count: int = 0
    num_train: int | None = None
    labels: list[int] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, image: np.ndarray, label: int = 0) -> None:
        """One uint8 (c, h, w) image."""
        assert image.dtype == np.uint8 and (not self.shape or image.shape == self.shape)
        self.shape, self.count = image.shape, self.count + 1
        self.labels.append(label)
        self.file.write(image.tobytes())

    def end_of_training_images(self) -> None:
        """What follows is held out."""
        self.num_train = self.count


@dataclass(frozen=True)
class Source:
    """A data set that is not read yet."""

    name: str
    key: Any
    """JSON that changes when the files change."""
    fill: Callable[[Writer], None]
    class_names: tuple[str, ...] = ()
    flip: bool = False


def root(config: DataConfig) -> Path:
    """The cache folder of a configuration."""
    return Path(config.cache or os.environ.get("UNNOISE_CACHE") or Path.home() / ".cache" / "unnoise")


def cached(config: DataConfig, source: Source) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Pixels, labels and meta of a source, from the cache or written to it now."""
    settings = {name: value for name, value in asdict(config).items() if name in SETTINGS}
    text = json.dumps([VERSION, source.name, source.key, settings], sort_keys=True)
    entry = root(config) / f"{source.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    try:
        return _read(entry)
    except (OSError, EOFError, ValueError, KeyError):  # not there yet, or damaged
        pass
    try:
        _write(entry, source)
        return _read(entry)
    except OSError as error:
        raise DataError(
            f"data cache {entry.parent}: cannot be written ({error.strerror}); choose another with --data.cache FOLDER"
        ) from error


def _write(entry: Path, source: Source) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{entry.name}-", dir=entry.parent))
    try:
        with (temporary / "pixels.u8").open("wb") as file:
            writer = Writer(file)
            source.fill(writer)
            file.flush()
            os.fsync(file.fileno())
        labels = np.array(writer.labels, np.int64)
        np.save(temporary / "labels.npy", labels)
        num_train = writer.count if writer.num_train is None else writer.num_train
        shape = (writer.count, *writer.shape)
        meta = {
            "shape": shape,
            "num_train": num_train,
            "fingerprint": _fingerprint(temporary / "pixels.u8", f"{shape} {num_train}".encode() + labels.tobytes()),
            "skipped": writer.skipped,
            "notes": writer.notes,
        }
        (temporary / "meta.json").write_text(json.dumps(meta))
        shutil.rmtree(entry, ignore_errors=True)
        os.replace(temporary, entry)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read(entry: Path) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    meta = json.loads((entry / "meta.json").read_text())
    images = np.memmap(entry / "pixels.u8", np.uint8, "r", shape=tuple(meta["shape"]))
    labels = np.load(entry / "labels.npy")
    if images.nbytes != (entry / "pixels.u8").stat().st_size or len(labels) != len(images) or not meta["fingerprint"]:
        raise ValueError("damaged cache")
    return images, labels, meta


def _fingerprint(pixels: Path, head: bytes) -> str:
    digest = hashlib.sha256(head)
    with pixels.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
