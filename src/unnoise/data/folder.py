"""A folder or zip of pictures: classes from its first sub-folders, what cannot be used is skipped and said."""

from __future__ import annotations

import os
import stat
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from unnoise.data.cache import Source, Writer
from unnoise.data.config import DataConfig, DataError
from unnoise.data.fit import Target, Unusable, fit, target

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
LARGEST_FILE_BYTES = 1 << 29
MOST_HELD_OUT = 1000


@dataclass(frozen=True)
class Entry:
    """A file that may be a picture."""

    name: str
    """Relative, with slashes."""
    stamp: tuple[int, int]
    """Size and time: the cache is made anew when one changes."""
    open: Callable[[], IO[bytes]]


def source(config: DataConfig, progress: bool) -> Source:
    """All pictures below config.source, in an order of their own (seeded by nothing but their names)."""
    path = Path(config.source)
    entries, others = _list(path)
    if not entries:
        raise DataError(f"{path}: no pictures; found {others} other files, expected {' '.join(SUFFIXES)}")
    names = _class_names([e.name for e in entries])
    order = np.random.Generator(np.random.Philox(key=0)).permutation(len(entries))
    held_out = min(MOST_HELD_OUT, round(config.held_out * len(entries)), len(entries) - 1)
    shuffled = [entries[i] for i in order]

    def fill(writer: Writer) -> None:
        if others:
            writer.notes.append(f"{others} files are no pictures by their names and were passed over")
        writer.notes.append(_class_note(names))
        bar = tqdm(total=len(shuffled), unit="img", desc=path.name, disable=None if progress else True, leave=False)
        with bar:
            for number, entry in enumerate(shuffled):
                if number == len(shuffled) - held_out:
                    writer.end_of_training_images()
                _add(writer, entry, names, target(config), config.max_pixels)
                bar.update()
        if writer.count == 0 or writer.num_train == 0:
            name, reason = writer.skipped[0]
            raise DataError(f"{path}: none of {len(entries)} pictures can be used; the first, {name}: {reason}")

    key = [(e.name, *e.stamp) for e in entries]
    return Source(path.resolve().stem or "pictures", key, fill, tuple(names))


def read_picture(path: str | Path, wanted: Target, max_pixels: int = DataConfig.max_pixels) -> np.ndarray:
    """One picture file as uint8 (c, h, w), made as the pictures of a folder are; DataError says why it cannot be."""
    path = Path(path)
    try:
        size = path.stat().st_size
        return _decode(Entry(path.name, (size, 0), lambda: path.open("rb")), wanted, max_pixels)
    except Unusable as reason:
        raise DataError(f"{path}: {reason}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a picture") from error


def _list(path: Path) -> tuple[list[Entry], int]:
    """The pictures by name, sorted, and how many other files there are. Hidden files do not count."""
    found = list(_zip(path) if path.is_file() else _walk(path))
    found = [e for e in found if not _hidden(e.name)]
    pictures = [e for e in found if e.name.lower().endswith(SUFFIXES)]
    return sorted(pictures, key=lambda e: e.name), len(found) - len(pictures)


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def _walk(path: Path) -> Iterator[Entry]:
    """Files below a folder; links to folders are followed once each, so that loops end."""
    seen: set[str] = set()
    for base, folders, files in os.walk(path, followlinks=True):
        real = os.path.realpath(base)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        for name in files:
            file = Path(base) / name
            relative = file.relative_to(path).as_posix().encode("utf-8", "replace").decode()
            try:
                state = file.stat()
            except OSError:
                state = None
            if state is None or stat.S_ISREG(state.st_mode):  # no pipes, no devices
                yield Entry(
                    relative, (state.st_size, state.st_mtime_ns) if state else (0, 0), lambda f=file: f.open("rb")
                )


def _zip(path: Path) -> Iterator[Entry]:
    """Members of a zip, read in place: nothing is extracted, so no name can reach the disk."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path}: cannot be read as a zip ({error}); expected a folder or a zip of pictures") from error
    members = [m for m in archive.infolist() if not m.is_dir() and not _hidden(m.filename)]
    names = [PurePosixPath("/" + m.filename).parts[1:] for m in members]
    wrapped = len({parts[:1] for parts in names}) == 1 and all(len(parts) > 1 for parts in names)
    for member, parts in zip(members, names, strict=True):
        name = "/".join(parts[1:] if wrapped else parts)  # a zip of one folder is that folder

        def opened(m: zipfile.ZipInfo = member) -> IO[bytes]:
            if m.flag_bits & 1:
                raise Unusable("is encrypted")
            return archive.open(m)

        yield Entry(name, (member.file_size, member.CRC), opened)


def _class_names(names: list[str]) -> list[str]:
    """The first sub-folders, if every picture lies in one and there are two or more."""
    parts = [PurePosixPath(name).parts for name in names]
    classes = sorted({p[0] for p in parts})
    return classes if len(classes) > 1 and all(len(p) > 1 for p in parts) else []


def _class_note(names: list[str]) -> str:
    if names:
        return f"{len(names)} classes, from the sub-folders"
    return "no classes: for classes put every picture into one of two or more sub-folders"


def _add(writer: Writer, entry: Entry, names: list[str], wanted: Target, max_pixels: int) -> None:
    """Decode one picture, or note why not."""
    label = names.index(PurePosixPath(entry.name).parts[0]) if names else 0
    try:
        writer.add(_decode(entry, wanted, max_pixels), label)
    except Unusable as reason:
        writer.skipped.append((entry.name, str(reason)))


def _decode(entry: Entry, wanted: Target, max_pixels: int) -> np.ndarray:
    """The picture as uint8 (c, h, w); its size is checked in the header, before any pixel is decoded."""
    if entry.stamp[0] > LARGEST_FILE_BYTES:
        raise Unusable(f"{entry.stamp[0]:,} bytes, more than {LARGEST_FILE_BYTES:,}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own cap is stricter than Pillow's warning
            with entry.open() as file, Image.open(file) as picture:
                if picture.width * picture.height > max_pixels:
                    raise Unusable(
                        f"{picture.width} x {picture.height} pixels, more than data.max_pixels {max_pixels:,}"
                    )
                return fit(picture, wanted)
    except Unusable:
        raise
    except UnidentifiedImageError:
        raise Unusable("is not a picture") from None
    except Image.DecompressionBombError:
        raise Unusable(f"more pixels than data.max_pixels {max_pixels:,}") from None
    except (OSError, ValueError, SyntaxError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise Unusable(f"cannot be decoded ({error})") from None
