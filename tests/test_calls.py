"""Arguments of calls from Python: the right value, or one line."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
import torch

import unnoise
from unnoise import editing
from unnoise.errors import ConfigError, DataError
from unnoise.settings import class_numbers, image_seeds


@pytest.fixture(scope="module")
def model():
    return unnoise.load("digits")


@pytest.mark.parametrize(
    "value", [-1, 3.7, "x", None, float("nan"), float("inf"), 2**70, 10**400, [], True, object()]
)
@pytest.mark.parametrize("name", ["num", "seed", "batch_size", "label", "steps"])
def test_numbers_that_are_none_are_one_line(model, name, value):
    if value is None and name in ("batch_size", "label"):
        return
    with pytest.raises(ConfigError, match=rf"^(sample\.)?{name}: (got|no class)") as error:
        model.sample(**{"num": 1, "steps": 2, name: value})
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_numbers_of_numpy_and_torch_are_numbers(model):
    expected = model.sample(seeds=[3, 4], label=[7, 1], steps=2)
    for kind in (np.array, torch.tensor):
        labels = kind([7, 1])
        assert torch.equal(model.sample(seeds=kind([3, 4]), label=labels, steps=2), expected)
    assert torch.equal(model.sample(np.int64(1), np.uint8(3), label=7, steps=2), expected[:1])


@pytest.mark.parametrize("seeds", ["x", 3, None, [1.5], [-1], [2**63], [], ["1"]])
def test_seeds(seeds):
    with pytest.raises(ConfigError, match="seeds"):
        image_seeds(seeds)


@pytest.mark.parametrize(
    ("label", "number"),
    [("1", 0), ("10", 2), ("none", 3), ("no class", 5), (3, 3), ("été", 4),
     (unicodedata.normalize("NFD", "été"), 4)],
)  # fmt: skip
def test_a_class_is_reached_by_its_own_name(label, number):
    names = ("1", "2", "10", "none", "été")
    assert class_numbers([0], label, 5, names) == [number]


def test_a_number_that_is_another_classs_name_is_refused():
    names = ("1", "2", "10", "none", "été")
    with pytest.raises(ConfigError, match="1 is the number of class '2' and the name of another"):
        class_numbers([0], 1, 5, names)


def test_nested_changes_keep_what_they_do_not_name():
    nested = unnoise.preset("digits", {"train": {"kimg": 1}, "network": {"base_channels": 16}})
    dotted = unnoise.preset("digits", {"train.kimg": 1, "network.base_channels": 16})
    assert nested == dotted != unnoise.preset("digits")
    options = unnoise.preset("digits", {"sample.sampler_options": {"curvature": 0.5}})
    assert options.sample.sampler_options == {"curvature": 0.5}
    with pytest.raises(ConfigError, match=r"train\.kimgs: unknown key; did you mean 'kimg'"):
        unnoise.preset("digits", {"train": {"kimgs": 1}})


def test_a_grid_of_floats_is_the_grid_of_their_pixels(model):
    floats = unnoise.generate_samples(model, num_samples=4, device="cpu", steps=2)
    pixels = model.sample(4, steps=2)
    assert np.array_equal(np.asarray(unnoise.grid(floats)), np.asarray(unnoise.grid(pixels)))
    with pytest.raises(
        DataError, match=r"got torch.float32 from -1 to 1, expected uint8, or floats"
    ):
        unnoise.grid(torch.tensor([-1.0, 1.0]).reshape(1, 1, 1, 2))


PICTURE = torch.zeros(1, 8, 8, dtype=torch.uint8)
MASK = torch.zeros(8, 8, dtype=torch.bool)
MASK[2:4] = True


@pytest.mark.parametrize(
    "picture", [None, 3, "x", PICTURE.float(), PICTURE[0], PICTURE.numpy(), PICTURE[:, :5]]
)
def test_a_picture_that_is_none(model, picture):
    for edit in (
        lambda: editing.inpaint(model, picture, MASK),
        lambda: editing.image_to_image(model, picture, 0.5),
        lambda: editing.reconstruct(model, picture),
    ):
        with pytest.raises(ConfigError, match="picture: got"):
            edit()


@pytest.mark.parametrize("mask", [MASK[:1, :1], MASK & False, MASK.float(), MASK[None], None])
def test_a_mask_that_is_none(model, mask):
    with pytest.raises(ConfigError, match=r"unknown: got .*expected torch.bool of shape \(8, 8\)"):
        editing.inpaint(model, PICTURE, mask)


def test_a_grid_of_arrays_and_lists(model):
    pixels = model.sample(4, steps=2)
    expected = np.asarray(unnoise.grid(pixels))
    for images in (pixels.numpy(), list(pixels), [image.numpy() for image in pixels]):
        assert np.array_equal(np.asarray(unnoise.grid(images)), expected)


@pytest.mark.parametrize("images", [None, "x", 3, torch.zeros(8, 8), torch.zeros(0, 1, 8, 8)])
def test_a_grid_of_nothing(images):
    with pytest.raises(DataError, match="grid: got"):
        unnoise.grid(images)


@pytest.mark.parametrize("name", ["a" * 5000, "", None, b"digits", 3])
def test_a_model_that_is_none(name):
    with pytest.raises(unnoise.CheckpointError):
        unnoise.load(name)


def test_changes_of_a_network_of_another_kind():
    dotted = unnoise.preset("digits", {"network.kind": "dit", "network.depth": 2})
    assert unnoise.preset("digits", {"network": {"kind": "dit", "depth": 2}}) == dotted
    for changes in ([1], "x", 3):
        with pytest.raises(ConfigError, match="changes: got"):
            unnoise.preset("digits", changes)
