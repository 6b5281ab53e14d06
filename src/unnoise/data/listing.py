"""What lies in a folder or zip: which files may be pictures, without opening them."""

from __future__ import annotations

import os
import stat
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from unnoise.data.cache import times
from unnoise.data.fit import Unusable
from unnoise.errors import DataError

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".jp2", ".webp", ".avif", ".bmp", ".gif", ".tif",
    ".tiff", ".ppm", ".pgm",
)  # fmt: skip


TABLES = ("dataset.json", "labels.csv", "metadata.csv")
"""Files that may say the classes."""
LARGEST_FILE_BYTES = 1 << 29


@dataclass(frozen=True)
class Entry:
    """A file that may be a picture."""

    name: str
    """Relative, with slashes, composed (NFC): as a user types it."""
    stamp: tuple[int, int]
    """Size and time: the cache is made anew when one changes."""
    open: Callable[[], IO[bytes]]


@dataclass(frozen=True)
class Listing:
    """A folder or zip without its hidden files."""

    pictures: list[Entry]
    """Files with the suffix of a picture, sorted by name."""
    runs: list[str]
    """Run folders of unnoise: nothing in them is listed."""
    tables: list[Entry]
    """Files that may say the classes, sorted by name."""
    others: Counter[str]
    """How many more files there are, by their endings."""
    stamp: tuple[int, int] | None
    """Size and time of a zip: what could not be used is looked at again when they change."""


def list_pictures(path: Path) -> Listing:
    """What lies in a folder or zip; DataError for a file that is no zip."""
    stamp = times(path) if path.is_file() else None
    found = [e for e in (_zip(path) if stamp else _walk(path)) if not _hidden(e.name)]
    runs = _run_folders([e.name for e in found])
    found = [e for e in found if not e.name.startswith(tuple(runs))]
    found.sort(key=lambda e: e.name)
    pictures = [e for e in found if _ending(e) in SUFFIXES]
    tables = [e for e in found if PurePosixPath(e.name).name in TABLES]
    others = Counter(_ending(e) for e in found if e not in tables and _ending(e) not in SUFFIXES)
    return Listing(pictures, runs, tables, others, stamp)


def _ending(entry: Entry) -> str:
    return PurePosixPath(entry.name).suffix.lower()


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def _run_folders(names: list[str]) -> list[str]:
    """Sub-folders, ending in a slash, with config.json and checkpoints or samples, as training
    leaves."""
    folders = [name.removesuffix("config.json") for name in names if name.endswith("/config.json")]
    made = {folder: (folder + "checkpoints/", folder + "samples/") for folder in folders}
    return sorted(f for f in made if any(name.startswith(made[f]) for name in names))


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
            relative = unicodedata.normalize("NFC", relative)
            stamp = (0, 0)
            with suppress(OSError):  # a broken link, which reading will say
                state = file.stat()
                if not stat.S_ISREG(state.st_mode):  # no pipes, no devices
                    continue
                stamp = (state.st_size, state.st_mtime_ns)
            yield Entry(relative, stamp, lambda f=file: f.open("rb"))


def _zip(path: Path) -> Iterator[Entry]:
    """Members of a zip, read in place: nothing is extracted, so no name can reach the disk."""
    try:
        archive = zipfile.ZipFile(path)
        members = archive.infolist()
    except Exception as error:
        fix = "expected a folder or a zip of pictures, .npz, .npy or .parquet"
        if path.suffix.lower() in SUFFIXES:
            raise DataError(f"{path}: is one picture; {fix}") from error
        raise DataError(f"{path}: cannot be read as a zip ({error}); {fix}") from error
    for member in members:
        name = unicodedata.normalize("NFC", member.filename.replace("\\", "/"))
        if member.is_dir() or stat.S_ISLNK(member.external_attr >> 16):
            continue

        def opened(m: zipfile.ZipInfo = member) -> IO[bytes]:
            if m.flag_bits & 1:
                raise Unusable("is encrypted")
            return archive.open(m)

        parts = PurePosixPath("/" + name).parts[1:]
        if parts:
            yield Entry("/".join(parts), (member.file_size, member.CRC), opened)
