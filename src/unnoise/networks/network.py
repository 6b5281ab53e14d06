"""What training, sampling and memory ask of a network, with answers that fit most."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from unnoise.networks.config import Shape
from unnoise.networks.layers import Upsample


class Network(nn.Module):
    """A network of images: `forward(x, time, label)` maps (b, c, h, w) to (b, out_channels, h, w).

    A subclass is built as `Subclass(config, shape, out_channels)`, where `config` is its kind's
    NetworkConfig and `shape` the data's Shape. `time` is (b,), from 0 (data) to 1000 (noise).
    `label` is (b,), with shape.num_classes for "no label", or None for no label at all.
    """

    config: Any

    def add_embeddings(
        self, inputs: int, hidden: int, channels: int, shape: Shape, of_class: int | None = None
    ) -> None:
        """Make the layers of `time_and_class`; no classes, no class embedding.

        A class has `of_class` channels, by default those of the result.
        """
        first, last = nn.Linear(inputs, hidden), nn.Linear(hidden, channels)
        self.time_mlp = nn.Sequential(first, nn.SiLU(), last)
        known = nn.Embedding(shape.labels, of_class or channels) if shape.labels else None
        self.class_embedding = known
        self._null = shape.num_classes if shape.null_label else None

    def time_and_class(
        self, sinusoids: Float[Tensor, "b c"], label: Int[Tensor, " b"] | None
    ) -> Float[Tensor, "b e"]:
        """SiLU of the sum of both embeddings; no label is the class embedding's last row."""
        embedding = self.time_mlp(sinusoids.to(next(self.time_mlp.parameters()).dtype))
        if self.class_embedding is not None:
            embedding = embedding + self.class_embedding(self.known(label, sinusoids))
        return F.silu(embedding)

    def known(self, label: Int[Tensor, " b"] | None, batch: Tensor) -> Int[Tensor, " b"]:
        """The labels of a batch, where no label is the class embedding's last row."""
        if label is not None:
            return label
        if self._null is None:
            raise ValueError("label: got None, but this network was trained with labels")
        return torch.full((len(batch),), self._null, device=batch.device)

    def hidden_matrices(self) -> list[nn.Parameter]:
        """The weights that Muon moves, by default all matrices inside; AdamW moves the others."""
        embeddings = [module for module in self.modules() if isinstance(module, nn.Embedding)]
        return self.matrices_except(*embeddings)[1:-1]

    def blocks(self) -> list[nn.Module]:
        """The parts whose parameters FSDP gathers one part at a time; by default, no parts."""
        return []

    def widest_bytes(self, height: int, width: int, attention_in_memory: bool) -> int:
        """Bytes, as float32, of the largest tensor that one image of this size needs in a call.

        `attention_in_memory`: attention weights are stored, as on a CPU. The default is a feature
        map of full size with the channels of the widest weight.
        """
        return 4 * height * width * max(p.shape[0] for p in self.parameters() if p.ndim >= 2)

    def matrices_except(self, *modules: nn.Module | None) -> list[nn.Parameter]:
        """All weights of two or more dimensions but those of some modules, in order."""
        others = {id(p) for module in modules if module is not None for p in module.parameters()}
        return [p for p in self.parameters() if p.ndim >= 2 and id(p) not in others]


def cast_weights(network: nn.Module, dtype: torch.dtype, channels_last: bool = False) -> nn.Module:
    """A copy whose convolutions and matrices hold their weights in `dtype`, for sampling.

    Autocast would round them at every call. Under autocast to `dtype`, the copy's outputs are the
    network's own, bit for bit (in another memory format to rounding).
    """
    network = copy.deepcopy(network)
    if channels_last:
        network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    for module in network.modules():
        if isinstance(module, Upsample):
            module.prepare(dtype)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            module.to(dtype)
    return network
