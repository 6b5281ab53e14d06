"""A folder or zip of pictures: classes from its first sub-folders, what cannot be used is skipped
and said."""

from __future__ import annotations

import threading
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from unnoise.data.cache import Source, Writer
from unnoise.data.config import DataConfig
from unnoise.data.fit import Target, Unusable, fit, held_out_count, shuffled, target
from unnoise.data.listing import SUFFIXES, Entry, list_pictures
from unnoise.errors import DataError
from unnoise.events import tracked

LARGEST_FILE_BYTES = 1 << 29
MADE_BY_UNNOISE = "made by unnoise"
DAMAGE = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What Pillow and zipfile raise for a damaged picture."""
PILLOWS_CAP = threading.Lock()


def source(config: DataConfig) -> Source:
    """All pictures below config.source, in an order that follows from their names alone."""
    path = Path(config.source)
    listing = list_pictures(path)
    runs = tuple((run, f"a run folder {MADE_BY_UNNOISE}") for run in listing.runs)
    if not listing.pictures:
        passed = "".join(f", {run} ({reason})" for run, reason in runs[:3])
        found = f"{listing.others} other files{passed}"
        raise DataError(f"{path}: no pictures; found {found}, expected {' '.join(SUFFIXES)}")

    def fill(writer: Writer) -> None:
        own = {entry.name for entry in listing.pictures if _is_own(entry)}
        writer.skipped += [(name, MADE_BY_UNNOISE) for name in sorted(own)]
        # before the shuffle: a mosaic must not change who is held out
        entries = shuffled([entry for entry in listing.pictures if entry.name not in own])
        held_out = held_out_count(config, len(entries))
        used: list[str] = []
        for number, entry in enumerate(tracked(entries, path.name, len(entries), "image")):
            if number == len(entries) - held_out:
                writer.end_of_training_images()
            try:
                writer.add(_decode(entry, target(config), config.max_pixels))
                used.append(entry.name)
            except Unusable as reason:
                writer.skipped.append((entry.name, str(reason)))
        if writer.count == 0 or writer.num_train == 0:
            name, reason = writer.skipped[0]
            what = f"{path}: none of {len(listing.pictures)} pictures can be used"
            raise DataError(f"{what}; the first, {name}: {reason}")
        _label(writer, used)

    others = f"{listing.others} files are no pictures by their names and were passed over"
    notes = (others,) if listing.others else ()
    key = [(e.name, *e.stamp) for e in listing.pictures]
    return Source(path.resolve().stem or "pictures", key, fill, skipped=runs, notes=notes)


def read_picture(
    path: str | Path, wanted: Target, max_pixels: int = DataConfig.max_pixels
) -> np.ndarray:
    """One picture file as uint8 (c, h, w), as those of a folder; DataError where it cannot be."""
    path = Path(path)
    try:
        size = path.stat().st_size
        return _decode(Entry(path.name, (size, 0), lambda: path.open("rb")), wanted, max_pixels)
    except Unusable as reason:
        raise DataError(f"{path}: {reason}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a picture") from error


def _is_own(entry: Entry) -> bool:
    """Whether it carries the text of images.save_png, which stands before the pixels."""
    if entry.name.lower().endswith(".png"):
        with suppress(Unusable), _opened(entry) as picture:
            return "unnoise" in picture.info
    return False


def _label(writer: Writer, used: list[str]) -> None:
    """Classes are the first sub-folders: two or more, in which all pictures that are used lie."""
    folders = [_sub_folder(name) for name in used]
    names = sorted({*folders}) if len({*folders}) > 1 and "" not in folders else []
    numbers = {name: i for i, name in enumerate(names)}
    writer.class_names, writer.labels = names, [numbers.get(folder, 0) for folder in folders]
    found = f"{len(names)} classes, from the sub-folders"
    none = "no classes: for classes put every picture into one of two or more sub-folders"
    skipped = {_sub_folder(name) for name, _ in writer.skipped}
    unused = set() if "" in folders else skipped - {*folders, ""}
    untrained = {*names} - {*folders[: writer.num_train]}
    writer.notes = [found if names else none]
    writer.notes += [f"{n} is no class: none of its pictures can be used" for n in sorted(unused)]
    held = "is not trained: all its pictures are held out"
    writer.notes += [f"class {name} {held}" for name in sorted(untrained)]


def _sub_folder(name: str) -> str:
    """The first folder of a picture's name, "" where it lies in none."""
    return name.partition("/")[0] if "/" in name else ""


def _decode(entry: Entry, wanted: Target, max_pixels: int) -> np.ndarray:
    """The picture as uint8 (c, h, w); the header gives its size before any pixel is decoded."""
    if entry.stamp[0] > LARGEST_FILE_BYTES:
        raise Unusable(f"{entry.stamp[0]:,} bytes, more than {LARGEST_FILE_BYTES:,}")
    with _opened(entry) as picture:
        if picture.width * picture.height > max_pixels:
            size = f"{picture.width} x {picture.height} pixels"
            raise Unusable(f"{size}, more than data.max_pixels {max_pixels:,}")
        return fit(picture, wanted)


@contextmanager
def _opened(entry: Entry) -> Iterator[Image.Image]:
    """The picture, its pixels not decoded yet; Unusable for all that goes wrong with it."""
    try:
        with _without_pillows_cap(), entry.open() as file, Image.open(file) as picture:
            yield picture
    except UnidentifiedImageError:
        raise Unusable("is not a picture") from None
    except DAMAGE as error:
        raise Unusable(f"cannot be decoded ({error})") from None


@contextmanager
def _without_pillows_cap() -> Iterator[None]:
    """Lift Pillow's cap, a global, for a moment: data.max_pixels alone decides."""
    with PILLOWS_CAP, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged metadata, which does no harm
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before
