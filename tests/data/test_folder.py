"""Folders and zips of pictures: exact pixels, and every kind of picture people have."""

from __future__ import annotations

import io
import os
import shutil
import struct
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unnoise.api import default_folder, load_data, preset
from unnoise.config import RunConfig
from unnoise.data.config import DataConfig
from unnoise.data.dataset import load, report
from unnoise.data.fit import Target
from unnoise.data.folder import read_picture, usual_size
from unnoise.data.images import save_png
from unnoise.errors import ConfigError, DataError

ORIENTATION = 0x0112


@pytest.fixture
def read(tmp_path):
    """Load one folder's pictures, none held out; keyed by nothing: single-picture folders in most
    tests."""

    def reader(source, **changes):
        return load(
            DataConfig(
                **{
                    "source": str(source),
                    "cache": str(tmp_path / "cache"),
                    "held_out": 0.0,
                    **changes,
                }
            )
        )

    return reader


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "pictures"
    path.mkdir()
    return path


def noise(height, width, channels=3, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return Image.fromarray(values.squeeze())


def only(data):
    """The one picture as (h, w, c)."""
    (image,) = data.images
    return image.transpose(1, 2, 0)


def test_a_picture_of_the_right_size_keeps_its_bytes(folder, read):
    picture = noise(32, 32)
    picture.save(folder / "a.png")
    assert np.array_equal(only(read(folder)), np.asarray(picture))


def test_grey_from_colour_is_pillows_luma_and_colour_from_grey_is_equal_channels(folder, read):
    picture = noise(32, 32)
    picture.save(folder / "a.png")
    assert np.array_equal(only(read(folder, channels=1))[..., 0], np.asarray(picture.convert("L")))
    noise(32, 32, 1).save(folder / "a.png")
    pixels = only(read(folder))
    assert pixels.shape == (32, 32, 3) and (pixels == pixels[..., :1]).all()


def test_resizing_crops_the_centre_to_the_aspect(folder, read):
    """A wide picture with a red left, green middle and blue right third gives the green middle
    alone."""
    picture = Image.new("RGB", (90, 30), (0, 255, 0))
    picture.paste((255, 0, 0), (0, 0, 30, 30))
    picture.paste((0, 0, 255), (60, 0, 90, 30))
    picture.save(folder / "a.png")
    pixels = only(read(folder, image_size=10))
    assert pixels.shape == (10, 10, 3)
    assert (pixels[3:7, 3:7] == (0, 255, 0)).all()
    assert (only(read(folder, image_size=10, image_width=30))[:, 13:17] == (0, 255, 0)).all()
    assert (only(read(folder, image_size=10, image_width=30))[:, :7] == (255, 0, 0)).all(), (
        "the same aspect: no crop"
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_exif_orientation_is_applied(folder, read, orientation, suffix):
    """The stored picture is turned so that its orientation tag turns it upright again."""
    upright = np.zeros((32, 32, 3), np.uint8)
    upright[:16, :16] = (255, 0, 0)  # top left red
    upright[:16, 16:] = (0, 255, 0)  # top right green
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](upright)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"lossless": True} if suffix == "webp" else {"quality": 95} if suffix == "jpg" else {}
    Image.fromarray(np.ascontiguousarray(stored)).save(folder / f"a.{suffix}", exif=exif, **options)
    difference = only(read(folder)).astype(int) - upright
    inner = np.r_[2:14, 18:30]
    assert np.abs(difference[np.ix_(inner, inner)]).max() <= 12


def test_sixteen_bit_grey_is_scaled_and_not_clipped(folder, read):
    values = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    Image.fromarray(values).save(folder / "a.png")
    assert np.array_equal(
        only(read(folder, channels=1))[..., 0], np.round(values / 257.0).astype(np.uint8)
    )


def test_sixteen_bit_tiff_and_float_tiff(folder, read):
    values = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    Image.fromarray(values).save(folder / "a.tif")
    assert np.array_equal(
        only(read(folder, channels=1))[..., 0], np.round(values / 257.0).astype(np.uint8)
    )
    Image.fromarray((values / 65535).astype(np.float32)).save(folder / "a.tif")
    assert (
        np.abs(only(read(folder, channels=1))[..., 0].astype(float) - values / 257.0).max() <= 0.51
    )
    Image.fromarray(np.full((32, 32), -3.0, np.float32)).save(folder / "a.tif")
    with pytest.raises(DataError, match="grey values: got -3"):
        read(folder, channels=1)


def test_alpha_is_composited_on_the_stated_background(folder, read):
    picture = Image.new("RGBA", (32, 32), (200, 100, 0, 0))
    picture.paste((200, 100, 0, 255), (0, 0, 16, 32))
    picture.paste((200, 100, 0, 51), (16, 0, 24, 32))  # alpha 0.2
    picture.save(folder / "a.png")
    white, black = only(read(folder)), only(read(folder, background="black"))
    assert (
        (white[:, :16] == (200, 100, 0)).all()
        and (white[:, 24:] == 255).all()
        and (black[:, 24:] == 0).all()
    )
    assert np.abs(white[0, 20] - (0.2 * np.array([200, 100, 0]) + 0.8 * 255)).max() <= 1
    assert np.abs(black[0, 20] - 0.2 * np.array([200, 100, 0])).max() <= 1
    with pytest.raises(DataError, match="transparent pixels"):
        read(folder, background="refuse")


@pytest.mark.parametrize(
    "mode", ["LA", "PA", "P", "1", "CMYK", "YCbCr", "HSV", "LAB", "RGBX", "RGBa"]
)
def test_every_mode_becomes_rgb(mode):
    from unnoise.data.fit import Target, fit

    source = noise(32, 32)
    picture = source.convert("RGBA").convert(mode) if mode == "RGBa" else source.convert(mode)
    pixels = fit(picture, Target(16, 16, 3, "white"))
    assert pixels.shape == (3, 16, 16) and pixels.dtype == np.uint8 and pixels.std() > 1


def test_palette_transparency_is_composited_too(folder, read):
    picture = Image.new("P", (32, 32), 0)
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.paste(1, (0, 0, 16, 32))
    picture.save(folder / "a.png", transparency=0)
    pixels = only(read(folder))
    assert (pixels[:, :16] == (0, 0, 255)).all() and (pixels[:, 16:] == 255).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1), (31, 33), (3, 2)])
def test_tiny_and_extreme_pictures_are_used(folder, read, size):
    Image.new("RGB", size, (10, 20, 30)).save(folder / "a.png")
    assert (only(read(folder)) == (10, 20, 30)).all()


def test_an_animation_gives_its_first_frame(folder, read):
    first, second = Image.new("RGB", (32, 32), "red"), Image.new("RGB", (32, 32), "blue")
    first.save(folder / "a.gif", save_all=True, append_images=[second])
    assert (only(read(folder)) == (255, 0, 0)).all()


def png_header(width, height):
    """A PNG that declares a size and has no pixels."""
    data = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + data
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + b"\0\0\0\x09IDAT"
        + b"\0" * 20
    )


BROKEN = {
    "truncated.png": lambda good: good[: len(good) // 2],
    "truncated.jpg": lambda good: good[:40],
    "empty.png": lambda good: b"",
    "text.png": lambda good: b"hello, this is no picture",
    "bomb.png": lambda good: png_header(100_000, 100_000),
    "large.png": lambda good: png_header(9000, 9000),
    "zero.png": lambda good: png_header(0, 10),
    "garbage.webp": lambda good: b"RIFF\x10\0\0\0WEBPVP8 garbage!",
    "garbage.tif": lambda good: b"II*\0\xff\xff\xff\xff" + b"\x07" * 50,
    "garbage.gif": lambda good: b"GIF89a" + b"\xff" * 30,
    "flipped.png": lambda good: good[:60] + bytes([good[60] ^ 0xFF]) + good[61:],
}


def test_broken_pictures_are_named_with_their_reason_and_the_rest_goes_on(folder, read):
    for i in range(5):
        noise(40, 40, seed=i).save(folder / f"good{i}.png")
    good = (folder / "good0.png").read_bytes()
    for name, make in BROKEN.items():
        (folder / name).write_bytes(make(good))
    (folder / "notes.txt").write_text("no picture by its name")
    data = read(folder)
    assert len(data.images) == 5
    skipped = dict(data.skipped)
    assert skipped.keys() == BROKEN.keys()
    assert skipped["bomb.png"] == "100000 x 100000 pixels, more than data.max_pixels 50,000,000"
    assert skipped["large.png"] == "9000 x 9000 pixels, more than data.max_pixels 50,000,000"
    assert skipped["text.png"] == "is not a picture"
    text = report(data)
    assert f"skipped {len(BROKEN)}:" in text and "no pictures by their names: 1 .txt" in text


@settings(max_examples=60, deadline=None)
@given(position=st.integers(0, 400), value=st.integers(0, 255), cut=st.integers(0, 400))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM"])
def test_no_damaged_byte_ends_in_anything_but_a_picture_or_a_reason(kind, position, value, cut):
    from unnoise.data.fit import Target, Unusable
    from unnoise.data.folder import Decoder, Entry

    buffer = io.BytesIO()
    noise(12, 12).save(buffer, kind)
    content = bytearray(buffer.getvalue())
    content[position % len(content)] = value
    content = bytes(content[: max(1, len(content) - cut % len(content))])
    try:
        decode = Decoder(Target(8, 8, 3, "white"), 10**6)
        (pixels,) = decode(Entry("a", (len(content), 0), lambda: io.BytesIO(content)))
    except Unusable:
        return
    assert pixels.shape == (3, 8, 8)


def test_the_pixel_cap_is_checked_before_decoding(folder, read):
    noise(20, 20).save(folder / "a.png")
    noise(30, 30).save(folder / "b.png")
    data = read(folder, max_pixels=400)
    assert len(data.images) == 1 and data.skipped[0][0] == "b.png"


def test_our_pixel_cap_is_the_only_one_and_pillows_stays_as_it_was(folder, read, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # it refuses more than twice as many
    noise(32, 32).save(folder / "a.png")
    assert len(read(folder).images) == 1
    with pytest.raises(DataError, match=r"32 x 32 pixels, more than data\.max_pixels 1,000"):
        read(folder, max_pixels=1000)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_classes_are_the_first_sub_folders_in_order(folder, read):
    for i, name in enumerate(["zebra", "ant/inner", "ant", "cat ü"]):
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (i, 0, 0)).save(folder / name / "same name.png")
    data = read(folder)
    assert data.class_names == ("ant", "cat ü", "zebra")
    by_red = {
        int(image[0, 0, 0]): data.class_names[label]
        for image, label in zip(data.images, data.labels, strict=True)
    }
    assert by_red == {0: "zebra", 1: "ant", 2: "ant", 3: "cat ü"}


def test_a_picture_beside_the_sub_folders_means_no_classes_and_says_so(folder, read):
    (folder / "a").mkdir()
    noise(32, 32).save(folder / "a" / "1.png")
    noise(32, 32).save(folder / "2.png")
    data = read(folder)
    assert data.labels is None and "no classes" in " ".join(data.notes)


def test_hidden_files_links_to_nowhere_and_loops_do_no_harm(folder, read):
    noise(32, 32).save(folder / "a.png")
    noise(32, 32).save(folder / ".hidden.png")
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "._a.png").write_bytes(b"x")
    os.symlink(folder, folder / "loop")
    os.symlink(folder / "nowhere.png", folder / "gone.png")
    os.mkfifo(folder / "pipe.png")
    data = read(folder)
    assert len(data.images) == 1 and [name for name, _ in data.skipped] == ["gone.png"]


def test_a_zip_is_its_folder(folder, read, tmp_path):
    for name in ("ant", "bee"):
        (folder / name).mkdir()
        for i in range(4):
            noise(32, 32, seed=i + len(name)).save(folder / name / f"{name[0]}{i}.png")
    shutil.make_archive(str(tmp_path / "z"), "zip", folder)
    shutil.make_archive(str(tmp_path / "nested"), "zip", folder.parent, folder.name)
    with zipfile.ZipFile(tmp_path / "nested.zip", "a") as archive:
        archive.writestr("__MACOSX/pictures/ant/._a0.png", b"what macOS adds")
    a, b, c = (
        read(folder, held_out=0.25),
        read(tmp_path / "z.zip", held_out=0.25),
        read(tmp_path / "nested.zip"),
    )
    assert a.fingerprint == b.fingerprint and a.class_names == b.class_names == c.class_names == (
        "ant",
        "bee",
    )


def test_a_hostile_zip_writes_nothing_and_its_bad_members_are_named(tmp_path, read):
    buffer = io.BytesIO()
    noise(32, 32).save(buffer, "PNG")
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.png", buffer.getvalue())
        archive.writestr("../../evil.png", buffer.getvalue())
        archive.writestr("/absolute.png", buffer.getvalue())
        archive.writestr("secret.png", buffer.getvalue())
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"secret.png") - 46  # its central directory record
    content[entry + 8] |= 1  # the flag that says encrypted
    path.write_bytes(content)
    before = set(os.listdir(tmp_path))
    data = read(path)
    assert dict(data.skipped) == {"secret.png": "is encrypted"} and len(data.images) == 2
    assert (
        set(os.listdir(tmp_path)) - before == {"cache"}
        and not (tmp_path.parent / "evil.png").exists()
    )


def test_a_zip_with_damaged_members_or_no_zip_at_all(tmp_path, read):
    path = tmp_path / "z.zip"
    buffer = io.BytesIO()
    noise(32, 32).save(buffer, "PNG")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", buffer.getvalue())
        archive.writestr("b.png", buffer.getvalue())
    content = bytearray(path.read_bytes())
    content[content.index(b"a.png") + 100] ^= 0xFF
    path.write_bytes(content)
    data = read(path)
    assert len(data.images) == 1 and data.skipped[0][0] == "a.png"
    path.write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(DataError, match="cannot be read as a zip"):
        read(path)
    with pytest.raises(DataError, match="is one picture; expected a folder or a zip of pictures"):
        read(path.rename(path.with_suffix(".webp")))


@pytest.mark.parametrize(
    ("side", "size", "said"), [(70, 32, True), (70, 36, False), (30, 15, True)]
)
def test_much_smaller_than_the_pictures_are_is_said(read, folder, side, size, said):
    noise(side, side + 9).save(folder / "a.png")
    found = f"{side} pixels or more, now {size} x {size}; --image-size sets a larger size"
    assert (found in report(read(folder, image_size=size))) == said


def test_nothing_to_train_on_is_one_clear_line(folder, read):
    with pytest.raises(DataError, match=r"no pictures; found nothing, expected \.png"):
        read(folder)
    (folder / "a.png").write_text("no")
    with pytest.raises(
        DataError, match=r"none of 1 pictures can be used; the first, a.png: is not a picture"
    ):
        read(folder)
    with pytest.raises(DataError, match="did you mean 'digits'"):
        read("digit")


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 0},
        {"image_size": 9999},
        {"channels": 2},
        {"held_out": 0.9},
        {"max_pixels": 0},
    ],
)
def test_settings_out_of_range(change):
    config = RunConfig(data=DataConfig(**change))
    with pytest.raises(ConfigError, match=rf"data\.{next(iter(change))}: got .* expected"):
        load_data(config)


def test_the_split_is_seeded_by_names_and_covers_all_classes(folder, read):
    for name in ("a", "b"):
        (folder / name).mkdir()
        for i in range(50):
            noise(32, 32, seed=i).save(folder / name / f"{i}.png")
    data = read(folder, held_out=0.2)
    assert (data.num_train, len(data.images)) == (80, 100)
    assert set(data.labels[:80]) == set(data.labels[80:]) == {0, 1}


# --- classes without a picture


@pytest.fixture
def pets(folder):
    """Ten cats and ten dogs, told apart by their red."""
    for red, name in enumerate(("cats", "dogs")):
        (folder / name).mkdir()
        for i in range(10):
            Image.new("RGB", (32, 32), (red, i, 0)).save(folder / name / f"{i}.png")
    return folder


def test_a_sub_folder_without_a_usable_picture_is_no_class_and_says_so(pets, read):
    for name in ("broken", "cows"):
        (pets / name).mkdir()
        (pets / name / "1.png").write_text("no picture")
    data = read(pets)
    assert (
        data.class_names == ("cats", "dogs")
        and data.labels.tolist() == data.images[:, 0, 0, 0].tolist()
    )
    assert "2 classes, from the sub-folders" in data.notes
    assert "broken is no class: none of its pictures can be used" in report(data)
    assert read(pets).class_names == ("cats", "dogs"), "from the cache too"


def test_a_single_class_that_is_left_is_none(pets, read):
    for file in (pets / "cats").iterdir():
        file.write_text("no picture")
    data = read(pets)
    assert data.labels is None and data.class_names == () and len(data.images) == 10
    assert "cats is no class: none of its pictures can be used" in data.notes


def test_a_broken_picture_beside_the_sub_folders_leaves_the_classes(pets, read):
    (pets / "stray.png").write_text("no picture")
    assert read(pets).class_names == ("cats", "dogs")


def test_a_class_that_is_held_out_as_a_whole_is_said(pets, read):
    rare = ("ants", "cows", "eels", "emus")
    for name in rare:
        (pets / name).mkdir()
        Image.new("RGB", (32, 32)).save(pets / name / "1.png")
    data = read(pets, held_out=0.5)
    trained = {data.class_names[label] for label in data.labels[: data.num_train]}
    assert (
        data.class_names == tuple(sorted({*rare, "cats", "dogs"}))
        and 0 < len(trained & {*rare}) < 4
    )
    for name in data.class_names:
        assert (f"class {name} is not trained: all its pictures are held out" in data.notes) == (
            name not in trained
        )


# --- what unnoise made itself


def add_run(path, pictures="samples"):
    """What training leaves, with one picture that lost its text."""
    (path / pictures).mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "metrics.jsonl").write_text("")
    noise(32, 32).save(path / pictures / "00070000.png")


@pytest.mark.parametrize("packed", [False, True])
def test_what_unnoise_made_is_passed_over_and_changes_nothing(pets, read, tmp_path, packed):
    before = read(pets, held_out=0.2)
    save_png(pets / "mosaic.png", noise(64, 64), {"unnoise": "data pets"})
    save_png(pets / "cats" / "seed-000000.PNG", noise(32, 32), {"unnoise": "{}"})
    add_run(pets / "runs" / "pets")
    add_run(pets / "runs" / "more", "checkpoints")
    source = shutil.make_archive(str(tmp_path / "z"), "zip", pets) if packed else pets
    data = read(source, held_out=0.2)
    assert data.fingerprint == before.fingerprint and data.class_names == before.class_names == (
        "cats",
        "dogs",
    )
    assert dict(data.skipped) == {
        "mosaic.png": "made by unnoise", "cats/seed-000000.PNG": "made by unnoise",
        "runs/pets/": "a run folder made by unnoise", "runs/more/": "a run folder made by unnoise",
    }  # fmt: skip
    assert not any("no pictures by their names" in note for note in data.notes), (
        "the run's files are not counted"
    )


def test_a_run_that_appears_in_the_folder_is_said_without_reading_the_pictures_again(
    pets, read, tmp_path
):
    read(pets)
    add_run(pets / "run")
    assert ("run/", "a run folder made by unnoise") in read(pets).skipped
    assert len(os.listdir(tmp_path / "cache")) == 1


def test_a_folder_of_nothing_but_unnoises_own_pictures(folder, read):
    add_run(folder / "run")
    with pytest.raises(
        DataError, match=r"no pictures; found nothing; run/ \(a run folder made by unnoise\)"
    ):
        read(folder)
    save_png(folder / "a.png", noise(32, 32), {"unnoise": "{}"})
    with pytest.raises(
        DataError, match=r"none of 1 pictures can be used; the first, a.png: made by unnoise"
    ):
        read(folder)


def test_a_config_file_or_samples_alone_make_no_run_folder(folder, read):
    for name in ("a/samples/1.png", "b/1.png"):
        (folder / name).parent.mkdir(parents=True)
        noise(32, 32).save(folder / name)
    (folder / "b" / "config.json").write_text("{}")
    assert read(folder).class_names == ("a", "b")


@pytest.mark.parametrize("kind", ["tiff", "gif", "webp", "png"])
def test_pages_and_frames_after_the_first_are_not_silent(folder, read, kind):
    pages = [noise(32, 32, seed=seed) for seed in range(3)]
    pages[0].save(folder / f"a.{kind}", save_all=True, append_images=pages[1:])
    noise(32, 32).save(folder / "b.png")
    data = read(folder)
    assert len(data.images) == 2
    said = "1 of 2 files have several pages or frames: only the first of each is used"
    assert said in data.notes


def test_a_folders_name_may_have_dots(tmp_path, read):
    for name in ("set.v1", "set.v2"):
        (tmp_path / name).mkdir()
        noise(32, 32).save(tmp_path / name / "a.png")
        assert read(tmp_path / name).name == name
        assert default_folder(preset(str(tmp_path / name))).name == name


@pytest.mark.parametrize("kind", ["tif", "gif"])
def test_damage_after_the_first_page_or_frame_leaves_it(folder, read, kind):
    pages = [noise(32, 32, seed=seed) for seed in range(3)]
    file = io.BytesIO()
    pages[0].save(file, kind.replace("tif", "tiff"), save_all=True, append_images=pages[1:])
    for name, share in (("a", 0.6), ("b", 0.8), ("c", 0.95)):
        whole = file.getvalue()
        (folder / f"{name}.{kind}").write_bytes(whole[: int(share * len(whole))])
    assert len(read(folder).images) == 3


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_usual_size_is_that_of_upright_pictures(folder, orientation, suffix):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    noise(20, 30).save(folder / f"a.{suffix}", exif=exif)
    assert usual_size(folder) == (3, *((30, 20) if orientation > 4 else (20, 30)))


# --- one picture, for editing


WANTED = Target(32, 32, 3, "white")


def test_one_picture_is_read_as_a_folder_reads_it(folder, read):
    picture = noise(50, 40, 4)  # with alpha
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    picture.save(folder / "a.png", exif=exif)
    assert np.array_equal(read_picture(folder / "a.png", WANTED), read(folder).images[0])
    grey = read_picture(str(folder / "a.png"), Target(16, 8, 1, "black"))
    assert np.array_equal(
        grey, read(folder, image_size=16, image_width=8, channels=1, background="black").images[0]
    )


def test_one_picture_may_be_made_by_unnoise(folder):
    picture = noise(32, 32)
    save_png(folder / "a.png", picture, {"unnoise": "{}"})
    assert np.array_equal(
        read_picture(folder / "a.png", WANTED).transpose(1, 2, 0), np.asarray(picture)
    )


def test_one_picture_that_cannot_be_used_is_one_line_with_its_path(folder):
    (folder / "text.png").write_text("hello, this is no picture")
    noise(40, 40).save(folder / "large.png")
    Image.new("RGBA", (32, 32)).save(folder / "clear.png")
    for name, wanted, reason in (
        ("none.png", WANTED, r"cannot be read \(No such file or directory\); expected a picture"),
        ("text.png", WANTED, "is not a picture"),
        ("large.png", WANTED, "40 x 40 pixels, more than data.max_pixels 1,500"),
        ("clear.png", Target(32, 32, 3, "refuse"), "has transparent pixels"),
        (".", WANTED, "Is a directory"),
    ):
        with pytest.raises(DataError, match=rf"^{folder / name}: .*{reason}"):
            read_picture(folder / name, wanted, max_pixels=1500)


def test_one_tree_of_two_classes_in_every_shape(tmp_path, read):
    """Plain, wrapped, split into train and test, and each zipped with slashes or backslashes."""
    shapes = {"plain": ("",), "wrapped": ("animals/",), "split": ("train/", "test/")}
    shapes["wrapped split"] = ("set/train/", "set/Valid/")
    for shape, tops in shapes.items():
        for number, top in enumerate(tops):
            for i, kind in enumerate(("cats", "dogs")):
                folder = tmp_path / shape / top / kind
                folder.mkdir(parents=True)
                for j in range(4):
                    noise(8, 8, seed=100 * number + 10 * i + j).save(folder / f"{j}.png")
        sets = [read(tmp_path / shape)]
        for slash in "/\\":
            path = tmp_path / f"{shape}{ord(slash)}.zip"
            with zipfile.ZipFile(path, "w") as archive:
                for file in sorted((tmp_path / shape).rglob("*.png")):
                    info = zipfile.ZipInfo("x")
                    info.filename = str(file.relative_to(tmp_path / shape)).replace("/", slash)
                    archive.writestr(info, file.read_bytes())
            sets.append(read(path))
        for data in sets:
            assert data.class_names == ("cats", "dogs"), shape
            assert len({data.fingerprint, sets[0].fingerprint}) == 1, shape
        if len(tops) == 2:
            data = sets[0]
            assert (data.num_train, len(data.images)) == (8, 16)
            held = {noise(8, 8, seed=100 + 10 * i + j).tobytes() for i in (0, 1) for j in range(4)}
            pixels = {im.transpose(1, 2, 0).tobytes() for im in data.images[8:]}
            assert pixels == held or data.images.shape[2:] != (8, 8)
            assert any("8 pictures are held out" in note for note in data.notes)


def test_classes_are_in_natural_order_and_named_in_composed_letters(folder, read):
    import unicodedata

    names = ("1", "10", "2", "a1b10", "a1b9", unicodedata.normalize("NFD", "été"))
    for i, name in enumerate(names):
        (folder / name).mkdir()
        noise(8, 8, seed=i).save(folder / name / "x.png")
    expected = ("1", "2", "10", "a1b9", "a1b10", "été")
    assert read(folder).class_names == expected


def test_a_stray_picture_is_named_where_it_switches_the_classes_off(pets, read):
    noise(8, 8).save(pets / "stray.png")
    data = read(pets)
    assert data.class_names == ()
    assert any("no classes: stray.png lies in no sub-folder (1 of" in n for n in data.notes)


def test_twelve_bits_in_sixteen_are_noted_and_can_be_made_white(folder, read):
    values = np.arange(0, 4096, 64, np.uint16).reshape(8, 8)
    Image.fromarray(values).save(folder / "a.png")
    data = read(folder, image_size=8, held_out=0.0)
    assert data.images.max() == 16
    assert any("--data.grey-range 0 4095 makes that white" in note for note in data.notes)
    data = read(folder, image_size=8, held_out=0.0, grey_range=(0.0, 4095.0))
    assert (data.images[0, 0] == np.round(values * (255 / 4095))).all()
    assert not any("grey-range" in note for note in data.notes)


def test_a_transparent_value_of_a_grey_16_bit_png_is_the_background(folder, read):
    values = np.full((8, 8), 1000, np.uint16)
    values[0] = 40000
    Image.fromarray(values).save(folder / "a.png", transparency=40000)
    images = read(folder, image_size=8, held_out=0.0, background="black").images
    assert (images[0, :, 0] == 0).all() and (images[0, :, 1:] == 4).all()


def test_no_program_is_started_for_a_picture(folder, read, monkeypatch):
    """Pillow hands EPS to Ghostscript, whatever the file is called."""
    import subprocess

    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("a program was started"))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\nshowpage\n"
    (folder / "a.png").write_bytes(eps)
    noise(8, 8).save(folder / "b.png")
    assert read(folder).skipped == (("a.png", "is not a picture"),)


def test_a_split_tree_whose_test_part_has_no_classes_and_has_a_folder_beside_it(folder, read):
    for i, name in enumerate(("train/cats", "train/dogs", "test", "README images")):
        (folder / name).mkdir(parents=True)
        for j in range(4):
            noise(8, 8, seed=10 * i + j).save(folder / name / f"{j}.png")
    data = read(folder, held_out=0.0)
    assert data.class_names == ("cats", "dogs") and len(data.images) == 8
    reasons = dict(data.skipped)
    assert reasons["test/0.png"] == "lies in no class folder"
    assert reasons["README images/0.png"] == "lies beside train and test" and len(reasons) == 8


def test_class_names_that_are_the_same_number_have_one_order(folder, read):
    for i, name in enumerate(("01", "1", "001", "9" * 200, "2")):
        (folder / name).mkdir()
        noise(8, 8, seed=i).save(folder / name / "x.png")
    assert read(folder).class_names == ("001", "01", "1", "2", "9" * 200)
