"""Everything a training loop holds, made and checked before the first step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from unnoise import build, parallel, precision
from unnoise.config import RunConfig, check, override, to_dict
from unnoise.data.dataset import ImageData, sigma_data
from unnoise.errors import ConfigError
from unnoise.evaluation.extractors import Extractor
from unnoise.model import Model
from unnoise.networks.network import Network
from unnoise.parallel import World, full_tensor
from unnoise.precision import Arithmetic
from unnoise.training import quality
from unnoise.training import state as states
from unnoise.training.log import Log
from unnoise.training.quality import Quality
from unnoise.training.saver import Saver
from unnoise.training.state import TrainState
from unnoise.training.step import Objective
from unnoise.units import seconds


@dataclass
class Run:
    """Everything the loop holds."""

    config: RunConfig
    folder: Path
    data: ImageData
    arithmetic: Arithmetic
    objective: Objective
    state: TrainState
    log: Log
    shape: build.Shape
    world: World = field(default_factory=World)
    extract: Extractor | None = None
    """Of train.evaluate."""
    quality: Quality | None = None
    """Made before the first step, on rank 0."""
    saver: Saver = field(default_factory=lambda: Saver(beside=False))
    saved_nimg: int = -1
    """Images seen at the last checkpoint that is there whole."""

    @property
    def total_nimg(self) -> float:
        """Where the run ends by images; infinite if only time ends it."""
        train = self.config.train
        by_epochs = math.inf if train.epochs is None else train.epochs * self.data.num_train
        return min(by_epochs, math.inf if train.kimg is None else 1000 * train.kimg)

    @property
    def total_sec(self) -> float:
        return math.inf if self.config.train.time is None else seconds(self.config.train.time)

    def progress(self) -> float:
        """The share of the run that is done, by whichever end is nearer."""
        return min(
            1.0, max(self.state.nimg / self.total_nimg, self.state.train_sec / self.total_sec)
        )

    def record(self) -> dict[str, Any]:
        """What the model file says of itself."""
        from unnoise import __version__

        return {
            "config": to_dict(self.config),
            "shape": to_dict(self.shape),
            "class_names": list(self.data.class_names) if self.shape.num_classes else [],
            "data": {
                "name": self.data.name, "fingerprint": self.data.fingerprint, "num_train": self.data.num_train,
            },
            "training": {name: getattr(self.state, name) for name in ("step", "nimg", "train_sec", "loss")}
            | {"held_out_loss": _finite(self.state.held_out_loss), "unnoise": __version__, "torch": torch.__version__},
        }  # fmt: skip

    def plain(self, network: Network) -> Network:
        """A network that this process can use alone: itself, or put together from all ranks (which must all ask)."""
        if not isinstance(network, FSDPModule):
            return network
        tensors = {name: full_tensor(value) for name, value in network.state_dict().items()}
        copy = self.arithmetic.place(build.network(self.config, self.shape))
        copy.load_state_dict(tensors)
        return copy

    def model(self, average: Network) -> Model:
        """The averaged weights as a model."""
        return Model(average, self.config, self.record())


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def prepare(config: RunConfig, data: ImageData, folder: Path) -> Run:
    """Check everything that can be wrong and build what is needed, before the first step."""
    check(config)
    if config.diffusion.sigma_data is None:
        measured = sigma_data(data.images[: data.num_train])
        config = override(config, {"diffusion.sigma_data": measured})
    build.check_sampling(config.sample)
    here, train = parallel.world(), config.train
    if here.size > 1 and train.pairing == "optimal_transport":
        raise ConfigError(
            "train.pairing: 'optimal_transport' pairs whole batches; expected one process, or 'independent'"
        )
    if here.size > 1 and train.optimizer == "muon" and train.parallel == "fsdp":
        raise ConfigError(
            "train.parallel: 'fsdp' cuts the matrices that muon needs whole; expected ddp, or --train.optimizer adamw"
        )
    if here.size > train.batch_size:
        raise ConfigError(
            f"train.batch_size: got {train.batch_size} for {here.size} ranks, expected one image for each"
        )
    arithmetic = precision.choose(config)
    if train.tf32 and arithmetic.device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    classes = len(data.class_names) if train.labels and data.labels is not None else 0
    shape = build.Shape(*data.images.shape[1:], num_classes=classes)
    state = states.create(
        config, shape, arithmetic, sharded=here.size > 1 and train.parallel == "fsdp"
    )
    network = parallel.wrap_ddp(state.network, here, arithmetic.device)
    network = cast(nn.Module, torch.compile(network)) if arithmetic.compile else network
    model = build.diffusion_model(config.diffusion, network)
    build.grid(
        config.sample, model.schedule
    )  # what cannot be sampled is said before the first step
    extract = quality.chosen(
        config, data, arithmetic.device
    )  # what is missing is said before the first step
    log = Log(
        folder / "metrics.jsonl", speaks=here.main, forgives=train.on_save_error == "continue"
    )
    objective = Objective(model, config, arithmetic, classes, here)
    beside = train.async_save == "on" or (
        train.async_save == "auto" and arithmetic.device.type != "cpu"
    )
    return Run(
        config,
        folder,
        data,
        arithmetic,
        objective,
        state,
        log,
        shape,
        here,
        extract,
        saver=Saver(beside),
    )
