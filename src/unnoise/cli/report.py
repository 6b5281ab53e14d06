"""unnoise report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from unnoise.cli.flags import Command, Flag, parse
from unnoise.errors import UsageError
from unnoise.files import claim


@dataclass(frozen=True, kw_only=True)
class Report(Command):
    """Write one page about a training run: samples over time, curves, settings, checkpoints.

    It is one file that opens offline in any browser.
    """

    run: Annotated[str, Flag(metavar="RUN")]
    """A run folder."""
    out: str | None = None
    """File to write [RUN/report.html]."""


def report(arguments: list[str]) -> int:
    """Run `unnoise report RUN`."""
    flags, _ = parse(Report, arguments, "report")
    out = None if flags.out is None else claim(Path(flags.out))
    if out is not None and out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out: got {flags.out!r}, expected a file name that ends in .html")
    from unnoise.studio.page import write

    print(f"report: {write(Path(flags.run), out)}")
    return 0
