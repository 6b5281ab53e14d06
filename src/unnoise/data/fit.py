"""Any picture made one size and one kind: uint8 (c, h, w).

4 channels are RGBA with premultiplied colours, none above alpha: a transparent pixel is 0, 0, 0, 0
whatever colour its file hides. Files alone hold straight colours (images.straight).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps

from unnoise.data.cache import Writer
from unnoise.data.config import FOLDER_SIZE, DataConfig
from unnoise.errors import ConfigError, DataError

T = TypeVar("T")

MOST_HELD_OUT = 1000

KINDS = {1: "grey", 3: "RGB", 4: "RGBA"}
"""What picture files hold, by the number of channels."""


KEEPS = "--data.channels 4 keeps them"
"""How a note about lost transparency ends."""


class Unusable(Exception):
    """Why one picture is skipped."""

    def __init__(self, reason: str, passing: bool = False) -> None:
        super().__init__(reason)
        self.passing = passing
        """Whether another try may find it well: a permission, a disk that failed."""


@dataclass(frozen=True)
class Target:
    """What every picture becomes."""

    height: int
    width: int
    channels: int
    background: str
    grey_range: tuple[float, float] | None = None
    """Values of deep greys that become 0 and 255."""
    fit: str = "crop"
    nearest: bool = False
    crops: int = 1


def target(config: DataConfig, own_size: int = FOLDER_SIZE, own_channels: int = 3) -> Target:
    """The configured size and kind, or the data set's own."""
    height = config.image_size or own_size
    width, channels = config.image_width or height, config.channels or own_channels
    if channels not in KINDS:
        raise DataError(f"data.channels: got {channels}, expected 1, 3 or 4 for picture files")
    if (grey := config.grey_range) and grey[0] >= grey[1]:
        raise ConfigError(f"data.grey_range: got {grey[0]:g} {grey[1]:g}, expected LOW below HIGH")
    if config.crops > 1 and config.fit != "random-crop":
        raise ConfigError(f"data.crops: got {config.crops}, expected --data.fit random-crop too")
    how = config.fit, config.resample == "nearest", config.crops
    return Target(height, width, channels, config.background, grey, *how)


def add_arrays(writer: Writer, config: DataConfig, images: np.ndarray, labels: np.ndarray) -> None:
    """Add uint8 images (n, c, h, w) of a data set, in the configured size and kind."""
    c, h, w = images.shape[1:]
    wanted = target(config, h, c)
    same = (wanted.channels, wanted.height, wanted.width) == (c, h, w)
    for image, label in zip(images, labels, strict=True):
        if not same:
            image = fit(Image.fromarray(image.transpose(1, 2, 0).squeeze()), wanted)
        writer.add(image, int(label))


def fit(
    picture: Image.Image, wanted: Target, number: int = 0, first: Image.Image | None = None
) -> np.ndarray:
    """8 bits, on the background, in the asked colours, of the asked shape, resized; or its random
    crop of a number, where the `first` of several channels has it."""
    picture = eight_bits(picture, wanted.grey_range)
    if wanted.channels == 4:  # resized with premultiplied colours: hidden ones do not bleed
        picture = picture if picture.mode == "RGBa" else picture.convert("RGBA").convert("RGBa")
    else:
        picture = flatten(picture, wanted.background)
        picture = picture.convert("L" if wanted.channels == 1 else "RGB")
    size = (wanted.width, wanted.height)
    if picture.size != size:
        shrinks = picture.width >= wanted.width and picture.height >= wanted.height
        method = Image.Resampling.LANCZOS if shrinks else Image.Resampling.BICUBIC
        method = Image.Resampling.NEAREST if wanted.nearest else method
        if wanted.fit == "stretch":
            picture = picture.resize(size, method)
        elif wanted.fit == "pad":
            around = "black" if wanted.background == "black" else "white"
            around = (0, 0, 0, 0) if wanted.channels == 4 else around
            picture = ImageOps.pad(picture, size, method, color=around)
        elif wanted.fit == "random-crop" and shrinks:
            picture = _window(picture, size, number, first or picture)
        else:
            picture = ImageOps.fit(picture, size, method)
    array = np.array(picture, np.uint8)
    if wanted.channels == 4:  # where resizing overshoots
        np.minimum(array, array[..., 3:], out=array)
    return array[None] if wanted.channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))


def crops(bands: Sequence[Image.Image], wanted: Target) -> list[np.ndarray]:
    """A picture, or its channels one by one, upright, in each of its random crops.

    One that is smaller on a side, or of just this size, has one.
    """
    bands = [ImageOps.exif_transpose(band) for band in bands]
    w, h = bands[0].size
    larger = w >= wanted.width and h >= wanted.height and (w, h) != (wanted.width, wanted.height)
    first, numbers = bands[0] if len(bands) > 1 else None, range(wanted.crops if larger else 1)
    return [np.concatenate([fit(band, wanted, n, first) for band in bands]) for n in numbers]


def _window(
    picture: Image.Image, size: tuple[int, int], number: int, first: Image.Image
) -> Image.Image:
    """A window of a larger picture, at a place that the pixels of `first` and `number` decide."""
    random = np.random.Generator(np.random.Philox(key=[zlib.crc32(first.tobytes()), number]))
    left, top = (int(v) for v in random.integers(np.subtract(picture.size, size) + 1))
    return picture.crop((left, top, left + size[0], top + size[1]))


def shuffled(items: list[T]) -> list[T]:
    """Items in an order of their own, the same each time."""
    order = np.random.Generator(np.random.Philox(key=0)).permutation(len(items))
    return [items[i] for i in order]


def held_out_count(config: DataConfig, count: int) -> int:
    """How many of `count` shuffled images are held out: the last, and never all."""
    return min(MOST_HELD_OUT, round(config.held_out * count), count - 1)


def eight_bits(picture: Image.Image, grey_range: tuple[float, float] | None = None) -> Image.Image:
    """16-bit and floating-point greys scaled to 0..255 by their range; Pillow alone would clip."""
    if not (picture.mode.startswith("I") or picture.mode == "F"):
        return picture
    values = np.asarray(picture).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(values).all():
        raise Unusable("has grey values that are not finite")
    if grey_range is None:
        tops = (1.0, 255.0, 65535.0) if picture.mode == "F" else (65535.0,)
        if low < 0 or high > tops[-1]:
            got, fix = f"got {low:g} to {high:g}", "--data.grey-range LOW HIGH takes others"
            raise Unusable(f"grey values: {got}, expected 0 to 1, 255 or 65535; {fix}")
        grey_range = 0.0, next(top for top in tops if high <= top)
    black, white = grey_range
    scaled = ((values - black) * (255 / (white - black))).round().clip(0, 255)
    scaled = Image.fromarray(scaled.astype(np.uint8))
    if (clear := picture.info.get("transparency")) is not None:  # one value is transparent
        scaled.putalpha(Image.fromarray(((values != clear) * 255).astype(np.uint8)))
    return scaled


def transparent(picture: Image.Image) -> bool:
    """Whether any pixel of an 8-bit picture is transparent."""
    clear = picture.has_transparency_data
    return clear and picture.convert("RGBA").getchannel("A").getextrema() != (255, 255)


def flatten(picture: Image.Image, background: str) -> Image.Image:
    """Transparent pixels composited on the background."""
    if not picture.has_transparency_data:
        return picture
    if background == "refuse":
        if transparent(picture):
            raise Unusable("has transparent pixels (data.background is refuse)")
        background = "white"  # of which nothing is seen
    under = Image.new("RGBA", picture.size, background)
    return Image.alpha_composite(under, picture.convert("RGBA")).convert("RGB")
