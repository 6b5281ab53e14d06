"""Seconds from nothing: every command in a fresh process, in turn, with the files of earlier runs in the system's cache."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.speed import record
from benchmarks.speed.flags import Flags
from benchmarks.speed.interleave import measure, spread
from benchmarks.speed.meter import Taker, take

NUM, NFE = 8, 24
"""Pictures; and the evaluations that the bundled digits model spends on each (12 guided steps)."""
LIGHT = "import sys, unnoise; assert 'torch' not in sys.modules, 'import unnoise imports torch'"
PIPELINE = """
from diffusers import DDIMPipeline
pipeline = DDIMPipeline.from_pretrained({folder!r})
pipeline.set_progress_bar_config(disable=True)
for number, image in enumerate(pipeline(batch_size={num}, num_inference_steps={nfe}).images):
    image.save(f"{out}/{{number}}.png")
"""
SAVED = """
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
network = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(32, 64),
    down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"), norm_num_groups=8)
DDIMPipeline(network, DDIMScheduler()).save_pretrained({folder!r})
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def commands(room: Path) -> dict[str, list[str]]:
    """What is timed, by name."""
    cli = [sys.executable, "-m", "unnoise"]
    folder, out = str(room / "pipeline"), room / "diffusers"
    out.mkdir()
    return {
        "python alone": python("pass"),
        "import unnoise": python(LIGHT),
        "unnoise --help": [*cli, "--help"],
        "import torch": python("import torch"),
        f"unnoise sample digits --num {NUM}": [
            *cli,
            "sample",
            "digits",
            "--num",
            str(NUM),
            "--out",
            str(room / "out"),
        ],
        "import diffusers": python("import diffusers"),
        "import DDIMPipeline": python("from diffusers import DDIMPipeline"),
        f"DDIMPipeline of a digits network, {NUM} PNGs": python(
            PIPELINE.format(folder=folder, num=NUM, nfe=NFE, out=out)
        ),
        "import denoising_diffusion_pytorch": python("import denoising_diffusion_pytorch"),
    }


def call(command: list[str], room: Path) -> str | None:
    """Run a command; the last line of its error, if it fails."""
    done = subprocess.run(command, cwd=room, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["failed"])[-1]


def run(flags: Flags) -> Iterator[dict[str, Any]]:
    """The result."""
    result = record.about("startup", flags.torch_device, 1, flags.plan)
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        takers: dict[str, Taker] = {}
        call(python(SAVED.format(folder=str(room / "pipeline"))), room)
        for name, command in commands(room).items():
            problem = call(command, room)  # also brings its files into the system's cache
            if problem is None:
                takers[name] = lambda command=command: take(lambda: call(command, room))
            elif "unnoise" in name:
                raise RuntimeError(f"{name}: {problem}")
            else:
                print(f"{name} is skipped: {problem}")
        assert any(room.glob("out/**/*.png")), "unnoise sample wrote no picture"
        timings = measure(takers, flags.plan)
    rows = [
        {"command": name, "sec": vars(spread(seconds)), "samples": seconds}
        for name, seconds in timings.sec.items()
    ]
    yield result | {"rows": rows, "redone": timings.redone, "disturbed": timings.disturbed}
