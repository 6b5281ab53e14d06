"""Every data set becomes one memory-mapped uint8 file with labels: decoded once, never again.

A cache entry is a folder `<name>-<key>` with pixels.u8, labels.npy and meta.json, written under a
temporary name and renamed. Its key covers the files (names, sizes, times) and the settings, so a
changed file makes a new entry.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np

from unnoise.data.config import DataConfig
from unnoise.errors import DataError
from unnoise.files import replacing

VERSION = 2
SETTINGS = ("image_size", "image_width", "channels", "background", "held_out", "max_pixels")
Cached: TypeAlias = tuple[np.ndarray, np.ndarray, dict[str, Any]]
"""Pixels, labels and meta.json."""
DAMAGE = (OSError, EOFError, ValueError, KeyError)
"""What reading an entry raises that is damaged or not there yet."""


@dataclass
class Writer:
    """Takes images one by one, training images first."""

    file: BinaryIO
    folder: Path
    """The cache's folder."""
    class_names: Sequence[str]
    """The source's own, unless it changes them while it fills."""
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
        with _writing(self.folder):
            self.file.write(image.tobytes())

    def end_of_training_images(self) -> None:
        """What follows is held out."""
        self.num_train = self.count


@dataclass(frozen=True)
class Source:
    """A data set that is not read yet."""

    name: str
    key: Any
    """JSON that changes when the files change; None where only reading the data can tell."""
    fill: Callable[[Writer], None]
    class_names: tuple[str, ...] = ()
    flip: bool = False
    skipped: tuple[tuple[str, str], ...] = ()
    """(file, reason): what was passed over before anything was read; not kept in the cache, nor are
    these notes."""
    notes: tuple[str, ...] = ()


def stamps(files: Iterable[Path]) -> list[tuple[str, int, int]]:
    """A key for a source: name, size and time of the files that it reads."""
    states = [(str(file.resolve()), file.stat()) for file in files]
    return [(name, state.st_size, state.st_mtime_ns) for name, state in states]


@contextmanager
def reading(what: str) -> Iterator[None]:
    """An OSError on the way is about the source's files."""
    try:
        yield
    except OSError as error:
        name, reason = error.filename or what, error.strerror or error
        raise DataError(f"{name}: cannot be read ({reason}); expected a readable file") from error


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """An OSError on the way is about the cache."""
    try:
        yield
    except OSError as error:
        what = f"data cache {folder}: cannot be written ({error.strerror})"
        raise DataError(f"{what}; choose another with --data.cache FOLDER") from error


def root(config: DataConfig) -> Path:
    """The cache folder of a configuration."""
    chosen = config.cache or os.environ.get("UNNOISE_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "unnoise"


def cached(config: DataConfig, source: Source) -> Cached:
    """A source's images, from the cache or written to it now (without a key, by their content)."""
    entry = root(config) / f"{source.name}-new-{os.getpid()}"
    if source.key is not None:
        settings = {name: getattr(config, name) for name in SETTINGS}
        text = json.dumps([VERSION, source.name, source.key, settings], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        entry = entry.with_name(f"{source.name}-{digest[:12]}")
        with suppress(*DAMAGE):
            return _read(entry)
    with _writing(entry.parent):
        _write(entry, source)
        if source.key is None:
            new, fingerprint = entry, _read(entry)[2]["fingerprint"]
            entry = new.with_name(f"{source.name}-{fingerprint[:12]}")
            with suppress(*DAMAGE):
                found = _read(entry)
                shutil.rmtree(new)
                return found
            shutil.rmtree(entry, ignore_errors=True)
            os.replace(new, entry)
        return _read(entry)


def _write(entry: Path, source: Source) -> None:
    with replacing(entry) as temporary:
        temporary.mkdir()
        with (temporary / "pixels.u8").open("wb") as file:
            writer = Writer(file, entry.parent, source.class_names)
            with reading(source.name):
                source.fill(writer)
        labels = np.array(writer.labels, np.int64)
        np.save(temporary / "labels.npy", labels)
        num_train = writer.count if writer.num_train is None else writer.num_train
        shape = (writer.count, *writer.shape)
        head = hashlib.sha256(f"{shape} {num_train}".encode() + labels.tobytes())
        with (temporary / "pixels.u8").open("rb") as file:
            fingerprint = hashlib.file_digest(file, lambda: head).hexdigest()
        meta = {
            "shape": shape,
            "num_train": num_train,
            "fingerprint": fingerprint,
            "class_names": writer.class_names,
            "skipped": writer.skipped,
            "notes": writer.notes,
        }
        (temporary / "meta.json").write_text(json.dumps(meta))


def _read(entry: Path) -> Cached:
    meta = json.loads((entry / "meta.json").read_text())
    images = np.memmap(entry / "pixels.u8", np.uint8, "r", shape=tuple(meta["shape"]))
    labels = np.load(entry / "labels.npy")
    whole = images.nbytes == (entry / "pixels.u8").stat().st_size and len(labels) == len(images)
    if not (whole and meta["fingerprint"]):
        raise ValueError("damaged cache")
    return images, labels, meta
