"""Pixels and the numbers a network sees; grids; PNGs that carry their recipe."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from unnoise.data.dataset import ImageData
from unnoise.errors import DataError, DivergedError
from unnoise.files import replacing

Picture: TypeAlias = Image.Image
"""A Pillow picture."""

MARK = b"made by unnoise"
"""What animations carry, so that they do not count as pictures of the user's."""
GRID_HEIGHT = 64
"""Tiny images are enlarged by a whole factor to at most this many pixels in a grid."""


def to_model(images: Tensor) -> Tensor:
    """uint8 0..255 -> float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def from_model(images: Tensor) -> Tensor:
    """Floats in [-1, 1] -> uint8, rounded and clamped; DivergedError for what is not finite."""
    images = images.float()
    if not images.isfinite().all():
        fix = "expected another checkpoint, less guidance, other settings or --device cpu"
        raise DivergedError(f"pictures: got values that are not finite; {fix}")
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def to_pil(image: Tensor) -> Image.Image:
    """uint8 (c, h, w), c = 1 or 3, as a picture."""
    array = image.cpu().permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def grid(
    images: Tensor, columns: int | None = None, padding: int = 2, scale: int | None = None
) -> Image.Image:
    """Images (n, c, h, w) on white; unless told, near square, and scaled to about 64 pixels high.

    They are uint8, or floats from 0 to 1.
    """
    try:
        images = images if isinstance(images, Tensor) else torch.as_tensor(np.stack([*images]))
    except (TypeError, ValueError) as error:
        raise DataError(f"grid: got {type(images).__name__}, expected images") from error
    if images.ndim != 4 or not images.numel() or images.shape[1] not in (1, 3):
        raise DataError(f"grid: got shape {tuple(images.shape)}, expected (n, c, h, w), c 1 or 3")
    if images.is_floating_point() and images.min() > -0.001 and images.max() < 1.001:
        images = (images.clamp(0, 1) * 255).round().to(torch.uint8)
    if images.dtype != torch.uint8:
        got = f"{images.dtype} from {float(images.min()):g} to {float(images.max()):g}"
        raise DataError(f"grid: got {got}, expected uint8, or floats from 0 to 1")
    n, c, h, w = images.shape
    scale = scale or max(1, GRID_HEIGHT // h)
    columns = columns or math.ceil(n**0.5)
    rows = math.ceil(n / columns)
    height, width = h * scale + padding, w * scale + padding
    size = (c, rows * height + padding, columns * width + padding)
    sheet = torch.full(size, 255, dtype=torch.uint8)
    large = images.cpu().repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    for i, image in enumerate(large):
        top, left = i // columns * height + padding, i % columns * width + padding
        sheet[:, top : top + h * scale, left : left + w * scale] = image
    return to_pil(sheet)


def mosaic(data: ImageData, count: int = 100, seed: int = 0) -> Image.Image:
    """A grid of random training images."""
    random = np.random.Generator(np.random.Philox(key=seed))
    rows = np.sort(random.permutation(data.num_train)[:count])
    return grid(torch.from_numpy(np.array(data.images[rows])))


def save_png(path: Path | str, image: Image.Image | Tensor, text: Mapping[str, str]) -> None:
    """Write a picture with text chunks, whole or not at all."""
    chunks = PngImagePlugin.PngInfo()
    for key, value in text.items():
        chunks.add_itxt(key, value)
    picture = to_pil(image) if isinstance(image, Tensor) else image
    with replacing(Path(path), durable=False) as file:
        picture.save(file, "PNG", pnginfo=chunks)


def save_animation(
    path: Path | str, frames: Sequence[Image.Image], frame_ms: int, last_ms: int
) -> None:
    """Write an endless GIF or (lossless) WebP, by the suffix, that rests on its last frame."""
    durations = [frame_ms] * (len(frames) - 1) + [last_ms]
    options = {"save_all": True, "append_images": frames[1:], "duration": durations, "loop": 0}
    webp = {"format": "WEBP", "lossless": True, "xmp": MARK}
    kind = webp if Path(path).suffix == ".webp" else {"format": "GIF", "comment": MARK}
    with replacing(Path(path), durable=False) as file:
        frames[0].save(file, **kind, **options)


def side_by_side(pictures: Sequence[Image.Image], gap: int = 8) -> Image.Image:
    """Pictures of one height in a row, on white."""
    width = sum(picture.width + gap for picture in pictures) - gap
    sheet = Image.new(pictures[0].mode, (width, max(p.height for p in pictures)), "white")
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width + gap
    return sheet


def read_png(path: Path | str) -> Tensor:
    """The pixels of a PNG that unnoise wrote: uint8 (c, h, w)."""
    with Image.open(path) as picture:
        array = np.array(picture)
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())


def read_png_text(path: Path | str) -> dict[str, str]:
    """The text chunks of a PNG; DataError where it is none."""
    try:
        with warnings.catch_warnings(), Image.open(path, formats=("PNG",)) as picture:
            warnings.simplefilter("ignore")  # of its size: its pixels are not decoded
            return {str(k): v for k, v in picture.info.items() if isinstance(v, str)}
    except Exception as error:  # whatever a stranger's file makes Pillow raise
        raise DataError(f"{path}: cannot be read as a picture ({error})") from error
