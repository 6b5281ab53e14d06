"""unnoise: `unnoise.checkpoint`, and `unnoise train` said twice."""

from __future__ import annotations

from pathlib import Path

import torch

import unnoise
import unnoise.api
import unnoise.cli.train
from benchmarks.reliability.contents import Groups, Turns
from benchmarks.reliability.subject import (
    BATCH,
    DROPOUT,
    LR,
    SIZE,
    STEPS,
    Place,
    exit_after,
    moments,
    one_step,
)  # fmt: skip
from unnoise import build, checkpoint, cli
from unnoise.config import override
from unnoise.errors import CheckpointError

CHANNELS, KEPT = 56, 2


class Ours:
    name, packages = "unnoise", ("unnoise", "torch", "safetensors")

    def __init__(self, place: Place) -> None:
        self.place = place

    def save(self, folder: Path, turns: Turns) -> None:
        shape = build.Shape(3, SIZE, SIZE)
        config = override(unnoise.preset("digits"), {"network.base_channels": CHANNELS})
        network, average = build.network(config, shape), build.network(config, shape)
        optimizer = torch.optim.AdamW(network.parameters())
        one_step(network, optimizer)
        weights, ema = list(network.parameters()), list(average.parameters())
        while True:
            step = turns.next({"weights": weights, "ema": ema, "moments": moments(optimizer.state)})
            tensors = {
                "network": network.state_dict(), "ema": average.state_dict(),
                "optimizer": {f"{i:04d}": value for i, value in enumerate(moments(optimizer.state))},
            }  # fmt: skip
            checkpoint.save(
                folder, step, tensors, {"step": step, "names": list(network.state_dict())}
            )
            checkpoint.prune(folder, {path.name for path in checkpoint.checkpoints(folder)[-KEPT:]})
            turns.saved()

    def resume(self, folder: Path) -> tuple[int, Groups]:
        path, skipped = checkpoint.newest(folder)
        if path is None:
            raise CheckpointError("; ".join(skipped))
        tensors, state = checkpoint.load(path)
        weights, ema = (
            [tensors[part][name] for name in state["names"]] for part in ("network", "ema")
        )
        return state["step"], {
            "weights": weights,
            "ema": ema,
            "moments": _sorted(tensors["optimizer"]),
        }

    def newest(self, folder: Path) -> Path:
        return checkpoint.checkpoints(folder)[-1]

    def weights(self, path: Path) -> Path:
        return path / "network.safetensors"

    def train(self, folder: Path, stop: int | None) -> None:
        exit_after(checkpoint, "save", stop)
        every = str(BATCH / 1000)
        code = cli.main([
            "train", str(self.place.images), "--out", str(folder), "--device", "cpu", "--image-size", str(SIZE),
            "--data.held-out", "0", "--data.flip", "True", "--network.base-channels", str(CHANNELS),
            "--network.norm-groups", "8", "--network.dropout", str(DROPOUT), "--batch-size", str(BATCH), "--lr", str(LR),
            "--kimg", str(STEPS * BATCH / 1000), "--train.warmup-kimg", "0", "--train.ema-halflife-kimg", "0.1",
            "--train.checkpoint-every-kimg", every, "--train.log-every-kimg", every,
            "--train.sample-every-kimg", "0.1", "--train.precision", "fp32", "--sample.steps", "2",
        ])  # fmt: skip
        assert code == 0, code

    def final(self, folder: Path) -> Groups:
        tensors, _ = checkpoint.load(folder / "checkpoints" / checkpoint.name(STEPS))
        optimizer = {
            name: value for name, value in tensors["optimizer"].items() if "exp_avg" in name
        }
        return {
            "weights": _sorted(tensors["network"]),
            "ema": _sorted(tensors["ema"]),
            "moments": _sorted(optimizer),
        }


def _sorted(group: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    return [group[name] for name in sorted(group)]
