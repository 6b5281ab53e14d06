"""Networks that are not unnoise's: a TorchScript file, or a function of a module, which is imported and so runs its code."""

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

from unnoise.errors import ConfigError, nearest


@dataclass(frozen=True)
class Foreign:
    """A callable of float images (n, c, h, w) in [0, 1]."""

    call: Callable[[torch.Tensor], Any]
    words: str
    sha256: str
    """Of the file, or of the function's source file."""


def load(spec: str, what: str, expected: str, device: torch.device | str) -> Foreign:
    """By file name or module:function; ConfigError, in the words of `what` and `expected`, where there is none."""
    is_file = (
        Path(spec).exists() or spec.endswith((".pt", ".pth", ".ts", ".jit")) or ":" not in spec
    )
    return (_torchscript if is_file else _function)(spec, f"{what} {spec}", expected, device)


def reason(error: Exception) -> str:
    """The last line of an error, or its kind."""
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__


def _torchscript(spec: str, where: str, expected: str, device: torch.device | str) -> Foreign:
    path = Path(spec)
    if not path.is_file():
        raise ConfigError(f"{where}: there is no such file; {expected}")
    try:
        network: Any = torch.jit.load(spec, map_location=device).eval()
    except Exception as error:  # torch raises RuntimeError, ValueError or what its zip reader does
        raise ConfigError(
            f"{where}: is no TorchScript file, made by torch.jit.save; {expected}"
        ) from error
    return Foreign(
        network, f"TorchScript {path.name}", hashlib.sha256(path.read_bytes()).hexdigest()
    )


def _function(spec: str, where: str, expected: str, device: torch.device | str) -> Foreign:
    name, _, attribute = spec.partition(":")
    try:
        module = _imported(name)
    except Exception as error:  # a stranger's module may raise anything
        raise ConfigError(
            f"{where}: module {name!r} cannot be imported ({reason(error)}); {expected}, found from {Path.cwd()}"
        ) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        names = [
            n for n, value in vars(module).items() if callable(value) and not n.startswith("_")
        ]
        hint = nearest(attribute, names) if names else expected
        raise ConfigError(f"{where}: {name} has no function {attribute!r}; {hint}")
    source = inspect.getsourcefile(module) if getattr(module, "__file__", None) else None
    digest = hashlib.sha256(Path(source).read_bytes() if source else spec.encode()).hexdigest()
    return Foreign(found, f"function {spec}", digest)


def _imported(name: str) -> Any:
    """A module, also from the folder one is in."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        with suppress(ValueError):
            sys.path.remove(folder)
