"""Transparency: premultiplied pixels inside, straight colours in files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import unnoise
from unnoise.data.config import DataConfig
from unnoise.data.dataset import load, report
from unnoise.data.fit import Target, fit
from unnoise.data.folder import read_picture
from unnoise.data.images import CHECK, CHECK_GREYS, grid, opaque, read_png, save_png, straight

RGBA = Target(8, 8, 4, "white")


def every_pair():
    """(4, 256, 256) premultiplied: all colours from 0 to alpha, for every alpha."""
    alpha, colour = np.mgrid[:256, :256].astype(np.uint8)
    colour = np.minimum(colour, alpha)
    return torch.from_numpy(np.stack([colour, alpha - colour, colour // 2, alpha]))


def test_every_premultiplied_pixel_survives_a_file(tmp_path):
    pixels = every_pair()
    save_png(tmp_path / "a.png", pixels, {})
    assert torch.equal(read_png(tmp_path / "a.png"), pixels)
    read = read_picture(tmp_path / "a.png", Target(256, 256, 4, "white"))
    assert np.array_equal(read, pixels.numpy())


def test_a_file_holds_the_colour_that_was_premultiplied():
    pixels = every_pair().permute(1, 2, 0).numpy()
    with_alpha = pixels[1:]
    exact = 255 * with_alpha[..., :3].astype(float) / with_alpha[..., 3:]
    assert np.abs(straight(with_alpha)[..., :3] - exact).max() <= 0.5
    assert (straight(pixels)[0] == 0).all(), "a transparent pixel hides no colour"


def test_colours_above_alpha_end_at_255_and_alpha_stays():
    pixels = np.array([[[9, 200, 255, 8], [50, 1, 0, 0], [1, 2, 3, 255]]], np.uint8)
    expected = [[255, 255, 255, 8], [0, 0, 0, 0], [1, 2, 3, 255]]
    assert straight(pixels)[0].tolist() == expected


def test_hidden_colours_do_not_bleed_into_edges():
    picture = Image.new("RGBA", (64, 64), (255, 0, 0, 0))  # red, and nobody sees it
    picture.paste((0, 0, 255, 255), (20, 20, 45, 45))
    for resample in (False, True):
        pixels = fit(picture, Target(8, 8, 4, "white", nearest=resample))
        assert (pixels[0] == 0).all() and (pixels[2] == pixels[3]).all()
    assert 0 < (pixels[3] > 0).sum() < 64


def test_no_colour_is_above_alpha_where_resizing_overshoots():
    sharp = np.full((40, 40, 4), 128, np.uint8)
    sharp[:, ::7, :3] = 0
    sharp[..., 0] = np.minimum(sharp[..., 0], 127) * 2  # 0 or nearly 255
    picture = Image.fromarray(sharp)
    for size in (16, 64):
        pixels = fit(picture, Target(size, size, 4, "white"))
        assert (pixels[:3] <= pixels[3:]).all() and (pixels[3] == 128).all()


def test_composited_on_white_it_is_what_pillow_makes():
    random = np.random.default_rng(1)
    picture = Image.fromarray(random.integers(0, 256, (8, 8, 4), np.uint8))
    ours = opaque(torch.from_numpy(fit(picture, RGBA))[None])[0].int()
    theirs = torch.from_numpy(fit(picture, Target(8, 8, 3, "white"))).int()
    assert (ours - theirs).abs().max() <= 1
    white = torch.full((1, 3, 4, 4), 7, dtype=torch.uint8)
    assert opaque(white) is white


@pytest.mark.parametrize(
    "mode", ["L", "LA", "PA", "P", "1", "CMYK", "YCbCr", "HSV", "RGBa", "I;16"]
)
def test_every_mode_becomes_rgba(mode):
    values = np.random.default_rng(2).integers(0, 256, (8, 8, 4), np.uint8)
    source = Image.fromarray(values)
    source = source if mode in ("PA", "RGBa") else source.convert("RGB")
    picture = source.convert("L" if mode == "I;16" else mode).convert(mode)
    pixels = fit(picture, RGBA)
    assert pixels.shape == (4, 8, 8) and (pixels[3].min() < 255) == (mode in ("PA", "RGBa"))
    if mode == "RGBa":
        assert np.array_equal(pixels.transpose(1, 2, 0), np.asarray(picture))


def test_padding_is_transparent():
    picture = Image.new("RGB", (8, 4), "red")
    pixels = fit(picture, Target(8, 8, 4, "white", fit="pad"))
    assert (pixels[:, :2] == 0).all() and (pixels[:, 2:6, 0, None] == pixels[:, 2:6]).all()
    assert pixels[:, 4, 4].tolist() == [255, 0, 0, 255]


@pytest.fixture
def folder(tmp_path):
    """Five pictures; two are transparent in places, one has an alpha of no use."""
    path = tmp_path / "pictures"
    path.mkdir()
    for i in range(5):
        picture = Image.new("RGBA" if i < 3 else "RGB", (8, 8), (i, 100, 200))
        if i < 2:
            picture.putpixel((3, 4), (255, 255, 255, 0))
        picture.save(path / f"{i}.png")
    return path


def test_the_report_says_how_to_keep_transparency(folder, tmp_path):
    def said(**changes):
        config = {"source": str(folder), "image_size": 8, "cache": str(tmp_path / "cache")}
        return report(load(DataConfig(**{**config, **changes})))

    note = "2 of 5 pictures have transparent pixels, now {}; --data.channels 4 keeps them"
    assert note.format("white") in said() and "8 x 8, RGB," in said()
    assert note.format("black") in said(background="black", channels=1)
    kept = said(channels=4)
    assert "8 x 8, RGBA, flips off" in kept and "transparent" not in kept
    for i in range(2):
        (folder / f"{i}.png").unlink()
    assert "transparent" not in said(), "opaque RGBA is not worth a word"


def test_a_grid_shows_the_ground_through_and_opaque_pixels_as_they_are():
    image = torch.zeros(1, 4, 16, 16, dtype=torch.uint8)
    image[0, :, 8:] = torch.tensor([10, 20, 30, 255], dtype=torch.uint8)[:, None, None]
    image[0, :, 0, 0] = torch.tensor([99, 0, 0, 99], dtype=torch.uint8)
    sheet = np.asarray(grid(image, padding=1, scale=1))
    assert sheet.shape == (18, 18, 3) and (sheet[0] == 255).all()
    assert (sheet[9:17, 1:17] == (10, 20, 30)).all()
    assert {tuple(p) for p in sheet[1:9, 9]} == {(CHECK_GREYS[1],) * 3} and CHECK == 8
    ground = round(156 * CHECK_GREYS[0] / 255)
    assert sheet[1, 1].tolist() == [99 + ground, ground, ground]


@pytest.mark.parametrize("channels", [2, 5])
def test_other_channels_are_shown_one_below_the_other(channels):
    images = torch.randint(0, 256, (3, channels, 4, 6), dtype=torch.uint8)
    sheet = np.asarray(grid(images, columns=3, padding=2, scale=1))
    assert sheet.shape == (4 * channels + 4, 3 * 8 + 2)
    for i in range(3):
        for c in range(channels):
            left, top = 2 + 8 * i, 2 + 4 * c
            assert np.array_equal(sheet[top : top + 4, left : left + 6], images[i, c].numpy())
    with pytest.raises(unnoise.errors.DataError, match=f"got {channels} channels, expected 1, 3"):
        save_png("never.png", images[0], {})


def test_the_mosaic_of_rgba_is_rgb(folder, tmp_path):
    from unnoise.data.images import mosaic

    config = DataConfig(source=str(folder), channels=4, cache=str(tmp_path / "cache"))
    assert mosaic(load(config)).mode == "RGB"
