"""The process of one subject: lines of JSON on its input tell it what to do, its output answers.

At its best a peer's network and loss run in the loop that is the same for all: bf16 autocast, the
memory format that is faster here, fused AdamW, clipping at 1, an average by one foreach call; on
CUDA compiled, as ours is by default.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed import flops, ours, peers
from benchmarks.speed.ceilings import FORMATS
from benchmarks.speed.subject import OURS, Missing, Parts, Setting, wake
from benchmarks.timing import Work, synchroniser, take

SUBJECTS: dict[str, Callable[[Setting], Parts]] = {
    OURS: ours.build,
    "unnoise fp32": functools.partial(ours.build, precision="fp32"),
    "diffusers": peers.diffusers,
    "improved-diffusion": peers.improved_diffusion,
    "pytorch-ddpm": peers.w86,
    "ddpm-torch": peers.tqch,
    "edm": peers.edm,
    "lucidrains": peers.lucidrains,
}
"""Name -> builder. edm's and lucidrains' networks are their nearest to Ho et al.'s."""
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def built(setting: Setting) -> Parts:
    """A subject at a setting; Missing where the peer is not on this machine."""
    parts = SUBJECTS[setting.subject](setting)
    wake(parts.network)
    if parts.evaluate is None:
        network = parts.network
        parts.evaluate = lambda count: network(setting.pixels(count), setting.times(count))
    parts.precision = parts.precision or setting.default_precision
    return parts


def best_step(parts: Parts, setting: Setting) -> Work:
    """One training step of the loop that is the same for all."""
    network = parts.network
    average = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-4, weight_decay=0.0, fused=True)
    x0 = setting.random_images()
    pairs = list(zip(average.parameters(), network.parameters(), strict=True))

    def step() -> None:
        with torch.autocast(setting.torch_device.type, torch.bfloat16):
            loss = parts.loss(x0).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            old, new = zip(*pairs, strict=True)
            torch._foreach_lerp_(old, new, 1e-4)  # pyright: ignore[reportPrivateImportUsage]

    return step


def choose_format(parts: Parts, setting: Setting, work: Work) -> str:
    """Put the network into the memory format in which the work is faster."""
    took: dict[str, float] = {}
    for name, layout in FORMATS.items():
        parts.network.to(memory_format=layout)  # pyright: ignore[reportCallIssue]
        work()
        wait = synchroniser(setting.torch_device)
        took[name] = min(take(work, wait).sec for _ in range(2))
    fastest = min(took, key=lambda name: took[name])
    parts.network.to(memory_format=FORMATS[fastest])  # pyright: ignore[reportCallIssue]
    return fastest


def compiled(parts: Parts, setting: Setting, work: Work) -> str:
    """Compile the network on CUDA, and go back where that fails; says which."""
    if setting.torch_device.type != "cuda":
        return ""
    parts.network.compile()
    try:
        work()
    except Exception as error:  # noqa: BLE001  (torch.compile fails in many ways)
        parts.network._compiled_call_impl = None
        return f"not compiled ({type(error).__name__})"
    return "compiled"


class Subject:
    """A subject at a setting, ready to be timed."""

    def __init__(self, setting: Setting) -> None:
        torch.manual_seed(0)
        self.setting, self.synchronise = setting, synchroniser(setting.torch_device)
        self.parts = parts = built(setting)
        self.calls = 0
        at_best = setting.way == "best" and not parts.own_best
        self.about: dict[str, Any] = {
            "parameters": sum(p.numel() for p in parts.network.parameters()),
            "version": parts.version, "note": parts.note, "format": parts.format,
            "precision": "bf16" if at_best else parts.precision, "compiled": parts.compiled,
            "operations": self._operations(),
        }  # fmt: skip
        self.work, trial = self._work(at_best)
        if at_best:
            self.about["format"] = choose_format(parts, setting, trial)
            self.about["compiled"] = compiled(parts, setting, trial)

    def _operations(self) -> list[tuple[str, int, int]]:
        """Name, floating-point operations and bytes of a forward pass of the batch, in fp32."""
        network = self.parts.network
        was = network.training
        network.eval()
        found = flops.count(self._forward)
        network.train(was)
        return [(operation.name, operation.flop, operation.bytes) for operation in found]

    def _forward(self) -> None:
        assert self.parts.evaluate is not None
        self.parts.evaluate(self.setting.batch)

    def _work(self, at_best: bool) -> tuple[Work, Work]:
        """What is timed, a training step or sampling; and what a memory format is tried with."""
        setting, parts = self.setting, self.parts
        parts.network.train(setting.work == "training")
        if setting.work == "training":
            step = best_step(parts, setting) if at_best else parts.shipped_step()
            return step, step
        called = parts.network if parts.sampled is None else parts.sampled()
        # A lambda, as a copy of the network copies what a bound method is bound to.
        called.register_forward_hook(lambda *_: self._called())
        bf16 = torch.autocast(setting.torch_device.type, torch.bfloat16)
        autocast = bf16 if at_best else contextlib.nullcontext()

        def sample() -> None:
            with autocast:
                parts.sample(setting.batch, setting.nfe)

        def forward() -> None:
            with torch.no_grad(), autocast:
                self._forward()

        return sample, forward

    def _called(self) -> None:
        self.calls += 1

    def warm(self, times: int) -> dict[str, Any]:
        """Some calls that nobody times; then the peak of memory starts anew."""
        for _ in range(times):
            self.work()
        self.synchronise()
        if self.setting.torch_device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            with contextlib.suppress(OSError):
                CLEAR.write_text("5")
        return {}

    def take(self) -> dict[str, Any]:
        """One timed call."""
        self.calls = 0
        sample = take(self.work, self.synchronise)
        return {"sec": sample.sec, "foreign": sample.foreign, "calls": self.calls}

    def peak(self) -> dict[str, Any]:
        """The most memory since it was warm: of the device, or of the whole process."""
        if self.setting.torch_device.type == "cuda":
            return {"bytes": torch.cuda.max_memory_allocated()}
        lines = STATUS.read_text().splitlines() if STATUS.is_file() else []
        peaks = [1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
        return {"bytes": peaks[0] if peaks else None}


def main() -> None:
    tell = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a peer prints is no answer
    try:
        subject = Subject(Setting(**json.loads(sys.argv[1])))
        print(json.dumps({"about": subject.about}), file=tell)
        for line in sys.stdin:
            asked = json.loads(line)
            print(json.dumps(getattr(subject, asked.pop("do"))(**asked)), file=tell)
    except Missing as missing:
        print(json.dumps({"missing": str(missing)}), file=tell)
    except Exception as error:  # noqa: BLE001  (whatever a peer raises is told, and the others go on)
        traceback.print_exc()
        said = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        print(json.dumps({"failed": said}), file=tell)


if __name__ == "__main__":
    main()
