"""Pictures in and out of the page: PNGs with their recipe, and pictures that a user drops."""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from unnoise.data.images import class_grid, ending, read_png_text, save_png, save_sample
from unnoise.errors import DataError
from unnoise.files import parse_json
from unnoise.model import Model
from unnoise.studio.jobs import Job
from unnoise.studio.works import read_upload, uploaded

Made = tuple[bytes, str]
"""The content of a file, and its name."""


def one(job: Job, index: int) -> Made:
    """One picture, as `unnoise sample` writes it."""
    seed, labels = job.plan.seeds[index], job.plan.labels
    label = {} if labels is None else {"label": labels[index]}
    text = {**job.header["recipe"], "seed": seed, **label}
    image, name = job.pictures[index], f"seed-{seed:06d}{ending(len(job.pictures[index]))}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        save_sample(path, image, {"unnoise": json.dumps(text)})
        return path.read_bytes(), name


def sheet(job: Job) -> Made:
    """All pictures, as `unnoise sample` shows them."""
    labels = None if job.plan.labels is None else torch.tensor(job.plan.labels)
    picture = class_grid(job.pictures, labels, job.model.names, job.plan.seeds)
    text = {**job.header["recipe"], "seeds": job.plan.seeds, "label": job.header.get("label")}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "grid.png"
        save_png(path, picture, {"unnoise": json.dumps(text)})
        return path.read_bytes(), "grid.png"


def recipe_of(picture: Any) -> dict[str, Any]:
    """What an uploaded picture says of itself; DataError where unnoise did not make it."""
    if not isinstance(picture, str):
        raise DataError("picture: expected a PNG as base64")
    found: dict[str, str] = {}

    def read(path: Path) -> torch.Tensor:
        found.update(read_png_text(path))
        return torch.empty(0)

    uploaded(picture, read)
    if "unnoise" not in found:
        raise DataError("picture: has no recipe; expected a PNG that unnoise made")
    return parse_json(found["unnoise"], "picture")


def fitted(model: Model, picture: Any) -> dict[str, Any]:
    """An uploaded picture as the model would see it: its shape (c, h, w) and pixels as base64."""
    if not isinstance(picture, str):
        raise DataError("picture: expected a picture file as base64")
    image = read_upload(model, picture)
    return {
        "shape": list(image.shape),
        "pixels": base64.b64encode(image.numpy().tobytes()).decode(),
    }
