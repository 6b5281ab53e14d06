"""What the page can ask a model for. Each kind is a dataclass, read from JSON by type and range.

`prepare` checks everything against the model, which is quick, and gives the work itself: a function
of the model that makes the pictures, uint8 (n, c, h, w). Imports torch.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import torch
from torch import Tensor

from unnoise import editing
from unnoise.config import SampleConfig, to_dict
from unnoise.data.images import from_model
from unnoise.diffusion.denoiser import Prediction
from unnoise.diffusion.editing import slerp, zigzag
from unnoise.diffusion.levels import Level
from unnoise.diffusion.samplers.step import Step
from unnoise.errors import ConfigError, DataError
from unnoise.model import Model, last
from unnoise.ranges import Few, Positive, Range, Seed, Share
from unnoise.reading import from_dict
from unnoise.settings import image_seeds

MOST_IMAGES = 64
MOST_WORK = 64 * 256 * 3 * 128**2
"""Images x steps x values of an image."""

Num = Annotated[int, Range(least=1, most=MOST_IMAGES)]
Make: TypeAlias = Callable[[Model], Tensor]


@dataclass(frozen=True)
class Plan:
    """A work that was checked."""

    make: Make
    chosen: SampleConfig
    seeds: list[int]
    labels: list[int] | None
    steps: int
    """Number of steps of the whole walk."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every kind takes."""

    model: str
    """The id of a model."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Changes of the model's SampleConfig."""
    label: Any = None
    """As in Model.sample."""

    def chosen(self, model: Model, changes: Mapping[str, Any] | None = None) -> SampleConfig:
        """The settings, if they can be used with the model."""
        changes = self.settings if changes is None else changes
        from_dict(SampleConfig, changes, "sample.")
        chosen = model.settings(**changes)
        model.grid(chosen)
        return chosen

    def prepare(self, model: Model) -> Plan:
        """Check the work against a model."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Branch:
    """Other settings from a step on."""

    step: Annotated[int, Range(least=1, most=1000)]
    """The number of steps of the walk before that are kept."""
    settings: dict[str, Any] = field(default_factory=dict)
    label: Any = None


@dataclass(frozen=True, kw_only=True)
class Sample(Work):
    """Pictures of seeds."""

    num: Num = 16
    seed: Seed = 0
    seeds: tuple[Seed, ...] | None = None
    """In place of seed and num."""
    branches: tuple[Branch, ...] = ()

    def prepare(self, model: Model) -> Plan:
        seeds = _seeds(self.seeds, self.seed, self.num)
        chosen, labels = self.chosen(model), model.labels(seeds, self.label)
        grid, done = model.grid(chosen), 0
        steps = len(grid) - 1
        parts: list[tuple[Any, Mapping[str, Any]]] = [(self.label, self.settings)]
        for branch in self.branches:
            if not done < branch.step < steps:
                expected = f"more than {done} and less than {steps}"
                raise ConfigError(f"branches.step: got {branch.step}, expected {expected}")
            chosen, labels = self.chosen(model, branch.settings), model.labels(seeds, branch.label)
            above = grid[branch.step - done]
            done = branch.step
            grid = [above, *(level for level in model.grid(chosen) if level.below(above))]
            steps = branch.step + len(grid) - 1
            parts.append((branch.label, branch.settings))
        ends = [*(branch.step for branch in self.branches), None]

        def make(watched: Model) -> Tensor:
            start, done = None, 0
            for (label, settings), end in zip(parts, ends, strict=True):
                walk = watched.steps(seeds, label, start=start, **settings)
                start = last(itertools.islice(walk, None if end is None else end - done))
                done = end or 0
            assert start is not None
            return from_model(start.x.cpu())

        return _plan(model, make, chosen, seeds, labels, steps)


@dataclass(frozen=True, kw_only=True)
class Walk(Work):
    """Pictures of points of the square between four seeds: up left and right, down left, right."""

    corners: tuple[Seed, ...]
    points: tuple[tuple[Share, ...], ...]

    def prepare(self, model: Model) -> Plan:
        if len(self.corners) != 4 or any(len(point) != 2 for point in self.points):
            raise ConfigError("corners, points: expected four seeds, and points of two numbers")
        if not 1 <= len(self.points) <= MOST_IMAGES:
            raise ConfigError(f"points: got {len(self.points)}, expected 1 to {MOST_IMAGES}")
        chosen, grid = self.chosen(model), model.grid(self.chosen(model))
        seeds = [0] * len(self.points)
        label = "no class" if self.label is None else self.label
        labels = model.labels(seeds, label)

        def make(watched: Model) -> Tensor:
            a, b, c, d = watched.noise(self.corners).normal()
            noise = [slerp(slerp(a, b, u), slerp(c, d, u), v) for u, v in self.points]
            x = grid[0].sigma * torch.stack(noise)
            start = Step(grid[0], x, Prediction(x, x))
            return from_model(
                last(watched.steps(seeds, label, start=start, **self.settings)).x.cpu()
            )

        return _plan(model, make, chosen, seeds, labels, len(grid) - 1)


@dataclass(frozen=True, kw_only=True)
class Edit(Work):
    """What every edit of a picture takes."""

    picture: str
    """A picture file as base64."""
    num: Num = 8
    seed: Seed = 0

    def edit(self, model: Model, picture: Tensor, seeds: list[int]) -> Make:
        """Check the rest, and give the work."""
        raise NotImplementedError

    def steps(self, grid: list[Level]) -> int:
        """How many steps it takes along a grid."""
        raise NotImplementedError

    def prepare(self, model: Model) -> Plan:
        seeds, chosen = _seeds(None, self.seed, self.num), self.chosen(model)
        picture = read_upload(model, self.picture)
        labels = model.labels(seeds, "no class" if self.label is None else self.label)
        steps = self.steps(model.grid(chosen))
        return _plan(model, self.edit(model, picture, seeds), chosen, seeds, labels, steps)


@dataclass(frozen=True, kw_only=True)
class Inpaint(Edit):
    """Versions of a picture with some pixels painted anew."""

    mask: str
    """A picture file as base64: white where to paint."""
    resample: Annotated[Few, Range(least=1, most=20)] = 1

    def edit(self, model: Model, picture: Tensor, seeds: list[int]) -> Make:
        unknown = uploaded(self.mask, lambda path: editing.read_mask(model, path))
        options = {"label": self.label, "resample": self.resample, **self.settings}
        return lambda watched: editing.inpaint(watched, picture, unknown, seeds, **options)

    def steps(self, grid: list[Level]) -> int:
        return len(zigzag(grid, self.resample)) - 1


@dataclass(frozen=True, kw_only=True)
class Image(Edit):
    """Versions of a picture, noised to a strength and denoised."""

    strength: Annotated[Positive, Range(above=0, most=1)] = 0.6

    def edit(self, model: Model, picture: Tensor, seeds: list[int]) -> Make:
        return lambda watched: editing.image_to_image(
            watched, picture, self.strength, seeds, self.label, **self.settings
        )

    def steps(self, grid: list[Level]) -> int:
        return max(1, round(self.strength * (len(grid) - 1)))


KINDS: dict[str, type[Work]] = {
    kind.__name__.lower(): kind for kind in (Sample, Walk, Inpaint, Image)
}


def uploaded(text: str, read: Callable[[Path], Tensor]) -> Tensor:
    """What `read` makes of an uploaded file; DataError names it as the picture."""
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError("picture: got text that is not base64") from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture"
        path.write_bytes(content)
        try:
            return read(path)
        except DataError as error:
            raise DataError(str(error).replace(str(path), "picture")) from error


def read_upload(model: Model, text: str) -> Tensor:
    """An uploaded picture, uint8 (c, h, w) of the model's size."""
    return uploaded(text, lambda path: editing.read_picture(model, path))


def recipe(kind: str, work: Work, plan: Plan, model: Model) -> dict[str, Any]:
    """What a picture of this work says of itself besides its seed and its label."""
    own = {"model": model.weights_hash, **to_dict(plan.chosen)}
    asked = {key: value for key, value in to_dict(work).items() if key not in ("model", "settings")}
    given = {} if work.label is None else {"asked_label": work.label}
    match work:
        case Sample(branches=()):
            return own
        case Edit():
            return {**own, "edit": kind, **asked, **given}
        case _:
            return {**own, "studio": kind, **asked, "settings": work.settings, **given}


def _seeds(seeds: tuple[int, ...] | None, seed: int, num: int) -> list[int]:
    found = image_seeds(range(seed, seed + num) if seeds is None else seeds)
    if len(found) > MOST_IMAGES:
        raise ConfigError(f"seeds: got {len(found)}, expected at most {MOST_IMAGES}")
    return found


def _plan(
    model: Model,
    make: Make,
    chosen: SampleConfig,
    seeds: list[int],
    labels: Tensor | None,
    steps: int,
) -> Plan:
    shape = model.shape
    work = len(seeds) * steps * shape.channels * shape.height * shape.width
    if work > MOST_WORK:
        fix = "expected fewer images or steps (the command line has no such limit)"
        raise ConfigError(f"num: {len(seeds)} images of {steps} steps are too much here; {fix}")
    return Plan(make, chosen, seeds, None if labels is None else labels.tolist(), steps)
