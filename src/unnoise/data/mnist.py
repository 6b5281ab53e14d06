"""MNIST from its four idx files, downloaded by themselves or local (also gzipped, also the usual mnist.npz)."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np

from unnoise.data.cache import Source, Writer, root
from unnoise.data.config import DataConfig, DataError
from unnoise.data.download import download
from unnoise.data.fit import add_arrays

MIRRORS = ("https://storage.googleapis.com/cvdf-datasets/mnist/", "https://ossci-datasets.s3.amazonaws.com/mnist/")
FILES = {
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}
"""Name -> MD5 of the gzipped file."""


def source(config: DataConfig, progress: bool) -> Source:
    """60,000 images to train on, the 10,000 test images held out."""
    path = Path(config.path) if config.path else root(config) / "downloads" / "mnist"
    if config.path is None:
        for name, md5 in FILES.items():
            download([mirror + name + ".gz" for mirror in MIRRORS], path / (name + ".gz"), md5, progress)
    if not path.exists():
        raise DataError(
            f"data.path: {path} does not exist; expected a folder with the four idx files of MNIST, or mnist.npz"
        )

    def fill(writer: Writer) -> None:
        train_images, train_labels, test_images, test_labels = _npz(path) if path.is_file() else _folder(path)
        add_arrays(writer, config, train_images[:, None], train_labels)
        writer.end_of_training_images()
        add_arrays(writer, config, test_images[:, None], test_labels)

    state = path.stat()
    return Source("mnist", [state.st_size, state.st_mtime_ns, str(path.resolve())], fill, tuple("0123456789"))


def _npz(path: Path) -> list[np.ndarray]:
    try:
        with np.load(path) as file:
            return [file[name] for name in ("x_train", "y_train", "x_test", "y_test")]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"MNIST {path}: expected an .npz with x_train, y_train, x_test, y_test ({error})") from error


def _folder(folder: Path) -> list[np.ndarray]:
    if (folder / "mnist.npz").exists():
        return _npz(folder / "mnist.npz")
    arrays = []
    for name in FILES:
        plain, packed = folder / name, folder / (name + ".gz")
        try:
            content = plain.read_bytes() if plain.exists() else gzip.decompress(packed.read_bytes())
        except (OSError, EOFError) as error:
            raise DataError(f"MNIST in {folder}: {name} or {name}.gz cannot be read ({error})") from error
        arrays.append(read_idx(content, name))
    return arrays


def read_idx(content: bytes, name: str) -> np.ndarray:
    """The uint8 array of an idx file."""
    if content[:3] != b"\0\0\x08" or len(content) < 4 or len(content) < 4 + 4 * content[3]:
        raise DataError(f"MNIST {name}: is no idx file of bytes")
    rank = content[3]
    shape = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
    pixels = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
    if len(pixels) != np.prod(shape):
        raise DataError(f"MNIST {name}: got {len(pixels)} values, expected {np.prod(shape)}; the file is truncated")
    return pixels.reshape(shape)
