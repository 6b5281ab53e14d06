"""A run folder with everything in it, made without training."""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

from unnoise.config import override, to_dict
from unnoise.presets import PRESETS

HASH = "0123456789abcdef" * 4
EVIL = "<b>&\"'</title></script><script>alert(1)</script>\u2028<!--"

METRICS = [
    {"step": 10, "nimg": 1000, "epoch": 0.5, "loss": 0.87654321, "grad_norm": 2.5, "lr": 1e-3,
     "img_per_sec": 101.0, "train_sec": 10.0},
    {"step": 10, "nimg": 1000, "held_out_loss": 0.71234567, "held_out_q1": 0.5, "held_out_q2": 0.25,
     "new_3": 1, "new_4": 2},
    {"step": 20, "nimg": 2000, "epoch": 1.0, "loss": 0.43215678, "grad_norm": 1.5, "lr": 2e-3,
     "img_per_sec": 99.0, "train_sec": 3725.0, "odd": "text", "skipped_steps": 0},
    {"step": 20, "nimg": 2000, "held_out_loss": 0.61234567, "held_out_q1": 0.4, "held_out_q2": 0.2,
     "new_3": 3, "new_4": 4},
]  # fmt: skip


def png(width: int = 4, height: int = 4, noise: bool = False) -> bytes:
    """A grey picture, or one that does not compress."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    rows = [b"\0" + (os.urandom(3 * width) if noise else b"\x80" * 3 * width)] * height
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"".join(rows), 0 if noise else 1))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def model_file(record: dict[str, Any]) -> bytes:
    """A model file of 22 parameters."""
    tensors = {"a": {"dtype": "F32", "shape": [3, 5], "data_offsets": [0, 60]}}
    tensors["b"] = {"dtype": "F32", "shape": [7], "data_offsets": [60, 88]}
    header = json.dumps({"__metadata__": {"unnoise": json.dumps(record)}, **tensors}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(88)


def distance(value: float) -> dict[str, Any]:
    return {
        "num": 200, "frechet": value, "interval": [value - 1, value + 1], "kernel": 0.1,
        "kernel_error": 0.01, "interval_words": "95 %", "frechet_infinity": None,
        "frechet_of_perfect": 5.0, "precision": 0.95, "recall": 0.65, "density": 1.4,
        "coverage": 0.5,
    }  # fmt: skip


EVALUATION = {
    "model": {"weights": HASH[:12], "sampler": "ddim", "steps": 12, "noises": [],
              "guidance_scale": 1.5},
    "samples": {"num": 200, "first_seed": 0}, "data": {"name": "digits", "fingerprint": "f00d"},
    "distances": [{
        "extractor": "tiny", "standard": False, "network": "a network", "resize": "none",
        "range": "x / 255", "reference": "1,500 images", "fingerprint": "",
        "samples": distance(6.5),
        "held_out": distance(3.25), "per_class": [],
    }],
    "likelihood": {"bound": {"bits_per_dim": 4.445, "standard_error": 0.12}, "ode": None},
    "classes": None, "notes": ["a note"],
    "copying": {"num_copies": 0, "num_samples": 200, "summary": ["0 of 200 samples are copies"]},
}  # fmt: skip


def make(folder: Path) -> Path:
    """Write the run folder."""
    changes = {"train.kimg": 4.0, "train.betas": (0.8, 0.9)}
    config = to_dict(override(PRESETS["digits"](), changes))
    start = {"started": "2026-01-01T00:00:00+00:00", "step": 0, "torch": "2.13", "device": "cpu"}
    tuned = {"sampler": "unipc_3", "steps": 2, "noises": [30.0, 0.15], "guidance_scale": 1.5}
    record = {
        "config": config, "weights": HASH, "tuned": {"fast": tuned}, "class_names": ["zero", "one"],
        "shape": {"channels": 1, "height": 8, "width": 8, "num_classes": 2},
        "data": {"name": "digits", "num_train": 1500},
        "training": {"step": 20, "nimg": 2000, "train_sec": 3725.0, "loss": 0.43215678},
    }  # fmt: skip
    checkpoint = folder / "checkpoints" / "step-00000020"
    files = {"ema.safetensors": {"bytes": 1000, "sha256": ""}}
    contents = {
        folder / "config.json": {"config": config, "data": "f00d" * 16},
        folder / "environment.json": [start, {**start, "step": 10, "device": "H100"}],
        folder / "evaluation.json": EVALUATION,
        checkpoint / "state.json": {"nimg": 2000},
        checkpoint / "manifest.json": {"format": 1, "files": files},
    }
    pictures = ("data.png", "samples/0000001000.png", "samples/0000002000.png",
                "evaluation/samples.png", "evaluation/neighbours.png")  # fmt: skip
    for path in (checkpoint, folder / "samples", folder / "evaluation"):
        path.mkdir(parents=True)
    for path, value in contents.items():
        path.write_text(json.dumps(value))
    for name in pictures:
        (folder / name).write_bytes(png())
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in METRICS))
    (checkpoint / "ema.safetensors").write_bytes(bytes(1000))
    (folder / "model.safetensors").write_bytes(model_file(record))
    return folder


def make_hostile(run: Path) -> Path:
    """Put HTML, script ends and odd numbers into every file and name; gives the folder."""
    recorded = json.loads((run / "config.json").read_text())
    config = recorded["config"]
    config["preset"] = config["data"]["source"] = EVIL
    config[EVIL] = {EVIL: EVIL, "__proto__": float("nan"), "big": 2**70, "inf": [float("inf")]}
    (run / "config.json").write_text(json.dumps({"config": config, "data": EVIL}))
    (run / "environment.json").write_text(json.dumps([{EVIL: EVIL, "started": EVIL}, {EVIL: 1}]))
    lines = [
        {"nimg": nimg, EVIL: nimg, "__proto__": nimg, "constructor": -nimg} for nimg in (1, 2, 3)
    ]
    with (run / "metrics.jsonl").open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))
    record = {
        "weights": EVIL, "tuned": {EVIL: {EVIL: EVIL, "noises": [EVIL]}, "bad": 3},
        "class_names": [EVIL], "data": {"name": EVIL, "num_train": EVIL},
        "shape": {"channels": EVIL, "height": [], "num_classes": EVIL},
        "training": {"loss": EVIL, "nimg": EVIL},
    }  # fmt: skip
    (run / "model.safetensors").write_bytes(model_file(record))
    evaluation = {**EVALUATION, "notes": [EVIL], "data": {"name": EVIL, "fingerprint": EVIL}}
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    name = "<b>&\"'<script>"
    checkpoint = run / "checkpoints" / "step-00000020"
    checkpoint.rename(checkpoint.with_name(f"step-{name}"))
    return run.rename(run.with_name(name))
