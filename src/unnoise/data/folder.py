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


def source(config: DataConfig) -> Source:
    """All pictures below config.source, in an order of their own (seeded by nothing but their
    names)."""
    path = Path(config.source)
    listing = list_pictures(path)
    runs = tuple((run, f"a run folder {MADE_BY_UNNOISE}") for run in listing.runs)
    if not listing.pictures:
        found = f"{listing.others} other files" + "".join(
            f", {run} ({reason})" for run, reason in runs[:3]
        )
        raise DataError(f"{path}: no pictures; found {found}, expected {' '.join(SUFFIXES)}")

    def fill(writer: Writer) -> None:
        entries = shuffled(_without_own(writer, listing.pictures))
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
            raise DataError(
                f"{path}: none of {len(listing.pictures)} pictures can be used; the first, {name}:"
                f" {reason}"
            )
        _label(writer, used)

    notes = (
        (f"{listing.others} files are no pictures by their names and were passed over",)
        if listing.others
        else ()
    )
    key = [(e.name, *e.stamp) for e in listing.pictures]
    return Source(path.resolve().stem or "pictures", key, fill, skipped=runs, notes=notes)


def read_picture(
    path: str | Path, wanted: Target, max_pixels: int = DataConfig.max_pixels
) -> np.ndarray:
    """One picture file as uint8 (c, h, w), made as the pictures of a folder are; DataError says why
    it cannot be."""
    path = Path(path)
    try:
        size = path.stat().st_size
        return _decode(Entry(path.name, (size, 0), lambda: path.open("rb")), wanted, max_pixels)
    except Unusable as reason:
        raise DataError(f"{path}: {reason}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a picture") from error


def _without_own(writer: Writer, entries: list[Entry]) -> list[Entry]:
    """The pictures that unnoise did not make. They go before the shuffle: a mosaic must not change
    who is held out."""
    kept = []
    for entry in entries:
        if _is_own(entry):
            writer.skipped.append((entry.name, MADE_BY_UNNOISE))
        else:
            kept.append(entry)
    return kept


def _is_own(entry: Entry) -> bool:
    """Whether it says that unnoise made it (images.save_png, images.save_animation)."""
    if entry.name.lower().endswith((".png", ".gif", ".webp")):
        with suppress(Unusable), _opened(entry) as picture:
            info = picture.info
            texts = info.get("comment"), info.get("xmp")
            return "unnoise" in info or any(b"unnoise" in t for t in texts if isinstance(t, bytes))
    return False


def _label(writer: Writer, used: list[str]) -> None:
    """Classes are the first sub-folders, if every picture that was used lies in one and there are
    two or more."""
    folders = [_sub_folder(name) for name in used]
    names = sorted(set(folders)) if len(set(folders)) > 1 and "" not in folders else []
    numbers = {name: i for i, name in enumerate(names)}
    writer.class_names, writer.labels = names, [numbers.get(folder, 0) for folder in folders]
    writer.notes.append(
        f"{len(names)} classes, from the sub-folders"
        if names
        else "no classes: for classes put every picture into one of two or more sub-folders"
    )
    unused = (
        {_sub_folder(name) for name, _ in writer.skipped} - {*folders, ""}
        if "" not in folders
        else ()
    )
    writer.notes += [
        f"{name} is no class: none of its pictures can be used" for name in sorted(unused)
    ]
    untrained = {*names} - {*folders[: writer.num_train]}
    writer.notes += [
        f"class {name} is not trained: all its pictures are held out" for name in sorted(untrained)
    ]


def _sub_folder(name: str) -> str:
    """The first folder of a picture's name, "" where it lies in none."""
    return name.partition("/")[0] if "/" in name else ""


def _decode(entry: Entry, wanted: Target, max_pixels: int) -> np.ndarray:
    """The picture as uint8 (c, h, w); its size is checked in the header, before any pixel is
    decoded."""
    if entry.stamp[0] > LARGEST_FILE_BYTES:
        raise Unusable(f"{entry.stamp[0]:,} bytes, more than {LARGEST_FILE_BYTES:,}")
    with _opened(entry) as picture:
        if picture.width * picture.height > max_pixels:
            raise Unusable(
                f"{picture.width} x {picture.height} pixels, more than data.max_pixels"
                f" {max_pixels:,}"
            )
        return fit(picture, wanted)


@contextmanager
def _opened(entry: Entry) -> Iterator[Image.Image]:
    """The picture, its pixels not decoded yet; what goes wrong until it is closed makes it
    Unusable."""
    try:
        with _without_pillows_cap(), entry.open() as file, Image.open(file) as picture:
            yield picture
    except UnidentifiedImageError:
        raise Unusable("is not a picture") from None
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        RuntimeError,
    ) as error:
        raise Unusable(f"cannot be decoded ({error})") from None


PILLOWS_CAP = threading.Lock()


@contextmanager
def _without_pillows_cap() -> Iterator[None]:
    """data.max_pixels alone decides. Pillow's cap is a global that no argument overrules: it is put
    back at once."""
    with PILLOWS_CAP, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged metadata, which does no harm
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before
