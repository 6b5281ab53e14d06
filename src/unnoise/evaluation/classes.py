"""Whether samples show the class they were made for, and how far each class is from the real one.

The accuracy of a classifier on labelled samples mixes the model's errors with the classifier's own:
give that of real held-out images next to it. It says nothing of variety, one perfect picture per
class has 100 %: the distances per class do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from unnoise.evaluation.frechet import Z95, frechet_distance, moments


def share(right: int, count: int) -> dict[str, Any]:
    """`right` of `count`, with the 95 % interval of Wilson 1927; None and 0..1 of nothing.

    (p + z^2/2n -+ z (p (1-p) / n + z^2/4n^2)^(1/2)) / (1 + z^2/n)
    """
    found, low, high = None, 0.0, 1.0
    if count:
        found, z2 = right / count, Z95**2
        middle = found + z2 / (2 * count)
        half = Z95 * (found * (1 - found) / count + z2 / (4 * count * count)) ** 0.5
        low = 0.0 if right == 0 else (middle - half) / (1 + z2 / count)
        high = 1.0 if right == count else (middle + half) / (1 + z2 / count)
    return {"right": right, "count": count, "share": found, "interval_95": [low, high]}


def class_accuracy(
    predicted: Int64[Tensor, " n"], labels: Int64[Tensor, " n"], class_names: Sequence[str]
) -> dict[str, Any]:
    """How often images are read as their label, in all and by class; confusion[label][read]."""
    count = len(class_names)
    confusion = torch.bincount(labels * count + predicted, minlength=count * count)
    confusion = confusion.reshape(count, count)
    right, totals = confusion.diagonal().tolist(), confusion.sum(1).tolist()
    shares = map(share, right, totals)
    return {
        "overall": share(sum(right), sum(totals)),
        "per_class": dict(zip(class_names, shares, strict=True)),
        "confusion": confusion.tolist(),
    }


def class_distances(
    samples: tuple[Float[Tensor, "n d"], Int64[Tensor, " n"]],
    reference: tuple[Float[Tensor, "m d"], Int64[Tensor, " m"]],
    class_names: Sequence[str],
) -> list[dict[str, Any]]:
    """The Fréchet distance of every class, from (features, labels) of samples and of real images.

    A class is left out where a side has fewer than d + 1 images, from where on a covariance can
    have full rank. Even then the distance is biased upwards, the more the fewer there are: compare
    only distances of equal counts.
    """
    found: list[dict[str, Any]] = []
    for number, name in enumerate(class_names):
        ours, theirs = (vectors[labels == number] for vectors, labels in (samples, reference))
        if min(len(ours), len(theirs)) > ours.shape[1]:
            distance = frechet_distance(*moments(ours), *moments(theirs))
            counts = {"count": len(ours), "reference_count": len(theirs)}
            found.append({"class_name": name, **counts, "distance": distance})
    return found
