"""OpenAI's improved-diffusion and guided-diffusion: a U-Net's weights, and the flags it had.

Both save nothing but the weights, under the same names. Their shapes say the network; what they
do not say is in the flags of the command line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

from unnoise.checkpoint import Tensors
from unnoise.config import DiffusionConfig, SampleConfig
from unnoise.errors import CheckpointError
from unnoise.files import replacing
from unnoise.formats.flags import compare, read_flags, word
from unnoise.formats.imported import Imported, Process, mentions, read_tensors
from unnoise.formats.renames import (
    Names,
    Stage,
    by_place,
    levels,
    plain,
    refuse_other,
    rows,
    stage_numbers,
)
from unnoise.model import Model
from unnoise.networks.config import Shape, UNetConfig
from unnoise.networks.layers import Attention
from unnoise.networks.network import Network
from unnoise.ranges import Few, Range, Steps, Width

INNER = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "skip": "skip_connection", "out": "proj_out",
}  # fmt: skip
"""The layers of a block and of an attention."""
MULTIPLIERS = {
    256: (1, 1, 2, 2, 4, 4), 128: (1, 1, 2, 3, 4), 64: (1, 2, 3, 4), 32: (1, 2, 2, 2),
}  # fmt: skip
"""Image size -> channel_mult, where no flag says it."""
USUAL = {"num_heads": 4, "noise_schedule": "linear", "diffusion_steps": 1000}
"""What a flag is in both packages, where it is not given."""
OTHERS = (
    "use_kl", "rescale_learned_sigmas", "use_checkpoint", "use_fp16", "fp16_scale_growth",
    "schedule_sampler", "lr", "lr_anneal_steps", "weight_decay", "batch_size", "microbatch",
    "ema_rate", "log_interval", "save_interval", "resume_checkpoint", "data_dir", "model_path",
    "num_samples",
)  # fmt: skip
"""Flags of training and of sampling that do not change what the model is."""
UPSAMPLING_BLOCK = r"output_blocks\.\d+\.[12]\.in_layers\.2\.weight"
NEEDED = (
    "the weights do not say all; expected the flags of its training or sampling, such as "
    "--flags '--image_size 64 --num_heads 4 --noise_schedule cosine --diffusion_steps 1000'"
)


@dataclass(frozen=True)
class Flags:
    """The flags that say what a model is; those that weights say too are None or empty."""

    image_size: Annotated[int, Range(least=1, most=4096)]
    num_channels: Width | None = None
    num_res_blocks: Few | None = None
    channel_mult: tuple[Few, ...] = ()
    attention_resolutions: tuple[Few, ...] = ()
    num_heads: Few | None = None
    num_head_channels: Annotated[int, Range(least=-1, most=100_000)] = -1
    num_heads_upsample: Annotated[int, Range(least=-1, most=1000)] = -1
    dropout: Annotated[float, Range(least=0, below=1)] = 0.0
    class_cond: bool | None = None
    learn_sigma: bool | None = None
    sigma_small: bool = False
    use_scale_shift_norm: bool | None = None
    resblock_updown: bool | None = None
    use_new_attention_order: bool = False
    diffusion_steps: Steps | None = None
    noise_schedule: Literal["linear", "cosine"] | None = None
    predict_xstart: bool = False
    rescale_timesteps: bool | None = None
    timestep_respacing: str = ""
    use_ddim: bool = False
    clip_denoised: bool = True


def recognises(path: Path) -> bool:
    """Whether a path is a file of weights with names as theirs."""
    return mentions(path, "input_blocks.0.0.weight")


def read(path: Path, flags: str | None) -> Imported:
    """Read model030000.pt or ema_0.9999_030000.pt, with the flags that it was trained by."""
    tensors = read_tensors(path)
    if flags is None:
        raise CheckpointError(f"{path}: {NEEDED}")
    if other := re.search(r"--(classifier_\w+|large_size|small_size)", flags):
        fix = "which unnoise has not; leave it out to read the model alone"
        raise CheckpointError(f"flag {other[1]}: is of a classifier or an upsampler, {fix}")
    given = read_flags(Flags, flags, OTHERS)
    try:
        usual = {key: value for key, value in USUAL.items() if getattr(given, key) is None}
        given = replace(given, **usual)
        network, shape, learned = _network(tensors, given)
        process = _process(given, learned)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if given.num_head_channels > 0:
        usual.pop("num_heads", None)
    said = ", ".join(f"{key} {value}" for key, value in usual.items())
    notes = (f"{path}: assumes {said}, as the original does",) if said else ()

    def renamed(network: Network, tensors: Tensors) -> Tensors:
        found = _names(network).to_ours(network, tensors)
        return found if given.use_new_attention_order else _reordered(network, found, True)

    return Imported(network, shape, process, tensors, renamed, (), notes)


def _network(tensors: Tensors, given: Flags) -> tuple[UNetConfig, Shape, bool]:
    """Network, shape, and whether the variance is learned; CheckpointError where flags differ."""
    numbers = stage_numbers(tensors, "output_blocks")
    if not numbers:
        raise CheckpointError(
            "has no output_blocks; a classifier (EncoderUNetModel) cannot be read"
        )
    base, stem = rows(tensors, "time_embed.0.weight", 1), "input_blocks.0.0.weight"
    width, channels = (rows(tensors, stem, axis) for axis in (0, 1))
    outputs = rows(tensors, "out.2.bias")
    if width != base:
        raise CheckpointError(f"channel_mult: begins with {width / base:g}, expected 1")
    if outputs not in (channels, 2 * channels) or channels == 6:
        got = f"takes {channels} channels and gives {outputs}"
        raise CheckpointError(f"{got}; an upsampler (SuperResModel) cannot be read")
    said = levels([_stage(tensors, f"output_blocks.{i}") for i in numbers], base)
    middle = rows(tensors, "middle_block.0.emb_layers.1.bias")
    classes = rows(tensors, "label_emb.weight") if "label_emb.weight" in tensors else 0
    weights = {
        "num_channels": base,
        "num_res_blocks": said["blocks_per_level"],
        "channel_mult": said["channel_multipliers"],
        "attention_resolutions": tuple(given.image_size // 2**i for i in said["attention_levels"]),
        "class_cond": classes > 0,
        "learn_sigma": outputs != channels,
        "use_scale_shift_norm": middle != rows(tensors, "middle_block.0.out_layers.0.bias"),
        "resblock_updown": any(re.fullmatch(UPSAMPLING_BLOCK, name) for name in tensors),
    }
    _compare(given, weights)
    network = UNetConfig(
        **said,
        attention_heads=1 if given.num_head_channels > 0 else given.num_heads or 1,
        attention_head_channels=given.num_head_channels if given.num_head_channels > 0 else None,
        dropout=given.dropout,
        conditioning="scale_shift" if weights["use_scale_shift_norm"] else "additive",
        resample="resblock" if weights["resblock_updown"] else "conv",
    )
    size = given.image_size
    return network, Shape(channels, size, size, classes, not classes), weights["learn_sigma"]


def _stage(tensors: Tensors, block: str) -> Stage:
    attends = f"{block}.1.qkv.weight" in tensors
    up = f"{block}.{1 + attends}"
    last = f"{up}.conv.weight" in tensors or f"{up}.in_layers.2.weight" in tensors
    return Stage(rows(tensors, f"{block}.0.out_layers.3.weight"), attends, last)


def _compare(given: Flags, weights: dict[str, Any]) -> None:
    """CheckpointError for a flag that differs from what the weights say."""
    size, multipliers = given.image_size, weights["channel_mult"]
    factors = {size // resolution for resolution in given.attention_resolutions}
    heights = [size // 2**level for level in range(len(multipliers)) if 2**level in factors]
    tuples = {"channel_mult": given.channel_mult or None}
    tuples["attention_resolutions"] = tuple(heights) if factors else None
    compare({**vars(given), **tuples}, weights)
    usual = given.channel_mult or MULTIPLIERS.get(size, multipliers)
    if usual != multipliers:
        got = f"flag image_size: {size} stands for channel_mult {word(usual)}"
        fix = "expected another size, or the flag channel_mult too"
        raise CheckpointError(f"{got}, but the weights are of {word(multipliers)}; {fix}")
    upsample = given.num_heads_upsample
    if given.num_head_channels < 1 <= upsample and upsample != given.num_heads:
        expected = f"expected num_heads, {given.num_heads}, as all layers have here"
        raise CheckpointError(f"flag num_heads_upsample: got {upsample}, {expected}")


def _process(given: Flags, learned: bool) -> Process:
    """The process and the sampling that the flags ask for."""
    total = given.diffusion_steps or 1000
    if total != 1000 and given.rescale_timesteps is None:
        usual = "it is True in improved-diffusion where it is not given, False in guided-diffusion"
        raise CheckpointError(f"flag rescale_timesteps: is missing; {usual}")
    diffusion = DiffusionConfig(
        schedule=given.noise_schedule or "linear",
        timesteps=total,
        parameterization="x0" if given.predict_xstart else "eps",
        variance="learned" if learned else "small" if given.sigma_small else "large",
        time_scale=1000 / total if given.rescale_timesteps else 1.0,
    )
    steps, spacing = _respacing(given.timestep_respacing, total)
    sampler = "ddim" if given.use_ddim else "ddpm"
    sample = SampleConfig(
        sampler=sampler, steps=steps, spacing=spacing, clip_x0=given.clip_denoised
    )
    return Process(diffusion, sample)


def _respacing(words: str, total: int) -> tuple[int, str]:
    """Our steps and spacing of `250` and of `ddim25`."""
    match = re.fullmatch(r"(ddim)?([1-9][0-9]{0,5})", words or str(total))
    steps = int(match[2]) if match else 0
    if match is None or steps > total or steps == 1 < total or (match[1] and total % steps):
        expected = f"expected one number above 1, or ddimN where N divides {total}"
        raise CheckpointError(f"flag timestep_respacing: got {words}, {expected}; or leave it out")
    return steps, "leading" if match[1] else "uniform"


def _names(network: Network) -> Names:
    """Their names of the layers of a U-Net: all blocks of encoder and decoder are numbered."""
    blocks, modules = network.config.blocks_per_level, dict(network.named_modules())
    places = {
        "stem": "input_blocks.0.0", "time_mlp": "time_embed", "class_embedding": "label_emb",
        "middle1": "middle_block.0", "middle_attention": "middle_block.1",
        "middle2": "middle_block.2", "out_norm": "out.0", "out_conv": "out.2",
    }  # fmt: skip
    for level in range(len(network.config.channel_multipliers)):
        first = level * (blocks + 1)
        for i in range(blocks + 1):
            for part, number in (("block", 0), ("attention", 1)):
                places[f"encoder.{level}.{i}.{part}"] = f"input_blocks.{first + 1 + i}.{number}"
                places[f"decoder.{level}.{i}.{part}"] = f"output_blocks.{first + i}.{number}"
        places[f"down.{level}"] = f"input_blocks.{first + 1 + blocks}.0"
        places[f"down.{level}.conv"] = f"input_blocks.{first + 1 + blocks}.0.op"
        after = 2 if f"decoder.{level}.{blocks}.attention" in modules else 1
        places[f"up.{level}"] = f"output_blocks.{first + blocks}.{after}"
    return Names(by_place(places, INNER), "emb_layers.1", attention_dims=3)


def _reordered(network: Network, tensors: Tensors, to_ours: bool) -> Tensors:
    """Rows of qkv from (head, 3, channel) to (3, head, channel), or back."""
    found = dict(tensors)
    for name, module in network.named_modules():
        if isinstance(module, Attention):
            sizes = (module.heads, 3, -1) if to_ours else (3, module.heads, -1)
            for key in (f"{name}.qkv.weight", f"{name}.qkv.bias"):
                found[key] = found[key].unflatten(0, sizes).transpose(0, 1).flatten(0, 2)
    return found


def write(model: Model, path: Path) -> None:
    """Write a file of weights; ConfigError for a model that `flags_of` refuses."""
    flags_of(model)
    own = _reordered(model.network, model.network.state_dict(), False)
    with replacing(path) as temporary:
        torch.save(_names(model.network).to_theirs(model.network, own), temporary)


def flags_of(model: Model) -> str:
    """The flags of a model, as the scripts take them; ConfigError for one that has none."""
    network = plain(model, "attention_heads", "attention_head_channels", "conditioning", "resample")
    size, diffusion = model.shape.height, model.config.diffusion
    steps = diffusion.timesteps
    scales = {1.0: False, 1000 / steps: True}
    refuse_other(diffusion, {
        "parameterization": ("eps", "x0"), "schedule": ("linear", "cosine"),
        "schedule_options": ({},), "time_scale": tuple(scales),
    })  # fmt: skip
    values = {
        "image_size": size,
        "num_channels": network.base_channels,
        "num_res_blocks": network.blocks_per_level,
        "attention_resolutions": tuple(size // 2**i for i in network.attention_levels) or 1,
        "dropout": network.dropout,
        "class_cond": model.shape.labels > 0,
        "learn_sigma": diffusion.variance == "learned",
        "use_scale_shift_norm": network.conditioning == "scale_shift",
        "diffusion_steps": steps,
        "noise_schedule": diffusion.schedule,
        "predict_xstart": diffusion.parameterization == "x0",
        "rescale_timesteps": scales[diffusion.time_scale],
    }
    if network.channel_multipliers != MULTIPLIERS.get(size):
        values["channel_mult"] = network.channel_multipliers
    if network.attention_head_channels:
        values["num_head_channels"] = network.attention_head_channels
    else:
        values["num_heads"] = network.attention_heads
    if network.resample == "resblock":
        values["resblock_updown"] = True
    if diffusion.variance == "small":
        values["sigma_small"] = True
    return " ".join(f"--{name} {word(value)}" for name, value in values.items())
