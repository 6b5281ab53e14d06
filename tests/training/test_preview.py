"""The pictures that a run shows of itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import unnoise
from tests.training import runs
from unnoise.data.images import class_grid


@pytest.mark.parametrize(("classes", "count"), [(None, 64), (3, 63), (10, 60), (40, 40), (70, 64)])
def test_previews_have_as_many_pictures_of_each_class_in_columns(classes, count, tmp_path):
    random = np.random.default_rng(0)
    names = [f"kind {i}" for i in range(classes or 0)]
    data = unnoise.dataset(
        random.integers(0, 256, (200, 8, 8, 3), dtype=np.uint8),
        classes and random.permutation(np.arange(200) % classes),
        names or None,
    )
    runs.train(runs.tiny(**{"train.kimg": 0.032, "sample.steps": 1}), data, tmp_path)
    (path,) = (tmp_path / "samples").glob("*.png")
    model = unnoise.load(tmp_path, "cpu")
    labels = None if classes is None else torch.arange(count) % classes
    expected = class_grid(model.sample(count, batch_size=count), labels, names)
    with Image.open(path) as sheet:
        assert np.array_equal(np.asarray(sheet), np.asarray(expected))
        assert sheet.info["unnoise"] == f"nimg 32, seeds 0-{count - 1}"
