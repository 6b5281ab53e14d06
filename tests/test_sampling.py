"""Many pictures: how many at once, memory that runs out, a full disk, Ctrl-C, and progress."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import unnoise
from unnoise import cli, memory, sampling
from unnoise.diffusion.denoiser import DiffusionModel
from unnoise.diffusion.samplers import SAMPLERS
from unnoise.errors import ConfigError
from unnoise.events import Event, Message, Progress, listening
from unnoise.networks.config import Shape, UNetConfig
from unnoise.networks.unet import UNet
from unnoise.presets import PRESETS

CPU, MPS = torch.device("cpu"), torch.device("mps")
FULL = (
    "CUDA out of memory. Tried to allocate 2.00 GiB",
    "DefaultCPUAllocator: can't allocate memory",
)


@pytest.fixture
def inside(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """The rows of every network call."""
    real, seen = DiffusionModel.denoise, []

    def denoise(self, x_t, level, label=None):
        seen.append(len(x_t))
        return real(self, x_t, level, label)

    monkeypatch.setattr(DiffusionModel, "denoise", denoise)
    return seen


def full_above(monkeypatch, rows: int, word: str) -> None:
    """Memory runs out in a network call of more rows."""
    real = DiffusionModel.denoise

    def denoise(self, x_t, level, label=None):
        if len(x_t) > rows:
            raise torch.OutOfMemoryError(word) if "CUDA" in word else RuntimeError(word)
        return real(self, x_t, level, label)

    monkeypatch.setattr(DiffusionModel, "denoise", denoise)


def seen_in(folder: Path) -> np.ndarray:
    return np.stack(
        [np.asarray(Image.open(path), int) for path in sorted(folder.glob("seed-*.png"))]
    )


# --- how many at once


@pytest.mark.parametrize(
    ("preset", "size", "threads", "expected"),
    [
        ("digits", 8, 1, 256),
        ("cifar10-small", 32, 1, 32),
        ("pictures", 32, 1, 32),
        ("cifar10", 32, 1, 8),
        ("cifar10", 32, 2, 16),
        ("cifar10", 32, 64, 64),
        ("pictures", 64, 1, 8),
        ("pictures", 256, 2, 1),
    ],
)
def test_wide_networks_and_large_images_go_in_few_at_once(
    monkeypatch, preset, size, threads, expected
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    network = UNet(PRESETS[preset]().network, Shape(3, size, size), 3)
    assert memory.images_at_once(network.widest_bytes(size, size, True), CPU) == expected


def test_guidance_doubles_the_rows_and_so_halves_the_images(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(memory, "CPU_BYTES", 2**20)
    model = unnoise.load("digits", "cpu")
    assert model.images_at_once() == 64  # the bundled model is guided by default
    assert model.images_at_once(guidance_scale=1) == 128
    assert model.images_at_once(guide=model) == 128  # two calls after each other


def test_a_gpu_takes_more_but_no_more_than_half_of_what_is_free(monkeypatch):
    network = UNet(PRESETS["cifar10"]().network, Shape(3, 32, 32), 3)
    widest = network.widest_bytes(32, 32, False)
    assert memory.images_at_once(widest, MPS) == 256
    for free, held, expected in (
        (80 * 2**30, 0, 256),
        (2**30, 0, 42),
        (2**30, 2**29, 21),
        (2**20, 0, 1),
    ):
        monkeypatch.setattr(
            torch.cuda, "mem_get_info", lambda device, free=free: (free, 80 * 2**30)
        )
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device, held=held: held)
        assert memory.images_at_once(widest, torch.device("cuda")) == expected


def test_attention_over_many_pixels_counts_on_a_cpu_only():
    config = UNetConfig(
        base_channels=8, channel_multipliers=(1, 1), attention_levels=(1,), norm_groups=8
    )
    network = UNet(config, Shape(3, 64, 64), 3)
    assert network.widest_bytes(64, 63, True) == 4 * (32 * 32) ** 2
    assert network.widest_bytes(64, 63, False) == 4 * 8 * 64 * 63


def test_large_pictures_go_in_one_at_a_time():
    """However many are asked for, a call takes half a GiB at most."""
    config = unnoise.preset(
        "pictures", {"data.image_size": 256, "network.base_channels": 64, "device": "cpu"}
    )
    network = UNet(config.network, Shape(3, 256, 256), 3)
    assert memory.images_at_once(network.widest_bytes(256, 256, True), CPU) == 1
    assert memory.PEAK * network.widest_bytes(256, 256, False) < 2**29


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "heun"])
def test_pictures_do_not_depend_on_the_size_chosen(monkeypatch, calls, sampler):
    model = unnoise.load("digits", "cpu")
    whole = model.sample(12, steps=3, sampler=sampler)
    assert set(calls) == {24}
    monkeypatch.setattr(memory, "MOST", 5)
    parts = model.sample(12, steps=3, sampler=sampler)
    assert set(calls) == {24, 10, 4}
    # bitwise up to the rounding of float32 kernels that differ with the batch's size
    assert (whole.int() - parts.int()).abs().max() <= 1
    assert torch.equal(parts, model.sample(12, steps=3, sampler=sampler, batch_size=5))


# --- memory that runs out


def test_batches_are_halved_as_often_as_memory_runs_out():
    seen = []

    def run(rows: slice) -> slice:
        seen.append(rows.stop - rows.start)
        if seen[-1] > 3:
            raise MemoryError
        return rows

    said: list[Event] = []
    with listening(said.append):
        done = list(memory.in_batches(20, 12, run))
    assert [i for rows in done for i in range(rows.start, rows.stop)] == list(range(20))
    assert seen == [12, 6, 3, 3, 3, 3, 3, 3, 2]
    assert said == [
        Message("out of memory with 12 images at a time: trying 6"),
        Message("out of memory with 6 images at a time: trying 3"),
    ]


def test_other_errors_are_not_taken_for_it():
    def run(rows: slice) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        list(memory.in_batches(3, 2, run))


@pytest.mark.parametrize("word", FULL)
def test_sampling_goes_on_with_fewer_at_once_and_says_so_on_one_line(
    inside, monkeypatch, capsys, word
):
    words = ["sample", "digits", "--num", "10", "--steps", "3", "--trajectory"]
    assert cli.main([*words, "--out", "a"]) == 0
    assert "out of memory" not in capsys.readouterr().out
    full_above(monkeypatch, 10, word)
    assert cli.main([*words, "--out", "b"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "memory" in line]
    assert lines == ["out of memory with 10 images at a time: trying 5"] * 2  # trajectory too
    assert np.abs(seen_in(Path("a")) - seen_in(Path("b"))).max() <= 1
    assert sorted(p.name for p in Path("a").iterdir()) == sorted(
        p.name for p in Path("b").iterdir()
    )


def test_no_room_for_one_image_is_one_line(inside, monkeypatch, capsys):
    full_above(monkeypatch, 1, FULL[0])
    assert cli.main(["sample", "digits", "--num", "2", "--steps", "1", "--batch-size", "1"]) == 2
    err = capsys.readouterr().err
    assert (
        err.count("\n") == 1
        and "out of memory with one image at a time; expected more free memory" in err
    )
    with pytest.raises(ConfigError, match="one image at a time"):
        unnoise.load("digits", "cpu").sample(2, steps=1)


# --- files


def test_a_full_disk_is_one_line_and_what_is_there_is_whole(inside, monkeypatch, capsys):
    real = os.replace

    def replace(source, target):
        if Path(target).name == "seed-000002.png":
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    assert cli.main(["sample", "digits", "--num", "4", "--steps", "1"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "seed-000002.png: not written (No space left on device)" in err
    assert "the 2 pictures before it are whole; make room and run the same command again" in err
    assert sorted(p.name for p in Path("samples/digits").iterdir()) == [
        "seed-000000.png",
        "seed-000001.png",
    ]
    assert seen_in(Path("samples/digits")).shape == (2, 8, 8)


def test_ctrl_c_leaves_whole_pictures_only(inside, monkeypatch):
    real = Path.write_bytes

    def write(self, content):
        if "seed-000002" in str(self):
            real(self, content[: len(content) // 2])
            raise KeyboardInterrupt
        return real(self, content)

    monkeypatch.setattr(Path, "write_bytes", write)
    assert cli.main(["sample", "digits", "--num", "4", "--steps", "1"]) == 130
    assert sorted(p.name for p in Path("samples/digits").iterdir()) == [
        "seed-000000.png",
        "seed-000001.png",
    ]
    assert seen_in(Path("samples/digits")).shape == (2, 8, 8)


def test_a_folder_that_cannot_be_is_told_before_any_time_is_spent(inside, calls, capsys):
    Path("file").write_text("")
    for out in ("file", "file/deeper"):
        assert cli.main(["sample", "digits", "--num", "2", "--out", out]) == 2
        err = capsys.readouterr().err
        assert (
            err.count("\n") == 1
            and f"out: {out} is no folder for pictures (" in err
            and "--out" in err
        )
    assert calls == []


# --- on the way


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_every_sampler_takes_the_steps_that_the_bar_counts(sampler):
    model = unnoise.load("digits", "cpu")
    chosen = model.settings(sampler=sampler, steps=4)
    assert sum(1 for _ in model.steps([0], sampler=sampler, steps=4)) == len(model.grid(chosen)) - 1


def test_progress_says_images_and_steps(inside, monkeypatch):
    full_above(monkeypatch, 6, FULL[1])
    seen: list[Event] = []
    request = sampling.Request(unnoise.load("digits", "cpu"), range(5), settings={"steps": 4})
    with listening(seen.append):
        sampling.write_samples(request, inside, batch_size=4)
    progress = [event for event in seen if isinstance(event, Progress)]
    assert progress[1].detail == "0 of 5 images, step 0 of 4"  # again in halves
    last = progress[-1]
    assert (last.detail, last.done, last.total) == ("4 of 5 images, step 4 of 4", 20, 20)


def test_one_process_alone_imports_nothing_for_many(inside):
    code = """import sys; from unnoise import cli
assert cli.main(["sample", "digits", "--num", "1", "--steps", "1"]) == 0
print([n for n in ("torch.distributed.fsdp", "sklearn", "scipy", "matplotlib") if n in sys.modules])
"""
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert out.splitlines()[-1] == "[]"
