"""Calls from Python: a wrong argument is a UserError in one line, and never a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import unnoise
from tests.attacks.harness import Attack
from unnoise import editing

NUMBERS: tuple[Any, ...] = (
    -1,
    0,
    3.7,
    "x",
    None,
    float("nan"),
    float("inf"),
    10**12,
    2**70,
    [],
    True,
)


def attacks(shared: Path) -> Iterator[Attack]:
    """model.sample, datasets, presets, edits, evaluation, and the identities that must hold."""
    yield from _sampling()
    yield from _datasets()
    yield from _configurations()
    yield from _edits()
    yield from _right()


def _model() -> unnoise.Model:
    return unnoise.load("digits")


def _sampling() -> Iterator[Attack]:
    allowed = {
        "label": ("None", "0", "True"),
        "seeds": (),
        "batch_size": ("None",),
        "num": ("True",),
    }
    for name in ("num", "label", "batch_size", "steps", "guidance_scale", "eta", "sampler",
                 "spacing",
                 "noises", "seeds", "churn", "clip_x0", "dynamic_threshold"):  # fmt: skip
        for value in NUMBERS:
            if str(value) in allowed.get(name, ()):
                continue
            options = {"num": 1, "steps": 2} | ({"seeds": [0]} if name == "num" else {})
            if name == "num":
                options.pop("seeds")
            expected = "refused" if name in ("num", "label", "batch_size") else "either"
            act = partial(_sample, {**options, name: value})
            yield Attack(f"sample({name}={value!r})", act, expected)
    for what, options in {
        "seeds of -1": {"seeds": [-1]}, "seeds of 1.5": {"seeds": [1.5]}, "no seeds": {"seeds": []},
        "seeds of 2**70": {"seeds": [2**70]}, "a misspelt option": {"num": 1, "stesp": 3},
        "labels too few": {"num": 3, "label": [1, 2]},
        "labels too large": {"num": 2, "label": [1, 99]},
        "labels as floats": {"num": 2, "label": [1.0, 2.5]},
        "labels as names": {"num": 1, "label": ["cat"]},
        "a label of two names": {"num": 1, "label": "1,2"}, "a device": {"num": 1, "device": "tpu"},
    }.items():  # fmt: skip
        yield Attack(f"sample: {what}", partial(_sample, options))
    for call, name in (
        (unnoise.load, "load"),
        (unnoise.preset, "preset"),
        (unnoise.train, "train"),
    ):
        for value in ("nothing", "", "\x1b[31m", "x" * 5000, "/dev/null", "../..", "\0"):
            expected = "either" if (name, value) == ("preset", "../..") else "refused"
            yield Attack(f"{name}({value[:9]!r})", partial(call, value), expected)  # pyright: ignore


def _sample(options: dict[str, Any]) -> None:
    _model().sample(**options)


def _datasets() -> Iterator[Attack]:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    images: dict[str, Any] = {
        "no images": pixels[:0], "one number": np.zeros(5), "NaN": np.full((4, 8, 8), np.nan),
        "floats to 255": pixels.astype(np.float32), "negative floats": pixels / 255.0 - 0.5,
        "cubes": np.zeros((4, 8, 8, 8), np.uint8), "objects": np.array([None] * 4),
        "int64": pixels.astype(np.int64), "strings": ["a", "b"], "complex": pixels.astype(complex),
        "sizes that differ": [pixels[0], pixels[1, :4]], "0 x 0": np.zeros((4, 0, 0, 3), np.uint8),
        "a dictionary": {0: pixels[0]}, "five dimensions": pixels[None], "bytes": b"abcd",
    }  # fmt: skip
    for what, value in images.items():
        act = partial(unnoise.dataset, value)
        yield Attack(
            f"dataset: {what}",
            act,
            "either" if what in ("sizes that differ", "a dictionary") else "refused",
        )
    labels: dict[str, Any] = {
        "too few": [0] * 19, "negative": [-1] * 20, "floats": [0.5] * 20, "names": ["a"] * 20,
        "None": [None] * 20, "huge": [10**12] * 20, "two dimensions": [[0]] * 20,
    }  # fmt: skip
    for what, value in labels.items():
        yield Attack(f"dataset: labels {what}", partial(unnoise.dataset, pixels, value))
    few = partial(unnoise.dataset, pixels, [i % 3 for i in range(20)], ["a", "b"])
    yield Attack("dataset: too few names", few)


def _configurations() -> Iterator[Attack]:
    for key in ("train.lr", "train.kimg", "train.batch_size", "network.base_channels", "seed",
                "data.image_size", "data.held_out", "sample.steps", "diffusion.schedule",
                "train.betas", "train.ema_also_kimg", "network.kind",
                "train.trackers"):  # fmt: skip
        for value in (-1, "x", float("nan"), [], {"a": 1}, b"x", object(), 10**400, "\x1b[31m"):
            changed = partial(_configured, key, value)
            yield Attack(
                f"preset {key} = {str(value)[:9]!r}",
                changed,
                "either" if key == "seed" or value == [] else "refused",
            )
    for key in ("train.", ".", "", "train.lr.x", "nope", "train", "TRAIN.LR", "train..lr"):
        yield Attack(f"preset {key!r}", partial(unnoise.preset, "digits", {key: 1}))


def _configured(key: str, value: Any) -> None:
    config = unnoise.preset("digits", {key: value, "train.time": "1s"})
    from unnoise.config import check

    check(config)
    network = unnoise.build.network(config, unnoise.build.Shape(1, 8, 8))
    unnoise.build.diffusion_model(config.diffusion, network)


def _edits() -> Iterator[Attack]:
    picture = torch.zeros(1, 8, 8, dtype=torch.uint8)
    some = torch.zeros(1, 8, 8, dtype=torch.bool)
    some[:, 2:4] = True
    wrong: dict[str, Any] = {
        "float": picture.float(), "two": picture[None], "grey": picture[0],
        "larger": torch.zeros(1, 9, 9, dtype=torch.uint8),
        "numpy": picture.numpy(), "None": None, "text": "x", "seed": 3,
    }  # fmt: skip
    for what, value in wrong.items():
        calls: dict[str, Callable[[unnoise.Model], object]] = {
            "inpaint": lambda m, v=value: editing.inpaint(m, v, some, seeds=[0], steps=2),
            "image_to_image": lambda m, v=value: editing.image_to_image(
                m, v, 0.5, seeds=[0], steps=2
            ),
            "reconstruct": lambda m, v=value: editing.reconstruct(m, v, steps=2),
        }
        for name, call in calls.items():
            yield Attack(f"{name}: a picture that is {what}", partial(_edit, call))
    for what, mask in {
        "1 x 1": some[:, :1, :1], "empty": ~(some | ~some), "of floats": some.float(),
        "larger": torch.ones(1, 9, 9, dtype=torch.bool),
    }.items():  # fmt: skip
        call = lambda m, k=mask: editing.inpaint(m, picture, k, seeds=[0], steps=2)
        yield Attack(f"inpaint: a mask that is {what}", partial(_edit, call))
    for strength in (-0.1, 1.5, float("nan"), "x", None):
        call = lambda m, s=strength: editing.image_to_image(m, picture, s, seeds=[0], steps=2)
        yield Attack(f"image_to_image: strength {strength}", partial(_edit, call))
    for seeds in ([], [-1], [1.5], None, "x", [2**70]):
        call = lambda m, s=seeds: editing.variations(m, 3, 0.5, seeds=s, steps=2)
        yield Attack(f"variations: seeds {seeds}", partial(_edit, call))


def _edit(call: Callable[[unnoise.Model], object]) -> None:
    call(_model())


def _right() -> Iterator[Attack]:
    """What must come out as a user means it."""

    def nested() -> None:
        whole, changed = (
            unnoise.preset("digits"),
            unnoise.preset("digits", {"train": {"kimg": 1.0}}),
        )
        assert changed == unnoise.preset("digits", {"train.kimg": 1.0}) != whole

    def grid() -> None:
        images = unnoise.generate_samples(_model(), num_samples=4, device="cpu")
        colours = np.asarray(unnoise.grid(images))
        assert len(np.unique(colours)) > 16, np.unique(colours)

    def labels() -> None:
        model = _model()
        one = model.sample(seeds=[5], label="3", steps=2)
        assert torch.equal(one, model.sample(seeds=[5], label=3, steps=2))
        both = model.sample(seeds=[5, 6], label=[3, 7], steps=2)
        assert torch.equal(both[:1], one)

    for act in (nested, grid, labels):
        yield Attack(f"right: {act.__name__}", act, "done")
