"""unnoise compare."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from unnoise.cli.flags import Command, Flag, parse
from unnoise.errors import UsageError
from unnoise.evaluation.record import read


@dataclass(frozen=True, kw_only=True)
class Compare(Command):
    """Show evaluations side by side, with a warning wherever their numbers may not be compared."""

    runs: Annotated[tuple[str, ...], Flag(metavar="RUN RUN ..")]
    """Two or more runs that were evaluated, or their evaluation.json."""


def compare(arguments: list[str]) -> int:
    """Run `unnoise compare RUN RUN ..`."""
    flags, _ = parse(Compare, arguments, "compare")
    if len(set(flags.runs)) < 2:
        raise UsageError("compare: expected two or more runs, as `unnoise compare runs/a runs/b`")
    from unnoise.evaluation.compare import comparison, reasons
    from unnoise.evaluation.summary import layout

    records = {name: _record(name) for name in dict.fromkeys(flags.runs)}
    lines = [*layout(comparison(records)), "", *(each.text for each in reasons(records))]
    print("\n".join(lines).strip())
    return 0


def _record(name: str) -> dict[str, Any]:
    path = Path(name) / "evaluation.json" if Path(name).is_dir() else Path(name)
    if not path.exists():
        raise UsageError(f"compare: {path} is not there; run `unnoise evaluate {name}` first")
    return read(path)
