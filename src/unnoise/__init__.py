"""Denoising diffusion models of images: train them on your own pictures, measure them honestly, use
them.

    import unnoise
    model = unnoise.load("digits")
    images = model.sample(8, seed=0)

Names are resolved when first used, so that importing unnoise costs nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_WHERE = {
    "load": "model",
    "Model": "model",
    "generate_samples": "api",
    "train": "api",
    "wrap": "api",
    "preset": "api",
    "evaluate": "api",
    "evaluate_pictures": "evaluation.pictures",
    "load_data": "api",
    "RunConfig": "config",
    "ConfigError": "config",
    "override": "config",
    "CheckpointError": "checkpoint",
    "DataError": "errors",
    "DataConfig": "data.config",
    "dataset": "data.dataset",
    "grid": "data.images",
    "save_png": "data.images",
    "to_model": "data.images",
    "from_model": "data.images",
    "PRESETS": "presets",
}

__all__ = [
    "PRESETS",
    "CheckpointError",
    "ConfigError",
    "DataConfig",
    "DataError",
    "Model",
    "RunConfig",
    "__version__",
    "dataset",
    "evaluate",
    "evaluate_pictures",
    "from_model",
    "generate_samples",
    "grid",
    "load",
    "load_data",
    "override",
    "preset",
    "save_png",
    "to_model",
    "train",
    "wrap",
]

if TYPE_CHECKING:
    from unnoise.api import evaluate, generate_samples, load_data, preset, train, wrap
    from unnoise.config import RunConfig, override
    from unnoise.data.config import DataConfig
    from unnoise.data.dataset import dataset
    from unnoise.data.images import from_model, grid, save_png, to_model
    from unnoise.errors import CheckpointError, ConfigError, DataError
    from unnoise.evaluation.pictures import evaluate_pictures
    from unnoise.model import Model, load
    from unnoise.presets import PRESETS


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'unnoise' has no attribute {name!r}")
    return getattr(importlib.import_module(f"unnoise.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return __all__
