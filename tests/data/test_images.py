"""Pixels to the network's numbers and back; grids; PNGs that carry text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from unnoise.data.images import from_model, grid, read_png_text, save_png, to_model
from unnoise.errors import DataError, DivergedError


def test_all_256_values_survive_the_round_trip_and_fill_the_range():
    values = torch.arange(256, dtype=torch.uint8)
    numbers = to_model(values)
    assert numbers[0] == -1 and numbers[255] == 1 and numbers.dtype == torch.float32
    assert torch.equal(from_model(numbers), values)
    spacing = numbers.double().diff()
    torch.testing.assert_close(spacing, torch.full_like(spacing, 2 / 255), rtol=0, atol=1e-7)


def test_what_lies_outside_the_range_is_clamped():
    assert from_model(torch.tensor([-7.0, -1.001, 1.001, 9.0])).tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_no_picture(value):
    with pytest.raises(DivergedError, match="pictures: got values that are not finite; expected"):
        from_model(torch.tensor([0.0, value]))


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_places_every_pixel(channels):
    images = torch.randint(0, 256, (5, channels, 4, 6), dtype=torch.uint8)
    sheet = np.asarray(grid(images, columns=3, padding=2, scale=2)).reshape(
        -1, 3 * 14 + 2, channels
    )
    assert sheet.shape[0] == 2 * 10 + 2
    for i, image in enumerate(images):
        top, left = i // 3 * 10 + 2, i % 3 * 14 + 2
        cell = sheet[top : top + 8 : 2, left : left + 12 : 2]
        assert np.array_equal(cell, image.permute(1, 2, 0).numpy())
    assert (sheet[:2] == 255).all() and (sheet[:, :2] == 255).all()
    assert (sheet[12:20, 30:42] == 255).all(), "the empty sixth cell is white"


def test_png_keeps_pixels_and_unicode_text(tmp_path):
    image = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    path = tmp_path / "new folder" / "ü.png"
    save_png(path, image, {"unnoise": '{"label": "Äpfel"}'})
    assert read_png_text(path) == {"unnoise": '{"label": "Äpfel"}'}
    with Image.open(path) as picture:
        assert np.array_equal(np.asarray(picture), image.permute(1, 2, 0).numpy())
    assert [p.name for p in path.parent.iterdir()] == ["ü.png"], "no temporary file stays"


def test_reading_the_text_of_no_picture_is_a_data_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    with pytest.raises(DataError, match="cannot be read as a picture"):
        read_png_text(tmp_path / "a.png")
    with pytest.raises(DataError):
        read_png_text(tmp_path / "none.png")
