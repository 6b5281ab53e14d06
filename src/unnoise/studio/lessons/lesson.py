"""What a lesson is: words, one control, and what it changes, computed for each of its values."""

from __future__ import annotations

import base64
import functools
import math
from collections.abc import Sequence
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
TEN = """\
import torch, unnoise
model = unnoise.load("digits")
data = unnoise.load_data(unnoise.preset("digits"))
rows = [list(data.labels).index(i, data.num_train) for i in range(10)]  # held-out digits, 0 to 9
x0 = unnoise.to_model(torch.tensor(data.images[rows]))
eps = model.noise(range(10)).normal()
level = model.diffusion.schedule.level({value})
x_t = level.alpha * x0 + level.sigma * eps"""
"""Code that makes the ten noisy digits of `Bench.ten`."""


class Control(NamedTuple):
    """The one thing that a reader changes: a slider, or a choice of a few names."""

    label: str
    values: Sequence[float | int | str]
    start: int
    """The number of the value that is shown first."""


class Pictures(NamedTuple):
    """Rows of small pictures."""

    caption: str
    images: UInt8[Tensor, "k n c h w"]
    """n pictures for each of the control's k values, or with k = 1 the same for all."""
    classes: Sequence[int] = ()
    """The n classes, where each column is to show one."""


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


class Lesson(NamedTuple):
    """One screen."""

    text: str
    """Short paragraphs, a line each."""
    control: Control
    question: str
    answer: str
    maths: str
    """The heading of docs/maths.md that belongs to it."""
    formula: str
    code: str
    """Python that computes what is shown; {value} is the control's value."""
    facts: dict[str, Sequence[str]]
    """A text for each of the control's values, by its name."""
    pictures: Sequence[Pictures] = ()
    plot: Plot | None = None


def plain(lesson: Lesson) -> dict[str, Any]:
    """A lesson as plain data for JSON: pictures as base64, numbers short."""
    head, values = lesson.maths, list(lesson.control.values)
    choice = isinstance(values[0], str)
    return {
        **lesson._asdict(),
        "text": _kept(lesson.text), "answer": _kept(lesson.answer),
        "control": {**lesson.control._asdict(), "values": [value if choice else f"{value:g}" for value in values],
                    "choice": choice},
        "anchor": head.lower().replace(".", "").replace(" ", "-"),
        "facts": [{"name": name, "values": words} for name, words in lesson.facts.items()],
        "pictures": [_packed(pictures) for pictures in lesson.pictures],
        "plot": lesson.plot and {
            **lesson.plot._asdict(),
            "lines": [{"name": line.name, "x": _short(line.x), "y": _short(line.y)}
                      for line in lesson.plot.lines],
        },
    }  # fmt: skip


def _kept(text: str) -> str:
    """A text whose numbers stay with their units, and its equations whole."""
    return text.replace(" %", "\u00a0%").replace(" = ", "\u00a0=\u00a0")


def _packed(pictures: Pictures) -> dict[str, Any]:
    content = pictures.images.cpu().contiguous().numpy()
    return {
        "caption": pictures.caption,
        "classes": list(pictures.classes),
        "shape": list(content.shape),
        "pixels": base64.b64encode(content.tobytes()).decode(),
    }


def _short(values: Sequence[float]) -> list[float]:
    """Six significant digits, more than a plot shows."""
    return [float(f"{value:.6g}") for value in values]


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
        return [self.labels.tolist().index(label, first) for label in range(10)]

    def noised(self, rows: Sequence[int], level: Level) -> tuple[Tensor, Tensor, Tensor]:
        """Digits x0 in [-1, 1], their noise eps of the seeds 0, 1, .. and x_t, on the device."""
        x0 = to_model(torch.tensor(self.data.images[list(rows)])).to(self.model.arithmetic.device)
        eps = self.model.noise(range(len(x0))).normal()
        return x0, eps, diffuse(x0, eps, level)

    def guess(self, x_t: Tensor, level: Level, labels: Tensor) -> Prediction:
        """What the network says of x_t, in float32 and without guidance."""
        return self.model.diffusion.denoise(x_t, level, labels.to(x_t.device))

    def read_right(self, images: UInt8[Tensor, "n 1 8 8"], labels: Tensor) -> float:
        """The share of pictures that the classifier reads as their label."""
        read = self.reader.logits(images).argmax(1)
        return float((read == labels.cpu()).double().mean())
