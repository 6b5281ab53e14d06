"""scikit-learn's 1,797 handwritten 8x8 digits: embedded, offline."""

from __future__ import annotations

from typing import Any

import numpy as np

from unnoise.data.cache import Source, Writer
from unnoise.data.config import DataConfig
from unnoise.data.fit import add_arrays

HELD_OUT = 297


def source(config: DataConfig) -> Source:
    """1,500 digits to train on, 297 held out."""

    def fill(writer: Writer) -> None:
        from sklearn.datasets import load_digits

        data: Any = load_digits()
        images = np.round(data.images * (255 / 16)).astype(np.uint8)[:, None]
        order = np.random.Generator(np.random.Philox(key=0)).permutation(len(images))
        images, labels = images[order], data.target[order]
        add_arrays(writer, config, images[:-HELD_OUT], labels[:-HELD_OUT])
        writer.end_of_training_images()
        add_arrays(writer, config, images[-HELD_OUT:], labels[-HELD_OUT:])

    return Source("digits", "scikit-learn", fill, tuple("0123456789"))
