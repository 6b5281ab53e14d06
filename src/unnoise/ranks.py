"""Which of several processes this is, by the variables that torchrun sets. Imports no torch."""

from __future__ import annotations

import os
from typing import NamedTuple

from unnoise.errors import ConfigError

STARTED = ("RANK", "MASTER_ADDR", "MASTER_PORT")
"""What several processes need besides WORLD_SIZE."""


class Ranks(NamedTuple):
    """This process among its like."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0


def read() -> Ranks:
    """The variables of this process; ConfigError names the one that is wrong.

    Without WORLD_SIZE, or where it is empty, 0 or 1, this process is alone.
    """
    size = max(1, _number("WORLD_SIZE"))
    if size == 1:
        return Ranks()
    rank, local_rank = (_number(name, size) for name in ("RANK", "LOCAL_RANK"))
    lacking = [name for name in STARTED if size > 1 and not os.environ.get(name)]
    if lacking:
        fix = "start with torchrun, or unset WORLD_SIZE"
        raise ConfigError(f"WORLD_SIZE: got {size}, but {lacking[0]} is not set; {fix}")
    return Ranks(rank, size, local_rank)


def _number(name: str, below: int = 1 << 20) -> int:
    text = os.environ.get(name, "").strip() or "0"
    if not text.isascii() or not text.isdecimal() or not int(text[:20]) < below:
        expected = "a number" if name == "WORLD_SIZE" else f"a number below WORLD_SIZE, {below}"
        fix = "start with torchrun, or unset it"
        raise ConfigError(f"{name}: got {text[:20]!r}, expected {expected}; {fix}")
    return int(text)
