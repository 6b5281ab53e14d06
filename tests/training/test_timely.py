"""A run shows itself and saves by the clock, not only by images."""

from __future__ import annotations

import json

import pytest

import unnoise
from unnoise import cli
from unnoise.config import TrainConfig
from unnoise.training import loop, run
from unnoise.training.run import preview_times
from unnoise.training.step import learning_rate

NEVER = {
    "device": "cpu", "train.precision": "fp32", "train.batch_size": 16,
    "train.log_every_kimg": 1e6, "train.sample_every_kimg": 1e6,
    "train.checkpoint_every_kimg": 1e6, "network.base_channels": 8, "train.kimg": None,
}  # fmt: skip


def test_previews_are_early_and_then_tenths():
    assert preview_times(20) == []
    assert preview_times(300) == [20, 60, 180]
    assert preview_times(3600) == [20, 60, 180, 600, *(360 * i for i in range(2, 10))]
    assert preview_times(float("inf")) == [20, 60, 180, 600]


@pytest.mark.parametrize("read_every", [1, pytest.param(20, marks=pytest.mark.long)])
def test_a_run_is_seen_and_saved_by_the_clock(tmp_path, monkeypatch, read_every):
    monkeypatch.setitem(loop.READ_EVERY, "cpu", read_every)
    monkeypatch.setattr(run, "PREVIEW_SEC", (0.5, 1, 2))
    monkeypatch.setattr(loop, "LOG_SEC", 0.4)
    monkeypatch.setattr(loop, "SAVE_SEC", 0.8)
    beats, saves = [], []

    def heard(event):
        if getattr(event, "what", "") == "training":
            beats.append(event)
        elif event.text.startswith("saved"):
            saves.append(event)

    config = unnoise.preset("digits", {**NEVER, "train.time": "4s"})
    unnoise.train(config, tmp_path, on_event=heard)
    lines = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    logged = [line["train_sec"] for line in lines if "loss" in line]
    assert len(logged) >= 4 and logged[0] < 1.5
    previews = sorted(tmp_path.glob("samples/*.png"))
    assert len(previews) >= 4  # 0.5, 1 and 2 s, then 2.4, 2.8, .., and the end
    assert len(saves) >= 3
    assert "img/s" in beats[0].detail and not any("nan" in beat.detail for beat in beats)
    assert any("loss" in beat.detail for beat in beats)


def test_a_run_that_images_end_is_seen_early_too(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "PREVIEW_SEC", (0.001, 0.01))
    unnoise.train(unnoise.preset("digits", {**NEVER, "train.kimg": 0.64}), tmp_path)
    assert len([*tmp_path.glob("samples/*.png")]) >= 2  # one of them at the end


@pytest.mark.parametrize("kimg", [None, 10.0])
def test_an_unset_warm_up_is_at_most_a_twentieth_of_the_run(kimg):
    config = TrainConfig(lr=1.0, lr_schedule="constant", warmup_kimg=kimg, batch_size=1)
    short = [learning_rate(config, 100 * i, 0.01 * i) for i in range(8)]  # 10 kimg in all
    if kimg is None:
        assert short == pytest.approx([0.0001, 0.2, 0.4, 0.6, 0.8, 1, 1, 1], abs=0.02)
    else:
        assert max(short) < 0.08
    long = [learning_rate(config, 1000 * i, 1e-6 * i) for i in range(12)]
    assert long == pytest.approx([min(1, 0.1 * i) for i in range(12)], abs=0.001)


def test_a_model_that_logged_no_loss_says_nothing_of_it(tmp_path, capsys):
    config = unnoise.preset("digits", {**NEVER, "train.kimg": 0.032})
    assert "loss" not in unnoise.train(config, tmp_path).record["training"]
    capsys.readouterr()
    assert cli.main(["info", str(tmp_path)]) == 0
    training = next(s for s in capsys.readouterr().out.splitlines() if s.startswith("training"))
    assert "step 2 · nimg 32" in training and "nan" not in training
