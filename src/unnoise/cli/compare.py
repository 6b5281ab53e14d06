"""unnoise compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unnoise.errors import UsageError
from unnoise.files import read_json

HELP = """\
usage: unnoise compare RUN RUN ..

Evaluations (RUN/evaluation.json of `unnoise evaluate`, or such files) side by side, and a warning wherever their numbers may not be
compared: another number of samples, another protocol, another reference.
"""


def compare(arguments: list[str]) -> int:
    """unnoise compare RUN RUN .."""
    if {"--help", "-h"} & set(arguments):
        print(HELP, end="")
        return 0
    if len(set(arguments)) < 2:
        raise UsageError(
            "compare: expected two or more runs that were evaluated, as in `unnoise compare runs/a runs/b`"
        )
    from unnoise.evaluation.compare import comparison, warnings
    from unnoise.evaluation.summary import layout

    records = {name: _record(name) for name in dict.fromkeys(arguments)}
    try:
        lines = [*layout(comparison(records)), "", *warnings(records)]
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise UsageError(
            f"compare: a file is not what `unnoise evaluate` writes ({type(error).__name__}: {error})"
        ) from error
    print("\n".join(lines).strip())
    return 0


def _record(name: str) -> dict[str, Any]:
    path = Path(name) / "evaluation.json" if Path(name).is_dir() else Path(name)
    if not path.exists():
        raise UsageError(f"compare: {path} is not there; run `unnoise evaluate {name}` first")
    return read_json(path)
