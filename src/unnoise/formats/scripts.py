"""Checkpoints of a training script or notebook: weights, optimizer, loss, epoch, by torch.save."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from unnoise import checkpoint, events
from unnoise.checkpoint import Tensors
from unnoise.errors import CheckpointError
from unnoise.formats.imported import is_tensors, read_pickle
from unnoise.terminal import shown_by_default

M = TypeVar("M", bound=nn.Module)
PREFIX = re.compile(r"(_orig_mod|module)\.")
"""What torch.compile and data parallelism put before every name, in either order."""


def load_weights(module: M, path: str | Path) -> M:
    """Load a script's checkpoint into a module of the script's class, for `unnoise.wrap`.

    The file is a state_dict, or a dict that has one at any key; of several, the averaged weights
    are taken, by a key with "ema" in it. CheckpointError for weights that are not the module's,
    and for a damaged file or one of more than tensors and numbers, of which nothing runs.
    """
    path = Path(path)
    found = read_pickle(path)
    key, tensors = _weights(found, path)
    own = module.state_dict().keys()
    while tensors.keys() != own and all(PREFIX.match(name) for name in tensors):
        tensors = {PREFIX.sub("", name, count=1): value for name, value in tensors.items()}
    checkpoint.fit(module, tensors, path)
    if key:
        numbers = {k: v for k, v in found.items() if isinstance(v, int | float)}
        with shown_by_default():
            events.say(", ".join([f"{path}: {key}", *(f"{k} {v:.6g}" for k, v in numbers.items())]))
    return module


def _weights(found: Any, path: Path) -> tuple[str, Tensors]:
    """The weights in a checkpoint, and their key if they are not all of it."""
    if is_tensors(found):
        return "", found
    entries = found.items() if isinstance(found, dict) else ()
    states = {str(key): value for key, value in entries if is_tensors(value)}
    averaged = [key for key in states if "ema" in key.lower()]
    keys = averaged or list(states)
    if len(keys) != 1:
        got = " and ".join(keys) or "none"
        raise CheckpointError(f"{path}: got {got}, expected weights by name under one key")
    return keys[0], states[keys[0]]
