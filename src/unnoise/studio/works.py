"""What the page can ask a model for. Each kind is a dataclass, read from JSON by type and range.

`plan` checks everything against the model, which is quick, and gives the work itself: a function of
the model that makes the pictures, uint8 (n, c, h, w). Imports torch.
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
from unnoise.data.images import from_model, png
from unnoise.diffusion.editing import last_part, zigzag
from unnoise.diffusion.levels import branch
from unnoise.errors import ConfigError, DataError
from unnoise.model import Model, last
from unnoise.ranges import Few, Range, Share, Strength
from unnoise.reading import from_dict
from unnoise.settings import image_seeds

MOST_IMAGES = 64
MOST_WORK = 64 * 256 * 3 * 128**2
"""Images x steps x values of an image."""
MOST_VALUES = 64 * 3 * 256**2
"""Images x values of an image."""
MOST_BRANCHES = 16

Num = Annotated[int, Range(least=1, most=MOST_IMAGES)]
Seed = Annotated[int, Range(least=0, below=2**53)]
"""JavaScript has no larger whole numbers."""
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
    said: Mapping[str, Any] = field(default_factory=dict)
    """What a recipe says besides settings, seeds and label."""
    branches: tuple[int, ...] = ()
    """Steps after which another walk begins, which counts evaluations from 0."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every kind takes."""

    model: str
    """The id of a model."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Changes of the model's SampleConfig."""
    label: Any = None
    """The label of all images or of each, which `Model.sample` takes."""

    def chosen(self, model: Model, changes: Mapping[str, Any] | None = None) -> SampleConfig:
        """The settings, if they can be used with the model."""
        changes = self.settings if changes is None else changes
        from_dict(SampleConfig, changes, "sample.")  # no other argument of `settings`
        return model.settings(**changes)

    def plan(self, model: Model) -> Plan:
        """Check the work against a model, and give it."""
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
    """Seeds of the images; None is num of them from seed on."""
    branches: tuple[Branch, ...] = ()

    def plan(self, model: Model) -> Plan:
        seeds = _seeds(self.seeds, self.seed, self.num)
        chosen, labels = self.chosen(model), model.labels(seeds, self.label)
        levels, done = model.grid(chosen), 0
        parts: list[tuple[Any, Mapping[str, Any]]] = [(self.label, self.settings)]
        said: list[dict[str, Any]] = []
        if len(self.branches) > MOST_BRANCHES:
            got = f"got {len(self.branches)} of them"
            raise ConfigError(f"branches: {got}, expected at most {MOST_BRANCHES}")
        for part in self.branches:
            if not done < part.step < len(levels) - 1:
                expected = f"expected a step after {done} and before the last, {len(levels) - 1}"
                raise ConfigError(f"branches.step: got {part.step}, {expected}")
            done, other = part.step, self.chosen(model, part.settings)
            levels = levels[:done] + branch(levels[done], model.grid(other))
            labels = model.labels(seeds, part.label)
            parts.append((part.label, part.settings))
            said.append({"step": done, "label": part.label, "settings": to_dict(other)})
        ends = tuple(part.step for part in self.branches)

        def make(watched: Model) -> Tensor:
            start, done = None, 0
            for (label, settings), end in zip(parts, (*ends, None), strict=True):
                walk = watched.steps(seeds, label, start=start, **settings)
                start = last(itertools.islice(walk, None if end is None else end - done))
                done = end or 0
            assert start is not None
            return from_model(start.x.cpu())

        more = {"branches": said} if said else {}
        return Plan(make, chosen, seeds, _listed(labels), len(levels) - 1, more, ends)


@dataclass(frozen=True, kw_only=True)
class Walk(Work):
    """Pictures of points of the square between four seeds: up left and right, down left, right."""

    corners: tuple[Seed, ...]
    points: tuple[tuple[Share, ...], ...]

    def plan(self, model: Model) -> Plan:
        if len(self.corners) != 4 or any(len(point) != 2 for point in self.points):
            raise ConfigError("corners, points: expected four seeds, and points of two numbers")
        if not 1 <= len(self.points) <= MOST_IMAGES:
            raise ConfigError(f"points: got {len(self.points)}, expected 1 to {MOST_IMAGES}")
        chosen, label = self.chosen(model), _or_no_class(self.label)
        seeds = [0] * len(self.points)
        labels, steps = model.labels(seeds, label), len(model.grid(chosen)) - 1

        def make(watched: Model) -> Tensor:
            return editing.plane(watched, self.corners, self.points, label, **self.settings)

        said = {"corners": self.corners, "points": self.points}
        return Plan(make, chosen, seeds, _listed(labels), steps, said)


@dataclass(frozen=True, kw_only=True)
class Edit(Work):
    """What every edit of a picture takes."""

    picture: str
    """A picture file as base64."""
    num: Num = 8
    seed: Seed = 0
    seeds: tuple[Seed, ...] | None = None
    """Seeds of the images; None is num of them from seed on."""


@dataclass(frozen=True, kw_only=True)
class Inpaint(Edit):
    """Versions of a picture with some pixels painted anew."""

    mask: str
    """A picture file as base64: white where to paint."""
    resample: Annotated[Few, Range(least=1, most=20)] = 1

    def plan(self, model: Model) -> Plan:
        self.chosen(model)
        seeds = _seeds(self.seeds, self.seed, self.num)
        chosen = editing.painting_settings(model, self.resample, self.settings)
        labels = model.labels(seeds, _or_no_class(self.label))
        picture = read_upload(model, self.picture)
        unknown = uploaded(self.mask, lambda path: editing.read_mask(model, path), "mask")
        options = {"label": self.label, "resample": self.resample, **self.settings}

        def make(watched: Model) -> Tensor:
            return editing.inpaint(watched, picture, unknown, seeds, **options)

        mask = _base64(255 * unknown[None].to(torch.uint8))
        said = {"picture": _base64(picture), "mask": mask, "resample": self.resample}
        steps = len(zigzag(model.grid(chosen), self.resample)) - 1
        return Plan(make, chosen, seeds, _listed(labels), steps, said)


@dataclass(frozen=True, kw_only=True)
class Image(Edit):
    """Versions of a picture, noised to a strength and denoised."""

    strength: Strength = 0.6

    def plan(self, model: Model) -> Plan:
        seeds, chosen = _seeds(self.seeds, self.seed, self.num), self.chosen(model)
        labels = model.labels(seeds, _or_no_class(self.label))
        picture = read_upload(model, self.picture)

        def make(watched: Model) -> Tensor:
            return editing.image_to_image(
                watched, picture, self.strength, seeds, self.label, **self.settings
            )

        said = {"picture": _base64(picture), "strength": self.strength}
        steps = len(last_part(model.grid(chosen), self.strength)) - 1
        return Plan(make, chosen, seeds, _listed(labels), steps, said)


KINDS: dict[str, type[Work]] = {
    kind.__name__.lower(): kind for kind in (Sample, Walk, Inpaint, Image)
}


def checked(work: Work, model: Model) -> Plan:
    """The plan of a work that is not too much for a page."""
    plan, shape = work.plan(model), model.shape
    values = len(plan.seeds) * shape.channels * shape.height * shape.width
    if values > MOST_VALUES or values * plan.steps > MOST_WORK:
        what = f"{len(plan.seeds)} images of {plan.steps} steps are too much here"
        fix = "expected fewer images or steps (the command line has no such limit)"
        raise ConfigError(f"num: {what}; {fix}")
    return plan


def uploaded(text: str, read: Callable[[Path], Tensor], name: str = "picture") -> Tensor:
    """What `read` makes of an uploaded file, of which a DataError tells by `name`."""
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"{name}: got text that is not base64") from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            return read(path)
        except DataError as error:
            raise DataError(str(error).replace(str(path), name)) from error


def read_upload(model: Model, text: str) -> Tensor:
    """An uploaded picture, uint8 (c, h, w) of the model's size."""
    return uploaded(text, lambda path: editing.read_picture(model, path))


def _or_no_class(label: Any) -> Any:
    return "no class" if label is None else label


def _listed(labels: Tensor | None) -> list[int] | None:
    return None if labels is None else labels.tolist()


def _base64(image: Tensor) -> str:
    return base64.b64encode(png(image, {})).decode()


def _seeds(seeds: tuple[int, ...] | None, seed: int, num: int) -> list[int]:
    found = image_seeds(range(seed, seed + num) if seeds is None else seeds)
    if len(found) > MOST_IMAGES:
        raise ConfigError(f"seeds: got {len(found)}, expected at most {MOST_IMAGES}")
    return found
