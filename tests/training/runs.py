"""A run of 20 tiny steps, how to break it, and what two runs have in common."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from unnoise import checkpoint, terminal
from unnoise.config import RunConfig, override
from unnoise.data.dataset import ImageData
from unnoise.diffusion.losses import Loss
from unnoise.presets import named
from unnoise.training import loop

TINY = {
    "network.base_channels": 8,
    "train.batch_size": 16,
    "train.kimg": 0.32,  # 20 steps
    "train.warmup_kimg": 0.1,
    "train.ema_halflife_kimg": 0.1,
    "train.log_every_kimg": 0.048,
    "train.sample_every_kimg": 0.16,
    "train.checkpoint_every_kimg": 0.08,
    "train.keep_checkpoints": 100,
    "sample.steps": 2,
}


def tiny(**changes: Any) -> RunConfig:
    """The digits preset, small, with some fields changed."""
    return override(named("digits", "v"), {**TINY, **changes})


def train(config: RunConfig, data: ImageData, folder: Path, **options: Any) -> loop.Ending:
    """Train, and print what is said."""
    with terminal.shown():
        return loop.train(config, data, folder, **options)


def before_step(monkeypatch: Any, at: int, call: Callable[[], object]) -> None:
    """Call this before a step is computed, or raise what it raises."""
    real = loop.train_step

    def step(run: Any, state: Any, batch: Any, lr: float) -> Any:
        if state.counters.step == at:
            call()
        return real(run, state, batch, lr)

    monkeypatch.setattr(loop, "train_step", step)


def change_loss(monkeypatch: Any, change: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
    """Replace every loss by change(batch, loss)."""
    real = Loss.forward
    monkeypatch.setattr(
        Loss, "forward", lambda self, model, batch: change(batch, real(self, model, batch))
    )


def checkpoints(folder: Path) -> list[Path]:
    return checkpoint.checkpoints(folder / "checkpoints")


def curve(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what a clock says."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.endswith("_sec")} for line in lines]


def assert_same_weights(a: Path, b: Path) -> None:
    """Bit for bit: weights, averages, optimizer."""
    last = [checkpoints(folder)[-1] for folder in (a, b)]
    assert last[0].name == last[1].name
    groups = sorted(path.name for path in last[0].glob("*.safetensors"))
    assert groups == sorted(path.name for path in last[1].glob("*.safetensors"))
    for name in groups:
        left, right = (load_file(path / name) for path in last)
        assert left.keys() == right.keys(), name
        assert all(torch.equal(left[key], right[key]) for key in left), name
    files = [folder / "model.safetensors" for folder in (a, b)]
    weights = [checkpoint.read_model(file)[1]["weights"] for file in files]
    assert weights[0] == weights[1]


def assert_same_run(a: Path, b: Path) -> None:
    """Bit for bit: weights, averages, optimizer, losses, pictures."""
    assert_same_weights(a, b)
    assert curve(a) == curve(b)
    for picture in sorted((a / "samples").iterdir()):
        assert picture.read_bytes() == (b / "samples" / picture.name).read_bytes()
