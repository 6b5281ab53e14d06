"""The command line. `--help` imports no torch.

Each command is a module of this package, with a dataclass of its flags. Errors are one line and
exit code 2; `--debug` shows the traceback.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

import unnoise
from unnoise import ranks
from unnoise.cli.output import protect
from unnoise.errors import UsageError, UserError, nearest, one_line

USAGE = """\
usage: unnoise COMMAND ...

  train PRESET|PATH|RUN         train a model; the same command resumes after an interruption
  plan PRESET|PATH              what a run takes here: speed, memory, disk; --budget 2h: what fits
  sample RUN|FILE|NAME          make pictures with a trained model
  edit KIND RUN PICTURE ..      change pictures: inpaint, outpaint, interpolate, morph, ..
  evaluate RUN|FILE|NAME        how good: FID, precision, recall, bits/dim, copies of images
  compare RUN RUN ..            evaluations side by side, and what cannot be compared
  tune-sampler RUN|FILE|NAME    find the best solver and time steps for few evaluations
  data PATH                     report on a data set, and a mosaic of it
  info RUN|FILE|PNG             what is in a run, a model file or a picture
  export RUN|CHECKPOINT         write the model alone; --to web, onnx, diffusers, ..
  import FOLDER|FILE            read a model of another package: diffusers, EDM, ..
  push RUN OWNER/NAME           put a model on the Hugging Face Hub, with a card; pull gets one
  report RUN                    one page about a run: samples over time, curves, settings
  studio [RUNS ..]              a page to watch runs, play with models, paint and compare

  unnoise COMMAND --help        the most used flags of a command; --help-all for all of them
  unnoise --version

Every command also takes --import my.py (samplers, networks and so on of your own) and --debug.
Start with: unnoise sample emoji      a bundled model; digits and cifar10-small are the others
            unnoise train digits      a model from scratch, in a minute
            unnoise train photos/     your own pictures
"""


COMMANDS = (
    *("train", "plan", "sample", "edit", "evaluate", "compare", "tune-sampler"),
    *("data", "export", "import", "info", "report", "studio", "push", "pull"),
)
MODULES = {"tune-sampler": "tune", "info": "data", "import": "export", "push": "hub", "pull": "hub"}
"""Where a command is not in the module of its name, as a function of its name."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and give its exit code.

    0 is done, 2 an error of the user, 3 diverged, 130 and 143 stopped with everything saved.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        return _dispatch([argument for argument in arguments if argument != "--debug"])
    except (UserError, OSError, KeyboardInterrupt, MemoryError, RuntimeError) as error:
        line = _line(error)
        if debug or line is None:
            raise
        print(line, file=sys.stderr)
        code = 130 if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", 2)
        _leave_rank(code)  # while the error still holds on to the network's process group
        return code


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "--help-all", "help"):
        print(USAGE, end="")
        return 0 if arguments else 2
    if arguments[0] in ("--version", "-V", "version"):
        print(f"unnoise {unnoise.__version__}")
        return 0
    name, *rest = arguments
    try:
        os.getcwd()
    except OSError as error:
        raise UsageError("the current folder is gone; change to another one") from error
    if name not in COMMANDS:
        raise UsageError(f"no command {name!r}; {nearest(name, COMMANDS)}")
    if any(word.startswith("--import") for word in rest):
        from unnoise import extensions
        from unnoise.cli.flags import Command, peek

        for path in peek(Command, rest)[0].imports:
            extensions.load(path)
    module = importlib.import_module(f"unnoise.cli.{MODULES.get(name, name)}")
    run = getattr(module, "import_" if name == "import" else name.replace("-", "_"))
    if {"-h", "--help", "--help-all"} & set(rest):
        return run(rest)
    from unnoise import terminal  # imports tqdm

    with terminal.shown(speaks=ranks.read().rank == 0):
        return run(rest)


def _line(error: BaseException) -> str | None:
    """What to say of an error of the user's or of the machine's; None for a fault of ours."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped"
    if isinstance(error, UserError):
        return f"unnoise: {error}"
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        return one_line(f"unnoise: {f'{error.filename}: ' if error.filename else ''}{reason}")
    if isinstance(error, MemoryError) or ("torch" in sys.modules and _out_of_memory(error)):
        return "unnoise: memory ran out; expected fewer or smaller images, or a smaller network"
    return None


def _out_of_memory(error: BaseException) -> bool:
    from unnoise.memory import out_of_memory

    return out_of_memory(error)


def entry() -> None:
    """The console script."""
    protect()
    code = main()
    _leave_rank(code)
    sys.exit(code)


def _leave_rank(code: int) -> None:
    """End a process of several at once.

    gloo may abort the interpreter, or wait for it for ever, as process groups are taken apart.
    """
    with suppress(UserError):  # which `main` has told
        if ranks.read().size > 1:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
