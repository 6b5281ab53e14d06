"""TensorBoard, and what is told to trackers of another kind."""

from __future__ import annotations

import sys
import types

import pytest

import unnoise
from unnoise.config import override
from unnoise.data.dataset import load
from unnoise.errors import ConfigError
from unnoise.presets import named
from unnoise.training import loop

TINY = {
    "network.base_channels": 8,
    "train.batch_size": 16,
    "train.kimg": 0.32,
    "train.log_every_kimg": 0.032,
    "train.sample_every_kimg": 0.16,
    "train.checkpoint_every_kimg": 0.16,
    "sample.steps": 2,
}


@pytest.fixture(scope="module")
def data():
    return load(unnoise.DataConfig())


def test_tensorboard_counts_images_and_has_no_double_curve_after_a_resume(
    data, tmp_path, monkeypatch
):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = override(named("digits"), {**TINY, "train.trackers": ("tensorboard",)})
    real = loop.train_step

    def dies(objective, state, batch, lr):
        if state.counters.step == 16:
            raise RuntimeError("killed")
        return real(objective, state, batch, lr)

    monkeypatch.setattr(loop, "train_step", dies)
    with pytest.raises(RuntimeError):
        loop.train(config, data, tmp_path)
    monkeypatch.setattr(loop, "train_step", real)
    loop.train(config, data, tmp_path)
    events = accumulator.EventAccumulator(
        str(tmp_path / "tensorboard"), {"scalars": 0, "images": 0}
    )
    events.Reload()
    assert [e.step for e in events.Scalars("loss")] == list(range(32, 321, 32))
    assert [e.step for e in events.Scalars("held_out_loss")] == [160, 320]
    assert {"lr", "grad_norm", "held_out_q1", "held_out_loss_raw"} <= set(events.Tags()["scalars"])
    assert [e.step for e in events.Images("samples")] == [160, 320]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_other_trackers_get_numbers_and_pictures(data, tmp_path, monkeypatch, name):
    told, pictures, ended = [], [], []
    module = types.ModuleType(name)
    module.init = lambda **options: told.append(options)
    module.log = lambda values, step: (pictures if "samples" in values else told).append(
        (step, values)
    )
    module.Image = lambda path: path
    module.finish = lambda: ended.append(True)
    monkeypatch.setitem(sys.modules, name, module)
    loop.train(
        override(named("digits"), {**TINY, "train.trackers": (name,)}), data, tmp_path / "run"
    )
    assert (
        told[0]["name"] == "run"
        and told[0]["config"]["train"]["batch_size"] == 16
        and ended == [True]
    )
    assert [step for step, values in told[1:] if "loss" in values] == list(range(32, 321, 32))
    assert [step for step, _ in pictures] == [160, 320]


def test_a_tracker_that_is_not_installed_is_said(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = override(named("digits"), {**TINY, "train.trackers": ("wandb",)})
    with pytest.raises(ConfigError, match="wandb is not installed"):
        loop.train(config, data, tmp_path)
