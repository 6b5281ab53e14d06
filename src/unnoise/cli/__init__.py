"""The command line. `--help` imports no torch.

Every command takes its first word as what it works on (a preset, a run, a path); the rest are flags made from the
config dataclasses by tyro. Errors are one line and exit code 2; `--debug` shows the traceback.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from unnoise import terminal
from unnoise.errors import UsageError, UserError, nearest

USAGE = """\
usage: unnoise COMMAND ...

  unnoise train PRESET|FOLDER|ZIP [flags]   train a model; the same command goes on after an interruption
  unnoise plan PRESET|FOLDER|ZIP --budget 2h   what fits: speed, epochs, memory, disk, and what to change
  unnoise sample RUN|FILE|NAME [flags]      make pictures with a trained model
  unnoise edit KIND RUN PICTURE.. [flags]   inpaint, outpaint, image, interpolate, reconstruct, variations, morph
  unnoise evaluate RUN|FILE|NAME [flags]    how good: FID, KID, precision, recall, bits/dim, copies of training images
  unnoise compare RUN RUN ..                evaluations side by side, with a warning where numbers may not be compared
  unnoise tune-sampler RUN [flags]          find the best solver and time steps for few evaluations
  unnoise data PATH [flags]                 report on a data set, and a mosaic of it
  unnoise info RUN|FILE|PNG                 what is in a run, a model file or a picture
  unnoise export RUN|CHECKPOINT --out FILE  the model alone as one file; --half for fp16
  unnoise report RUN [--out FILE.html]      one page about a run: samples over time, curves, settings

  unnoise COMMAND --help                    the flags of a command
  unnoise --version

start with:  unnoise sample digits          a model that comes with the package
             unnoise train digits           the same model from scratch, in under two minutes
             unnoise train photos/          your own pictures
"""


COMMANDS = {
    "train": "train",
    "plan": "plan",
    "sample": "sample",
    "edit": "edit",
    "evaluate": "evaluate",
    "compare": "compare",
    "tune-sampler": "tune",
    "data": "data",
    "export": "export",
    "info": "data",
    "report": "report",
}
"""Command -> the module of this package that has it, as a function of its name."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; gives the exit code: 0 done, 2 user error, 3 diverged, 130/143 stopped with everything saved."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    try:
        return _dispatch(arguments)
    except BrokenPipeError:  # `unnoise ... | head`: for `entry`
        raise
    except (ValueError, OSError, KeyboardInterrupt, RuntimeError) as error:
        if debug:
            raise
        return _complain(error)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0 if arguments else 2
    if arguments[0] in ("--version", "-V", "version"):
        from unnoise import __version__

        print(f"unnoise {__version__}")
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        raise UsageError(f"no command {name!r}; {nearest(name, COMMANDS)}")
    run = getattr(importlib.import_module(f"unnoise.cli.{COMMANDS[name]}"), name.replace("-", "_"))
    with terminal.shown(speaks=os.environ.get("RANK", "0") == "0"):
        return run(arguments[1:])


def _complain(error: BaseException) -> int:
    """One line on stderr, and the exit code; errors that are ours and not the user's keep their traceback."""
    if isinstance(error, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
        return 130
    if not isinstance(error, (UserError, OSError)):
        raise error
    print(f"unnoise: {error}", file=sys.stderr)
    return error.exit_code if isinstance(error, UserError) else 2


def entry() -> None:
    """The console script."""
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # `unnoise ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # A rank's process groups may abort the interpreter while it takes itself apart (seen with gloo): it is done, so it leaves.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
