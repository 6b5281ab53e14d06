"""MNIST from its four idx files, downloaded by themselves or local (also gzipped, also the usual mnist.npz)."""

from __future__ import annotations

import gzip
import math
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from unnoise.data.cache import Source, Writer, root, stamps
from unnoise.data.config import DataConfig
from unnoise.data.download import download
from unnoise.data.fit import add_arrays
from unnoise.errors import DataError

MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)
FILES = {
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}
"""Name -> MD5 of the gzipped file."""
PLACES = ("", "raw", "MNIST/raw")
"""Where in the given folder the idx files may lie: torchvision keeps them in MNIST/raw."""
ARRAYS = ("x_train", "y_train", "x_test", "y_test")

Named = tuple[str, np.ndarray]


def source(config: DataConfig) -> Source:
    """60,000 images to train on, the 10,000 test images held out."""
    path = Path(config.path) if config.path else root(config) / "downloads" / "mnist"
    if config.path is None:
        for name, md5 in FILES.items():
            download([mirror + name + ".gz" for mirror in MIRRORS], path / (name + ".gz"), md5)
    files = _files(path)

    def fill(writer: Writer) -> None:
        arrays = (
            [(str(f), read_idx(_content(f), str(f))) for f in files]
            if len(files) > 1
            else _npz(files[0])
        )
        _check(arrays)
        (_, train_images), (_, train_labels), (_, test_images), (_, test_labels) = arrays
        add_arrays(writer, config, train_images[:, None], train_labels)
        writer.end_of_training_images()
        add_arrays(writer, config, test_images[:, None], test_labels)

    return Source("mnist", stamps(files), fill, tuple("0123456789"))


def _files(path: Path) -> list[Path]:
    """The .npz alone, or the four idx files."""
    if not path.exists():
        raise DataError(
            f"data.path: {path} does not exist; expected a folder with the four idx files of MNIST, or mnist.npz"
        )
    npz = path if path.is_file() else path / "mnist.npz"
    if npz.is_file():
        return [npz]
    found = max(
        ([_idx(path / place, name) for name in FILES] for place in PLACES),
        key=lambda f: 4 - f.count(None),
    )
    missing = [name for name, file in zip(FILES, found, strict=True) if file is None]
    if missing:
        raise DataError(
            f"MNIST in {path}: {', '.join(missing)} not found; expected {', '.join(FILES)} (also with a dot before idx, "
            "also with .gz) there or in MNIST/raw, or mnist.npz"
        )
    return [file for file in found if file is not None]


def _idx(folder: Path, name: str) -> Path | None:
    """An idx file under its official name or its other usual one, train-images.idx3-ubyte, plain or gzipped."""
    names = [name, name.replace("-idx", ".idx")]
    return next(
        (folder / n for n in [*names, *(n + ".gz" for n in names)] if (folder / n).is_file()), None
    )


def _content(file: Path) -> bytes:
    content = file.read_bytes()
    if file.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"MNIST {file}: is no gzip file or a damaged one ({error}); expected an idx file"
        ) from error


def _npz(path: Path) -> list[Named]:
    expected = f"expected an .npz with {', '.join(ARRAYS)}"
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise DataError(f"MNIST {path}: is no .npz file or a truncated one; {expected}")
    try:
        with np.load(path) as arrays:
            return [(f"{path}, {name}", arrays[name]) for name in ARRAYS]
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise DataError(f"MNIST {path}: cannot be read ({error}); {expected}") from error


def _check(arrays: list[Named]) -> None:
    """DataError unless these are the images and labels of a training and a test part."""
    size = arrays[0][1].shape[1:]
    for (file, images), (labels_file, labels) in (arrays[:2], arrays[2:]):
        if images.dtype != np.uint8 or images.ndim != 3 or not images.size:
            raise DataError(
                f"MNIST {file}: got {_kind(images)}, expected images, uint8 (n, height, width)"
            )
        if images.shape[1:] != size:
            raise DataError(
                f"MNIST {file}: got {_kind(images)}, expected images of {size} as the training images are"
            )
        if labels.dtype.kind not in "iu" or labels.ndim != 1:
            raise DataError(
                f"MNIST {labels_file}: got {_kind(labels)}, expected labels, whole numbers (n,)"
            )
        if len(labels) != len(images):
            raise DataError(
                f"MNIST {labels_file}: got {len(labels)} labels, expected {len(images)}, one per image"
            )
        if labels.min() < 0 or labels.max() > 9:
            wrong = labels[(labels < 0) | (labels > 9)][0]
            raise DataError(
                f"MNIST {labels_file}: got label {wrong}, expected 0 to 9; this is another file"
            )


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype} {array.shape}"


def read_idx(content: bytes, name: str) -> np.ndarray:
    """The uint8 array of an idx file."""
    if content[:3] != b"\0\0\x08" or len(content) < 4 or len(content) < 4 + 4 * content[3]:
        raise DataError(f"MNIST {name}: is no idx file of bytes")
    rank = content[3]
    shape = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
    pixels = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
    if len(pixels) != math.prod(shape):
        raise DataError(
            f"MNIST {name}: got {len(pixels)} values, expected {math.prod(shape)}; the file is truncated"
        )
    return pixels.reshape(shape)
