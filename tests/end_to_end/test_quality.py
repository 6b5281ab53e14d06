"""What the models are worth: digits against a classifier of real ones, and that the large presets train at all."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch
from benchmarks.digits_quality import Judge

import unnoise
from unnoise import cli
from unnoise.model import bundled


@pytest.fixture(scope="module")
def judge() -> Judge:
    judge = Judge()
    assert judge.accuracy > 0.98
    return judge


def test_the_bundled_digits_are_read_varied_and_new(judge):
    model = unnoise.load("digits")
    assert bundled()["digits"].stat().st_size < 3e6
    assert 2 * model.settings().steps <= 25  # guidance counts double
    found = judge.quality(model, 500)
    assert found.read_right >= 0.97 and found.std_ratio >= 0.9
    assert found.nearest_train > 0.8 * judge.nearest(judge.held_out)


def test_the_judge_sees_noise_collapse_and_copies(judge):
    class Fake(unnoise.Model):
        def __init__(self, images):
            self.images = images

        def sample(self, num, **_):
            return torch.from_numpy(self.images[:num])

    copies = (judge.train.reshape(-1, 1, 8, 8) * 255).astype(np.uint8)
    assert judge.quality(Fake(copies), 500).nearest_train < 0.1
    one = np.repeat(copies[:1], 500, 0)
    assert judge.quality(Fake(one), 500).std_ratio < 0.01
    noise = np.random.default_rng(0).integers(0, 256, (500, 1, 8, 8), np.uint8)
    assert judge.quality(Fake(noise), 500).read_right < 0.3


@pytest.mark.slow
def test_a_freshly_trained_digits_model_in_two_minutes(judge, tmp_path):
    began = time.monotonic()
    assert cli.main(["train", "digits", "--out", str(tmp_path / "run")]) == 0
    assert time.monotonic() - began < 120
    found = judge.quality(unnoise.load(tmp_path / "run"))
    assert found.read_right >= 0.97 and found.std_ratio >= 0.9
    assert found.nearest_train > 0.8 * judge.nearest(judge.held_out)


@pytest.fixture
def cifar(tmp_path):
    """CIFAR-10's binary layout with a hundred random pictures a file."""
    random = np.random.default_rng(0)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        rows = random.integers(0, 256, (100, 3073), np.uint8)
        rows[:, 0] %= 10
        (folder / name).write_bytes(rows.tobytes())
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["cifar10", "ddpm", "iddpm"])
def test_the_large_presets_take_twenty_steps(cifar, tmp_path, preset, capsys):
    flags = [
        "--data.path",
        str(cifar),
        "--batch-size",
        "4",
        "--train.micro-batch",
        "4",
        "--sample.steps",
        "1",
    ]
    assert cli.main(["train", preset, *flags, "--dry-run"]) == 0
    assert "parameters" in capsys.readouterr().out
    out = tmp_path / "run"
    assert (
        cli.main(
            [
                "train",
                preset,
                *flags,
                "--epochs",
                "0.16",
                "--train.log-every-kimg",
                "0.016",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    assert (out / "checkpoints" / "step-00000020").is_dir()
    assert np.isfinite(
        [json.loads(line).get("loss", 0) for line in (out / "metrics.jsonl").open()]
    ).all()
