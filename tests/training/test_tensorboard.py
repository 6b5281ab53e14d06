"""What TensorBoard is told."""

from __future__ import annotations

import sys

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
    config = override(named("digits"), {**TINY, "train.tensorboard": True})
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


def test_without_the_package_one_line_says_so(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    config = override(named("digits"), {**TINY, "train.tensorboard": True})
    with pytest.raises(ConfigError, match=r"tensorboard is not installed .*unnoise\[log\]"):
        loop.train(config, data, tmp_path)
