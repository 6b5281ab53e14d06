"""What goes wrong as a run is written, and what is there then."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training.runs import assert_same_run, change_loss, curve, tiny, train
from unnoise import checkpoint
from unnoise.errors import CheckpointError
from unnoise.model import Model


def full(monkeypatch, failing: set[int]):
    """Saving these steps fails for want of room."""
    real = checkpoint.save

    def save(folder: Path, step: int, *rest):
        if step in failing:
            raise CheckpointError(f"checkpoint step {step}: not written (no space left on device)")
        return real(folder, step, *rest)

    monkeypatch.setattr(checkpoint, "save", save)


def test_no_room_stops_training_and_the_same_command_goes_on(data, tmp_path, monkeypatch):
    config = tiny()
    with monkeypatch.context() as patch:
        full(patch, {10})
        with pytest.raises(CheckpointError, match="no space"):
            train(config, data, tmp_path / "run")
    assert checkpoint.newest(tmp_path / "run/checkpoints")[0].name == "step-00000005"
    assert train(config, data, tmp_path / "run").finished
    train(config, data, tmp_path / "whole")
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_what_was_learned_is_saved_where_a_picture_or_a_line_cannot_be_written(
    data, tmp_path, monkeypatch
):
    folder = tmp_path / "run"

    def no_room(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("unnoise.training.preview.save_png", no_room)
        with pytest.raises(CheckpointError, match=r"cannot be written .No space left on device."):
            train(tiny(), data, folder)
    assert checkpoint.newest(folder / "checkpoints")[0].name == "step-00000010"
    assert train(tiny(), data, folder).finished


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

real = checkpoint.save_tensors

def die(tensors, path, *rest):
    real(tensors, path, *rest)
    if ".step-00000010." in str(path):
        os._exit(9)

checkpoint.save_tensors = die
loop.train(tiny(), load(DataConfig()), Path(sys.argv[1]))
"""


@pytest.mark.long
def test_a_kill_while_a_save_is_written_loses_at_most_it(data, tmp_path):
    """The process ends in the middle of a save; the one before it is used."""
    config = tiny()
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
