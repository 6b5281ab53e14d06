"""How many images go through a network at once, and what happens where memory runs out.

The speed per image is flat once the widest layer of a call holds some MiB, whatever the network (docs/results.md): a wide
network on large images reaches that with one image, a narrow one on 8x8 digits with hundreds. So the size is computed and
not searched for, and the memory of a call is bounded on the way: all layers together hold PEAK times the widest at most.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from tqdm import tqdm

from unnoise.config import ConfigError
from unnoise.networks.config import UNetConfig
from unnoise.networks.unet import attention_levels

R = TypeVar("R")

CPU_BYTES, MOST_THREADS = 4 * 2**20, 8
"""The widest layer of a call, counted as float32, on a CPU: per thread, of so many threads."""
GPU_BYTES = 128 * 2**20
"""The same on a GPU."""
PEAK = 24
"""Rule of thumb: memory of a call without gradients, over its widest layer; 5 to 22 were measured."""
FREE_SHARE = 0.5
"""So much of a GPU's free memory may be used."""
MOST = 256
"""More images at once are hardly faster, and none of them is there before all are."""


def images_at_once(
    network: UNetConfig, height: int, width: int, device: torch.device, rows: int = 1
) -> int:
    """Images per network call, of which each is `rows` rows of it (guidance makes two)."""
    wanted = (
        CPU_BYTES * min(torch.get_num_threads(), MOST_THREADS)
        if device.type == "cpu"
        else GPU_BYTES
    )
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
        wanted = min(wanted, FREE_SHARE * (free - torch.cuda.memory_allocated(device)) / PEAK)
    return int(min(max(1, wanted // (rows * widest_bytes(network, height, width, device))), MOST))


def widest_bytes(network: UNetConfig, height: int, width: int, device: torch.device) -> int:
    """Of one image's largest feature map, or on a CPU its pixels' attention to each other, as float32."""
    last, sizes = len(network.channel_multipliers) - 1, []
    attention = attention_levels(network, height) | {last}  # the middle has it always
    attention = attention if device.type == "cpu" else set()  # GPU kernels do not write it down
    for level, multiplier in enumerate(network.channel_multipliers):
        pixels = -(-height // 2**level) * -(-width // 2**level)
        sizes += [network.base_channels * multiplier * pixels]
        sizes += [network.attention_heads * pixels**2] if level in attention else []
    return 4 * max(sizes)


def in_batches(count: int, size: int, run: Callable[[slice], R]) -> Iterator[R]:
    """run(rows) for at most `size` of `count` rows at a time.

    Where memory runs out it goes on with half as many, and says so; ConfigError where it does for one.
    """
    start = 0
    while start < count:
        rows = slice(start, min(start + size, count))
        try:
            done = run(rows)
        except (RuntimeError, MemoryError) as error:
            size = _fewer(error, rows.stop - rows.start)
            continue
        start = rows.stop
        yield done


def _fewer(error: Exception, size: int) -> int:
    """Half the size, if memory ran out."""
    if not out_of_memory(error):
        raise error
    if size == 1:
        raise ConfigError(
            "out of memory with one image at a time; expected more free memory, a smaller network or --device cpu"
        ) from error
    half = (size + 1) // 2
    tqdm.write(f"out of memory with {size} images at a time: going on with {half}", file=sys.stderr)
    return half


def out_of_memory(error: BaseException) -> bool:
    """Whether it says that memory ran out, on a GPU or a CPU."""
    text = str(error)
    return (
        isinstance(error, (torch.OutOfMemoryError, MemoryError))
        or "allocate memory" in text
        or "not enough memory" in text
    )
