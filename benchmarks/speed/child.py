"""The process of one subject: it does what it is told by lines of JSON on its input, and answers on its output."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed import best, flops
from benchmarks.speed.ceilings import synchroniser
from benchmarks.speed.meter import take
from benchmarks.speed.subjects import build
from benchmarks.speed.subjects.subject import Missing, Parts, Setting

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Subject:
    """A subject at a setting, ready to be timed."""

    def __init__(self, setting: Setting) -> None:
        torch.manual_seed(0)
        self.setting, self.synchronise = setting, synchroniser(setting.torch_device)
        self.parts: Parts = build(setting)
        self.at_best = setting.way == "best" and not self.parts.own_best
        self.calls: list[None] = []
        self.about: dict[str, Any] = {
            "parameters": sum(p.numel() for p in self.parts.network.parameters()),
            "version": self.parts.version, "note": self.parts.note,
            "precision": "bf16" if self.at_best else self.parts.precision,
            "format": self.parts.format, "compiled": self.parts.compiled,
        }  # fmt: skip
        self.work = self._work()

    def operations(self) -> list[tuple[str, int, int]]:
        """Name, floating-point operations and bytes of every operation of a forward pass of the batch, in fp32."""
        network = self.parts.network
        was = network.training
        network.eval()
        found = flops.count(lambda: self.parts.evaluate(self.setting.batch))
        network.train(was)
        return [(operation.name, operation.flop, operation.bytes) for operation in found]

    def _work(self) -> Callable[[], object]:
        """What is timed: a training step, or sampling."""
        setting, parts = self.setting, self.parts
        self.about["operations"] = self.operations()
        parts.network.train(setting.work == "training")
        if setting.work == "training":
            step = best.stepper(parts, setting) if self.at_best else parts.shipped_step()
            return self._tuned(step, step)
        calls = self.calls
        called = parts.network if parts.sampled is None else parts.sampled()
        called.register_forward_hook(lambda *_: calls.append(None))
        sample = best.sampler(parts, setting) if self.at_best else parts.sample
        return self._tuned(lambda: sample(setting.batch, setting.nfe), self._forward)

    def _forward(self) -> None:
        with torch.no_grad(), torch.autocast(self.setting.torch_device.type, torch.bfloat16):
            self.parts.evaluate(self.setting.batch)

    def _tuned(
        self, work: Callable[[], object], trial: Callable[[], object]
    ) -> Callable[[], object]:
        if self.at_best:
            self.about["format"] = best.choose_format(self.parts, self.setting, trial)
            self.about["compiled"] = best.compiled(self.parts, self.setting, trial)
        return work

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
        self.calls.clear()
        sample = take(self.work, self.synchronise)
        return {"sec": sample.sec, "foreign": sample.foreign, "calls": len(self.calls)}

    def peak(self) -> dict[str, Any]:
        """The most memory that it held since it was warm: of the device, or of the whole process."""
        if self.setting.torch_device.type == "cuda":
            return {"bytes": torch.cuda.max_memory_allocated()}
        lines = STATUS.read_text().splitlines() if STATUS.is_file() else []
        peaks = [1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
        return {"bytes": peaks[0] if peaks else None}


def answer(subject: Subject, asked: dict[str, Any]) -> dict[str, Any]:
    """One request."""
    return {
        "warm": lambda: subject.warm(asked["times"]),
        "take": subject.take,
        "peak": subject.peak,
    }[asked["do"]]()


def main() -> None:
    tell = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a peer prints is no answer
    try:
        subject = Subject(Setting(**json.loads(sys.argv[1])))
        print(json.dumps({"about": subject.about}), file=tell)
        for line in sys.stdin:
            print(json.dumps(answer(subject, json.loads(line))), file=tell)
    except Missing as missing:
        print(json.dumps({"missing": str(missing)}), file=tell)
    except Exception as error:  # noqa: BLE001  (whatever a peer raises is told, and the others go on)
        traceback.print_exc()
        print(
            json.dumps({"failed": f"{type(error).__name__}: {error}".splitlines()[0][:300]}),
            file=tell,
        )


if __name__ == "__main__":
    main()
