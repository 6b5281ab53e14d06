"""What the models are worth: digits by a classifier of real ones, large presets by training."""

from __future__ import annotations

import json
import time
from typing import NamedTuple

import numpy as np
import pytest
import torch
from sklearn.svm import SVC

import unnoise
from unnoise import cli
from unnoise.records import bundled


class Judge:
    """A support vector classifier, and the training digits that it and the models saw."""

    def __init__(self) -> None:
        data = unnoise.load_data(unnoise.preset("digits"))
        pixels, n = _pixels(data.images), data.num_train
        self.train, self.held_out = pixels[:n], pixels[n:]
        self.classifier = SVC(gamma="scale", C=10).fit(self.train, data.labels[:n])
        self.accuracy = self.classifier.score(self.held_out, data.labels[n:])

    def nearest(self, pixels: np.ndarray) -> float:
        """Mean distance to the nearest training image."""
        square = (pixels**2).sum(1)[:, None] - 2 * pixels @ self.train.T + (self.train**2).sum(1)
        return np.sqrt(square.min(1).clip(0)).mean()

    def quality(self, model: unnoise.Model, num: int = 1000) -> Quality:
        """Of samples of seeds 0.., labelled by seed modulo 10."""
        pixels = _pixels(model.sample(num, batch_size=250).numpy())
        return Quality(
            (self.classifier.predict(pixels) == np.arange(num) % 10).mean(),
            pixels.std(0).mean() / self.train.std(0).mean(),
            self.nearest(pixels),
        )


class Quality(NamedTuple):
    """Share read as its label, deviation of a pixel over real digits', distance to training."""

    read_right: float
    std_ratio: float
    nearest_train: float


def _pixels(images: np.ndarray) -> np.ndarray:
    return np.asarray(images).reshape(len(images), -1) / 255.0


@pytest.fixture(scope="module")
def judge() -> Judge:
    judge = Judge()
    assert judge.accuracy > 0.98
    return judge


@pytest.mark.long
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
    assert cli.main(["plan", preset, *flags]) == 0
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
