"""A folder or zip of pictures, or other files that hold them; what cannot be used is skipped and
said."""

from __future__ import annotations

import functools
import statistics
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base

from unnoise.data import classes
from unnoise.data.cache import Source, Writer
from unnoise.data.classes import Place
from unnoise.data.config import DataConfig
from unnoise.data.fit import (
    KEEPS,
    Target,
    Unusable,
    crops,
    held_out_count,
    shuffled,
    target,
    transparent,
)
from unnoise.data.listing import LARGEST_FILE_BYTES, SUFFIXES, Entry, Listing, list_pictures
from unnoise.errors import DataError
from unnoise.events import tracked

MADE_BY_UNNOISE = "made by unnoise"
FORMATS = ("PNG", "JPEG", "JPEG2000", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "PPM")
"""Pillow's others may start programs (EPS) or are not for pictures of this kind."""
GREYS = ("1", "L", "I", "I;16", "I;16B", "F")
LOOKED_AT = 50
"""Pictures of a set whose size is read to find the usual one."""
SAMPLES_PER_PIXEL = 277
DARK = 16384
"""16-bit pictures that stay below a quarter of white are probably of fewer bits."""
PILLOWS_CAP = threading.Lock()


def source(config: DataConfig, listing: Listing, samples: bool) -> Source:
    """All pictures of a folder or zip, in an order that follows from their names alone."""
    path = Path(config.source)
    runs = tuple((run, f"a run folder {MADE_BY_UNNOISE}") for run in listing.runs)
    passed = ", ".join(f"{n} {ending or 'without ending'}" for ending, n in listing.others.items())
    if not listing.pictures:
        found = "; ".join([passed or "nothing", *(f"{run} ({why})" for run, why in runs[:3])])
        raise DataError(f"{path}: no pictures; found {found}, expected {' '.join(SUFFIXES)}")

    def fill(writer: Writer) -> None:
        own = {entry.name for entry in listing.pictures if _is_own(entry, samples)}
        writer.skipped += [(name, MADE_BY_UNNOISE) for name in sorted(own)]
        # before the shuffle: a mosaic must not change who is held out
        entries = [entry for entry in listing.pictures if entry.name not in own]
        places, origin, writer.notes = classes.find(config, listing, [e.name for e in entries])
        add_pictures(writer, config, entries, places, origin)

    notes = (f"passed over, as no pictures by their names: {passed}",) if passed else ()
    files = (*listing.pictures, *classes.tables(config, listing))
    key = [*((e.name, *e.stamp) for e in files), *["samples"] * samples]
    name = (path.resolve().stem if path.is_file() else path.resolve().name) or "pictures"
    entries = {entry.name: entry for entry in listing.pictures}

    def opens(name: str) -> bool:
        try:
            with entries[name].open() as file:
                return bool(file.read(1))
        except Exception:  # noqa: BLE001  (whatever opening it raises)
            return False

    return Source(name, key, fill, skipped=runs, notes=notes, stamp=listing.stamp, opens=opens)


def add_pictures(
    writer: Writer, config: DataConfig, entries: list[Entry], places: dict[str, Place], origin: str
) -> None:
    """Add pictures of any source: shuffled, split, decoded, labelled; with what is to be said."""
    writer.skipped += [(name, place.unused) for name, place in places.items() if place.unused]
    usable = [entry for entry in entries if not places[entry.name].unused]
    training = shuffled([e for e in usable if not places[e.name].held_out])
    held_out = shuffled([e for e in usable if places[e.name].held_out])
    if not held_out:
        count = len(training) - held_out_count(config, len(training))
        training, held_out = training[:count], training[count:]
    used: list[str] = []
    decoder = Decoder(target(config), config.max_pixels)
    everything = tracked([*training, *held_out], Path(config.source).name, len(usable), "image")
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
        count = writer.count + len(writer.skipped)
        what = f"{Path(config.source)}: none of {count} pictures can be used"
        raise DataError(f"{what}; the first, {name}: {reason}")
    classes.label(writer, used, places, origin)
    writer.notes += decoder.notes()


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


def _is_own(entry: Entry, samples: bool) -> bool:
    """Whether it says that unnoise made it (images.save_png, images.save_animation).

    Where `samples` are asked for, the picture of one seed is as good as another's.
    """
    if entry.name.lower().endswith((".png", ".gif", ".webp")):
        with suppress(Unusable), _opened(entry) as picture:
            info = picture.info
            texts = info.get("comment"), info.get("xmp")
            if samples and '"seed":' in str(info.get("unnoise")):
                return False
            return "unnoise" in info or any(b"unnoise" in t for t in texts if isinstance(t, bytes))
    return False


def usual_size(path: Path) -> tuple[int, int, int]:
    """Channels (1 or 3), height and width of most pictures; DataError where there are none."""
    pictures = list_pictures(path).pictures
    sizes, grey = Counter[tuple[int, int]](), True
    for entry in pictures[:: 1 + len(pictures) // LOOKED_AT]:
        with suppress(Unusable), _opened(entry) as picture:
            w, h = picture.size
            turned = picture.format != "TIFF" and picture.getexif().get(Base.Orientation, 1) > 4
            sizes[(w, h) if turned else (h, w)] += 1
            grey &= picture.mode in GREYS
    if not sizes:
        raise DataError(f"{path}: no pictures")
    return (1 if grey else 3, *sizes.most_common(1)[0][0])


@dataclass
class Decoder:
    """Pictures as uint8 (c, h, w), and what is odd about them together."""

    wanted: Target
    max_pixels: int
    brightest: float = 0.0
    """The largest value in 16-bit pictures."""
    count: int = 0
    transparent: int = 0
    """How many of `count` pictures have transparent pixels."""
    several: int = 0
    """How many are animations or have several pages."""
    sides: list[int] = field(default_factory=list)
    """The shorter side of each picture."""

    def __call__(self, entry: Entry) -> list[np.ndarray]:
        """Decode one, into each of its crops; its header gives its size before that."""
        if entry.stamp[0] > LARGEST_FILE_BYTES:
            raise Unusable(f"{entry.stamp[0]:,} bytes, more than {LARGEST_FILE_BYTES:,}")
        with _opened(entry) as picture:
            if picture.width * picture.height > self.max_pixels:
                size = f"{picture.width} x {picture.height} pixels"
                raise Unusable(f"{size}, more than data.max_pixels {self.max_pixels:,}")
            images = crops([picture], self.wanted)
            self.count += 1
            self.sides.append(min(picture.size))
            self.several += _several(picture)
            if picture.mode.startswith("I"):
                self.brightest = max(self.brightest, float(np.asarray(picture).max()))
            elif picture.mode != "F":
                self.transparent += transparent(picture)
            return images

    def notes(self) -> list[str]:
        """Lines where pictures lose much of their size, 16 bits or transparency."""
        wanted, some, notes = self.wanted, self.transparent, list[str]()
        if 0 < self.brightest < DARK and wanted.grey_range is None:
            what = f"16-bit pictures reach {self.brightest:g} of 65535 and are nearly black"
            bits = 2 ** int(self.brightest).bit_length() - 1
            notes.append(f"{what}; --data.grey-range 0 {bits} makes that white")
        if wanted.channels != 4 and some:
            what = f"{some:,} of {self.count:,} pictures have transparent pixels"
            notes.append(f"{what}, now {wanted.background}; {KEEPS}")
        if self.several:
            what = f"{self.several:,} of {self.count:,} files have several pages or frames"
            notes.append(f"{what}: only the first of each is used")
        side, size = int(statistics.median(self.sides)), (wanted.height, wanted.width)
        if side >= 2 * max(size) and wanted.fit != "random-crop":
            what = f"the shorter side of most pictures has {side} pixels or more"
            notes.append(f"{what}, now {size[0]} x {size[1]}; --image-size sets a larger size")
        return notes


def _several(picture: Image.Image) -> bool:
    """Whether there is more than its first page or frame, be it damaged; JPEGs have one."""
    try:
        return picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1
    except Exception:  # noqa: BLE001  (whatever a stranger's file makes Pillow raise)
        return True


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
