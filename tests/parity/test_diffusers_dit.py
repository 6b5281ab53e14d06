"""The DiT against diffusers' DiTTransformer2DModel with the same weights."""

from __future__ import annotations

import pytest
import torch
from diffusers import DiTTransformer2DModel
from tests.networks.helpers import random_weights
from torch import Tensor

from unnoise.networks.config import DiTConfig, Shape
from unnoise.networks.dit import DiT


def renamed(theirs: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """diffusers' weights under our names; ours has all projections of the embedding in one matrix.

    diffusers keeps a copy of the embedding in each block and uses that of the first in the head.
    """
    first = "transformer_blocks.0.norm1.emb"
    ours = {"class_embedding.weight": theirs[f"{first}.class_embedder.embedding_table.weight"]}
    for p in ("weight", "bias"):
        ours[f"time_mlp.0.{p}"] = theirs[f"{first}.timestep_embedder.linear_1.{p}"]
        ours[f"time_mlp.2.{p}"] = theirs[f"{first}.timestep_embedder.linear_2.{p}"]
        ours[f"patches.{p}"] = theirs[f"pos_embed.proj.{p}"]
        ours[f"head.{p}"] = theirs[f"proj_out_2.{p}"]
        projections = []
        for i in range(depth):
            block = f"transformer_blocks.{i}"
            projections.append(theirs[f"{block}.norm1.linear.{p}"])
            qkv = [theirs[f"{block}.attn1.to_{part}.{p}"] for part in "qkv"]
            ours[f"transformer.{i}.qkv.{p}"] = torch.cat(qkv)
            ours[f"transformer.{i}.out.{p}"] = theirs[f"{block}.attn1.to_out.0.{p}"]
            ours[f"transformer.{i}.mlp.0.{p}"] = theirs[f"{block}.ff.net.0.proj.{p}"]
            ours[f"transformer.{i}.mlp.2.{p}"] = theirs[f"{block}.ff.net.2.{p}"]
        ours[f"modulation.{p}"] = torch.cat([*projections, theirs[f"proj_out_1.{p}"]])
    return ours


@pytest.mark.parametrize(("patch", "outputs"), [(2, 6), (4, 3)])
def test_same_outputs(patch, outputs):
    theirs = random_weights(
        DiTTransformer2DModel(
            num_attention_heads=4, attention_head_dim=12, in_channels=3, out_channels=outputs,
            num_layers=3, sample_size=16, patch_size=patch, num_embeds_ada_norm=10, norm_eps=1e-6,
        )
    )  # fmt: skip
    for block in theirs.transformer_blocks:
        block.norm1.emb.load_state_dict(theirs.transformer_blocks[0].norm1.emb.state_dict())
        block.norm1.emb.time_proj.downscale_freq_shift = 0  # as the paper's code; diffusers has 1
    ours = DiT(DiTConfig(patch, 48, 3, 4), Shape(3, 16, 16, 10), outputs).eval()
    ours.load_state_dict(renamed(theirs.state_dict(), 3))
    x, time, label = (
        torch.randn(4, 3, 16, 16),
        torch.tensor([0.0, 3, 500, 999]),
        torch.arange(7, 11),
    )
    with torch.inference_mode():
        expected = theirs(x, time.long(), label).sample
        torch.testing.assert_close(ours(x, time, label), expected, rtol=1e-4, atol=1e-5)
        assert expected.std() > 0.05
