"""Any picture made one size and one kind: uint8 (c, h, w)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps

from unnoise.data.cache import Writer
from unnoise.data.config import DataConfig

T = TypeVar("T")

FOLDER_SIZE = 32
MOST_HELD_OUT = 1000


WHITE_LEVEL = 65535.0


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
    white_level: float = WHITE_LEVEL
    """Grey value of 16-bit pictures that becomes 255."""
    fit: str = "crop"
    nearest: bool = False


def target(config: DataConfig, own_size: int = FOLDER_SIZE, own_channels: int = 3) -> Target:
    """The configured size and kind, or the data set's own."""
    height = config.image_size or own_size
    width, channels = config.image_width or height, config.channels or own_channels
    white = config.white_level or WHITE_LEVEL
    how = config.fit, config.resample == "nearest"
    return Target(height, width, channels, config.background, white, *how)


def add_arrays(writer: Writer, config: DataConfig, images: np.ndarray, labels: np.ndarray) -> None:
    """Add uint8 images (n, c, h, w) of a data set, in the configured size and kind."""
    c, h, w = images.shape[1:]
    wanted = target(config, h, c)
    same = (wanted.channels, wanted.height, wanted.width) == (c, h, w)
    for image, label in zip(images, labels, strict=True):
        if not same:
            image = fit(Image.fromarray(image.transpose(1, 2, 0).squeeze()), wanted)
        writer.add(image, int(label))


def fit(picture: Image.Image, wanted: Target) -> np.ndarray:
    """Upright, 8 bits, on the background, in the asked colours, of the asked shape, resized."""
    picture = eight_bits(ImageOps.exif_transpose(picture), wanted.white_level)
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
            picture = ImageOps.pad(picture, size, method, color=around)
        else:
            picture = ImageOps.fit(picture, size, method)
    array = np.asarray(picture, np.uint8)
    return array[None] if wanted.channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))


def shuffled(items: list[T]) -> list[T]:
    """Items in an order of their own, the same each time."""
    order = np.random.Generator(np.random.Philox(key=0)).permutation(len(items))
    return [items[i] for i in order]


def held_out_count(config: DataConfig, count: int) -> int:
    """How many of `count` shuffled images are held out: the last, and never all."""
    return min(MOST_HELD_OUT, round(config.held_out * count), count - 1)


def eight_bits(picture: Image.Image, white_level: float = WHITE_LEVEL) -> Image.Image:
    """16-bit and floating-point greys scaled to 0..255 by their range; Pillow alone would clip."""
    if not (picture.mode.startswith("I") or picture.mode == "F"):
        return picture
    values = np.asarray(picture).astype(np.float64)
    if picture.mode != "F" and white_level < WHITE_LEVEL:
        values = values.clip(max=white_level)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(values).all() or low < 0:
        raise Unusable(f"grey values from {low:g} to {high:g}, expected 0 to 1, 255 or 65535")
    tops = (1.0, 255.0, 65535.0) if picture.mode == "F" else (white_level,)
    top = next((top for top in tops if high <= top), tops[-1])
    if high > top:
        raise Unusable(f"grey values up to {high:g}, expected at most {top:g}")
    scaled = Image.fromarray(np.round(values * (255 / top)).astype(np.uint8))
    if (clear := picture.info.get("transparency")) is not None:  # one value is transparent
        scaled.putalpha(Image.fromarray(((values != clear) * 255).astype(np.uint8)))
    return scaled


def flatten(picture: Image.Image, background: str) -> Image.Image:
    """Transparent pixels composited on the background."""
    if not picture.has_transparency_data:
        return picture
    picture = picture.convert("RGBA")
    if background != "refuse":
        under = Image.new("RGBA", picture.size, background)
        picture = Image.alpha_composite(under, picture)
    elif picture.getchannel("A").getextrema()[0] != 255:
        raise Unusable("has transparent pixels (data.background is refuse)")
    return picture.convert("RGB")
