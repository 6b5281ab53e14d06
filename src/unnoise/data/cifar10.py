"""CIFAR-10 in its official binary layout: downloaded by itself, or read from a folder or archive.

A record is 1 label byte and 3,072 pixel bytes: red, green and blue planes of 32x32. Krizhevsky
2009.
"""

from __future__ import annotations

import hashlib
import lzma
import re
import tarfile
import zlib
from pathlib import Path

import numpy as np

from unnoise.data.cache import Source, Writer, root, stamps
from unnoise.data.config import DataConfig
from unnoise.data.download import download
from unnoise.data.fit import add_arrays
from unnoise.errors import DataError

URLS = ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",)
ARCHIVE = "cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RECORD = 1 + 3 * 32 * 32
TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
USED = re.compile(r"data_batch_[1-5]\.bin|test.*\.bin")


def source(config: DataConfig) -> Source:
    """50,000 images to train on; the test images that are there are held out."""
    path = Path(config.path) if config.path else root(config) / "downloads" / ARCHIVE
    fix = "get a new copy, or leave out --data.path to download one"
    if config.path is None:
        download(URLS, path, MD5)
        fix = "delete it to download it again"
    if not path.exists():
        expected = "a folder or archive of CIFAR-10's binary version"
        raise DataError(f"data.path: {path} does not exist; expected {expected}")
    inner = path / "cifar-10-batches-bin"
    folder = inner if inner.is_dir() else path
    files = [path] if path.is_file() else [f for f in folder.iterdir() if USED.fullmatch(f.name)]

    def fill(writer: Writer) -> None:
        packed = path.is_file()
        contents = _archive(path, fix) if packed else {f.name: f.read_bytes() for f in files}
        for name in TRAIN:
            if name not in contents:
                expected = f"{TRAIN[0]} to {TRAIN[-1]}"
                raise DataError(f"CIFAR-10 in {path}: {name} is missing; expected {expected}")
        for name in (*TRAIN, *sorted(contents.keys() - {*TRAIN})):
            add_arrays(writer, config, *_records(contents[name], name))
            if name == TRAIN[-1]:
                writer.end_of_training_images()

    return Source("cifar10", stamps(sorted(files)), fill, CLASSES, flip=True)


def _archive(path: Path, fix: str) -> dict[str, bytes]:
    """Members by base name, read and never extracted: no name in an archive can reach the disk."""
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = Path(member.name).name
                if member.isfile() and USED.fullmatch(name) and member.size <= 10_000 * RECORD:
                    file = archive.extractfile(member)
                    members[name] = file.read() if file is not None else b""
            _read_to_the_end(archive)
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error, lzma.LZMAError) as error:
        with path.open("rb") as file:
            md5 = hashlib.file_digest(file, "md5").hexdigest()
        reason = str(error).partition("\n")[0]  # tarfile lists every format that it tried
        why = f"it is damaged ({reason}; got MD5 {md5}, expected {MD5})"
        raise DataError(f"CIFAR-10 archive {path}: cannot be read, {why}; {fix}") from error
    return members


def _read_to_the_end(archive: tarfile.TarFile) -> None:
    """Read what follows: tarfile takes a damaged header for the end, and checks no checksum."""
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"no member and no end at byte {archive.offset}")
    while archive.fileobj.read(1 << 20):
        pass


def _records(content: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 3, 32, 32) and labels (n,)."""
    rows = np.frombuffer(content, np.uint8)
    if len(rows) == 0 or len(rows) % RECORD:
        expected = f"a multiple of {RECORD}; the file is truncated"
        raise DataError(f"CIFAR-10 {name}: got {len(rows)} bytes, expected {expected}")
    rows = rows.reshape(-1, RECORD)
    if (label := rows[:, 0].max()) > 9:
        what = f"CIFAR-10 {name}: got label {label}, expected 0 to 9"
        raise DataError(f"{what}; this is another file")
    return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0].astype(np.int64)
