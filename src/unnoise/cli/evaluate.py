"""unnoise evaluate."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from unnoise.cli.flags import Flag, ModelCommand, first_word, parse, sampling
from unnoise.evaluation.settings import Settings
from unnoise.ranges import Images, Range, Seed
from unnoise.records import MODEL_FILE, bundled, find

if TYPE_CHECKING:
    from unnoise.data.config import DataConfig
    from unnoise.model import Model


@dataclass(frozen=True, kw_only=True)
class Evaluate(Settings, ModelCommand):
    """Measure a model: distances to the data, likelihood, copies, classes. Again, it resumes."""

    rare = (
        *("first_seed", "inception", "reference", "save_reference", "reference_num", "data_path"),
        *("likelihood_num", "likelihood_terms", "classifier", "guide", "batch_size"),
    )
    num: Annotated[int, Range(least=2, most=10_000_000), Flag(("-n",))] = 1000
    """Number of samples; published FIDs are of 50000. torchrun needs -n."""
    first_seed: Seed = 0
    """First seed of the samples."""
    guide: str | None = None
    """A worse model that the samples are pushed away from (autoguidance)."""
    data: str | None = None
    """Reference data instead of what the model was trained on, as data.source."""
    data_path: str | None = None
    """Local folder or archive of mnist or cifar10, instead of downloading."""
    out: str | None = None
    """Folder for evaluation.json and evaluation/ [the run folder, or evaluation-NAME]."""
    batch_size: Images | None = None
    """Images per network call [as the network, the images and the device allow]."""


def evaluate(arguments: list[str]) -> int:
    """Run `unnoise evaluate RUN|FILE|NAME`; under torchrun the ranks share the work."""
    flags, given = parse(Evaluate, arguments, "evaluate", sampling(first_word(arguments)))
    from unnoise.data.dataset import load as load_data
    from unnoise.evaluation import evaluate as evaluation
    from unnoise.evaluation.store import Samples
    from unnoise.evaluation.summary import summary
    from unnoise.model import load
    from unnoise.parallel import process_group, rank_device

    device = rank_device(flags.device)
    model = load(flags.model, device)
    guide = None if flags.guide is None else load(flags.guide, device)
    samples = Samples(model, given, flags.num, flags.first_seed, flags.batch_size, guide)
    measured = Settings(**{f.name: getattr(flags, f.name) for f in fields(Settings)})
    config, out = _data(model, flags), Path(flags.out) if flags.out else _folder(flags.model)
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


def _data(model: Model, flags: Evaluate) -> DataConfig:
    """What the model was trained on, or other data made like it."""
    shape, config = model.shape, model.config.data
    if flags.data is not None:
        size = {"image_size": shape.height, "image_width": shape.width}
        config = replace(
            config, source=flags.data, path=None, classes="auto", channels=shape.channels, **size
        )
    return config if flags.data_path is None else replace(config, path=flags.data_path)


def _folder(target: str) -> Path:
    """The run folder that a model lies in; for other models a folder here, of their name."""
    from unnoise.checkpoint import MANIFEST

    path = Path(target)
    if path.is_dir() and not (path / MANIFEST).is_file():
        return find(target).parent
    if path.name == MODEL_FILE:
        return Path(f"evaluation-{path.resolve().parent.name}")
    return Path(f"evaluation-{target if target in bundled() else path.stem}")
