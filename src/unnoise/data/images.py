from __future__ import annotations

import math
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo


def to_model(x):
    return x.float() / 127.5 - 1


def from_model(x):
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def grid(images, columns=None, padding=2, scale=1):
    n, c, h, w = images.shape
    images = images.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    h *= scale
    w *= scale
    columns = columns or math.ceil(n**0.5)
    rows = -(-n // columns)
    out = torch.full((c, rows * (h + padding) + padding, columns * (w + padding) + padding), 255, dtype=torch.uint8)
    for i in range(n):
        r, k = divmod(i, columns)
        out[
            :,
            padding + r * (h + padding) : padding + r * (h + padding) + h,
            padding + k * (w + padding) : padding + k * (w + padding) + w,
        ] = images[i]
    return to_pil(out)


def to_pil(x):
    a = x.permute(1, 2, 0).numpy()
    return Image.fromarray(a[..., 0] if a.shape[-1] == 1 else a)


def save_png(path, image, text):
    info = PngInfo()
    for k, v in text.items():
        info.add_text(k, v)
    image = to_pil(image) if isinstance(image, torch.Tensor) else image
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    image.save(path, pnginfo=info)


def read_png_text(path):
    return dict(Image.open(path).info)


def mosaic(data, count=64, seed=0):
    return grid(torch.from_numpy(data.images[:count].copy()), scale=4)
