"""The commands as Python functions."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unnoise import build, events, extensions, parallel
from unnoise.checkpoint import read_named
from unnoise.config import DiffusionConfig, RunConfig, dotted, override, to_dict
from unnoise.data.arrays import ARRAYS, own_size
from unnoise.data.config import DataConfig
from unnoise.data.dataset import ImageData, load, report
from unnoise.diffusion.losses import LOSSES, Loss
from unnoise.errors import CheckpointError, ConfigError
from unnoise.evaluation.during import measure_for
from unnoise.evaluation.verdict import verdict
from unnoise.events import Listener
from unnoise.files import write_bytes
from unnoise.model import Model
from unnoise.model import load as load_model
from unnoise.networks.config import NetworkConfig, Shape
from unnoise.networks.wrapped import Wrapped, WrappedConfig
from unnoise.precision import find_device
from unnoise.presets import changed, named, with_objective
from unnoise.reading import from_dict
from unnoise.records import VERDICT, is_run
from unnoise.terminal import shown_by_default
from unnoise.training import loop


def preset(
    name: str, changes: Mapping[str, Any] | None = None, objective: str | None = None
) -> RunConfig:
    """Give a preset's configuration, or `pictures` for a path of images.

    `changes` sets dotted keys: {"train.kimg": 50}. `objective` is ddpm, iddpm, v, edm or flow in
    place of the preset's own. The network and batch of `pictures` suit the size and the device.
    With `train.start`, the network is that of the model to start from.
    """
    changes = changes or {}
    config = changed(named(name, objective), changes)
    if config.preset != "pictures" and not config.train.start:
        return config
    changes = {**_own_size(config.data, changes), **changes}
    base = named(name, objective, changes, find_device(config.device).type != "cpu")
    if config.train.start and not is_run(name):  # its network, so that the weights fit
        with suppress(CheckpointError):  # a run that is there needs the model no more
            there = read_named(config.train.start)[2]["config"]
            with extensions.needed(there.get("imports", ())):
                base = replace(base, network=from_dict(RunConfig, there).network)
    return changed(base, changes)


def _own_size(data: DataConfig, changes: Mapping[str, Any]) -> dict[str, int]:
    """The size of an array file's images, as a change where none is given."""
    given = {**changes, **dotted({"data": changes.get("data", {})})}
    path = Path(data.source)
    if path.suffix.lower() not in ARRAYS or given.keys() & {"data.image_size", "data.image_width"}:
        return {}
    height, width = own_size(path) or (None, None)
    return {"data.image_size": height, "data.image_width": width} if height and width else {}


def load_data(config: RunConfig) -> ImageData:
    """The images of a configuration."""
    return load(override(config.data, {}, "data."))  # which checks its ranges


def train(
    config: RunConfig | str,
    out: str | Path | None = None,
    changes: Mapping[str, Any] | None = None,
    objective: str | None = None,
    *,
    data: ImageData | None = None,
    network: NetworkConfig | None = None,
    loss: str | type[Loss] | None = None,
    on_event: Listener | None = None,
) -> Model:
    """Train a preset, a folder of pictures or a configuration into a run folder; give the model.

    The same call resumes an interrupted run: Ctrl-C saves and then raises KeyboardInterrupt. `out`
    is runs/NAME unless given; `changes` and `objective` are as in `preset`. `data` are images
    in place of the configuration's, `network` the settings of any registered kind of network, and
    `loss` a name in LOSSES or a class, which is added to LOSSES by its name. `on_event` is called
    with every event (`unnoise.events`); by default they are shown on the terminal.
    """
    brought = {} if loss is None else {"diffusion.loss": _loss_name(loss)}
    if data is not None:  # so that nobody takes the preset's own images for those of the run
        brought["data.source"] = data.name
        if config == "pictures":  # whose network suits their size
            brought["data.image_size"], brought["data.image_width"] = data.images.shape[2:]
    target, changes = config, {**(changes or {}), **brought}
    if isinstance(config, str):
        config = preset(config, changes, objective)
    else:
        config = config if objective is None else with_objective(config, objective)
        config = changed(config, changes)
    if network is not None:
        config = replace(config, network=network)
    folder = Path(out) if out is not None else default_folder(config, objective, target)
    with shown_by_default() if on_event is None else events.listening(on_event):
        ending = train_here(config, folder, data=data)
    if not ending.finished:
        said = f"stopped: everything is saved in {folder}; the same call resumes the run"
        raise KeyboardInterrupt(said)
    return load_model(folder, str(find_device(config.device)))


def _loss_name(loss: str | type[Loss]) -> str:
    """The name of a loss in LOSSES, where a class gets its own."""
    if isinstance(loss, str):
        return loss
    if isinstance(loss, Loss):
        name = type(loss).__name__
        raise ConfigError(f"loss: got an object of {name}; expected the class, as in loss={name}")
    name = next((name for name, entry in LOSSES.items() if entry is loss), loss.__name__)
    LOSSES[name] = loss
    return name


def train_here(
    config: RunConfig, folder: Path, resume: str = "auto", data: ImageData | None = None
) -> loop.Ending:
    """Train on this rank's device; ConfigError before the first step where something is missing."""
    build.check(config)  # before its data are read
    config = replace(config, device=parallel.rank_device(config.device))
    with parallel.process_group(find_device(config.device)) as world:
        images = data or world.main_process_first(lambda: load_data(config))
        if world.main:
            events.say(report(images))
        asked = config.train.evaluate or config.train.evaluate_reference
        measure = measure_for(config, images, world) if asked else None
        ending = loop.train(config, images, folder, resume, measure)
        if ending.finished and ending.samples is not None and world.main:
            try:
                text = "\n".join(verdict(config, images, folder, ending.samples))
                write_bytes(folder / VERDICT, text.encode())
            except Exception as error:  # noqa: BLE001  (the run itself is done and saved)
                text = f"no verdict on the run ({error})"
            events.say(text)
        return ending


def generate_samples(
    model: Model,
    num_samples: int = 8,
    device: str | torch.device | None = None,
    seed: int = 0,
    **settings: Any,
) -> Float[Tensor, "n c h w"]:
    """`num_samples` images as floats in [0, 1], on the CPU; `settings` as in `Model.sample`."""
    model = model if device is None else model.to(device)
    return model.sample(num_samples, seed, **settings).float() / 255


def wrap(
    module: nn.Module,
    *,
    schedule: str,
    parameterization: str,
    shape: Shape | Sequence[int],
    changes: Mapping[str, Any] | None = None,
    device: str = "auto",
) -> Model:
    """Give a torch module as a model that samples, edits, tunes and evaluates, but is not saved.

    The module, of which this is a copy, is called as module(x, time, label): x (b, c, h, w), time
    (b,) float32 as the schedule gives it (discrete: 0 to T - 1), label (b,), or None without
    classes, where a module without label is called as module(x, time). It returns (b, c, h, w), or
    2c channels with a learned variance. `shape` is (c, h, w) or a Shape with classes; label
    num_classes means "none", unless null_label is off. `changes` sets dotted keys:
    {"diffusion.timesteps": 400}. ConfigError for a module that does not fit, after one call.
    """
    if not isinstance(module, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(f"wrap: got {type(module).__name__}, expected a torch.nn.Module")
    values = asdict(shape) if isinstance(shape, Shape) else _named(shape)
    shape = from_dict(Shape, values, "shape.")
    process = {"schedule": schedule, "parameterization": parameterization}
    discrete = build.schedule(DiffusionConfig(schedule)).steps is not None
    process["times"] = "uniform_discrete" if discrete else "uniform"
    own = {"preset": "wrapped", "data.source": "", "train.precision": "fp32", "train.kimg": 1}
    own |= {"diffusion": process, "device": device}
    config = override(RunConfig(), {**own, **(changes or {})})
    build.check(config)
    config = replace(config, network=WrappedConfig())
    network = Wrapped(copy.deepcopy(module), shape)
    model = Model(network, config, {"config": to_dict(config), "shape": values})
    channels = shape.channels * (2 if config.diffusion.variance == "learned" else 1)
    network.measure(shape, channels, model.arithmetic.device)
    return model


def _named(shape: Sequence[int]) -> dict[str, int]:
    names = ("channels", "height", "width")
    if isinstance(shape, str) or not isinstance(shape, Sequence) or len(shape) != len(names):
        raise ConfigError(f"shape: got {shape!r}, expected (channels, height, width) or a Shape")
    return dict(zip(names, shape, strict=True))


def evaluate(
    model: Model | str | Path,
    out: str | Path,
    num: int | None = None,
    sampling: Mapping[str, Any] | None = None,
    data: ImageData | DataConfig | None = None,
    **measured: Any,
) -> dict[str, Any]:
    """Measure samples of a model (or its name, run folder or file) against its data, or `data`.

    `num` is 1,000, or on a CPU fewer where they take long; `sampling` changes fields of the model's
    SampleConfig; `measured` are fields of `unnoise.evaluation.settings.Settings`: features,
    likelihood, copying, .. Gives the record that is also written to out/evaluation.json; the same
    call again resumes.
    """
    from unnoise.evaluation.evaluate import evaluate as run
    from unnoise.evaluation.settings import Settings
    from unnoise.evaluation.store import Samples

    model, sampling = model if isinstance(model, Model) else load_model(model), dict(sampling or {})
    samples = Samples(model, sampling, num or Samples.usual_num(model, sampling), seed=0)
    with shown_by_default():
        images = data if isinstance(data, ImageData) else load(data or model.config.data)
        config = None if isinstance(data, ImageData) else data or model.config.data
        return run(samples, images, config, Settings(**measured), Path(out))


def default_folder(
    config: RunConfig, objective: str | None = None, target: RunConfig | str = ""
) -> Path:
    """Give runs/<preset>, or runs/<folder's name> for own pictures, with -<objective> if given.

    A run that is the target of training stays where it is.
    """
    if isinstance(target, str) and target and is_run(target):
        return Path(target)
    source = Path(config.data.source).resolve()
    name = source.stem if source.is_file() else source.name
    name = name if config.preset == "pictures" else config.preset
    return Path("runs") / (name if objective is None else f"{name}-{objective}")
