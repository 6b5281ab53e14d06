"""Images in arrays or a torch Dataset, from Python or an .npz or .npy file."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import length_hint
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.lib.format import open_memmap, read_array_header_1_0, read_magic
from PIL import Image
from torch.utils.data import ConcatDataset

from unnoise.data.cache import Source, Writer, times
from unnoise.data.config import DataConfig
from unnoise.data.fit import KEEPS, KINDS, Unusable, crops, held_out_count, shuffled, target
from unnoise.data.mnist import DAMAGE
from unnoise.errors import DataError
from unnoise.events import tracked

ARRAYS = (".npz", ".npy")
MOST_CLASSES = 100_000
TRAINING = {"images": "labels", "x": "y", "arr_0": "arr_1", "x_train": "y_train",
            "train_images": "train_labels"}  # fmt: skip
HELD_OUT = {"x_val": "y_val", "x_test": "y_test", "val_images": "val_labels",
            "test_images": "test_labels"}  # fmt: skip
"""The usual names in an .npz: of images, and of their labels."""
USUAL = TRAINING | HELD_OUT


def file_source(config: DataConfig) -> Source:
    """The images of an .npz or .npy file; those of a validation or test part are held out."""
    path = Path(config.source)

    def fill(writer: Writer) -> None:
        found = _unpacked(path, writer.scratch)
        parts = [name for name in HELD_OUT if name in found]
        parts = [name for name in TRAINING if name in found][:1] + parts
        if not parts:
            with np.load(path) as there:
                got = ", ".join(there) or "none"
            raise DataError(f"{path}: got the arrays {got}; expected one of {', '.join(TRAINING)}")
        usual = (USUAL[name] for name in parts)
        labels = [found[n] for n in usual if n in found and config.classes != "none"]
        whole = ConcatDataset(cast("list[Any]", [found[name] for name in parts]))
        if labels and len(labels) < len(parts):
            lacking = ", ".join(USUAL[n] for n in parts)
            fix = "give all, or --data.classes none"
            raise DataError(f"{path}: got {len(labels)} arrays of labels of {lacking}; {fix}")
        given, more = np.concatenate(labels) if labels else None, len(whole) - len(found[parts[0]])
        source(whole, given, None, path.name, config, more).fill(writer)
        classes = f"{len(writer.class_names)} classes" if labels else "no classes"
        writer.notes.append(f"{classes}; read: {', '.join(found)}")

    return Source(path.stem, [path.name, *times(path)], fill)


def _unpacked(path: Path, scratch: Path) -> dict[str, np.ndarray]:
    """The arrays that have a usual name, memory-mapped; that of an .npy is its images."""
    try:
        if path.suffix.lower() == ".npy":
            return {"images": open_memmap(path, mode="r")}
        with zipfile.ZipFile(path) as archive:
            names = [name for pair in USUAL.items() for name in pair]
            names = [name for name in names if f"{name}.npy" in archive.namelist()]
            files = [archive.extract(f"{name}.npy", scratch) for name in names]
        return {n: open_memmap(file, mode="r") for n, file in zip(names, files, strict=True)}
    except (*DAMAGE, MemoryError) as error:
        fix = "expected plain numbers, as np.save and np.savez write them, never pickled objects"
        raise DataError(f"{path}: cannot be read ({error}); {fix}") from error


def own_size(path: Path) -> tuple[int, int] | None:
    """Height and width of a file's images, by its header; None where reading it will complain."""
    try:
        if path.suffix.lower() == ".npy":
            shape = [*np.load(path, "r").shape]
        else:
            with zipfile.ZipFile(path) as archive:
                files = (f"{name}.npy" for name in TRAINING)
                name = next(file for file in files if file in archive.namelist())
                with archive.open(name) as file:
                    read_magic(file)
                    shape = [*read_array_header_1_0(file)[0]]
        first = len(shape) > 3 and _channels_first(tuple(shape[1:]), False, path.name)
        return (shape[2], shape[3]) if first else (shape[1], shape[2])
    except (*DAMAGE, DataError, StopIteration, IndexError):
        return None


def source(
    images: Any, labels: Any, class_names: Sequence[str] | None,
    name: str, config: DataConfig, own_part: int = 0,
) -> Source:  # fmt: skip
    """Images in memory, or read one by one; `own_part` of them, the last, are a test part."""
    indexed = hasattr(images, "__getitem__") and not isinstance(images, str | Mapping)
    if not indexed or length_hint(images, -1) < 0:  # as of a single number, a Dataset without end
        fix = "expected an array, a tensor or a Dataset with a length"
        raise DataError(f"{name}: got {type(images).__name__}, {fix}")
    if not len(images):
        raise DataError(f"{name}: got 0 images, expected 1 or more")
    bands, _ = _item(images, 0, name)
    width = config.image_width or (config.image_size or bands[0].width)
    channels = 1 if len(bands) > 1 or bands[0].mode == "L" else 3
    wanted = replace(target(config, bands[0].height, config.channels or channels), width=width)
    if len(bands) > 1 and config.channels is not None:
        raise DataError(f"{name}: got channels={config.channels} for {len(bands)}; leave it out")
    if config.grey_range is not None:
        fix = "leave it out, and scale the array to 0..1"
        raise DataError(f"{name}: data.grey_range is for files of pictures; {fix}")
    given = None if labels is None else _whole_numbers(labels, len(images), name)

    def fill(writer: Writer) -> None:
        order = shuffled(list(range(len(images) - own_part)))
        held_out = own_part or held_out_count(config, len(order))
        order += range(len(order), len(images))
        labelled = 0
        for number, index in enumerate(tracked(order, name, len(order), "image")):
            if number == len(order) - held_out:
                writer.end_of_training_images()
            pictures, own = _item(images, index, name)
            if len(pictures) != len(bands):
                got = f"image {index} has other channels than image 0, {len(pictures)}"
                raise DataError(f"{name}: {got} in place of {len(bands)}")
            label = own if given is None else int(given[index])
            labelled += label is not None
            try:
                for image in crops(pictures, wanted):
                    writer.add(image, label or 0)
            except Unusable as reason:
                raise DataError(f"{name}: image {index} {reason}") from None
        if labelled not in (0, len(order)):
            raise DataError(f"{name}: {labelled} of {len(order)} items have a label; expected all")
        writer.class_names = _names(writer, class_names, images, name) if labelled else []
        unused = {*range(len(writer.class_names))} - {*writer.labels}
        if empty := [writer.class_names[i] for i in sorted(unused)]:
            writer.notes.append(f"classes without an image: {len(empty)}, such as {empty[0]}")
        if bands[0].mode == "RGBA" and wanted.channels != 4:
            writer.notes.append(f"4 channels are RGBA, now on white; {KEEPS}")

    return Source(name, None, fill)


def _item(images: Any, index: int, name: str) -> tuple[list[Image.Image], int | None]:
    """Item `index` as a picture or as one of each channel, and its label where it has one."""
    item, label = images[index], None
    if isinstance(item, tuple | list) and len(item) == 2:
        item, label = item
    what = f"{name}: image {index}"
    if label is not None and (int(label) != label or not 0 <= label < MOST_CLASSES):
        raise DataError(f"{what}: got label {label!r}, expected a whole number from 0")
    return _pictures(item, what), None if label is None else int(label)


def _pictures(item: Any, what: str) -> list[Image.Image]:
    if isinstance(item, Image.Image):
        return [item]
    array = item.detach().cpu().numpy() if isinstance(item, torch.Tensor) else np.asarray(item)
    if array.ndim == 2:
        array = array[..., None]
    elif array.ndim != 3:
        raise DataError(f"{what}: got shape {np.shape(item)}, expected (c, h, w) or (h, w, c)")
    elif _channels_first(array.shape, isinstance(item, torch.Tensor), what):
        array = array.transpose(1, 2, 0)
    if not array.size:
        raise DataError(f"{what}: got shape {np.shape(item)}, expected pixels")
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            got = f"got floats from {array.min():g} to {array.max():g}"
            raise DataError(f"{what}: {got}, expected 0 to 1 (or uint8 0 to 255)")
        array = np.round(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise DataError(f"{what}: got {array.dtype}, expected uint8, or floats from 0 to 1")
    if array.shape[2] in (3, 4):
        return [Image.fromarray(np.ascontiguousarray(array))]
    return [Image.fromarray(channel) for channel in np.ascontiguousarray(array.transpose(2, 0, 1))]


def _channels_first(shape: tuple[int, ...], torchs: bool, what: str) -> bool:
    """Whether an array is (c, h, w): 1, 3 or 4 is the channels, else the smaller of both ends."""
    first, last = (shape[axis] in KINDS for axis in (0, -1))
    if first or last:
        return first and (torchs or not last)  # torch's way, where both would do
    if not torchs and shape[0] == shape[-1]:
        raise DataError(f"{what}: got shape {shape}, which may be (c, h, w) or (h, w, c)")
    return torchs or shape[0] < shape[-1]


def _whole_numbers(labels: Any, count: int, name: str) -> np.ndarray:
    values = labels.cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    values = values[:, 0] if values.shape == (count, 1) else values
    whole = values.shape == (count,) and values.dtype.kind in "iu"
    if not whole or values.min() < 0 or values.max() >= MOST_CLASSES:
        range_ = f" from {values.min()} to {values.max()}" if whole else ""
        got = f"{values.dtype} {values.shape}{range_}"
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
