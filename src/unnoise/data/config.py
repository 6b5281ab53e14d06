"""Which images a run trains on; free of everything heavy, so that the command line can read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unnoise.errors import DataError


@dataclass(frozen=True)
class DataConfig:
    """The images, and how they are made one size and one kind."""

    source: str = "digits"
    """digits, mnist, cifar10, or the path of a folder or zip of images (classes from its
    sub-folders)."""
    path: str | None = None
    """A local folder or archive of mnist or cifar10, in place of the download."""
    image_size: int | None = None
    """Height (and width) in pixels; None = the data set's own, 32 for a folder."""
    image_width: int | None = None
    """Width in pixels; None = square."""
    channels: int | None = None
    """1 grey or 3 RGB; None = the data set's own, 3 for a folder."""
    background: Literal["white", "black", "refuse"] = "white"
    """What transparent pixels are composited on; refuse skips pictures that have any."""
    flip: bool | None = None
    """Random horizontal flips; None = where the data set allows them (CIFAR-10)."""
    held_out: float = 0.05
    """Share held out (at most 1,000 images) where the data set has no test part of its own."""
    max_pixels: int = 50_000_000
    """A picture with more pixels is skipped before it is decoded."""
    cache: str | None = None
    """Folder of the uint8 cache; None = $UNNOISE_CACHE or ~/.cache/unnoise."""


LARGEST_SIZE = 4096


def check(config: DataConfig) -> None:
    """DataError for values out of range."""
    for name, value in (("image_size", config.image_size), ("image_width", config.image_width)):
        if value is not None and not 1 <= value <= LARGEST_SIZE:
            flag = "--data." + name.replace("_", "-")
            raise DataError(
                f"data.{name}: got {value}, expected 1 to {LARGEST_SIZE} pixels, such as {flag} 32"
            )
    if config.channels not in (None, 1, 3):
        raise DataError(f"data.channels: got {config.channels}, expected 1 (grey) or 3 (RGB)")
    if not 0 <= config.held_out <= 0.5:
        raise DataError(f"data.held_out: got {config.held_out}, expected 0 to 0.5")
    if config.max_pixels < 1:
        raise DataError(f"data.max_pixels: got {config.max_pixels}, expected 1 or more")
