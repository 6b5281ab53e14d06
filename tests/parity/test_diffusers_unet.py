"""Ho et al.'s CIFAR-10 network against diffusers' UNet2DModel with the same weights."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DModel

from unnoise.networks.config import Shape
from unnoise.networks.unet import UNet
from unnoise.presets import cifar10

PARTS = {
    "norm1": "norm1",
    "conv1": "conv1",
    "norm2": "norm2",
    "conv2": "conv2",
    "skip": "conv_shortcut",
}


def renamed(theirs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """diffusers' weights under our names; the query, key, value and time projections are joined."""
    ours = {f"stem.{p}": theirs[f"conv_in.{p}"] for p in ("weight", "bias")}
    projections: list[str] = []

    def block(name: str, source: str) -> None:
        for mine, other in PARTS.items():
            for p in ("weight", "bias"):
                if f"{source}.{other}.{p}" in theirs:
                    ours[f"{name}.{mine}.{p}"] = theirs[f"{source}.{other}.{p}"]
        projections.append(f"{source}.time_emb_proj")

    def attention(name: str, source: str) -> None:
        for p in ("weight", "bias"):
            ours[f"{name}.norm.{p}"] = theirs[f"{source}.group_norm.{p}"]
            qkv = torch.cat([theirs[f"{source}.to_{part}.{p}"] for part in "qkv"])
            out = theirs[f"{source}.to_out.0.{p}"]
            ours[f"{name}.qkv.{p}"] = qkv[..., None, None] if p == "weight" else qkv
            ours[f"{name}.out.{p}"] = out[..., None, None] if p == "weight" else out

    for side, count in (("down", 2), ("mid", 0), ("up", 3)):
        if side == "mid":
            block("middle1", "mid_block.resnets.0")
            attention("middle_attention", "mid_block.attentions.0")
            block("middle2", "mid_block.resnets.1")
            continue
        mine, sampler = ("encoder", "downsamplers") if side == "down" else ("decoder", "upsamplers")
        for level in range(4):
            for i in range(count):
                block(f"{mine}.{level}.{i}.block", f"{side}_blocks.{level}.resnets.{i}")
                if f"{side}_blocks.{level}.attentions.{i}.to_q.weight" in theirs:
                    attention(
                        f"{mine}.{level}.{i}.attention", f"{side}_blocks.{level}.attentions.{i}"
                    )
            for p in ("weight", "bias"):
                if level < 3:
                    ours[f"{side}.{level}.conv.{p}"] = theirs[
                        f"{side}_blocks.{level}.{sampler}.0.conv.{p}"
                    ]
    for p in ("weight", "bias"):
        ours[f"time_mlp.0.{p}"] = theirs[f"time_embedding.linear_1.{p}"]
        ours[f"time_mlp.2.{p}"] = theirs[f"time_embedding.linear_2.{p}"]
        ours[f"out_norm.{p}"] = theirs[f"conv_norm_out.{p}"]
        ours[f"out_conv.{p}"] = theirs[f"conv_out.{p}"]
        ours[f"time_projection.{p}"] = torch.cat(
            [theirs[f"{source}.{p}"] for source in projections]
        )
    return ours


@pytest.mark.parametrize("size", [(32, 32), (16, 48)])
def test_same_outputs(size):
    down, up = ["DownBlock2D"] * 4, ["UpBlock2D"] * 4
    down[1], up[2] = "AttnDownBlock2D", "AttnUpBlock2D"
    torch.manual_seed(0)
    theirs = UNet2DModel(
        sample_size=32, in_channels=3, out_channels=3, block_out_channels=(128, 256, 256, 256),
        layers_per_block=2, down_block_types=tuple(down), up_block_types=tuple(up),
        downsample_padding=0, flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-6,
        attention_head_dim=None,
    ).eval()  # fmt: skip
    ours = UNet(cifar10().network, Shape(3, 32, 32), 3).eval()
    ours.load_state_dict(renamed(theirs.state_dict()))
    x, time = torch.randn(2, 3, *size), torch.tensor([0.0, 731.0])
    with torch.inference_mode():
        torch.testing.assert_close(ours(x, time), theirs(x, time).sample, rtol=1e-5, atol=1e-5)
