"""The whole configuration of a run: frozen dataclasses, to and from plain dictionaries.

Free of torch: the command line reads it before anything heavy is imported. Names that choose something (a schedule, a
sampler) are checked where the registries are, in `build`.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast

from unnoise.data.config import DataConfig
from unnoise.errors import ConfigError, nearest
from unnoise.networks.config import NETWORK_CONFIGS, NetworkConfig, UNetConfig
from unnoise.units import seconds

T = TypeVar("T")


@dataclass(frozen=True)
class DiffusionConfig:
    """The process and the objective."""

    schedule: str = "cosine"
    """linear, cosine, sigmoid, edm or flow."""
    timesteps: int = 1000
    """T of the discrete schedules."""
    parameterization: str = "eps"
    """What the network predicts: eps, x0, v, flow or edm."""
    variance: str = "small"
    """Of ancestral sampling: small, large, or learned (the network predicts it too, trained by the hybrid loss)."""
    times: str = "uniform_discrete"
    """How training times are drawn: uniform_discrete, uniform, log_normal_sigma or logit_normal."""
    weighting: str = "none"
    """Weight of the loss by noise level: none, min_snr or learned (EDM2's uncertainty)."""
    schedule_options: dict[str, float] = field(default_factory=dict)
    """Options of the schedule: shift multiplies sigma / alpha (linear, cosine, sigmoid, flow);
    sigma_min and sigma_max are edm's range."""
    time_scale: float = 1.0
    """Factor on the time that the network is given; 1000 / timesteps is Improved DDPM's."""
    sigma_data: float | None = 0.5
    """Standard deviation of the images in [-1, 1], for parameterization edm; None measures it."""
    p_mean: float = -1.2
    """Mean of ln sigma, for times log_normal_sigma."""
    p_std: float = 1.2
    """Standard deviation of ln sigma, for times log_normal_sigma."""
    loss: str = "mse"
    """Error of the network that training minimises: mse, or one that was added to LOSSES."""


@dataclass(frozen=True)
class TrainConfig:
    """Training. It stops at the first of epochs, kimg and time; the learning rate decays towards that end."""

    batch_size: int = 256
    """Images per optimizer step."""
    micro_batch: int | None = None
    """Images per forward and backward pass (gradients add up); None = the whole batch."""
    epochs: float | None = None
    """Stop after so many passes over the training images."""
    kimg: float | None = None
    """Stop after so many thousand images."""
    time: str | None = None
    """Stop after so much training time: 90s, 20m, 1h30m."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """adamw; or muon, with orthogonal updates, for the matrices inside the network and adamw for the rest."""
    lr: float = 2e-4
    """Peak learning rate."""
    muon_lr: float | None = None
    """Of muon's matrices; None = lr."""
    lr_schedule: Literal["cosine", "constant", "linear"] = "cosine"
    """After warm-up: cosine to 0, constant, or linear to 0."""
    lr_decay: float = 1.0
    """Share of the run, at its end, over which the learning rate falls; before that it is constant."""
    warmup_kimg: float = 10.0
    """Linear warm-up, in thousand images."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's betas."""
    weight_decay: float = 0.0
    """AdamW's weight decay."""
    clip: float = 1.0
    """Largest norm of the gradient; 0 = no clipping."""
    ema_halflife_kimg: float = 500.0
    """Half-life of the averaged weights, in thousand images."""
    ema_also_kimg: tuple[float, ...] = ()
    """Further averages with these half-lives, written beside the model as model-ema-<half-life>.safetensors."""
    ema_rampup: float = 0.05
    """The half-life is at most this share of the images seen so far."""
    label_dropout: float = 0.1
    """Share of labels replaced by the null label, for classifier-free guidance."""
    labels: bool = True
    """Train class-conditionally where the data has labels."""
    stratified: bool = True
    """One time from each 1/batch of the distribution."""
    pairing: Literal["independent", "optimal_transport"] = "independent"
    """Which noise goes with which image of a batch: any, or the nearest overall among those of its class."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the network's arithmetic; auto is what is fastest on this machine for this network."""
    channels_last: Literal["auto", "on", "off"] = "auto"
    """Memory format of the network."""
    fused_norm: Literal["auto", "on", "off"] = "auto"
    """On CUDA, the Triton kernel for group normalisation with its SiLU; auto is off until it was measured on a GPU."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile; auto is on for CUDA."""
    tf32: bool = True
    """TensorFloat-32 for what stays in fp32 on CUDA."""
    log_every_kimg: float = 5.0
    """A line of metrics.jsonl every so many thousand images."""
    sample_every_kimg: float = 250.0
    """Held-out loss and a grid of samples every so many thousand images."""
    evaluate: str | None = None
    """With the samples also a Fréchet distance (FID) to all training images: pytorch-fid, edm, clean, tiny or auto."""
    evaluate_num: int = 1000
    """Of so many samples; compare such numbers among themselves."""
    checkpoint_every_kimg: float = 250.0
    """A checkpoint every so many thousand images (and at every stop)."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay."""
    keep_best: bool = True
    """The checkpoint of the lowest held-out loss stays too."""
    keep_every_kimg: float | None = None
    """Checkpoints at multiples of so many thousand images stay too."""
    max_skipped: int = 10
    """Stop after so many steps in a row whose loss or gradient is not finite; none of them is applied."""
    on_save_error: Literal["stop", "continue"] = "stop"
    """When a checkpoint cannot be written: stop, or say so and go on."""
    async_save: Literal["auto", "on", "off"] = "auto"
    """Write checkpoints beside training, from a copy in the host's memory; auto is on for a GPU."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Under torchrun: every rank has the whole network (ddp), or a part of each tensor (fsdp)."""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Where the metrics also go; each needs its package."""


@dataclass(frozen=True)
class SampleConfig:
    """How a trained model is sampled if nothing else is said."""

    sampler: str = "ddim"
    """ddpm, ddim (= euler), heun, heun_edm, dpmpp_2m, dpmpp_3m, dpmpp_2m_sde, unipc_2, unipc_3, ipndm or ipndm_edm."""
    sampler_options: dict[str, float] = field(default_factory=dict)
    """Options of the sampler that have no setting here, such as curvature 0.5 for dpmpp_3m."""
    steps: int = 50
    """Steps of the sampler; one network evaluation each, two for heun."""
    spacing: str = "trailing"
    """leading, trailing, uniform, karras or log_snr."""
    guidance_scale: float = 1.0
    """Classifier-free guidance (or, with a guide, autoguidance); 1 is off, others cost a second evaluation per step."""
    guidance_interval: tuple[float, float] = (0.0, 1e9)
    """Guide only where sigma / alpha is between these; elsewhere there is one evaluation."""
    noises: tuple[float, ...] = ()
    """The grid itself, as falling values of sigma / alpha, in place of steps and spacing."""
    eta: float = 0.0
    """DDIM's share of ancestral noise."""
    churn: float = 0.0
    """EDM's S_churn, for heun: how much noise is added and taken away again, over all steps."""
    churn_range: tuple[float, float] = (0.0, 1e9)
    """EDM's S_min and S_max: the sigma / alpha between which there is churn."""
    churn_noise: float = 1.0
    """EDM's S_noise."""
    clip_x0: bool = True
    """Clamp the predicted image to the range of images at each step (static thresholding)."""
    dynamic_threshold: float = 0.0
    """Imagen's dynamic thresholding instead, at this quantile of |x0|, such as 0.995; 0 is off."""
    cuda_graphs: bool = False
    """On a GPU: record the network's calls once and replay them."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that defines a training run."""

    preset: str = "digits"
    """The preset this started from."""
    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=UNetConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    seed: int = 0
    """Of everything random in the run."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""


RETIRED = frozenset({"sample.deep_cache"})
"""Settings of older versions by dotted key, which a record may still name."""


def to_dict(config: object) -> dict[str, Any]:
    """A configuration as a plain dictionary, ready for JSON; a network's has its kind."""
    values = dataclasses.asdict(config)  # type: ignore[call-overload]
    if isinstance(config, RunConfig):
        values["network"] = {"kind": config.network.kind, **values["network"]}
    return values


def from_dict(kind: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """The inverse of `to_dict`; ConfigError names an unknown key (and the nearest known) or a wrong type."""
    hints = typing.get_type_hints(kind)
    if kind is RunConfig:
        values = {key: _current(key, value) for key, value in values.items()}
    for key in values:
        if key not in hints:
            raise ConfigError(f"{where}{key}: unknown key; {nearest(key, hints)}")
    return kind(**{key: _coerce(hints[key], value, where + key) for key, value in values.items()})


def _current(group: str, values: Any) -> Any:
    """A record's values of a group, without retired settings."""
    if not isinstance(values, Mapping):
        return values
    group_values = cast("Mapping[str, Any]", values)
    return {key: v for key, v in group_values.items() if f"{group}.{key}" not in RETIRED}


def _network(values: Mapping[str, Any], where: str) -> NetworkConfig:
    """The settings of a network of the kind that they name, by default a U-Net."""
    kind = str(values.get("kind", "unet"))
    if kind not in NETWORK_CONFIGS:
        raise ConfigError(f"{where}kind: no {kind!r}; {nearest(kind, NETWORK_CONFIGS)}")
    settings = {key: value for key, value in values.items() if key != "kind"}
    return from_dict(NETWORK_CONFIGS[kind], settings, where)


def override(config: T, changes: Mapping[str, Any]) -> T:
    """A copy with dotted keys changed: {"train.batch_size": 64}.

    Another "network.kind" brings that kind's defaults, which further keys change.
    """
    values = to_dict(config)
    kind = changes.get("network.kind")
    if isinstance(config, RunConfig) and kind not in (None, config.network.kind):
        values["network"] = {"kind": kind, **to_dict(_network({"kind": kind}, "network."))}
    for key, value in changes.items():
        *path, last = key.split(".")
        part = values
        for name in path:
            if not isinstance(part.get(name), dict):
                raise ConfigError(f"{key}: unknown key; {nearest(name, part)}")
            part = part[name]
        if last not in part:
            raise ConfigError(f"{key}: unknown key; {nearest(last, part)}")
        part[last] = value
    return from_dict(type(config), values)


def _coerce(hint: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type, or a ConfigError."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is NetworkConfig and isinstance(value, Mapping):
        return _network(cast("Mapping[str, Any]", value), where + ".")
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_dict(cast("type[Any]", hint), cast("Mapping[str, Any]", value), where + ".")
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _coerce(next(a for a in arguments if a is not type(None)), value, where)
    if origin is tuple and isinstance(value, list | tuple):
        parts = cast("list[Any]", list(value))  # pyright: ignore[reportUnknownArgumentType]
        if arguments[-1] is not ... and len(parts) != len(arguments):
            raise ConfigError(f"{where}: got {len(parts)} values, expected {len(arguments)}")
        return tuple(_coerce(arguments[0], part, where) for part in parts)
    if origin is dict and isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value).items()
        return {str(key): _coerce(arguments[1], part, f"{where}.{key}") for key, part in items}
    if origin is Literal:
        if value in arguments:
            return value
        raise ConfigError(f"{where}: got {value!r}; {nearest(str(value), map(str, arguments))}")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if (
        isinstance(hint, type)
        and isinstance(value, hint)
        and not (hint is int and isinstance(value, bool))
    ):
        return value
    raise ConfigError(f"{where}: got {value!r}, expected {getattr(hint, '__name__', hint)}")


def flat(config: object) -> dict[str, Any]:
    """A configuration's values by dotted key."""
    return dotted(to_dict(config))


def dotted(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a configuration's plain dictionary by dotted key."""
    values: dict[str, Any] = {}
    for key, value in config.items():
        inner = cast("dict[str, Any]", value) if isinstance(value, dict) else None
        values |= {key: value} if inner is None else {f"{key}.{k}": v for k, v in inner.items()}
    return values


def differences(a: object, b: object) -> list[str]:
    """The dotted fields in which two configurations of a kind differ: 'train.lr: 0.1 -> 0.2'."""
    before, after = flat(a), flat(b)
    both = [key for key in before if key in after]  # another kind of network has other fields
    return [f"{key}: {before[key]} -> {after[key]}" for key in both if before[key] != after[key]]


def check(config: RunConfig) -> None:
    """ConfigError for numbers out of range."""
    positive = {
        "diffusion.timesteps": config.diffusion.timesteps,
        "train.batch_size": config.train.batch_size,
        "train.lr": config.train.lr,
        "train.log_every_kimg": config.train.log_every_kimg,
        "train.sample_every_kimg": config.train.sample_every_kimg,
        "train.checkpoint_every_kimg": config.train.checkpoint_every_kimg,
        "train.ema_halflife_kimg": config.train.ema_halflife_kimg,
        "train.keep_checkpoints": config.train.keep_checkpoints,
        "train.max_skipped": config.train.max_skipped,
        "sample.steps": config.sample.steps,
        "diffusion.time_scale": config.diffusion.time_scale,
        "diffusion.p_std": config.diffusion.p_std,
    }
    optional = {
        "train.micro_batch": config.train.micro_batch,
        "diffusion.sigma_data": config.diffusion.sigma_data,
        "train.muon_lr": config.train.muon_lr,
        "train.epochs": config.train.epochs,
        "train.kimg": config.train.kimg,
        "train.keep_every_kimg": config.train.keep_every_kimg,
        "train.time": None if config.train.time is None else seconds(config.train.time),
    }
    for name, value in {**positive, **{k: v for k, v in optional.items() if v is not None}}.items():
        if not value > 0:
            raise ConfigError(f"{name}: got {value}, expected more than 0")
    not_negative = {
        "train.warmup_kimg": config.train.warmup_kimg,
        "train.ema_rampup": config.train.ema_rampup,
        "train.weight_decay": config.train.weight_decay,
        "train.clip": config.train.clip,
    }
    for name, value in not_negative.items():
        if not 0 <= value < float("inf"):
            raise ConfigError(f"{name}: got {value}, expected 0 or more")
    if config.train.evaluate_num < 2:
        raise ConfigError(
            f"train.evaluate_num: got {config.train.evaluate_num}, expected 2 or more"
        )
    if not all(0 <= beta < 1 for beta in config.train.betas):
        raise ConfigError(
            f"train.betas: got {config.train.betas}, expected two numbers from 0 up to, not including, 1"
        )
    if not 0 < config.train.lr_decay <= 1:
        raise ConfigError(
            f"train.lr_decay: got {config.train.lr_decay}, expected a share above 0, up to 1"
        )
    halflives = (config.train.ema_halflife_kimg, *config.train.ema_also_kimg)
    if min(halflives) <= 0 or len({f"{value:g}" for value in halflives}) < len(halflives):
        raise ConfigError(
            f"train.ema_also_kimg: got {config.train.ema_also_kimg}, expected other half-lives, above 0"
        )
    if not 0 <= config.seed < 2**63:
        raise ConfigError(f"seed: got {config.seed}, expected 0 or more, below 2**63")
    if not 0 <= config.train.label_dropout <= 1:
        raise ConfigError(f"train.label_dropout: got {config.train.label_dropout}, expected 0 to 1")
    if all(optional[f"train.{name}"] is None for name in ("epochs", "kimg", "time")):
        raise ConfigError(
            "train: no end is set; give one of --epochs, --kimg or --time (such as --time 20m)"
        )
