from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

import unnoise
from unnoise import build, cli
from unnoise.config import RunConfig, override, to_dict
from unnoise.diffusion.samplers.step import Step
from unnoise.model import Model, last


def exact(model: Model) -> Model:
    """The model as fp32 computes it, whatever the machine prefers."""
    config = override(model.config, {"train.precision": "fp32", "device": "cpu"})
    return Model(model.network, config, model.record)


NETWORKS = {
    "unet": {"base_channels": 8, "channel_multipliers": (1, 2), "blocks_per_level": 1,
             "attention_levels": (), "norm_groups": 2, "attention_heads": 1},
    "dit": {"patch_size": 2, "width": 16, "depth": 1, "heads": 2},
    "lucidrains": {"base_channels": 8, "channel_multipliers": (1, 2), "attention_heads": 2},
}  # fmt: skip


def tiny(kind: str = "unet", **diffusion: object) -> Model:
    """A small network with random weights, none of which is 0; a U-Net has classes."""
    changes = {f"network.{key}": value for key, value in NETWORKS[kind].items()}
    changes |= {f"diffusion.{key}": value for key, value in diffusion.items()}
    changes |= {"sample.sampler": "heun", "sample.steps": 4, "sample.spacing": "karras"}
    changes |= {"sample.guidance_interval": (0.3, 3.0), "sample.guidance_scale": 2.0}
    changes |= {"network.kind": kind, "train.precision": "fp32", "device": "cpu"}
    config = override(RunConfig(), changes)
    shape = build.Shape(3, 8, 6, 3 if kind == "unet" else 0)
    net = build.network(config, shape)
    generator = torch.Generator().manual_seed(1)
    for p in net.parameters():
        p.data += 0.05 * torch.randn(p.shape, generator=generator)
    record = {"config": to_dict(config), "shape": dataclasses.asdict(shape)}
    return Model(net, config, record)


def floats(model: Model, count: int, **settings: object) -> torch.Tensor:
    """The command line's pictures of the first seeds before they are rounded."""
    step: Step = last(model.steps(range(count), **settings))
    return step.x


@pytest.fixture(scope="session")
def digits() -> Model:
    return exact(unnoise.load("digits", "cpu"))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`unnoise export digits --to onnx`."""
    pytest.importorskip("onnxscript", reason="needs the extra: pip install 'unnoise[onnx]'")
    path = tmp_path_factory.mktemp("onnx") / "folder"
    assert cli.main(["export", "digits", "--to", "onnx", "--out", str(path)]) == 0
    return path
