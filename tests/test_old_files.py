"""Files of earlier versions load for ever: a bundled model, and what version 0.1 wrote.

Their records hold settings that may be retired since, such as sample.deep_cache.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import unnoise
from unnoise import cli

FIXTURES = Path(__file__).parent / "fixtures"
RUN = FIXTURES / "run-0.1"
OLD_DIGITS = FIXTURES / "digits-0.1.safetensors"
"""The first bundled model: v-prediction on the discrete cosine schedule, AdamW, 70 kimg."""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return shutil.copytree(RUN, tmp_path / "run")


@pytest.mark.parametrize("name", ["digits-0.1", "run-0.1"])
def test_an_old_model_makes_the_picture_that_it_made(name):
    model = unnoise.load(RUN if name == "run-0.1" else OLD_DIGITS, "cpu")
    then = np.asarray(Image.open(FIXTURES / f"{name}-seed-3.png").convert("L"), int)
    now = model.sample(1, seed=3)[0, 0].numpy()
    assert np.abs(then - now).max() <= 1  # other processors round differently


@pytest.mark.parametrize("sampler", ["fast", "balanced", "best", "nfe_8"])
def test_settings_tuned_by_an_old_version_still_sample(sampler):
    assert unnoise.load(OLD_DIGITS, "cpu").sample(1, sampler=sampler).shape == (1, 1, 8, 8)


@pytest.mark.parametrize("file", ["checkpoints/step-00000020", "model-ema-0.05.safetensors"])
def test_an_old_checkpoint_and_another_average_sample(file):
    assert unnoise.load(RUN / file, "cpu").sample(1).shape == (1, 1, 8, 8)


def test_an_old_run_resumes_where_it_stopped(run):
    assert cli.main(["train", str(run), "--device", "cpu"]) == 0
    expected = metrics(FIXTURES / "run-0.1-finished.jsonl")
    resumed = metrics(run / "metrics.jsonl")
    assert [line["step"] for line in resumed] == [line["step"] for line in expected]
    for name in ("loss", "grad_norm", "held_out_loss", "held_out_loss_raw"):
        now, then = (
            [line[name] for line in lines if name in line] for lines in (resumed, expected)
        )
        np.testing.assert_allclose(now, then, rtol=1e-4, err_msg=name)


def test_a_run_that_used_retired_settings_resumes_without_them(run, capsys):
    record = json.loads((run / "config.json").read_text())
    used = {"pairing": "optimal_transport", "async_save": "on", "on_save_error": "continue"}
    assert used.keys() <= record["config"]["train"].keys()
    record["config"]["train"] |= used
    (run / "config.json").write_text(json.dumps(record))
    assert cli.main(["train", str(run), "--device", "cpu"]) == 0
    assert "done" in capsys.readouterr().out
    for name in used:
        assert cli.main(["train", "digits", f"--train.{name.replace('_', '-')}", "on"]) == 2
    assert json.loads((run / "config.json").read_text())["config"]["train"].keys().isdisjoint(used)


def metrics(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_old_files_are_described(run, capsys):
    for path in (str(OLD_DIGITS), str(RUN), str(FIXTURES / "run-0.1-seed-3.png")):
        assert cli.main(["info", path]) == 0
    out = capsys.readouterr().out
    assert "1 x 8 x 8 · 10 classes" in out and '"seed": 3' in out
    assert cli.main(["compare", str(RUN), str(run)]) == 0
    assert cli.main(["report", str(run)]) == 0
    assert cli.main(["export", str(run), "--out", str(run / "alone.safetensors")]) == 0
