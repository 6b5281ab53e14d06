"""A trained model: load it, sample it.

model = unnoise.load("digits")              # a bundled model, a run folder or a model file
images = model.sample(8, label=3)           # uint8 (8, 1, 8, 8)
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from unnoise import build, checkpoint, extensions, precision
from unnoise.checkpoint import Tensors
from unnoise.config import RunConfig, SampleConfig
from unnoise.data.config import DataConfig
from unnoise.data.dataset import DATASETS
from unnoise.data.images import from_model
from unnoise.diffusion import samplers
from unnoise.diffusion.denoiser import Denoiser, DiffusionModel, conditional, thresholded
from unnoise.diffusion.guidance import autoguidance, classifier_free
from unnoise.diffusion.levels import Level, branch
from unnoise.diffusion.noise import Noise
from unnoise.diffusion.samplers.step import Step
from unnoise.errors import CheckpointError, ConfigError, UnknownNameError
from unnoise.memory import images_at_once, in_batches, out_of_memory
from unnoise.networks.config import Shape
from unnoise.networks.network import Network
from unnoise.networks.wrapped import Wrapped
from unnoise.precision import find_device
from unnoise.ranges import Images, Seed
from unnoise.reading import from_dict, typed
from unnoise.records import read_run
from unnoise.settings import Labels, class_numbers, image_seeds, resolve

SAMPLE_BATCH = 64
"""Images per network call, where the call does not choose them itself."""
NO_NULL = "was trained with labels only and knows nothing of images without one"


class Model:
    """A network with all that sampling it needs. `record` is the JSON record of its model file."""

    on_step: Callable[[Step], None] | None = None

    def __init__(self, network: Network, config: RunConfig, record: dict[str, Any]) -> None:
        self.config, self.record = config, record
        self.shape = from_dict(Shape, record["shape"], "shape.")
        self.class_names: tuple[str, ...] = tuple(record.get("class_names", ()))
        numbers = (f"class {i}" for i in range(self.shape.num_classes))
        self.names = (*(self.class_names or numbers), "no class")  # as pictures show all labels
        self.arithmetic = precision.choose(config)
        self.network: Network = self.arithmetic.place(network).eval().requires_grad_(False)
        self.diffusion: DiffusionModel = build.diffusion_model(config.diffusion, self.network)

    @property
    def weights_hash(self) -> str:
        """The first 12 digits of the SHA-256 of the weights."""
        weights = self.record.get("weights") or checkpoint.fingerprint(self.network.state_dict())
        return str(weights)[:12]

    def to(self, device: str | torch.device) -> Model:
        """This model on a device: itself where it is there already, else a copy."""
        if find_device(str(device)) == self.arithmetic.device:
            return self
        config = dataclasses.replace(self.config, device=str(device))
        return Model(copy.deepcopy(self.network), config, self.record)

    def sample(
        self,
        num: int = 8,
        seed: int = 0,
        *,
        seeds: Sequence[int] | None = None,
        label: Labels = None,
        batch_size: int | None = None,
        guide: Model | None = None,
        **settings: Any,
    ) -> UInt8[Tensor, "n c h w"]:
        """Images of seeds seed .. seed + num - 1 (or of `seeds`), uint8 (n, c, h, w) on the CPU.

        An image depends on its seed and label, not on its batch. `label` is a class's number or
        name, or "none" for no class, or one of these for each image; without it, an image's label
        is its seed modulo the number of classes. `guide` is a worse model for autoguidance.
        `settings` change fields of the model's own SampleConfig: sampler, steps, guidance_scale, ..
        `batch_size` None is `images_at_once`; it is halved where memory runs out.
        """
        if seeds is None:
            first, count = typed(Seed, seed, "seed"), typed(Images, num, "num")
            seeds = range(first, first + count)
        seeds, size = image_seeds(seeds), typed(Images | None, batch_size, "batch_size")
        size = size or self.images_at_once(guide, **settings)
        labels = self.labels(seeds, label)

        def made(rows: slice) -> Tensor:
            part = None if labels is None else labels[rows]
            return from_model(last(self._steps(seeds[rows], part, guide, **settings)).x.cpu())

        return torch.cat(list(in_batches(len(seeds), size, made)))

    def images_at_once(self, guide: Model | None = None, **settings: Any) -> int:
        """The batch size for these settings on this device."""
        chosen, shape = self.settings(guide=guide, **settings), self.shape
        calls = 2 if guide is None and chosen.guidance_scale != 1 else 1  # with and without label
        device = self.arithmetic.device
        bytes_per_image = self.network.widest_bytes(shape.height, shape.width, device.type == "cpu")
        return images_at_once(bytes_per_image * calls, device)

    def steps(
        self,
        seeds: Sequence[int],
        label: Labels = None,
        guide: Model | None = None,
        start: Step | None = None,
        **settings: Any,
    ) -> Iterator[Step]:
        """The steps of one batch, from noise to data, to watch or to cancel.

        They branch off from `start`, a step of the same seeds, where there is one: the levels are
        those of the settings that have less noise.
        """
        seeds = image_seeds(seeds)
        return self._steps(seeds, self.labels(seeds, label), guide, start, **settings)

    def _steps(
        self,
        seeds: Sequence[int],
        labels: Tensor | None,
        guide: Model | None,
        start: Step | None = None,
        **settings: Any,
    ) -> Iterator[Step]:
        chosen = self.settings(guide=guide, **settings)
        denoiser = self.denoiser(labels, chosen, guide)
        grid, noise = self.grid(chosen), self.noise(seeds)
        if start is None:
            return self.walk(denoiser, grid, noise, chosen)
        noise.normal()  # with which `start` began
        return self.walk(denoiser, branch(start.level, grid), noise, chosen, start.x)

    def watched(self, on_step: Callable[[Step], None]) -> Model:
        """This model, which calls `on_step` after every step; what that raises ends the work."""
        _ = self._rounded  # which both then share
        watched = copy.copy(self)
        watched.on_step = on_step
        return watched

    @property
    def fast(self) -> DiffusionModel:
        """`diffusion` as sampling calls it: its weights cast once."""
        return dataclasses.replace(self.diffusion, network=self._rounded)

    @functools.cached_property
    def _rounded(self) -> nn.Module:
        return self.arithmetic.for_sampling(self.network)

    def denoiser(
        self, labels: Tensor | None, chosen: SampleConfig, guide: Model | None = None
    ) -> Denoiser:
        """This network as a denoiser for (n,) labels, guided and thresholded by the settings."""
        scale, interval, model = chosen.guidance_scale, chosen.guidance_interval, self.fast
        if guide is None:
            denoiser = classifier_free(model, labels, self.shape.num_classes, scale, interval)
        else:
            worse = conditional(guide.fast, labels)
            denoiser = autoguidance(conditional(model, labels), worse, scale, interval)
        return thresholded(denoiser, chosen.clip_x0, chosen.dynamic_threshold)

    def noise(self, seeds: Sequence[int]) -> Noise:
        """The noise of images of these seeds."""
        shape = (self.shape.channels, self.shape.height, self.shape.width)
        return Noise(seeds, shape, self.arithmetic.device)

    def grid(self, chosen: SampleConfig) -> list[Level]:
        """The levels that sampling with these settings visits."""
        return build.grid(chosen, self.diffusion.schedule)

    def walk(
        self,
        denoiser: Denoiser,
        grid: list[Level],
        noise: Noise,
        chosen: SampleConfig,
        start: Tensor | None = None,
    ) -> Iterator[Step]:
        """The chosen sampler's steps along a grid, from pure noise or from `start`."""
        options = build.sampler_options(chosen, self.diffusion, grid)
        walk = samplers.walk(chosen.sampler, denoiser, grid, noise.normal, options, start)
        return self.compute(walk)

    def compute(self, steps: Iterator[Step]) -> Iterator[Step]:
        """Steps computed without gradients and in this model's precision."""
        while True:  # the modes are entered for each step: the caller's code is not under them
            with torch.inference_mode(), self.arithmetic.autocast():
                step = next(steps, None)
            if step is None:
                return
            if self.on_step is not None:
                self.on_step(step)
            yield step

    @property
    def tuned(self) -> dict[str, dict[str, Any]]:
        """The settings that `unnoise tune-sampler` found, by name: fast, nfe_10, .."""
        return self.record.get("tuned", {})

    def settings(self, guide: Model | None = None, **changes: Any) -> SampleConfig:
        """The model's sampling defaults with changes; see `settings.resolve`.

        ConfigError for unknown names, or for guidance without classes or a guide.
        """
        chosen = resolve(self.config.sample, self.tuned, changes)
        build.check_sampling(chosen)
        if guide is not None:
            _check_guide(self, guide, chosen)
        elif self.shape.labels == self.shape.num_classes:
            if changes.get("guidance_scale", 1) != 1:
                why = f"this model {NO_NULL if self.shape.num_classes else 'has no classes'}"
                raise ConfigError(f"sample.guidance_scale: {why}; expected 1, or a guide")
            return dataclasses.replace(chosen, guidance_scale=1.0)
        return chosen

    def labels(self, seeds: Sequence[int], label: Labels) -> Tensor | None:
        """(n,) labels on the device, or None for a model without classes."""
        numbers = class_numbers(seeds, label, self.shape.num_classes, self.class_names)
        if numbers is None:
            return None
        if self.shape.num_classes in numbers and not self.shape.null_label:
            raise ConfigError(f"label: got 'none', but this model {NO_NULL}; expected a class")
        return torch.tensor(numbers, device=self.arithmetic.device)

    def with_tuned(self, tuned: dict[str, dict[str, Any]]) -> Model:
        """This model with named sampling settings in its record."""
        return Model(self.network, self.config, {**self.record, "tuned": tuned})

    def alone(self) -> Model:
        """This model with a record of what sampling needs, without what the trainer needs."""
        kept = {"config", "shape", "class_names", "data", "training", "tuned"}
        record = {key: value for key, value in self.record.items() if key in kept}
        return Model(self.network, self.config, record)

    def save(self, path: Path | str, half: bool = False) -> None:
        """Write the model as one self-describing file, with `half` as fp16.

        ConfigError for a weight beyond the range of fp16.
        """
        if isinstance(self.network, Wrapped):
            code = type(self.network.module).__name__
            fix = "save the module with torch, and wrap it again"
            raise ConfigError(f"save: a model file cannot hold the code of {code}; {fix}")
        tensors = self.network.state_dict()
        if half:
            tensors = {key: v.half() if v.is_floating_point() else v for key, v in tensors.items()}
            beyond = [key for key, value in tensors.items() if not value.isfinite().all()]
            if beyond:
                expected = "expected smaller weights, or full precision"
                raise ConfigError(f"half: {beyond[0]} is beyond fp16's 65504; {expected}")
        checkpoint.save_model(Path(path), tensors, self.record)


def _check_guide(model: Model, guide: Model, chosen: SampleConfig) -> None:
    own, other = (
        f"{m.shape}, {m.config.diffusion.schedule} {m.diffusion.schedule.steps or ''} "
        f"{m.config.diffusion.schedule_options or ''}".strip()
        for m in (model, guide)
    )
    if own != other:
        raise ConfigError(
            f"guide: its images and schedule ({other}) differ from the model's ({own}); "
            "expected a worse model of the same kind"
        )
    if chosen.guidance_scale == 1:
        raise ConfigError("guide: guidance_scale is 1, which is no guidance; give one such as 2")


def last(steps: Iterator[Step]) -> Step:
    """The last of some steps."""
    return deque(steps, maxlen=1).pop()


def load(name: str | Path, device: str = "auto") -> Model:
    """A model by bundled name, run folder, model file or checkpoint folder, ready to sample.

    A checkpoint's model has its averaged weights.
    """
    path, tensors, record = checkpoint.read_named(name)
    run = path.parent if path.is_file() else path.parent.parent
    with extensions.needed(record["config"].get("imports", ())):
        try:
            config = from_dict(RunConfig, record["config"])
            config = dataclasses.replace(config, device=device, data=_readable(config.data, run))
            build.check_sampling(config.sample)
            for tuned in record.get("tuned", ()):
                build.check_sampling(resolve(config.sample, record["tuned"], {"sampler": tuned}))
            shape = from_dict(Shape, record["shape"], "shape.")
            network = network_for(config, shape, tensors, path)
        except UnknownNameError:
            raise
        except ConfigError as error:
            said = f"{path}: its configuration cannot be used ({error}); update unnoise"
            raise CheckpointError(said) from error
        checkpoint.fit(network, tensors, path)
        return Model(network, config, record)


def network_for(config: RunConfig, shape: Shape, tensors: Tensors, path: Path) -> Network:
    """A network for weights of the file `path`; it is never much larger than these tensors."""
    said = f"{path}: the weights do not match the configuration"
    left = 2 * sum(value.numel() for value in tensors.values()) + 1_000_000

    def counted(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal left  # some layers replace their parameters as they are built
        left -= 0 if parameter is None else parameter.numel()
        if left < 0:
            raise CheckpointError(f"{said}: it has many more than the {len(tensors)} tensors")

    counting = register_module_parameter_registration_hook(counted)
    try:
        return build.network(config, shape)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise CheckpointError(f"{said}, which ask for too much memory") from error
    finally:
        counting.remove()


def _readable(config: DataConfig, run: Path) -> DataConfig:
    """What a record says of its data, without places that were not asked for: none to write, and
    one to read only in the run folder that it is of (elsewhere its source is "")."""
    config = dataclasses.replace(config, cache=None)
    if config.source in DATASETS:
        return dataclasses.replace(config, path=None)
    with suppress(CheckpointError):
        of_run = read_run(run)["config"].get("data", {})
        if (config.source, config.path) == (of_run.get("source"), of_run.get("path")):
            return config
    return dataclasses.replace(config, source="", path=None, classes="auto")
