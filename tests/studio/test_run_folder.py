"""A run as plain data: its numbers are the run's, and no state of the folder breaks the reader."""

from __future__ import annotations

import json
import os
import shlex
import time
from pathlib import Path

import pytest
import torch

from tests.studio.made import EVIL, HASH, make_hostile, model_file, png
from unnoise import cli, environment
from unnoise.cli.train import Train, configured
from unnoise.config import to_dict
from unnoise.errors import CheckpointError
from unnoise.precision import Arithmetic
from unnoise.presets import changed, named
from unnoise.studio.run_folder import MOST_POINTS, read, thinned


def problems(folder: Path) -> str:
    return "\n".join(read(folder)["problems"])


def test_the_numbers_are_those_of_the_run(run):
    data = read(run)
    assert data["problems"] == [] and (data["name"], data["folder"]) == ("one run", str(run))
    assert data["seen"] == {
        "nimg": 2000, "epoch": 1.0, "train_sec": 3725.0, "loss": 0.43215678,
        "held_out_loss": 0.61234567,
    }  # fmt: skip
    assert (data["progress"], data["parameters"], data["weights"]) == (0.5, 22, HASH)
    assert data["curves"]["loss"] == {
        "count": 2, "nimg": [1000, 2000], "values": [0.87654321, 0.43215678],
    }  # fmt: skip
    assert {"odd", "step", "epoch", "train_sec"}.isdisjoint(data["curves"])
    assert data["settings"]["preset"] == "digits"
    assert data["settings"]["differs"] == {"train.kimg": 30, "train.betas": [0.9, 0.999]}
    assert data["settings"]["values"]["train.betas"] == [0.8, 0.9]
    assert data["samples"] == [
        {"nimg": 1000, "path": "samples/0000001000.png"},
        {"nimg": 2000, "path": "samples/0000002000.png"},
    ]
    assert data["data"]["picture"] == {"path": "data.png"} and data["data"]["num_train"] == 1500
    assert [start["device"] for start in data["environment"]] == ["cpu", "H100"]
    (checkpoint,) = data["checkpoints"]
    assert checkpoint["nimg"] == 2000 and checkpoint["state"] == "all files of the right size"
    assert data["tuned"]["fast"]["noises"] == [30.0, 0.15]


def test_every_start_is_kept(run):
    (run / "environment.json").unlink()
    for step in (0, 10):
        environment.write(run, Arithmetic(torch.device("cpu"), torch.float32, False, False), step)
    assert [start["step"] for start in read(run)["environment"]] == [0, 10]


def test_a_setting_of_an_older_version_is_no_difference(run):
    recorded = json.loads((run / "config.json").read_text())
    recorded["config"]["sample"]["deep_cache"] = 2
    (run / "config.json").write_text(json.dumps(recorded))
    data = read(run)
    assert list(data["settings"]["differs"]) == ["train.kimg", "train.betas"]
    assert "deep-cache" not in data["commands"][0]["line"]


def test_the_evaluation_comes_as_labelled_tables(run):
    found = read(run)["evaluation"]
    assert "200 samples" in found["title"] and found["notes"] == ["a note"]
    distances, rest = found["tables"]
    assert distances["rows"][0][0].startswith("Fréchet distance")
    assert distances["rows"][0][1:] == ["6.5 [5.5, 7.5]", "3.25 [2.25, 4.25]"]
    assert rest["rows"][-1][-1] == "0 of 200 samples are copies"
    assert found["samples"] == {"path": "evaluation/samples.png"}
    assert found["neighbours"] == {"path": "evaluation/neighbours.png"}
    (run / "evaluation.json").write_text('{"model": 3, "distances": []}')
    assert read(run)["evaluation"] is None and "evaluation.json: cannot be read" in problems(run)


def test_numbers_of_other_weights_are_said(run):
    found = json.loads((run / "evaluation.json").read_text())
    found["model"]["weights"] = "feed"
    (run / "evaluation.json").write_text(json.dumps(found))
    assert "evaluation.json is of other weights (feed)" in problems(run)


def test_a_run_is_running_stopped_or_finished(run):
    hour = 3600  # its two lines are an hour apart
    for age, state in ((0, "running"), (2 * hour, "running"), (4 * hour, "stopped")):
        for name in ("config.json", "metrics.jsonl"):
            os.utime(run / name, (time.time() - age,) * 2)
        assert read(run)["state"] == state
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"nimg": 4001, "loss": 0.3}\n')
    assert (read(run)["state"], read(run)["progress"]) == ("finished", 1)


def test_the_nearest_end_is_the_end(run):
    recorded = json.loads((run / "config.json").read_text())
    for ends, progress in (
        ({"kimg": 20.0, "epochs": None, "time": "2h"}, 3725 / 7200),
        ({"kimg": None, "epochs": 4.0, "time": "20h"}, 0.25),
        ({"kimg": None, "epochs": None, "time": "a while"}, None),
    ):
        recorded["config"]["train"] |= ends
        (run / "config.json").write_text(json.dumps(recorded))
        assert read(run)["progress"] == progress


def test_a_long_curve_is_thinned_without_losing_ends_or_spikes():
    values = [(float(i), float(i % 7)) for i in range(50_000)]
    values[31_415] = (31_415.0, 99.0)
    values[27_182] = (27_182.0, -99.0)
    thin = thinned(values)
    assert len(thin) <= MOST_POINTS + 2 and thin == sorted(thin)
    assert {values[0], values[-1], values[31_415], values[27_182]} <= set(thin)


def test_a_curve_never_doubles_back(run):
    lines = [{"nimg": nimg, "loss": 1.0} for nimg in (2000, 3000, 1000)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read(run)["curves"]["loss"]["nimg"] == [1000, 2000, 3000]


def test_old_grids_are_ordered_by_number_and_other_files_are_none(run):
    for name in ("00000500.png", "3000.png", "grid.png", "-5.png", "9" * 200 + ".png", "7.txt"):
        (run / "samples" / name).write_bytes(png())
    assert [one["nimg"] for one in read(run)["samples"]] == [500, 1000, 2000, 3000]


PIECES = ("environment.json", "metrics.jsonl", "data.png", "samples", "checkpoints",
          "model.safetensors", "config.json")  # fmt: skip


@pytest.mark.parametrize("piece", PIECES)
def test_what_is_missing_is_said(run, piece):
    run.joinpath(piece).rename(run / "elsewhere")
    assert piece in problems(run)


@pytest.mark.parametrize("piece", [p for p in PIECES if "." in p])
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1, 2]", b"\xff\xfe\0", b"null", b"[" * 100_000, b'{"config": {}}', b"9" * 9],
)
def test_what_is_broken_is_said(run, piece, content):
    (run / piece).write_bytes(content)
    assert piece in problems(run) or (piece, content) == ("environment.json", b"[1, 2]")


def test_broken_lines_are_left_out_and_counted(run):
    bad = ['{"step": 3, "nim', '"text"', "7", '{"loss": 4}', '{"nimg": "a"}', '{"nimg": -1}',
           '{"nimg": true}', "\0", ""]  # fmt: skip
    good = [
        '{"nimg": 3000, "loss": NaN, "lr": 0.5}',
        '{"nimg": 3100, "loss": Infinity}',
        '{"nimg": 3200, "loss": 1' + "0" * 999 + "}",
    ]
    with (run / "metrics.jsonl").open("a") as file:
        file.write("\n".join(bad + good))
    said = problems(run)
    assert f"metrics.jsonl: {len(bad)} broken line(s) left out (line 5, 6, 7, 8, 9, ..)" in said
    assert "2 value(s) that are not finite" in said
    curves = read(run)["curves"]
    assert curves["loss"]["values"] == [0.87654321, 0.43215678]
    assert curves["lr"]["values"] == [1e-3, 2e-3, 0.5]


def test_damage_that_can_be_seen_is_said(run):
    model = run / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1])
    (run / "checkpoints" / "step-00000020" / "ema.safetensors").write_bytes(b"short")
    (run / "samples" / "0000001000.png").write_bytes(png()[:-12])
    said = problems(run)
    assert "model.safetensors is truncated" in said
    assert "samples/0000001000.png: is not a whole PNG" in said
    data = read(run)
    assert data["checkpoints"][0]["state"] == "damaged: ema.safetensors"
    assert [one["nimg"] for one in data["samples"]] == [2000]


def test_a_model_behind_the_curves_is_said(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"nimg": 2500, "loss": 0.3}\n')
    assert "model.safetensors is of 2,000 images; the curves reach 2,500" in problems(run)


def test_a_run_that_has_just_begun_is_data(run):
    for path in run.iterdir():
        if path.name != "config.json":
            path.rename(run.parent / path.name)
    data = read(run)
    assert data["state"] == "running" and data["curves"] == {} and data["parameters"] is None
    assert [one["about"].split(" (")[0] for one in data["commands"]] == ["Resume the training"]


def test_whatever_is_in_the_files_the_data_are_strict_json(run):
    folder = make_hostile(run)
    data = json.loads(json.dumps(read(folder), allow_nan=False))
    values = data["settings"]["values"]
    assert values[f"{EVIL}.__proto__"] == "nan" and values[f"{EVIL}.inf"] == ["inf"]
    assert values[f"{EVIL}.big"] == str(2**70) and data["settings"]["differs"] is None
    assert data["curves"][EVIL]["values"] == [1, 2, 3] and data["name"] == folder.name


def test_deep_nesting_is_cut(run):
    deep = '{"config": {"preset": ' + "[" * 300 + "]" * 300 + "}}"
    (run / "config.json").write_text(deep)
    assert ".." in json.dumps(read(run)["settings"]["values"]["preset"])


def test_a_name_that_is_no_unicode_is_data(run, tmp_path):
    folder = run.rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff run"))
    assert read(folder)["name"].endswith("run")


CHANGED = [
    ("digits", {}),
    ("digits", {"train.betas": (0.8, 0.9), "train.tf32": False, "train.time": "1h30m",
                "sample.noises": (3.0, 0.5)}),
    ("cifar10", {"network.attention_sizes": (), "data.flip": False, "train.kimg": None,
                 "train.epochs": 3.0, "seed": 7}),
    ("iddpm", {"data.path": "-a dir/with $x & 'quotes'", "train.labels": True}),
    ("photos", {"train.micro_batch": 8}),
    ("photos", {"train.kimg": 5.0, "train.time": "1h"}),
    ("photos", {"train.epochs": 5.0, "train.time": None}),
    ("digits", {"train.kimg": 30.0, "train.time": "1h"}),
    ("digits", {"network.kind": "dit", "network.depth": 3}),
    ("digits", {"diffusion.schedule": "flow", "diffusion.schedule_options": {"shift": 2.0}}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes"), CHANGED)
def test_the_command_to_resume_gives_the_configuration(run, name, changes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    config = changed(named(name), changes)
    record = {"config": json.loads(json.dumps(to_dict(config))), "data": ""}
    (run / "config.json").write_text(json.dumps(record))
    words = shlex.split(read(run)["commands"][0]["line"])
    assert words[:3] == ["unnoise", "train", name] and words[-2:] == ["--out", str(run)]
    flags = sum(value is not None for value in changes.values())  # None is implied by an end
    assert len([w for w in words if w.startswith("--")]) == flags + 1
    _, again = configured(Train, words[2:-2], "train")
    assert again == config


def test_the_other_commands_fit_the_model(run):
    lines = [one["line"] for one in read(run)["commands"][1:]]
    assert lines == [f"unnoise sample {shlex.quote(str(run))} --num 64"]
    record = {"weights": HASH, "tuned": {"balanced": {}}}
    (run / "model.safetensors").write_bytes(model_file(record))
    assert "--sampler balanced" in read(run)["commands"][-1]["line"]
    (run / "model.safetensors").write_bytes(model_file({"weights": HASH}))
    assert "tune-sampler" in read(run)["commands"][-1]["line"]


@pytest.mark.parametrize("kind", ["nothing", "empty", "file", "foreign"])
def test_no_run_is_one_line_and_exit_code_2(tmp_path, kind, capsys):
    folder = tmp_path / "x"
    if kind == "file":
        folder.write_text("x")
    elif kind != "nothing":
        folder.mkdir()
    if kind == "foreign":
        (folder / "config.json").write_text('{"hidden_size": 768}')
        (folder / "model.safetensors").write_bytes(model_file({"author": "x"}))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CheckpointError):
        read(folder)
    assert cli.main(["report", str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(folder) in error and "expected a run folder" in error
    assert sorted(tmp_path.rglob("*")) == before
