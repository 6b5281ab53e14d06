"""A folder or zip of pictures: classes from its first sub-folders, what cannot be used is skipped and said."""

from __future__ import annotations

import threading
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from unnoise.data.cache import Source, Writer
from unnoise.data.config import DataConfig, DataError
from unnoise.data.fit import Target, Unusable, fit, target
from unnoise.data.listing import SUFFIXES, Entry, list_pictures

LARGEST_FILE_BYTES = 1 << 29
MOST_HELD_OUT = 1000
MADE_BY_UNNOISE = "made by unnoise"


def source(config: DataConfig, progress: bool) -> Source:
    """All pictures below config.source, in an order of their own (seeded by nothing but their names)."""
    path = Path(config.source)
    listing = list_pictures(path)
    runs = tuple((run, f"a run folder {MADE_BY_UNNOISE}") for run in listing.runs)
    if not listing.pictures:
        found = f"{listing.others} other files" + "".join(f", {run} ({reason})" for run, reason in runs[:3])
        raise DataError(f"{path}: no pictures; found {found}, expected {' '.join(SUFFIXES)}")

    def fill(writer: Writer) -> None:
        entries = _shuffled(_without_own(writer, listing.pictures))
        held_out = min(MOST_HELD_OUT, round(config.held_out * len(entries)), len(entries) - 1)
        used: list[str] = []
        for number, entry in enumerate(tqdm(entries, path.name, unit="img", disable=None if progress else True, leave=False)):
            if number == len(entries) - held_out:
                writer.end_of_training_images()
            try:
                writer.add(_decode(entry, target(config), config.max_pixels))
                used.append(entry.name)
            except Unusable as reason:
                writer.skipped.append((entry.name, str(reason)))
        if writer.count == 0 or writer.num_train == 0:
            name, reason = writer.skipped[0]
            raise DataError(
                f"{path}: none of {len(listing.pictures)} pictures can be used; the first, {name}: {reason}"
            )
        _label(writer, used)

    notes = (f"{listing.others} files are no pictures by their names and were passed over",) if listing.others else ()
    key = [(e.name, *e.stamp) for e in listing.pictures]
    return Source(path.resolve().stem or "pictures", key, fill, skipped=runs, notes=notes)


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


def _without_own(writer: Writer, entries: list[Entry]) -> list[Entry]:
    """The pictures that unnoise did not make. They go before the shuffle: a mosaic must not change who is held out."""
    own = {entry.name for entry in entries if _is_own(entry)}
    writer.skipped += [(name, MADE_BY_UNNOISE) for name in sorted(own)]
    return [entry for entry in entries if entry.name not in own]


def _is_own(entry: Entry) -> bool:
    """Whether it carries the text of images.save_png, which stands before the pixels."""
    if entry.name.lower().endswith(".png"):
        with suppress(Unusable), _opened(entry) as picture:
            return "unnoise" in picture.info
    return False


def _shuffled(entries: list[Entry]) -> list[Entry]:
    order = np.random.Generator(np.random.Philox(key=0)).permutation(len(entries))
    return [entries[i] for i in order]


def _label(writer: Writer, used: list[str]) -> None:
    """Classes and labels from the names of the pictures that were used, so that every class has pictures."""
    writer.class_names = _class_names(used)
    numbers = {name: i for i, name in enumerate(writer.class_names)}
    writer.labels = [numbers.get(PurePosixPath(name).parts[0], 0) for name in used]
    writer.notes.append(_class_note(writer.class_names))
    unused = [PurePosixPath(name).parts for name, _ in writer.skipped]
    empty = sorted({parts[0] for parts in unused if len(parts) > 1} - {PurePosixPath(name).parts[0] for name in used})
    writer.notes += [f"{name} is no class: none of its pictures can be used" for name in empty]


def _class_names(names: list[str]) -> list[str]:
    """The first sub-folders, if every picture lies in one and there are two or more."""
    parts = [PurePosixPath(name).parts for name in names]
    classes = sorted({p[0] for p in parts})
    return classes if len(classes) > 1 and all(len(p) > 1 for p in parts) else []


def _class_note(names: list[str]) -> str:
    if names:
        return f"{len(names)} classes, from the sub-folders"
    return "no classes: for classes put every picture into one of two or more sub-folders"


def _decode(entry: Entry, wanted: Target, max_pixels: int) -> np.ndarray:
    """The picture as uint8 (c, h, w); its size is checked in the header, before any pixel is decoded."""
    if entry.stamp[0] > LARGEST_FILE_BYTES:
        raise Unusable(f"{entry.stamp[0]:,} bytes, more than {LARGEST_FILE_BYTES:,}")
    with _opened(entry) as picture:
        if picture.width * picture.height > max_pixels:
            raise Unusable(f"{picture.width} x {picture.height} pixels, more than data.max_pixels {max_pixels:,}")
        return fit(picture, wanted)


@contextmanager
def _opened(entry: Entry) -> Iterator[Image.Image]:
    """The picture, its pixels not decoded yet; what goes wrong until it is closed makes it Unusable."""
    try:
        with _without_pillows_cap(), entry.open() as file, Image.open(file) as picture:
            yield picture
    except UnidentifiedImageError:
        raise Unusable("is not a picture") from None
    except (OSError, ValueError, SyntaxError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise Unusable(f"cannot be decoded ({error})") from None


PILLOWS_CAP = threading.Lock()


@contextmanager
def _without_pillows_cap() -> Iterator[None]:
    """data.max_pixels alone decides. Pillow's cap is a global that no argument overrules: it is put back at once."""
    with PILLOWS_CAP, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged metadata, which does no harm
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before
