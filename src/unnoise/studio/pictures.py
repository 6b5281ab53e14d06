"""Pictures in and out of the page: PNGs with their recipe, and pictures that a user drops."""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import math
import threading
from pathlib import Path
from typing import Any

import torch

from unnoise.data import cifar10
from unnoise.data.cache import root
from unnoise.data.config import DataConfig
from unnoise.data.dataset import ImageData, load
from unnoise.data.images import class_grid, png, read_png_text
from unnoise.errors import DataError
from unnoise.evaluation.neighbours import nearest
from unnoise.files import parse_json
from unnoise.model import Model
from unnoise.studio.jobs import Job
from unnoise.studio.recipes import recipe_of_one
from unnoise.studio.works import read_upload, uploaded

NEAREST = 5
ONE_AT_A_TIME = threading.Lock()
"""Data sets may be large: one is kept, and read by one thread."""
Made = tuple[bytes, str]
"""The content of a file, and its name."""


def one(job: Job, index: int) -> Made:
    """One picture, as `unnoise sample` writes it."""
    labels = job.header["labels"]
    text = recipe_of_one(job.header["recipe"], index, None if labels is None else labels[index])
    name = f"seed-{text['seed']:06d}.png" if "seed" in text else f"{job.header['kind']}.png"
    return png(job.pictures[index], {"unnoise": json.dumps(text)}), name


def sheet(job: Job) -> Made:
    """All pictures, as `unnoise sample` shows them."""
    labels = job.header["labels"]
    labels = None if labels is None else torch.tensor(labels)
    seeds = job.header["recipe"].get("seeds", ())
    picture = class_grid(job.pictures, labels, job.names, seeds)
    return png(picture, {"unnoise": json.dumps(job.header["recipe"])}), "grid.png"


def nearest_training(job: Job, index: int) -> dict[str, Any]:
    """The NEAREST training pictures of one picture, by pixels: shape, base64, RMS differences."""
    image = job.pictures[index]
    with ONE_AT_A_TIME:
        data = training_data(job.data)
        distances, rows, _ = nearest(
            [(image.flatten()[None], data.images.reshape(len(data.images), -1)[: data.num_train])],
            min(NEAREST, data.num_train),
        )
    found = data.images[rows[0].numpy()]
    return {
        "shape": list(found.shape),
        "pixels": base64.b64encode(found.tobytes()).decode(),
        "differences": [round(d / image.numel() ** 0.5, 2) for d in distances[0].tolist()],
        "of": data.num_train,
    }


@functools.lru_cache(1)
def training_data(config: DataConfig) -> ImageData:
    """The pictures that a model was trained on, where they are on this machine."""
    archive = root(config) / "downloads" / cifar10.ARCHIVE
    absent = config.source == "cifar10" and config.path is None and not archive.exists()
    absent |= config.source.startswith("hf:") or (config.source == "mnist" and config.path is None)
    if absent or not config.source:
        fix = f"`unnoise data {config.source}` gets them" if config.source else "use its run folder"
        raise DataError(f"nearest: the training pictures of this model are not here; {fix}")
    return load(config)


def recipe_of(picture: Any) -> dict[str, Any]:
    """What an uploaded picture says of itself; DataError where unnoise did not make it."""
    found: dict[str, str] = {}

    def read(path: Path) -> torch.Tensor:
        found.update(read_png_text(path))
        return torch.empty(0)

    uploaded(_text(picture), read)
    if "unnoise" not in found:
        raise DataError("picture: has no recipe; expected a PNG that unnoise made")
    return parse_json(found["unnoise"], "picture")


def fitted(model: Model, picture: Any, pixels: Any = None) -> dict[str, Any]:
    """A picture file, or the `pixels` of a picture of the model's, as the model sees it.

    Gives its shape (c, h, w), and as base64 its pixels and a PNG that holds exactly these: colours
    that a model made brighter than their alpha end at it.
    """
    image = read_upload(model, _text(picture)) if pixels is None else _of_pixels(model, pixels)
    return {
        "shape": list(image.shape),
        "pixels": base64.b64encode(image.numpy().tobytes()).decode(),
        "file": base64.b64encode(png(image, {})).decode(),
    }


def _of_pixels(model: Model, pixels: Any) -> torch.Tensor:
    shape = (model.shape.channels, model.shape.height, model.shape.width)
    with contextlib.suppress(TypeError, ValueError):
        values = base64.b64decode(pixels, validate=True)
        if len(values) == math.prod(shape):
            image = torch.frombuffer(bytearray(values), dtype=torch.uint8).reshape(shape)
            return image.minimum(image[3:]) if len(image) == 4 else image
    raise DataError(f"pixels: expected base64 of {math.prod(shape)} bytes, of shape {shape}")


def _text(picture: Any) -> str:
    if not isinstance(picture, str):
        raise DataError("picture: expected a picture file as base64")
    return picture
