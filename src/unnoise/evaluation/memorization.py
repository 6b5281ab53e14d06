"""Whether samples are copies of training images.

Three answers, each next to the same one for held-out images, which nobody copied. d_i is the
distance to the i-th nearest training image; in pixels, or to its mirror image where that is nearer,
as the root mean square in grey levels of 255.

- Copies: d_1 <= 1 grey level, or d_1 <= 0.2 of the mean of d_1..d_50. The ratio is alpha times the
  adaptive distance of Carlini et al. 2023 (section 5, n = 50, alpha = 0.5): a blank sky is near to
  many, a copy to one alone.
- Near copies: Carlini's distance under 1, a ratio under 0.5. Real data has such pairs too: look at
  the excess.
- Closer: the chance that a sample is nearer to the training set than a held-out image is; 1/2 if it
  is as new. C_T is its Mann-Whitney z (Meehan, Chaudhuri & Dasgupta 2020, with one cell): far below
  0 is data-copying, far above 0 says that samples are unlike the data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from unnoise.data.images import grid, save_png, side_by_side
from unnoise.evaluation.neighbours import nearest, rows_of
from unnoise.evaluation.store import Features

GREY_LEVELS, RATIO = 1.0, 0.2
"""A copy is at most this far off, or at most this share of the mean distance to its neighbours."""
NEIGHBOURS = 50
"""At most: of a training set of fewer than 500 a tenth, 4 at least, as 50 of 60 say nothing."""
NEAR_COPY = 0.5
"""The ratio at which Carlini's distance is 1: their alpha."""
SHOWN = 4
"""Nearest training images in the picture."""
LISTED = 20
"""Closest pairs in the record, copies or not."""
UNITS = {"pixels": " grey levels", "features": ""}


class Neighbours(NamedTuple):
    """The nearest training images of some images, each training image once, nearest first."""

    distances: Float[Tensor, "n k"]
    indices: Int64[Tensor, "n k"]
    flipped: Bool[Tensor, "n k"]
    """The mirrored training image is nearer than the image itself."""

    @property
    def ratios(self) -> Float[Tensor, " n"]:
        """Distance to the nearest over the mean to all k; 0 at distance 0."""
        first = self.distances[:, 0]
        return torch.where(first == 0, 0, first / self.distances.mean(1))

    @property
    def near_copies(self) -> float:
        """Share of near copies."""
        return float((self.ratios < NEAR_COPY).double().mean())

    @property
    def copied(self) -> list[bool]:
        """Whether each image is a copy."""
        return ((self.distances[:, 0] <= GREY_LEVELS) | (self.ratios <= RATIO)).tolist()


class Copying(NamedTuple):
    """What was found."""

    near: Neighbours
    """The samples' neighbours in pixels."""
    record: dict[str, Any]
    """Figures, all copies, the closest pairs and a summary, ready for JSON."""


def _count(train: Tensor | np.ndarray) -> int:
    return min(NEIGHBOURS, max(SHOWN, len(train) // 10), len(train))


def in_pixels(images: Tensor, train: Tensor | np.ndarray, of_train: bool = False) -> Neighbours:
    """Nearest training images in grey levels; for images `of_train`, the others."""
    vectors = train.reshape(len(train), -1)
    sides = [(side.flatten(1), vectors) for side in (images, images.flip(-1))]
    found = nearest(sides, min(_count(train) + of_train, len(train)))
    distances, *rest = (part[:, int(of_train) :] for part in found)
    return Neighbours(distances / images[0].numel() ** 0.5, *rest)


def copying(
    samples: UInt8[Tensor, "n c h w"],
    train: Tensor | np.ndarray,
    held_out: Tensor | None = None,
    features: Features | None = None,
) -> Copying:
    """Nearest training images of samples and of held-out images, in pixels and in features.

    Images are uint8 (n, c, h, w) of one size; `train` may be a memory map. The work is done where
    `samples` are.
    """
    near, k = in_pixels(samples, train), _count(train)
    spaces = {"pixels": (near, None if held_out is None else in_pixels(held_out, train))}
    if features is not None:
        assert features.train is not None
        train_features, real = features.train, features.held_out
        others = None if real is None else Neighbours(*nearest([(real, train_features)], k))
        spaces["features"] = (Neighbours(*nearest([(features.samples, train_features)], k)), others)
    return Copying(near, _record(spaces, len(train)))


def _record(
    spaces: dict[str, tuple[Neighbours, Neighbours | None]], num_train: int
) -> dict[str, Any]:
    near, real = spaces["pixels"]
    copied, real_copied = near.copied, None if real is None else real.copied
    columns = [part[:, 0].tolist() for part in near]
    pairs = [
        {"sample": i, "train": row, "flipped": flipped, "grey_levels": distance}
        | {"ratio": ratio, "copy": copied[i]}
        for i, (distance, row, flipped, ratio) in enumerate(
            zip(*columns, near.ratios.tolist(), strict=True)
        )
    ]  # by ratio, so that flat images, near to many, do not fill the list
    pairs.sort(key=lambda pair: (not pair["copy"], pair["ratio"], pair["grey_levels"]))
    closeness = {name: _closeness(*both) for name, both in spaces.items()}
    line = (
        f"{sum(copied):,} of {len(copied):,} samples are copies (within {GREY_LEVELS:g} grey "
        f"level, or {RATIO:g} of the mean distance to the {near.distances.shape[1]} nearest of "
        f"{num_train:,} training images)"
    )
    if real_copied is not None:
        line += f"; {sum(real_copied):,} of {len(real_copied):,} held-out images"
    sides = {name: spaces.get(name, (None, None)) for name in UNITS}
    level = {"grey_levels": GREY_LEVELS, "ratio": RATIO}
    return {
        "level": level | {"neighbours": near.distances.shape[1], "flips": True},
        "num_samples": len(copied),
        "num_train": num_train,
        "num_held_out": real_copied and len(real_copied),
        "num_copies": sum(copied),
        "num_held_out_copies": real_copied and sum(real_copied),
        "near_copies": {k: [n and n.near_copies for n in both] for k, both in sides.items()},
        **{name: closeness.get(name) for name in UNITS},
        "copies": pairs[: sum(copied)],
        "closest": pairs[:LISTED],
        "summary": [line, *(_sentence(k, both[0], closeness[k]) for k, both in spaces.items())],
    }


def _closeness(near: Neighbours, real: Neighbours | None) -> dict[str, float] | None:
    """The samples' distances to the nearest training image against the held-out images'."""
    if real is None:
        return None
    ours, theirs = near.distances[:, 0], real.distances[:, 0]
    closer, c_t = _mann_whitney(ours, theirs)
    medians = {"median": float(ours.median()), "held_out_median": float(theirs.median())}
    return {**medians, "closer": closer, "c_t": c_t}


def _sentence(name: str, near: Neighbours, found: dict[str, float] | None) -> str:
    """The closeness in words."""
    median = f"{float(near.distances[:, 0].median()):.3g}{UNITS[name]}"
    text = f"{name}: nearest training image at a median of {median}"
    if found is None:
        return f"{text}; no held-out images to compare with"
    return (
        f"{text} (held-out {found['held_out_median']:.3g}); a sample is nearer than a held-out "
        f"image in {found['closer']:.1%} of pairs (C_T {found['c_t']:+.1f}; 50 % and 0 are as new)"
    )


def _mann_whitney(ours: Tensor, theirs: Tensor) -> tuple[float, float]:
    """The chance that one of ours is smaller, ties by half, and z of U, the pairs with it larger.

    z = (U - n m / 2) / sqrt(n m (n + m + 1) / 12)
    """
    ours, theirs = ours.contiguous(), theirs.sort().values
    smaller, not_larger = (torch.searchsorted(theirs, ours, right=right) for right in (False, True))
    n, m = len(ours), len(theirs)
    u = float((smaller + not_larger).double().sum() / 2)
    return 1 - u / (n * m), (u - n * m / 2) / (n * m * (n + m + 1) / 12) ** 0.5


def save_pairs(
    path: Path, samples: Tensor, train: Tensor | np.ndarray, found: Copying, count: int = 12
) -> None:
    """Write the closest pairs: the sample, its nearest training image and the next three.

    Training images are mirrored where that is nearer.
    """
    rows, near = [pair["sample"] for pair in found.record["closest"][:count]], found.near
    half = -(-len(rows) // 2)

    def shown(sample: int, place: int) -> Tensor:
        image = rows_of(train, near.indices[sample, place, None])[0].cpu()
        return image.flip(-1) if near.flipped[sample, place] else image

    places = range(min(SHOWN, near.indices.shape[1]))
    labels = ["sample", "nearest", "second", "third", "fourth"][: len(places) + 1]

    def block(rows: list[int]):
        cells = [x for row in rows for x in (samples[row], *(shown(row, i) for i in places))]
        return grid(torch.stack(cells), len(labels), labels=labels)

    picture = side_by_side([block(part) for part in (rows[:half], rows[half:]) if part], 32)
    save_png(path, picture, {"unnoise": "\n".join(found.record["summary"])})
