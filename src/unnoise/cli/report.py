"""unnoise report."""

from __future__ import annotations

from pathlib import Path

from unnoise.cli.flags import first_word, option
from unnoise.errors import UsageError, nearest

HELP = """\
usage: unnoise report RUN [--out FILE.html]

One page about a training run: samples over time, curves, settings, environment, checkpoints. It is
one file that opens offline in any browser. It is written to RUN/report.html, or to FILE.html.
"""


def report(arguments: list[str]) -> int:
    """unnoise report RUN."""
    target, arguments = first_word(arguments, "report", "a run folder")
    if target is None or {"--help", "-h"} & set(arguments):
        print(HELP, end="")
        return 0
    out, rest = option(arguments, "--out")
    if rest:
        raise UsageError(f"no flag {rest[0]}; {nearest(rest[0], ['--out'])}")
    if out is not None and Path(out).suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out: got {out!r}, expected a file name that ends in .html")
    from unnoise.studio.page import write

    print(f"report: {write(Path(target), None if out is None else Path(out))}")
    return 0
