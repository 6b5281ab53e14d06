"""One, two and four processes are the same run; DDP, FSDP2, resuming with other ranks; gloo."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unnoise import checkpoint

TINY = [
    "digits", "--train.optimizer", "adamw", "--train.lr", "2e-3", "--train.precision", "fp32",
    "--network.base-channels", "8", "--batch-size", "18", "--kimg", "0.36",
    "--train.warmup-kimg", "0.1", "--train.log-every-kimg", "0.018",
    "--train.sample-every-kimg", "0.18", "--train.checkpoint-every-kimg", "0.09",
    "--sample.steps", "2", "--train.keep-checkpoints", "10",
]  # fmt: skip


def run(ranks: int, *words: str, cwd: Path | None = None) -> str:
    command = [sys.executable, "-m", "unnoise"]
    if ranks > 1:
        torchrun = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(ranks),
        ]
        command = [*torchrun, "-m", "unnoise"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *words],
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
        env=environment,
        cwd=cwd,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def curve(folder: Path, *names: str) -> np.ndarray:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return np.array([[line[name] for name in names] for line in lines if set(names) <= line.keys()])


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks") / "1"
    run(1, "train", *TINY, "--out", str(folder))
    return folder


@pytest.mark.parametrize(("ranks", "flags"), [
    (2, []),
    # 18 images: 5, 5, 4 and 4, in micro-batches
    pytest.param(4, ["--train.micro-batch", "2"], marks=pytest.mark.long),
    pytest.param(2, ["--train.parallel", "fsdp", "--train.micro-batch", "4"],
                 marks=pytest.mark.long),
])  # fmt: skip
def test_all_ranks_together_are_the_run_of_one(alone, tmp_path, ranks, flags):
    out = run(ranks, "train", *TINY, *flags, "--out", str(tmp_path / "run"))
    assert out.count("done: ") == 1  # one speaks
    losses, expected = (curve(folder, "loss", "grad_norm") for folder in (tmp_path / "run", alone))
    assert losses.shape == (20, 2)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    held_out, expected = (
        curve(f, "held_out_loss", "held_out_loss_raw") for f in (tmp_path / "run", alone)
    )
    np.testing.assert_allclose(held_out, expected, rtol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_run_goes_on_with_another_number_of_ranks(alone, tmp_path, before, after):
    folder, parallel = tmp_path / "run", ["--train.parallel", "fsdp"]
    if before == 1:
        shutil.copytree(alone, folder)
    else:
        run(before, "train", *TINY, *parallel, "--out", str(folder))
    for path in checkpoint.checkpoints(folder / "checkpoints")[2:]:
        shutil.rmtree(path)
    out = run(after, "train", *TINY, *parallel, "--out", str(folder))
    assert "step-00000010 (0.2 kimg)" in out
    np.testing.assert_allclose(
        curve(folder, "loss", "grad_norm"), curve(alone, "loss", "grad_norm"), rtol=1e-5
    )


@pytest.mark.long
def test_sampling_is_cut_by_seed(tmp_path):
    words = ["sample", "digits", "--seeds", "0-4", "--steps", "4", "--batch-size", "2"]
    run(1, *words, "--out", str(tmp_path / "one"))
    run(2, *words, "--out", str(tmp_path / "two"))
    names = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "two").iterdir()) and len(names) == 6
    for name in names:
        one, two = (np.asarray(Image.open(tmp_path / folder / name)) for folder in ("one", "two"))
        assert np.array_equal(one, two), name


CRAMPED = """
import os, torch
from unnoise import cli
from unnoise.diffusion.losses import Loss
from unnoise.training import loop

real, first = Loss.forward, loop.train_step

def cramped(self, model, batch):
    if os.environ["RANK"] == "1" and torch.is_grad_enabled() and len(batch.x0) > 4:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return real(self, model, batch)

def train_step(run, state, batch, lr):
    if state.counters.step == 3:
        Loss.forward = cramped
    return first(run, state, batch, lr)

if {late}:
    loop.train_step = train_step
else:
    Loss.forward = cramped
cli.entry()
"""


def cramped(folder: Path, late: bool) -> subprocess.CompletedProcess[str]:
    """Two ranks, the second without room for more than 4 images: at once, or from step 3 on."""
    script = folder / "cramped.py"
    script.write_text(CRAMPED.replace("{late}", str(late)))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(script),
    ]
    words = ["train", *TINY, "--out", str(folder / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *words],
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
        env=environment,
    )


@pytest.mark.long
@pytest.mark.parametrize("late", [False, True])
def test_memory_that_one_rank_lacks_ends_all_with_a_line(tmp_path, late):
    done = cramped(tmp_path, late)
    assert done.returncode != 0
    assert (
        "unnoise: rank 1: out of memory with 9 images at a time; "
        "expected less, such as --train.micro-batch 4" in (done.stdout + done.stderr)
    )
