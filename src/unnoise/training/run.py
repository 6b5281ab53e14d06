"""Everything about a run that training does not change, made and checked before the first step."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from unnoise import build, parallel, precision
from unnoise.config import RunConfig, TrainConfig, override, to_dict
from unnoise.data.dataset import ImageData, sigma_data
from unnoise.data.images import mosaic, save_png
from unnoise.diffusion.denoiser import DiffusionModel
from unnoise.diffusion.losses import Batch, Loss
from unnoise.errors import ConfigError
from unnoise.files import write_json
from unnoise.model import Model
from unnoise.networks.network import Network
from unnoise.parallel import World, full_tensor
from unnoise.precision import Arithmetic
from unnoise.training import state as states
from unnoise.training.compiled import compile_network, compiled
from unnoise.training.state import Counters, TrainState
from unnoise.units import seconds

PREVIEW_SEC = (20, 60, 180, 600)
"""The first previews of a run that `time` ends; then come those of every tenth of it."""


@dataclass(frozen=True)
class Run:
    """Everything about a run that training does not change."""

    config: RunConfig
    data: ImageData
    folder: Path
    shape: build.Shape
    arithmetic: Arithmetic
    world: World
    diffusion: DiffusionModel
    """The trained network, with what compiles it and averages its gradients over the ranks."""

    def progress(self, counters: Counters) -> float:
        """The share of the run that is done, by whichever end is nearer."""
        nimg, sec = ends(self.config.train, self.data.num_train)
        return min(1.0, max(counters.nimg / nimg, counters.train_sec / sec))

    def losses(self, loss: Loss, batch: Batch, network: nn.Module | None = None) -> Tensor:
        """(b,) losses, fp32, of the trained network or of another one."""
        model = self.diffusion if network is None else replace(self.diffusion, network=network)
        with self.arithmetic.autocast():
            return loss(model, batch)

    def record(self, counters: Counters) -> dict[str, Any]:
        """What the model file says of itself."""
        from unnoise import __version__

        held_out, of_data = counters.held_out_loss, ("name", "fingerprint", "num_train")
        known = ("step", "nimg", "train_sec", *["loss"] * math.isfinite(counters.loss))
        return {
            "config": to_dict(self.config),
            "shape": to_dict(self.shape),
            "class_names": list(self.data.class_names) if self.shape.num_classes else [],
            "data": {key: getattr(self.data, key) for key in of_data},
            "training": {
                **{key: getattr(counters, key) for key in known},
                **({"started_from": start} if (start := counters.started_from) else {}),
                "held_out_loss": held_out if math.isfinite(held_out) else None,
                "unnoise": __version__,
                "torch": torch.__version__,
            },
        }

    def plain(self, network: Network) -> Network:
        """Give a network that this process can use alone; all ranks must ask for it."""
        if not isinstance(network, FSDPModule):
            return network
        tensors = {name: full_tensor(value) for name, value in network.state_dict().items()}
        copy = self.arithmetic.place(build.network(self.config, self.shape))
        copy.load_state_dict(tensors)
        return copy

    def model(self, average: Network, counters: Counters) -> Model:
        """The averaged weights as a model."""
        return Model(average, self.config, self.record(counters))

    def describe(self) -> None:
        """Write what the folder tells before the first step: configuration and some images."""
        record = {"config": to_dict(self.config), "data": self.data.fingerprint}
        write_json(self.folder / "config.json", record)
        picture = self.folder / "data.png"
        if not picture.exists():
            save_png(picture, mosaic(self.data), {"unnoise": f"data {self.data.name}"})


def ends(train: TrainConfig, num_train: int) -> tuple[float, float]:
    """The images and the seconds of training at which a run ends; infinite where it does not."""
    by_epochs = math.inf if train.epochs is None else train.epochs * num_train
    by_kimg = math.inf if train.kimg is None else 1000 * train.kimg
    return min(by_epochs, by_kimg), math.inf if train.time is None else seconds(train.time)


def preview_times(end: float) -> list[float]:
    """The seconds of training after which a run that ends then, or never, shows previews."""
    last = PREVIEW_SEC[-1]
    tenths = (end * i / 10 for i in range(1, 10 if end < math.inf else 1))
    return [*(sec for sec in PREVIEW_SEC if sec < end), *(sec for sec in tenths if sec > last)]


def prepare(
    config: RunConfig, data: ImageData, folder: Path, compile: bool = True
) -> tuple[Run, TrainState]:
    """Check everything that can be wrong and make what is needed, before the first step.

    Without `compile` that is left to `compiled_run`.
    """
    build.check(config)
    if config.diffusion.sigma_data is None:
        measured = sigma_data(data.images[: data.num_train])
        config = override(config, {"diffusion.sigma_data": measured})
    world, train = parallel.world(), config.train
    _check_ranks(config, world)
    arithmetic = precision.choose(config)
    if train.tf32:
        precision.allow_tf32(arithmetic.device)
    classes = len(data.class_names) if train.labels and data.labels is not None else 0
    shape = build.Shape(*data.images.shape[1:], num_classes=classes)
    sharded = world.size > 1 and train.parallel == "fsdp"
    state = states.create(config, shape, arithmetic, sharded)
    network = parallel.wrap_ddp(state.network, world, arithmetic.device)
    diffusion = build.diffusion_model(config.diffusion, network)
    run = Run(config, data, folder, shape, arithmetic, world, diffusion)
    return (compiled_run(run, state) if compile else run), state


def compiled_run(run: Run, state: TrainState) -> Run:
    """The run with a compiled network, where the configuration says so and all ranks can."""
    arithmetic, world, train = run.arithmetic, run.world, run.config.train
    if not arithmetic.compile:
        return run
    network, fast = run.diffusion.network, state.network
    if not isinstance(fast, FSDPModule):  # whose parameters are in pieces: unchecked
        size = -(-train.batch_size // world.size)
        size = min(size, train.micro_batch or size)
        fast = compiled(state.network, run.shape, size, arithmetic)
        good = torch.tensor(float(fast is not state.network), device=arithmetic.device)
        if world.all_reduce_sum(good) < world.size:
            return replace(run, arithmetic=replace(arithmetic, compile=False))
    fast = compile_network(network) if world.size > 1 else fast
    return replace(run, diffusion=replace(run.diffusion, network=fast))


def _check_ranks(config: RunConfig, world: World) -> None:
    """ConfigError for settings that more than one process cannot have."""
    train = config.train
    refused = {
        "train.parallel: 'fsdp' cuts the matrices that muon needs whole; expected ddp, or "
        "--train.optimizer adamw": train.optimizer == "muon" and train.parallel == "fsdp",
        f"train.batch_size: got {train.batch_size} for {world.size} ranks, expected one image "
        "for each": world.size > train.batch_size,
    }
    for message, applies in refused.items():
        if world.size > 1 and applies:
            raise ConfigError(message)
