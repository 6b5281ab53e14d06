"""Two sets of pictures, read at one size and compared without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import torch

from unnoise import events
from unnoise.config import RunConfig, override
from unnoise.data.cache import root
from unnoise.data.config import DataConfig
from unnoise.data.dataset import ImageData, dataset, load
from unnoise.data.fit import KEEPS, KINDS
from unnoise.data.folder import MADE_BY_UNNOISE, usual_size
from unnoise.data.images import read_png
from unnoise.data.mnist import DAMAGE
from unnoise.errors import DataError
from unnoise.evaluation.evaluate import evaluate
from unnoise.evaluation.settings import Settings
from unnoise.evaluation.store import DataStore, Pictures
from unnoise.parallel import process_group
from unnoise.precision import choose, find_device
from unnoise.ranges import Images
from unnoise.reading import typed
from unnoise.records import is_run, run_config
from unnoise.terminal import shown_by_default

Given: TypeAlias = str | Path | ImageData
"""A data set's name, a folder, a zip, or images of the caller's own."""
MOST_PIXELS_A_SIDE = 512
"""Larger pictures are shrunk to this, unless a size is asked for."""


def evaluate_pictures(
    pictures: Given,
    against: Given,
    out: str | Path,
    num: int | None = None,
    changes: Mapping[str, Any] | None = None,
    device: str = "auto",
    **measured: Any,
) -> dict[str, Any]:
    """Compare pictures (their first `num`) with others, without a model: FID, KID, copies, ..

    Each side is a data set's name, a folder, a zip or an ImageData; `against` may also be a run,
    for the data that it was trained on. `changes` are of the DataConfig of both, such as
    {"image_size": 64}; `measured` and the record are as in `unnoise.evaluate`.
    """
    config = override(RunConfig(device=device), {"train.precision": "fp32"})
    with shown_by_default(), process_group(find_device(device)) as world:
        ours, data, source = world.main_process_first(
            lambda: _read(pictures, against, changes or {})
        )
        store, count = DataStore(ours, root(source or DataConfig()), world), ours.num_train
        first = min(typed(Images, num or count, "num"), count)
        wanted = Pictures(store, first, choose(config), _notes(ours, data))
        return evaluate(wanted, data, source, Settings(**measured), Path(out), world)


def _read(
    pictures: Given, against: Given, changes: Mapping[str, Any]
) -> tuple[ImageData, ImageData, DataConfig | None]:
    """Pictures, what to compare them with, and where that comes from (None: the caller's own).

    Both are read at the smaller of the two sizes that most of their pictures have and, unless all
    are grey, in colours; `changes` of the DataConfig say otherwise. A run as `against` is the data
    that it was trained on, with its own settings. DataError where they cannot be read.
    """
    pictures, against = _samples(pictures), _samples(against)
    if not isinstance(against, ImageData) and is_run(against):
        source = override(run_config(Path(against)).data, changes, "data.")
        reference = load(source)
        channels, height, width = reference.images.shape[1:]
        config = replace(source, image_size=height, image_width=width, channels=channels)
        return _loaded(pictures, replace(config, held_out=0.0)), reference, source
    config = override(DataConfig(held_out=0.0), changes, "data.")
    sizes = [_own_size(given, config) for given in (pictures, against)]
    most = max(size[0] for size in sizes)
    config = replace(config, channels=config.channels or (most if most in KINDS else None))
    if config.image_size is None:
        height, width = min((size[1:] for size in sizes), key=lambda side: side[0] * side[1])
        scale = min(1.0, MOST_PIXELS_A_SIDE / max(height, width))
        height, width = (max(1, round(scale * side)) for side in (height, width))
        config = replace(config, image_size=height, image_width=width)
        if any(size[1:] != (height, width) for size in sizes):
            mostly = " and ".join(f"{h} x {w}" for _, h, w in sizes)
            events.say(f"sizes: mostly {mostly}; compared at {height} x {width} (--image-size)")
    own = isinstance(against, ImageData)
    source = None if own else replace(config, source=str(against))
    return _loaded(pictures, config), _loaded(against, config), source


def _samples(given: Given) -> Given:
    """A folder of samples that a PNG cannot hold as images; anything else as it is."""
    files = [] if isinstance(given, ImageData) else sorted(Path(given).glob("seed-*.npz"))
    if not files:
        return given
    try:
        images = torch.stack([read_png(file) for file in files])
    except (*DAMAGE, RuntimeError) as error:
        fix = "expected .npz files of `unnoise sample`, all of one size"
        raise DataError(f"{given}: its samples cannot be read ({error}); {fix}") from error
    return dataset(images, name=str(given), config=DataConfig(str(given), held_out=0.0))


def _notes(ours: ImageData, data: ImageData) -> tuple[str, ...]:
    """Which pictures are skipped, and what becomes of transparent pixels."""
    notes = list[str]()
    for one in (ours, data):
        if skipped := [each for each in one.skipped if MADE_BY_UNNOISE not in each[1]]:
            first = ": ".join(skipped[0])
            notes.append(f"{one.name}: {len(skipped)} skipped, the first {first}")
    lost = [f"{one.name}: {note}" for one in (ours, data) for note in one.notes if KEEPS in note]
    if ours.images.shape[1] == data.images.shape[1] == 4:
        lost = ["transparency is kept: copies are looked for in RGBA, and features see it on white"]
    return *notes, *(["; ".join(lost).replace(f"; {KEEPS}", "", len(lost) - 1)] if lost else [])


def _loaded(given: Given, config: DataConfig) -> ImageData:
    """A set by the name that it was given by."""
    if isinstance(given, ImageData):
        return given
    return replace(load(replace(config, source=str(given)), samples=True), name=str(given))


def _own_size(given: Given, config: DataConfig) -> Sequence[int]:
    """Channels, height and width of most pictures of a set."""
    if isinstance(given, ImageData):
        return given.images.shape[1:]
    with suppress(DataError, OSError):  # no folder or zip of pictures: reading it will tell
        return usual_size(Path(given))
    return load(replace(config, source=str(given))).images.shape[1:]
