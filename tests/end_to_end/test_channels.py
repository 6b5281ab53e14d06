"""Models of RGBA and of five channels, from training to files, edits and measurements."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import unnoise
from unnoise import editing
from unnoise.cli import main
from unnoise.data.config import DataConfig
from unnoise.data.images import opaque, read_png, straight
from unnoise.errors import ConfigError
from unnoise.evaluation.extractors import Extractor, suited

SMALL = {
    "train.kimg": 0.032, "train.batch_size": 16, "network.base_channels": 8, "sample.steps": 2,
    "network.norm_groups": 8, "device": "cpu", "train.precision": "fp32",
}  # fmt: skip
RANDOM = np.random.default_rng(5)
FIVE = RANDOM.integers(0, 256, (40, 5, 8, 8), np.uint8)


@pytest.fixture(scope="module")
def rgba(tmp_path_factory):
    """A folder with pictures/ of any colours and alpha, and the run of them."""
    here = tmp_path_factory.mktemp("rgba")
    (here / "pictures").mkdir()
    for i in range(40):
        picture = Image.fromarray(RANDOM.integers(0, 256, (8, 8, 4), np.uint8))
        picture.save(here / "pictures" / f"{i}.png")
    changes = {**SMALL, "data.channels": 4, "data.image_size": 8, "data.cache": str(here / "cache")}
    unnoise.train(str(here / "pictures"), here / "run", changes)
    return here


def test_pngs_are_the_samples_with_straight_colours(rgba, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["sample", str(rgba / "run"), "--num", "3", "--out", "s", "--animate", "webp"]) == 0
    images = unnoise.load(rgba / "run", "cpu").sample(3)
    assert images.shape == (3, 4, 8, 8)
    for i, image in enumerate(images):
        with Image.open(f"s/seed-{i:06d}.png") as picture:
            assert picture.mode == "RGBA"
            found = np.asarray(picture)
        assert np.array_equal(found, straight(image.permute(1, 2, 0).numpy()))
    for name in ("s/grid.png", rgba / "run" / "data.png"):
        with Image.open(name) as picture:
            assert picture.mode == "RGB"


def test_inpainting_keeps_the_known_pixels_of_an_rgba_file(rgba, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = rgba / "pictures" / "0.png"
    words = ["edit", "inpaint", str(rgba / "run"), str(source), "--box", "2,2,3,3", "-n", "2"]
    assert main([*words, "--out", "e"]) == 0
    model = unnoise.load(rgba / "run", "cpu")
    before = editing.read_picture(model, source)
    assert np.array_equal(before[3], np.asarray(Image.open(source))[..., 3])
    for i in range(2):
        after = read_png(f"e/inpaint-{i:06d}.png")
        changed = (after != before).any(0)
        assert changed[2:5, 2:5].any() and not changed[[0, 1, 5, 6, 7]].any()


def test_a_picture_and_its_mask_are_fitted_as_the_training_pictures_were(rgba, tmp_path):
    model = unnoise.load(rgba / "run", "cpu")
    data = DataConfig(source="", fit="pad", resample="nearest", channels=4)
    object.__setattr__(model.config, "data", data)
    Image.new("RGB", (8, 4), "red").save(tmp_path / "a.png")
    Image.new("L", (8, 4), 255).save(tmp_path / "mask.png")
    picture = editing.read_picture(model, tmp_path / "a.png")
    mask = editing.read_mask(model, tmp_path / "mask.png")
    assert torch.equal(picture[3] == 255, mask) and mask[2:6].all() and mask.sum() == 32


def test_five_channels_are_written_as_arrays_that_tell_their_recipe(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = unnoise.dataset(FIVE, config=DataConfig(source="x", cache="cache"))
    model = unnoise.train("digits", "run", SMALL, data=data)
    for _ in range(2):
        assert main(["sample", "run", "--num", "2", "--out", "s", "--device", "cpu"]) == 0
        said = "".join(capsys.readouterr())
        assert said.count("is an .npz with image (c, h, w)") == 1 and "replaces" not in said
    for i, image in enumerate(model.sample(2)):
        assert image.shape == (5, 8, 8)
        assert torch.equal(read_png(f"s/seed-{i:06d}.npz"), image)
    assert main(["info", "s/seed-000001.npz"]) == 0
    assert json.loads(capsys.readouterr().out)["seed"] == 1
    assert main(["edit", "variations", "run", "3", "-n", "2", "--out", "e"]) == 0
    assert read_png("e/variations-000001.npz").shape == (5, 8, 8)
    capsys.readouterr()
    Image.new("RGB", (8, 8)).save("a.png")
    assert main(["edit", "image", "run", "a.png"]) == 2
    said = "a.png: no picture file holds 5 channels; expected a seed"
    assert said in capsys.readouterr().err
    record = unnoise.evaluate(model, "ev", 2, data=data, likelihood=False)
    assert [one["extractor"] for one in record["distances"]] == ["tiny"]
    np.savez("data.npz", images=FIVE)
    assert main(["evaluate", "./s", "--against", "data.npz", "--out", "o"]) == 0
    found = json.loads(Path("o/evaluation.json").read_text())
    assert found["data"]["size"] == [5, 8, 8] and found["samples"]["num"] == 2
    (one,), (other,) = found["distances"], record["distances"]
    assert one["samples"]["frechet"] == pytest.approx(other["samples"]["frechet"], rel=0.2)
    Path("s/seed-000001.npz").write_bytes(b"PK")
    assert main(["evaluate", "s", "--against", "data.npz"]) == 2
    assert "s: its samples cannot be read" in capsys.readouterr().err


def test_features_of_rgba_are_those_of_the_picture_on_white():
    images = torch.randint(0, 256, (3, 4, 8, 8), dtype=torch.uint8)
    images[:, :3] = images[:, :3].minimum(images[:, 3:])
    seen = Extractor("x", False, {}, torch.device("cpu"), lambda x: x, lambda x: x.flatten(1))
    assert torch.equal(seen.features(images), opaque(images).float().flatten(1))
    assert seen.features(images).shape == (3, 3 * 64)


def test_inception_takes_colours_alone():
    assert suited("auto", (5, 32, 32)) == "tiny"
    with pytest.raises(ConfigError, match="extractor clean: got images of 2 channels, expected"):
        suited("clean", (2, 32, 32))
