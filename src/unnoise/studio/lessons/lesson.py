"""What a lesson shows for each value of its control, and what all of them compute with."""

from __future__ import annotations

import base64
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from unnoise.data.dataset import ImageData, load
from unnoise.data.images import to_model
from unnoise.diffusion.denoiser import Prediction
from unnoise.diffusion.gaussian import diffuse
from unnoise.diffusion.levels import Level
from unnoise.evaluation.extractors import Extractor, extractor
from unnoise.model import Model
from unnoise.model import load as load_model

DIGITS = range(10)


class Pictures(NamedTuple):
    """Rows of small pictures."""

    caption: str
    images: UInt8[Tensor, "k n c h w"]
    """n pictures for each of the control's k values, or with k = 1 the same for all."""
    classes: Sequence[int] = ()
    """The classes of the first pictures and, in turn, of the others: one for each column."""


class Line(NamedTuple):
    """A curve."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


class Plot(NamedTuple):
    """Curves, with a mark where the control is."""

    title: str
    across: str
    lines: Sequence[Line]
    at: Sequence[float] = ()
    """x for each value of the control; where there is none, value i chooses line i."""
    log: str = ""
    """The logarithmic axes: "", "x", "y" or "xy"."""


class Shown(NamedTuple):
    """What a lesson computes."""

    values: Sequence[float | int | str]
    """The control's values: numbers make a slider, names a choice."""
    start: int
    """The number of the value that is shown first."""
    said: Mapping[str, Any]
    """The numbers of the text and of the answer, by their names in words.toml."""
    facts: Mapping[str, Sequence[str]] = {}
    """A text for each value, by its name."""
    pictures: Sequence[Pictures] = ()
    plot: Plot | None = None


def plain(shown: Shown) -> dict[str, Any]:
    """Give a lesson as data for JSON: pictures in base64, numbers short."""
    choice, plot = isinstance(shown.values[0], str), shown.plot
    return {
        "values": [value if choice else f"{value:g}" for value in shown.values],
        "choice": choice,
        "start": shown.start,
        "facts": [{"name": name, "values": words} for name, words in shown.facts.items()],
        "pictures": [_packed(pictures) for pictures in shown.pictures],
        "plot": plot and {**plot._asdict(), "lines": [_short(line) for line in plot.lines]},
    }


def _packed(pictures: Pictures) -> dict[str, Any]:
    content = pictures.images.cpu().contiguous().numpy()
    return {
        "caption": pictures.caption,
        "classes": list(pictures.classes),
        "shape": list(content.shape),
        "pixels": base64.b64encode(content.tobytes()).decode(),
    }


def _short(line: Line) -> dict[str, Any]:
    """Six significant digits, more than a plot shows."""
    x, y = ([float(f"{value:.6g}") for value in values] for values in (line.x, line.y))
    return {"name": line.name, "x": x, "y": y}


def rms(a: Tensor, b: Tensor) -> float:
    """Root mean square difference of pictures in [-1, 1], in grey levels of 255."""
    return math.sqrt(float((a - b).square().mean())) * 127.5


@dataclass(frozen=True)
class Bench:
    """The bundled digits model, its data, and a classifier that knows clean digits only."""

    model: Model
    data: ImageData
    reader: Extractor

    @staticmethod
    def of(device: str) -> Bench:
        """The bench on a device."""
        model = load_model("digits", device)
        reader = extractor("tiny", model.arithmetic.device)
        return Bench(model, load(model.config.data), reader)

    @functools.cached_property
    def train(self) -> UInt8[Tensor, "n 1 8 8"]:
        """The digits that the model learned from."""
        return torch.tensor(self.data.images[: self.data.num_train])

    @functools.cached_property
    def held_out(self) -> UInt8[Tensor, "n 1 8 8"]:
        """The digits that it never saw."""
        return torch.tensor(self.data.images[self.data.num_train :])

    @functools.cached_property
    def labels(self) -> Int64[Tensor, " n"]:
        """The classes of all digits, those of the held-out ones last."""
        assert self.data.labels is not None
        return torch.tensor(self.data.labels)

    @functools.cached_property
    def ten(self) -> list[int]:
        """The rows of the first held-out digit of each class."""
        first = self.data.num_train
        return [self.labels.tolist().index(label, first) for label in DIGITS]

    def level(self, t: float) -> Level:
        """The model's level at a time from 0 to 1000."""
        return self.model.diffusion.schedule.level(float(t))

    def noised(self, rows: Sequence[int], level: Level) -> tuple[Tensor, Tensor, Tensor]:
        """Digits x0 in [-1, 1], their noise eps of the seeds 0, 1, .. and x_t, on the device."""
        x0 = to_model(torch.tensor(self.data.images[list(rows)])).to(self.model.arithmetic.device)
        eps = self.model.noise(range(len(x0))).normal()
        return x0, eps, diffuse(x0, eps, level)

    def guess(self, x_t: Tensor, level: Level, labels: Tensor) -> Prediction:
        """What the network says of x_t, in float32 and without guidance."""
        return self.model.diffusion.denoise(x_t, level, labels.to(x_t.device))

    def read_right(self, images: UInt8[Tensor, "n 1 8 8"], labels: Tensor) -> float:
        """How many percent of the pictures the classifier reads as their label."""
        read = self.reader.logits(images).argmax(1)
        return 100 * float((read == labels.cpu()).double().mean())
