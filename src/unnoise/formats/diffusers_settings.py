"""The settings of diffusers' UNet2DModel, DDPMScheduler and DDIMScheduler, and unnoise's for them.

The dataclasses have diffusers' defaults; their types say which values unnoise can express, and any
other is refused by name.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from unnoise.config import DiffusionConfig, SampleConfig
from unnoise.diffusion.schedules import Discrete
from unnoise.errors import CheckpointError, ConfigError
from unnoise.formats.imported import Process, read_config
from unnoise.model import Model
from unnoise.networks.config import Shape, UNetConfig
from unnoise.ranges import Few, NotNegative, Range, Steps, Width
from unnoise.reading import typed

POWERS = {"linear": 1.0, "scaled_linear": 2.0}
USUAL = {"beta_start": 1e-4, "beta_end": 0.02, "power": 1.0}
"""Options of unnoise's linear schedule."""
PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
SPACINGS = {"leading": "leading", "trailing": "trailing", "linspace": "uniform"}
VARIANCES = {"fixed_small": "small", "fixed_large": "large", "learned_range": "learned"}
SAMPLERS = {"DDPMScheduler": ("ddpm", 1000), "DDIMScheduler": ("ddim", 50)}
"""Scheduler -> sampler, and the steps that diffusers' pipeline takes by default."""

Down = Literal["DownBlock2D", "AttnDownBlock2D"]
Up = Literal["UpBlock2D", "AttnUpBlock2D"]
Beta = Annotated[float, Range(above=0, below=0.999)]


@dataclass(frozen=True)
class UNet2DModel:
    """unet/config.json."""

    sample_size: Any
    """One number, or height and width."""
    in_channels: Width = 3
    out_channels: Width = 3
    center_input_sample: Literal[False] = False
    time_embedding_type: Literal["positional"] = "positional"
    time_embedding_dim: Width | None = None
    freq_shift: Literal[0, 1] = 0
    flip_sin_to_cos: bool = True
    down_block_types: tuple[Down, ...] = (
        "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D",
    )  # fmt: skip
    mid_block_type: Literal["UNetMidBlock2D"] = "UNetMidBlock2D"
    up_block_types: tuple[Up, ...] = (
        "AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D",
    )  # fmt: skip
    block_out_channels: tuple[Width, ...] = (224, 448, 672, 896)
    layers_per_block: Few = 2
    mid_block_scale_factor: Literal[1] = 1
    downsample_padding: Literal[0, 1] = 1
    downsample_type: Literal["conv"] = "conv"
    upsample_type: Literal["conv"] = "conv"
    dropout: NotNegative = 0.0
    act_fn: Literal["silu", "swish"] = "silu"
    attention_head_dim: Width | None = 8
    norm_num_groups: Width = 32
    attn_norm_num_groups: Width | None = None
    norm_eps: NotNegative = 1e-5
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    add_attention: Literal[True] = True
    class_embed_type: Literal[None] = None  # noqa: PYI061
    num_class_embeds: Width | None = None
    num_train_timesteps: Any = None
    """It matters to learned time embeddings only."""


@dataclass(frozen=True)
class Scheduler:
    """scheduler/scheduler_config.json, of DDPMScheduler and DDIMScheduler."""

    num_train_timesteps: Steps = 1000
    beta_start: Beta = 1e-4
    beta_end: Beta = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    trained_betas: Literal[None] = None  # noqa: PYI061
    variance_type: Literal["fixed_small", "fixed_large", "learned_range"] | None = None
    clip_sample: bool = True
    clip_sample_range: Literal[1] = 1
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    thresholding: Literal[False] = False
    timestep_spacing: Literal["leading", "trailing", "linspace"] = "leading"
    steps_offset: Literal[0] = 0
    rescale_betas_zero_snr: Literal[False] = False
    set_alpha_to_one: Literal[True] = True
    dynamic_thresholding_ratio: Any = 0.995
    sample_max_value: Any = 1.0
    tensor_format: Any = "pt"
    """The last three change nothing."""


class Ours(TypedDict, total=False):
    """What only unnoise writes into config.json, as "_unnoise"."""

    null_label: bool
    class_names: tuple[str, ...]


def network_and_shape(unet: UNet2DModel, null_label: bool) -> tuple[UNetConfig, Shape]:
    """The network of a UNet2DModel; ConfigError for what UNetConfig cannot say."""
    size, widths = unet.sample_size, unet.block_out_channels
    size = [size, size] if isinstance(size, int) else size
    height, width = typed(tuple[Width, Width], size, "sample_size")
    attention = [kind.startswith("Attn") for kind in unet.down_block_types]
    mirrored = [kind.startswith("Attn") for kind in reversed(unet.up_block_types)]
    groups = unet.norm_num_groups
    scale_shift = unet.resnet_time_scale_shift == "scale_shift"
    middle = unet.attn_norm_num_groups or (None if scale_shift else groups)
    rules = (
        ("up_block_types", attention == mirrored, "down_block_types mirrored"),
        ("block_out_channels", len(widths) == len(attention) > 0, "one for each block type"),
        ("block_out_channels", not any(n % widths[0] for n in widths), "multiples of the first"),
        ("attn_norm_num_groups", middle == groups, f"norm_num_groups, {groups}"),
        ("out_channels", unet.out_channels in (unet.in_channels, 2 * unet.in_channels),
         "in_channels, or twice as many"),
    )  # fmt: skip
    for name, holds, expected in rules:
        if not holds:
            raise ConfigError(f"{name}: got {getattr(unet, name)}, expected {expected}")
    network = UNetConfig(
        base_channels=widths[0],
        channel_multipliers=tuple(n // widths[0] for n in widths),
        blocks_per_level=unet.layers_per_block,
        attention_levels=tuple(level for level, attends in enumerate(attention) if attends),
        attention_head_channels=unet.attention_head_dim,
        dropout=unet.dropout,
        conditioning="scale_shift" if scale_shift else "additive",
        norm_groups=groups,
        norm_eps=unet.norm_eps,
        frequencies="ddpm" if unet.freq_shift else "iddpm",
        time_hidden=unet.time_embedding_dim,
        time_channels=unet.time_embedding_dim,
        downsample_padding="symmetric" if unet.downsample_padding else "same",
    )
    null_label = null_label and unet.num_class_embeds is not None
    classes = (unet.num_class_embeds or 0) - null_label
    return network, Shape(unet.in_channels, height, width, classes, null_label or not classes)


def process_of(path: Path, unet: UNet2DModel) -> tuple[Process, tuple[str, ...]]:
    """What the scheduler's file says of the process, and what the user should know of it."""
    places = (path / "scheduler" / "scheduler_config.json", path / "scheduler_config.json")
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        scheduler, kind = Scheduler(), "DDPMScheduler"
        said = "no scheduler_config.json: assumes a linear schedule of 1000 steps that predicts eps"
        notes = (f"{path}: {said}; if not so, give --diffusion.schedule and the like",)
    else:
        scheduler, private = read_config(Scheduler, file, SAMPLERS)
        kind, notes = private["_class_name"], ()
    learned, given = unet.out_channels != unet.in_channels, scheduler.variance_type
    if given and learned != (given == "learned_range"):
        got = f"variance_type: got {given}, but the network has {unet.out_channels} output channels"
        raise CheckpointError(f"{file}: {got} for images of {unet.in_channels}")
    steps, power = scheduler.num_train_timesteps, POWERS.get(scheduler.beta_schedule)
    scale = steps / 1000
    betas = {"beta_start": scheduler.beta_start * scale, "beta_end": scheduler.beta_end * scale}
    options = {**betas, "power": power} if power else {}
    diffusion = DiffusionConfig(
        schedule="linear" if power else "cosine",
        schedule_options={k: v for k, v in options.items() if v != USUAL[k]},
        timesteps=steps,
        parameterization=PREDICTIONS[scheduler.prediction_type],
        variance="learned" if learned else VARIANCES[given or "fixed_small"],
    )
    sampler, usual = SAMPLERS[kind]
    spacing, clip = SPACINGS[scheduler.timestep_spacing], scheduler.clip_sample
    sample = SampleConfig(sampler=sampler, steps=min(usual, steps), spacing=spacing, clip_x0=clip)
    return Process(diffusion, sample), notes


def unet_of(model: Model) -> dict[str, Any]:
    """unet/config.json of a model."""
    network, shape = model.config.network, model.shape
    if not isinstance(network, UNetConfig):
        raise ConfigError(f"network.kind: got {network.kind}, expected unet; diffusers' is one")
    widths, at = network.widths, network.attention(shape.height)
    attended = [widths[level] for level in {*at, len(widths) - 1}]
    of_heads = {width // network.heads(width) for width in attended}
    one = all(network.heads(width) == 1 for width in attended)
    hidden, channels = (
        n or 4 * network.base_channels for n in (network.time_hidden, network.time_channels)
    )
    most = 2 ** (len(widths) - 1)
    network.require([
        (network.skips == "every_block", "skips", "every_block, as in diffusers"),
        (network.stem == "conv", "stem", "conv, as in diffusers"),
        (network.resample == "conv", "resample", "conv, as this format writes"),
        (network.patch_size == 1, "patch_size", "1, as in diffusers"),
        (hidden == channels, "time_hidden", f"time_channels ({channels}), as in diffusers"),
        (one or len(of_heads) == 1, "attention_heads", "heads of one width, as in diffusers"),
    ])  # fmt: skip
    if shape.height % most or shape.width % most:
        got = f"images are {shape.height}x{shape.width}"
        raise ConfigError(f"{got}, expected multiples of {most}, the only ones diffusers upsamples")
    kinds = ["Attn" * (level in at) for level in range(len(widths))]
    ddpm, scale_shift = network.frequencies == "ddpm", network.conditioning == "scale_shift"
    ours = {"null_label": shape.null_label, "class_names": list(model.class_names)}
    return asdict(UNet2DModel(
        sample_size=[shape.height, shape.width],
        in_channels=shape.channels,
        out_channels=shape.channels * (2 if model.diffusion.variance == "learned" else 1),
        time_embedding_dim=channels,
        freq_shift=1 if ddpm else 0,
        flip_sin_to_cos=not ddpm,
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),  # pyright: ignore
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),  # pyright: ignore
        block_out_channels=tuple(widths),
        layers_per_block=network.blocks_per_level,
        downsample_padding=0 if network.downsample_padding == "same" else 1,
        dropout=network.dropout,
        attention_head_dim=None if one else of_heads.pop(),
        norm_num_groups=network.norm_groups,
        attn_norm_num_groups=network.norm_groups,
        norm_eps=network.norm_eps,
        resnet_time_scale_shift="scale_shift" if scale_shift else "default",
        num_class_embeds=shape.labels or None,
    )) | {"_unnoise": ours}  # fmt: skip


def scheduler_of(model: Model) -> tuple[str, dict[str, Any]]:
    """The scheduler's class, and scheduler/scheduler_config.json, of a model."""
    config, sample, schedule = model.config.diffusion, model.config.sample, model.diffusion.schedule
    predictions = {ours: theirs for theirs, ours in PREDICTIONS.items()}
    if not isinstance(schedule, Discrete) or config.parameterization not in predictions:
        got = f"got {config.parameterization} on schedule {config.schedule}"
        expected = f"{', '.join(predictions)} on linear, cosine or sigmoid, as in diffusers"
        raise ConfigError(f"diffusion.parameterization: {got}; expected {expected}")
    if config.time_scale != 1:
        got = f"diffusion.time_scale: got {config.time_scale:g}"
        raise ConfigError(f"{got}, expected 1, as in diffusers")
    learned = config.variance == "learned"
    kind = "DDPMScheduler" if learned or sample.sampler == "ddpm" else "DDIMScheduler"
    spacings = {ours: theirs for theirs, ours in SPACINGS.items()}
    values = {
        "num_train_timesteps": config.timesteps,
        "clip_sample": sample.clip_x0,
        "prediction_type": predictions[config.parameterization],
        "timestep_spacing": spacings.get(sample.spacing, "trailing"),
        **_betas(schedule, config),
    }
    if kind == "DDPMScheduler":
        variances = {ours: theirs for theirs, ours in VARIANCES.items()}
        values["variance_type"] = variances[config.variance]
    return kind, values


def _betas(schedule: Discrete, config: DiffusionConfig) -> dict[str, Any]:
    """How a scheduler is told of a schedule: by name where it has one, else as a list."""
    betas = 1 - schedule.alpha_bar[1:] / schedule.alpha_bar[:-1]
    options = {"shift": 1.0, "power": 1.0, **config.schedule_options}
    names = {power: name for name, power in POWERS.items()}
    if config.schedule == "cosine" and options["shift"] == 1:
        return {"beta_schedule": "squaredcos_cap_v2"}
    named = config.schedule == "linear" and options["shift"] == 1 and options["power"] in names
    if not named or betas[-1] >= 0.999:  # where unnoise caps them
        return {"trained_betas": betas.tolist()}
    start, end = (float(f"{value:.9g}") for value in betas[[0, -1]])
    return {"beta_schedule": names[options["power"]], "beta_start": start, "beta_end": end}
