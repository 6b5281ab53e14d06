"""The probe: the machine's memory, real steps of a tiny network, what it predicts against real
runs."""

from __future__ import annotations

import math
import subprocess
import sys
import time

import pytest
import torch

import unnoise
from unnoise import checkpoint
from unnoise.config import override
from unnoise.data.dataset import load
from unnoise.errors import ConfigError
from unnoise.presets import named
from unnoise.training import loop, plan, probe
from unnoise.training.run import Run, prepare

GIB = 2**30
TINY = {
    "network.base_channels": 8,
    "train.batch_size": 16,
    "train.kimg": 0.8,
    "train.warmup_kimg": 0.1,
    "train.log_every_kimg": 0.1,
    "train.sample_every_kimg": 0.4,
    "train.checkpoint_every_kimg": 0.4,
    "sample.steps": 2,
}


@pytest.fixture(scope="module")
def data():
    return load(unnoise.DataConfig())


def test_peak_memory_is_of_what_came_after_the_reset():
    """In a process of its own: what this one has freed before would hide the reset."""
    code = """
import torch
from unnoise.training import probe
cpu = torch.device("cpu")
large = torch.ones(64 << 20)
before = probe._peak_memory(cpu)
del large
probe._reset_peak(cpu)
assert probe._peak_memory(cpu) < before - (200 << 20)
assert probe.available_bytes(cpu) > probe._peak_memory(cpu)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_the_probe_measures_and_writes_nothing(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(probe, "STEPS_SEC", 2.0)
    made = override(named("digits"), TINY)
    got = probe.measure(made, data, tmp_path / "runs" / "x")
    assert list(tmp_path.iterdir()) == []
    network = prepare(made, data, tmp_path)[1].network
    assert got.parameters == sum(p.numel() for p in network.parameters())
    assert [s.micro_batch for s in got.speeds] == [1, 2, 4, 8, 16][: len(got.speeds)] and len(
        got.speeds
    ) > 1
    assert all(s.img_per_sec > 0 and s.peak_bytes > 1e7 for s in got.speeds)
    assert got.preview_sec > 0 and got.num_train == data.num_train and got.too_large == math.inf


def out_of_memory_from(count, monkeypatch) -> None:
    real = Run.losses

    def losses(self, loss, batch, network=None):
        if len(batch.x0) >= count:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, loss, batch, network)

    monkeypatch.setattr(Run, "losses", losses)


def test_a_size_that_runs_out_of_memory_ends_the_probe(data, tmp_path, monkeypatch):
    out_of_memory_from(4, monkeypatch)
    got = probe.measure(override(named("digits"), TINY), data, tmp_path)
    assert [s.micro_batch for s in got.speeds] == [1, 2]
    assert got.too_large == 4 and got.largest_fit(16) == 2


def test_not_one_image_fits(data, tmp_path, monkeypatch):
    out_of_memory_from(1, monkeypatch)
    with pytest.raises(ConfigError, match="out of memory with one image at a time"):
        probe.measure(override(named("digits"), TINY), data, tmp_path)


class Wrapped(torch.nn.Module):
    """What stands for a compiled network."""

    def __init__(self, network):
        super().__init__()
        self._orig_mod = network

    def forward(self, *inputs):
        return self._orig_mod(*inputs)


def test_compiled_the_whole_batch_alone_is_tried(data, tmp_path, monkeypatch):
    out_of_memory_from(5, monkeypatch)
    monkeypatch.setattr(torch, "compile", lambda network, options: Wrapped(network))
    made = override(named("digits"), {**TINY, "train.compile": "on"})
    got = probe.measure(made, data, tmp_path)
    assert [s.micro_batch for s in got.speeds] == [4]
    assert got.too_large == 8 and got.largest_fit(16) == 4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("compiled", ["on", "off"])
def test_the_probe_on_a_gpu(data, tmp_path, compiled):
    made = override(named("digits"), {**TINY, "device": "cuda", "train.compile": compiled})
    got = probe.measure(made, data, tmp_path)
    assert got.speeds[-1].micro_batch == 16 and got.too_large == math.inf
    assert plan.Plan(made, got, 60).micro_batch in (8, 16)


def test_memory_bounds_the_probe(data, tmp_path, monkeypatch):
    """No size is tried that would not fit by those before it."""
    grows = iter(range(1, 100))
    monkeypatch.setattr(probe, "available_bytes", lambda _: 6 * GIB)
    monkeypatch.setattr(probe, "_peak_memory", lambda _: next(grows) * 2 * GIB)
    got = probe.measure(override(named("digits"), TINY), data, tmp_path)
    assert [s.micro_batch for s in got.speeds] == [1, 2]  # 2 and 4 GiB; 4 images would be 8 GiB


def test_weights_that_do_not_fit_are_refused_before_they_are_made(data, tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "available_bytes", lambda _: 1 << 20)
    with pytest.raises(ConfigError, match=r"parameters need .* expected a smaller network"):
        probe.measure(named("digits"), data, tmp_path)


@pytest.mark.parametrize("objective", ["v", "edm"])
def test_sizes_and_time_are_those_of_a_real_run(data, tmp_path, objective):
    made = override(named("digits", objective), TINY)
    for attempt in range(5):  # other tests run beside it, and may end between the two
        folder = tmp_path / str(attempt)
        got = plan.Plan(made, probe.measure(made, data, folder))
        began = time.monotonic()
        loop.train(made, data, folder)
        took = time.monotonic() - began
        if got.wall_sec / 2 < took < got.wall_sec * 2:
            break
    assert got.wall_sec / 2 < took < got.wall_sec * 2
    newest = checkpoint.checkpoints(folder / "checkpoints")[-1]
    on_disk = sum(path.stat().st_size for path in newest.iterdir())
    model = (folder / "model.safetensors").stat().st_size
    assert got.measured.checkpoint_bytes == pytest.approx(on_disk + model, rel=0.2)
