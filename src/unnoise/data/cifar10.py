"""CIFAR-10 in its official binary layout: downloaded by itself, or read from a folder or archive.

A record is 1 label byte and 3,072 pixel bytes: red, green and blue planes of 32x32. Krizhevsky 2009.
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
SIZE_BYTES = 170_052_171
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RECORD = 1 + 3 * 32 * 32
TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
USED = re.compile(r"data_batch_[1-5]\.bin|test.*\.bin")


def source(config: DataConfig) -> Source:
    """50,000 images to train on; the test images that are there are held out."""
    path = (
        Path(config.path) if config.path else root(config) / "downloads" / "cifar-10-binary.tar.gz"
    )
    if config.path is None:
        download(URLS, path, MD5)
    if not path.exists():
        raise DataError(
            f"data.path: {path} does not exist; expected a folder or archive of CIFAR-10's binary version"
        )

    files = _files(path) if path.is_dir() else [path]

    def fill(writer: Writer) -> None:
        contents = (
            _archive(path, config.path is None)
            if path.is_file()
            else {f.name: f.read_bytes() for f in files}
        )
        missing = [name for name in TRAIN if name not in contents]
        if missing:
            raise DataError(
                f"CIFAR-10 in {path}: {missing[0]} is missing; expected data_batch_1.bin to data_batch_5.bin"
            )
        for name in TRAIN:
            add_arrays(writer, config, *_records(contents[name], name))
        writer.end_of_training_images()
        for name in sorted(contents.keys() - {*TRAIN}):
            add_arrays(writer, config, *_records(contents[name], name))

    return Source("cifar10", stamps(files), fill, CLASSES, flip=True)


def _files(folder: Path) -> list[Path]:
    inner = folder / "cifar-10-batches-bin"
    return sorted(
        f for f in (inner if inner.is_dir() else folder).iterdir() if USED.fullmatch(f.name)
    )


def _archive(path: Path, downloaded: bool) -> dict[str, bytes]:
    """Members by base name, read and never extracted: no name in an archive can reach the disk."""
    with path.open("rb") as file:
        try:
            with tarfile.open(fileobj=file) as archive:
                wanted = (m for m in archive if m.isfile() and USED.fullmatch(Path(m.name).name))
                members = {
                    Path(m.name).name: _member(archive, m)
                    for m in wanted
                    if m.size <= 10_000 * RECORD
                }
                _read_to_the_end(archive)
                return members
        except (
            tarfile.TarError,
            EOFError,
            OSError,
            ValueError,
            zlib.error,
            lzma.LZMAError,
        ) as error:
            raise DataError(_damage(path, error, downloaded)) from error


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None  # a regular file
    return file.read()


def _read_to_the_end(archive: tarfile.TarFile) -> None:
    """tarfile takes a damaged header for the end, and the checksum of the compression stands after the end."""
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"no member and no end at byte {archive.offset}")
    while archive.fileobj.read(1 << 20):
        pass


def _damage(path: Path, error: Exception, downloaded: bool) -> str:
    """What is wrong with an archive; its MD5 tells where it ought to be the official one."""
    reason = (
        "no tar archive by its start" if "\n" in str(error) else str(error)
    )  # tarfile lists every format it tried
    if path.name == URLS[0].rpartition("/")[2] or path.stat().st_size == SIZE_BYTES:
        with path.open("rb") as file:
            reason += f"; got MD5 {hashlib.file_digest(file, 'md5').hexdigest()}, expected {MD5}"
    fix = (
        "delete it to download it again"
        if downloaded
        else "get a new copy, or leave out --data.path to download one"
    )
    return f"CIFAR-10 archive {path}: cannot be read, it is damaged ({reason}); {fix}"


def _records(content: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 3, 32, 32) and labels (n,)."""
    rows = np.frombuffer(content, np.uint8)
    if len(rows) == 0 or len(rows) % RECORD:
        raise DataError(
            f"CIFAR-10 {name}: got {len(rows)} bytes, expected a multiple of {RECORD}; the file is truncated"
        )
    rows = rows.reshape(-1, RECORD)
    if rows[:, 0].max() > 9:
        raise DataError(
            f"CIFAR-10 {name}: got label {rows[:, 0].max()}, expected 0 to 9; this is another file"
        )
    return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0].astype(np.int64)
