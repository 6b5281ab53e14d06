"""MNIST from its four idx files, downloaded by themselves or local, also gzipped."""

from __future__ import annotations

import gzip
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
DAMAGE = (OSError, EOFError, LookupError, RuntimeError, TypeError, ValueError,
          struct.error, zipfile.BadZipFile, zlib.error)  # fmt: skip
"""What reading a damaged file can raise."""


def source(config: DataConfig) -> Source:
    """60,000 images to train on, the 10,000 test images held out."""
    path = Path(config.path) if config.path else root(config) / "downloads" / "mnist"
    if config.path is None:
        for name, md5 in FILES.items():
            download([mirror + name + ".gz" for mirror in MIRRORS], path / (name + ".gz"), md5)
    files = _files(path)

    def fill(writer: Writer) -> None:
        arrays = [_read_idx(file) for file in files]
        train, test = arrays[:2], arrays[2:]
        for name, (images, labels) in (("training", train), ("test", test)):
            _check(f"MNIST {path}, {name} part", images, labels, train[0].shape[1:])
        add_arrays(writer, config, train[0][:, None], train[1])
        writer.end_of_training_images()
        add_arrays(writer, config, test[0][:, None], test[1])

    return Source("mnist", stamps(files), fill, tuple("0123456789"))


def _files(path: Path) -> list[Path]:
    """The four idx files."""
    for folder in (path, path / "raw", path / "MNIST" / "raw"):  # torchvision's is the last
        found = [_spellings(folder / name) for name in FILES]
        if all(found):
            return [files[0] for files in found]
    expected = f"{', '.join(FILES)} (also with a dot before idx, also with .gz) there"
    raise DataError(
        f"data.path: no MNIST in {path}; expected {expected} or in MNIST/raw; an mnist.npz is a "
        "data set itself: --data mnist.npz"
    )


def _spellings(path: Path) -> list[Path]:
    """What is there of an idx file's official name and its other usual one, plain or gzipped."""
    plain = [path, path.with_name(path.name.replace("-idx", ".idx"))]
    both = [file for name in plain for file in (name, name.with_name(name.name + ".gz"))]
    return [file for file in both if file.is_file()]


def _read_idx(path: Path) -> np.ndarray:
    """The uint8 array of an idx file, gzipped or not."""
    content = path.read_bytes()
    try:
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        rank = content[3]
        shape = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
        values = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
        if content[:3] != b"\0\0\x08":
            raise ValueError("it does not begin as an idx file of bytes does")
        return values.reshape(shape)
    except DAMAGE as error:
        what = f"MNIST {path}: is truncated, damaged or no idx file ({error})"
        raise DataError(f"{what}; get a new copy") from error


def _check(what: str, images: np.ndarray, labels: np.ndarray, size: tuple[int, ...]) -> None:
    """DataError unless these are the images and labels of one part."""
    got = f"{what}: got images {images.dtype} {images.shape}, labels {labels.dtype} {labels.shape}"
    if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != size or not images.size:
        raise DataError(f"{got}; expected images uint8 (n, height, width), all of one size")
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise DataError(f"{got}; expected one whole number per image as labels")
    if labels.min() < 0 or labels.max() > 9:
        raise DataError(f"{what}: got labels {labels.min()} to {labels.max()}, expected 0 to 9")
