"""What both likelihoods share: checks, batches, the network in full precision, and the result.

Images are uint8. The unit is bits per dimension of these grey levels, -log2 P(image) / (c h w), whatever the noise levels.
The network computes in its own type (float32, no autocast, no TensorFloat-32), everything around it in float64.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from unnoise.diffusion.denoiser import Denoiser, conditional
from unnoise.diffusion.levels import Level
from unnoise.diffusion.noise import derive_seed
from unnoise.diffusion.schedules import Schedule
from unnoise.errors import ConfigError, DataError
from unnoise.model import Model


@dataclass(frozen=True)
class Likelihood:
    """Bits per dimension of some images, float64 on the CPU, and how they were made."""

    bits: Float[Tensor, " n"]
    """Each image's; the lower, the likelier."""
    recipe: dict[str, Any]
    """All that is needed to make the same numbers again from the same model and images."""

    @property
    def mean(self) -> float:
        return float(self.bits.mean())

    @property
    def standard_error(self) -> float:
        """Of the mean over images, NaN for a single one; what is drawn per image (noise, probes) is part of it."""
        return float(self.bits.std()) / len(self.bits) ** 0.5 if len(self.bits) > 1 else math.nan

    def parts(self) -> dict[str, float]:
        """What the mean consists of, in bits/dim."""
        return {}

    def describe(self) -> dict[str, Any]:
        """The numbers and the recipe, ready for JSON."""
        error = None if len(self.bits) < 2 else self.standard_error
        return {"bits_per_dim": self.mean, "standard_error": error, **self.parts(), **self.recipe}


class Batch(NamedTuple):
    """Some images as the maths takes them."""

    x0: Float[Tensor, "b c h w"]
    """float64 in [-1, 1]."""
    denoiser: Denoiser
    """The network for these images' labels, in float64."""
    seeds: Sequence[int]


def batches(
    model: Model, images: Tensor, labels: Tensor | None, seed: int, batch_size: int
) -> Iterator[Batch]:
    """Batches of checked images; image i has seed + i for a seed, whatever its batch."""
    where = model.arithmetic.device
    where = torch.device("cpu") if where.type == "mps" else where  # Apple's GPUs have no float64
    diffusion = dataclasses.replace(model.diffusion, network=Precise(model.network))
    for start in range(0, len(images), batch_size):
        rows = slice(start, min(start + batch_size, len(images)))
        label = None if labels is None else labels[rows].to(where)
        x0 = images[rows].to(where).double() / 127.5 - 1
        yield Batch(x0, conditional(diffusion, label), range(seed + rows.start, seed + rows.stop))


class Precise(nn.Module):
    """A network in its own type and on its own device, for images of any type, anywhere."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None = None) -> Tensor:
        like = next(self.network.parameters(), x)
        return self.network(
            x.to(like), time.to(like.device), None if label is None else label.to(like.device)
        ).to(x)


def check(
    model: Model,
    images: Tensor | np.ndarray,
    labels: Tensor | np.ndarray | Sequence[int] | None,
    batch_size: int,
) -> tuple[UInt8[Tensor, "n c h w"], Tensor | None]:
    """Images and labels as tensors that suit the model; DataError or ConfigError where they do not."""
    images = torch.from_numpy(np.array(images)) if isinstance(images, np.ndarray) else images
    shape = model.shape
    expected = f"expected uint8 (n, {shape.channels}, {shape.height}, {shape.width}), as the model was trained on"
    if images.dtype != torch.uint8 or tuple(images.shape[1:]) != (
        shape.channels,
        shape.height,
        shape.width,
    ):
        got = f"{str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}"
        raise DataError(f"likelihood: images are {got}; {expected}")
    if len(images) == 0:
        raise DataError("likelihood: got 0 images, expected 1 or more (2 for a standard error)")
    if batch_size < 1:
        raise ConfigError(f"likelihood: got batch_size {batch_size}, expected 1 or more")
    return images, _labels(model, len(images), labels)


def _labels(
    model: Model, count: int, labels: Tensor | np.ndarray | Sequence[int] | None
) -> Tensor | None:
    classes = model.shape.num_classes
    if labels is None:
        if classes:
            raise ConfigError(
                f"likelihood: this model has {classes} classes; expected a label (0 to {classes - 1}) for each image, "
                f"or {classes} for the likelihood without labels"
            )
        return None
    if not classes:
        raise ConfigError(
            "likelihood: got labels, but this model was trained without them; leave them out"
        )
    labels = torch.as_tensor(labels)
    if labels.shape != (count,) or labels.is_floating_point():
        kind = str(labels.dtype).removeprefix("torch.")
        raise DataError(
            f"likelihood: labels are {kind} {tuple(labels.shape)}, expected integers ({count},)"
        )
    wrong = labels[(labels < 0) | (labels > classes)]
    if len(wrong):
        raise DataError(
            f"likelihood: got label {int(wrong[0])}, expected 0 to {classes - 1}, or {classes} for none"
        )
    return labels.long()


def image_shape(images: Tensor) -> tuple[int, int, int]:
    """(c, h, w) of (n, c, h, w)."""
    return images.shape[1], images.shape[2], images.shape[3]


def prior_variance(schedule: Schedule, level: Level) -> float:
    """Of x_t at the first level: 1 on the variance-preserving schedules, as in DDPM; sigma^2 for edm and flow."""
    return 1.0 if schedule.steps is not None else float(level.sigma) ** 2


def generators(seeds: Sequence[int], name: str) -> list[torch.Generator]:
    """One for each image, for one use of randomness."""
    return [torch.Generator().manual_seed(derive_seed(seed, name)) for seed in seeds]


def recipe(model: Model, labels: Tensor | None, count: int, seed: int) -> dict[str, Any]:
    """What both likelihoods say of the model, the images and the randomness."""
    diffusion = model.config.diffusion
    kind = (
        "none"
        if labels is None
        else "null"
        if bool((labels == model.shape.num_classes).all())
        else "given"
    )
    return {
        "model": model.weights_hash,
        "schedule": diffusion.schedule,
        "timesteps": model.diffusion.schedule.steps,
        "parameterization": diffusion.parameterization,
        "num_images": count,
        "seeds": [seed, seed + count - 1],
        "labels": kind,
        "guidance_scale": 1.0,
        "network_dtype": str(next(model.network.parameters(), torch.empty(0)).dtype).removeprefix(
            "torch."
        ),
    }
