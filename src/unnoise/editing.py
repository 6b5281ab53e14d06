"""Editing with one's own model: pictures in, pictures out, uint8 (n, c, h, w).

    inpaint(model, picture, unknown)        paint some pixels anew, keep the others exactly
    outpaint(model, picture, extend)        a larger picture around this one
    image_to_image(model, picture, 0.6)     noise a picture to a strength and denoise it
    interpolate(model, a, b, frames)        the way between two pictures or two seeds
    reconstruct(model, picture)             the noise that makes this picture, and what it makes
    variations(model, a, 0.3)               neighbours of a picture or a seed
    morph(model, a, "3", "8", frames)       one noise, from class to class

A picture is uint8 (c, h, w) of the model's size (`read_picture` makes one from any file). A source `a` is a picture or a
seed. `label` is a class number or name; without one the model is asked for no class. `settings` are as in `Model.sample`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from unnoise import build
from unnoise.config import SampleConfig
from unnoise.data.fit import Target
from unnoise.data.folder import read_picture as read_fitted
from unnoise.data.images import from_model, to_model
from unnoise.diffusion import editing
from unnoise.diffusion.denoiser import thresholded
from unnoise.diffusion.gaussian import diffuse
from unnoise.diffusion.guidance import mixture
from unnoise.diffusion.noise import Noise
from unnoise.diffusion.samplers import stochastic
from unnoise.errors import ConfigError, DataError
from unnoise.model import SAMPLE_BATCH, Model, last

INVERSION = {
    "sampler": "ddim",
    "steps": 50,
    "spacing": "log_snr",
    "guidance_scale": 1.0,
    "clip_x0": False,
}
"""How pictures are inverted and decoded unless told otherwise: guidance and clipping have no inverse."""

Label = int | str | None


def read_picture(model: Model, path: str | Path) -> UInt8[Tensor, "c h w"]:
    """A picture file made as the model's training pictures were: upright, cropped, resized, RGB or grey."""
    shape = model.shape
    wanted = Target(shape.height, shape.width, shape.channels, model.config.data.background)
    return torch.from_numpy(read_fitted(path, wanted).copy())


def read_mask(model: Model, path: str | Path) -> Bool[Tensor, "h w"]:
    """A mask file, fitted like a picture: True where it is white, which is what is painted anew."""
    wanted = Target(model.shape.height, model.shape.width, 1, "black")
    mask = torch.from_numpy(read_fitted(path, wanted).copy())[0] > 127
    if not mask.any() or mask.all():
        raise DataError(
            f"{path}: the mask is all {'white' if mask.all() else 'black'}; expected white where to paint"
        )
    return mask


def box_mask(model: Model, box: Sequence[int]) -> Bool[Tensor, "h w"]:
    """True inside a box of x, y, width, height in pixels of the model's pictures."""
    height, width = model.shape.height, model.shape.width
    x, y, w, h = box
    if min(x, y) < 0 or min(w, h) < 1 or x + w > width or y + h > height:
        raise ConfigError(
            f"box: got {x},{y},{w},{h}, expected x,y,width,height within {width} x {height} pixels"
        )
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[y : y + h, x : x + w] = True
    return mask


def inpaint(
    model: Model,
    picture: UInt8[Tensor, "c h w"],
    unknown: Bool[Tensor, "h w"],
    seeds: Sequence[int] = range(8),
    label: Label = None,
    resample: int = 1,
    **settings: Any,
) -> UInt8[Tensor, "n c h w"]:
    """The picture with new pixels where `unknown` is True, one version per seed; the others come out bit for bit.

    Above 1, `resample` walks each part of the way so many times with the ancestral sampler (RePaint, Lugmayr et al. 2022): what is
    painted then fits what is known better, for as many times the evaluations.
    """
    _fits(model, picture)
    chosen = _painter(model, resample, settings)
    parts = []
    for part in _batches(seeds):
        pictures = picture.expand(len(part), *picture.shape)
        noise, labels = model.noise(part), _labels(model, part, label)
        parts.append(_inpaint(model, pictures, unknown, noise, labels, chosen, resample))
    return torch.cat(parts)


def _painter(model: Model, resample: int, settings: dict[str, Any]) -> SampleConfig:
    _count("resample", resample)
    return model.settings(
        **({**settings, "sampler": "ddpm", "eta": 0.0} if resample > 1 else settings)
    )


def _inpaint(
    model: Model,
    pictures: Tensor,
    unknown: Tensor,
    noise: Noise,
    labels: Tensor | None,
    chosen: SampleConfig,
    resample: int,
) -> Tensor:
    where = model.arithmetic.device
    first, grid = noise.normal(), editing.zigzag(model.grid(chosen), resample)
    known = to_model(pictures.to(where))
    draw = noise.normal if stochastic(chosen.sampler) else lambda: first
    denoiser = editing.inpaint(
        model.denoiser(labels, chosen), known, unknown.to(where)[None, None], draw
    )
    x = last(model.walk(denoiser, grid, noise, chosen, grid[0].sigma * first)).x
    return from_model(x.cpu())


def outpaint(
    model: Model,
    picture: UInt8[Tensor, "c h w"],
    extend: Sequence[int],
    seeds: Sequence[int] = range(8),
    label: Label = None,
    resample: int = 1,
    **settings: Any,
) -> UInt8[Tensor, "n c H W"]:
    """The picture continued by `extend` = left, top, right, bottom pixels, one version per seed.

    The canvas is painted window by window, outwards from the picture, each of the model's size and half known; `resample` as in
    `inpaint`.
    """
    _fits(model, picture)
    left, top, right, bottom = extend
    if min(extend) < 0 or max(extend) == 0:
        raise ConfigError(
            f"extend: got {','.join(map(str, extend))}, expected left,top,right,bottom pixels, 0 or more"
        )
    chosen = _painter(model, resample, settings)
    (c, h, w), parts = picture.shape, []
    for part in _batches(seeds):
        canvas = torch.zeros(len(part), c, h + top + bottom, w + left + right, dtype=torch.uint8)
        known = torch.zeros(canvas.shape[-2:], dtype=torch.bool)
        canvas[..., top : top + h, left : left + w] = picture
        known[top : top + h, left : left + w] = True
        noise, labels = model.noise(part), _labels(model, part, label)
        for y, x in _windows(known.shape, (h, w), (top, left)):
            window = slice(y, y + h), slice(x, x + w)
            if known[window].all():
                continue
            canvas[:, :, *window] = _inpaint(
                model, canvas[:, :, *window], ~known[window], noise, labels, chosen, resample
            )
            known[window] = True
        parts.append(canvas)
    return torch.cat(parts)


def _windows(
    canvas: Sequence[int], window: tuple[int, int], start: tuple[int, int]
) -> list[tuple[int, int]]:
    """Corners of windows that cover a canvas in half steps from `start`, the nearest first."""
    rows, columns = (
        {min(max(first + i * max(size // 2, 1), 0), whole - size) for i in range(-whole, whole + 1)}
        for whole, size, first in zip(canvas, window, start, strict=True)
    )
    corners = [(y, x) for y in rows for x in columns]
    return sorted(corners, key=lambda at: (abs(at[0] - start[0]) + abs(at[1] - start[1]), at))


def image_to_image(
    model: Model,
    picture: UInt8[Tensor, "c h w"],
    strength: float,
    seeds: Sequence[int] = range(8),
    label: Label = None,
    **settings: Any,
) -> UInt8[Tensor, "n c h w"]:
    """The picture noised to a share `strength` in (0, 1] of the sampler's steps and denoised from there."""  # SDEdit
    _fits(model, picture)
    _share("strength", strength)
    chosen = model.settings(**settings)
    grid = model.grid(chosen)
    steps = max(1, round(strength * (len(grid) - 1)))
    grid = grid[-steps - 1 :]
    x0, parts = to_model(picture.to(model.arithmetic.device)), []
    for part in _batches(seeds):
        noise = model.noise(part)
        start = diffuse(x0.expand(len(part), *x0.shape), noise.normal(), grid[0])
        denoiser = model.denoiser(_labels(model, part, label), chosen)
        parts.append(from_model(last(model.walk(denoiser, grid, noise, chosen, start)).x.cpu()))
    return torch.cat(parts)


def reconstruct(
    model: Model,
    picture: UInt8[Tensor, "c h w"],
    label: Label = None,
    iterations: int = 3,
    **settings: Any,
) -> tuple[Tensor, UInt8[Tensor, "c h w"]]:
    """The state x (c, h, w) at the noisiest level from which DDIM makes this picture, and the picture made from it."""
    chosen = _deterministic(model, {**INVERSION, **settings})
    start = _latent(model, picture, label, chosen, iterations)
    return start[0].cpu(), _decode(model, start, label, chosen)[0]


def interpolate(
    model: Model,
    a: int | Tensor,
    b: int | Tensor,
    frames: int = 9,
    label: Label = None,
    **settings: Any,
) -> UInt8[Tensor, "n c h w"]:
    """`frames` pictures from a to b, by spherical interpolation of their noises."""
    _count("frames", frames)
    chosen = _source_settings(model, (a, b), settings)
    first, second = (_latent(model, source, label, chosen)[0] for source in (a, b))
    shares = torch.linspace(0, 1, frames).tolist()
    return _decode(
        model, torch.stack([editing.slerp(first, second, share) for share in shares]), label, chosen
    )


def variations(
    model: Model,
    a: int | Tensor,
    strength: float,
    seeds: Sequence[int] = range(8),
    label: Label = None,
    **settings: Any,
) -> UInt8[Tensor, "n c h w"]:
    """Neighbours of a: its noise z mixed with another per seed, sqrt(1 - strength^2) z + strength z'."""
    _share("strength", strength)
    chosen = _source_settings(model, (a,), settings)
    start, sigma = _latent(model, a, label, chosen), model.grid(chosen)[0].sigma
    other = sigma * model.noise(seeds).normal()
    return _decode(model, (1 - strength**2) ** 0.5 * start + strength * other, label, chosen)


def morph(
    model: Model,
    a: int | Tensor,
    from_label: Label,
    to_label: Label,
    frames: int = 9,
    **settings: Any,
) -> UInt8[Tensor, "n c h w"]:
    """`frames` pictures from one noise, the prediction moving from one class to another."""
    _count("frames", frames)
    if not model.shape.num_classes:
        raise ConfigError("morph: this model was trained without classes; expected one with labels")
    chosen = _source_settings(model, (a,), settings)
    start = _latent(model, a, from_label, chosen).expand(frames, -1, -1, -1)
    first, second, null = (
        _labels(model, range(frames), name) for name in (from_label, to_label, "none")
    )
    share, scale = torch.linspace(0, 1, frames), chosen.guidance_scale
    labels, weights = [first, second], [(1 - share) * scale, share * scale]
    if scale != 1:
        labels, weights = [*labels, null], [*weights, torch.full_like(share, 1 - scale)]
    denoiser = mixture(model.fast(chosen), [v for v in labels if v is not None], weights)
    grid = model.grid(chosen)
    denoiser = thresholded(denoiser, chosen.clip_x0, chosen.dynamic_threshold)
    steps = model.walk(denoiser, grid, model.noise(range(frames)), chosen, start)
    return from_model(last(steps).x.cpu())


def _source_settings(
    model: Model, sources: Sequence[int | Tensor], settings: dict[str, Any]
) -> SampleConfig:
    """The model's own settings for seeds; those that have an inverse where a picture is among the sources."""
    pictures = any(isinstance(source, Tensor) for source in sources)
    return _deterministic(model, {**INVERSION, **settings} if pictures else settings)


def _deterministic(model: Model, settings: dict[str, Any]) -> SampleConfig:
    chosen = model.settings(**settings)
    grid = model.grid(chosen)
    if stochastic(chosen.sampler, grid, build.sampler_options(chosen, model.diffusion, grid)):
        raise ConfigError(
            f"sample.sampler: got {chosen.sampler!r} with eta {chosen.eta:g} and churn {chosen.churn:g}; this edit needs "
            "one without noise on the way, such as ddim with eta 0"
        )
    return chosen


def _latent(
    model: Model, source: int | Tensor, label: Label, chosen: SampleConfig, iterations: int = 3
) -> Tensor:
    """(1, c, h, w), the state at the grid's first level that stands for a seed or a picture."""
    grid = model.grid(chosen)
    if isinstance(source, int):
        return grid[0].sigma * model.noise([source]).normal()
    _count("iterations", iterations)
    _fits(model, source)
    x0 = to_model(source[None].to(model.arithmetic.device))
    denoiser = model.denoiser(_labels(model, [0], label), chosen)
    return last(model.compute(editing.invert(denoiser, x0, grid, iterations))).x


def _decode(model: Model, start: Tensor, label: Label, chosen: SampleConfig) -> Tensor:
    parts: list[Tensor] = []
    for x in start.split(SAMPLE_BATCH):
        seeds = range(len(x))
        denoiser = model.denoiser(_labels(model, seeds, label), chosen)
        parts.append(
            from_model(
                last(
                    model.walk(denoiser, model.grid(chosen), model.noise(seeds), chosen, x)
                ).x.cpu()
            )
        )
    return torch.cat(parts)


def _labels(model: Model, seeds: Sequence[int], label: Label) -> Tensor | None:
    """A label for every image; no class unless one is given."""
    return model.labels(seeds, "none" if label is None else label)


def _batches(seeds: Sequence[int]) -> Iterator[list[int]]:
    everything = list(seeds)
    _count("seeds", len(everything))
    for start in range(0, len(everything), SAMPLE_BATCH):
        yield everything[start : start + SAMPLE_BATCH]


def _fits(model: Model, picture: Tensor) -> None:
    wanted = (model.shape.channels, model.shape.height, model.shape.width)
    if tuple(picture.shape) != wanted or picture.dtype != torch.uint8:
        raise ConfigError(
            f"picture: got {picture.dtype} of shape {tuple(picture.shape)}, expected uint8 of {wanted}; "
            "read_picture makes one from a file"
        )


def _share(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ConfigError(f"{name}: got {value:g}, expected more than 0, at most 1")


def _count(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{name}: got {value}, expected 1 or more")
