"""The tensors of unnoise's U-Net under another package's names, and back.

Our U-Net joins what others keep apart: all blocks' projections of the time embedding in one matrix,
and often query, key and value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch

from unnoise.checkpoint import Tensors
from unnoise.config import DiffusionConfig
from unnoise.errors import CheckpointError, ConfigError
from unnoise.formats.imported import take
from unnoise.model import Model
from unnoise.networks.config import UNetConfig
from unnoise.networks.layers import ResBlock
from unnoise.networks.network import Network


@dataclass(frozen=True)
class Names:
    """How another package names the tensors of a U-Net."""

    of: Callable[[str], str]
    """Our layer -> theirs; an attention's joined layer ends in ".qkv"."""
    projection: str
    """What a block's name is followed by in its own projection of the time embedding."""
    qkv: tuple[str, ...] = ("qkv",)
    """The layers that are joined in an attention's qkv, in place of that word."""
    attention_dims: int = 4
    """Dimensions of attention's weights: 4 for a convolution of one pixel, 2 for a matrix."""

    def parts(self, network: Network) -> dict[str, list[tuple[str, tuple[int, ...]]]]:
        """Our tensor -> name and shape of the tensors that are joined in it."""
        modules = network.named_modules()
        blocks = [(name, m.embedding_channels) for name, m in modules if isinstance(m, ResBlock)]
        found: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
        for key, value in network.state_dict().items():
            module, _, part = key.rpartition(".")
            rows, *rest = value.shape
            if module == "time_projection":
                layers = [(f"{self.of(block)}.{self.projection}", n) for block, n in blocks]
            elif module.endswith("attention.qkv"):
                layer, n = self.of(module).removesuffix("qkv"), rows // len(self.qkv)
                layers = [(f"{layer}{each}", n) for each in self.qkv]
            else:
                layers = [(self.of(module), rows)]
            rest = rest[: self.attention_dims - 1] if "attention" in module else rest
            found[key] = [(f"{name}.{part}", (n, *rest)) for name, n in layers]
        return found

    def to_ours(self, network: Network, tensors: Tensors) -> Tensors:
        """All tensors under our names; CheckpointError for one that is missing or left."""
        own, rest, found = network.state_dict(), dict(tensors), {}
        for key, parts in self.parts(network).items():
            whole = torch.cat([take(rest, name, shape) for name, shape in parts])
            found[key] = whole.reshape(own[key].shape)
        if rest:
            raise CheckpointError(f"has {min(rest)}, which this network does not use")
        return found

    def to_theirs(self, network: Network, own: Tensors) -> Tensors:
        """Our tensors under their names, on the CPU."""
        found: Tensors = {}
        for key, parts in self.parts(network).items():
            rows = own[key].detach().cpu().split([shape[0] for _, shape in parts])
            for value, (name, shape) in zip(rows, parts, strict=True):
                found[name] = value.reshape(shape).clone()
        return found


class Stage(NamedTuple):
    """A block of another package's decoder, as its weights say it."""

    width: int
    attends: bool
    last: bool
    """Whether upsampling follows."""


def by_place(places: Mapping[str, str], inner: Mapping[str, str]) -> Callable[[str], str]:
    """A renaming: of our modules at their places, and of the layers in them."""

    def of(name: str) -> str:
        place, _, layer = name.rpartition(".")
        return places.get(name) or f"{places[place]}.{inner.get(layer, layer)}"

    return of


def levels(stages: Sequence[Stage], base: int) -> dict[str, Any]:
    """A U-Net's levels, as UNetConfig says them, by all blocks of a decoder in order."""
    if not stages:
        raise CheckpointError("has no blocks of a decoder; the file is of another network")
    blocks = next((i for i, stage in enumerate(stages) if stage.last), len(stages) - 1)
    found = stages[:: blocks + 1][::-1]
    widths = [stage.width for stage in found]
    if any(width % base for width in widths):
        raise CheckpointError(f"its levels have {widths} channels, expected multiples of {base}")
    return {
        "base_channels": base,
        "channel_multipliers": tuple(width // base for width in widths),
        "blocks_per_level": blocks,
        "attention_levels": tuple(i for i, stage in enumerate(found) if stage.attends),
        "frequencies": "iddpm",
    }


def stage_numbers(tensors: Tensors, name: str) -> range:
    """The numbers of a list of modules."""
    found = {match[1] for key in tensors if (match := re.match(rf"{name}\.(\d+)\.", key))}
    return range(len(found))


def rows(tensors: Tensors, name: str, axis: int = 0) -> int:
    """The size of a tensor along an axis; CheckpointError where it has none or 0."""
    value = tensors.get(name)
    if value is None or value.ndim <= axis or not value.shape[axis]:
        got = "is missing" if value is None else f"is {tuple(value.shape)}"
        raise CheckpointError(f"{name} {got}; the file is of another network")
    return value.shape[axis]


def plain(model: Model, *kept: str) -> UNetConfig:
    """The network of a model, if `levels` and these settings say all of it; else a ConfigError."""
    own, shape = model.config.network, model.shape
    if not isinstance(own, UNetConfig):
        raise ConfigError(f"network.kind: got {own.kind}, expected unet, as this format has")
    own = replace(
        own,
        attention_levels=tuple(sorted(own.attention(shape.height))),
        attention_sizes=(),
        time_hidden=own.time_hidden or 4 * own.base_channels,
        time_channels=own.time_channels or 4 * own.base_channels,
    )
    kept = (
        "base_channels", "channel_multipliers", "blocks_per_level", "attention_levels", "dropout",
        *kept,
    )  # fmt: skip
    hidden = 4 * own.base_channels
    can = UNetConfig(
        **{name: getattr(own, name) for name in kept},
        frequencies="iddpm", time_hidden=hidden, time_channels=hidden,
    )  # fmt: skip
    wanted = {each.name: getattr(can, each.name) for each in fields(can)}
    own.require([(getattr(own, k) == v, k, f"{v}, as this format has") for k, v in wanted.items()])
    most = 2 ** (len(own.channel_multipliers) - 1)
    if shape.height != shape.width or shape.height % most:
        got = f"images are {shape.height}x{shape.width}"
        raise ConfigError(f"{got}, expected squares whose sides are multiples of {most}")
    return own


def refuse_other(diffusion: DiffusionConfig, expected: Mapping[str, tuple[Any, ...]]) -> None:
    """ConfigError for the first setting that is none of those that a format has."""
    for name, values in expected.items():
        if (got := getattr(diffusion, name)) not in values:
            words = " or ".join(map(str, values))
            raise ConfigError(f"diffusion.{name}: got {got}, expected {words}, as this format has")
