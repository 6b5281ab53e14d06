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


def save_npz(path, arrays):
    np.savez(path, **dict(zip(("x_train", "y_train", "x_test", "y_test"), arrays, strict=True)))


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


@pytest.mark.parametrize("given", ["", "mnist.npz"])
def test_mnist_from_npz(tmp_path, read_mnist, given):
    arrays = mnist_arrays()
    save_npz(tmp_path / "mnist.npz", arrays)
    check_mnist(read_mnist(tmp_path / given), arrays)


def test_mnist_that_is_incomplete_names_what_is_missing_and_what_was_expected(tmp_path, read_mnist):
    save_idx(tmp_path / "data" / "raw", mnist_arrays(), dot=True)
    (tmp_path / "data" / "raw" / "t10k-labels.idx1-ubyte").unlink()
    expected = rf"MNIST in {tmp_path / 'data'}: t10k-labels-idx1-ubyte not found; expected train-images-idx3-ubyte, .*"
    with pytest.raises(
        DataError,
        match=expected + r"also with a dot before idx, also with .gz.*MNIST/raw, or mnist.npz",
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


BAD_NPZ = {
    "truncated": (
        lambda content: content[: len(content) // 2],
        "is no .npz file or a truncated one; expected an .npz with",
    ),
    "empty": (
        lambda content: b"",
        "is no .npz file or a truncated one; expected an .npz with x_train, y_train",
    ),
    "text": (lambda content: b"hello", "is no .npz file or a truncated one"),
    "damaged": (
        lambda content: content[:2000] + b"?" + content[2001:],
        "cannot be read .*CRC.*; expected an .npz with",
    ),
    "other arrays": (
        lambda content: content.replace(b"y_train", b"y_trick"),
        "y_train.*; expected an .npz with",
    ),
}


@pytest.mark.parametrize("damage", BAD_NPZ)
def test_a_bad_npz_is_one_line_with_its_name(tmp_path, read_mnist, damage):
    harm, reason = BAD_NPZ[damage]
    path = tmp_path / "mnist.npz"
    save_npz(path, mnist_arrays())
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(DataError, match=rf"^MNIST {path}: .*{reason}") as error:
        read_mnist(path)
    assert "\n" not in str(error.value)


def replaced(number, array):
    arrays = mnist_arrays()
    arrays[number] = array(arrays)
    return arrays


BAD_ARRAYS = {
    "images as labels": (1, lambda a: a[0], r"got uint8 \(6, 28, 28\), expected labels"),
    "labels as images": (
        0,
        lambda a: a[1],
        r"got uint8 \(6,\), expected images, uint8 \(n, height, width\)",
    ),
    "too few labels": (1, lambda a: a[1][:5], "got 5 labels, expected 6, one per image"),
    "too many test labels": (3, lambda a: a[1], "got 6 labels, expected 2, one per image"),
    "a label of 200": (
        1,
        lambda a: np.array([0, 1, 200, 3, 4, 5], np.uint8),
        "got label 200, expected 0 to 9",
    ),
    "no images": (0, lambda a: a[0][:0], r"got uint8 \(0, 28, 28\), expected images"),
    "test images of another size": (
        2,
        lambda a: a[2][:, :14],
        r"got uint8 \(2, 14, 28\), expected .*\(28, 28\)",
    ),
}


@pytest.mark.parametrize("bad", BAD_ARRAYS)
@pytest.mark.parametrize("form", ["npz", "idx"])
def test_mnist_arrays_that_do_not_belong_together_are_one_line_with_the_files_name(
    tmp_path, read_mnist, bad, form
):
    number, array, reason = BAD_ARRAYS[bad]
    arrays = replaced(number, array)
    if form == "npz":
        save_npz(tmp_path / "mnist.npz", arrays)
        path, name = tmp_path / "mnist.npz", f"{tmp_path / 'mnist.npz'}, {mnist.ARRAYS[number]}"
    else:
        path = tmp_path / "data"
        save_idx(path, arrays)
        name = path / list(mnist.FILES)[number]
    with pytest.raises(DataError, match=rf"^MNIST {name}: {reason}"):
        read_mnist(path)


@pytest.mark.parametrize("bad", [
    lambda a: a.astype(np.float32) / 255, lambda a: a[0], lambda a: np.array([1, None], dtype=object),
])  # fmt: skip
def test_mnist_npz_of_another_kind(tmp_path, read_mnist, bad):
    save_npz(tmp_path / "mnist.npz", replaced(0, lambda a: bad(a[0])))
    with pytest.raises(DataError, match=r"expected (images|an .npz)"):
        read_mnist(tmp_path / "mnist.npz")


@pytest.mark.parametrize(
    "harm", [lambda c: c[:-20], lambda c: b"text", lambda c: c[:30] + b"\xff" * 40 + c[70:]]
)
def test_a_damaged_gzip_of_mnist_is_named(tmp_path, read_mnist, harm):
    save_idx(tmp_path / "data", mnist_arrays(), packed=True)
    file = tmp_path / "data" / "train-images-idx3-ubyte.gz"
    file.write_bytes(harm(file.read_bytes()))
    with pytest.raises(DataError, match=rf"^MNIST {file}: is no gzip file or a damaged one"):
        read_mnist(tmp_path / "data")


def test_a_truncated_or_foreign_idx_file():
    content = idx(np.zeros((2, 3), np.uint8))
    assert mnist.read_idx(content, "x").shape == (2, 3)
    with pytest.raises(DataError, match="got 5 values, expected 6; the file is truncated"):
        mnist.read_idx(content[:-1], "x")
    for bad in (b"", b"\0\0\x08", content[:6], b"PK" + content):
        with pytest.raises(DataError):
            mnist.read_idx(bad, "x")


def test_the_real_mnist_has_the_published_statistics(shared_data, tmp_path):
    data = load(
        DataConfig(
            source="mnist",
            path=str(shared_data / "mnist" / "mnist.npz"),
            cache=str(tmp_path / "cache"),
        )
    )
    assert data.images.shape == (70_000, 1, 28, 28) and data.num_train == 60_000
    train = data.images[:60_000] / np.float32(255)
    assert (
        abs(train.mean(dtype=float) - 0.1307) < 5e-5 and abs(train.std(dtype=float) - 0.3081) < 5e-5
    )
    assert np.bincount(data.labels[:60_000]).tolist() == [
        5923,
        6742,
        5958,
        6131,
        5842,
        5421,
        5918,
        6265,
        5851,
        5949,
    ]
