"""Pictures for people: every pixel in its place, words that fit, animations that loop."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from unnoise.data.images import _told_apart, class_grid, grid, save_animation, side_by_side
from unnoise.errors import DataError

LONG = "WWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWW"


def shades(count: int, channels: int = 1) -> torch.Tensor:
    """Images of one grey each: no. i is of 100 + i, which no letter is in the middle of a cell."""
    return torch.arange(100, 100 + count, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(
        -1, channels, 8, 8
    )  # fmt: skip


def places(sheet: Image.Image, count: int, size: int = 16) -> list[tuple[int, int]]:
    """The corner of each image of `shades`, which is there once, whole, and nothing over it."""
    pixels = np.asarray(sheet.convert("L"))
    found = []
    for i in range(count):
        sums = np.pad(pixels == 100 + i, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
        inside = sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size]
        corners = np.argwhere(inside + sums[:-size, :-size] == size * size)
        assert len(corners) == 1, f"image {i} is there {len(corners)} times"
        found.append((int(corners[0][1]), int(corners[0][0])))
    return found


@pytest.mark.parametrize("kinds", [1, 2, 3, 6, 10, 12])
@pytest.mark.parametrize("count", [12, 64])
def test_every_class_has_columns_of_its_own_below_its_name(kinds, count):
    labels = torch.randint(0, kinds, (count,), generator=torch.Generator().manual_seed(kinds))
    labels[:kinds] = torch.arange(kinds)
    names = [f"no. {i}" for i in range(kinds)]
    at = places(class_grid(shades(count), labels, names, scale=2), count)
    columns = [
        {x for (x, _), label in zip(at, labels, strict=True) if label == k} for k in range(kinds)
    ]
    for left, right in itertools.pairwise(columns):
        assert max(left) < min(right), "columns of the classes in their order"
    for k in range(kinds):
        mine = [(y, x) for (x, y), label in zip(at, labels, strict=True) if label == k]
        assert mine == sorted(mine), "a class is read as its seeds are, row by row"
    above = min(y for _, y in at) > 12
    assert above or len({y for _, y in at}) == 1, "room for names; those of one row are below"


def test_with_very_many_classes_each_image_has_its_name_below():
    at = places(
        class_grid(shades(64), torch.arange(64), [f"no. {i}" for i in range(64)], scale=2), 64
    )
    assert len({x for x, _ in at}) == len({y for _, y in at}) == 8 and min(y for _, y in at) == 2


def test_without_classes_it_is_a_plain_grid():
    sheet = class_grid(shades(10), None, ["no class"])
    assert np.array_equal(np.asarray(sheet), np.asarray(grid(shades(10))))


def test_a_row_says_the_first_of_its_seeds():
    """Told apart by their pictures: the same seeds give the same words, others do not."""
    labels, names = torch.tensor([0, 1, 1, 1]), ["a", "b"]
    sheets = [class_grid(shades(4), labels, names, seeds) for seeds in ([5, 6, 7, 8], [5, 9, 7, 1])]
    first, second = (np.asarray(sheet) for sheet in sheets)
    assert np.array_equal(first[:84], second[:84])  # the first row begins with seed 5
    assert not np.array_equal(first[84:], np.asarray(class_grid(
        shades(4), labels, names, [5, 6, 3, 8]))[84:])  # fmt: skip


@pytest.mark.parametrize("scale", [None, 1, 3])
@pytest.mark.parametrize("names", [(LONG,) * 3, ("кошка " * 9, "äöü" * 20, "猫" * 30)])
@pytest.mark.parametrize("below", [False, True])
def test_words_stay_in_their_columns_however_long_they_are(scale, names, below):
    white = torch.full((3 if below else 6, 1, 8, 8), 255, dtype=torch.uint8)
    sheet = np.asarray(grid(white, 3, scale=scale, labels=names))
    assert sheet.shape[1] < 3 * 110, "a long word does not make a column much wider"
    width = (sheet.shape[1] - 2) // 3
    for i in range(4):  # the gaps between columns, and the edges
        assert (sheet[:, i * width : i * width + 2] == 255).all()
    for i in range(3):
        assert (sheet[:, i * width : (i + 1) * width] < 128).any(), "each has its word"
    assert (sheet[-1] == 255).all(), "not cut off at the bottom"


@pytest.mark.parametrize("most", [45, 60, 90, 120])
def test_long_names_that_begin_alike_are_told_apart(most):
    names = ["Activities & Sports", "Activities & Games", "Activities", "x" * 150 + "a",
             "x" * 150 + "b", "Whatever else is long"]  # fmt: skip
    white = torch.full((6, 1, 8, 8), 255, dtype=torch.uint8)
    columns = np.split(np.asarray(grid(white, 6, 0, labels=names)), 6, axis=1)
    for one, other in itertools.combinations(columns, 2):
        assert not np.array_equal(one, other)
    short = _told_apart(names, 13, most)
    assert len({*short}) == len(names)
    if 50 < most < 120:  # where there is room for the word, but not for the whole name
        assert [text.split("… ")[1] for text in short[:2]] == ["Sports", "Games"]
    assert "Whatever else is long".startswith(short[-1].rstrip("…")), "else its end is left out"


@pytest.mark.parametrize("columns", [2, 4])
def test_words_hide_no_pixel_of_a_picture(columns):
    images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    plain = np.asarray(grid(images, columns, scale=5))
    words = {
        "labels": ["above", "others"],
        "rows": [f"seed {i}\nnoisy" for i in range(8 // columns)],
    }
    labelled = np.asarray(grid(images, columns, scale=5, **words))
    left = labelled.shape[1] - plain.shape[1]
    assert np.array_equal(labelled[-plain.shape[0] + 2 :, left + 2 :], plain[2:, 2:])


def test_one_line_words_in_a_class_s_name_cannot_make_a_sheet_of_any_height():
    sheet = class_grid(shades(2), torch.tensor([0, 1]), ["a\n" * 5000, "\x1b[31m"])
    assert sheet.height < 300


@pytest.mark.parametrize(("n", "shape"), [(1, (8, 8)), (1, (32, 32)), (2, (28, 28)),
                                          (3, (40, 24)), (9, (7, 7)), (64, (64, 64)),
                                          (1, (300, 200))])  # fmt: skip
def test_a_sheet_is_large_enough_to_be_seen(n, shape):
    images = torch.randint(0, 256, (n, 3, *shape), dtype=torch.uint8)
    sheet = np.asarray(grid(images, n if n < 4 else None))
    assert max(sheet.shape) >= 256
    scale = next(
        s
        for s in range(1, 99)
        if np.array_equal(
            sheet[2 : 2 + shape[0] * s : s, 2 : 2 + shape[1] * s : s], images[0].permute(1, 2, 0)
        )
    )
    assert scale == 1 or shape[0] * shape[1] * (scale - 1) ** 2 < 64**2 or n < 16, "and no larger"


def test_labels_that_fit_nothing_are_refused():
    with pytest.raises(DataError, match="grid: got 3 labels, expected one for each image or col"):
        grid(shades(8), 4, labels=["a", "b", "c"])


@pytest.mark.parametrize("suffix", ["gif", "webp"])
@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_an_animation_goes_there_and_back_and_rests_at_both_ends(tmp_path, suffix, count):
    frames = [grid(image[None], scale=1) for image in shades(count)]
    save_animation(tmp_path / f"a.{suffix}", frames, frame_ms=40)
    with Image.open(tmp_path / f"a.{suffix}") as animation:
        seen, times = [], []
        for i in range(getattr(animation, "n_frames", 1)):
            animation.seek(i)
            seen.append(int(np.asarray(animation.convert("L"))[5, 5]) - 100)
            times.append(animation.info.get("duration", 0))
        assert count == 1 or animation.info["loop"] == 0, "without an end"
    assert seen == [*range(count), *range(count - 2, 0, -1)]
    if count > 1:
        assert all(abs(a - b) == 1 for a, b in itertools.pairwise([*seen, seen[0]])), "no jump"
        ends = (0, count - 1)
        assert times == [1200 if i in ends else 40 for i in range(len(seen))]


def test_colours_of_a_gif_are_nearer_than_a_plain_palette(tmp_path):
    x, y = np.meshgrid(np.linspace(0, 1, 64), np.linspace(0, 1, 64))
    random = np.random.default_rng(0).normal(0, 0.15, (3, 64, 64))
    image = (np.stack([x, y, np.sin(9 * x * y) / 2 + 0.5]) + random).clip(0, 1)
    picture = grid(torch.tensor(image[None] * 255).to(torch.uint8), scale=2)
    save_animation(tmp_path / "a.gif", [picture] * 2, 40)
    plain = picture.convert("P", palette=Image.Palette.ADAPTIVE).convert("RGB")
    with Image.open(tmp_path / "a.gif") as animation:
        ours, others = (np.abs(np.asarray(each).astype(float) - np.asarray(picture)).mean()
                        for each in (animation.convert("RGB"), plain))  # fmt: skip
    assert ours < 0.92 * others


def test_a_webp_is_exact(tmp_path):
    frames = [grid(torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)) for _ in range(3)]
    save_animation(tmp_path / "a.webp", frames, 40)
    with Image.open(tmp_path / "a.webp") as animation:
        for i in (2, 1, 0):
            animation.seek(i)
            assert np.array_equal(np.asarray(animation.convert("RGB")), np.asarray(frames[i]))


def test_titles_do_not_change_the_size_of_a_frame():
    sheet = grid(shades(1), scale=1)
    assert len({side_by_side([sheet, sheet], titles=[word, "b"]).size for word in ("8", LONG)}) == 1
