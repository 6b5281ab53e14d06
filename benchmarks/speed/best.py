"""A peer at its best: its network and loss in the loop that is the same for all.

bf16 autocast, the memory format that is faster here, fused AdamW, clipping at 1, an average by one foreach call; on CUDA
compiled, as ours is by default.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import torch

from benchmarks.speed.ceilings import synchroniser
from benchmarks.speed.subjects.subject import Parts, Setting, random_images

FORMATS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
TRIALS = 2


def stepper(parts: Parts, setting: Setting) -> Callable[[], object]:
    """One training step."""
    network, device = parts.network, setting.torch_device
    average = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-4, weight_decay=0.0, fused=True)
    x0 = random_images(setting)
    pairs = list(zip(average.parameters(), network.parameters(), strict=True))

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = parts.loss(x0).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            old, new = zip(*pairs, strict=True)
            torch._foreach_lerp_(old, new, 1e-4)  # pyright: ignore[reportPrivateImportUsage]

    return step


def sampler(parts: Parts, setting: Setting) -> Callable[[int, int], object]:
    """Its own sampler with the network under bf16 autocast."""

    def sample(count: int, nfe: int) -> object:
        with torch.autocast(setting.torch_device.type, torch.bfloat16):
            return parts.sample(count, nfe)

    return sample


def choose_format(parts: Parts, setting: Setting, work: Callable[[], object]) -> str:
    """Put the network into the memory format in which the work is faster."""
    took: dict[str, float] = {}
    for name, layout in FORMATS.items():
        parts.network.to(memory_format=layout)  # pyright: ignore[reportCallIssue]
        work()
        took[name] = min(_seconds(work, setting) for _ in range(TRIALS))
    fastest = min(took, key=lambda name: took[name])
    parts.network.to(memory_format=FORMATS[fastest])  # pyright: ignore[reportCallIssue]
    return fastest


def _seconds(work: Callable[[], object], setting: Setting) -> float:
    synchronise = synchroniser(setting.torch_device)
    synchronise()
    began = time.perf_counter()
    work()
    synchronise()
    return time.perf_counter() - began


def compiled(parts: Parts, setting: Setting, work: Callable[[], object]) -> str:
    """Compile the network on CUDA, and go back where that fails; says which."""
    if setting.torch_device.type != "cuda":
        return ""
    parts.network.compile()
    try:
        work()
    except Exception as error:  # noqa: BLE001  (torch.compile fails in many ways, and none of them is the peer's)
        parts.network._compiled_call_impl = None
        return f"not compiled ({type(error).__name__})"
    return "compiled"
