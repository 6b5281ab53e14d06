"""2 channels, or more than 4, from arrays; windows of larger pictures; the range of deep greys."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from unnoise.config import RunConfig, from_dict, override, to_dict
from unnoise.data.config import DataConfig
from unnoise.data.dataset import dataset, load, report
from unnoise.data.fit import Target, fit
from unnoise.errors import ConfigError, DataError

RANDOM = np.random.default_rng(3)
PLAIN = DataConfig(source="x", held_out=0.0)


def ordered(images):
    """Rows of images in an order of their own."""
    return sorted(image.tobytes() for image in images)


@pytest.mark.parametrize("channels", [2, 5, 13])
def test_every_layout_of_many_channels_is_the_same_data(channels):
    pixels = RANDOM.integers(0, 256, (9, channels, 20, 14), np.uint8)
    first = dataset(pixels, config=PLAIN)
    assert first.images.shape == pixels.shape and ordered(first.images) == ordered(pixels)
    assert f"20 x 14, {channels} channels, flips off" in report(first)
    for form in (pixels.transpose(0, 2, 3, 1), torch.from_numpy(pixels), pixels / 255):
        assert dataset(form, config=PLAIN).fingerprint == first.fingerprint


def test_a_tensor_of_more_channels_than_rows_is_channels_first():
    assert dataset(torch.zeros(2, 9, 6, 7, dtype=torch.uint8)).images.shape == (2, 9, 6, 7)


def test_each_channel_is_resized_as_a_grey_picture_is():
    pixels = RANDOM.integers(0, 256, (1, 2, 24, 24), np.uint8)
    (image,) = dataset(pixels, config=DataConfig(source="x", image_size=8)).images
    for channel, found in zip(pixels[0], image, strict=True):
        assert np.array_equal(fit(Image.fromarray(channel), Target(8, 8, 1, "white"))[0], found)


def test_rgba_arrays_are_kept_where_asked_and_else_composited():
    pixels = RANDOM.integers(0, 256, (5, 8, 8, 4), np.uint8)
    assert dataset(pixels).images.shape == (5, 3, 8, 8)
    kept = dataset(pixels, config=DataConfig(source="x", channels=4, held_out=0.0)).images
    expected = [np.asarray(Image.fromarray(p).convert("RGBa")).transpose(2, 0, 1) for p in pixels]
    assert ordered(kept) == ordered(np.ascontiguousarray(p) for p in expected)


@pytest.mark.parametrize(("arguments", "expected"), [
    (([np.zeros((2, 8, 8), np.uint8), np.zeros((3, 8, 8), np.uint8)],), "image 1 has other ch.* 1"),
    (([np.zeros((2, 8, 8), np.uint8), np.zeros((5, 8, 8), np.uint8)],), "5 in place of 2"),
    ((np.zeros((3, 2, 8, 8), np.uint8), None, None, "x", DataConfig(source="x", channels=3)),
     "got channels=3 for 2; leave it out"),
])  # fmt: skip
def test_what_does_not_fit_together_is_one_line(arguments, expected):
    with pytest.raises(DataError, match=expected):
        dataset(*arguments)


def test_picture_files_hold_no_other_channels(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"data\.channels: got 5, expected 1, 3 or 4"):
        load(DataConfig(source=str(tmp_path), channels=5, cache=str(tmp_path / "c")))  # pyright: ignore


# --- random crops


def numbered(height, width):
    """A grey picture whose pixels say where they lie (as far as 256 values can)."""
    return Image.fromarray((np.arange(height)[:, None] * 16 + np.arange(width)).astype(np.uint8))


def test_a_random_crop_is_a_window_of_the_picture_and_always_the_same():
    picture, wanted = numbered(16, 16), Target(4, 4, 1, "white", fit="random-crop", crops=40)
    corners = set()
    for number in range(40):
        (window,) = fit(picture, wanted, number)
        top, left = divmod(int(window[0, 0]), 16)
        assert np.array_equal(window, np.asarray(picture)[top : top + 4, left : left + 4])
        assert np.array_equal(window, fit(picture, wanted, number)[0])
        corners.add((top, left))
    assert len(corners) > 20
    assert {min(c) for c in zip(*corners, strict=True)} == {0}
    assert {max(c) for c in zip(*corners, strict=True)} == {12}


def test_a_picture_smaller_than_the_window_is_cropped_as_usual():
    for size in ((3, 9), (9, 3), (2, 2)):
        ways = [
            fit(numbered(*size), Target(4, 4, 1, "white", fit=f)) for f in ("random-crop", "crop")
        ]
        assert np.array_equal(*ways)


def test_crops_multiply_the_pictures_and_stay_on_one_side_of_the_split(tmp_path):
    folder = tmp_path / "pictures"
    for i in range(10):
        (folder / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("L", (20, 20), 20 * i).save(folder / "ab"[i % 2] / f"{i}.png")
    how = {"image_size": 8, "fit": "random-crop", "held_out": 0.2, "cache": str(tmp_path / "c")}
    data = load(DataConfig(source=str(folder), crops=3, **how))
    assert data.images.shape == (30, 3, 8, 8) and data.num_train == 24
    values = data.images[:, 0, 0, 0]
    assert not {*values[:24]} & {*values[24:]} and data.labels is not None
    assert np.array_equal(data.labels, values // 20 % 2)
    assert (
        len(load(DataConfig(source=str(folder), crops=3, **(how | {"image_size": 32}))).images)
        == 10
    )
    with pytest.raises(ConfigError, match=r"data\.crops: got 3, expected --data\.fit random-crop"):
        load(DataConfig(source=str(folder), crops=3))
    for i, size in enumerate(((6, 40), (40, 6), (8, 8), (8, 9))):  # one crop, but for the last
        Image.new("L", size).save(tmp_path / f"{i}.png")
    one = DataConfig(source=str(tmp_path / "thin"), crops=3, **how)
    (tmp_path / "thin").mkdir()
    for i in range(4):
        (tmp_path / f"{i}.png").rename(tmp_path / "thin" / f"{i}.png")
    assert len(load(one).images) == 1 + 1 + 1 + 3


def test_the_channels_of_an_array_are_cropped_at_one_place(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (20, 1, 40, 40), dtype=np.uint8)
    np.save(tmp_path / "a.npy", np.concatenate([pictures, 255 - pictures], 1))
    how = {"image_size": 8, "fit": "random-crop", "crops": 2, "cache": str(tmp_path / "c")}
    found = load(DataConfig(source=str(tmp_path / "a.npy"), **how)).images
    assert found.shape == (40, 2, 8, 8) and np.array_equal(found[:, 0], 255 - found[:, 1])
    assert len({image.tobytes() for image in found}) == 40


# --- the range of deep greys


def test_the_range_of_a_ct_becomes_black_to_white(tmp_path):
    values = np.array([[-2000, -1024, 0, 1023], [1024, 3071, 4000, 3070]])
    expected = np.round((values.clip(-1024, 3071) + 1024) * (255 / 4095))
    for kind in (np.float32, np.int32):
        Image.fromarray(values.astype(kind)).save(tmp_path / "a.tif")
        how = {"source": str(tmp_path), "channels": 1, "fit": "stretch", "resample": "nearest",
               "image_size": 2, "image_width": 4, "cache": str(tmp_path / "c")}  # fmt: skip
        assert np.array_equal(
            load(DataConfig(**how, grey_range=(-1024.0, 3071.0))).images[0, 0], expected
        )
        with pytest.raises(
            DataError, match=r"got -2000 to 4000, expected 0 to .*--data\.grey-range"
        ):
            load(DataConfig(**how))
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="not finite"):
        load(DataConfig(source=str(tmp_path), grey_range=(0.0, 1.0), cache=str(tmp_path / "c")))


def test_a_range_that_is_none_is_refused(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    for low, high in ((5.0, 5.0), (9.0, 1.0)):
        config = DataConfig(source=str(tmp_path), grey_range=(low, high))
        with pytest.raises(ConfigError, match=rf"got {low:g} {high:g}, expected LOW below HIGH"):
            load(config)


def test_an_old_record_keeps_its_white_level():
    record = to_dict(RunConfig())
    del record["data"]["grey_range"], record["data"]["crops"]
    assert (
        from_dict(RunConfig, {**record, "data": {**record["data"], "white_level": None}})
        == RunConfig()
    )
    old = from_dict(RunConfig, {**record, "data": {**record["data"], "white_level": 4095.0}})
    assert old.data.grey_range == (0.0, 4095.0)
    with pytest.raises(ConfigError, match=r"data\.white_level: this setting no longer exists"):
        override(RunConfig(), {"data.white_level": 4095.0})
