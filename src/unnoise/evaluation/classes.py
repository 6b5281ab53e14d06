"""Whether samples show the class they were made for, and how far each class is from the real one.

The accuracy of a classifier on labelled samples mixes the model's errors with the classifier's own:
give that of real held-out images next to it. It says nothing of variety, one perfect picture per
class has 100 %: the distances per class do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from unnoise.evaluation.frechet import Z95, frechet_distance, moments


@dataclass(frozen=True)
class Share:
    """`right` of `count`, with the 95 % interval of Wilson 1927; None and 0..1 of nothing."""

    right: int
    count: int

    @property
    def share(self) -> float | None:
        return self.right / self.count if self.count else None

    @property
    def interval(self) -> tuple[float, float]:
        """(p + z^2/2n -+ z (p (1-p) / n + z^2/4n^2)^(1/2)) / (1 + z^2/n)."""
        if not self.count:
            return 0.0, 1.0
        n, p, z2 = self.count, self.right / self.count, Z95**2
        middle, half = p + z2 / (2 * n), Z95 * (p * (1 - p) / n + z2 / (4 * n * n)) ** 0.5
        low, high = ((middle + sign * half) / (1 + z2 / n) for sign in (-1, 1))
        return 0.0 if self.right == 0 else low, 1.0 if self.right == n else high

    def to_dict(self) -> dict[str, Any]:
        return {
            "right": self.right,
            "count": self.count,
            "share": self.share,
            "interval_95": list(self.interval),
        }


@dataclass(frozen=True)
class ClassAccuracy:
    """How often images are read as their label."""

    overall: Share
    per_class: dict[str, Share]
    confusion: Int64[Tensor, "classes classes"]
    """[label, read as], counts."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "overall": self.overall.to_dict(),
            "per_class": {name: share.to_dict() for name, share in self.per_class.items()},
            "confusion": self.confusion.tolist(),
        }


def class_accuracy(
    predicted: Int64[Tensor, " n"], labels: Int64[Tensor, " n"], class_names: Sequence[str]
) -> ClassAccuracy:
    """Overall and per class, with intervals, and the confusion matrix."""
    count = len(class_names)
    confusion = torch.bincount(labels * count + predicted, minlength=count * count)
    confusion = confusion.reshape(count, count)
    right, totals = confusion.diagonal().tolist(), confusion.sum(1).tolist()
    shares = (Share(*pair) for pair in zip(right, totals, strict=True))
    per_class = dict(zip(class_names, shares, strict=True))
    return ClassAccuracy(Share(sum(right), sum(totals)), per_class, confusion)


def class_distances(
    samples: tuple[Float[Tensor, "n d"], Int64[Tensor, " n"]],
    reference: tuple[Float[Tensor, "m d"], Int64[Tensor, " m"]],
    class_names: Sequence[str],
) -> list[dict[str, Any]]:
    """The Fréchet distance of every class, from (features, labels) of samples and of real images.

    A class is left out where a side has fewer than d + 1 images, from where on a covariance can have
    full rank. Even then the distance is biased upwards, the more the fewer there are: compare only
    distances of equal counts.
    """
    found: list[dict[str, Any]] = []
    for number, name in enumerate(class_names):
        ours, theirs = (vectors[labels == number] for vectors, labels in (samples, reference))
        if min(len(ours), len(theirs)) > ours.shape[1]:
            distance = frechet_distance(*moments(ours), *moments(theirs))
            counts = {"count": len(ours), "reference_count": len(theirs)}
            found.append({"class_name": name, **counts, "distance": distance})
    return found
