"""Pictures of another shape or size than the asked one, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import unnoise
from unnoise.data.config import DataConfig
from unnoise.data.fit import fit, target
from unnoise.errors import ConfigError

RED, BLUE, WHITE, BLACK = (255, 0, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def fitted(picture, **settings):
    """Rows of RGB tuples."""
    image = fit(picture, target(DataConfig(**settings)))
    return [[tuple(int(v) for v in pixel) for pixel in row] for row in image.transpose(1, 2, 0)]


def wide():
    """8 x 4: two red columns, four blue, two red."""
    picture = Image.new("RGB", (8, 4), RED)
    picture.paste(BLUE, (2, 0, 6, 4))
    return picture


def test_crop_keeps_the_middle():
    assert fitted(wide(), image_size=4) == [[BLUE] * 4] * 4


@pytest.mark.parametrize(("background", "colour"), [("white", WHITE), ("black", BLACK)])
def test_pad_keeps_all_on_the_background(background, colour):
    how = {"fit": "pad", "resample": "nearest", "background": background}
    bar, row = [colour] * 4, [RED, BLUE, BLUE, RED]
    assert fitted(wide(), image_size=4, **how) == [bar, row, row, bar]


def test_stretch_keeps_all_and_changes_the_shape():
    how = {"fit": "stretch", "resample": "nearest"}
    assert fitted(wide(), image_size=4, **how) == [[RED, BLUE, BLUE, RED]] * 4
    square = fitted(wide(), image_size=4, fit="stretch")  # smooth: the edges mix
    assert square[0][0] != RED or square[0][1] != BLUE


def test_nearest_doubles_pixels_and_smooth_does_not():
    picture = Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]] * 2, np.uint8))
    sharp = fitted(picture, image_size=4, resample="nearest")
    assert sharp == [[RED, RED, BLUE, BLUE]] * 4
    assert fitted(picture, image_size=4) != sharp


def test_each_way_has_a_cache_of_its_own(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a", "b"):
        wide().save(folder / f"{name}.png")
    seen = set()
    for how in ({}, {"data.fit": "pad"}, {"data.fit": "stretch"}, {"data.resample": "nearest"}):
        config = unnoise.preset(
            str(folder), {"data.image_size": 4, "data.cache": str(tmp_path), **how}
        )
        seen.add(unnoise.load_data(config).images.tobytes())
    assert len(seen) == 3  # cropped to 4 x 4 there is nothing to resize
    with pytest.raises(ConfigError, match=r"data\.fit: got 'squash'"):
        unnoise.preset(str(folder), {"data.fit": "squash"})


def test_arrays_are_fitted_too():
    images = np.asarray(wide())[None]
    config = DataConfig(source="x", image_size=4, image_width=4, fit="pad", resample="nearest")
    data = unnoise.dataset(images, config=config)
    assert data.images[0, :, 1, 0].tolist() == [255, 0, 0]
    assert data.images[0, :, 0, 0].tolist() == [255, 255, 255]
