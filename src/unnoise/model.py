"""A trained model: load it, sample it.

model = unnoise.load("digits")              # a bundled model, a run folder or a model file
images = model.sample(8, label=3)           # uint8 (8, 1, 8, 8)
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from unnoise import build, checkpoint
from unnoise.checkpoint import MODEL_FILE, CheckpointError
from unnoise.config import ConfigError, RunConfig, SampleConfig, from_dict, nearest, to_dict
from unnoise.data.images import from_model
from unnoise.diffusion import grids, samplers
from unnoise.diffusion.denoiser import DiffusionModel, clip_x0
from unnoise.diffusion.guidance import classifier_free
from unnoise.diffusion.levels import Level
from unnoise.diffusion.noise import Noise
from unnoise.diffusion.samplers.step import Step

SAMPLE_BATCH = 64
"""Images per network call, unless told otherwise."""


class Model:
    """A network with all that sampling it needs. `record` is the JSON record of its model file."""

    def __init__(self, network: nn.Module, config: RunConfig, record: dict[str, Any]) -> None:
        self.config, self.record = config, record
        self.shape = build.Shape(**record["shape"])
        self.class_names: tuple[str, ...] = tuple(record.get("class_names", ()))
        self.arithmetic = build.arithmetic(config)
        self.network = self.arithmetic.place(network).eval().requires_grad_(False)
        self.diffusion: DiffusionModel = build.diffusion_model(config.diffusion, self.network)

    @property
    def weights_hash(self) -> str:
        """The first 12 digits of the SHA-256 of the weights."""
        return str(self.record.get("weights") or checkpoint.fingerprint(self.network.state_dict()))[:12]

    def to(self, device: str | torch.device) -> Model:
        """This model on another device."""
        config = dataclasses.replace(self.config, device=str(device))
        return Model(self.network, config, self.record)

    def sample(
        self,
        num: int = 8,
        seed: int = 0,
        *,
        seeds: Sequence[int] | None = None,
        label: int | str | None = None,
        batch_size: int = SAMPLE_BATCH,
        **settings: Any,
    ) -> UInt8[Tensor, "n c h w"]:
        """Images of seeds seed .. seed + num - 1 (or of `seeds`), uint8 (n, c, h, w) on the CPU.

        An image depends on its seed and label, not on its batch. `label` is a number or a class name; by default each
        image's is its seed modulo the number of classes; "none" samples without one. `settings` change fields of the
        model's own SampleConfig: sampler, steps, spacing, guidance_scale, eta, clip_x0.
        """
        seeds = list(range(seed, seed + num)) if seeds is None else list(seeds)
        if not seeds or batch_size < 1:
            raise ConfigError(f"sample: got {len(seeds)} images in batches of {batch_size}, expected 1 or more of both")
        parts = []
        for start in range(0, len(seeds), batch_size):
            last = deque(self.steps(seeds[start : start + batch_size], label, **settings), maxlen=1).pop()
            parts.append(from_model(last.x.cpu()))
        return torch.cat(parts)

    def steps(self, seeds: Sequence[int], label: int | str | None = None, **settings: Any) -> Iterator[Step]:
        """The steps of one batch, from noise to data: for pictures of the process, previews and cancelling."""
        chosen = self.settings(**settings)
        labels = self.labels(seeds, label)
        denoiser = classifier_free(self.diffusion, labels, self.shape.num_classes, chosen.guidance_scale)
        if chosen.clip_x0:
            denoiser = clip_x0(denoiser)
        grid = self.grid(chosen)
        options = self._options(chosen, grid)
        shape = (self.shape.channels, self.shape.height, self.shape.width)
        noise = Noise(seeds, shape, self.arithmetic.device)
        stepper = samplers.walk(chosen.sampler, denoiser, grid, noise.normal, options)
        while True:  # the modes are entered per step, so that the caller's code between steps is not under them
            with torch.inference_mode(), self.arithmetic.autocast():
                step = next(stepper, None)
            if step is None:
                return
            yield step

    def grid(self, chosen: SampleConfig) -> list[Level]:
        """The levels that sampling with these settings visits."""
        try:
            if chosen.noises:
                return grids.from_noises(self.diffusion.schedule, chosen.noises)
            return grids.make(self.diffusion.schedule, chosen.steps, chosen.spacing)
        except ValueError as error:
            raise ConfigError(f"sample.{error}") from error

    def _options(self, chosen: SampleConfig, grid: list[Level]) -> dict[str, Any]:
        """What the sampler takes of all that a sampler may take."""
        low, high = chosen.churn_range
        values: dict[str, Any] = {
            "eta": chosen.eta,
            "variance": self.config.diffusion.variance,
            "churned": grids.churned(self.diffusion.schedule, grid, chosen.churn, low, high),
            "churn_noise": chosen.churn_noise,
        }
        return {name: values[name] for name in samplers.options(chosen.sampler) & values.keys()}

    def settings(self, **changes: Any) -> SampleConfig:
        """The model's sampling defaults with changes; ConfigError for unknown names, or for guidance without classes."""
        merged = from_dict(SampleConfig, {**to_dict(self.config.sample), **changes}, "sample.")
        build.check_sampling(merged)
        if self.shape.num_classes:
            return merged
        if changes.get("guidance_scale", 1) != 1:
            raise ConfigError("sample.guidance_scale: this model has no classes; expected 1")
        return dataclasses.replace(merged, guidance_scale=1.0)

    def labels(self, seeds: Sequence[int], label: int | str | None) -> Tensor | None:
        """(n,) labels on the device, or None for a model without classes."""
        count = self.shape.num_classes
        if not count:
            if label not in (None, "none"):
                raise ConfigError(f"label: got {label!r}, but this model was trained without labels; leave it out")
            return None
        values = [seed % count if label is None else self._label_number(label) for seed in seeds]
        return torch.tensor(values, device=self.arithmetic.device)

    def _label_number(self, label: int | str) -> int:
        count = self.shape.num_classes
        if label == "none":
            return count
        if isinstance(label, str) and label in self.class_names:
            return self.class_names.index(label)
        try:
            number = int(label)
        except ValueError:
            raise ConfigError(f"label: no class {label!r}; {nearest(str(label), self.class_names)}") from None
        if not 0 <= number < count:
            raise ConfigError(f"label: got {number}, expected 0 to {count - 1} or a class name or none")
        return number

    def save(self, path: Path | str) -> None:
        """Write the model as one self-describing file."""
        checkpoint.save_model(Path(path), self.network.state_dict(), self.record)


def bundled() -> dict[str, Path]:
    """The models that ship with the package, by name."""
    folder = Path(str(resources.files("unnoise"))) / "models"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def find(name: str | Path) -> Path:
    """The model file of a bundled name, a run folder or a path; CheckpointError if there is none."""
    path = Path(name)
    if (path / MODEL_FILE).is_file():
        return path / MODEL_FILE
    if path.is_file():
        return path
    if str(name) in bundled():
        return bundled()[str(name)]
    if path.is_dir():
        raise CheckpointError(f"{path}: no {MODEL_FILE} in this folder; expected a run folder of `unnoise train`")
    raise CheckpointError(f"{name}: no such run folder, model file or bundled model; {nearest(str(name), bundled())}")


def load(name: str | Path, device: str = "auto") -> Model:
    """A model by bundled name, run folder or model file, ready to sample."""
    path = find(name)
    tensors, record = checkpoint.read_model(path)
    config = dataclasses.replace(from_dict(RunConfig, record["config"]), device=device)
    network = build.network(config, build.Shape(**record["shape"]))
    fit(network, tensors, path)
    return Model(network, config, record)


def fit(network: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load weights, or a CheckpointError that names the first that does not fit the configuration."""
    expected = network.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        got, want = tensors.get(name), expected.get(name)
        if got is None or want is None or got.shape != want.shape:
            shapes = [None if v is None else tuple(v.shape) for v in (got, want)]
            raise CheckpointError(
                f"{path}: the weights do not match the configuration: {name} is {shapes[0]}, expected {shapes[1]}"
            )
    network.load_state_dict(tensors)


def generate_samples(
    model: Model, num_samples: int = 8, device: str | torch.device | None = None, seed: int = 0, **settings: Any
) -> Float[Tensor, "n c h w"]:
    """`num_samples` images as floats in [0, 1], shape (n, c, h, w), on the CPU; `settings` as in `Model.sample`."""
    model = model if device is None else model.to(device)
    return model.sample(num_samples, seed, **settings).float() / 255
