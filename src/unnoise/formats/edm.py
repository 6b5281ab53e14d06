"""NVlabs/edm: network snapshots, the pickles of its training and of its published models.

Preconditionings become schedules and parameterizations that are the same numbers (EDM table 1):

    EDMPrecond | schedule edm | edm
    VPPrecond  | schedule vp  | eps, of x_t = x / sqrt(sigma^2 + 1)
    VEPrecond  | schedule ve  | eps, with the sign of the last layer changed
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

from unnoise.checkpoint import Tensors
from unnoise.config import DiffusionConfig, SampleConfig
from unnoise.diffusion.schedules import SIGMA_RANGE
from unnoise.errors import CheckpointError, ConfigError
from unnoise.formats.edm_pickle import read_object
from unnoise.formats.imported import Imported, Process, take
from unnoise.networks.config import Shape, SongUNetConfig
from unnoise.networks.network import Network
from unnoise.ranges import Few, NotNegative, Positive, Range, Share, Steps, Width
from unnoise.reading import from_dict

STATE = re.compile(r"training-state-\d+\.pt")
FILTERS = {(1, 1): "box", (1, 3, 3, 1): "fir"}
PARTS = {
    "norm1": "norm0", "conv1": "conv0", "time": "affine", "norm2": "norm1", "conv2": "conv1",
    "skip": "skip", "attention.norm": "norm2", "attention.qkv": "qkv", "attention.out": "proj",
}  # fmt: skip
"""Our names in a block -> EDM's."""


@dataclass(frozen=True)
class SongUNet:
    """Arguments that all preconditionings have, and those that they pass on to a SongUNet."""

    img_resolution: Width
    img_channels: Width
    model_type: Literal["SongUNet"]
    label_dim: Annotated[int, Range(least=0, most=100_000)] = 0
    use_fp16: Any = False
    """It is about the arithmetic alone."""
    augment_dim: Any = 0
    """unnoise does not augment; EDM's samples are without, too."""
    model_channels: Width = 128
    channel_mult: tuple[Few, ...] = (1, 2, 2, 2)
    channel_mult_emb: Few = 4
    num_blocks: Few = 4
    attn_resolutions: tuple[int, ...] = (16,)
    dropout: Annotated[float, Range(least=0, below=1)] = 0.1
    label_dropout: Share = 0.0
    embedding_type: Literal["positional", "fourier"] = "positional"
    channel_mult_noise: Few = 1
    encoder_type: Literal["standard", "residual"] = "standard"
    decoder_type: Literal["standard"] = "standard"
    resample_filter: tuple[int, ...] = (1, 1)

    def network(self) -> SongUNetConfig:
        """The settings of our network."""
        if self.resample_filter not in FILTERS:
            got, expected = list(self.resample_filter), "[1, 1] or [1, 3, 3, 1]"
            raise ConfigError(f"resample_filter: got {got}, expected {expected}")
        levels = range(len(self.channel_mult))
        at = self.attn_resolutions
        return SongUNetConfig(
            base_channels=self.model_channels,
            channel_multipliers=self.channel_mult,
            blocks_per_level=self.num_blocks,
            attention_levels=tuple(n for n in levels if self.img_resolution >> n in at),
            dropout=self.dropout,
            time_embedding=self.embedding_type,
            encoder=self.encoder_type,
            resample=FILTERS[self.resample_filter],  # pyright: ignore[reportArgumentType]
            time_multiplier=self.channel_mult_noise,
            embedding_multiplier=self.channel_mult_emb,
        )

    def shape(self) -> Shape:
        """The images; no class was trained only where labels were dropped."""
        size, null_label = self.img_resolution, not self.label_dim or self.label_dropout > 0
        return Shape(self.img_channels, size, size, self.label_dim, null_label)


@dataclass(frozen=True)
class EDMPrecond(SongUNet):
    """Arguments of EDMPrecond; its model_type is a DhariwalUNet unless told."""

    sigma_min: NotNegative = 0.0
    sigma_max: float = math.inf
    sigma_data: Positive = 0.5

    def diffusion(self) -> DiffusionConfig:
        options, sd = _range(self.sigma_min, self.sigma_max), self.sigma_data
        return DiffusionConfig(
            "edm", parameterization="edm", times="log_normal_sigma", schedule_options=options,
            sigma_data=sd,
        )  # fmt: skip


@dataclass(frozen=True)
class VPPrecond(SongUNet):
    """Arguments of VPPrecond."""

    beta_d: Positive = 19.9
    beta_min: NotNegative = 0.1
    M: Steps = 1000
    epsilon_t: Positive = 1e-5

    def diffusion(self) -> DiffusionConfig:
        ends = (self.beta_d * t**2 / 2 + self.beta_min * t for t in (self.epsilon_t, 1.0))
        options = _range(*(math.expm1(min(end, 700)) ** 0.5 for end in ends))
        betas = {"beta_d": (self.beta_d, 19.9), "beta_min": (self.beta_min, 0.1)}
        options |= {name: value for name, (value, usual) in betas.items() if value != usual}
        return DiffusionConfig(
            "vp", times="uniform", schedule_options=options, time_scale=(self.M - 1) / 999
        )


@dataclass(frozen=True)
class VEPrecond(SongUNet):
    """Arguments of VEPrecond."""

    sigma_min: Positive = 0.02
    sigma_max: Positive = 100.0

    def diffusion(self) -> DiffusionConfig:
        options = _range(self.sigma_min, self.sigma_max)
        return DiffusionConfig("ve", times="log_normal_sigma", schedule_options=options)


KINDS = {"EDMPrecond": EDMPrecond, "VPPrecond": VPPrecond, "VEPrecond": VEPrecond}


def _range(low: float, high: float) -> dict[str, float]:
    """The schedule's options for EDM's sampler, which stays within what the network supports."""
    ends = max(low, SIGMA_RANGE[0]), min(high, SIGMA_RANGE[1])
    named = zip(("sigma_min", "sigma_max"), ends, SIGMA_RANGE, strict=True)
    return {name: end for name, end, usual in named if end != usual}


def recognises(path: Path) -> bool:
    """Whether a path is a file of the name of a pickle, or of a training state."""
    return path.is_file() and (path.suffix == ".pkl" or STATE.fullmatch(path.name) is not None)


def read(path: Path, _flags: str | None = None) -> Imported:
    """Read the averaged network of a snapshot; nothing of the file runs."""
    if STATE.fullmatch(path.name):
        beside = f"network-snapshot-{path.stem.rpartition('-')[2]}.pkl"
        raise CheckpointError(f"{path}: is EDM's training state; expected {beside} beside it")
    ema = read_object(path, "ema")
    if ema.class_name not in KINDS:
        expected = " or ".join(KINDS)
        raise CheckpointError(f"{path}: is of class {ema.class_name[:99]}, expected {expected}")
    usual = "DhariwalUNet" if ema.class_name == "EDMPrecond" else "SongUNet"
    try:
        values = {"model_type": usual, **ema.arguments}
        found = from_dict(KINDS[ema.class_name], values)
        network, shape = found.network(), found.shape()
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
    sample = SampleConfig("heun_edm", steps=18, spacing="karras", clip_x0=False)

    def renamed(network: Network, tensors: Tensors) -> Tensors:
        return _ours(found, network, tensors)

    process = Process(found.diffusion(), sample)
    return Imported(network, shape, process, ema.tensors, renamed)


def _theirs(key: str, size: int, last: int) -> str:
    """EDM's name of a tensor of ours, for images of a size and the number of the last level."""

    def at(level: int) -> str:
        return f"{size >> level}x{size >> level}"

    module, _, part = key.rpartition(".")
    names = (
        (r"time_mlp\.0", lambda m: "map_layer0"),
        (r"time_mlp\.2", lambda m: "map_layer1"),
        (r"stem", lambda m: f"enc.{at(0)}_conv"),
        (r"out_(norm|conv)", lambda m: f"dec.{at(0)}_aux_{m[1]}"),
        (r"down\.(\d+)", lambda m: f"enc.{at(int(m[1]) + 1)}_down"),
        (r"residual\.(\d+)", lambda m: f"enc.{at(int(m[1]) + 1)}_aux_residual"),
        (r"encoder\.(\d+)\.(\d+)", lambda m: f"enc.{at(int(m[1]))}_block{m[2]}"),
        (r"middle(\d)", lambda m: f"dec.{at(last)}_in{int(m[1]) - 1}"),
        (r"up\.(\d+)", lambda m: f"dec.{at(last - 1 - int(m[1]))}_up"),
        (r"decoder\.(\d+)\.(\d+)", lambda m: f"dec.{at(last - int(m[1]))}_block{m[2]}"),
    )
    for pattern, name in names:
        if match := re.match(rf"{pattern}\b\.?", module):
            rest = module[match.end() :]
            return ".".join(filter(None, ("model", name(match), PARTS.get(rest, rest), part)))
    raise AssertionError(key)


def _ours(found: SongUNet, network: Network, tensors: Tensors) -> Tensors:
    """EDM's tensors under our names."""
    tensors, ours = dict(tensors), Tensors()
    kernel = torch.tensor(found.resample_filter, dtype=torch.float32)
    kernel = kernel.outer(kernel)[None, None] / kernel.sum() ** 2
    for name in [name for name in tensors if name.endswith(".resample_filter")]:
        if not torch.equal(tensors.pop(name), kernel):
            raise CheckpointError(f"{name} is not resample_filter {list(found.resample_filter)}")
    if found.augment_dim:
        tensors.pop("model.map_augment.weight", None)
    for key, value in network.state_dict().items():
        if key == "frequencies":
            ours[key] = take(tensors, "model.map_noise.freqs", tuple(value.shape))
        elif key == "class_embedding.weight":
            width, classes = value.shape[1], found.label_dim
            rows = take(tensors, "model.map_label.weight", (width, classes)).T * classes**0.5
            bias = take(tensors, "model.map_label.bias", (width,))
            ours[key] = torch.cat([rows + bias, bias[None]])[: len(value)]
        else:
            name = _theirs(key, found.img_resolution, len(found.channel_mult) - 1)
            ours[key] = take(tensors, name, tuple(value.shape))
        if "qkv" in key:  # theirs are side by side for each channel
            ours[key] = ours[key].unflatten(0, (-1, 3)).transpose(0, 1).flatten(0, 1)
    if tensors:
        raise CheckpointError(f"has {min(tensors)}, which this network does not use")
    if isinstance(found, VEPrecond):
        ours |= {key: -ours[key] for key in ("out_conv.weight", "out_conv.bias")}
    return ours
