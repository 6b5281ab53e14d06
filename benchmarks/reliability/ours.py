"""unnoise: `unnoise.checkpoint`, and `unnoise train` said twice."""

from __future__ import annotations

from pathlib import Path

import torch

import unnoise.api
import unnoise.cli.train  # noqa: F401  (before the forks)
from benchmarks import product
from benchmarks.reliability import subject
from benchmarks.reliability.subject import BATCH, SIZE, STEPS, Groups, Turns
from unnoise import checkpoint, cli
from unnoise.errors import CheckpointError

KEPT = 2
CHANNELS = {"network.base_channels": 56}


class Ours(subject.Subject):
    name, packages = "unnoise", ("unnoise", "torch", "safetensors")
    checkpoints, weights_file = "step-*", "network.safetensors"

    def save(self, folder: Path, turns: Turns) -> None:
        network, average = (product.network("digits", 3, SIZE, CHANNELS) for _ in range(2))
        optimizer = torch.optim.AdamW(network.parameters())
        subject.one_step(network, optimizer)
        groups = subject.groups(network.parameters(), optimizer.state, average.parameters())
        weights, ema = network.state_dict(), average.state_dict()
        moments = {f"{i:04d}": value for i, value in enumerate(groups["moments"])}
        tensors = {"network": weights, "ema": ema, "optimizer": moments}
        while True:
            step = turns.next(groups)
            checkpoint.save(folder, step, tensors, {"step": step, "names": list(weights)})
            checkpoint.prune(folder, {path.name for path in checkpoint.checkpoints(folder)[-KEPT:]})
            turns.saved()

    def resume(self, folder: Path) -> tuple[int, Groups]:
        path, skipped = checkpoint.newest(folder)
        if path is None:
            raise CheckpointError("; ".join(skipped))
        tensors, state = checkpoint.load(path)
        weights, ema = ([tensors[part][n] for n in state["names"]] for part in ("network", "ema"))
        moments = [value for _, value in sorted(tensors["optimizer"].items())]
        return state["step"], {"weights": weights, "ema": ema, "moments": moments}

    def train(self, folder: Path, stop: int | None) -> None:
        subject.exit_after(checkpoint, "save", stop)
        every = str(BATCH / 1000)
        code = cli.main([
            "train", str(self.images), "--out", str(folder), "--device", "cpu",
            "--image-size", str(SIZE), "--data.held-out", "0", "--data.flip", "True",
            "--network.base-channels", "56", "--network.norm-groups", "8",
            "--network.dropout", str(subject.DROPOUT), "--batch-size", str(BATCH),
            "--lr", str(subject.LR), "--kimg", str(STEPS * BATCH / 1000),
            "--train.warmup-kimg", "0", "--train.ema-halflife-kimg", "0.1",
            "--train.checkpoint-every-kimg", every, "--train.log-every-kimg", every,
            "--train.sample-every-kimg", "0.1", "--train.precision", "fp32", "--sample.steps", "2",
        ])  # fmt: skip
        assert code == 0, code

    def final(self, folder: Path) -> Groups:
        tensors, _ = checkpoint.load(folder / "checkpoints" / checkpoint.name(STEPS))
        kept = lambda part, name: part != "optimizer" or "exp_avg" in name
        return {
            group: [value for name, value in sorted(tensors[part].items()) if kept(part, name)]
            for group, part in (("weights", "network"), ("ema", "ema"), ("moments", "optimizer"))
        }
