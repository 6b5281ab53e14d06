"""What it costs that a run loses nothing: the training loop beside the bare step, and what a checkpoint takes.

    python -m benchmarks.overhead [digits cifar10] [--out benchmarks/results/overhead.json]

The bare step is the same batch, network, optimizer and average in a plain loop: no check for numbers that are not finite, no
signals, counters, log or clock. Both take turns, A B A B, on the same objects; the medians and their ratio count. A
checkpoint is timed by itself: its share is of the training time between two of them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from unnoise.config import override
from unnoise.data.batches import Batches
from unnoise.data.dataset import load
from unnoise.presets import named
from unnoise.training import ema, loop
from unnoise.training.run import Run, prepare
from unnoise.training.saver import Saver
from unnoise.training.step import draw, learning_rate

STEPS = {"digits": 10, "cifar10": 1}
"""Of one turn: short ones, as a machine that others use changes its speed within seconds."""
ROUNDS = {"digits": 61, "cifar10": 21}
BATCH = {"cifar10": 16}


def bare(run: Run, batches: Batches, steps: int) -> None:
    """Some training steps and nothing else."""
    train, state = run.config.train, run.state
    for _ in range(steps):
        batch = draw(run.objective, state.step, *batches.get(state.nimg, train.batch_size))
        loss = run.objective.loss(batch.x0, batch.eps, batch.t, batch.label)
        loss.mean().backward()
        torch.nn.utils.clip_grad_norm_(state.network.parameters(), train.clip)
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(train, state.nimg, run.progress())
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        beta = ema.decay(
            train.batch_size, state.nimg, 1000 * train.ema_halflife_kimg, train.ema_rampup
        )
        ema.update(state.ema, state.network, beta)
        state.step, state.nimg = state.step + 1, state.nimg + train.batch_size


def whole(run: Run, steps: int) -> None:
    """As many steps of the real loop, with its log, and without what comes at intervals."""
    end = run.state.step + steps
    caught: list[int] = []
    real = loop.train_step

    def step(*arguments: Any) -> Any:
        result = real(*arguments)
        if run.state.step >= end:
            caught.append(2)  # as a signal would end it
        return result

    loop.train_step = step
    save, loop._save = loop._save, lambda *_, **__: None
    try:
        loop._loop(run, caught)
    finally:
        loop.train_step, loop._save = real, save


def timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(name: str, data_path: str | None) -> dict[str, Any]:
    changes: dict[str, Any] = {
        "train.compile": "off",
        "data.path": data_path if name != "digits" else None,
    }
    changes |= {"train.batch_size": BATCH[name]} if name in BATCH else {}
    config = override(named(name), changes)
    data, folder, steps = load(config.data), Path(tempfile.mkdtemp()), STEPS[name]
    run = prepare(config, data, folder / "run")
    run.folder.mkdir()
    batches = Batches(data, 0, run.arithmetic.device)
    run.state.network.train()
    bare(run, batches, 2)
    pairs = []
    for turn in range(ROUNDS[name]):
        works = [lambda: bare(run, batches, steps), lambda: whole(run, steps)]
        order = (0, 1) if turn % 2 == 0 else (1, 0)
        took = {i: timed(works[i]) / steps for i in order}
        pairs.append((took[0], took[1]))
    bare_sec = statistics.median(a for a, _ in pairs)
    ratios = sorted(b / a for a, b in pairs)
    result = {
        "preset": name, "batch": config.train.batch_size, "parameters": sum(p.numel() for p in run.state.network.parameters()),
        "bare_ms": 1000 * bare_sec, "loop_ms": 1000 * statistics.median(b for _, b in pairs),
        "ratio": statistics.median(ratios), "ratio_quartiles": [ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]],
        **checkpoints(run),
    }  # fmt: skip
    interval_sec = 1000 * config.train.checkpoint_every_kimg / config.train.batch_size * bare_sec
    result["save_share"] = result["save_sec"] / interval_sec
    shutil.rmtree(folder)
    return result


def checkpoints(run: Run, repeats: int = 3) -> dict[str, Any]:
    """Seconds of a checkpoint with its model file: in turn, and beside training what training waits for and until it is there."""
    found: dict[str, list[float]] = {"save_sec": [], "async_waits_sec": [], "async_done_sec": []}
    for _ in range(repeats):
        run.state.step += 1
        run.saver = Saver(beside=False)
        found["save_sec"].append(timed(lambda: loop._save(run, False)))
        run.state.step += 1
        run.saver = Saver(beside=True)
        began = time.perf_counter()
        found["async_waits_sec"].append(timed(lambda: loop._save(run, False)))
        run.saver.wait()
        found["async_done_sec"].append(time.perf_counter() - began)
    size = sum(
        f.stat().st_size
        for f in loop.checkpoint.checkpoints(run.folder / "checkpoints")[-1].iterdir()
    )
    return {
        **{name: statistics.median(values) for name, values in found.items()},
        "checkpoint_bytes": size,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("presets", nargs="*", default=["digits", "cifar10"])
    parser.add_argument("--data-path", help="of CIFAR-10, instead of downloading")
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    found = [measure(name, flags.data_path) for name in flags.presets]
    text = json.dumps(
        {"torch": torch.__version__, "threads": torch.get_num_threads(), "presets": found}, indent=2
    )
    print(text)
    if flags.out:
        flags.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
