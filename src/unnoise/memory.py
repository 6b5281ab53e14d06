"""How many images go through a network at once, and what happens where memory runs out.

The speed per image is flat once the widest layer of a call holds some MiB, whatever the network
(docs/results/speed.md): a wide network on large images reaches that with one image, a narrow one on
8x8 digits with hundreds. So the size is computed and not searched for, and the memory of a call is
bounded: all layers together hold at most PEAK times the widest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from unnoise import events
from unnoise.errors import ConfigError

R = TypeVar("R")

CPU_BYTES, MOST_THREADS = 4 * 2**20, 8
"""The widest layer of a call on a CPU, counted as float32: per thread, for up to 8 threads."""
GPU_BYTES = 128 * 2**20
"""The same on a GPU."""
PEAK = 24
"""Memory of a call without gradients, over its widest layer: 5 to 22 were measured."""
FREE_SHARE = 0.5
"""The share of a GPU's free memory that a call may use."""
NO_MEMORY = (
    "allocate memory", "not enough memory", "bad_alloc", "torage size calculation overflowed",
    "multiplication overflow",
)  # fmt: skip
MOST = 256
"""More images at once are hardly faster, and none of them is there before all are."""


def images_at_once(bytes_per_image: int, device: torch.device) -> int:
    """Images per network call, from the widest layer that one of them needs (as float32)."""
    wanted = GPU_BYTES
    if device.type == "cpu":
        wanted = CPU_BYTES * min(torch.get_num_threads(), MOST_THREADS)
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
        wanted = min(wanted, FREE_SHARE * (free - torch.cuda.memory_allocated(device)) / PEAK)
    return int(min(max(1, wanted // bytes_per_image), MOST))


def halving(size: int, run: Callable[[int], R]) -> tuple[int, R]:
    """The size that fitted and run(size), with half the size as often as memory runs out.

    Each halving is reported as a message; ConfigError where memory runs out for one image.
    """
    while True:
        try:
            return size, run(size)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if size == 1:
                fix = "expected more free memory, a smaller network or image, or --device cpu"
                raise ConfigError(f"out of memory with one image at a time; {fix}") from error
        half = (size + 1) // 2
        events.say(f"out of memory with {size} images at a time: trying {half}")
        size = half
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def in_batches(count: int, size: int, run: Callable[[slice], R]) -> Iterator[R]:
    """run(rows) for at most `size` of `count` rows at a time, fewer where memory runs out."""
    start = 0
    while start < count:
        first, left = start, count - start
        size, done = halving(min(size, left), lambda n, first=first: run(slice(first, first + n)))
        start += size
        yield done


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or a CPU, or could not be counted."""
    said = any(words in str(error) for words in NO_MEMORY) and isinstance(error, RuntimeError)
    return said or isinstance(error, (torch.OutOfMemoryError, MemoryError))
