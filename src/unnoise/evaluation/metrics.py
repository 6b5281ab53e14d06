"""METRICS: name -> what is measured of feature vectors. Imports nothing heavy.

An entry appears in evaluation.json, in the tables and in `unnoise compare`:

    METRICS["spread"] = Metric(lambda c: float(c.samples.std()), "spread", more_is_better=True)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unnoise.evaluation.comparison import Comparison

Value = float | dict[str, Any] | None
"""A number; or numbers by name, of which the metric's own is shown and NAME_error is its error."""
INTERVAL = "95 % for other samples of this number, the reference fixed (influence function)"


@dataclass(frozen=True)
class Metric:
    """One number of samples next to a reference, both as feature vectors."""

    measure: Callable[[Comparison], Value]
    """From `comparison.samples` and `comparison.reference`, float32 (n, d) tensors."""
    label: str
    """Its name in tables."""
    more_is_better: bool | None
    """None for a yardstick, which says nothing of the samples."""
    fid_label: str | None = None
    """Its name where the features are those of a FID protocol; None = label."""
    needs_vectors: bool = True
    """Whether the reference's mean and covariance alone are too little."""


def _frechet(c: Comparison) -> Value:
    found = c.frechet.estimate(c.all_samples)
    return {
        "frechet": found.value,
        "frechet_standard_error": found.standard_error,
        "interval": list(found.interval),
        "interval_words": INTERVAL,
    }


def _kernel(c: Comparison) -> Value:
    from unnoise.evaluation.kernel import kernel_distance

    assert c.reference is not None
    value, error = kernel_distance(c.samples, c.reference)
    return {"kernel": value, "kernel_error": error}


def _perfect(c: Comparison) -> Value:
    return c.frechet.perfect(len(c.all_samples))


_DISTANCE = "Fréchet distance"
_PERFECT = " of a perfect model at this N, about"
METRICS: dict[str, Metric] = {
    "frechet": Metric(_frechet, _DISTANCE, False, "FID", False),
    "frechet_of_perfect": Metric(_perfect, _DISTANCE + _PERFECT, None, "FID" + _PERFECT, False),
    "kernel": Metric(_kernel, "kernel distance", False, "KID x 1000"),
    "precision": Metric(lambda c: c.coverage.precision, "precision", True),
    "recall": Metric(lambda c: c.coverage.recall, "recall", True),
    "density": Metric(lambda c: c.coverage.density, "density", True),
    "coverage": Metric(lambda c: c.coverage.coverage, "coverage", True),
}
"""Name -> entry, in the order of the tables."""


def measured(comparison: Comparison) -> dict[str, Any]:
    """Every number with its uncertainty; None for what cannot be had."""
    counts, of = comparison.counts, comparison.frechet.reference.count
    record: dict[str, Any] = {"num": len(comparison.all_samples), "reference_num": of}
    record["pairs_of"] = counts
    for name, metric in METRICS.items():
        found = metric.measure(comparison) if counts or not metric.needs_vectors else None
        record |= found if isinstance(found, dict) else {name: found and float(found)}
    return record


def labels(fid: bool) -> dict[str, str]:
    """The name of every metric in tables, with an arrow towards what is better."""
    arrows = {True: " ↑", False: " ↓", None: ""}
    return {
        name: ((fid and metric.fid_label) or metric.label) + arrows[metric.more_is_better]
        for name, metric in METRICS.items()
    }
