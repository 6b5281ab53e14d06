"""Data sets made in Python: every form of the same pictures becomes the same data set."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

import unnoise
from unnoise.data.dataset import dataset
from unnoise.errors import DataError

COUNT = 60
RANDOM = np.random.Generator(np.random.Philox(key=7))
PIXELS = RANDOM.integers(0, 256, (COUNT, 3, 6, 5), np.uint8)
LABELS = np.arange(COUNT) % 3


class Pairs(Dataset):
    classes = ("a", "b", "c")

    def __init__(self, form) -> None:
        self.form = form

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int):
        return self.form(PIXELS[index]), int(LABELS[index])


FORMS = {
    "channels first": lambda: dataset(PIXELS, LABELS, "abc"),
    "channels last": lambda: dataset(PIXELS.transpose(0, 2, 3, 1), LABELS, "abc"),
    "a tensor": lambda: dataset(torch.from_numpy(PIXELS), torch.from_numpy(LABELS), "abc"),
    "floats": lambda: dataset(PIXELS.astype(np.float64) / 255, LABELS.tolist(), "abc"),
    "a Dataset of tensors": lambda: dataset(Pairs(torch.from_numpy)),
    "a Dataset of float tensors": lambda: dataset(Pairs(lambda p: torch.from_numpy(p) / 255)),
    "a Dataset of pictures": lambda: dataset(
        Pairs(lambda p: Image.fromarray(p.transpose(1, 2, 0)))
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_data_set(form):
    data = FORMS[form]()
    assert data.fingerprint == FORMS["channels first"]().fingerprint
    assert data.class_names == ("a", "b", "c") and data.num_train == COUNT - 3 and not data.flip
    order = [int((image == PIXELS).all((1, 2, 3)).argmax()) for image in data.images]
    assert sorted(order) == list(range(COUNT)) and order != sorted(order)
    assert np.array_equal(data.images, PIXELS[order])
    assert data.labels is not None and np.array_equal(data.labels, LABELS[order])


def test_other_contents_are_another_data_set_and_the_same_are_read_from_the_cache(tmp_path):
    config = unnoise.DataConfig(cache=str(tmp_path))
    for _ in range(2):
        dataset(PIXELS, config=config)
        dataset(255 - PIXELS, config=config)
        assert len(list(tmp_path.iterdir())) == 2


def test_grey_images_without_labels_and_a_size_of_their_own():
    config = unnoise.DataConfig(image_size=4, flip=True, held_out=0.0)
    data = dataset(PIXELS[:, 0], config=config)
    assert data.images.shape == (COUNT, 1, 4, 4) and data.num_train == COUNT
    assert data.labels is None and data.class_names == () and data.flip


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield PIXELS[0]


@pytest.mark.parametrize(("arguments", "expected"), [
    ((PIXELS[:0],), "got 0 images"),
    ((None,), "got NoneType, expected an array, a tensor or a Dataset with a length"),
    (("photos/",), "got str, expected an array"),
    (({"images": PIXELS},), "got dict, expected an array"),
    ((torch.utils.data.DataLoader([PIXELS[0]]),), "got DataLoader, expected an array"),
    ((Endless(),), "got Endless, expected an array"),
    ((np.array(3),), "got ndarray, expected an array"), ((torch.tensor(3),), "got Tensor, exp"),
    ((iter(PIXELS),), "got iterator, expected an array"),
    ((PIXELS.astype(np.int32),), "image 0: got int32, expected uint8"),
    ((PIXELS * 1.0,), "image 0: got floats from .* expected 0 to 1"),
    ((np.zeros((2, 5, 5, 5), np.uint8),), r"image 0: got shape \(5, 5, 5\), which may be"),
    ((np.zeros((2, 2, 5, 5, 5), np.uint8),), r"got shape \(2, 5, 5, 5\), expected \(c, h, w\)"),
    ((PIXELS, LABELS[:-1]), rf"got labels int64 \({COUNT - 1},\), expected {COUNT} whole"),
    ((PIXELS, LABELS - 1), "whole numbers from 0"),
    ((PIXELS, LABELS, "ab"), "got 2 class names for labels up to 2"),
])  # fmt: skip
def test_what_cannot_be_used_is_one_line(arguments, expected):
    with pytest.raises(DataError, match=expected) as error:
        dataset(*arguments)
    assert "\n" not in str(error.value)
