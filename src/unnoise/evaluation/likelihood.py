"""Bits per dimension of images by the variational bound of ancestral sampling.

    bits_per_dim(model, images, labels).describe()
    bits_per_dim(model, images, labels, steps=400, terms=50)

It is an upper bound, conditional on the labels and without guidance. Images are uint8, and the unit
is bits per dimension of these grey levels, -log2 P(image) / (c h w), whatever the noise levels. The
network computes in its own type (float32, no autocast, no TensorFloat-32), everything around it in
float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from unnoise import build, events
from unnoise.diffusion import grids
from unnoise.diffusion.denoiser import clip_x0, conditional
from unnoise.diffusion.gaussian import VARIANCES
from unnoise.errors import ConfigError, DataError
from unnoise.evaluation import bound
from unnoise.evaluation.bound import Chain, Portion
from unnoise.model import Model
from unnoise.precision import full_precision
from unnoise.reading import from_dict

CONTINUOUS_STEPS = 1000


@dataclass(frozen=True)
class BoundSettings:
    """Which bound, and how much of it."""

    steps: int | None = None
    """Levels of the grid; None = all of a discrete schedule, 1000 of a continuous one."""
    spacing: str | None = None
    """Spacing of the levels; None = uniform (Improved DDPM's respacing), log_snr if continuous."""
    variance: str | None = None
    """small, large or learned; None = the model's own."""
    clip_x0: bool = True
    """Clamp the predicted image to [-1, 1]."""
    terms: int | None = None
    """Estimate the sum without bias from L_0 and drawn terms, N per image; None = all."""


@dataclass(frozen=True)
class Likelihood:
    """Bits per dimension of some images, float64 on the CPU, and how they were made."""

    bits: Float[Tensor, " n"]
    """Each image's; the lower, the likelier."""
    parts: dict[str, float]
    """What the mean consists of, in bits/dim."""
    recipe: dict[str, Any]
    """All that is needed to make the same numbers again from the same model and images."""

    @property
    def mean(self) -> float:
        return float(self.bits.mean())

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean over images, with the noise drawn for each."""
        return float(self.bits.std()) / len(self.bits) ** 0.5 if len(self.bits) > 1 else None

    def describe(self) -> dict[str, Any]:
        """The numbers and the recipe, ready for JSON."""
        numbers = {"bits_per_dim": self.mean, "standard_error": self.standard_error}
        return {**numbers, **self.parts, **self.recipe}


@dataclass(frozen=True)
class Work:
    """The images whose likelihood is asked for; image i has seed + i for a seed."""

    model: Model
    images: UInt8[Tensor, "n c h w"]
    labels: Tensor | None
    seed: int
    batch_size: int

    def portions(self) -> Iterator[Portion]:
        """The images, `batch_size` at a time."""
        where = self.model.arithmetic.device
        where = torch.device("cpu") if where.type == "mps" else where  # it has no float64
        network = Precise(self.model.network)
        diffusion = replace(self.model.diffusion, network=network)
        for start in range(0, len(self.images), self.batch_size):
            stop = min(start + self.batch_size, len(self.images))
            label = None if self.labels is None else self.labels[start:stop].to(where)
            x0 = self.images[start:stop].to(where).double() / 127.5 - 1
            seeds = range(self.seed + start, self.seed + stop)
            yield Portion(x0, conditional(diffusion, label), seeds)

    def recipe(self) -> dict[str, Any]:
        """What the result says of the model, the images and the randomness."""
        model, diffusion, labels = self.model, self.model.config.diffusion, self.labels
        null = labels is not None and bool((labels == model.shape.num_classes).all())
        dtype = next(model.network.parameters(), torch.empty(0)).dtype
        return {
            "model": model.weights_hash,
            "schedule": diffusion.schedule,
            "timesteps": model.diffusion.schedule.steps,
            "parameterization": diffusion.parameterization,
            "num_images": len(self.images),
            "seeds": [self.seed, self.seed + len(self.images) - 1],
            "labels": "none" if labels is None else "null" if null else "given",
            "guidance_scale": 1.0,
            "network_dtype": str(dtype).removeprefix("torch."),
        }


class Precise(nn.Module):
    """A network in its own type and on its own device, for images of any type, anywhere."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None = None) -> Tensor:
        like = next(self.network.parameters(), x)
        label = None if label is None else label.to(like.device)
        return self.network(x.to(like), time.to(like.device), label).to(x)


def bits_per_dim(
    model: Model,
    images: Tensor | np.ndarray,
    labels: Tensor | np.ndarray | Sequence[int] | None = None,
    *,
    seed: int = 0,
    batch_size: int = 64,
    **settings: Any,
) -> Likelihood:
    """Bits/dim of uint8 (n, c, h, w) images; `settings` are fields of BoundSettings.

    Image i's randomness is that of seed + i.
    """
    work = checked(model, images, labels, seed, batch_size)
    return variational_bound(work, from_dict(BoundSettings, settings, "bound."))


def variational_bound(work: Work, settings: BoundSettings) -> Likelihood:
    """The bound for each image, in bits/dim."""
    schedule = work.model.diffusion.schedule
    chain, spacing = make_chain(work.model, settings)
    num_pairs = len(chain.grid) - 1
    count = num_pairs if settings.terms is None else settings.terms
    if not 2 <= count <= num_pairs:
        raise ConfigError(f"bound.terms: got {count}, expected 2 to {num_pairs}, which there are")
    prior_variance = bound.prior_variance(schedule, chain.grid[0])
    found, priors = [], []
    portions = -(-len(work.images) // work.batch_size)
    counter = events.Counter("bound", count * portions, "term")
    with torch.inference_mode(), full_precision():
        for part in work.portions():
            part = part._replace(denoiser=clip_x0(part.denoiser)) if settings.clip_x0 else part
            draw = part.noise.normal
            if settings.terms is None:
                terms = bound.all_terms(part.denoiser, part.x0, chain, draw, counter.step)
            else:
                terms = bound.drawn_terms(part, chain, draw, count, counter.step)
            found.append(terms.cpu())
            priors.append(bound.prior(part.x0, chain.grid[0], prior_variance).cpu())
    recipe = {
        "method": "variational bound",
        **work.recipe(),
        **asdict(settings),
        "steps": num_pairs,
        "spacing": spacing,
        "variance": chain.variance,
        "prior_variance": prior_variance,
        "decoder_variance": chain.decoder,
    }
    first, terms = torch.cat(priors), torch.cat(found)
    last, total = float(terms[:, -1].mean()), float(terms.sum(1).mean())
    parts = {"prior": float(first.mean()), "middle": total - last, "decoder": last}
    return Likelihood(first + terms.sum(1), parts, recipe)


def make_chain(model: Model, settings: BoundSettings) -> tuple[Chain, str]:
    """The reverse process of some settings and its spacing; ConfigError where there is none."""
    schedule, variance = model.diffusion.schedule, settings.variance or model.diffusion.variance
    build.lookup(dict.fromkeys(VARIANCES), variance, "bound.variance")
    if variance == "learned" and model.diffusion.variance != "learned":
        raise ConfigError("bound.variance: this model has learned none; expected small or large")
    steps = (schedule.steps or CONTINUOUS_STEPS) if settings.steps is None else settings.steps
    if steps < 2:
        raise ConfigError(f"bound.steps: got {steps}, expected 2 or more")
    spacing = settings.spacing or ("log_snr" if schedule.steps is None else "uniform")
    build.lookup(grids.SPACINGS, spacing, "bound.spacing")
    try:
        grid = grids.make(schedule, steps, spacing)
    except ValueError as error:
        raise ConfigError(f"bound.{error}") from error
    return Chain(grid, variance, bound.decoder_variance(schedule, grid)), spacing


def checked(
    model: Model,
    images: Tensor | np.ndarray,
    labels: Tensor | np.ndarray | Sequence[int] | None,
    seed: int,
    batch_size: int,
) -> Work:
    """Images and labels as tensors that suit the model; DataError or ConfigError for others."""
    images = torch.from_numpy(np.array(images)) if isinstance(images, np.ndarray) else images
    shape, classes = model.shape, model.shape.num_classes
    size = (shape.channels, shape.height, shape.width)
    if images.dtype != torch.uint8 or tuple(images.shape[1:]) != size or not len(images):
        expected = f"expected uint8 (1 or more, {', '.join(map(str, size))}), as in training"
        raise DataError(f"likelihood: images are {_kind(images)}; {expected}")
    if batch_size < 1:
        raise ConfigError(f"likelihood: got batch_size {batch_size}, expected 1 or more")
    if classes and labels is None:
        expected = f"expected a label (0 to {classes - 1}) for each image"
        or_none = f", or {classes} for the likelihood without labels" if shape.null_label else ""
        raise ConfigError(f"likelihood: got no labels; {expected}{or_none}")
    if labels is not None and not classes:
        raise ConfigError("likelihood: got labels; expected none: the model was trained without")
    if labels is not None:
        labels = torch.as_tensor(labels)
        whole = labels.shape == (len(images),) and not labels.is_floating_point()
        if not whole or bool(((labels < 0) | (labels >= shape.labels)).any()):
            expected = f"expected whole numbers ({len(images)},) from 0 to {shape.labels - 1}"
            numbers = f" from {labels.min()} to {labels.max()}" if labels.numel() else ""
            raise DataError(f"likelihood: labels are {_kind(labels)}{numbers}; {expected}")
        labels = labels.long()
    return Work(model, images, labels, seed, batch_size)


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
