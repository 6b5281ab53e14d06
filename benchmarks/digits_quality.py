"""How good, how varied and how new the digits of a model are, by pixels and by a classifier trained on real digits.

    python benchmarks/digits_quality.py [digits|RUN ...]

Per setting: the share of 1,000 samples (100 per class) that the classifier reads as their label; the mean standard deviation
of a pixel over that of real ones; and the mean distance to the nearest training image (Euclidean, pixels in 0..1) beside
that of held-out real digits: copies would be far nearer.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.svm import SVC

import unnoise
from unnoise.data.dataset import ImageData, load

SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"steps": 25, "guidance_scale": 1.0},
    {"steps": 25, "guidance_scale": 1.0, "spacing": "karras"},
    {"steps": 12, "guidance_scale": 1.3},
    {"steps": 12, "guidance_scale": 2.0},
)


@dataclass(frozen=True)
class Quality:
    """Of one set of samples."""

    read_right: float
    std_ratio: float
    nearest_train: float


class Judge:
    """A support vector classifier and the training digits it and the models were trained on."""

    def __init__(self) -> None:
        data: ImageData = load(unnoise.DataConfig(source="digits"))
        assert data.labels is not None
        pixels = _pixels(data.images)
        self.train, self.held_out = pixels[: data.num_train], pixels[data.num_train :]
        self.classifier = SVC(gamma="scale", C=10).fit(self.train, data.labels[: data.num_train])
        self.accuracy = float(self.classifier.score(self.held_out, data.labels[data.num_train :]))

    def nearest(self, pixels: np.ndarray) -> float:
        """Mean distance to the nearest training image."""
        square = (pixels**2).sum(1)[:, None] - 2 * pixels @ self.train.T + (self.train**2).sum(1)
        return float(np.sqrt(square.min(1).clip(0)).mean())

    def quality(self, model: unnoise.Model, num: int = 1000, **settings: Any) -> Quality:
        """Of `num` samples of seeds 0.., labelled by seed modulo 10."""
        pixels = _pixels(model.sample(num, batch_size=250, **settings).numpy())
        right = (self.classifier.predict(pixels) == np.arange(num) % 10).mean()
        return Quality(
            float(right),
            float(pixels.std(0).mean() / self.train.std(0).mean()),
            self.nearest(pixels),
        )


def _pixels(images: np.ndarray) -> np.ndarray:
    return np.asarray(images).reshape(len(images), -1) / 255.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=["digits"])
    judge = Judge()
    print(
        f"real held-out digits: read right {judge.accuracy:.1%}, nearest {judge.nearest(judge.held_out):.3f}\n"
    )
    print("| model | sampler | NFE | read right | std ratio | nearest |\n|---|---|---|---|---|---|")
    for name in parser.parse_args().models:
        model = unnoise.load(name)
        for changes in SETTINGS:
            chosen, found = model.settings(**changes), judge.quality(model, **changes)
            calls = chosen.steps * (1 if chosen.guidance_scale == 1 else 2)
            how = f"{chosen.sampler} {chosen.steps} {chosen.spacing}, guidance {chosen.guidance_scale:g}"
            print(
                f"| {name} | {how} | {calls} | {found.read_right:.1%} | {found.std_ratio:.3f} | {found.nearest_train:.3f} |"
            )


if __name__ == "__main__":
    main()
