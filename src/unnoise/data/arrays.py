"""A data set from Python: arrays, or a torch Dataset, through the same cache as a folder of
pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from unnoise.data.cache import Source, Writer
from unnoise.data.config import DataConfig
from unnoise.data.dataset import ImageData, from_source
from unnoise.data.fit import Unusable, fit, held_out_count, shuffled, target
from unnoise.errors import DataError
from unnoise.events import tracked

MOST_CLASSES = 100_000


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
    uint8, or floats from 0 to 1; 1 channel (grey), 3 (RGB) or 4 (RGBA). `labels` are n whole
    numbers from 0. `config` says size, colours, flips, held-out share and cache, as for a folder;
    the size of the first image is the default. DataError names the first item that cannot be used.
    """
    config = config or DataConfig(source=name)
    if not len(images):
        raise DataError(f"{name}: got 0 images, expected 1 or more")
    first, _ = _item(images, 0, name)
    width = config.image_width or (config.image_size or first.width)
    channels = config.channels or (1 if first.mode == "L" else 3)
    wanted = replace(target(config, first.height, channels), width=width)
    given = None if labels is None else _whole_numbers(labels, len(images), name)

    def fill(writer: Writer) -> None:
        order = shuffled(list(range(len(images))))
        held_out = held_out_count(config, len(order))
        labelled = 0
        for number, index in enumerate(tracked(order, name, len(order), "image")):
            if number == len(order) - held_out:
                writer.end_of_training_images()
            picture, own = _item(images, index, name)
            label = own if given is None else int(given[index])
            labelled += label is not None
            try:
                writer.add(fit(picture, wanted), label or 0)
            except Unusable as reason:
                raise DataError(f"{name}: image {index} {reason}") from None
        if labelled not in (0, len(order)):
            raise DataError(f"{name}: {labelled} of {len(order)} items have a label; expected all")
        writer.class_names = _names(writer, class_names, images, name) if labelled else []

    return from_source(config, Source(name, None, fill))


def _item(images: Any, index: int, name: str) -> tuple[Image.Image, int | None]:
    """Item `index` as a picture, and its label where it has one."""
    item, label = images[index], None
    if isinstance(item, tuple | list) and len(item) == 2:
        item, label = item
    what = f"{name}: image {index}"
    if label is not None and (int(label) != label or not 0 <= label < MOST_CLASSES):
        raise DataError(f"{what}: got label {label!r}, expected a whole number from 0")
    return _picture(item, what), None if label is None else int(label)


def _picture(item: Any, what: str) -> Image.Image:
    if isinstance(item, Image.Image):
        return item
    array = item.detach().cpu().numpy() if isinstance(item, torch.Tensor) else np.asarray(item)
    expected = "expected (c, h, w), (h, w, c) or (h, w) with 1, 3 or 4 channels"
    first, last = (array.ndim == 3 and array.shape[axis] in (1, 3, 4) for axis in (0, -1))
    if first and (isinstance(item, torch.Tensor) or not last):  # torch's, where both would do
        array = array.transpose(1, 2, 0)
    elif array.ndim == 2:
        array = array[..., None]
    elif not last:
        raise DataError(f"{what}: got shape {np.shape(item)}, {expected}")
    if not array.size:
        raise DataError(f"{what}: got shape {np.shape(item)}, expected pixels")
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            got = f"got floats from {array.min():g} to {array.max():g}"
            raise DataError(f"{what}: {got}, expected 0 to 1 (or uint8 0 to 255)")
        array = np.round(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise DataError(f"{what}: got {array.dtype}, expected uint8, or floats from 0 to 1")
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


def _whole_numbers(labels: Any, count: int, name: str) -> np.ndarray:
    values = labels.cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    whole = values.shape == (count,) and values.dtype.kind in "iu"
    if not whole or values.min() < 0 or values.max() >= MOST_CLASSES:
        got = f"{values.dtype} {values.shape}" + (f" to {values.max()}" if whole else "")
        expected = f"{count} whole numbers from 0, less than {MOST_CLASSES:,}"
        raise DataError(f"{name}: got labels {got}, expected {expected}")
    return values


def _names(writer: Writer, given: Sequence[str] | None, images: Any, name: str) -> Sequence[str]:
    """The given class names, else the Dataset's own `classes`, else the numbers."""
    count = max(writer.labels) + 1
    names = [str(n) for n in given or getattr(images, "classes", None) or range(count)]
    if len(names) < count:
        raise DataError(f"{name}: got {len(names)} class names for labels up to {count - 1}")
    return names
