"""`unnoise data`: its flags, and where its mosaic goes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from unnoise import cli


@pytest.fixture
def photos(tmp_path):
    """Three cats and three dogs."""
    for name in ("cats", "dogs"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(3):
            pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path / "photos"


def said(capsys, *arguments):
    """What `unnoise data` prints, and its last line, which names the mosaic."""
    assert cli.main(["data", *arguments]) == 0
    out = capsys.readouterr().out
    return out, out.splitlines()[-1]


@pytest.mark.parametrize("inside", ["", "cats"])
def test_inside_the_pictures_the_mosaic_goes_beside_them(photos, monkeypatch, capsys, inside):
    monkeypatch.chdir(photos / inside)
    before = set(photos.rglob("*"))
    first, line = said(capsys, ".." if inside else ".")
    assert (
        line == f"mosaic: {photos.parent / 'photos-mosaic.png'}"
        and (photos.parent / "photos-mosaic.png").exists()
    )
    assert set(photos.rglob("*")) == before
    assert said(capsys, str(photos))[0] == first and "6 images" in first and "2 classes" in first


def test_elsewhere_the_mosaic_is_written_here(photos, monkeypatch, capsys):
    monkeypatch.chdir(photos.parent)
    assert (
        said(capsys, "photos")[1] == "mosaic: mosaic.png"
        and (photos.parent / "mosaic.png").exists()
    )


def test_out_is_obeyed_and_not_counted_the_next_time(photos, monkeypatch, capsys):
    monkeypatch.chdir(photos)
    assert (
        said(capsys, ".", "--out", "mosaic.png")[1] == "mosaic: mosaic.png"
        and (photos / "mosaic.png").exists()
    )
    again, _ = said(capsys, ".")
    assert (
        "6 images" in again and "cats 3, dogs 3" in again and "mosaic.png: made by unnoise" in again
    )


@pytest.mark.parametrize("flags", [
    ["--image-size", "16", "--channels", "1"],
    ["--data.image-size", "16", "--data.channels", "1"],
    ["--data.image-size=16", "--data.channels=1"],
    ["--data.image_size=16", "--channels", "1"],
    ["--size=16", "--data.channels", "1"],
])  # fmt: skip
def test_flags_have_their_long_names_too(photos, tmp_path, capsys, flags):
    out, _ = said(capsys, str(photos), "--out", str(tmp_path / "m.png"), *flags)
    assert "16 x 16, grey" in out


def test_the_flags_that_messages_name_exist(photos, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UNNOISE_CACHE", str(tmp_path / "file"))
    assert cli.main(["data", str(photos)]) == 2
    assert "choose another with --data.cache FOLDER" in capsys.readouterr().err
    said(
        capsys,
        str(photos),
        "--out",
        str(tmp_path / "m.png"),
        "--data.cache",
        str(tmp_path / "cache"),
    )
    assert cli.main(["data", str(photos), "--data.chanels", "1"]) == 2
    assert "did you mean '--data.channels'?" in capsys.readouterr().err
