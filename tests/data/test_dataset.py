"""What is said of a data set: exact numbers at little cost."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from unnoise.data import dataset
from unnoise.data.config import DataConfig
from unnoise.data.dataset import ImageData, load, report


def of(images):
    return ImageData("some", images, None, (), len(images), False, "-")


@pytest.mark.parametrize("shape", [(300, 3, 128, 128), (1, 3, 4096, 4096)])
def test_the_report_needs_little_memory_whatever_the_size(shape):
    data = of(np.zeros(shape, np.uint8))
    report(data)  # imports and caches
    tracemalloc.start()
    report(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20


def test_mean_and_deviation_are_those_of_all_pixels():
    images = np.random.default_rng(0).integers(0, 256, (7, 3, 9, 11), np.uint8)
    images[:, 1] //= 2
    images[:, 2] = 77
    mean, std = dataset._moments(dataset._counts(images, np.arange(7)))
    np.testing.assert_allclose(mean, (images / 255).mean((0, 2, 3)), rtol=1e-13)
    np.testing.assert_allclose(std, (images / 255).std((0, 2, 3)), rtol=1e-13, atol=1e-15)


def test_the_report_of_the_digits():
    first, second, third = report(load(DataConfig())).splitlines()
    assert first == "digits: 1,797 images (1,500 to train on, 297 held out), 8 x 8, grey, flips off"
    assert second == "  pixels: mean 0.305, std 0.376 of 0..1 · fingerprint 69bff21f662d"
    assert third.startswith("  10 classes: 0 178, 1 182,")
