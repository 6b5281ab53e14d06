"""A record from its command to its line, the page, and the same weights again."""

from __future__ import annotations

import functools
import json
import sys

import pytest

from benchmarks import records

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
    (tmp_path / "records.md").write_text("# R\n<!-- lines -->\nold\n<!-- end of lines -->\nmore\n")

    def run(*words):
        flags = ["--work", str(tmp_path / "work"), "--num", "64", "--tune", "200"]
        monkeypatch.setattr(sys, "argv", ["r", *flags, "--set", json.dumps(SMALL), *words])
        records.main()
        return [json.loads(text) for text in (tmp_path / "record.jsonl").read_text().splitlines()]

    return run


@pytest.mark.slow
def test_a_line_is_made_and_made_again(command, tmp_path, capsys):
    (line,) = command("digits-60s")
    assert line["training"]["nimg"] == 1000 * line["kimg"] and line["seed"] == 0
    assert abs(line["kimg"] - 2 * line["images_per_sec"]["median"] / 1000) < 0.04
    assert line["num"] == 64 and line["distances"]["tiny"]["frechet"] > 0
    page = (tmp_path / "records.md").read_text()
    assert "| 1 | digits-60s, seed 0 |" in page and "old" not in page and page.endswith("more\n")

    assert command("digits-60s") == [line]  # everything was there
    (again,) = command("digits-60s", "--num", "80")  # but not so many samples
    assert again["num"] == 80 and again["weights"] == line["weights"]
    assert command("digits-60s") == [line]
    measured = tmp_path / "work" / "digits-60s-0" / "measured.json"
    there = json.loads(measured.read_text())["distances"]
    measured.unlink()
    assert command("digits-60s", "--measure-on", "cpu") == [line]
    assert json.loads(measured.read_text())["distances"] == there
    with pytest.raises(SystemExit, match="0"):
        command("reproduce", "1")
    assert "the same" in capsys.readouterr().out

    changed = {**line, "weights": "0" * 64}
    (tmp_path / "record.jsonl").write_text(json.dumps(changed) + "\n")
    with pytest.raises(SystemExit, match="1"):
        command("reproduce", "1")
    assert "NOT the same" in capsys.readouterr().out
    other = {**changed, "where": {**line["where"], "processor": "another"}}
    (tmp_path / "record.jsonl").write_text(json.dumps(other) + "\n")
    with pytest.raises(SystemExit, match="0"):
        command("reproduce", "1")
    assert "another processor" in capsys.readouterr().out
