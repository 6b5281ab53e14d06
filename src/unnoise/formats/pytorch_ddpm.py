"""w86763777's pytorch-ddpm: ckpt.pt with a U-Net and its average, and flagfile.txt beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from unnoise.checkpoint import Tensors
from unnoise.config import DiffusionConfig, SampleConfig
from unnoise.errors import CheckpointError, ConfigError
from unnoise.files import replacing
from unnoise.formats.diffusers_settings import USUAL, Beta
from unnoise.formats.flags import compare, read_flags
from unnoise.formats.imported import (
    Imported,
    Process,
    is_tensors,
    mentions,
    read_pickle,
    read_tensors,
)
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
from unnoise.networks.layers import sinusoidal_embedding
from unnoise.networks.network import Network
from unnoise.ranges import Few, Range, Steps, Width

FILE = "ckpt.pt"
TABLE = "time_embedding.timembedding.0.weight"
INNER = {
    "norm1": "block1.0", "conv1": "block1.2", "norm2": "block2.0", "conv2": "block2.3",
    "skip": "shortcut", "norm": "group_norm", "out": "proj", "conv": "main",
}  # fmt: skip
"""The layers of a block and of an attention."""
OTHERS = (
    "train", "eval", "lr", "grad_clip", "total_steps", "warmup", "batch_size", "num_workers",
    "ema_decay", "parallel", "logdir", "sample_size", "sample_step", "save_step", "eval_step",
    "num_images", "fid_use_torch", "fid_cache", "flagfile",
)  # fmt: skip
"""Flags that do not change what the model is."""
VARIANCES = {"fixedlarge": "large", "fixedsmall": "small"}


@dataclass(frozen=True)
class Flags:
    """The flags that say what a model is; those that weights say too are None or empty."""

    T: Steps | None = None
    ch: Width | None = None
    ch_mult: tuple[Few, ...] = ()
    attn: tuple[int, ...] = ()
    num_res_blocks: Few | None = None
    img_size: Width | None = None
    dropout: Annotated[float, Range(least=0, below=1)] = 0.1
    beta_1: Beta = 1e-4
    beta_T: Beta = 0.02
    mean_type: Literal["epsilon"] = "epsilon"
    var_type: Literal["fixedlarge", "fixedsmall"] = "fixedlarge"


def recognises(path: Path) -> bool:
    """Whether a path is a file of weights with names as theirs, or the folder of such a file."""
    return mentions(path / FILE if path.is_dir() else path, TABLE)


def read(path: Path, flags: str | None) -> Imported:
    """Read the averaged weights of ckpt.pt, with the flags of flagfile.txt or those given."""
    path = path / FILE if path.is_dir() else path
    beside = path.parent / "flagfile.txt"
    saved = read_tensors(path) if path.suffix == ".safetensors" else read_pickle(path)
    saved = saved if isinstance(saved, dict) else {}
    tensors = saved.get("ema_model", saved.get("net_model", saved))
    if not is_tensors(tensors):
        raise CheckpointError(f"{path}: expected tensors by name, as ema_model")
    noise, notes = saved.get("x_T"), ()
    if flags is not None:
        given = read_flags(Flags, flags, OTHERS)
    elif beside.is_file():
        given = read_flags(Flags, beside.read_text(errors="replace"), None, f"{beside}: flag")
    else:
        said = "betas from 0.0001 to 0.02 and var_type fixedlarge, as the original does"
        given, notes = Flags(), (f"{path}: no flagfile.txt beside it; assumes {said}",)
    try:
        if isinstance(noise, Tensor) and noise.ndim == 4:
            compare({"img_size": given.img_size}, {"img_size": noise.shape[3]})
            given = replace(given, img_size=noise.shape[3])
        network = _network(tensors, given)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    size, steps = given.img_size or 0, len(tensors[TABLE])
    shape = Shape(rows(tensors, "head.weight", 1), size, size)
    betas = {"beta_start": given.beta_1 * steps / 1000, "beta_end": given.beta_T * steps / 1000}
    diffusion = DiffusionConfig(
        schedule="linear",
        schedule_options={key: value for key, value in betas.items() if value != USUAL[key]},
        timesteps=steps,
        variance=VARIANCES[given.var_type],
    )
    sample = SampleConfig(sampler="ddpm", steps=steps, spacing="uniform", clip_x0=False)
    return Imported(network, shape, Process(diffusion, sample), tensors, _ours, (), notes)


def _network(tensors: Tensors, given: Flags) -> UNetConfig:
    """The network that the weights say; CheckpointError where flags differ."""
    steps, base = (rows(tensors, TABLE, axis) for axis in (0, 1))
    if base % 2 or not torch.allclose(tensors[TABLE].float(), _table(steps, base), atol=1e-3):
        raise CheckpointError(f"{TABLE} holds other times than the original's")
    names = [f"upblocks.{i}" for i in stage_numbers(tensors, "upblocks")]
    ends = [f"{name}.main.weight" in tensors for name in names]
    stages = [
        Stage(rows(tensors, f"{name}.block2.3.weight"), f"{name}.attn.proj.weight" in tensors, last)
        for name, end, last in zip(names, ends, [*ends, False][1:], strict=True)
        if not end
    ]
    said = levels(stages, base)
    weights = {"T": steps, "ch": base, "num_res_blocks": said["blocks_per_level"]}
    weights |= {"ch_mult": said["channel_multipliers"], "attn": said["attention_levels"]}
    attn = tuple(sorted(level for level in given.attn if level >= 0)) if given.attn else None
    compare({**vars(given), "ch_mult": given.ch_mult or None, "attn": attn}, weights)
    return UNetConfig(**said, dropout=given.dropout)


def _table(steps: int, channels: int) -> Tensor:
    """Their table of times: sine and cosine of each frequency side by side."""
    cosines, sines = sinusoidal_embedding(torch.arange(float(steps)), channels, "iddpm").chunk(2, 1)
    return torch.stack((sines, cosines), dim=2).flatten(1)


def _names(network: Network) -> Names:
    """Their names of the layers of a U-Net: all of encoder and decoder are numbered."""
    blocks = network.config.blocks_per_level
    places = {
        "stem": "head", "time_mlp.0": "time_embedding.timembedding.1", "middle1": "middleblocks.0",
        "time_mlp.2": "time_embedding.timembedding.3", "middle_attention": "middleblocks.0.attn",
        "middle2": "middleblocks.1", "out_norm": "tail.0", "out_conv": "tail.2",
    }  # fmt: skip
    for level in range(len(network.config.channel_multipliers)):
        for i in range(blocks + 1):
            down = f"downblocks.{level * (blocks + 1) + i}"
            up = f"upblocks.{level * (blocks + 2) + i}"
            places |= {f"encoder.{level}.{i}.block": down, f"decoder.{level}.{i}.block": up}
            places[f"encoder.{level}.{i}.attention"] = f"{down}.attn"
            places[f"decoder.{level}.{i}.attention"] = f"{up}.attn"
        places[f"down.{level}"] = f"downblocks.{level * (blocks + 1) + blocks}"
        places[f"up.{level}"] = f"upblocks.{level * (blocks + 2) + blocks + 1}"
    return Names(by_place(places, INNER), "temb_proj.1", ("proj_q", "proj_k", "proj_v"))


def _ours(network: Network, tensors: Tensors) -> Tensors:
    """Their tensors under our names: their time embedding is sine, cosine, sine, .."""
    rest = {name: value for name, value in tensors.items() if name != TABLE}
    found = _names(network).to_ours(network, rest)
    columns = found["time_mlp.0.weight"].unflatten(1, (-1, 2)).flip(2)
    return {**found, "time_mlp.0.weight": columns.transpose(1, 2).flatten(1)}


def write(model: Model, path: Path) -> None:
    """Write a folder of ckpt.pt and flagfile.txt; ConfigError for what they cannot be."""
    flags, own = _flags(model), model.network.state_dict()
    first = own["time_mlp.0.weight"]
    own["time_mlp.0.weight"] = first.unflatten(1, (2, -1)).flip(1).transpose(1, 2).flatten(1)
    tensors = _names(model.network).to_theirs(model.network, own)
    tensors[TABLE] = _table(model.config.diffusion.timesteps, first.shape[1])
    with replacing(path) as folder:
        folder.mkdir()
        torch.save({"net_model": tensors, "ema_model": tensors}, folder / FILE)
        lines = [*flags, f"--logdir={path}"]
        (folder / "flagfile.txt").write_text("".join(f"{line}\n" for line in lines))


def _flags(model: Model) -> list[str]:
    """The lines of flagfile.txt; ConfigError for a model that has none."""
    network, shape, diffusion = plain(model), model.shape, model.config.diffusion
    variances = {ours: theirs for theirs, ours in VARIANCES.items()}
    options, factor = diffusion.schedule_options, 1000 / diffusion.timesteps
    if (shape.channels, shape.num_classes) != (3, 0):
        got = f"{shape.channels} channels and {shape.num_classes} classes"
        raise ConfigError(
            f"images of {got}; expected 3 channels and no classes, as this format has"
        )
    refuse_other(diffusion, {
        "schedule": ("linear",), "parameterization": ("eps",), "variance": tuple(variances),
        "time_scale": (1.0,),
        "schedule_options": ({k: v for k, v in options.items() if k[:5] == "beta_"},),
    })  # fmt: skip
    values: list[tuple[str, Any]] = [
        ("T", diffusion.timesteps),
        ("ch", network.base_channels),
        *(("ch_mult", multiplier) for multiplier in network.channel_multipliers),
        *(("attn", level) for level in network.attention_levels or (-1,)),
        ("num_res_blocks", network.blocks_per_level),
        ("dropout", network.dropout),
        ("beta_1", options.get("beta_start", 1e-4) * factor),
        ("beta_T", options.get("beta_end", 0.02) * factor),
        ("var_type", variances[diffusion.variance]),
        ("img_size", shape.height),
    ]
    return [f"--{name}={value}" for name, value in values]
