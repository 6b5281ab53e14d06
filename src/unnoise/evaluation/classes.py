"""Whether samples show the class they were asked for, and how far each class is from the real one.

The accuracy of a classifier on labelled samples mixes the model's errors with the classifier's own: give that of real held-out
images beside it. It says nothing of variety, one perfect picture per class has 100 %: the distances per class do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from unnoise.errors import ConfigError, DataError
from unnoise.evaluation import foreign
from unnoise.evaluation.frechet import Z95, frechet_distance, moments

EXPECTED = "expected module:function or a TorchScript file, floats (n, c, h, w) in 0..1 -> logits (n, classes)"

Classifier = Callable[[UInt8[Tensor, "n c h w"]], Int64[Tensor, " n"]]
"""Images to class numbers."""


Logits = Callable[[UInt8[Tensor, "n c h w"]], Tensor]
"""Images to (n, classes) float32 on the CPU."""
BATCH_SIZE = 256


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

    class_names: tuple[str, ...]
    overall: Share
    per_class: tuple[Share, ...]
    confusion: Int64[Tensor, "classes classes"]
    """[label, read as], counts."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "overall": self.overall.to_dict(),
            "per_class": {
                name: share.to_dict()
                for name, share in zip(self.class_names, self.per_class, strict=True)
            },
            "confusion": self.confusion.tolist(),
        }


@dataclass(frozen=True)
class ClassDistance:
    """Of one class; None where either side has too few images."""

    class_name: str
    count: int
    reference_count: int
    distance: float | None


def class_accuracy(predicted: Tensor, labels: Tensor, class_names: Sequence[str]) -> ClassAccuracy:
    """Overall and per class, with intervals, and the confusion matrix."""
    count = len(class_names)
    if len(predicted) != len(labels) or not len(labels):
        raise DataError(
            f"accuracy: got {len(predicted)} predictions for {len(labels)} labels, expected one for each"
        )
    predicted = _checked(
        predicted, count, "predicted classes", "give a classifier of these classes"
    )
    labels = _checked(labels, count, "labels", "give the class names of these labels")
    confusion = torch.bincount(labels * count + predicted, minlength=count * count).reshape(
        count, count
    )
    right, totals = confusion.diagonal().tolist(), confusion.sum(1).tolist()
    return ClassAccuracy(
        class_names=tuple(class_names),
        overall=Share(sum(right), sum(totals)),
        per_class=tuple(Share(*pair) for pair in zip(right, totals, strict=True)),
        confusion=confusion,
    )


def class_distances(
    features: tuple[Float[Tensor, "n d"], Int64[Tensor, " n"]],
    reference: tuple[Float[Tensor, "m d"], Int64[Tensor, " m"]],
    class_names: Sequence[str],
    minimum: int | None = None,
) -> tuple[ClassDistance, ...]:
    """The Fréchet distance of every class, from (features, labels) of samples and of real images.

    A class is left out (None) where a side has fewer than `minimum` images; d + 1 unless given, from where on a covariance can
    have full rank. Even then it is biased upwards, the more the fewer there are: compare only distances of equal counts.
    """
    sides = [(*_checked_side(*side, len(class_names)),) for side in (features, reference)]
    width = {side[0].shape[1] for side in sides}
    if len(width) > 1:
        raise DataError(
            f"distances per class: got features of {sorted(width)} numbers, expected one extractor's"
        )
    least = max(2, minimum if minimum is not None else width.pop() + 1)
    return tuple(_distance(number, name, sides, least) for number, name in enumerate(class_names))


def _distance(
    number: int, name: str, sides: Sequence[tuple[Tensor, Tensor]], least: int
) -> ClassDistance:
    ours, theirs = (vectors[labels == number] for vectors, labels in sides)
    enough = min(len(ours), len(theirs)) >= least
    distance = frechet_distance(*moments(ours), *moments(theirs)) if enough else None
    return ClassDistance(name, len(ours), len(theirs), distance)


def _checked_side(vectors: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    if vectors.ndim != 2 or len(vectors) != len(labels):
        got = f"features {tuple(vectors.shape)} and {len(labels)} labels"
        raise DataError(f"distances per class: got {got}, expected (n, d) and n")
    bad = (~vectors.isfinite().all(1)).nonzero()
    if len(bad):
        raise DataError(
            f"distances per class: {len(bad)} of {len(vectors)} feature vectors hold NaN or infinity, the first is row "
            f"{int(bad[0])}; expected finite features"
        )
    return vectors, _checked(labels, count, "labels", "give the class names of these labels").to(
        vectors.device
    )


def _checked(numbers: Tensor, count: int, what: str, fix: str) -> Tensor:
    """Class numbers as int64 on the CPU; DataError for others."""
    if numbers.ndim != 1 or numbers.is_floating_point() or numbers.dtype == torch.bool:
        raise DataError(
            f"{what}: got {numbers.dtype} of shape {tuple(numbers.shape)}, expected whole numbers (n,)"
        )
    if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < count:
        got = f"{int(numbers.min())} to {int(numbers.max())}"
        raise DataError(f"{what}: got {got}, expected 0 to {count - 1} ({count} classes); {fix}")
    return numbers.cpu().long()


def predictions(
    classifier: Classifier, images: Tensor, batch_size: int = 256
) -> Int64[Tensor, " n"]:
    """The classes of uint8 images (n, c, h, w), on the CPU."""
    if images.dtype != torch.uint8 or images.ndim != 4 or not len(images):
        got = f"{images.dtype} of shape {tuple(images.shape)}"
        raise DataError(f"classifier: got images {got}, expected uint8 (n, c, h, w), n at least 1")
    parts = [classifier(part).cpu() for part in images.split(batch_size)]
    found = torch.cat(parts)
    if found.shape != (len(images),):
        raise ConfigError(
            f"classifier: got an answer {tuple(found.shape)} to {len(images)} images, expected one class each"
        )
    return found


def load_classifier(spec: str, num_classes: int, device: str | torch.device = "cpu") -> Classifier:
    """A classifier of uint8 images from module:function or a TorchScript file; ConfigError where there is none."""
    logits = load_logits(spec, num_classes, device)
    return lambda images: logits(images).argmax(1)


def load_logits(spec: str, num_classes: int, device: str | torch.device = "cpu") -> Logits:
    """The same, as logits on the CPU."""
    network = foreign.load(spec, "classifier", EXPECTED, device).call
    where = f"classifier {spec}"

    @torch.inference_mode()
    def classify(images: Tensor) -> Tensor:
        try:
            logits = network(images.to(device).float() / 255)
        except Exception as error:  # whatever a stranger's code raises
            got = f"images {tuple(images.shape[1:])} as floats in 0..1"
            raise ConfigError(
                f"{where}: fails on {got} ({foreign.reason(error)}); {EXPECTED}"
            ) from error
        if not isinstance(logits, Tensor) or logits.shape != (len(images), num_classes):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ConfigError(
                f"{where}: got {got} for {len(images)} images, expected logits {len(images), num_classes}"
            )
        if not bool(logits.isfinite().all()):
            raise ConfigError(
                f"{where}: got logits with NaN or infinity, expected finite numbers; is it trained?"
            )
        return logits.float().cpu()

    return lambda images: torch.cat([classify(part) for part in images.split(BATCH_SIZE)])
