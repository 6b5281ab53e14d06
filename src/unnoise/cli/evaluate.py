"""unnoise evaluate."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from unnoise.cli import data
from unnoise.cli import flags as cli
from unnoise.cli.flags import Command, Flag, first_word, parse, sampling
from unnoise.data.config import DataConfig
from unnoise.errors import UsageError
from unnoise.evaluation.settings import Settings
from unnoise.ranges import Images, Range, Seed
from unnoise.records import MANIFEST, MODEL_FILE, bundled, find, is_run

if TYPE_CHECKING:
    from unnoise.model import Model

MoreThanOne = Annotated[int, Range(least=2, most=10_000_000)]
OF_MODEL = (
    *("first_seed", "guide", "data_path", "batch_size", "likelihood_num", "likelihood_terms"),
    "classifier",
)
"""Flags that say nothing of pictures."""
OFTEN = ("image_size", "image_width", "channels", "fit", "background")


@dataclass(frozen=True, kw_only=True)
class Evaluate(Settings, Command):
    """Measure a model: distances to the data, likelihood, copies, classes. Again, it resumes.

    Or compare two sets of pictures, without a model: unnoise evaluate FOLDER --against FOLDER.
    """

    rare = (*OF_MODEL, "likelihood", "copying", "inception", "reference", "save_reference")
    target: Annotated[str, Flag(metavar="RUN|FILE|NAME|FOLDER")]
    """A run folder, model file or bundled model; or a folder or file of pictures."""
    against: Annotated[str | None, Flag(("--data",))] = None
    """Reference in place of the training images: a data set's name or a path; for pictures also a
    run, for its training images."""
    num: Annotated[MoreThanOne | None, Flag(("-n",))] = None
    """Number of samples [1000, perhaps fewer on a CPU; all pictures]; papers have 50000."""
    first_seed: Seed = 0
    """First seed of the samples."""
    guide: str | None = None
    """A worse model that the samples are pushed away from (autoguidance)."""
    data_path: str | None = None
    """Local folder or archive of mnist or cifar10, instead of downloading."""
    out: str | None = None
    """Folder for the results [the run folder, or evaluation-NAME]."""
    batch_size: Images | None = None
    """Images per network call [as the network, the images and the device allow]."""
    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:1 or mps."""


def evaluate(arguments: list[str]) -> int:
    """Run `unnoise evaluate RUN|FILE|NAME` or `unnoise evaluate FOLDER --against FOLDER`.

    Under torchrun the ranks share the work.
    """
    target = first_word(arguments)
    if target is not None and _of_pictures(target, arguments):
        return _pictures(arguments)
    often = ("sampler", "steps", "guidance_scale")
    settings = replace(sampling(target), often=often)
    flags, given = parse(Evaluate, arguments, "evaluate", settings)
    cli.check_model_file(flags.target)
    from unnoise.data.dataset import load as load_data
    from unnoise.evaluation import evaluate as evaluation
    from unnoise.evaluation.store import Samples
    from unnoise.model import load
    from unnoise.parallel import process_group, rank_device

    device = rank_device(flags.device)
    model = load(flags.target, device)
    guide = None if flags.guide is None else load(flags.guide, device)
    num = flags.num or Samples.usual_num(model, given, guide)
    samples = Samples(model, given, num, flags.first_seed, flags.batch_size, guide)
    measured = Settings(**{f.name: getattr(flags, f.name) for f in fields(Settings)})
    config, out = _data(model, flags), Path(flags.out) if flags.out else _folder(flags.target)
    with process_group(model.arithmetic.device) as here:
        images = here.main_process_first(lambda: load_data(config))
        record = evaluation.evaluate(samples, images, config, measured, out, here)
    return _show(record, out)


def _of_pictures(target: str, arguments: list[str]) -> bool:
    """Whether a target is no model, good or not, but a set of pictures."""
    path, flags = Path(target), ("--against", "--data")
    model = any((path / name).is_file() for name in (MODEL_FILE, MANIFEST)) or is_run(path)
    if model or target in bundled() or path.suffix == ".safetensors":
        return False
    return path.is_dir() or any(word.split("=")[0] in flags for word in arguments)


def _pictures(arguments: list[str]) -> int:
    """Run `unnoise evaluate FOLDER --against FOLDER`."""
    both = data.settings(DataConfig(held_out=0.0), OFTEN, arguments)
    flags, given = parse(Evaluate, arguments, "evaluate", both)
    if not flags.against:
        expected = "expected a model, or --against FOLDER: with what to compare these pictures"
        raise UsageError(f"evaluate: {flags.target} is no run; {expected}")
    names = [*given.keys() & {"source"}, *OF_MODEL]
    odd = [n for n in names if getattr(flags, n, n) != getattr(Evaluate, n, None)]
    if odd:
        flag = f"--{odd[0].replace('_', '-')}"
        raise UsageError(f"evaluate: got {flag} for pictures; expected a model, or to leave it out")
    from unnoise.evaluation.pictures import evaluate_pictures

    sets = flags.target, flags.against
    out = Path(flags.out or "evaluation-{}-{}".format(*(Path(one).stem for one in sets)))
    names = {f.name for f in fields(Settings)} - {*OF_MODEL}
    measured = {name: getattr(flags, name) for name in names}
    return _show(evaluate_pictures(*sets, out, flags.num, given, flags.device, **measured), out)


def _show(record: dict[str, Any], out: Path) -> int:
    """Print an evaluation, on the rank that has it, and where it is."""
    from unnoise.evaluation.evaluate import FOLDER, RECORD
    from unnoise.evaluation.summary import summary

    if record:
        print(summary(record))
        pictures = "samples.png" + (", neighbours.png" if record["copying"] else "")
        print(f"\n{out / RECORD}\n{out / FOLDER}: {pictures}")
        if (out / "config.json").is_file():
            print(f"next: unnoise report {out}")
    return 0


def _data(model: Model, flags: Evaluate) -> DataConfig:
    """What the model was trained on, or other data made like it."""
    shape, config = model.shape, model.config.data
    if flags.against is not None:
        size = {"image_size": shape.height, "image_width": shape.width}
        config = replace(
            config, source=flags.against, path=None, classes="auto", channels=shape.channels, **size
        )
    return config if flags.data_path is None else replace(config, path=flags.data_path)


def _folder(target: str) -> Path:
    """The run folder that a model lies in; for other models a folder here, of their name."""
    path = Path(target)
    if path.is_dir() and not (path / MANIFEST).is_file():
        return find(target).parent
    if path.name == MODEL_FILE:
        return Path(f"evaluation-{path.resolve().parent.name}")
    return Path(f"evaluation-{target if target in bundled() else path.stem}")
