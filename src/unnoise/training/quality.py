"""The distance of samples to all training images on the way, where train.evaluate asks for it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from unnoise.config import RunConfig
from unnoise.data.cache import root
from unnoise.data.dataset import ImageData
from unnoise.evaluation.extractors import Extractor, extractor, suited
from unnoise.evaluation.frechet import FrechetTo
from unnoise.evaluation.store import DataStore
from unnoise.model import SAMPLE_BATCH, Model
from unnoise.parallel import World


def chosen(config: RunConfig, data: ImageData, device: torch.device) -> Extractor | None:
    """The extractor; ConfigError where it is not there."""
    spec = config.train.evaluate
    if spec is None:
        return None
    images = torch.from_numpy(data.images[:2].copy())
    return extractor(suited(spec, *data.images.shape[1:]), device).probed(images)


@dataclass(frozen=True)
class Quality:
    """An extractor and what the training images look like to it."""

    extract: Extractor
    reference: FrechetTo
    num: int

    def measure(self, model: Model) -> dict[str, float]:
        """fid_edm, frechet_tiny, .. of samples with seeds 0 .. num - 1."""
        began = time.monotonic()
        images = model.sample(self.num, batch_size=SAMPLE_BATCH)
        name = f"{'fid' if self.extract.standard else 'frechet'}_{self.extract.name}"
        return {
            name: self.reference.distance(self.extract.features(images)),
            "evaluate_sec": time.monotonic() - began,
        }


def prepared(
    config: RunConfig, data: ImageData, extract: Extractor | None, world: World
) -> Quality | None:
    """Before the first step, and on all ranks, which share the features of the training images; only rank 0 measures."""
    if extract is None:
        return None
    store, rows = DataStore(data, root(config.data), world), range(data.num_train)
    features = store.features(extract, rows)
    if not world.main:
        return None
    reference = FrechetTo(store.statistics(extract, rows, features))
    return Quality(extract, reference, config.train.evaluate_num)
