"""The commands as Python functions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unnoise.config import RunConfig, override
from unnoise.data.config import DataConfig
from unnoise.data.dataset import ImageData, load
from unnoise.model import Model
from unnoise.model import load as load_model
from unnoise.precision import find_device
from unnoise.presets import named, with_objective
from unnoise.terminal import shown_by_default
from unnoise.training import loop


def preset(
    name: str, changes: Mapping[str, Any] | None = None, objective: str | None = None
) -> RunConfig:
    """A preset's configuration, or `pictures` for a folder or zip, with dotted keys changed: {"train.kimg": 50}.

    `objective` is ddpm, iddpm, v, edm or flow in place of the preset's own.
    """
    return override(named(name, objective), changes or {})


def load_data(config: RunConfig) -> ImageData:
    """The images of a configuration."""
    return load(config.data)


def train(
    config: RunConfig | str,
    out: str | Path | None = None,
    changes: Mapping[str, Any] | None = None,
    objective: str | None = None,
) -> Model:
    """Train a preset, a folder of pictures or a configuration into a run folder, and give the model.

    The same call goes on where an interrupted one stopped: Ctrl-C saves and then raises KeyboardInterrupt. `out` is runs/<preset> unless given; `objective` as in
    `preset`.
    """
    config = named(config) if isinstance(config, str) else config
    config = override(
        config if objective is None else with_objective(config, objective), changes or {}
    )
    folder = Path(out) if out is not None else default_folder(config, objective)
    with shown_by_default():
        outcome = loop.train(config, load_data(config), folder)
    if not outcome.finished:
        raise KeyboardInterrupt(
            f"stopped: everything is saved in {folder}; the same call goes on from there"
        )
    return load_model(outcome.folder, str(find_device(config.device)))


def evaluate(
    model: Model | str | Path,
    out: str | Path,
    num: int = 1000,
    sampling: Mapping[str, Any] | None = None,
    data: ImageData | DataConfig | None = None,
    **measured: Any,
) -> dict[str, Any]:
    """Measure samples of a model (or its name, run folder or file) against its data, or `data`.

    `sampling` changes fields of the model's SampleConfig; `measured` are fields of
    `unnoise.evaluation.settings.Settings`: features, likelihood, copying, .. Gives the record that
    is also written to out/evaluation.json; the same call again resumes.
    """
    from unnoise.evaluation.evaluate import evaluate as run
    from unnoise.evaluation.settings import Settings
    from unnoise.evaluation.store import Samples

    model = model if isinstance(model, Model) else load_model(model)
    samples = Samples(model, dict(sampling or {}), num, seed=0)
    with shown_by_default():
        images = data if isinstance(data, ImageData) else load(data or model.config.data)
        config = None if isinstance(data, ImageData) else data or model.config.data
        return run(samples, images, config, Settings(**measured), Path(out))


def default_folder(config: RunConfig, objective: str | None = None) -> Path:
    """runs/<preset>, or runs/<folder's name> for own pictures; with -<objective> if another one was asked for."""
    name = Path(config.data.source).resolve().stem if config.preset == "pictures" else config.preset
    return Path("runs") / (name if objective is None else f"{name}-{objective}")
