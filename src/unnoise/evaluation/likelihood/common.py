"""What both likelihoods share: checks, batches, the network in full precision, and the result.

Images are uint8. The unit is bits per dimension of these grey levels, -log2 P(image) / (c h w),
whatever the noise levels. The network computes in its own type (float32, no autocast, no
TensorFloat-32), everything around it in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from unnoise.diffusion.denoiser import Denoiser, conditional
from unnoise.diffusion.levels import Level
from unnoise.diffusion.noise import Noise, derive_seed
from unnoise.diffusion.schedules import Schedule
from unnoise.errors import ConfigError, DataError
from unnoise.model import Model


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
        """Standard error of the mean over images, with what is drawn per image (noise, probes)."""
        return float(self.bits.std()) / len(self.bits) ** 0.5 if len(self.bits) > 1 else None

    def describe(self) -> dict[str, Any]:
        """The numbers and the recipe, ready for JSON."""
        numbers = {"bits_per_dim": self.mean, "standard_error": self.standard_error}
        return {**numbers, **self.parts, **self.recipe}


class Portion(NamedTuple):
    """Some of the images as the maths takes them."""

    x0: Float[Tensor, "b c h w"]
    """float64 in [-1, 1]."""
    denoiser: Denoiser
    """The network for these images' labels, in float64."""
    seeds: range

    def noise(self, use: str = "") -> Noise:
        """The images' own random numbers, for one use of them."""
        seeds = [derive_seed(seed, use) for seed in self.seeds] if use else self.seeds
        _, c, h, w = self.x0.shape
        return Noise(seeds, (c, h, w), self.x0.device)

    def uniform(self, use: str, *shape: int) -> Tensor:
        """The images' own numbers in [0, 1), float64 (b, *shape) on the CPU."""
        generators = [torch.Generator().manual_seed(derive_seed(seed, use)) for seed in self.seeds]
        draws = [torch.rand(shape, generator=g, dtype=torch.float64) for g in generators]
        return torch.stack(draws)


@dataclass(frozen=True)
class Work:
    """The images whose likelihood is asked for; image i has seed + i for a seed."""

    model: Model
    images: UInt8[Tensor, "n c h w"]
    labels: Tensor | None
    seed: int
    batch_size: int

    @property
    def count(self) -> int:
        """Number of portions."""
        return -(-len(self.images) // self.batch_size)

    def first(self, count: int) -> Work:
        """The first images, in one portion."""
        labels = None if self.labels is None else self.labels[:count]
        return replace(self, images=self.images[:count], labels=labels, batch_size=count)

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
        """What both likelihoods say of the model, the images and the randomness."""
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
        raise ConfigError(
            f"likelihood: got no labels; {expected}, or {classes} for the likelihood without labels"
        )
    if labels is not None and not classes:
        raise ConfigError("likelihood: got labels; expected none: the model was trained without")
    if labels is not None:
        labels = torch.as_tensor(labels)
        whole = labels.shape == (len(images),) and not labels.is_floating_point()
        if not whole or bool(((labels < 0) | (labels > classes)).any()):
            expected = f"expected whole numbers ({len(images)},) from 0 to {classes}"
            numbers = f" from {labels.min()} to {labels.max()}" if labels.numel() else ""
            raise DataError(f"likelihood: labels are {_kind(labels)}{numbers}; {expected}")
        labels = labels.long()
    return Work(model, images, labels, seed, batch_size)


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def prior_variance(schedule: Schedule, level: Level) -> float:
    """Variance of x_t at the first level: 1 on the variance-preserving schedules, else sigma^2."""
    return 1.0 if schedule.steps is not None else float(level.sigma) ** 2
