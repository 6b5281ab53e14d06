"""Hugging Face diffusers: folders of a DDPMPipeline or DDIMPipeline, and of a UNet2DModel alone.

Nothing of diffusers is imported.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from unnoise.checkpoint import Tensors, save_tensors
from unnoise.errors import CheckpointError, ConfigError
from unnoise.files import NEAR_BYTES, read_json, replacing
from unnoise.formats.diffusers_settings import (
    Ours,
    UNet2DModel,
    network_and_shape,
    process_of,
    scheduler_of,
    unet_of,
)
from unnoise.formats.imported import Imported, read_config, read_tensors
from unnoise.formats.renames import Names
from unnoise.model import Model
from unnoise.networks.network import Network
from unnoise.reading import typed

RENAMES = (
    (r"^stem\b", "conv_in"),
    (r"^time_mlp\.0\b", "time_embedding.linear_1"),
    (r"^time_mlp\.2\b", "time_embedding.linear_2"),
    (r"^encoder\.(\d+)\.(\d+)\.block\b", r"down_blocks.\1.resnets.\2"),
    (r"^encoder\.(\d+)\.(\d+)\.attention\b", r"down_blocks.\1.attentions.\2"),
    (r"^down\.(\d+)\.", r"down_blocks.\1.downsamplers.0."),
    (r"^middle1\b", "mid_block.resnets.0"),
    (r"^middle_attention\b", "mid_block.attentions.0"),
    (r"^middle2\b", "mid_block.resnets.1"),
    (r"^decoder\.(\d+)\.(\d+)\.block\b", r"up_blocks.\1.resnets.\2"),
    (r"^decoder\.(\d+)\.(\d+)\.attention\b", r"up_blocks.\1.attentions.\2"),
    (r"^up\.(\d+)\.", r"up_blocks.\1.upsamplers.0."),
    (r"^out_norm\b", "conv_norm_out"),
    (r"^out_conv\b", "conv_out"),
    (r"\.skip\b", ".conv_shortcut"),
    (r"(attentions\.\d+)\.norm\b", r"\1.group_norm"),
    (r"(attentions\.\d+)\.out\b", r"\1.to_out.0"),
)
"""Our names -> diffusers'. `Names` adds the two kinds of tensors that unnoise joins."""
OLD = (
    (r"(attentions\.\d+)\.(query|key|value)\.", lambda m: f"{m[1]}.to_{m[2][0]}."),
    (r"(attentions\.\d+)\.proj_attn\.", r"\1.to_out.0."),
)
"""Attention's names before diffusers 0.15 -> later ones."""
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")


def recognises(path: Path) -> bool:
    """Whether a path is a folder of a pipeline or of a model of diffusers."""
    config = path / "config.json"
    if (path / "model_index.json").is_file() or not config.is_file():
        return (path / "model_index.json").is_file()
    with config.open("rb") as file:
        return b'"_class_name"' in file.read(NEAR_BYTES)


def read(path: Path, _flags: str | None = None) -> Imported:
    """Read a pipeline's folder, an old one whose files lie side by side, or a UNet2DModel's."""
    index = path / "model_index.json"
    others = {name for name in read_json(index) if name[:1] != "_"} if index.is_file() else set()
    if more := sorted(others - {"unet", "scheduler"}):
        raise CheckpointError(f"{index}: got {more[0]}, expected only a unet and a scheduler")
    folder = path / "unet" if (path / "unet").is_dir() else path
    file = folder / "config.json"
    unet, private = read_config(UNet2DModel, file, ("UNet2DModel",))
    try:
        ours = typed(Ours, private.get("_unnoise", {}), "_unnoise")
        network, shape = network_and_shape(unet, ours.get("null_label", False))
    except ConfigError as error:
        raise CheckpointError(f"{file}: {error}") from error
    names = ours.get("class_names", ())
    if names and len(names) != shape.num_classes:
        raise CheckpointError(f"{file}: names {len(names)} classes of {shape.num_classes}")
    process, notes = process_of(path, unet)
    found = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise CheckpointError(f"{folder}: has no {' and no '.join(WEIGHTS)}")
    swapped = unet.flip_sin_to_cos != (network.frequencies == "iddpm")

    def renamed(network: Network, tensors: Tensors) -> Tensors:
        return _ours(network, tensors, swapped)

    return Imported(network, shape, process, read_tensors(found), renamed, names, notes)


def _theirs(name: str) -> str:
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


NAMES = Names(_theirs, "time_emb_proj", ("to_q", "to_k", "to_v"), attention_dims=2)


def _ours(network: Network, tensors: Tensors, swapped: bool) -> Tensors:
    """diffusers' tensors under our names; `swapped` where its cosines and sines change places."""
    theirs: Tensors = {}
    for name, value in tensors.items():
        for pattern, replacement in OLD:
            name = re.sub(pattern, replacement, name)
        theirs[name] = value
    found = NAMES.to_ours(network, theirs)
    if swapped:
        first = found["time_mlp.0.weight"]
        found["time_mlp.0.weight"] = first.roll(first.shape[1] // 2, dims=1)
    return found


def write(model: Model, path: Path) -> None:
    """Write a pipeline's folder; ConfigError for what UNet2DModel and its schedulers cannot be."""
    unet, (kind, scheduler) = unet_of(model), scheduler_of(model)
    tensors = NAMES.to_theirs(model.network, model.network.state_dict())
    index = {"_class_name": kind.replace("Scheduler", "Pipeline")}
    index |= {"scheduler": ["diffusers", kind], "unet": ["diffusers", "UNet2DModel"]}
    files = {
        "model_index.json": index,
        "scheduler/scheduler_config.json": {"_class_name": kind, **scheduler},
        "unet/config.json": {"_class_name": "UNet2DModel", **unet},
    }
    with replacing(path) as folder:
        for name, values in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(json.dumps(values, indent=2) + "\n")
        save_tensors(tensors, folder / "unet" / WEIGHTS[0], {"format": "pt"})
