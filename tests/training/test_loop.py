"""The training loop: interrupted anywhere, it is the same run."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import os
import shutil
import signal
import threading

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import unnoise
from tests.training.runs import (
    TINY,
    assert_same_run,
    assert_same_weights,
    before_step,
    change_loss,
    checkpoints,
    curve,
    tiny,
    train,
)
from unnoise import checkpoint
from unnoise.config import override
from unnoise.data.dataset import load
from unnoise.errors import CheckpointError, ConfigError, DivergedError
from unnoise.presets import named
from unnoise.training import log, loop, preview, step


def failing():
    raise ZeroDivisionError


@pytest.fixture
def interrupt(monkeypatch):
    """Make the next run get a signal while step number `at` is computed."""

    def arm(at: int, number: int = signal.SIGINT):
        real = loop.train_step
        before_step(monkeypatch, at, lambda: os.kill(os.getpid(), number))
        return lambda: monkeypatch.setattr(loop, "train_step", real)

    return arm


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert train(tiny(), data, folder).finished
    return folder


def test_a_run_leaves_what_it_promises(whole):
    names = {str(p.relative_to(whole)) for p in whole.rglob("*") if p.is_file()}
    assert {"config.json", "metrics.jsonl", "model.safetensors", "samples/0000000160.png"} <= names
    state = json.loads((whole / "checkpoints" / "step-00000020" / "state.json").read_text())
    assert (
        state["nimg"] == 320 and state["epoch"] == pytest.approx(320 / 1500) and "config" in state
    )
    assert np.isfinite(state["loss"]) and np.isfinite(state["held_out_loss"])
    losses = [line["loss"] for line in curve(whole) if "loss" in line]
    assert len(losses) == 6 and losses[-1] < losses[0]


# in a log window, on a checkpoint, a log line, a checkpoint with samples, at the last step
@pytest.mark.parametrize("stops", [[3], [4], [8], [9], [18], [1, 2, 7, 13], [19]])
def test_stopped_by_ctrl_c_and_run_again_it_is_bitwise_the_same_run(
    whole, data, tmp_path, interrupt, stops
):
    for stop in stops:
        disarm = interrupt(stop)
        outcome = train(tiny(), data, tmp_path)
        disarm()
        assert (outcome.finished, outcome.signal) == (stop == 19, signal.SIGINT)
        assert checkpoints(tmp_path)[-1].name == f"step-{stop + 1:08d}"
    assert train(tiny(), data, tmp_path).finished
    assert_same_run(whole, tmp_path)


def test_killed_between_checkpoints_it_is_bitwise_the_same_run(whole, data, tmp_path, monkeypatch):
    """What kill -9 leaves: later metrics lines, and no checkpoint of them."""
    before_step(monkeypatch, 13, failing)
    with pytest.raises(ZeroDivisionError):
        train(tiny(), data, tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 14, "lo')  # torn
    monkeypatch.undo()
    assert checkpoints(tmp_path)[-1].name == "step-00000010"
    assert train(tiny(), data, tmp_path).finished
    assert_same_run(whole, tmp_path)


def test_killed_before_the_first_checkpoint_it_starts_again(
    whole, data, tmp_path, monkeypatch, capsys
):
    before_step(monkeypatch, 4, failing)
    with pytest.raises(ZeroDivisionError):
        train(tiny(), data, tmp_path)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="training writes it with its first checkpoint"):
        unnoise.load(tmp_path)
    assert train(tiny(), data, tmp_path).finished
    assert "was stopped before its first checkpoint and begins again" in capsys.readouterr().out
    assert_same_run(whole, tmp_path)


def test_a_damaged_newest_checkpoint_is_skipped_and_the_run_is_still_the_same(
    whole, data, tmp_path, capsys
):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").unlink()
    for name in ("step-00000020", "step-00000015"):
        os.truncate(tmp_path / "checkpoints" / name / "ema.safetensors", 1000)
    assert train(tiny(), data, tmp_path).finished
    out = capsys.readouterr().out
    assert (
        "skipped: checkpoint" in out
        and "step-00000020" in out
        and "ema.safetensors is 1000 bytes" in out
    )
    assert "resuming from" in out and "step-00000010" in out
    assert_same_run(whole, tmp_path)


def test_no_sound_checkpoint_is_an_error_and_not_a_new_start(whole, data, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    for path in checkpoints(tmp_path):
        os.truncate(path / "network.safetensors", 10)
    with pytest.raises(CheckpointError, match="no sound checkpoint is left"):
        train(tiny(), data, tmp_path)


def test_sigterm_stops_the_same_way(data, tmp_path, interrupt):
    disarm = interrupt(2, signal.SIGTERM)
    before = signal.getsignal(signal.SIGTERM)
    outcome = train(tiny(), data, tmp_path)
    disarm()
    assert outcome.signal == signal.SIGTERM and signal.getsignal(signal.SIGTERM) == before


def test_a_finished_run_does_nothing_and_a_longer_end_goes_on(whole, data, tmp_path, capsys):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")}
    assert train(tiny(), data, tmp_path).finished
    said = capsys.readouterr().out
    assert "the run is at its end; a larger --time, --kimg or --epochs trains on" in said
    assert "changed since" not in said
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")}
    longer = tiny(**{"train.kimg": 0.4, "train.evaluate_num": 64})
    assert train(longer, data, tmp_path).finished
    assert checkpoints(tmp_path)[-1].name == "step-00000025"
    both = f"train.kimg: {tiny().train.kimg} -> 0.4; train.evaluate_num: 1000 -> 64"
    assert f"changed since the last start: {both}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change",
    [
        {"train.lr": 1e-3},
        {"network.base_channels": 16},
        {"seed": 1},
        {"diffusion.schedule": "linear"},
    ],
)
def test_another_configuration_is_refused_by_name_and_nothing_is_touched(whole, data, change):
    before = {p: p.stat().st_mtime_ns for p in whole.rglob("*.*") if p.name != ".lock"}
    with pytest.raises(
        ConfigError, match=rf"was trained with another configuration \({next(iter(change))}: "
    ):
        train(tiny(**change), data, whole)
    assert before == {p: p.stat().st_mtime_ns for p in whole.rglob("*.*") if p.name != ".lock"}


def test_other_data_is_refused(whole, data):
    fix = "the training images.; another --out .--from .* takes its weights., or --resume anyway"
    with pytest.raises(ConfigError, match=fix):
        train(tiny(), dataclasses.replace(data, fingerprint="other"), whole)


def test_off_the_main_thread_training_works_without_signals(data, tmp_path):
    outcome = []
    thread = threading.Thread(
        target=lambda: outcome.append(train(tiny(**{"train.kimg": 0.032}), data, tmp_path))
    )
    thread.start()
    thread.join()
    assert outcome[0].finished


@pytest.mark.parametrize(("change", "steps"), [
    ({"train.kimg": None, "train.epochs": 0.1}, 10),  # 150 images of 16
    ({"train.epochs": 1.0}, 20),  # the nearer end counts
    ({"train.kimg": 0.001}, 1),
])  # fmt: skip
def test_ends(data, tmp_path, change, steps):
    train(tiny(**change), data, tmp_path)
    assert checkpoints(tmp_path)[-1].name == f"step-{steps:08d}"


def test_training_for_a_time_ends_then_and_brings_the_rate_to_zero(data, tmp_path):
    every_step = {
        "train.log_every_kimg": 0.016,
        "train.sample_every_kimg": 1e6,
        "train.precision": "fp32",
    }
    train(tiny(**{"train.kimg": None, "train.time": "2s", **every_step}), data, tmp_path)
    lines = [
        line
        for line in (json.loads(text) for text in (tmp_path / "metrics.jsonl").open())
        if "lr" in line
    ]
    state = json.loads((checkpoints(tmp_path)[-1] / "state.json").read_text())
    assert 2 <= state["train_sec"] < 6  # the first step of a process takes seconds
    assert lines[-1]["lr"] < 0.1 * max(line["lr"] for line in lines)


def test_a_diverged_run_stops_with_a_line_and_writes_no_checkpoint_of_it(data, tmp_path):
    config = tiny(**{"train.lr": 1e30, "train.clip": 0.0})
    with pytest.raises(
        DivergedError,
        match=r"diverged at step \d+: .* 10 steps in a row not finite; ",
    ):
        train(config, data, tmp_path)
    found, _ = checkpoint.newest(tmp_path / "checkpoints")
    assert found is None or all(
        v.isfinite().all() for v in load_file(found / "network.safetensors").values()
    )


def spoiled(monkeypatch, steps):
    """Losses of some steps are not finite."""
    count = itertools.count(1)

    def change(batch, loss):
        bad = torch.is_grad_enabled() and next(count) in steps
        return loss * float("nan") if bad else loss

    change_loss(monkeypatch, change)


@pytest.mark.parametrize("steps", [set(), {4, 5, 12}])
def test_a_device_that_decides_by_itself_does_the_same(data, tmp_path, monkeypatch, steps):
    """As on a GPU: no step waits for the host, which learns what came of it up to 7 steps later."""
    plain = {
        "train.optimizer": "adamw",
        "train.lr": 2e-3,
        "train.precision": "fp32",
    }  # the same to the last bits
    config = tiny(**plain, **{"train.log_every_kimg": 0.16})
    with pytest.MonkeyPatch.context() as patch:
        spoiled(patch, steps)
        train(config, data, tmp_path / "waits")
    real = step._apply
    monkeypatch.setattr(step, "_apply", lambda *values, wait: real(*values, wait=False))
    monkeypatch.setattr(loop, "READ_EVERY", {"cpu": 7})
    spoiled(monkeypatch, steps)
    train(config, data, tmp_path / "ahead")
    ends = [checkpoint.load(checkpoints(tmp_path / name)[-1]) for name in ("waits", "ahead")]
    for group in ends[0][0]:
        for name, value in ends[0][0][group].items():
            torch.testing.assert_close(ends[1][0][group][name], value, rtol=0, atol=1e-6)
    counters = [(end["skipped"], end["loss_steps"], end["loss"], end["step"]) for _, end in ends]
    assert counters[0] == counters[1] and counters[0][0] == len(steps)
    lines = [
        [line for line in curve(tmp_path / name) if "skipped_steps" in line]
        for name in ("waits", "ahead")
    ]
    assert [(a["step"], a["skipped_steps"]) for a in lines[0]] == [
        (b["step"], b["skipped_steps"]) for b in lines[1]
    ]
    assert [line["step"] for line in lines[1]] == sorted(steps)


def test_hybrid_loss_trains_and_samples_with_learned_variance(data, tmp_path):
    config = tiny(
        **{
            "diffusion.variance": "learned",
            "diffusion.parameterization": "eps",
            "sample.sampler": "ddpm",
        }
    )
    train(config, data, tmp_path)
    assert unnoise.load(tmp_path).sample(2, steps=4).shape == (2, 1, 8, 8)


@pytest.mark.parametrize(("schedule", "parameterization", "times"), [
    ("edm", "edm", "log_normal_sigma"), ("flow", "flow", "logit_normal"),
    ("linear", "x0", "uniform_discrete"), ("sigmoid", "eps", "uniform_discrete"),
])  # fmt: skip
def test_every_objective_trains_on_digits(data, tmp_path, schedule, parameterization, times):
    config = tiny(**{
        "diffusion.schedule": schedule, "diffusion.parameterization": parameterization,
        "diffusion.times": times, "train.kimg": 0.64,
    })  # fmt: skip
    train(config, data, tmp_path)
    losses = [line["loss"] for line in curve(tmp_path) if "loss" in line]
    assert losses[-1] < losses[0]


def test_unlabelled_data_trains_without_classes(data, tmp_path):
    train(tiny(), dataclasses.replace(data, labels=None, class_names=()), tmp_path)
    model = unnoise.load(tmp_path)
    assert model.shape.num_classes == 0 and model.sample(2).shape == (2, 1, 8, 8)


@pytest.mark.parametrize("every", [0.08, 0.16, 100])
def test_the_end_has_its_preview_and_held_out_loss_whatever_the_intervals(data, tmp_path, every):
    train(
        tiny(**{"train.checkpoint_every_kimg": every, "train.sample_every_kimg": 50}),
        data,
        tmp_path,
    )
    assert [p.name for p in (tmp_path / "samples").iterdir()] == ["0000000320.png"]
    assert [line["nimg"] for line in curve(tmp_path) if "held_out_loss" in line] == [320]
    assert (
        checkpoint.read_model(tmp_path / "model.safetensors")[1]["training"]["held_out_loss"]
        is not None
    )


def test_a_model_file_that_is_not_the_last_checkpoints_is_written_again(whole, data, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    file = folder / "model.safetensors"
    right = checkpoint.read_model(file)[1]["weights"]
    tensors, record = checkpoint.read_model(file)
    stale = {name: value + 1 for name, value in tensors.items()}
    checkpoint.save_model(file, stale, record)
    assert train(tiny(), data, folder).finished
    assert checkpoint.read_model(file)[1]["weights"] == right
    os.truncate(file, 1000)
    assert train(tiny(**{"sample.steps": 3}), data, folder).finished
    _, record = checkpoint.read_model(file)
    assert record["weights"] == right and record["config"]["sample"]["steps"] == 3


def test_what_cannot_be_sampled_is_said_before_the_first_step(data, tmp_path):
    with pytest.raises(ConfigError, match=r"sample.steps: got 12 .* on 10 levels"):
        train(tiny(**{"diffusion.timesteps": 10, "sample.steps": 12}), data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"config": {"nettwork": 1}, "data": "x"}'])
def test_a_damaged_config_is_named(whole, data, tmp_path, text):
    folder = shutil.copytree(whole, tmp_path / "run")
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config.json"):
        train(tiny(), data, folder)


def test_lines_that_a_crash_left_in_pieces_are_dropped(whole, data, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b"\0\0\0}\n")
    assert train(tiny(), data, folder).finished
    assert curve(folder) == curve(whole)


def test_pictures_may_move(tmp_path, monkeypatch):
    from PIL import Image

    random = np.random.default_rng(0)
    for i in range(20):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).save(
            tmp_path / "a" / f"{i}.png"
        )
    monkeypatch.chdir(tmp_path)
    changes = {**TINY, "network.norm_groups": 8, "network.attention_heads": 1, "data.image_size": 8}
    changes |= {"network.attention_levels": (), "train.time": None}

    def run(source):
        config = override(named(source), changes)
        return train(config, load(config.data), tmp_path / "run")

    assert run("a/").finished and run("./a").finished
    (tmp_path / "a").rename(tmp_path / "b")
    assert run(str(tmp_path / "b")).finished


def test_half_written_checkpoints_are_swept_up(whole, data, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    for name in ("checkpoints/.step-00000017.1.tmp", ".model.safetensors.1.tmp"):
        (folder / name).mkdir()
    train(tiny(**{"train.kimg": 0.4}), data, folder)
    assert not list(folder.rglob(".*.tmp"))


def test_checkpoints_without_their_config_are_refused_and_kept(whole, data, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    (folder / "config.json").unlink()
    before = checkpoints(folder)
    with pytest.raises(CheckpointError, match=r"no config\.json; put it back"):
        train(tiny(), data, folder)
    assert checkpoints(folder) == before


def test_pruning_leaves_what_is_not_its_own(whole, data, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    own = checkpoints(folder)
    for name in ("step-old", "step-5-bak", f"{own[0].name}-backup"):
        (folder / "checkpoints" / name).mkdir()
    moved = shutil.move(own[1], tmp_path / "moved")
    own[1].symlink_to(moved)
    config = tiny(**{"train.kimg": 0.4, "train.keep_checkpoints": 1, "train.keep_best": False})
    assert train(config, data, folder).finished
    there = {path.name for path in (folder / "checkpoints").iterdir()}
    assert there == {
        "step-old",
        "step-5-bak",
        f"{own[0].name}-backup",
        own[1].name,
        "step-00000025",
    }
    assert (tmp_path / "moved" / "state.json").exists()


@pytest.mark.parametrize("name", [".DS_Store", "network (conflict).safetensors", "Thumbs.db"])
def test_a_foreign_file_in_a_checkpoint_does_not_matter(whole, data, tmp_path, name):
    folder = shutil.copytree(whole, tmp_path / "run")
    for path in checkpoints(folder)[-2:]:
        (path / name).write_bytes(b"foreign")
    shutil.rmtree(checkpoints(folder)[-1])
    assert train(tiny(), data, folder).finished
    assert_same_run(whole, folder)


@pytest.mark.parametrize("broken", ["metrics", "picture"])
def test_what_was_learned_is_saved_before_a_full_disk_ends_the_run(
    whole, data, tmp_path, monkeypatch, broken
):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a file")

    if broken == "metrics":
        before_step(monkeypatch, 8, lambda: monkeypatch.setattr(log.Log, "steps", full))
    else:
        before_step(monkeypatch, 8, lambda: monkeypatch.setattr(preview, "save_png", full))
    with pytest.raises(CheckpointError, match="No space left"):
        train(tiny(), data, tmp_path / "run")
    at = {"metrics": 9, "picture": 10}[broken]
    assert checkpoints(tmp_path / "run")[-1].name == checkpoint.name(at)
    monkeypatch.undo()
    assert train(tiny(), data, tmp_path / "run").finished
    assert_same_weights(whole, tmp_path / "run")  # the line or picture of that moment is gone


def test_a_line_without_its_end_is_mended(whole, data, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    text = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(text.removesuffix("\n"))
    assert train(tiny(**{"train.kimg": 0.4}), data, folder).finished
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines][: len(text.splitlines())] == [
        json.loads(line) for line in text.splitlines()
    ]


@pytest.mark.parametrize("name", ["SIGHUP", "SIGQUIT", "SIGXCPU"])
def test_every_signal_that_asks_for_the_end_saves(whole, data, tmp_path, interrupt, name):
    number = getattr(signal, name)
    disarm = interrupt(7, number)
    ending = train(tiny(), data, tmp_path / "run")
    assert not ending.finished and ending.signal == number
    disarm()
    assert train(tiny(), data, tmp_path / "run").finished
    assert_same_run(whole, tmp_path / "run")


def test_a_terminal_that_hangs_up_twice_does_not_stop_the_save(data, tmp_path, monkeypatch):
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)

    before_step(monkeypatch, 7, twice)
    assert train(tiny(), data, tmp_path / "run").signal == signal.SIGHUP
    assert checkpoints(tmp_path / "run")[-1].name == checkpoint.name(8)


def test_a_signal_that_was_ignored_stays_ignored(data, tmp_path, monkeypatch):
    """As nohup wants it of SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        before_step(monkeypatch, 7, lambda: os.kill(os.getpid(), signal.SIGHUP))
        assert train(tiny(), data, tmp_path / "run").finished
    finally:
        signal.signal(signal.SIGHUP, before)
