"""The whole configuration of a run: frozen dataclasses, to and from plain dictionaries.

A setting is one field with its type, its range and its help text. The flags of the command line,
the arguments in Python, the record in a model file and every check are made from it. `build`
checks names that choose something, such as a sampler. This module imports no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar, cast

from unnoise.data.config import DataConfig
from unnoise.errors import ConfigError, nearest
from unnoise.networks.config import NetworkConfig, UNetConfig
from unnoise.ranges import (
    Count,
    Finite,
    Guidance,
    Images,
    Kimg,
    NotNegative,
    Positive,
    Range,
    Seed,
    Share,
    Steps,
)
from unnoise.reading import RETIRED, from_dict
from unnoise.units import seconds

T = TypeVar("T")

Beta = Annotated[float, Range(least=0, below=1)]


@dataclass(frozen=True)
class DiffusionConfig:
    """The noising process and the objective."""

    schedule: str = "cosine"
    """Noise schedule: linear, cosine, sigmoid, edm, flow, vp or ve (Song et al. 2021)."""
    timesteps: Steps = 1000
    """Number T of steps of the discrete schedules."""
    parameterization: str = "eps"
    """What the network predicts: eps, x0, v, flow or edm."""
    variance: str = "small"
    """Variance of ancestral sampling: small, large, or learned by the network (hybrid loss)."""
    times: str = "uniform_discrete"
    """Training times are uniform_discrete, uniform, log_normal_sigma or logit_normal."""
    weighting: str = "none"
    """Weight of the loss at each noise level: none, snr (the error of eps), min_snr or learned
    (EDM2's uncertainty)."""
    schedule_options: dict[str, float] = field(default_factory=dict)
    """Options of the schedule: shift multiplies sigma / alpha (linear, cosine, sigmoid, flow);
    sigma_min and sigma_max are edm's, vp's and ve's range; beta_start, beta_end and power are
    linear's; beta_d and beta_min are vp's."""
    time_scale: Positive = 1.0
    """Factor on the time that the network is given; 1000 / timesteps is Improved DDPM's."""
    sigma_data: Positive | None = 0.5
    """Standard deviation of the images in [-1, 1], for parameterization edm; None measures it."""
    p_mean: Finite = -1.2
    """Mean of ln(sigma / alpha), for times log_normal_sigma; logit_normal is 0 on flow."""
    p_std: Positive = 1.2
    """Standard deviation of ln(sigma / alpha), for times log_normal_sigma; logit_normal's is 1."""
    loss: str = "mse"
    """Error of the network that training minimises: mse, or one that was added to LOSSES."""


@dataclass(frozen=True)
class TrainConfig:
    """Training stops at the first of epochs, kimg and time; those given replace the preset's."""

    start: str | None = None
    """Start from the weights of this model (a run folder, a file or a bundled name), not from
    random ones, and with its network."""
    batch_size: Images = 256
    """Images per optimizer step."""
    micro_batch: Images | None = None
    """Images per forward and backward pass, whose gradients add up; None is the whole batch."""
    epochs: Annotated[float, Range(least=1e-6, most=1e9)] | None = None
    """Stop after this many passes over the training images."""
    kimg: Kimg | None = None
    """Stop after this many kimg (thousand training images)."""
    time: str | None = None
    """Stop after this much training time: 90s, 20m, 1h30m."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """adamw, or muon (orthogonal updates) for matrices inside the network, else adamw."""
    lr: Positive = 2e-4
    """Peak learning rate."""
    muon_lr: Positive | None = None
    """Peak learning rate of the weights that muon trains; None is lr."""
    lr_schedule: Literal["cosine", "constant", "linear"] = "cosine"
    """Learning rate from warm-up to the end: cosine to 0, constant, or linear to 0."""
    lr_decay: Annotated[float, Range(above=0, most=1)] = 1.0
    """Share of the run, at its end, in which the learning rate falls; it is constant before."""
    warmup_kimg: NotNegative | None = None
    """Length of the linear warm-up in kimg (thousand images); None is 10 or 5 % of the run,
    whichever is less."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """AdamW's two betas."""
    weight_decay: NotNegative = 0.0
    """AdamW's weight decay."""
    clip: NotNegative = 1.0
    """Largest norm of the gradient; 0 turns clipping off."""
    ema_halflife_kimg: Positive = 500.0
    """Half-life of the averaged weights in kimg (thousand images)."""
    ema_also_kimg: tuple[Positive, ...] = ()
    """Half-lives of further averages, which are written next to the model as
    model-ema-<half-life>.safetensors."""
    ema_rampup: NotNegative = 0.05
    """The half-life is at most this share of the images seen so far."""
    label_dropout: Share = 0.1
    """Share of the labels that the null label replaces, for classifier-free guidance."""
    labels: bool = True
    """Train class-conditionally where the data has labels."""
    stratified: bool = True
    """Draw one training time from each of batch_size equal parts of the distribution."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the network's arithmetic; auto is the fastest on this machine."""
    channels_last: Literal["auto", "on", "off"] = "auto"
    """Store the network's tensors with channels last in memory."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Use torch.compile; auto is on for CUDA."""
    tf32: bool = True
    """Use TensorFloat-32 on CUDA where the arithmetic stays in fp32."""
    log_every_kimg: Kimg = 5.0
    """Write a line of metrics.jsonl every this many kimg, and after 30 s without one."""
    sample_every_kimg: Kimg = 250.0
    """Measure the held-out loss and write a grid of samples every this many kimg, after 20 s, 1, 3
    and 10 minutes, and with `time` then every tenth of it."""
    evaluate: str | None = None
    """Also measure a Fréchet distance (FID) to all training images with the samples: pytorch-fid,
    edm, clean, tiny or auto."""
    evaluate_num: Annotated[int, Range(least=2, most=10_000_000)] = 1000
    """Number of samples of that distance; compare only distances of equally many."""
    evaluate_reference: str | None = None
    """Statistics of its features in place of the training images: `evaluate --save-reference`'s."""
    checkpoint_every_kimg: Kimg = 250.0
    """Write a checkpoint every this many kimg, every 5 minutes and at every stop."""
    keep_checkpoints: Count = 2
    """Number of the newest checkpoints that are kept."""
    keep_best: bool = True
    """Also keep the checkpoint with the lowest held-out loss."""
    keep_every_kimg: Kimg | None = None
    """Also keep the checkpoints at multiples of this many kimg."""
    max_skipped: Count = 10
    """Stop after this many steps in a row whose loss or gradient is not finite."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Under torchrun: every rank holds the whole network (ddp), or a part of each tensor (fsdp)."""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Other places that receive the metrics; each needs its package."""


@dataclass(frozen=True)
class SampleConfig:
    """How a trained model is sampled, unless a call says otherwise."""

    sampler: str = "ddim"
    """Solver: ddpm, ddim (= euler), heun, heun_edm, dpmpp_2m, dpmpp_3m, dpmpp_2m_sde, unipc_2,
    unipc_3, ipndm or ipndm_edm; or fast, balanced or best where `unnoise tune-sampler` has run."""
    sampler_options: dict[str, float] = field(default_factory=dict)
    """Options of the sampler that have no setting here, such as curvature 0.5 for dpmpp_3m."""
    steps: Steps = 50
    """Number of sampling steps; each is one network evaluation (NFE), or two for heun."""
    spacing: str = "trailing"
    """How steps are spread over noise levels: leading, trailing, uniform, karras or log_snr."""
    guidance_scale: Guidance = 1.0
    """Push towards the class (classifier-free guidance), or away from a worse guide
    (autoguidance); 1 is off, others cost a second evaluation per step."""
    guidance_interval: tuple[NotNegative, NotNegative] = (0.0, 1e9)
    """Guide only where sigma / alpha is between these; elsewhere a step costs one evaluation."""
    noises: tuple[Positive, ...] = ()
    """Falling values of sigma / alpha to visit, instead of steps and spacing."""
    eta: Share = 0.0
    """DDIM's share of ancestral noise: 0 is deterministic, 1 ancestral."""
    churn: NotNegative = 0.0
    """EDM's S_churn, for heun: how much noise all steps together add and take away again."""
    churn_range: tuple[NotNegative, NotNegative] = (0.0, 1e9)
    """EDM's S_min and S_max: churn only where sigma / alpha is between these two."""
    churn_noise: NotNegative = 1.0
    """EDM's S_noise: standard deviation of the noise that churn adds."""
    clip_x0: bool = True
    """Clip the predicted image to the range of images at each step (static thresholding)."""
    dynamic_threshold: Share = 0.0
    """Clip the predicted image at this quantile of |x0| instead (Imagen's dynamic thresholding),
    such as 0.995; 0 is off."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that defines a training run."""

    preset: str = "digits"
    """Name of the preset that this configuration started from."""
    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=UNetConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    seed: Seed = 0
    """Seed of every random number in the run."""
    device: str = "auto"
    """Device that trains: auto, cpu, cuda, cuda:1 or mps."""
    imports: tuple[str, ...] = ()
    """Files of one's own that were given with --import, for a message that says what to pass."""


def to_dict(config: object) -> dict[str, Any]:
    """A configuration as a plain dictionary, ready for JSON; a network's has its kind."""
    values = dataclasses.asdict(config)  # type: ignore[call-overload]
    if isinstance(config, RunConfig):
        values["network"] = {"kind": config.network.kind, **values["network"]}
    return values


def override(config: T, changes: Mapping[str, Any], where: str = "") -> T:
    """A copy with dotted keys changed, as in {"train.batch_size": 64}.

    Another "network.kind" brings that kind's defaults, which further keys change. `where` says
    which part of a RunConfig `config` is, such as "sample.".
    """
    if not isinstance(changes, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(f"changes: got {changes!r}, expected names and values")
    values = to_dict(config)
    kind = changes.get("network.kind", _group(changes, "network").get("kind"))
    if isinstance(config, RunConfig) and kind not in (None, config.network.kind):
        network = from_dict(NetworkConfig, {"kind": kind}, "network.")
        values["network"] = {"kind": kind, **to_dict(network)}
    for key, value in flattened(config, changes):
        *path, last = key.split(".")
        part = values
        for name in path:
            if not isinstance(part.get(name), dict):
                raise ConfigError(f"{where}{key}: unknown key; {nearest(name, part)}")
            part = part[name]
        if where + key in RETIRED:
            raise ConfigError(f"{where}{key}: this setting no longer exists; leave it out")
        if last not in part:
            raise ConfigError(f"{where}{key}: unknown key; {nearest(last, part)}")
        part[last] = value
    return from_dict(type(config), values, where)


def _group(changes: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return changes[name] if isinstance(changes.get(name), Mapping) else {}


def flattened(config: object, changes: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Dotted keys; a group, {"train": {"kimg": 1}}, changes the fields that it names."""
    for key, value in changes.items():
        if dataclasses.is_dataclass(getattr(config, str(key), None)) and isinstance(value, Mapping):
            inner = cast("Mapping[str, Any]", value)
            yield from ((f"{key}.{name}", part) for name, part in inner.items())
        else:
            yield str(key), value


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
    """ConfigError for a number out of range, or for settings that do not go together."""
    from_dict(type(config), to_dict(config))
    train = config.train
    if train.epochs is train.kimg is train.time is None:
        fix = "give one of --epochs, --kimg or --time (such as --time 20m)"
        raise ConfigError(f"train: no end is set; {fix}")
    if train.time is not None and seconds(train.time) <= 0:
        raise ConfigError(f"train.time: got {train.time}, expected more than 0s")
    halflives = [f"{value:g}" for value in (train.ema_halflife_kimg, *train.ema_also_kimg)]
    if len(set(halflives)) < len(halflives):
        raise ConfigError(f"train.ema_also_kimg: {', '.join(halflives)} are not all different")
