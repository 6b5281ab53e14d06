"""The script of the CIFAR-10 run, from end to end on the digits, stopped on the way."""

from __future__ import annotations

import hashlib
import json
import sys

import pytest

import unnoise
from benchmarks import speedrun

TINY = {
    "train.time": None, "train.kimg": 2, "train.batch_size": 32, "train.warmup_kimg": 0.1,
    "train.sample_every_kimg": 0.5, "train.checkpoint_every_kimg": 0.5, "train.precision": "fp32",
    "train.log_every_kimg": 0.5, "train.ema_halflife_kimg": 0.1,
    "train.ema_also_kimg": [0.05, 0.2], "data.source": "digits", "network.base_channels": 8,
    "network.blocks_per_level": 1, "network.norm_groups": 4, "network.attention_sizes": [4],
    "network.channel_multipliers": [1, 2],
}  # fmt: skip


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.setattr(speedrun.ceilings, "PIXELS", {"cpu": 256})
    monkeypatch.setattr(speedrun.ceilings, "MATMULS", {"cpu": (64,)})
    monkeypatch.setattr(speedrun.tuning, "ENDS", ((80.0, 0.002),))
    monkeypatch.setattr(speedrun, "SCALES", (1.5,))
    monkeypatch.setattr(speedrun, "AUTO_SCALES", (2.0,))

    def run(*words, what="run"):
        out = tmp_path / f"{what}.json"
        flags = [
            "--work", str(tmp_path / what), "--out", str(out), "--features", "tiny",
            "--device", "cpu", "--choose", "48", "--num", "64", "--tune", "200", "--keep-kimg",
            "0.5", "--likelihood", "4", "--budgets", "--set", json.dumps(TINY),
        ]  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["speedrun", what, *words, *flags])
        speedrun.main()
        return out

    return run


def test_from_the_first_step_to_the_model_file(command, tmp_path, capsys, monkeypatch):
    measured, plain = [], speedrun.Samples
    noted = lambda *a, **k: measured.append(a[2]) or plain(*a, **k)
    monkeypatch.setattr(speedrun, "Samples", noted)
    monkeypatch.setattr(speedrun.Job, "hurry", lambda job: _stop_after(3, measured))
    out = command()  # stops after the third average and a way of guidance
    assert "the same command resumes" in capsys.readouterr().out
    stopped = json.loads(out.read_text())
    assert set(stopped["averages"]) == {"0.1", "0.05", "0.2"} and len(stopped["guidance"]) == 1
    monkeypatch.setattr(speedrun.Job, "hurry", lambda job: None)
    command()
    record, text = json.loads(out.read_text()), capsys.readouterr().out
    # nothing twice: of guidance in three intervals and by the early checkpoint one was there
    assert measured[4:] == [48] * 3 + [64] * 3
    assert record["guidance"][:1] == stopped["guidance"]
    assert record["training"]["nimg"] == 2016 and 0 < record["training"]["mfu"] < 1
    assert len(record["log"]) > 3
    assert set(record["final"]) == {"heun, 35 evaluations", "tuned, 10 evaluations", "heun, guided"}
    for words in ("million images", "heun, guided", "an early checkpoint", "half-life"):
        assert words in text
    file = tmp_path / "run" / "cifar10.safetensors"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == record["file"]["sha256"]
    model = unnoise.load(file, "cpu")
    assert "nfe_10" in model.tuned and model.sample(2, sampler="nfe_10").shape == (2, 1, 8, 8)
    best = min(record["averages"].values(), key=lambda one: one["fid"])["file"]
    halflives = (
        one.record["training"]["ema_halflife_kimg"]
        for one in (model, unnoise.load(tmp_path / "run" / "run" / best, "cpu"))
    )
    assert len(set(halflives)) == 1


def _stop_after(number, measured):
    if len(measured) == number + 1:
        raise speedrun.OutOfTimeError


def test_no_time_is_no_training(command, tmp_path, capsys):
    command("--minutes", "0")
    assert "the same command resumes" in capsys.readouterr().out
    assert not (tmp_path / "run" / "run").exists()


def test_recipes_are_tables(command, capsys):
    out = command("--recipes", "as it is", "flow", "--seeds", "0", "--time", "1s", what="recipes")
    rows = json.loads(out.read_text())["recipes"]
    assert [one["recipe"] for one in rows] == ["as it is", "flow"]
    assert all(len(one["fid"]) == 3 for one in rows)
    assert "| flow | 0 |" in capsys.readouterr().out


def test_every_recipe_is_a_configuration():
    for name, changes in speedrun.RECIPES.items():
        config = unnoise.preset(speedrun.PRESET, changes)
        assert (config != unnoise.preset(speedrun.PRESET)) == (name != "as it is")
