"""The console script and `python -m unnoise`: Ctrl-C is one line, also while modules load."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run the command line and leave with its exit code."""
    stopped: list[int] = []

    def stop(number: int, frame: object) -> None:
        stopped.append(number)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, stop)
    try:
        from unnoise.cli import entry

        entry()
    except (Exception, KeyboardInterrupt):
        if not stopped:  # a module that is interrupted as it loads may raise anything
            raise
        print("stopped", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
