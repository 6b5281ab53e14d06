"""The subjects, by name: ours, and one file per peer."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.speed.subjects import (
    diffusers,
    edm,
    improved_diffusion,
    lucidrains,
    ours,
    tqch,
    w86,
)
from benchmarks.speed.subjects.subject import Parts, Setting

OURS = "unnoise"
SUBJECTS: dict[str, Callable[[Setting], Parts]] = {
    OURS: ours.build,
    "unnoise fp32": ours.build_fp32,
    "diffusers": diffusers.build,
    "improved-diffusion": improved_diffusion.build,
    "pytorch-ddpm": w86.build,
    "ddpm-torch": tqch.build,
    "edm": edm.build,
    "lucidrains": lucidrains.build,
}
"""Name -> builder; a builder imports its peer when called, in the subject's own process."""

SAME_NETWORK = (
    OURS,
    "unnoise fp32",
    "diffusers",
    "improved-diffusion",
    "pytorch-ddpm",
    "ddpm-torch",
)
"""Those whose network is Ho et al.'s, layer by layer; the others are each project's nearest."""


def build(setting: Setting) -> Parts:
    """A subject at a setting; Missing where the peer is not on this machine."""
    return SUBJECTS[setting.subject](setting)
