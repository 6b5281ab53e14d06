"""unnoise evaluate."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unnoise.cli.flags import first_word, parse, short_num
from unnoise.cli.sample import SamplerFlags, at_least_one
from unnoise.errors import UsageError
from unnoise.evaluation.settings import Settings

if TYPE_CHECKING:
    from unnoise.data.config import DataConfig
    from unnoise.model import Model


@dataclass(frozen=True)
class EvaluateFlags(Settings, SamplerFlags):
    """Measure a model: distances to the data, likelihood, copying, classes. Writes evaluation.json and pictures.

    Samples and features are kept, so the same command goes on after an interruption, and another extractor or a larger
    --num costs only what is new. Under torchrun the ranks share the work.
    """

    num: int = 1000
    """How many samples; published FIDs are of 50000. Under torchrun write -n, as it takes --num for a flag of its own."""
    first_seed: int = 0
    """Of the samples: seeds first_seed .. first_seed + num - 1."""
    guide: str | None = None
    """Autoguidance: a worse model."""
    data: str | None = None
    """Reference data in place of what the model was trained on: a name, folder or zip."""
    data_path: str | None = None
    """For mnist and cifar10: a local folder or archive instead of downloading."""
    out: str | None = None
    """Folder for evaluation.json and evaluation/ [the run folder, or evaluation-NAME]."""
    batch_size: int | None = None
    """Images per network call [by the network's width, the images' size and the device]."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""


def evaluate(arguments: list[str]) -> int:
    """unnoise evaluate RUN|FILE|NAME."""
    target, arguments = first_word(
        arguments, "evaluate", "a run folder, a model file or a bundled model"
    )
    flags = parse(
        EvaluateFlags(), short_num(arguments), f"unnoise evaluate {target or 'RUN|FILE|NAME'}"
    )
    if target is None:
        return 0
    counts = ("num", "batch_size", "reference_num", "likelihood_num")
    at_least_one(*((f"--{name.replace('_', '-')}", getattr(flags, name)) for name in counts))
    if flags.first_seed < 0:
        raise UsageError(f"--first-seed: got {flags.first_seed}, expected 0 or more")
    from unnoise.data.dataset import load as load_data
    from unnoise.evaluation import evaluate as evaluation
    from unnoise.evaluation.store import Samples
    from unnoise.evaluation.summary import summary
    from unnoise.model import load
    from unnoise.parallel import process_group, rank_device

    device = rank_device(flags.device)
    model = load(target, device)
    guide = None if flags.guide is None else load(flags.guide, device)
    samples = Samples(model, flags.settings(), flags.num, flags.first_seed, flags.batch_size, guide)
    measured = Settings(**{f.name: getattr(flags, f.name) for f in dataclasses.fields(Settings)})
    config, out = _data(model, flags), Path(flags.out) if flags.out else _folder(target)
    with process_group(model.arithmetic.device) as here:
        images = here.main_process_first(lambda: load_data(config))
        record = evaluation.evaluate(samples, images, config, measured, out, here)
    if here.main:
        print(summary(record))
        pictures = "samples.png" + (", neighbours.png" if record["copying"] else "")
        print(f"\n{out / evaluation.RECORD}\n{out / evaluation.FOLDER}: {pictures}")
        if (out / "config.json").is_file():
            print(f"next: unnoise report {out}")
    return 0


def _data(model: Model, flags: EvaluateFlags) -> DataConfig:
    """What the model was trained on, or what was asked for in its place, made the model's size and kind."""
    shape, config = model.shape, model.config.data
    if flags.data is not None:
        kind: dict[str, Any] = {
            "image_size": shape.height,
            "image_width": shape.width,
            "channels": shape.channels,
        }
        config = dataclasses.replace(config, source=flags.data, path=None, **kind)
    return config if flags.data_path is None else dataclasses.replace(config, path=flags.data_path)


def _folder(target: str) -> Path:
    """The run folder that a model lies in; for other models a folder here, of their name."""
    from unnoise.checkpoint import MANIFEST, MODEL_FILE
    from unnoise.model import bundled, find

    path = Path(target)
    if path.is_dir() and not (path / MANIFEST).is_file():
        return find(target).parent
    name = (
        path.resolve().parent.name
        if path.name == MODEL_FILE
        else target
        if target in bundled()
        else path.stem
    )
    return Path(f"evaluation-{name}")
