"""Files of one's own that add samplers, schedules, networks, losses or metrics: `--import my.py`.

A record keeps the names of the files, and nothing is ever imported because a record says so.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from unnoise.errors import UnknownNameError, UsageError


def load(path: str) -> None:
    """Run a Python file once, as a module of its own; UsageError names the line that fails."""
    name = _module(path)
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if not Path(path).is_file() or spec is None or spec.loader is None:
        raise UsageError(f"--import: got {path!r}, expected a Python file such as my.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    sys.path.append(str(Path(path).resolve().parent))  # for what lies next to it
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == name]
        line = error.lineno if isinstance(error, SyntaxError) else (lines or [None])[-1]
        said = f"{type(error).__name__}: {error}; see --debug"
        raise UsageError(f"--import {path}: line {line}: {said}") from error


@contextmanager
def needed(imports: Sequence[str]) -> Iterator[None]:
    """Say in an error about an unknown name which files a record's run had imported."""
    try:
        yield
    except UnknownNameError as error:
        missing = [path for path in imports if _module(path) not in sys.modules]
        if not missing:
            raise
        flags = " ".join(f"--import {path}" for path in missing)
        raise UnknownNameError(f"{error} (it was trained with {flags}; pass it again)") from error


def _module(path: str) -> str:
    return str(Path(path).resolve())
