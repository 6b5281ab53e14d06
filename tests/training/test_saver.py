"""Checkpoints written in the background are those of their step; what goes wrong is said."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from tests.training.runs import assert_same_run, change_loss, curve, tiny, train
from unnoise import checkpoint
from unnoise.errors import CheckpointError
from unnoise.model import Model
from unnoise.training import loop
from unnoise.training.checkpointing import Saver
from unnoise.training.run import Run


def test_what_is_written_is_the_state_of_its_step():
    written, go = {}, threading.Event()
    weights = torch.zeros(3)

    def save(groups):
        go.wait(10)
        written.update(groups["network"])

    saver = Saver(background=True)
    saver.start(save, {"network": {"w": weights}})
    weights += 1  # training goes on
    go.set()
    saver.wait()
    assert written["w"].tolist() == [0, 0, 0]


def test_one_save_at_a_time():
    order, go = [], threading.Event()
    saver = Saver(background=True)
    saver.start(lambda _: (go.wait(10), order.append(1)), {})
    threading.Timer(0.05, go.set).start()
    saver.start(lambda _: order.append(2), {})
    saver.wait()
    assert order == [1, 2]


def test_an_error_is_raised_once_where_training_asks():
    def save(_):
        raise CheckpointError("no room")

    saver = Saver(background=True)
    saver.start(save, {})
    with pytest.raises(CheckpointError, match="no room"):
        saver.wait()
    saver.wait()
    saver.check()


def test_a_run_that_saves_beside_is_the_run_that_saves_in_turn(data, tmp_path):
    for name, how in (("turn", "off"), ("beside", "on")):
        train(tiny(**{"train.async_save": how}), data, tmp_path / name)
    for path in (
        tmp_path / "turn",
        tmp_path / "beside",
    ):  # the records name the configuration, which differs in this
        assert [p.name for p in checkpoint.checkpoints(path / "checkpoints")] == [
            f"step-{n:08d}" for n in (5, 10, 15, 20)
        ]
        for saved in checkpoint.checkpoints(path / "checkpoints"):
            checkpoint.verify(saved)
    assert_same_run(tmp_path / "turn", tmp_path / "beside")


def full(monkeypatch, failing: set[int]):
    """Saving these steps fails for want of room."""
    real = checkpoint.save

    def save(folder: Path, step: int, *rest):
        if step in failing:
            raise CheckpointError(f"checkpoint step {step}: not written (no space left on device)")
        return real(folder, step, *rest)

    monkeypatch.setattr(checkpoint, "save", save)


@pytest.mark.parametrize("how", ["on", "off"])
def test_no_room_stops_training_and_the_same_command_goes_on(data, tmp_path, monkeypatch, how):
    config = tiny(**{"train.async_save": how})
    with monkeypatch.context() as patch:
        full(patch, {10})
        steps, real = [], loop.train_step
        patch.setattr(
            loop,
            "train_step",
            lambda *a: (time.sleep(0.05), steps.append(a[1].counters.step), real(*a))[2],
        )
        with pytest.raises(CheckpointError, match="no space"):
            train(config, data, tmp_path / "run")
        assert steps[-1] <= 11  # at once, not when it saves again
    assert checkpoint.newest(tmp_path / "run/checkpoints")[0].name == "step-00000005"
    assert train(config, data, tmp_path / "run").finished
    train(config, data, tmp_path / "whole")
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("how", ["on", "off"])
def test_no_room_and_training_goes_on_if_asked(data, tmp_path, monkeypatch, capsys, how):
    full(monkeypatch, {10})
    config = tiny(**{"train.async_save": how, "train.on_save_error": "continue"})
    assert train(config, data, tmp_path / "run").finished
    assert "NOT SAVED, training continues: checkpoint step 10" in capsys.readouterr().out
    assert [p.name[-2:] for p in checkpoint.checkpoints(tmp_path / "run/checkpoints")] == [
        "05",
        "15",
        "20",
    ]


def test_whatever_else_cannot_be_written_does_not_stop_training_if_asked(
    data, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "run"

    def no_room(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("unnoise.training.preview.save_png", no_room)
    monkeypatch.setattr(checkpoint, "prune", no_room)
    real = Run.describe

    def describe(run):
        real(run)
        (folder / "metrics.jsonl").mkdir()  # it cannot be opened for writing, by root neither

    monkeypatch.setattr(Run, "describe", describe)
    assert train(tiny(**{"train.on_save_error": "continue"}), data, folder).finished
    said = capsys.readouterr().out
    for what in ("samples not written", "metrics not written", "old checkpoints not deleted"):
        assert f"{what}, training continues" in said
    shutil.rmtree(folder)
    with pytest.raises(CheckpointError, match="cannot be written"):
        train(tiny(), data, folder)


def test_memory_for_previews_and_held_out_losses_is_found_too(data, tmp_path, monkeypatch):
    """Batches of more than 20 images do not fit while nothing is trained; the run is the same."""
    train(tiny(), data, tmp_path / "whole")
    sizes = []

    def small(batch, loss):
        sizes.append(len(batch.x0))
        if len(batch.x0) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss

    change_loss(monkeypatch, small)
    real = Model.steps

    def short(self, seeds, *rest, **settings):
        if len(seeds) > 20:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return real(self, seeds, *rest, **settings)

    monkeypatch.setattr(Model, "steps", short)
    train(tiny(), data, tmp_path / "run")
    assert 128 in sizes and max(size for size in sizes if size <= 20) == 16
    a, b = (curve(tmp_path / name) for name in ("run", "whole"))
    for one, other in zip(a, b, strict=True):
        assert one == pytest.approx(other, rel=1e-6)  # sums of other batches
    assert model_weights(tmp_path / "run") == model_weights(tmp_path / "whole")


def model_weights(folder: Path) -> str:
    return checkpoint.read_model(folder / "model.safetensors")[1]["weights"]


DIES = """
import os, sys
from pathlib import Path
from tests.training.runs import tiny
from unnoise import DataConfig, checkpoint
from unnoise.data.dataset import load
from unnoise.training import loop

real = checkpoint._save_tensors

def die(tensors, path, *rest):
    real(tensors, path, *rest)
    if ".step-00000010." in str(path):
        os._exit(9)

checkpoint._save_tensors = die
loop.train(tiny(**{"train.async_save": "on"}), load(DataConfig()), Path(sys.argv[1]))
"""


def test_a_kill_while_a_save_is_written_loses_at_most_it(data, tmp_path):
    """The process ends in the middle of a save; the one before it is used."""
    config = tiny(**{"train.async_save": "on"})
    root = Path(__file__).parent.parent.parent
    command = [sys.executable, "-c", DIES, str(tmp_path / "run")]
    assert (
        subprocess.run(command, check=False, cwd=root, timeout=240, capture_output=True).returncode
        == 9
    )
    assert checkpoint.newest(tmp_path / "run/checkpoints")[0].name == "step-00000005"
    train(config, data, tmp_path / "run")
    train(config, data, tmp_path / "whole")
    assert_same_run(tmp_path / "run", tmp_path / "whole")
