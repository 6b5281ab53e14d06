"""Networks that are not unnoise's: module:function, which runs its code."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unnoise.errors import ConfigError, nearest
from unnoise.precision import full_precision

EXPECTED = "expected module:function, float images (n, c, h, w) in [0, 1] -> (n, d)"


@dataclass(frozen=True)
class Foreign:
    """A network of float images (n, c, h, w) in [0, 1] that gives (n, columns) finite numbers."""

    where: str
    """Its use and its name, for messages."""
    call: Callable[[Tensor], Any]
    sha256: str
    """Digest of the function's source file."""
    columns: int | None = None
    """None where any number will do."""

    def __call__(self, images: Tensor) -> Tensor:
        """ConfigError for anything else than such numbers."""
        try:
            with torch.inference_mode(), full_precision():
                found = self.call(images)
        except Exception as error:  # whatever a stranger's code raises
            got = f"float images {tuple(images.shape)} in [0, 1]"
            reason = f"fails on {got} ({_reason(error)})"
            raise ConfigError(f"{self.where}: {reason}; {EXPECTED}") from error
        count = len(images)
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        if isinstance(got, str) or len(got) != 2 or got != (count, self.columns or got[1]):
            expected = f"expected ({count}, {self.columns or 'd'})"
            raise ConfigError(
                f"{self.where}: returns {got} for {count} images, {expected}; {EXPECTED}"
            )
        if not bool(found.isfinite().all()):
            raise ConfigError(
                f"{self.where}: returns numbers that are not finite; expected finite ones; "
                "look at the images and at the network's range (it gets [0, 1])"
            )
        return found


def network(spec: str, what: str, columns: int | None = None) -> Foreign:
    """Find a network by module:function; ConfigError where there is none."""
    where, name = f"{what} {spec}", spec.partition(":")[0]
    call = _function(spec, where)
    module = sys.modules[name]
    source = inspect.getsourcefile(module) if getattr(module, "__file__", None) else None
    content = Path(source).read_bytes() if source else spec.encode()
    return Foreign(where, call, hashlib.sha256(content).hexdigest(), columns)


def _function(spec: str, where: str) -> Any:
    name, colon, attribute = spec.partition(":")
    if not colon:
        raise ConfigError(f"{where}: names no function; {EXPECTED}")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        module = importlib.import_module(name)
    except Exception as error:  # a stranger's module may raise anything
        reason = f"module {name!r} cannot be imported ({_reason(error)})"
        raise ConfigError(f"{where}: {reason}; {EXPECTED}, found from {here}") from error
    finally:
        with suppress(ValueError):
            sys.path.remove(here)
    found = getattr(module, attribute, None)
    if not callable(found):
        names = [n for n, value in vars(module).items() if callable(value) and n[0] != "_"]
        hint = nearest(attribute, names) if names else EXPECTED
        raise ConfigError(f"{where}: {name} has no function {attribute!r}; {hint}")
    return found


def _reason(error: Exception) -> str:
    """The last line of an error, or its kind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
