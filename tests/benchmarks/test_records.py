"""A record from its command to its line, the page, and the same weights again."""

from __future__ import annotations

import argparse
import functools
import json
import sys

import numpy as np
import pytest
from scipy import stats

import unnoise
from benchmarks import records

REAL = records.LINES
SMALL = {"train.batch_size": 32, "network.base_channels": 8, "train.precision": "fp32"}


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "LINES", tmp_path / "record.jsonl")
    monkeypatch.setattr(records, "PAGE", tmp_path / "records.md")
    monkeypatch.setattr(records, "RUNS", {"digits-60s": ("digits", "2s"), "b": ("digits", "1s")})
    monkeypatch.setattr(records, "SPEED", records.Plan(rounds=2, tries=1))
    monkeypatch.setattr(records, "SAMPLE_SEC", 0.3)
    monkeypatch.setattr(records, "BUDGETS", (10,))
    few = functools.partial(records.tuning.tune, images=2)
    monkeypatch.setattr(records.tuning, "tune", few)
    monkeypatch.setattr(records.tuning, "ENDS", ((80.0, 0.002),))
    monkeypatch.setattr(records.tuning, "SAMPLERS", ("ddim", "unipc_2"))
    (tmp_path / "records.md").write_text("# R\n<!-- lines -->\nold\n<!-- end of lines -->\nmore\n")

    def run(*words, expected=0):
        flags = ["--work", str(tmp_path / "work"), "--tune", "200"]
        flags += [] if words[0] == "reproduce" else ["--set", json.dumps(SMALL)]
        monkeypatch.setattr(sys, "argv", ["r", *flags, *words])
        assert records.main() == expected
        return records.read()

    return run


@pytest.mark.slow
def test_a_line_is_made_and_made_again(command, tmp_path, capsys):
    (line,) = command("digits-60s", "--num", "64")
    assert line["training"]["nimg"] == 1000 * line["kimg"] and line["seed"] == 0
    assert abs(line["kimg"] - 2 * line["images_per_sec"]["median"] / 1000) < 0.04
    assert line["num"] == 64 and line["distances"]["tiny"]["frechet"] > 0
    assert len(line["sampling"]["noises"]) == line["sampling"]["steps"] <= 10
    page = (tmp_path / "records.md").read_text()
    assert "| 1 | digits-60s, seed 0 |" in page and "old" not in page and page.endswith("more\n")

    assert command("digits-60s", "--num", "64") == [line]  # everything was there
    (again,) = command("digits-60s", "--num", "80")  # but not so many samples
    assert again["num"] == 80 and again["weights"] == line["weights"]
    assert command("digits-60s", "--num", "64") == [line]
    measured = tmp_path / "work" / "digits-60s-0" / "measured.json"
    there = json.loads(measured.read_text())["distances"]
    measured.unlink()
    assert command("digits-60s", "--num", "64", "--measure-on", "cpu") == [line]
    assert json.loads(measured.read_text())["distances"] == there
    command("reproduce", "1")
    assert "line 1: the same weights" in capsys.readouterr().out

    changed = {**line, "weights": "0" * 64}
    records.write([changed])
    command("reproduce", "1", expected=1)
    assert capsys.readouterr().out.strip().endswith("line 1: not the same weights")

    # Of another processor the numbers are compared: three seeds there expect the line's.
    *noises, last = line["sampling"]["noises"]
    noises = [*noises, 1.01 * last]
    other = {**changed, "sampling": {**line["sampling"], "noises": noises},
             "where": {**line["where"], "processor": "another"}}  # fmt: skip
    records.write([other])
    for seed, code in (("0", 2), ("1", 2), ("2", 0)):
        command("reproduce", "1", "--seed", seed, expected=code)
        said = capsys.readouterr().out
        assert "need not be: processor " in said and ("needs 3 seeds" in said) == (code == 2)
    said = {text.split(":")[0]: text for text in said.splitlines()}
    for name in ("held-out loss", "bits/dim", "tiny frechet, 64 samples"):
        assert ": within " in said[name]
    losses = said["held-out loss"].split("; ")[1].split(": ")[0].split(" · ")
    assert len(set(losses)) == 3
    kept = next((tmp_path / "work").glob("again-*/1/measured.json"))
    assert json.loads(kept.read_text())["model"]["noises"] == noises  # the line's solver

    worse = {**other, "training": {**line["training"], "held_out_loss": 2.0}}
    records.write([worse])
    command("reproduce", "1", expected=1)
    said = capsys.readouterr().out
    assert "held-out loss: 2; " in said and said.count("NOT within") == 1


@pytest.mark.slow
@pytest.mark.usefixtures("command")
def test_another_guidance_is_tuned_for_again(tmp_path):
    model, file = unnoise.load("digits"), tmp_path / "tuned.safetensors"
    model = model.with_tuned({})
    first = records.tuned(model, file, 60).settings(**records.WAY)
    model.config = unnoise.override(model.config, {"sample.guidance_scale": 3.0})
    second = records.tuned(model, file, 60).settings(**records.WAY)
    assert (first.guidance_scale, second.guidance_scale) == (1.5, 3.0)
    written = file.stat().st_mtime_ns
    records.tuned(model, file, 60)
    assert file.stat().st_mtime_ns == written


def test_the_length_of_a_run_is_measured_once_for_its_settings(command, tmp_path, monkeypatch):
    rates = iter((1000.0, 2000.0))
    monkeypatch.setattr(records, "speed", lambda _config: {"median": next(rates)})
    flags = argparse.Namespace(work=tmp_path, seed=0, data_path=None, set={})
    first, again = (records.configured("digits-60s", flags)[0] for _ in range(2))
    assert first == again and first.train.kimg == 1.984  # 31 steps of 64 in 2 s
    flags.set = {"network.base_channels": 16}
    assert records.configured("digits-60s", flags)[0].train.kimg == 3.968


def test_a_line_keeps_its_number(command):
    lines = [json.loads(line) for line in REAL.read_text().splitlines()]
    records.write([*lines, {**lines[1], "weights": "0" * 64}])
    assert [line["name"] for line in records.read()] == [
        "digits-60s",
        "cpu-10m",
        "cpu-1h",
        "cpu-10m",
    ]


@pytest.mark.parametrize(("words", "said"), [
    (("0",), "line: got 0, expected 1 to 0, as in docs/records.md\n"),
    (("1", "--set", '{"seed": 1}'),
     "--set: got changes, expected none; a line has its own settings\n"),
])  # fmt: skip
def test_what_cannot_be_reproduced_is_one_line(command, capsys, words, said):
    with pytest.raises(SystemExit, match="2"):
        command("reproduce", *words)
    assert capsys.readouterr().err == said


def test_a_further_seed_is_expected_where_students_t_says():
    """scipy's interval of a mean is t s / sqrt(n); that of one more value, t s sqrt(1 + 1 / n)."""
    values = [1.0, 2.0, 4.0, 5.5]
    low, high = records.expected(values, 0.05)
    mean, error = np.mean(values), stats.sem(values)
    _, above = stats.t.interval(0.95, 3, loc=mean, scale=error)
    assert low == pytest.approx(2 * mean - high)
    assert high - mean == pytest.approx((above - mean) * 5**0.5)
