"""Where the time of our training step and of our sampling goes, and what keeps it from the machine's peak."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from benchmarks.speed import ceilings, flops, record, roofline
from benchmarks.speed.flags import Flags
from benchmarks.speed.subjects import OURS, ours
from benchmarks.speed.subjects.subject import Parts, Setting

WARM = 2
KINDS = {
    "optimizer": ("Optimizer.", "aten::_fused_adam"),
    "average": ("aten::_foreach_lerp",),
    "gradient clipping": ("aten::_foreach_norm", "aten::_foreach_mul"),
    "convolution, backward": ("aten::convolution_backward",),
    "convolution, forward": ("aten::conv2d", "aten::conv_transpose2d", "aten::_convolution", "aten::convolution"),
    "normalisation with its activation": ("_NormSiLU",),
    "normalisation": ("aten::group_norm", "aten::native_group_norm"),
    "activation": ("aten::silu", "aten::sigmoid"),
    "dropout": ("_Masked", "aten::dropout", "aten::native_dropout", "aten::bernoulli", "aten::bitwise_and", "aten::random_"),
    "attention and matrix products": (
        "aten::scaled_dot_product", "aten::_scaled_dot_product", "aten::softmax", "aten::_softmax", "aten::matmul",
        "aten::bmm", "aten::mm", "aten::addmm", "aten::linear",
    ),
    "copies and casts": (
        "aten::to", "aten::_to_copy", "aten::copy_", "aten::cat", "aten::clone", "aten::contiguous", "aten::upsample",
        "aten::split", "aten::slice_backward", "aten::pad", "aten::constant_pad",
    ),
    "additions": ("aten::add", "aten::sum", "aten::mul", "aten::div"),
    "noise": ("aten::randn", "aten::normal_", "aten::rand"),
}  # fmt: skip
"""Kind -> how the names of its operations begin; the first that fits counts, and everything that happens inside it."""


def kind_of(name: str) -> str | None:
    """The kind of an operation, if it has one."""
    return next((kind for kind, starts in KINDS.items() if name.startswith(starts)), None)


def tally(event: Any, clock: str, into: dict[str, float]) -> None:
    """Add an event's microseconds to its kind, or its own to the rest and its children's to theirs."""
    kind = kind_of(event.name)
    if any(child.name == event.name for child in event.cpu_children):
        kind = None  # autocast casts and calls the same again
    if kind is not None:
        into[kind] += getattr(event, f"{clock}_time_total")
        return
    into["rest"] += getattr(event, f"self_{clock}_time_total")
    for child in event.cpu_children:
        tally(child, clock, into)


def shares(work: Callable[[], object], device: torch.device, calls: int) -> dict[str, float]:
    """Seconds per call of each kind."""
    for _ in range(WARM):
        work()
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(calls):
            work()
        ceilings.synchroniser(device)()
    spent: dict[str, float] = defaultdict(float)
    for event in profiler.events() or ():
        if event.cpu_parent is None:
            tally(event, "device" if cuda else "cpu", spent)
    return {
        kind: micro / 1e6 / calls
        for kind, micro in sorted(spent.items(), key=lambda pair: -pair[1])
    }


def row(
    name: str, spent: dict[str, float], parts: Parts, batch: int, ceiling: roofline.Ceiling
) -> dict[str, Any]:
    """Seconds by kind, and the rate of the convolutions."""
    operations = flops.count(lambda: parts.evaluate(batch))
    forward = sum(operation.flop for operation in operations if operation.kind == "convolution")
    passes = roofline.TRAINING_PASSES if name == "training" else 1
    convolving = spent.get("convolution, forward", 0.0) + spent.get("convolution, backward", 0.0)
    rate = passes * forward / convolving if convolving else 0.0
    return {
        "subject": OURS, "work": name, "batch": batch, "precision": parts.precision, "sec": spent,
        "convolution_flop_per_sec": rate, "convolution_share_of_peak": rate / ceiling.convolution_flop_per_sec,
        "without_convolutions": 1 - convolving / sum(spent.values()),
    }  # fmt: skip


def run(flags: Flags) -> Iterator[dict[str, Any]]:
    """The result, again after every precision."""
    device = flags.torch_device
    result = record.about("profile", device, WARM, flags.plan) | {"rows": []}
    result["ceilings"] = found = ceilings.measured(device, flags.plan, flags.scale)
    for batch in flags.batch:
        for precision in ("fp32", "bf16"):
            setting = Setting(
                OURS, batch=batch, device=flags.device, base_channels=flags.base_channels
            )
            parts = ours.build(
                setting, precision, compiles=False
            )  # a compiled step has no operations to tell apart
            ceiling = ceilings.ceiling(found, parts.precision)
            spent = shares(parts.shipped_step(), device, flags.repeats)
            result["rows"].append(row("training", spent, parts, batch, ceiling))
            parts.network.eval()
            spent = shares(
                lambda parts=parts, batch=batch: parts.sample(batch, 2), device, flags.repeats
            )
            result["rows"].append(
                row("sampling", {k: v / 2 for k, v in spent.items()}, parts, batch, ceiling)
            )
            yield result
