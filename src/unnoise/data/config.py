"""Which images a run trains on; free of everything heavy, so that the command line can read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from unnoise.ranges import Count, Few, Finite, Range

Pixels = Annotated[int, Range(least=1, most=4096)]
FOLDER_SIZE = 32
"""Height and width of picture files, unless the user says."""


@dataclass(frozen=True)
class DataConfig:
    """The images, and how they are made one size and one kind."""

    source: str = "digits"
    """digits, mnist, cifar10, the path of a folder, zip, .npz, .npy or parquet file of images, or
    hf:owner/name, a data set of the Hugging Face hub."""
    path: str | None = None
    """A local folder or archive of mnist or cifar10, in place of the download."""
    classes: str = "auto"
    """What says the classes: folders, names (cat_001.png is a cat), none, or a CSV file; auto = a
    dataset.json, labels.csv or metadata.csv with the pictures, else the sub-folders."""
    image_size: Pixels | None = None
    """Height (and width) in pixels; None = an array's own, 32 for picture files."""
    image_width: Pixels | None = None
    """Width in pixels; None = square."""
    channels: Literal[1, 3, 4] | None = None
    """1 grey, 3 RGB or 4 RGBA (keeps transparency); None = an array's own, 3 for files."""
    fit: Literal["crop", "random-crop", "pad", "stretch"] = "crop"
    """A picture of another shape: crop its middle, pad it with the background, or stretch it.
    random-crop cuts a window of the model's size from a larger picture, without resizing."""
    crops: Few = 1
    """Number of windows that random-crop cuts from each picture."""
    resample: Literal["smooth", "nearest"] = "smooth"
    """How a picture is resized: smooth for photographs, nearest for pixel art."""
    background: Literal["white", "black", "refuse"] = "white"
    """What transparent pixels are composited on, but for RGBA; refuse skips such pictures."""
    grey_range: tuple[Finite, Finite] | None = None
    """The values of a grey file of more than 8 bits that become black and white, such as 0 4095 for
    12 bits or -1024 3071 for CT; None = 0 and 65535, or for floats 0 and 1, 255 or 65535."""
    flip: bool | None = None
    """Random horizontal flips; None = where the data set allows them (CIFAR-10)."""
    held_out: Annotated[float, Range(least=0, most=0.5)] = 0.05
    """Share held out (at most 1,000 images) where the data set has no test part of its own."""
    max_pixels: Count = 50_000_000
    """A picture with more pixels is skipped before it is decoded."""
    cache: str | None = None
    """Folder of the uint8 cache; None = $UNNOISE_CACHE or ~/.cache/unnoise."""
