"""Pixels and the numbers a network sees; grids; PNGs that carry their recipe.

Tensors of 4 channels are RGBA with premultiplied colours, as in data/fit.py.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from unnoise.data.dataset import ImageData
from unnoise.data.fit import KINDS
from unnoise.errors import DataError, DivergedError
from unnoise.files import replacing

MARK = b"made by unnoise"
"""What animations carry, so that they do not count as pictures of the user's."""
GRID_HEIGHT = 64
"""Tiny images are enlarged by a whole factor to at most this many pixels in a grid."""

CHECK, CHECK_GREYS = 8, (196, 172)
"""Side and greys of the squares behind transparent pixels in a grid; white and black stand out."""


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


def straight(premultiplied: np.ndarray) -> np.ndarray:
    """RGBA (h, w, 4) as a file holds it: colours are divided by alpha and end at 255.

    Premultiplied again they are what they were, where none was larger than alpha.
    """
    colours, alpha = np.split(premultiplied.astype(np.int32), [3], axis=2)
    divided = (255 * colours + alpha // 2) // np.maximum(alpha, 1) * (alpha > 0)
    return np.concatenate([divided.clip(max=255), alpha], 2).astype(np.uint8)


def opaque(images: Tensor, background: int | Tensor = 255) -> Tensor:
    """RGBA (n, 4, h, w), uint8, composited on a background; other images as they are."""
    if images.shape[1] != 4:
        return images
    colours, alpha = images[:, :3].int(), images[:, 3:].int()
    behind = ((255 - alpha) * background + 127) // 255
    return (colours + behind).clamp(max=255).to(torch.uint8)


def to_pil(image: Tensor) -> Image.Image:
    """uint8 (c, h, w), c = 1, 3 or 4, as a picture."""
    if image.shape[0] not in KINDS:
        raise DataError(f"picture: got {image.shape[0]} channels, expected 1, 3 or 4 (or a grid)")
    array = image.cpu().permute(1, 2, 0).numpy()
    array = straight(array) if array.shape[-1] == 4 else array
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def grid(
    images: Tensor, columns: int | None = None, padding: int = 2, scale: int | None = None
) -> Image.Image:
    """Images (n, c, h, w) on white; unless told, near square, and scaled to about 64 pixels high.

    They are uint8, or floats from 0 to 1. RGBA is shown on a chequered ground; 2 channels, or more
    than 4, one below the other.
    """
    try:
        images = images if isinstance(images, Tensor) else torch.as_tensor(np.stack([*images]))
    except (TypeError, ValueError) as error:
        raise DataError(f"grid: got {type(images).__name__}, expected images") from error
    if images.ndim != 4 or not images.numel():
        raise DataError(f"grid: got shape {tuple(images.shape)}, expected (n, c, h, w)")
    if images.is_floating_point() and images.min() > -0.001 and images.max() < 1.001:
        images = (images.clamp(0, 1) * 255).round().to(torch.uint8)
    if images.dtype != torch.uint8:
        got = f"{images.dtype} from {float(images.min()):g} to {float(images.max()):g}"
        raise DataError(f"grid: got {got}, expected uint8, or floats from 0 to 1")
    scale = scale or max(1, GRID_HEIGHT // images.shape[2])
    large = _coloured(images.cpu().repeat_interleave(scale, 2).repeat_interleave(scale, 3))
    n, c, h, w = large.shape
    columns = columns or math.ceil(n**0.5)
    rows = math.ceil(n / columns)
    height, width = h + padding, w + padding
    size = (c, rows * height + padding, columns * width + padding)
    sheet = torch.full(size, 255, dtype=torch.uint8)
    for i, image in enumerate(large):
        top, left = i // columns * height + padding, i % columns * width + padding
        sheet[:, top : top + h, left : left + w] = image
    return to_pil(sheet)


def _coloured(images: Tensor) -> Tensor:
    """Images of any number of channels as grey or RGB."""
    n, c, h, w = images.shape
    if c not in KINDS:
        return images.reshape(n, 1, c * h, w)
    rows, columns = torch.arange(h)[:, None] // CHECK, torch.arange(w) // CHECK
    return opaque(images, torch.where((rows + columns) % 2 == 0, *CHECK_GREYS))


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


def save_sample(path: Path, image: Tensor, text: Mapping[str, str]) -> None:
    """Write a PNG; or where that cannot hold the channels (`ending`) an .npz of image and texts."""
    if path.suffix == ".png":
        return save_png(path, image, text)
    with replacing(path, durable=False) as file:
        np.savez(file, **{"image": image.cpu().numpy(), **text})


def ending(channels: int) -> str:
    """The suffix of a file of one sample."""
    return ".png" if channels in KINDS else ".npz"


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
    """The pixels of a PNG that unnoise wrote, or of save_sample's .npz: uint8 (c, h, w)."""
    if Path(path).suffix == ".npz":
        with np.load(path) as file:
            return torch.from_numpy(file["image"])
    with Image.open(path) as picture:
        array = np.array(picture.convert("RGBa") if picture.mode == "RGBA" else picture)
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())


def read_png_text(path: Path | str) -> dict[str, str]:
    """The texts of a PNG or of save_sample's .npz; DataError where it is none."""
    try:
        if str(path).lower().endswith(".npz"):
            with np.load(path) as file:
                return {key: str(file[key]) for key in file if file[key].dtype.kind == "U"}
        with warnings.catch_warnings(), Image.open(path, formats=("PNG",)) as picture:
            warnings.simplefilter("ignore")  # of its size: its pixels are not decoded
            return {str(k): v for k, v in picture.info.items() if isinstance(v, str)}
    except Exception as error:  # whatever a stranger's file makes Pillow raise
        raise DataError(f"{path}: cannot be read as a picture ({error})") from error
