"""NETWORKS: the classes of networks by kind."""

from __future__ import annotations

from unnoise.networks.dit import DiT
from unnoise.networks.lucidrains import Lucidrains
from unnoise.networks.network import Network
from unnoise.networks.song_unet import SongUNet
from unnoise.networks.unet import UNet

NETWORKS: dict[str, type[Network]] = {
    "unet": UNet,
    "dit": DiT,
    "lucidrains": Lucidrains,
    "song_unet": SongUNet,
}
"""Kind -> class, built as `NETWORKS[kind](config, shape, out_channels)`."""
