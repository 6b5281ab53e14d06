"""Whether samples are copies of training images.

Four answers, each beside the same one for held-out images, which nobody copied. d_i is the distance to the i-th nearest
training image, or to its mirror image where that is nearer; pixels: root mean square, in grey levels of 255.

- Copies: d_1 <= 1 grey level, or d_1 <= 0.2 of the mean of d_1..d_50. The ratio is alpha times the adaptive distance of
  Carlini et al. 2023 (section 5, n = 50, alpha = 0.5): a blank sky is near to many, a copy to one alone.
- Near copies: Carlini's distance under 1, a ratio under 0.5. Real data has such pairs too: look at the excess.
- Closer: the chance that a sample is nearer to the training set than a held-out image is; 1/2 if it is as new. C_T is
  its Mann-Whitney z (Meehan, Chaudhuri & Dasgupta 2020, with one cell): far below 0 is data-copying, far above 0
  says that samples are unlike the data.
- The share of samples nearer than all but 1 % (5 %) of the held-out images are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from unnoise.data.images import grid, side_by_side
from unnoise.errors import DataError
from unnoise.evaluation.neighbours import nearest

if TYPE_CHECKING:
    from PIL.Image import Image

NEAR_COPY = 0.5
"""The ratio at which Carlini's distance is 1: their alpha."""
SHOWN_NEIGHBOURS = 4


@dataclass(frozen=True)
class Level:
    """When a sample is called a copy: at most `grey_levels` off, or at most `ratio` of the mean distance to `neighbours`."""

    grey_levels: float = 1.0
    ratio: float = 0.2
    neighbours: int = 50
    """At most: of a training set of fewer than 500 a tenth, 4 at least, as the nearest 50 of 60 say nothing of a place."""
    flips: bool = True
    """Whether a mirrored training image counts."""

    def counted(self, num_train: int) -> int:
        """How many neighbours are looked at."""
        return min(self.neighbours, max(SHOWN_NEIGHBOURS, num_train // 10), num_train)


@dataclass(frozen=True)
class Features:
    """Feature vectors of the same images, in the same order."""

    samples: Float[Tensor, "n d"]
    train: Float[Tensor, "m d"]
    held_out: Float[Tensor, "h d"] | None = None
    train_flipped: Float[Tensor, "m d"] | None = None
    """Of the mirrored training images; without them mirrored ones are looked for in pixels alone."""


@dataclass(frozen=True)
class Neighbours:
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


@dataclass(frozen=True)
class Closeness:
    """Distances to the nearest training image: the samples' against those of held-out images."""

    median: float
    held_out_median: float
    closer: float
    """The chance that a sample is nearer than a held-out image, ties by half."""
    c_t: float
    held_out_percentile_1: float | None
    """None for fewer than 100 held-out images."""
    below_percentile_1: float | None
    """Share of samples nearer than that."""
    held_out_percentile_5: float | None
    """None for fewer than 20 held-out images."""
    below_percentile_5: float | None


@dataclass(frozen=True)
class Pair:
    """A sample and its nearest training image."""

    sample: int
    train: int
    flipped: bool
    grey_levels: float
    ratio: float
    copy: bool


@dataclass(frozen=True)
class Copying:
    """What was found; None where there are no held-out images or no features."""

    level: Level
    num_train: int
    pixels: Neighbours
    held_out_pixels: Neighbours | None
    features: Neighbours | None
    held_out_features: Neighbours | None
    closeness: Closeness | None
    feature_closeness: Closeness | None

    @property
    def copies(self) -> list[Pair]:
        """Every sample that is a copy, the closest first."""
        return self.closest(int(_copied(self.pixels, self.level).sum()))

    @property
    def held_out_copies(self) -> int | None:
        """How many held-out images the same level calls copies: near-duplicates of the data set itself."""
        return (
            None
            if self.held_out_pixels is None
            else int(_copied(self.held_out_pixels, self.level).sum())
        )

    def closest(self, count: int) -> list[Pair]:
        """Copies first, then by ratio, so that flat images, near to many, do not fill the list."""
        copied, ratios, distances = (
            _copied(self.pixels, self.level),
            self.pixels.ratios,
            self.pixels.distances[:, 0],
        )
        order = sorted(
            range(len(ratios)), key=lambda i: (not copied[i], float(ratios[i]), float(distances[i]))
        )
        return [
            Pair(
                sample=i,
                train=int(self.pixels.indices[i, 0]),
                flipped=bool(self.pixels.flipped[i, 0]),
                grey_levels=float(distances[i]),
                ratio=float(ratios[i]),
                copy=bool(copied[i]),
            )
            for i in order[:count]
        ]

    def to_dict(self, pairs: int = 20) -> dict[str, Any]:
        """For JSON: the figures, all copies and the closest pairs."""
        spaces = {
            "pixels": (self.pixels, self.held_out_pixels),
            "features": (self.features, self.held_out_features),
        }
        return {
            "level": asdict(self.level),
            "num_samples": len(self.pixels.distances),
            "num_train": self.num_train,
            "num_held_out": None
            if self.held_out_pixels is None
            else len(self.held_out_pixels.distances),
            "num_copies": len(self.copies),
            "num_held_out_copies": self.held_out_copies,
            "near_copies": {
                name: [_near(side) for side in sides] for name, sides in spaces.items()
            },
            "pixels": None if self.closeness is None else asdict(self.closeness),
            "features": None if self.feature_closeness is None else asdict(self.feature_closeness),
            "copies": [asdict(pair) for pair in self.copies],
            "closest": [asdict(pair) for pair in self.closest(pairs)],
        }

    def summary(self) -> str:
        """What was found, in some lines."""
        n, level, held_out = len(self.pixels.distances), self.level, self.held_out_pixels
        of = f"{level.counted(self.num_train)} nearest of {self.num_train:,} training images"
        how = f"within {level.grey_levels:g} grey level, or {level.ratio:g} of the mean distance to the {of}"
        lines = [f"{len(self.copies):,} of {n:,} samples are copies ({how})"]
        if held_out is not None:
            lines[0] += f"; {self.held_out_copies:,} of {len(held_out.distances):,} held-out images"
        for what, unit, side, closeness in (
            ("pixels", " grey levels", self.pixels, self.closeness),
            ("features", "", self.features, self.feature_closeness),
        ):
            if side is not None:
                lines.append(f"{what}: {_sentence(side, closeness, unit)}")
        return "\n".join(lines)


def copying(
    samples: UInt8[Tensor, "n c h w"],
    train: Tensor | np.ndarray,
    held_out: Tensor | np.ndarray | None = None,
    features: Features | None = None,
    level: Level = Level(),
) -> Copying:
    """Nearest training images of samples and of held-out images, in pixels and, where given, in features.

    `train` and `held_out` are uint8 (m, c, h, w), also memory maps. The work is done where `samples` are. DataError where
    the images are not of one kind; no held-out images are the same as None.
    """
    held_out = None if held_out is None or len(held_out) == 0 else held_out
    _check(samples, train, held_out, features)
    pixels = _pixel_neighbours(samples, train, level)
    held_out_pixels = None
    if held_out is not None:
        others = held_out if isinstance(held_out, Tensor) else torch.from_numpy(np.array(held_out))
        held_out_pixels = _pixel_neighbours(others.to(samples.device), train, level)
    near, held_out_near = None, None
    if features is not None:
        near = _feature_neighbours(features.samples, features, level)
        if features.held_out is not None:
            held_out_near = _feature_neighbours(features.held_out, features, level)
    return Copying(
        level=level,
        num_train=len(train),
        pixels=pixels,
        held_out_pixels=held_out_pixels,
        features=near,
        held_out_features=held_out_near,
        closeness=_closeness(pixels, held_out_pixels),
        feature_closeness=_closeness(near, held_out_near),
    )


def pairs_picture(
    samples: Tensor, train: Tensor | np.ndarray, result: Copying, count: int = 12
) -> Image:
    """The closest pairs in two blocks: in a row the sample, its nearest training image, and the three that come next.

    Training images are mirrored where that is nearer.
    """
    pairs = result.closest(count)
    half = -(-len(pairs) // 2)
    return side_by_side(
        [_block(samples, train, result, part) for part in (pairs[:half], pairs[half:]) if part], 32
    )


def _block(
    samples: Tensor, train: Tensor | np.ndarray, result: Copying, pairs: Sequence[Pair]
) -> Image:
    """Columns: samples, nearest, next."""
    near = result.pixels
    shown = min(SHOWN_NEIGHBOURS, near.indices.shape[1])
    rows = [[_shown(train, near, pair.sample, place) for place in range(shown)] for pair in pairs]
    columns = [
        grid(torch.stack([samples[pair.sample] for pair in pairs]), columns=1),
        grid(torch.stack([row[0] for row in rows]), columns=1),
    ]
    if shown > 1:
        columns.append(
            grid(torch.stack([image for row in rows for image in row[1:]]), columns=shown - 1)
        )
    return side_by_side(columns)


def _shown(train: Tensor | np.ndarray, near: Neighbours, sample: int, place: int) -> Tensor:
    image = train[int(near.indices[sample, place])]
    image = image.cpu() if isinstance(image, Tensor) else torch.from_numpy(np.array(image))
    return image.flip(-1) if near.flipped[sample, place] else image


def _copied(near: Neighbours, level: Level) -> Bool[Tensor, " n"]:
    return (near.distances[:, 0] <= level.grey_levels) | (near.ratios <= level.ratio)


def _near(near: Neighbours | None) -> float | None:
    """Share of near copies."""
    return None if near is None else float((near.ratios < NEAR_COPY).double().mean())


def _pixel_neighbours(images: Tensor, train: Tensor | np.ndarray, level: Level) -> Neighbours:
    vectors = train.reshape(len(train), -1)
    sides = [nearest(images.flatten(1), vectors, level.counted(len(train)))]
    if level.flips:  # mirroring the sample is mirroring the training image
        sides.append(nearest(images.flip(-1).flatten(1), vectors, level.counted(len(train))))
    size = images[0].numel() ** 0.5
    return _merged([(distances / size, indices) for distances, indices in sides])


def _feature_neighbours(vectors: Tensor, features: Features, level: Level) -> Neighbours:
    k = level.counted(len(features.train))
    sides = [nearest(vectors, features.train, k)]
    if level.flips and features.train_flipped is not None:
        sides.append(nearest(vectors, features.train_flipped, k))
    return _merged(sides)


def _merged(sides: Sequence[tuple[Tensor, Tensor]]) -> Neighbours:
    """The k nearest of both sides, each training image once: at a tie, as it is."""
    k = sides[0][0].shape[1]
    distances, indices = (torch.cat([side[part] for side in sides], 1) for part in (0, 1))
    flipped = torch.arange(distances.shape[1]).expand_as(indices) >= k
    order = distances.argsort(dim=1, stable=True)
    distances, indices, flipped = (x.gather(1, order) for x in (distances, indices, flipped))
    by_image = indices.argsort(dim=1, stable=True)
    again = indices.gather(1, by_image).diff(dim=1) == 0
    again = torch.zeros_like(flipped).scatter(1, by_image[:, 1:], again)
    order = distances.masked_fill(again, torch.inf).argsort(dim=1, stable=True)[:, :k]
    return Neighbours(*(x.gather(1, order) for x in (distances, indices, flipped)))


def _closeness(near: Neighbours | None, held_out: Neighbours | None) -> Closeness | None:
    if near is None or held_out is None:
        return None
    ours, theirs = near.distances[:, 0], held_out.distances[:, 0]
    percentiles = {
        percent: theirs.quantile(percent / 100) if len(theirs) * percent >= 100 else None
        for percent in (1, 5)
    }
    below = {
        p: None if level is None else float((ours < level).double().mean())
        for p, level in percentiles.items()
    }
    closer, c_t = _mann_whitney(ours, theirs)
    return Closeness(
        median=float(ours.median()),
        held_out_median=float(theirs.median()),
        closer=closer,
        c_t=c_t,
        held_out_percentile_1=None if percentiles[1] is None else float(percentiles[1]),
        below_percentile_1=below[1],
        held_out_percentile_5=None if percentiles[5] is None else float(percentiles[5]),
        below_percentile_5=below[5],
    )


def _mann_whitney(ours: Tensor, theirs: Tensor) -> tuple[float, float]:
    """The chance that one of ours is smaller, and z = (U - n m / 2) / sqrt(n m (n + m + 1) / 12) of those larger."""
    ours, theirs = ours.contiguous(), theirs.sort().values
    smaller, not_larger = (
        torch.searchsorted(theirs, ours),
        torch.searchsorted(theirs, ours, right=True),
    )
    n, m = len(ours), len(theirs)
    larger = float((smaller + not_larger).double().sum() / 2)  # pairs in which ours is larger
    return 1 - larger / (n * m), (larger - n * m / 2) / (n * m * (n + m + 1) / 12) ** 0.5


def _sentence(near: Neighbours, closeness: Closeness | None, unit: str) -> str:
    text = f"nearest training image at a median of {float(near.distances[:, 0].median()):.3g}{unit}"
    if closeness is None:
        return f"{text}; no held-out images to compare with"
    text += (
        f" (held-out {closeness.held_out_median:.3g}); a sample is nearer than a held-out image in "
    )
    text += f"{closeness.closer:.1%} of pairs (C_T {closeness.c_t:+.1f}; 50 % and 0 are as new)"
    for percent, share in ((1, closeness.below_percentile_1), (5, closeness.below_percentile_5)):
        text += (
            ""
            if share is None
            else f"; {share:.1%} are nearer than the nearest {percent} % of held-out images"
        )
    return text


def _check(
    samples: Tensor,
    train: Tensor | np.ndarray,
    held_out: Tensor | np.ndarray | None,
    features: Features | None,
) -> None:
    """DataError where the images are not uint8 (n, c, h, w) of one size, or features not one vector for each."""
    images = {"samples": samples, "training images": train, "held-out images": held_out}
    vectors = None if features is None else (features.samples, features.train, features.held_out)
    for (what, these), found in zip(images.items(), vectors or (None,) * 3, strict=True):
        if these is None:
            if found is not None:
                raise DataError(f"copying: got features of {what} but no {what}; give both")
            continue
        if these.dtype not in (torch.uint8, np.uint8):
            raise DataError(
                f"copying: got {what} of {these.dtype}, expected uint8; data.images.from_model makes it"
            )
        if these.ndim != 4 or len(these) == 0:
            raise DataError(
                f"copying: got {what} of shape {tuple(these.shape)}, expected (n, c, h, w), n at least 1"
            )
        if these.shape[1:] != samples.shape[1:]:
            got = f"{_kind(these.shape)} {what} and {_kind(samples.shape)} samples"
            raise DataError(
                f"copying: got {got}, expected one size and as many channels; load the data as the model did"
            )
        if found is not None and (found.ndim != 2 or len(found) != len(these)):
            got = f"features {tuple(found.shape)} of {len(these)} {what}"
            raise DataError(f"copying: got {got}, expected ({len(these)}, d), one vector for each")
    flipped = None if features is None else features.train_flipped
    if features is not None and flipped is not None and flipped.shape != features.train.shape:
        got = f"{tuple(flipped.shape)} beside {tuple(features.train.shape)}"
        raise DataError(
            f"copying: got features of mirrored training images {got}, expected the same shape"
        )


def _kind(shape: Sequence[int]) -> str:
    return " x ".join(str(size) for size in shape[1:])
