"""The uint8 cache: read again, made again, never trusted blindly."""

from __future__ import annotations

import dataclasses
import errno
import io
import os
import time

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
    assert isinstance(second.images, np.memmap) and not second.images.flags.writeable
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
