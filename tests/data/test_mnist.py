"""MNIST: its layouts, its published statistics, and every way in which local files can be wrong."""

from __future__ import annotations

import gzip
import os
import struct
import time

import numpy as np
import pytest

from unnoise.data import mnist
from unnoise.data.config import DataConfig
from unnoise.data.dataset import load
from unnoise.errors import DataError


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def mnist_arrays():
    """Six training and two test images with their labels."""
    random = np.random.default_rng(0)
    return [
        random.integers(0, 256, (6, 28, 28), np.uint8), random.integers(0, 10, 6, np.uint8),
        random.integers(0, 256, (2, 28, 28), np.uint8), random.integers(0, 10, 2, np.uint8),
    ]  # fmt: skip


def save_idx(folder, arrays, packed=False, dot=False):
    folder.mkdir(parents=True)
    for name, array in zip(mnist.FILES, arrays, strict=True):
        file = folder / (
            (name.replace("-idx", ".idx") if dot else name) + (".gz" if packed else "")
        )
        file.write_bytes(gzip.compress(idx(array)) if packed else idx(array))


@pytest.fixture
def read_mnist(tmp_path):
    return lambda path: load(
        DataConfig(source="mnist", path=str(path), cache=str(tmp_path / "cache"))
    )


def check_mnist(data, arrays):
    assert (
        np.array_equal(data.images[:, 0], np.concatenate([arrays[0], arrays[2]]))
        and data.num_train == 6
    )
    assert np.array_equal(data.labels, np.concatenate([arrays[1], arrays[3]])) and not data.flip


@pytest.mark.parametrize("dot", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("place", ["", "raw", "MNIST/raw"])
def test_mnist_from_idx_files_wherever_they_are_usually_kept(
    tmp_path, read_mnist, place, packed, dot
):
    arrays = mnist_arrays()
    save_idx(tmp_path / "data" / place, arrays, packed, dot)
    check_mnist(read_mnist(tmp_path / "data"), arrays)


def test_an_npz_is_a_data_set_itself(tmp_path, read_mnist):
    np.savez(tmp_path / "mnist.npz", x_train=mnist_arrays()[0])
    with pytest.raises(DataError, match=r"an mnist\.npz is a data set itself"):
        read_mnist(tmp_path / "mnist.npz")


def test_mnist_that_is_incomplete_names_what_is_missing_and_what_was_expected(tmp_path, read_mnist):
    save_idx(tmp_path / "data" / "raw", mnist_arrays(), dot=True)
    (tmp_path / "data" / "raw" / "t10k-labels.idx1-ubyte").unlink()
    expected = rf"no MNIST in {tmp_path / 'data'}; expected train-images-idx3-ubyte, .*"
    with pytest.raises(
        DataError,
        match=expected + r"also with a dot before idx, also with .gz.*MNIST/raw",
    ):
        read_mnist(tmp_path / "data")


def test_mnist_that_was_overwritten_in_place_is_read_again(tmp_path, read_mnist):
    arrays = mnist_arrays()
    save_idx(tmp_path / "data", arrays)
    before = read_mnist(tmp_path / "data").fingerprint
    file = tmp_path / "data" / "train-images-idx3-ubyte"
    file.write_bytes(idx(255 - arrays[0]))
    os.utime(
        file, (time.time() + 5, time.time() + 5)
    )  # two writes within a tick of the clock look like one
    assert read_mnist(tmp_path / "data").fingerprint != before


def replaced(number, array):
    arrays = mnist_arrays()
    arrays[number] = array(arrays)
    return arrays


BAD_ARRAYS = {
    "images as labels": (1, lambda a: a[0], r"labels uint8 \(6, 28, 28\); expected one whole"),
    "labels as images": (0, lambda a: a[1], r"images uint8 \(6,\).*expected images uint8 \(n, h"),
    "too few labels": (
        1,
        lambda a: a[1][:5],
        r"labels uint8 \(5,\); expected one whole number per",
    ),
    "too many test labels": (3, lambda a: a[1], r"test part: .*labels uint8 \(6,\); expected one"),
    "a label of 200": (1, lambda a: a[1] * 0 + 200, "labels 200 to 200, expected 0 to 9"),
    "no images": (0, lambda a: a[0][:0], r"images uint8 \(0, 28, 28\).*expected images"),
    "test images of another size": (2, lambda a: a[2][:, :14], r"test part: .*all of one size"),
}


@pytest.mark.parametrize("bad", BAD_ARRAYS)
def test_mnist_arrays_that_do_not_belong_together_are_one_line(tmp_path, read_mnist, bad):
    number, array, reason = BAD_ARRAYS[bad]
    arrays = replaced(number, array)
    path = tmp_path / "data"
    save_idx(path, arrays)
    with pytest.raises(DataError, match=rf"^MNIST {path}, .*{reason}"):
        read_mnist(path)


@pytest.mark.parametrize(
    "harm", [lambda c: c[:-20], lambda c: b"text", lambda c: c[:30] + b"\xff" * 40 + c[70:]]
)
def test_a_damaged_gzip_of_mnist_is_named(tmp_path, read_mnist, harm):
    save_idx(tmp_path / "data", mnist_arrays(), packed=True)
    file = tmp_path / "data" / "train-images-idx3-ubyte.gz"
    file.write_bytes(harm(file.read_bytes()))
    with pytest.raises(DataError, match=rf"^MNIST {file}: is truncated, damaged or no idx"):
        read_mnist(tmp_path / "data")


@pytest.mark.parametrize("harm", [
    lambda c: c[:-1], lambda c: b"", lambda c: b"\0\0\x08", lambda c: c[:6], lambda c: b"PK" + c,
])  # fmt: skip
def test_a_truncated_or_foreign_idx_file(tmp_path, read_mnist, harm):
    save_idx(tmp_path / "data", mnist_arrays())
    file = tmp_path / "data" / "train-images-idx3-ubyte"
    file.write_bytes(harm(file.read_bytes()))
    with pytest.raises(DataError, match=rf"^MNIST {file}: is truncated, damaged or no idx file"):
        read_mnist(tmp_path / "data")
