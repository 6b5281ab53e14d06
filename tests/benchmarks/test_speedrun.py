"""The quarter of an hour on a GPU, from end to end on the digits; what it falls back on."""

from __future__ import annotations

import hashlib
import json
import sys

import pytest

import unnoise
from benchmarks import gpu_options, speedrun

TINY = {
    "train.batch_size": 32, "train.warmup_kimg": 0.1, "train.precision": "fp32",
    "train.sample_every_kimg": 1e6, "train.checkpoint_every_kimg": 1e6,
    "train.log_every_kimg": 0.032, "train.ema_halflife_kimg": 0.1, "train.ema_also_kimg": [0.05],
    "data.source": "digits", "network.base_channels": 8, "network.blocks_per_level": 1,
    "network.norm_groups": 4, "network.attention_sizes": [4],
    "network.channel_multipliers": [1, 2], "sample.guidance_interval": [0, 100],
}  # fmt: skip


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.setattr(speedrun, "END_SEC", 0)

    def run(what, *words):
        out = tmp_path / "found.json"
        flags = [
            "--work", str(tmp_path / "work"), "--out", str(out), "--device", "cpu",
            "--features", "tiny", "--choose", "48", "--num", "64", "--set", json.dumps(TINY),
        ]  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["speedrun", what, *words, *flags])
        speedrun.main()
        return json.loads(out.read_text())

    return run


@pytest.mark.long
def test_from_the_first_step_to_the_model_file(command, tmp_path, capsys):
    found = command("fit", "--option", "eager", "--minutes", "0.03")
    file = tmp_path / "work" / "cifar10.safetensors"
    assert found["file"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert found["training"]["nimg"] > 0 and found["log"][0]["loss"] > 0
    assert found["option"] == "eager" and found["training"]["flop_per_image"] > 0

    found = command("measure", "--guide", "1")
    names = ["model-ema-0.05.safetensors", "model.safetensors"]
    assert [*found["chosen"]][:2] == names and len(found["chosen"]) == 3
    best = min(names, key=lambda name: found["chosen"][name]["distance"])
    assert found["file"]["of"] == best
    exported, own = unnoise.load(file, "cpu"), unnoise.load(tmp_path / "work" / "eager" / best)
    halflives = [m.record["training"]["ema_halflife_kimg"] for m in (exported, own)]
    assert halflives[0] == halflives[1]
    for one in found["final"].values():
        low, high = one["tiny"]["interval"]
        assert low <= one["tiny"]["distance"] <= high and one["num"] == 64

    again = command("measure", "--guide", "1")  # nothing twice
    assert again == found
    assert "unguided" in capsys.readouterr().out


@pytest.mark.long
def test_no_time_is_no_measurement(command):
    command("fit", "--option", "eager", "--minutes", "0.03")
    found = command("measure", "--guide", "1")
    few = command("measure", "--minutes", "0")
    assert few == found


def test_the_fastest_option_that_held_comes_first(tmp_path):
    good = {"images_per_sec": 10.0, "flop_per_sec": 1e12, "compiled": False, "micro_batch": None}
    options = {
        "eager": good,
        "compiled": {**good, "images_per_sec": 30.0},  # fell back to eager: not what it says
        "compiled, cudnn benchmark": {**good, "images_per_sec": 20.0, "compiled": True},
        "sample": {"64 at once": {"images_per_sec": 99.0, "flop_per_sec": 1e11}},
        "ceilings": {"matmul": {"2048": 1e12}},
    }
    path = tmp_path / "options.json"
    path.write_text(json.dumps({"options": options}))
    assert speedrun.ranked(path) == ["compiled, cudnn benchmark", "eager"]
    options["eager"] = {"error": "out of time"}
    options["compiled, cudnn benchmark"]["micro_batch"] = 128
    path.write_text(json.dumps({"options": options}))
    assert speedrun.ranked(path) == speedrun.ranked(None) == ["eager"]
    assert "failed" in gpu_options.table({"options": options})


def test_an_option_that_dies_gives_way_to_the_next(command, tmp_path, monkeypatch, capsys):
    tried = []

    class Process:
        def __init__(self, words):
            last = len(words) - words[::-1].index("--option")  # the one that counts
            tried.append(words[last])

        def wait(self):
            return len(tried) % 2

        def send_signal(self, number):
            raise AssertionError

    monkeypatch.setattr(speedrun.subprocess, "Popen", Process)
    (tmp_path / "found.json").write_text("{}")
    command("train", "--option", "compiled", "eager", "--minutes", "1")
    assert tried == ["compiled", "eager"] and "compiled ended with 1" in capsys.readouterr().out
