"""Where a run stands: the rule on synthetic curves, copies on planted ones, and what is said."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

import unnoise
from unnoise import cli
from unnoise.evaluation import verdict
from unnoise.evaluation.verdict import trend
from unnoise.training import loop
from unnoise.training.run import preview_times

TIMES = {"even": np.linspace(0.05, 1, 20), "1h": np.array([*preview_times(3600), 3600]) / 3600,
         "10m": np.array([*preview_times(600), 600]) / 600}  # fmt: skip
CURVES = {
    "falling": lambda x: 0.2 + 0.03 * x**-0.5,
    "flat": lambda x: 0.2 + 0 * x,
    "rising": lambda x: 0.2 + 0.1 * np.exp(-20 * x) + 0.05 * x**2,
}


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("kind", CURVES)
def test_the_kind_of_a_curve(times, kind):
    x, random = TIMES[times], np.random.default_rng(0)
    for noise, least in ((0, 1), (0.001, 0.97), (0.003, 0.85)):
        curves = CURVES[kind](x) * (1 + noise * random.standard_normal((200, len(x))))
        found = Counter(trend(list(1e5 * x), list(curve)).kind for curve in curves)
        assert found[kind] >= 200 * least, found


def test_a_fall_within_the_noise_is_none():
    """0.4 % in the last third: less than 0.5 %, and then 2 % in noise of 3 %."""
    x, random = TIMES["even"], np.random.default_rng(0)
    assert trend(list(x), list(1 - 0.01 * np.log(x))).kind == "flat"
    curves = (1 - 0.05 * np.log(x)) * (1 + 0.03 * random.standard_normal((200, len(x))))
    found = Counter(trend(list(x), list(curve)).kind for curve in curves)
    flat = Counter(
        trend(list(x), list(1 + 0.03 * y)).kind for y in random.standard_normal((200, 20))
    )
    assert flat["rising"] < 30 and flat["falling"] < 30
    assert found["falling"] < 60 and trend(list(x), list(1 - 0.05 * np.log(x))).kind == "falling"


def test_the_numbers_of_a_trend():
    x, last_third = np.linspace(0.1, 1, 10), 0.1 * np.log(3 / 2)
    found = trend(list(x), list(1 - 0.1 * np.log(x)))
    assert found.change == pytest.approx(-last_third / (1 + last_third)) and found.lowest == 9
    up = trend([1, 2, 3, 4, 5, 6], [3.0, 2.0, 2.5, 3.0, 3.5, 4.0])
    assert up == ("rising", pytest.approx(1.0), 1)
    assert trend([1, 2, 3, 4], [5.0, 5.0, 5.0, 5.0]) == ("flat", 0.0, 0)


def lines(folder, losses, config=None, data=None, samples=None):
    """What is said of a run with these held-out losses at 1, 2, .. kimg."""
    rows = [{"step": 10 * i, "nimg": 1000 * i, "loss": 1.0} for i in range(1, 9)]
    rows += [
        {"step": 10 * i, "nimg": 1000 * i, "held_out_loss": v} for i, v in enumerate(losses, 1)
    ]
    folder.mkdir(exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text + '{"nimg": 9000, "held_out_l')
    data = data or images(200)
    samples = images(64, 9).images if samples is None else samples
    config = config or unnoise.preset("digits")
    return verdict.verdict(config, data, folder, torch.from_numpy(samples.copy()))


def images(count: int, seed: int = 0):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 8, 8), dtype=np.uint8)
    return unnoise.dataset(pixels, name="noise", config=unnoise.DataConfig(held_out=0.1))


def test_it_says_what_to_do_next(tmp_path):
    run = tmp_path / "a run"
    falls = [0.5, 0.4, 0.3, 0.25, 0.22, 0.2]
    own = {"train.epochs": None, "train.kimg": 6.0, "train.time": None}
    (loss, copies) = lines(run, falls, unnoise.preset("digits", own))
    more = f"more time helps: unnoise train '{run}' --kimg 12"
    assert loss == f"held-out loss still falling (-20.0% over the last third of the run): {more}"
    assert copies == "copies: 0 of 64 samples, 0 of 20 held-out pictures"
    ends = {"train.kimg": 7.0, "train.epochs": 50}  # not reached
    for time, twice in (("1h", "2h"), ("90s", "3m"), ("20s", "40s"), ("20m", "40m")):
        config = unnoise.preset("digits", {**ends, "train.time": time})
        assert lines(run, falls, config)[0].endswith(f"' --time {twice}")
    assert lines(run, [0.5, 0.3, 0.3, 0.3, 0.3])[0] == (
        "held-out loss flat (-0.0% over the last third of the run): more time alone helps little"
    )
    assert lines(run, [0.5, 0.2, 0.3, 0.35, 0.3])[0] == (
        "held-out loss without a clear trend (-5.8% over the last third of the run): within its "
        "noise"
    )
    (run / "checkpoints/step-00000020").mkdir(parents=True)
    assert lines(run, [0.5, 0.2, 0.3, 0.35, 0.4])[0] == (
        f"held-out loss 100.0% above its lowest, of 2 kimg ({run}/checkpoints/step-00000020): "
        "overfitting: more pictures help, more time does not"
    )


def test_of_too_little_nothing_is_said(tmp_path):
    assert lines(tmp_path, [0.5, 0.4, 0.3])[0] == (
        "held-out loss: no verdict (needs 4 previews, got 3)"
    )
    assert lines(tmp_path, [0.5, 0.4, 0.3, 0.2], data=images(90))[0] == (
        "held-out loss: no verdict (needs 10 held-out pictures, got 9)"
    )


def test_copies_are_appearing_where_held_out_pictures_have_fewer(tmp_path, monkeypatch):
    data, falls = images(300), [0.5, 0.4, 0.3, 0.25, 0.22, 0.2]
    samples = images(64, 9).images.copy()
    samples[:5] = data.images[10:15]
    loss, copies = lines(tmp_path, falls, data=data, samples=samples)
    assert copies == (
        "copies are appearing (5 of 64 samples, 0 of 30 held-out pictures): "
        "more pictures, or stop here"
    )
    assert loss.endswith("over the last third of the run)")  # and no advice to go on
    repeated = data.images.copy()
    repeated[data.num_train : data.num_train + 4] = repeated[:4]  # 4 of 30 held out
    same = replace(data, images=repeated)
    samples[:10] = data.images[10:20]
    assert lines(tmp_path, falls, data=same, samples=samples)[1] == (
        "copies: 10 of 64 samples, 4 of 30 held-out pictures"
    )
    samples[:20] = data.images[10:30]
    assert "appearing (20 of 64" in lines(tmp_path, falls, data=same, samples=samples)[1]
    alone = replace(data, images=data.images[:200], num_train=200)  # nothing is held out
    for count, twins, appear in ((1, 0, False), (6, 0, True), (6, 10, False), (30, 10, True)):
        samples = images(64, 9).images.copy()
        pictures = alone.images.copy()
        pictures[20 : 20 + twins] = pictures[:twins, :, :, ::-1]  # in a mirror
        samples[:count] = pictures[:count]
        few = replace(alone, images=pictures)
        found = lines(tmp_path, falls, data=few, samples=samples)[1]
        assert found.startswith("copies are appearing (" if appear else "copies: ")
        said = f"{count} of 64 samples, {2 * twins} of 128 training pictures among themselves"
        assert said in found
    monkeypatch.setattr(verdict, "MOST_VALUES", 1000)
    assert lines(tmp_path, falls, data=same, samples=samples)[1] == (
        f"copies: not looked for among 270 pictures; unnoise evaluate {tmp_path} does"
    )


def test_a_run_ends_with_it_and_it_goes_when_the_run_goes_on(tmp_path, capsys, monkeypatch):
    changes = {
        "train.kimg": 0.64, "train.sample_every_kimg": 0.128, "train.batch_size": 16,
        "network.base_channels": 8, "sample.steps": 2, "train.checkpoint_every_kimg": 10,
    }  # fmt: skip
    run, said = tmp_path / "run", []
    unnoise.train("digits", run, changes, on_event=lambda event: said.append(event))
    text = (run / "verdict.txt").read_text()
    assert text in [getattr(event, "text", "") for event in said]
    assert "more time helps" in text and "copies: 0 of 6" in text
    assert cli.main(["info", str(run)]) == 0
    assert text in capsys.readouterr().out
    from unnoise.studio.run_folder import read

    assert read(run)["verdict"] == text.splitlines()
    (words,) = [line.split(": ")[-1] for line in text.splitlines() if "more time" in line]
    step = loop.train_step
    gone = lambda *given: step(*given) if not (run / "verdict.txt").exists() else pytest.fail("old")
    monkeypatch.setattr(loop, "train_step", gone)
    assert cli.main([*words.split()[1:], "--train.kimg", "0.8"]) == 0  # the command is one
    assert (run / "verdict.txt").read_text() in capsys.readouterr().out
    (run / "verdict.txt").write_text("old")
    assert cli.main(["train", str(run)]) == 0  # it is done already
    assert (run / "verdict.txt").read_text() == "old"
