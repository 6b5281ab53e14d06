"""The stream of training images: by global number, whatever the batch size."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from unnoise.data.batches import Batches
from unnoise.data.dataset import ImageData


def numbered(count: int, held_out: int = 0, flip: bool = False) -> ImageData:
    """Image i shows i in its left half and 255 - i in its right half; its label is i."""
    images = np.zeros((count, 1, 2, 4), np.uint8)
    images[..., :2] = np.arange(count)[:, None, None, None]
    images[..., 2:] = 255 - images[..., :2]
    labels = np.arange(count, dtype=np.int64)
    return ImageData(
        "numbered", images, labels, tuple(map(str, labels)), count - held_out, flip, "-"
    )


def test_every_epoch_shows_every_training_image_once_in_its_own_order():
    batches = Batches(numbered(37, held_out=7), seed=3)
    epochs = [batches.get(30 * e, 30)[1].tolist() for e in range(4)]
    assert all(sorted(epoch) == list(range(30)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert Batches(numbered(37, held_out=7), seed=4).get(0, 30)[1].tolist() != epochs[0]


@pytest.mark.parametrize("size", [1, 7, 64, 200])
def test_the_stream_does_not_depend_on_the_batch_size_or_the_place_of_a_cut(size):
    data = numbered(30, flip=True)
    images, labels = Batches(data, seed=5).get(0, 400)
    pieces = [
        Batches(data, seed=5).get(start, min(size, 400 - start)) for start in range(0, 400, size)
    ]
    assert torch.equal(torch.cat([p[0] for p in pieces]), images)
    assert torch.equal(torch.cat([p[1] for p in pieces]), labels)


def test_labels_stay_with_their_images_and_half_are_flipped():
    images, labels = Batches(numbered(100, flip=True), seed=0).get(0, 10_000)
    shown, mirrored = images[:, 0, 0, 0].long(), images[:, 0, 0, 3].long()
    flipped = shown != labels
    assert torch.equal(torch.where(flipped, mirrored, shown), labels)
    assert 0.48 < flipped.float().mean() < 0.52
    epochs = flipped.reshape(100, 100)
    assert len({tuple(e.tolist()) for e in epochs}) == 100, (
        "an image is flipped in some epochs and not in others"
    )


def test_no_flips_where_the_data_forbids_them():
    images, labels = Batches(numbered(50), seed=0).get(0, 500)
    assert torch.equal(images[:, 0, 0, 0].long(), labels)


def test_held_out_images_are_never_drawn():
    _, labels = Batches(numbered(40, held_out=10), seed=0).get(0, 3000)
    assert labels.max() == 29


def test_unlabelled_data_gives_no_labels():
    data = dataclasses.replace(numbered(10), labels=None, class_names=())
    assert Batches(data, seed=0).get(0, 4)[1] is None


def test_a_set_smaller_than_the_batch_is_repeated():
    _, labels = Batches(numbered(3), seed=0).get(0, 12)
    assert labels.bincount().tolist() == [4, 4, 4]
