"""unnoise compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unnoise.errors import UsageError

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
    try:
        record = json.loads(path.read_text())
    except OSError as error:
        raise UsageError(
            f"compare: {path}: {error.strerror}; run `unnoise evaluate {name}` first"
        ) from error
    except ValueError as error:
        raise UsageError(
            f"compare: {path}: is not JSON ({error}); run `unnoise evaluate` again"
        ) from error
    if not isinstance(record, dict) or "distances" not in record:
        raise UsageError(f"compare: {path}: is not what `unnoise evaluate` writes")
    return record
