"""The uint8 cache: read again, made again, never trusted blindly."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unnoise.data import cache
from unnoise.data.config import DataConfig
from unnoise.data.dataset import load
from unnoise.errors import DataError


@pytest.fixture
def folder(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    random = np.random.default_rng(0)
    for i in range(10):
        Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(pictures / f"{i}.png")
    return pictures


@pytest.fixture
def config(folder, tmp_path):
    return DataConfig(source=str(folder), cache=str(tmp_path / "cache"), held_out=0.2)


@pytest.fixture
def fills(monkeypatch):
    """How often a cache entry was written."""
    count, write = [], cache._write
    monkeypatch.setattr(cache, "_write", lambda *a: (count.append(1), write(*a)))
    return count


def test_the_second_load_reads_the_same_bytes_without_decoding(config, fills):
    first, second = load(config), load(config)
    assert len(fills) == 1
    assert np.array_equal(first.images, second.images) and first.fingerprint == second.fingerprint
    assert not second.images.flags.writeable
    assert (first.num_train, len(first.images)) == (8, 10)


def test_a_changed_file_a_new_file_and_every_setting_make_a_new_entry(config, folder, fills):
    prints = [load(config).fingerprint]
    Image.new("RGB", (32, 32), "red").save(folder / "3.png")
    prints.append(load(config).fingerprint)
    Image.new("RGB", (32, 32), "blue").save(folder / "new.png")
    prints.append(load(config).fingerprint)
    for change in ({"image_size": 16}, {"image_width": 8}, {"channels": 1}, {"held_out": 0.5}):
        prints.append(load(dataclasses.replace(config, **change)).fingerprint)
    assert len(fills) == len(set(prints)) == 7


@pytest.mark.parametrize("file", ["pixels.u8", "labels.npy", "meta.json"])
@pytest.mark.parametrize("damage", ["truncated", "missing", "empty"])
def test_a_damaged_entry_is_made_again(config, fills, file, damage):
    good = load(config)
    pixels = np.array(good.images)  # truncating a mapped file would be the test's own crash
    (entry,) = os.scandir(config.cache)
    path = os.path.join(entry.path, file)
    if damage == "missing":
        os.remove(path)
    else:
        os.truncate(path, 0 if damage == "empty" else os.path.getsize(path) // 2)
    again = load(config)
    assert (
        len(fills) == 2
        and again.fingerprint == good.fingerprint
        and np.array_equal(again.images, pixels)
    )
    assert len(os.listdir(config.cache)) == 1


def test_an_interrupted_write_leaves_nothing_that_would_be_read(config, monkeypatch):
    monkeypatch.setattr(np, "save", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        load(config)
    assert os.listdir(config.cache) == []
    monkeypatch.undo()
    assert len(load(config).images) == 10


def test_a_cache_that_cannot_be_written_is_one_clear_line(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be written .*--data.cache FOLDER"):
        load(dataclasses.replace(config, cache=str(tmp_path / "file")))


class Full(io.BytesIO):
    def write(self, content):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_an_error_on_the_way_is_blamed_on_the_side_it_belongs_to(config, tmp_path):
    def reads(writer):
        (tmp_path / "gone").read_bytes()

    def writes(writer):
        writer.file = Full()
        writer.add(np.zeros((1, 2, 2), np.uint8))

    with pytest.raises(DataError, match=rf"^{tmp_path / 'gone'}: cannot be read \(No such file"):
        cache.cached(config, cache.Source("some", 1, reads))
    with pytest.raises(
        DataError, match=rf"^data cache {config.cache}: cannot be written \(No space"
    ):
        cache.cached(config, cache.Source("some", 1, writes))
    assert os.listdir(config.cache) == []


def test_the_fingerprint_covers_labels_and_split_and_not_the_place(config, folder, tmp_path, fills):
    elsewhere = tmp_path / "elsewhere"
    os.rename(folder, elsewhere)
    moved = dataclasses.replace(config, source=str(elsewhere))
    first = load(moved).fingerprint
    os.utime(elsewhere / "0.png", (time.time() + 5, time.time() + 5))
    assert load(moved).fingerprint == first and len(fills) == 2, (
        "a touched file is read again, the data is the same"
    )
    for name in ("a", "b"):
        (elsewhere / name).mkdir()
    for i in range(10):
        os.rename(elsewhere / f"{i}.png", elsewhere / "ab"[i % 2] / f"{i}.png")
    assert load(moved).fingerprint != first


def test_changed_pixels_are_found_and_made_again(config, fills):
    first = load(config)
    good = first.images.copy()
    (entry,) = os.scandir(config.cache)
    with open(os.path.join(entry.path, "pixels.u8"), "r+b") as file:
        file.write(bytes(100))
    again = load(config)
    assert (
        len(fills) == 2 and (again.images == good).all() and again.fingerprint == first.fingerprint
    )
    os.utime(os.path.join(entry.path, "pixels.u8"))  # touched and the same: read, not made again
    load(config)
    assert len(fills) == 2


def test_a_cache_that_shrinks_under_a_reader_harms_nobody(config):
    images = load(config).images
    before = images.copy()
    (entry,) = os.scandir(config.cache)
    os.truncate(os.path.join(entry.path, "pixels.u8"), 10)
    assert (images == before).all()


def test_a_repaired_permission_is_looked_at_again(config, folder, monkeypatch):
    real = Path.open

    def refused(self, *arguments, **options):
        if self.name == "3.png":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refused)
    assert [name for name, _ in load(config).skipped] == ["3.png"]
    monkeypatch.undo()
    assert load(config).skipped == ()


def test_a_zip_that_was_replaced_is_read_again(folder, tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.writestr(file.name, file.read_bytes())
    good = path.read_bytes()
    at = good.index(b"5.png") + 200
    path.write_bytes(good[:at] + bytes(50) + good[at + 50 :])  # same names, sizes and checksums
    config = DataConfig(source=str(path), cache=str(tmp_path / "cache"))
    assert [name for name, _ in load(config).skipped] == ["5.png"]
    path.write_bytes(good)
    assert load(config).skipped == ()


@pytest.mark.parametrize("value", [None, "x", -1, [], {}, 10**400, float("nan")])
@pytest.mark.parametrize("key", ["shape", "num_train", "class_names", "skipped", "notes", "pixels"])
def test_a_meta_that_says_nonsense_is_made_again(config, fills, key, value):
    first = load(config)
    (entry,) = os.scandir(config.cache)
    path = Path(entry.path) / "meta.json"
    meta = json.loads(path.read_text())
    path.write_text(json.dumps({**meta, key: value}))
    again = load(config)
    assert again.fingerprint == first.fingerprint and (again.images == first.images).all()
    assert again.skipped == () and again.class_names == first.class_names


@pytest.mark.long
def test_first_starts_side_by_side_read_the_data_once(config, tmp_path):
    code = "from unnoise.data.config import DataConfig; from unnoise.data.dataset import load; "
    code += f"data = load(DataConfig(source={config.source!r}, cache={config.cache!r})); "
    code += "print(data.fingerprint, len(data.images))"
    run = [sys.executable, "-c", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    children = [subprocess.Popen(run, **pipes) for _ in range(6)]
    said = [child.communicate() for child in children]
    assert len({out for out, _ in said}) == 1 and not any(err for _, err in said), said
    assert len(os.listdir(config.cache)) == 1


def test_what_a_killed_writer_left_goes_with_the_next_start(config):
    fingerprint = load(config).fingerprint
    (entry,) = os.scandir(config.cache)
    left = Path(config.cache) / f".{entry.name}.99999.tmp"
    os.rename(entry.path, left)
    assert load(config).fingerprint == fingerprint
    assert os.listdir(config.cache) == [entry.name]


def test_a_file_that_stays_unreadable_is_not_read_again_and_again(config, folder, fills):
    (folder / "broken.png").symlink_to("nowhere")
    assert [name for name, _ in load(config).skipped] == ["broken.png"]
    load(config)
    assert len(fills) == 1


def test_without_locks_nothing_of_another_writer_is_deleted(config, monkeypatch):
    import fcntl

    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    load(config)
    (entry,) = (e for e in os.scandir(config.cache) if not e.name.startswith("."))
    live = Path(config.cache) / f".{entry.name}.99999.tmp"
    os.rename(entry.path, live)
    load(config)
    assert live.exists()
