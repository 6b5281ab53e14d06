"""Pixels and the numbers a network sees; grids with words; PNGs that carry their recipe.

Tensors of 4 channels are RGBA with premultiplied colours, as in data/fit.py.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from torch import Tensor

from unnoise.data.dataset import ImageData
from unnoise.data.fit import KINDS
from unnoise.errors import DataError, DivergedError, one_line
from unnoise.files import replacing

Picture: TypeAlias = Image.Image
MARK = b"made by unnoise"
"""What animations carry, so that they do not count as pictures of the user's."""
IMAGE, SHEET, CLASSES, REST_MS = 64, 256, 12, 1200
"""A grid's images have about IMAGE pixels a side and itself SHEET; so many classes have columns."""
FONTS = ("Arial Unicode.ttf", "NotoSansCJK-Regular.ttc", "msyh.ttc", "DejaVuSans.ttf", "arial.ttf")
"""A system's fonts, those with most letters first: Pillow's own has English alone."""

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
    images: Tensor,
    columns: int | None = None,
    padding: int = 2,
    scale: int | None = None,
    labels: Sequence[str] = (),
    rows: Sequence[str] = (),
) -> Picture:
    """Images (n, c, h, w) on white, uint8 or floats from 0 to 1; unless told, near
    square, and enlarged so that an image has about 64 pixels a side and the whole at least 256.

    `labels` are words, one below each image, or fewer above the columns, which share them equally;
    `rows` are words on the left of the rows. Words that are too long are shortened: at the end, or
    where they then look alike, before the place in which they differ.
    RGBA stands on a chequered ground; 2 channels, or more than 4, one below the other.
    """
    images = _pixels(images)
    n, c, h, w = images.shape
    if c not in KINDS:
        images, c, h = images.reshape(n, 1, c * h, w), 1, c * h
    columns = columns or math.ceil(n**0.5)
    count, each = math.ceil(n / columns), len(labels) == n
    if labels and not each and columns % len(labels):
        raise DataError(f"grid: got {len(labels)} labels, expected one for each image or column")
    per = columns // len(labels) if labels and not each else 1  # columns below a label
    scale = scale or math.ceil(max(IMAGE / (h * w) ** 0.5, SHEET / max(columns * w, count * h)))
    large = _coloured(images.repeat_interleave(scale, 2).repeat_interleave(scale, 3))
    c, h, w = large.shape[1:]
    size = min(max(w // 6, 13), 18)
    (wide, high), (left, least) = _measure(labels, size), _measure(rows, size)
    width, height = max(w, min(wide, 7 * size) // per), max(h, least)
    right, down = width + padding, height + padding + each * high
    left, top = left + padding, padding + (not each) * high
    shape = left + columns * right, top + count * down
    sheet = Image.new("L" if c == 1 else "RGB", shape, "white")
    for i, picture in enumerate(map(to_pil, large)):
        x, y = left + i % columns * right, top + i // columns * down
        place = (x + (width - w) // 2, y + (height - h) // 2)
        sheet.paste(picture, place)
    for i, word in enumerate(_told_apart(labels, size, per * right)):
        x = left + i * per % columns * right + per * right // 2
        y = top + i // columns * down + height if each else 0
        _write(sheet, word, size, (x, y), per * right)
    for i, word in enumerate(rows):
        y = top + i * down + (height - _measure([word], size)[1]) // 2
        _write(sheet, word, size, (left // 2, y), left)
    return sheet


def _pixels(images: Tensor) -> Tensor:
    """Images that a user gives as uint8 (n, c, h, w) on the CPU, or a DataError."""
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
    return images.cpu()


def class_grid(
    images: Tensor,
    labels: Tensor | None,
    names: Sequence[str],
    seeds: Sequence[int] = (),
    scale: int | None = None,
) -> Picture:
    """A grid of uint8 images with a column for each class, or several, below the class's name.

    `labels` number the images' `names`; None is a plain grid. With very many classes the name is
    below each image. A row shows the first of its `seeds`.
    """
    n, classes = len(images), [] if labels is None else [int(label) for label in labels]
    columns, order, words = math.ceil(n**0.5), list(range(n)), [names[i] for i in classes]
    groups = {kind: [i for i in order if classes[i] == kind] for kind in sorted(set(classes))}
    if 0 < len(groups) <= CLASSES:
        per = max(1, round(n**0.5 / len(groups)))  # columns of a class
        depth = math.ceil(max(map(len, groups.values())) / per)
        cells = [group + [n] * (per * depth - len(group)) for group in groups.values()]  # n: blank
        order = [i for row in range(depth) for cell in cells for i in cell[row * per :][:per]]
        columns, words = per * len(groups), [names[kind] for kind in groups]
    sheet = torch.cat([images, images.new_full((1, *images.shape[1:]), 255)])[order]
    firsts = [min(order[i : i + columns]) for i in range(0, len(order) if seeds else 0, columns)]
    rows = [f"seed {seeds[i]}" + " .." * (columns > 1) for i in firsts]
    return grid(sheet, columns, scale=scale, labels=[one_line(word) for word in words], rows=rows)


def _measure(words: Sequence[str], size: int) -> tuple[int, int]:
    """The width and the height that the largest of some words needs, which may have lines."""
    lines = [line for word in words for line in word.split("\n")]
    width = max((_font(size, line).getlength(line) for line in lines), default=-size / 2)
    height = size * 4 // 3 * max((word.count("\n") + 1 for word in words), default=0)
    return math.ceil(width + size / 2), height


def _write(sheet: Picture, word: str, size: int, top: tuple[int, int], most: int) -> None:
    """Write lines below a point, in their middle; one that is wider than `most` is shortened."""
    for i, line in enumerate(word.split("\n")):
        place = top[0], top[1] + size * 4 // 3 * i
        font = _font(size, line)
        ImageDraw.Draw(sheet).text(place, _shortened(line, size, most), "black", font, "ma")


def _told_apart(words: Sequence[str], size: int, most: int) -> list[str]:
    """Words whose lines are no wider than `most`, and differ where the whole ones do."""
    lines = dict.fromkeys(line for word in words for line in word.split("\n"))
    short = {line: _shortened(line, size, most) for line in lines}
    for line in (line for line in lines if short[line] != line):
        pairs = ([line, other] for other in lines if other != line)
        same = (line[: len(os.path.commonprefix(pair))] for pair in pairs)  # noqa: RUF071
        alike = [part for part in same if len(part) >= len(short[line]) - 3]
        for part in sorted(alike, key=len):  # from the word in which they differ, if it is one
            start = part.rfind(" ") if " " in part else len(part)
            short[line] = _shortened(line, size, most, start)
            if not short[line].endswith("…"):
                break
    return ["\n".join(short[line] for line in word.split("\n")) for word in words]


def _shortened(line: str, size: int, most: int, start: int = 0) -> str:
    """A line that is no wider than `most`, without what is before `start` or at its end."""
    font, text = _font(size, line), line[:100]
    for head in range(min(start, 100) if start else 0, 0, -1):
        text = f"{line[:head]}…{line[start:][:100]}"
        if font.getlength(text) <= most - 4:
            return text
    text = f"…{line[start:][:100]}" if start else text
    while font.getlength(text) > most - 4 and len(text) > 1:
        text = text[:-2] + "…"
    return text


def _font(size: int, line: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font for a line in English, shortened or not; a system's for others."""
    return _loaded(size, line.replace("…", "").isascii())


@cache
def _loaded(size: int, english: bool) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    for name in () if english else FONTS:
        with suppress(OSError):
            return ImageFont.truetype(name, size)
    return ImageFont.load_default(size)


def _coloured(images: Tensor) -> Tensor:
    """RGBA on a chequered ground; others as they are."""
    h, w = images.shape[2:]
    rows, columns = torch.arange(h)[:, None] // CHECK, torch.arange(w) // CHECK
    return opaque(images, torch.where((rows + columns) % 2 == 0, *CHECK_GREYS))


def mosaic(data: ImageData, count: int = 100, seed: int = 0) -> Image.Image:
    """A grid of random training images."""
    random = np.random.Generator(np.random.Philox(key=seed))
    rows = np.sort(random.permutation(data.num_train)[:count])
    return grid(torch.from_numpy(np.array(data.images[rows])))


def png(image: Image.Image | Tensor, text: Mapping[str, str]) -> bytes:
    """A picture as a PNG with text chunks."""
    chunks, file = PngImagePlugin.PngInfo(), io.BytesIO()
    for key, value in text.items():
        chunks.add_itxt(key, value)
    picture = to_pil(image) if isinstance(image, Tensor) else image
    picture.save(file, "PNG", pnginfo=chunks)
    return file.getvalue()


def save_png(path: Path | str, image: Image.Image | Tensor, text: Mapping[str, str]) -> None:
    """Write a picture with text chunks, whole or not at all."""
    content = png(image, text)
    with replacing(Path(path), durable=False) as file:
        file.write_bytes(content)


def save_sample(path: Path, image: Tensor, text: Mapping[str, str]) -> None:
    """Write a PNG; or where that cannot hold the channels (`ending`) an .npz of image and texts."""
    if path.suffix == ".png":
        return save_png(path, image, text)
    with replacing(path, durable=False) as file:
        np.savez(file, **{"image": image.cpu().numpy(), **text})


def ending(channels: int) -> str:
    """The suffix of a file of one sample."""
    return ".png" if channels in KINDS else ".npz"


def save_animation(path: Path | str, frames: Sequence[Picture], frame_ms: int) -> None:
    """Write an endless GIF or (lossless) WebP, by the suffix: there, a rest, back, a rest."""
    if Path(path).suffix != ".webp":  # Pillow's own choice of 256 colours is much paler
        frames = [f if f.mode == "L" else f.quantize(256, kmeans=5000) for f in frames]
    last, frames = len(frames) - 1, [*frames, *frames[-2:0:-1]]
    durations = [frame_ms] * len(frames)
    durations[0] = durations[last] = REST_MS
    options = {"save_all": True, "append_images": frames[1:], "duration": durations, "loop": 0}
    webp = {"format": "WEBP", "lossless": True, "xmp": MARK}
    kind = webp if Path(path).suffix == ".webp" else {"format": "GIF", "comment": MARK}
    with replacing(Path(path), durable=False) as file:
        frames[0].save(file, **kind, **options)


def side_by_side(pictures: Sequence[Picture], gap: int = 8, titles: Sequence[str] = ()) -> Picture:
    """Pictures in a row, on white, below titles that are no wider."""
    width, height = sum(p.width + gap for p in pictures) - gap, max(p.height for p in pictures)
    left, top = 0, _measure(titles, 15)[1]
    sheet = Image.new(pictures[0].mode, (width, top + height), "white")
    for picture, title in zip(pictures, titles or [""] * len(pictures), strict=True):
        sheet.paste(picture, (left, top))
        _write(sheet, title, 15, (left + picture.width // 2, 0), picture.width)
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
