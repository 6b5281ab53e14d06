"""Data sets by name, and what is said of them.

To add one: a file with a function DataConfig -> Source, and a line in DATASETS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from unnoise.data import arrays, cifar10, digits, folder, mnist, parquet
from unnoise.data.cache import Source, cached, reading
from unnoise.data.config import DataConfig
from unnoise.data.fit import KINDS
from unnoise.data.listing import list_pictures
from unnoise.errors import DataError, nearest


@dataclass(frozen=True)
class ImageData:
    """Images of one size, in memory or in a read-only memory map."""

    name: str
    images: np.ndarray
    """uint8 (n, c, h, w), the held-out rows last."""
    labels: np.ndarray | None
    """int64 (n,)."""
    class_names: tuple[str, ...]
    """() without labels."""
    num_train: int
    """images[:num_train] are for training, the rest is held out."""
    flip: bool
    """Whether a mirrored image is still one of the set, so that training may flip at random."""
    fingerprint: str
    """SHA-256 of shape, split, labels and pixels."""
    skipped: tuple[tuple[str, str], ...] = ()
    """(file, reason)."""
    notes: tuple[str, ...] = ()


DATASETS: dict[str, Callable[[DataConfig], Source]] = {
    "digits": digits.source,
    "mnist": mnist.source,
    "cifar10": cifar10.source,
}
"""Name -> function of the configuration."""
FILES: dict[str, Callable[[DataConfig], Source]] = {
    ".npz": arrays.file_source,
    ".npy": arrays.file_source,
    ".parquet": parquet.source,
    parquet.HUB: parquet.source,
}
"""Ending of a file, or hf: -> the same; other files and folders hold pictures."""


def load(config: DataConfig, samples: bool = False) -> ImageData:
    """The images of a configuration, through the cache; DataError where there are none.

    Pictures that unnoise made do not count; of a folder's, single `samples` do where they are asked
    for.
    """
    if not config.source:
        fix = "expected --data PATH, or a run folder of `unnoise train`"
        raise DataError(f"data: a model file alone does not say which images may be read; {fix}")
    with reading(config.path or config.source):
        return from_source(config, _source(config, samples))


def _source(config: DataConfig, samples: bool) -> Source:
    """What reads config.source."""
    path = Path(config.source)
    ending = path.suffix.lower() if path.is_file() else config.source[: len(parquet.HUB)]
    read = DATASETS.get(config.source) or FILES.get(ending)
    if read is None:
        if not path.exists():
            fix = nearest(config.source, DATASETS, "a path that is there: --data PATH")
            raise DataError(f"data: no data set, file or folder {config.source!r}; {fix}")
        listing = list_pictures(path)
        if listing.pictures or path.is_file() or not listing.others[".parquet"]:
            return folder.source(config, listing, samples)
        read = parquet.source
    if config.classes not in ("auto", "none"):
        what = f"data.classes: got {config.classes!r}, but {config.source} has its own classes"
        raise DataError(f"{what}; expected auto or none")
    return read(config)


def dataset(
    images: Any,
    labels: Sequence[int] | np.ndarray | torch.Tensor | None = None,
    class_names: Sequence[str] | None = None,
    name: str = "dataset",
    config: DataConfig | None = None,
) -> ImageData:
    """Make a data set that `unnoise.train` and `unnoise.evaluate` take.

    `images` is an array or tensor (n, c, h, w), (n, h, w, c) or (n, h, w), or any torch Dataset
    whose items are such images, Pillow pictures, or pairs of an image and a label. Pixels are
    uint8, or floats from 0 to 1. 1 channel is grey, 3 are RGB, 4 are straight RGBA, which `config`
    with channels=4 keeps; 2 or more than 4 (masks, spectra) stay as they are. `labels` are n whole
    numbers from 0. `config` says size, colours, flips, held-out share and cache, as for a folder;
    the size of the first image is the default. DataError names the first item that cannot be used.
    """
    config = config or DataConfig(source=name)
    return from_source(config, arrays.source(images, labels, class_names, name, config))


def from_source(config: DataConfig, source: Source) -> ImageData:
    """A source's images, through the cache."""
    images, labels, meta = cached(config, source)
    class_names = () if config.classes == "none" else tuple(meta["class_names"])
    return ImageData(
        name=source.name,
        images=images,
        labels=labels if class_names else None,
        class_names=class_names,
        num_train=meta["num_train"],
        flip=source.flip if config.flip is None else config.flip,
        fingerprint=meta["fingerprint"],
        skipped=(*source.skipped, *map(tuple, meta["skipped"])),
        notes=(*source.notes, *meta["notes"]),
    )


def report(data: ImageData) -> str:
    """What was found, what was skipped and why, in some lines."""
    n, c, h, w = data.images.shape
    mean, std = _moments(_counts(data.images, np.linspace(0, n - 1, min(n, 5000)).astype(int)))
    split = f"{data.num_train:,} to train on, {n - data.num_train:,} held out"
    kind = f"{h} x {w}, {KINDS.get(c, f'{c} channels')}, flips {'on' if data.flip else 'off'}"
    means, stds = (" ".join(f"{v:.3f}" for v in values) for values in (mean, std))
    lines = [
        f"{data.name}: {n:,} images ({split}), {kind}",
        f"  pixels: mean {means}, std {stds} of 0..1 · fingerprint {data.fingerprint[:12]}",
    ]
    if data.labels is not None:
        counts = np.bincount(data.labels, minlength=len(data.class_names))
        named = [f"{name} {count:,}" for name, count in zip(data.class_names, counts, strict=True)]
        more = ", .." if len(named) > 20 else ""
        lines.append(f"  {len(named)} classes: {', '.join(named[:20])}{more}")
    lines += [f"  note: {note}" for note in data.notes]
    if data.skipped:
        lines.append(f"  skipped {len(data.skipped)}:")
        lines += [f"    {name}: {reason}" for name, reason in data.skipped[:10]]
        lines += [f"    and {len(data.skipped) - 10} more"] if len(data.skipped) > 10 else []
    return "\n".join(lines)


def sigma_data(images: np.ndarray) -> float:
    """The standard deviation of all pixels in [-1, 1]."""
    counts = _counts(images, np.arange(len(images))).sum(0)
    return 2 * float(_moments(counts[None])[1][0])


def _counts(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Count the 256 values of each channel, so that no image is held as floats."""
    counts = np.zeros((images.shape[1], 256), np.int64)
    for row in rows:
        counts += [Image.fromarray(channel).histogram() for channel in images[row]]
    return counts


def _moments(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of 0..1 in each channel."""
    values, shares = np.arange(256) / 255, counts / counts.sum(1, keepdims=True)
    mean = shares @ values
    return mean, (shares * (values - mean[:, None]) ** 2).sum(1) ** 0.5
