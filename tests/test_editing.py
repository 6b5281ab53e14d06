"""Editing with the bundled digits model, and the commands that do it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import unnoise
from unnoise import cli, editing
from unnoise.data.images import read_png_text
from unnoise.diffusion.samplers import SAMPLERS
from unnoise.errors import ConfigError


@pytest.fixture(scope="module")
def model():
    return unnoise.load("digits", "cpu")


@pytest.fixture(scope="module")
def three(model):
    return model.sample(1, seed=103, label=3)[0]


@pytest.fixture
def folder(tmp_path, monkeypatch, three):
    monkeypatch.chdir(tmp_path)
    unnoise.save_png("three.png", three, {})
    return tmp_path


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_inpainting_keeps_known_bytes_with_every_solver(model, three, sampler):
    unknown = editing.box_mask(model, (2, 0, 4, 3))
    images = editing.inpaint(model, three, unknown, range(4), sampler=sampler, steps=6)
    assert torch.equal(images[:, :, ~unknown], three[:, ~unknown].expand(4, 1, -1))
    assert not torch.equal(images[0], images[1])


def test_edits_depend_on_the_seed_and_not_on_the_batch(model, three):
    unknown = editing.box_mask(model, (0, 4, 8, 4))
    for edit in (
        lambda seeds: editing.inpaint(model, three, unknown, seeds),
        lambda seeds: editing.outpaint(model, three, (2, 0, 3, 0), seeds),
        lambda seeds: editing.image_to_image(model, three, 0.7, seeds),
        lambda seeds: editing.variations(model, 5, 0.4, seeds),
    ):
        together = edit([3, 9, 4])
        assert torch.equal(together[1], edit([9])[0])


def test_outpainting_keeps_the_picture_and_fills_any_canvas(model, three):
    for extend in ((0, 0, 3, 0), (8, 5, 0, 0), (9, 3, 4, 10)):
        left, top, right, bottom = extend
        images = editing.outpaint(model, three, extend, range(2), steps=5)
        assert images.shape == (2, 1, 8 + top + bottom, 8 + left + right)
        assert torch.equal(images[:, :, top : top + 8, left : left + 8], three.expand(2, 1, 8, 8))
        assert (images[:, :, :, : left or None].float().flatten(1).std(1) > 10).all()


def test_outpainting_paints_every_pixel_once(model, three, monkeypatch):
    real = editing.editing.inpaint

    def spy(denoiser, known, unknown, draw):
        calls.append(int(unknown.sum()))
        return real(denoiser, known, unknown, draw)

    calls: list[int] = []
    monkeypatch.setattr(editing.editing, "inpaint", spy)
    editing.outpaint(model, three, (11, 4, 9, 5), range(1), steps=2)
    assert sum(calls) == 17 * 28 - 64


def test_strength_is_the_distance_from_the_picture(model, three):
    def distance(strength):
        images = editing.image_to_image(model, three, strength, range(16), steps=20)
        return float((images.float() - three.float()).pow(2).mean())

    near, middle, far = (distance(strength) for strength in (0.1, 0.5, 1.0))
    assert near < middle < far


def test_reconstruction_gives_the_picture_back(model, three):
    noise, image = editing.reconstruct(model, three, label=3)
    assert noise.shape == (1, 8, 8) and 0.7 < float(noise.std()) < 1.3
    assert (image.int() - three.int()).abs().max() <= 2
    _, classical = editing.reconstruct(model, three, label=3, iterations=1)
    assert (classical.int() - three.int()).abs().float().mean() > (
        image.int() - three.int()
    ).abs().float().mean()


def test_interpolation_starts_and_ends_on_its_sources(model, three):
    frames = editing.interpolate(model, 4, 9, 5)
    assert torch.equal(frames[[0, -1]], model.sample(seeds=[4, 9], label="none"))
    between = editing.interpolate(model, three, 9, 5, label=3)
    assert (between[0].int() - three.int()).abs().max() <= 2


def test_the_plane_has_its_seeds_at_the_corners_and_their_ways_on_its_sides(model):
    corners, ends = (4, 9, 5, 7), [(0, 0), (1, 0), (0, 1), (1, 1)]
    pictures = editing.plane(model, corners, [*ends, (0.5, 0.0), (1.0, 0.25)])
    assert torch.equal(pictures[:4], model.sample(seeds=corners, label="none"))
    for picture, (a, b, share) in zip(pictures[4:], [(4, 9, 2), (9, 7, 1)], strict=True):
        between = editing.interpolate(model, a, b, 5)[share]
        assert (picture.int() - between.int()).abs().max() <= 1
    with pytest.raises(ConfigError, match="without noise on the way"):
        editing.plane(model, corners, ends, sampler="ddpm")


def test_morphing_starts_and_ends_on_its_classes(model):
    frames = editing.morph(model, 7, 3, 8, 5)
    for frame, label in ((frames[0], 3), (frames[-1], 8)):
        expected = model.sample(seeds=[7], label=label)[0]
        assert (frame.int() - expected.int()).abs().max() <= 1


def test_variations_are_nearer_the_smaller_the_strength(model):
    own = model.sample(seeds=[5], label=5).float()
    near, far = (
        float(
            (editing.variations(model, 5, strength, range(16), label=5).float() - own).pow(2).mean()
        )
        for strength in (0.1, 0.9)
    )
    assert near < far / 2
    others = editing.variations(model, 5, 1.0, [7, 8], label=5)
    assert torch.equal(others, model.sample(seeds=[7, 8], label=5))


def test_what_cannot_be_edited_is_said(model, three):
    with pytest.raises(ConfigError, match=r"picture: got torch.float32"):
        editing.image_to_image(model, three.float(), 0.5)
    with pytest.raises(
        ConfigError, match=r"box: got 7,7,2,2, expected x,y,width,height within 8 x 8"
    ):
        editing.box_mask(model, (7, 7, 2, 2))
    with pytest.raises(ConfigError, match="without noise on the way"):
        editing.interpolate(model, 1, 2, sampler="ddpm")


COMMANDS = {
    "inpaint three.png --box 0,4,8,4 --num 3": (3, 5),
    "inpaint three.png --mask mask.png --seeds 4,5 --label 3": (2, 4),
    "outpaint three.png --extend 0,4,0,4 --num 2": (2, 2),
    "image three.png --strength 0.5 --num 2 --sampler dpmpp_2m --steps 8": (2, 3),
    "interpolate 3 three.png --frames 4 --animate": (4, 4),
    "reconstruct three.png --label 3 --iterations 2": (1, 3),
    "variations 5 --strength 0.2 --num 3 --label 5": (3, 3),
    "morph 5 --from 3 --to 8 --frames 3 --animate webp": (3, 3),
}


@pytest.mark.parametrize("arguments", COMMANDS)
def test_commands_write_pictures_that_say_how_they_were_made(folder, capsys, arguments):
    Image.new("L", (40, 40)).save("mask.png")
    mask = Image.new("L", (40, 40))
    mask.paste(255, (0, 0, 40, 15))
    mask.save("mask.png")
    kind, *rest = arguments.split()
    sources = [word for word in rest[:2] if not word.startswith("-")]
    assert cli.main(["edit", kind, "digits", *rest, "--out", "new", "--scale", "1"]) == 0
    singles = sorted((folder / "new").glob(f"{kind}-*.png"))
    count, shown = COMMANDS[arguments]
    assert len(singles) == count
    recipe = json.loads(read_png_text(singles[0])["unnoise"])
    assert recipe["edit"] == kind and recipe["sources"] == sources[: len(recipe["sources"])]
    with Image.open(folder / "new" / f"{kind}.png") as picture:
        sheet = np.asarray(picture)
    across = []
    for path in singles:
        with Image.open(path) as single:
            windows = np.lib.stride_tricks.sliding_window_view(sheet, single.size[::-1])
            corners = np.argwhere((windows == np.asarray(single)).all((2, 3)))
        assert len(corners), f"{path.name} is in the sheet as it is"
        across.append(corners[:, 1].min())
    assert sheet.shape[1] >= shown * (single.width + 2) + 2
    assert across[0] > (shown - count) * (single.width + 2), "after the originals"
    if "--animate" in arguments:
        file = folder / "new" / f"{kind}.{'webp' if 'webp' in arguments else 'gif'}"
        with Image.open(file) as animation:
            assert animation.n_frames == 2 * count - 2


@pytest.mark.parametrize(("arguments", "expected"), [
    ("inpant digits three.png", "did you mean 'inpaint'?"),
    ("inpaint digits", "expected a picture file"),
    ("inpaint digits three.png", "expected one of --mask FILE and --box"),
    ("inpaint digits none.png --box 0,0,2,2", "none.png: cannot be read"),
    ("inpaint digits three.png --box 1,2", "--box: got '1,2', expected x,y,width,height"),
    ("inpaint digits three.png --mask three.txt", "three.txt"),
    ("inpaint digits 5 --box 0,0,2,2", "expected the path of a picture"),
    ("image digits three.png --mask a.png", "no flag --mask"),
    ("image digits three.png --strength 0", "strength: got 0"),
    ("outpaint digits three.png --extend 0,0,0,0", "extend: got 0,0,0,0"),
    ("interpolate digits 1", "expected two pictures or seeds"),
    ("interpolate digits 1 2 --frames 0", "frames: got 0"),
    ("morph digits 5 --from 3", "expected --from CLASS and --to CLASS"),
    ("morph digits 5 --from 3 --to 10", "label: got 10, expected 0 to 9"),
    ("reconstruct digits three.png --sampler ddpm", "without noise on the way"),
    ("variations digits 5 --animate", "no flag --animate"),
])  # fmt: skip
def test_bad_edits_are_one_line_and_exit_code_2(folder, capsys, arguments, expected):
    (folder / "three.txt").write_text("no picture")
    assert cli.main(["edit", *arguments.split()]) == 2
    err = capsys.readouterr().err
    assert err.startswith("unnoise: ") and err.count("\n") == 1 and expected in err, err
    assert not (folder / "edited").exists()
