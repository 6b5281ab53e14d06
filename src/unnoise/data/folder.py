"""A folder or zip of pictures: classes from its first sub-folders, what cannot be used is skipped
and said."""

from __future__ import annotations

import functools
import re
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from unnoise.data.cache import Source, Writer
from unnoise.data.config import DataConfig
from unnoise.data.fit import Target, Unusable, fit, held_out_count, shuffled, target, transparent
from unnoise.data.listing import SUFFIXES, Entry, list_pictures
from unnoise.errors import DataError
from unnoise.events import tracked

LARGEST_FILE_BYTES = 1 << 29
MADE_BY_UNNOISE = "made by unnoise"
FORMATS = ("PNG", "JPEG", "JPEG2000", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "PPM")
"""Pillow's others may start programs (EPS) or are not for pictures of this kind."""
SAMPLES_PER_PIXEL = 277
DARK = 16384
"""16-bit pictures that stay below a quarter of white are probably of fewer bits."""
TRAINING, HELD_OUT = {"train", "training"}, {"test", "testing", "val", "valid", "validation"}
"""Names of folders that split the pictures."""
PILLOWS_CAP = threading.Lock()


def source(config: DataConfig) -> Source:
    """All pictures below config.source, in an order that follows from their names alone."""
    path = Path(config.source)
    listing = list_pictures(path)
    runs = tuple((run, f"a run folder {MADE_BY_UNNOISE}") for run in listing.runs)
    passed = ", ".join(f"{n} {ending or 'without ending'}" for ending, n in listing.others.items())
    if not listing.pictures:
        found = "; ".join([passed or "nothing", *(f"{run} ({why})" for run, why in runs[:3])])
        raise DataError(f"{path}: no pictures; found {found}, expected {' '.join(SUFFIXES)}")

    def fill(writer: Writer) -> None:
        own = {entry.name for entry in listing.pictures if _is_own(entry)}
        writer.skipped += [(name, MADE_BY_UNNOISE) for name in sorted(own)]
        # before the shuffle: a mosaic must not change who is held out
        entries = [entry for entry in listing.pictures if entry.name not in own]
        places = dict(
            zip((e.name for e in entries), arranged(e.name for e in entries), strict=True)
        )
        writer.skipped += [(name, place.unused) for name, place in places.items() if place.unused]
        entries = [entry for entry in entries if not places[entry.name].unused]
        training = shuffled([e for e in entries if not places[e.name].held_out])
        held_out = shuffled([e for e in entries if places[e.name].held_out])
        if not held_out:
            count = len(training) - held_out_count(config, len(training))
            training, held_out = training[:count], training[count:]
        used: list[str] = []
        decoder = Decoder(target(config), config.max_pixels)
        everything = tracked([*training, *held_out], path.name, len(entries), "image")
        for number, entry in enumerate(everything):
            if number == len(training):
                writer.end_of_training_images()
            try:
                for image in decoder(entry):
                    writer.add(image)
                    used.append(entry.name)
            except Unusable as reason:
                writer.skipped.append((entry.name, str(reason)))
                writer.passing += [entry.name] * reason.passing
        if writer.count == 0 or writer.num_train == 0:
            name, reason = writer.skipped[0]
            what = f"{path}: none of {len(listing.pictures)} pictures can be used"
            raise DataError(f"{what}; the first, {name}: {reason}")
        _label(writer, used, places)
        writer.notes += decoder.notes()

    notes = (f"passed over, as no pictures by their names: {passed}",) if passed else ()
    key = [(e.name, *e.stamp) for e in listing.pictures]
    name = path.resolve().stem or "pictures"
    entries = {entry.name: entry for entry in listing.pictures}

    def opens(name: str) -> bool:
        try:
            with entries[name].open() as file:
                return bool(file.read(1))
        except Exception:  # noqa: BLE001  (whatever opening it raises)
            return False

    return Source(name, key, fill, skipped=runs, notes=notes, stamp=listing.stamp, opens=opens)


def read_picture(
    path: str | Path, wanted: Target, max_pixels: int = DataConfig.max_pixels
) -> np.ndarray:
    """One picture file as uint8 (c, h, w), as those of a folder; DataError where it cannot be."""
    path = Path(path)
    try:
        size = path.stat().st_size
        entry = Entry(path.name, (size, 0), lambda: path.open("rb"))
        return Decoder(wanted, max_pixels)(entry)[0]
    except Unusable as reason:
        raise DataError(f"{path}: {reason}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a picture") from error


def _is_own(entry: Entry) -> bool:
    """Whether it says that unnoise made it (images.save_png, images.save_animation)."""
    if entry.name.lower().endswith((".png", ".gif", ".webp")):
        with suppress(Unusable), _opened(entry) as picture:
            info = picture.info
            texts = info.get("comment"), info.get("xmp")
            return "unnoise" in info or any(b"unnoise" in t for t in texts if isinstance(t, bytes))
    return False


class Place(NamedTuple):
    """What its folders say of a picture."""

    label: str
    """"" where it lies in no sub-folder."""
    held_out: bool = False
    unused: str = ""
    """Why it is not used."""


def arranged(names: Iterable[str]) -> list[Place]:
    """The class and the split of each picture, from the folders in which it lies.

    Folders that hold all the others count for nothing; train beside test or val splits the
    pictures; classes are the folders below, and what has none there is not used.
    """
    paths = [name.split("/")[:-1] for name in names]
    while paths and all(paths) and len({path[0] for path in paths}) == 1:
        paths = [path[1:] for path in paths]
    tops = [path[0].lower() if path else "" for path in paths]
    of_training = [path for path, top in zip(paths, tops, strict=True) if top in TRAINING]
    classes = any(len(path) > 1 for path in of_training)
    split = bool(of_training) and bool({*tops} & HELD_OUT)
    if not split or not (classes or {*tops} <= TRAINING | HELD_OUT):
        return [Place(path[0] if path else "") for path in paths]
    found = []
    for path, top in zip(paths, tops, strict=True):
        label = path[1] if len(path) > 1 else ""
        unused = "" if label or not classes else "lies in no class folder"
        unused = unused if top in TRAINING | HELD_OUT else "lies beside train and test"
        found.append(Place(label, top in HELD_OUT, unused))
    return found


def natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """A key that sorts 2 before 10, and 1 before 01."""
    parts = [part.lstrip("0") if part.isdigit() else part for part in re.split(r"(\d+)", name)]
    return [(len(p) if i % 2 else 0, p) for i, p in enumerate(parts)], name


def _label(writer: Writer, used: list[str], places: dict[str, Place]) -> None:
    """Classes are the folders: two or more, in which all pictures that are used lie."""
    labels = [places[name].label for name in used]
    names = sorted({*labels}, key=natural) if len({*labels}) > 1 and "" not in labels else []
    numbers = {name: i for i, name in enumerate(names)}
    writer.class_names, writer.labels = names, [numbers.get(label, 0) for label in labels]
    found = f"{len(names)} classes, from the sub-folders"
    none = "no classes: for classes put every picture into one of two or more sub-folders"
    stray = [name for name in used if not places[name].label]
    if stray and len({*labels}) > 2:
        none = (
            f"no classes: {stray[0]} lies in no sub-folder ({len(stray)} of {len(used)} pictures)"
        )
    skipped = {places[name].label for name, _ in writer.skipped if name in places}
    unused = set() if stray else skipped - {*labels, ""}
    untrained = {*names} - {*labels[: writer.num_train]}
    writer.notes = [found if names else none]
    writer.notes += [f"{n} is no class: none of its pictures can be used" for n in sorted(unused)]
    held = "is not trained: all its pictures are held out"
    writer.notes += [f"class {name} {held}" for name in sorted(untrained)]
    inner = {part.lower() for name in used for part in name.split("/")[:-1]}
    held_out = sum(places[name].held_out for name in used)
    if not held_out and inner & TRAINING and inner & HELD_OUT:
        writer.notes.append("train and test folders below the classes are not told apart")
    if held_out:
        writer.notes.append(f"{held_out} pictures are held out, as their folders say (test, val)")


@dataclass
class Decoder:
    """Pictures as uint8 (c, h, w), and what is odd about them together."""

    wanted: Target
    max_pixels: int
    brightest: float = 0.0
    """The largest value in 16-bit pictures."""
    count: int = 0
    transparent: int = 0
    """Of `count` pictures, those with transparent pixels."""

    def __call__(self, entry: Entry) -> list[np.ndarray]:
        """Decode one, into each of its crops; its header gives its size before that."""
        if entry.stamp[0] > LARGEST_FILE_BYTES:
            raise Unusable(f"{entry.stamp[0]:,} bytes, more than {LARGEST_FILE_BYTES:,}")
        with _opened(entry) as picture:
            if picture.width * picture.height > self.max_pixels:
                size = f"{picture.width} x {picture.height} pixels"
                raise Unusable(f"{size}, more than data.max_pixels {self.max_pixels:,}")
            images = [fit(picture, self.wanted, number) for number in range(self.wanted.crops)]
            self.count += 1
            if picture.mode.startswith("I"):
                self.brightest = max(self.brightest, float(np.asarray(picture).max()))
            elif picture.mode != "F":
                self.transparent += transparent(picture)
            return images

    def notes(self) -> list[str]:
        """Lines where 16-bit pictures are nearly black, or much transparency is lost."""
        wanted, some, notes = self.wanted, self.transparent, list[str]()
        if 0 < self.brightest < DARK and wanted.grey_range is None:
            what = f"16-bit pictures reach {self.brightest:g} of 65535 and are nearly black"
            bits = 2 ** int(self.brightest).bit_length() - 1
            notes.append(f"{what}; --data.grey-range 0 {bits} makes that white")
        if wanted.channels != 4 and some > self.count / 10:
            what = f"{some:,} of {self.count:,} pictures have transparent pixels"
            notes.append(f"{what}, now {wanted.background}; --data.channels 4 keeps them")
        return notes


@functools.cache
def _formats() -> tuple[str, ...]:
    """FORMATS, as far as this Pillow has them."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@contextmanager
def _opened(entry: Entry) -> Iterator[Image.Image]:
    """The picture, its pixels not decoded yet; Unusable for all that goes wrong with it."""
    try:
        with (
            _without_pillows_cap(),
            entry.open() as file,
            Image.open(file, formats=_formats()) as picture,
        ):
            bands = getattr(picture, "tag_v2", {}).get(SAMPLES_PER_PIXEL, 1)
            if bands > 4:
                raise Unusable(f"has {bands} bands, expected 1, 3 or 4")
            yield picture
    except Unusable:
        raise
    except UnidentifiedImageError:
        raise Unusable("is not a picture") from None
    except Exception as error:  # noqa: BLE001  (whatever a stranger's file makes Pillow raise)
        passing = isinstance(error, OSError) and error.errno is not None
        raise Unusable(f"cannot be decoded ({error})", passing) from None


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
