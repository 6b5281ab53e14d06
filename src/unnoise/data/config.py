"""Which images a run trains on; free of everything heavy."""

from __future__ import annotations

from dataclasses import dataclass


class DataError(ValueError):
    """Data that cannot be used."""


@dataclass(frozen=True)
class DataConfig:
    """The images."""

    source: str = "digits"
    path: str | None = None
    image_size: int | None = None
    image_width: int | None = None
    channels: int | None = None
    background: str = "white"
    flip: bool | None = None
    held_out: float = 0.05
    max_pixels: int = 50_000_000
    cache: str | None = None
