"""Editing with one's own model: pictures in, pictures out, uint8 (n, c, h, w).

    inpaint(model, picture, unknown)        paint some pixels anew, keep the others exactly
    outpaint(model, picture, extend)        a larger picture around this one
    image_to_image(model, picture, 0.6)     noise a picture to a strength and denoise it
    interpolate(model, a, b, frames)        the way between two pictures or two seeds
    plane(model, corners, points)           points of the square between four seeds
    reconstruct(model, picture)             the noise that makes this picture, and what it makes
    variations(model, a, 0.3)               neighbours of a picture or a seed
    morph(model, a, "3", "8", frames)       one noise, from class to class

A picture is uint8 (c, h, w) of the model's size (`read_picture` makes one from any file). A source
`a` is a picture or a seed. `label` is a class number or name; without one the model is asked for
no class. `settings` are as in `Model.sample`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor
from torch.nn.functional import pad

from unnoise import build
from unnoise.config import SampleConfig, override
from unnoise.data.fit import KINDS, Target, target
from unnoise.data.folder import read_picture as read_fitted
from unnoise.data.images import from_model, to_model
from unnoise.diffusion import editing
from unnoise.diffusion.denoiser import Denoiser, thresholded
from unnoise.diffusion.gaussian import diffuse
from unnoise.diffusion.guidance import mixture
from unnoise.diffusion.levels import Level
from unnoise.diffusion.noise import Noise
from unnoise.diffusion.samplers import stochastic
from unnoise.errors import ConfigError, DataError
from unnoise.memory import in_batches
from unnoise.model import SAMPLE_BATCH, Model, last
from unnoise.ranges import Few, Frames, Share, Strength
from unnoise.reading import typed
from unnoise.settings import image_seeds

INVERSION = {
    "sampler": "ddim",
    "steps": 50,
    "spacing": "log_snr",
    "guidance_scale": 1.0,
    "clip_x0": False,
}
"""The default settings for inverting and decoding: guidance and clipping have no inverse."""

Label: TypeAlias = int | str | None
Source: TypeAlias = int | Tensor
Mask = Bool[Tensor, "h w"]
Picture = UInt8[Tensor, "c h w"]
Pictures = UInt8[Tensor, "n c h w"]


def read_picture(model: Model, path: str | Path) -> Picture:
    """Read a file as the training pictures were, of as many channels; RGBA is premultiplied."""
    if (channels := model.shape.channels) not in KINDS:
        raise DataError(f"{path}: no picture file holds {channels} channels; expected a seed")
    return torch.from_numpy(read_fitted(path, _wanted(model, channels)))


def read_mask(model: Model, path: str | Path) -> Mask:
    """Read a mask, fitted like a picture: True where it is white, which is painted anew."""
    mask = torch.from_numpy(read_fitted(path, _wanted(model, 1, background="black")))[0] > 127
    if not mask.any() or mask.all():
        color = "white" if mask.all() else "black"
        raise DataError(f"{path}: the mask is all {color}; expected white where to paint")
    return mask


def _wanted(model: Model, channels: int, **changes: Any) -> Target:
    """How the training pictures were fitted; random crops give way to the middle."""
    data, shape = model.config.data, model.shape
    changes |= {"fit": "crop", "crops": 1} if data.fit == "random-crop" else {}
    size = {"image_size": shape.height, "image_width": shape.width, "channels": channels}
    return target(override(data, {**size, **changes}, "data."))


def box_mask(model: Model, box: Sequence[int]) -> Mask:
    """True inside a box of x, y, width, height in pixels of the model's pictures."""
    height, width = model.shape.height, model.shape.width
    x, y, w, h = box
    if min(x, y) < 0 or min(w, h) < 1 or x + w > width or y + h > height:
        expected = f"x,y,width,height within {width} x {height} pixels"
        raise ConfigError(f"box: got {x},{y},{w},{h}, expected {expected}")
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[y : y + h, x : x + w] = True
    return mask


def inpaint(
    model: Model,
    picture: Picture,
    unknown: Mask,
    seeds: Sequence[int] = range(8),
    label: Label = None,
    resample: int = 1,
    **settings: Any,
) -> Pictures:
    """Paint the pixels anew where `unknown` is True and keep the others; one version per seed.

    Above 1, `resample` walks each part of the way that many times with the ancestral sampler
    (RePaint, Lugmayr et al. 2022): what is painted fits what is known better, and costs more.
    """
    _check_picture(model, picture)
    _check_mask(model, unknown)
    edit = _Edit(model, label, painting_settings(model, resample, settings))

    def paint(part: list[int]) -> Tensor:
        pictures = picture.expand(len(part), -1, -1, -1)
        return edit.paint(pictures, unknown, model.noise(part), resample)

    return _versions(seeds, paint)


def outpaint(
    model: Model,
    picture: Picture,
    extend: Sequence[int],
    seeds: Sequence[int] = range(8),
    label: Label = None,
    resample: int = 1,
    **settings: Any,
) -> UInt8[Tensor, "n c H W"]:
    """Continue the picture by `extend` = left, top, right, bottom pixels, one version per seed.

    The canvas is painted window by window, outwards from the picture, each of the model's size and
    half known; `resample` as in `inpaint`.
    """
    _check_picture(model, picture)
    left, top, right, bottom = extend
    if min(extend) < 0 or max(extend) == 0:
        got = ",".join(map(str, extend))
        raise ConfigError(f"extend: got {got}, expected left,top,right,bottom pixels, 0 or more")
    edit = _Edit(model, label, painting_settings(model, resample, settings))
    _, h, w = picture.shape
    sides = (left, right, top, bottom)

    def paint(part: list[int]) -> Tensor:
        canvas = pad(picture, sides).repeat(len(part), 1, 1, 1)
        known, noise = pad(torch.ones(h, w, dtype=torch.bool), sides), model.noise(part)
        for y, x in editing.windows(known.shape, (h, w), (top, left)):
            window = slice(y, y + h), slice(x, x + w)
            if not known[window].all():
                painted = edit.paint(canvas[:, :, *window], ~known[window], noise, resample)
                canvas[:, :, *window] = painted
                known[window] = True
        return canvas

    return _versions(seeds, paint)


def image_to_image(
    model: Model,
    picture: Picture,
    strength: float,
    seeds: Sequence[int] = range(8),
    label: Label = None,
    **settings: Any,
) -> Pictures:
    """Noise the picture to a share `strength` in (0, 1] of the steps and denoise it (SDEdit)."""
    _check_picture(model, picture)
    strength = typed(Strength, strength, "strength")
    edit = _Edit(model, label, model.settings(**settings))
    grid = editing.last_part(edit.grid, strength)
    x0 = to_model(picture.to(model.arithmetic.device))

    def denoise(part: list[int]) -> Tensor:
        noise = model.noise(part)
        start = diffuse(x0.expand(len(part), *x0.shape), noise.normal(), grid[0])
        return edit.finish(edit.denoiser(len(part)), noise, start, grid)

    return _versions(seeds, denoise)


def reconstruct(
    model: Model, picture: Picture, label: Label = None, iterations: int = 3, **settings: Any
) -> tuple[Tensor, Picture]:
    """Find the noisiest state x (c, h, w) from which DDIM makes this picture, and what it makes."""
    _check_picture(model, picture)
    edit = _inverting(model, label, (picture,), settings)
    start = edit.latent(picture, iterations)
    return start[0].cpu(), edit.decode(start)[0]


def interpolate(
    model: Model, a: Source, b: Source, frames: int = 9, label: Label = None, **settings: Any
) -> Pictures:
    """Make `frames` pictures from a to b, by spherical interpolation of their noises."""
    edit = _inverting(model, label, (a, b), settings)
    first, second = (edit.latent(source)[0] for source in (a, b))
    shares = torch.linspace(0, 1, typed(Frames, frames, "frames")).tolist()
    return edit.decode(torch.stack([editing.slerp(first, second, share) for share in shares]))


def plane(
    model: Model,
    corners: Sequence[int],
    points: Sequence[Sequence[float]],
    label: Label = None,
    **settings: Any,
) -> Pictures:
    """Make pictures of points (right, down) in [0, 1] of the square between four seeds: up left, up
    right, down left, down right. Their noises are mixed spherically."""
    edit = _inverting(model, label, tuple(corners), settings)
    a, b, c, d = (edit.latent(seed)[0] for seed in corners)
    mix, places = editing.slerp, typed(tuple[tuple[Share, ...], ...], points, "points")
    return edit.decode(torch.stack([mix(mix(a, b, u), mix(c, d, u), v) for u, v in places]))


def variations(
    model: Model,
    a: Source,
    strength: float,
    seeds: Sequence[int] = range(8),
    label: Label = None,
    **settings: Any,
) -> Pictures:
    """Mix the noise z of a with another per seed: sqrt(1 - strength^2) z + strength z'."""
    strength = typed(Strength, strength, "strength")
    edit = _inverting(model, label, (a,), settings)
    other = edit.grid[0].sigma * model.noise(image_seeds(seeds)).normal()
    return edit.decode((1 - strength**2) ** 0.5 * edit.latent(a) + strength * other)


def morph(
    model: Model, a: Source, from_label: Label, to_label: Label, frames: int = 9, **settings: Any
) -> Pictures:
    """Make `frames` pictures from one noise, as the prediction moves from one class to another."""
    frames = typed(Frames, frames, "frames")
    if not model.shape.num_classes:
        raise ConfigError("morph: this model was trained without classes; expected one with labels")
    edit = _inverting(model, from_label, (a,), settings)
    start, chosen = edit.latent(a).expand(frames, -1, -1, -1), edit.chosen
    share, scale = torch.linspace(0, 1, frames), chosen.guidance_scale
    names, weights = [from_label, to_label], [(1 - share) * scale, share * scale]
    if scale != 1:
        names, weights = [*names, "none"], [*weights, torch.full_like(share, 1 - scale)]
    labels = [_labels(model, frames, name) for name in names]
    denoiser = mixture(model.fast, [v for v in labels if v is not None], weights)
    denoiser = thresholded(denoiser, chosen.clip_x0, chosen.dynamic_threshold)
    return edit.finish(denoiser, model.noise(range(frames)), start)


class _Edit:
    """What all edits are made of: a model asked for a class, with chosen settings."""

    def __init__(self, model: Model, label: Label, chosen: SampleConfig) -> None:
        self.model, self.label, self.chosen = model, label, chosen
        self.grid = model.grid(chosen)

    def denoiser(self, count: int) -> Denoiser:
        return self.model.denoiser(_labels(self.model, count, self.label), self.chosen)

    def finish(
        self, denoiser: Denoiser, noise: Noise, start: Tensor, grid: list[Level] | None = None
    ) -> Tensor:
        """The pictures at the end of a walk."""
        steps = self.model.walk(denoiser, grid or self.grid, noise, self.chosen, start)
        return from_model(last(steps).x.cpu())

    def paint(self, pictures: Tensor, unknown: Tensor, noise: Noise, resample: int) -> Tensor:
        """Paint where `unknown` is True."""
        device = self.model.arithmetic.device
        first, grid = noise.normal(), editing.zigzag(self.grid, resample)
        known = to_model(pictures.to(device))
        draw = noise.normal if stochastic(self.chosen.sampler) else lambda: first
        mask = unknown.to(device)[None, None]
        denoiser = editing.inpaint(self.denoiser(len(pictures)), known, mask, draw)
        return self.finish(denoiser, noise, grid[0].sigma * first, grid)

    def latent(self, source: Source, iterations: int = 3) -> Tensor:
        """The state (1, c, h, w) at the grid's first level that stands for a seed or a picture."""
        if not isinstance(source, Tensor):
            (seed,) = image_seeds([source])
            return self.grid[0].sigma * self.model.noise([seed]).normal()
        iterations = typed(Few, iterations, "iterations")
        _check_picture(self.model, source)
        x0 = to_model(source[None].to(self.model.arithmetic.device))
        steps = editing.invert(self.denoiser(1), x0, self.grid, iterations)
        return last(self.model.compute(steps)).x

    def decode(self, start: Tensor) -> Tensor:
        """The pictures that these states become."""

        def made(rows: slice) -> Tensor:
            noise = self.model.noise(range(rows.stop - rows.start))
            return self.finish(self.denoiser(rows.stop - rows.start), noise, start[rows])

        return torch.cat(list(in_batches(len(start), SAMPLE_BATCH, made)))


def painting_settings(model: Model, resample: int, settings: Mapping[str, Any]) -> SampleConfig:
    """The settings with which `inpaint` and `outpaint` sample: above 1, `resample` is ancestral."""
    ancestral = {"sampler": "ddpm", "eta": 0.0} if typed(Few, resample, "resample") > 1 else {}
    return model.settings(**{**settings, **ancestral})


def _inverting(
    model: Model, label: Label, sources: Sequence[Source], settings: dict[str, Any]
) -> _Edit:
    """An edit with the model's own settings for seeds, those of INVERSION for pictures."""
    pictures = any(isinstance(source, Tensor) for source in sources)
    chosen = model.settings(**({**INVERSION, **settings} if pictures else settings))
    edit = _Edit(model, label, chosen)
    options = build.sampler_options(chosen, model.diffusion, edit.grid)
    if stochastic(chosen.sampler, edit.grid, options):
        raise ConfigError(
            f"sample.sampler: {chosen.sampler!r}, eta {chosen.eta:g}, churn {chosen.churn:g}: "
            "this edit needs one without noise on the way, such as ddim with eta 0"
        )
    return edit


def _labels(model: Model, count: int, label: Label) -> Tensor | None:
    """The label of each picture."""
    return model.labels(range(count), "no class" if label is None else label)


def _versions(seeds: Sequence[int], make: Callable[[list[int]], Tensor]) -> Tensor:
    """One picture for each seed, made a batch at a time."""
    seeds = image_seeds(seeds)
    return torch.cat(list(in_batches(len(seeds), SAMPLE_BATCH, lambda rows: make(seeds[rows]))))


def _check_picture(model: Model, picture: Tensor) -> None:
    wanted = (model.shape.channels, model.shape.height, model.shape.width)
    if (got := _kind(picture)) != (expected := f"torch.uint8 of shape {wanted}"):
        raise ConfigError(f"picture: got {got}, expected {expected}; read_picture makes one")


def _check_mask(model: Model, unknown: Tensor) -> None:
    expected = f"torch.bool of shape {(model.shape.height, model.shape.width)}"
    if (got := _kind(unknown)) != expected or not unknown.any():
        what = got if got != expected else "no pixel"
        raise ConfigError(f"unknown: got {what}, expected {expected}, True where to paint")


def _kind(value: object) -> str:
    """What a message says of a tensor, or of what is none."""
    is_one = isinstance(value, Tensor)
    return f"{value.dtype} of shape {tuple(value.shape)}" if is_one else type(value).__name__
