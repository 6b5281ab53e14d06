"""Every data set becomes one memory-mapped uint8 file with labels: decoded once, never again.

A cache entry is a folder `<name>-<key>` with pixels.u8, labels.npy and meta.json, written under a
temporary name and renamed, while other processes that want it wait. Its key covers the files
(names, sizes, times) and the settings, so a changed file makes a new entry. An entry is written
again where its pixels are not what they were, and where a file that could not be read then may be
readable now.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np

from unnoise.data.config import DataConfig
from unnoise.errors import DataError
from unnoise.files import discard_leftovers, locked, read_json, replacing

VERSION = 3
SETTINGS = (
    "image_size", "image_width", "channels", "fit", "crops", "resample", "background", "held_out",
    "max_pixels", "grey_range",
)  # fmt: skip
MOST_IN_MEMORY = 1 << 27
"""Bytes: more pixels than this stay in the file, which must then not shrink."""
Cached: TypeAlias = tuple[np.ndarray, np.ndarray, dict[str, Any]]
"""Pixels, labels and meta.json."""
DAMAGE = (OSError, EOFError, ValueError, KeyError, TypeError, RecursionError, OverflowError)
"""What reading an entry raises that is damaged or not there yet."""


@dataclass
class Writer:
    """Takes images one by one, training images first."""

    file: BinaryIO
    folder: Path
    """The cache's folder."""
    class_names: Sequence[str]
    """The source's own, unless it changes them while it fills."""
    scratch: Path
    """A folder for files that are deleted once the source has filled."""
    shape: tuple[int, ...] = ()
    count: int = 0
    num_train: int | None = None
    labels: list[int] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    passing: list[str] = field(default_factory=list)
    """What was skipped and another try may find well."""

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
    stamp: tuple[int, int] | None = None
    """Size and time of the zip that holds all; what was skipped is retried when they change."""
    opens: Callable[[str], bool] = lambda name: False
    """Whether a file that could not be read then can be read now."""


def stamps(files: Iterable[Path]) -> list[tuple[str, int, int]]:
    """A key for a source: name, size and time of the files that it reads."""
    return [(str(file.resolve()), *times(file)) for file in files]


def times(file: Path) -> tuple[int, int]:
    """Size and time of a file: what changes when somebody writes to it."""
    state = file.stat()
    return state.st_size, state.st_mtime_ns


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
    if chosen:
        return Path(chosen)
    home = Path(os.path.expanduser("~"))
    if home.is_dir() and home != Path("/"):
        return home / ".cache" / "unnoise"
    return Path(tempfile.gettempdir()) / f"unnoise-{getattr(os, 'getuid', int)()}"


def cached(config: DataConfig, source: Source) -> Cached:
    """A source's images, from the cache or written to it now.

    A source that has no key is read again, and kept by what it holds.
    """
    if source.key is None:
        return _by_content(root(config), source)
    settings = {name: getattr(config, name) for name in SETTINGS}
    if config.classes != "auto":  # a newer setting: keys without it stay what they were
        settings["classes"] = config.classes
    text = json.dumps([VERSION, source.name, source.key, settings], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    entry = root(config) / f"{_short(source.name)}-{digest[:12]}"
    with suppress(*DAMAGE):
        return _read(entry, source)
    with _writing(entry.parent), locked(entry):
        with suppress(*DAMAGE):  # another process wrote it while this one waited
            return _read(entry, source)
        _write(entry, source)
        return _read(entry)


def _by_content(folder: Path, source: Source) -> Cached:
    """The images of a source without a key, under their fingerprint."""
    new = folder / f"{_short(source.name)}-new-{os.getpid()}"
    with _writing(folder):
        discard_leftovers(folder, of_dead=True)
        _write(new, source)
        entry = new.with_name(f"{_short(source.name)}-{_read(new)[2]['fingerprint'][:12]}")
        with locked(entry):
            with suppress(*DAMAGE):
                found = _read(entry)
                shutil.rmtree(new)
                return found
            shutil.rmtree(entry, ignore_errors=True)
            os.replace(new, entry)
            return _read(entry)


def _short(name: str) -> str:
    """A name that a file system takes with what is added to it."""
    return re.sub(r"[\\/]", "-", name).encode()[:100].decode(errors="ignore")


def _write(entry: Path, source: Source) -> None:
    with replacing(entry) as temporary:
        temporary.mkdir()
        pixels = temporary / "pixels.u8"
        with pixels.open("wb") as file:
            writer = Writer(file, entry.parent, source.class_names, temporary.parent)
            with reading(source.name):
                source.fill(writer)
        labels = np.array(writer.labels, np.int64)
        np.save(temporary / "labels.npy", labels)
        num_train = writer.count if writer.num_train is None else writer.num_train
        shape = (writer.count, *writer.shape)
        meta = {
            "shape": shape,
            "num_train": num_train,
            "fingerprint": _fingerprint(pixels, shape, num_train, labels),
            "class_names": writer.class_names,
            "skipped": writer.skipped,
            "notes": writer.notes,
            "passing": writer.passing,
            "stamp": source.stamp,
            "pixels": times(pixels),
        }
        (temporary / "meta.json").write_text(json.dumps(meta))


def _fingerprint(pixels: Path, shape: Sequence[int], num_train: int, labels: np.ndarray) -> str:
    head = hashlib.sha256(f"{tuple(shape)} {num_train}".encode() + labels.tobytes())
    with pixels.open("rb") as file:
        return hashlib.file_digest(file, lambda: head).hexdigest()


def _read(entry: Path, source: Source | None = None) -> Cached:
    """An entry, or one of DAMAGE: also where it should be written again from its source."""
    meta = read_json(entry / "meta.json")
    shape, num_train, names = tuple(meta["shape"]), meta["num_train"], meta["class_names"]
    pixels, labels = entry / "pixels.u8", np.load(entry / "labels.npy")
    again = source is not None and (
        any(source.opens(name) for name in meta["passing"])
        or bool(meta["skipped"] and meta["stamp"] != (source.stamp and list(source.stamp)))
    )
    texts = [*names, *meta["notes"], *(text for pair in meta["skipped"] for text in pair)]
    sound = (
        len(shape) == 4
        and math.prod(shape) == pixels.stat().st_size > 0
        and (labels.dtype, labels.shape) == (np.int64, shape[:1])
        and 0 < num_train <= shape[0]
        and (not names or (labels.min() >= 0 and labels.max() < len(names)))
        and isinstance(names, list)
        and all(isinstance(text, str) for text in texts)
        and all(len(pair) == 2 for pair in meta["skipped"])
    )
    if not sound or again:
        raise ValueError("damaged, or to be read again")
    touched = meta["pixels"] != list(times(pixels))
    if touched and _fingerprint(pixels, shape, num_train, labels) != meta["fingerprint"]:
        raise ValueError("changed pixels")
    if pixels.stat().st_size > MOST_IN_MEMORY:
        return np.memmap(pixels, np.uint8, "r", shape=shape), labels, meta
    images = np.fromfile(pixels, np.uint8).reshape(shape)
    images.flags.writeable = False
    return images, labels, meta
