"""The distance of samples to all training images while a model is trained: train.evaluate."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from unnoise.config import RunConfig
from unnoise.data.cache import root
from unnoise.data.dataset import ImageData
from unnoise.evaluation.extractors import Extractor, extractor, suited
from unnoise.evaluation.frechet import FrechetTo
from unnoise.evaluation.store import DataStore
from unnoise.model import SAMPLE_BATCH, Model
from unnoise.parallel import World
from unnoise.precision import find_device


@dataclass(frozen=True)
class Quality:
    """An extractor and what the training images look like to it."""

    extract: Extractor
    reference: FrechetTo
    num: int

    def __call__(self, model: Model) -> dict[str, float]:
        """Give fid_edm, frechet_tiny, .. of samples with seeds 0 .. num - 1."""
        began = time.monotonic()
        images = model.sample(self.num, batch_size=SAMPLE_BATCH)
        name = f"{'fid' if self.extract.standard else 'frechet'}_{self.extract.name}"
        return {
            name: self.reference.distance(self.extract.features(images)),
            "evaluate_sec": time.monotonic() - began,
        }


def measure_for(config: RunConfig, data: ImageData, world: World) -> Quality | None:
    """Make what measures a model on the way, as train.evaluate or .evaluate_reference asks.

    ConfigError where its extractor is missing. All ranks call this and share the features of the
    training images; only rank 0 gets what measures, the others get None.
    """
    images = torch.from_numpy(data.images[:2].copy())
    named = suited(config.train.evaluate or "auto", data.images.shape[1:])
    extract = extractor(named, find_device(config.device)).probed(images)
    if known := config.train.evaluate_reference:
        to = FrechetTo(extract.statistics(Path(known), images))
        return Quality(extract, to, config.train.evaluate_num) if world.main else None
    store, rows = DataStore(data, root(config.data), world), range(data.num_train)
    features = store.features(extract, rows)
    if not world.main:
        return None
    to = FrechetTo(store.statistics(extract, rows, features))
    return Quality(extract, to, config.train.evaluate_num)
