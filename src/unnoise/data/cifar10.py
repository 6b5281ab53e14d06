"""CIFAR-10 in its official binary layout: downloaded by itself, or read from a folder or archive.

A record is 1 label byte and 3,072 pixel bytes: red, green and blue planes of 32x32. Krizhevsky 2009.
"""

from __future__ import annotations

import fnmatch
import tarfile
from pathlib import Path

import numpy as np

from unnoise.data.cache import Source, Writer, root
from unnoise.data.config import DataConfig, DataError
from unnoise.data.download import download
from unnoise.data.fit import add_arrays

URLS = ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",)
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RECORD = 1 + 3 * 32 * 32


def source(config: DataConfig, progress: bool) -> Source:
    """50,000 images to train on; the test images that are there are held out."""
    path = Path(config.path) if config.path else root(config) / "downloads" / "cifar-10-binary.tar.gz"
    if config.path is None:
        download(URLS, path, MD5, progress)
    if not path.exists():
        raise DataError(f"data.path: {path} does not exist; expected a folder or archive of CIFAR-10's binary version")

    def fill(writer: Writer) -> None:
        files = _folder(path) if path.is_dir() else _archive(path)
        train = [f"data_batch_{i}.bin" for i in range(1, 6)]
        missing = [name for name in train if name not in files]
        if missing:
            raise DataError(
                f"CIFAR-10 in {path}: {missing[0]} is missing; expected data_batch_1.bin to data_batch_5.bin"
            )
        for name in train:
            add_arrays(writer, config, *_records(files[name], name))
        writer.end_of_training_images()
        for name in sorted(fnmatch.filter(files, "test*.bin")):
            add_arrays(writer, config, *_records(files[name], name))

    state = path.stat()
    return Source("cifar10", [state.st_size, state.st_mtime_ns, str(path.resolve())], fill, CLASSES, flip=True)


def _folder(path: Path) -> dict[str, bytes]:
    inner = path / "cifar-10-batches-bin"
    return {p.name: p.read_bytes() for p in (inner if inner.is_dir() else path).glob("*.bin")}


def _archive(path: Path) -> dict[str, bytes]:
    """Members by base name, read and never extracted: no name in an archive can reach the disk."""
    try:
        with tarfile.open(path) as archive:
            wanted = [m for m in archive if m.isfile() and m.name.endswith(".bin") and m.size <= 10_000 * RECORD]
            files = {Path(m.name).name: archive.extractfile(m) for m in wanted}
            return {name: file.read() for name, file in files.items() if file is not None}
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"CIFAR-10 archive {path}: cannot be read ({error}); delete it to download it again") from error


def _records(content: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 3, 32, 32) and labels (n,)."""
    rows = np.frombuffer(content, np.uint8)
    if len(rows) == 0 or len(rows) % RECORD:
        raise DataError(
            f"CIFAR-10 {name}: got {len(rows)} bytes, expected a multiple of {RECORD}; the file is truncated"
        )
    rows = rows.reshape(-1, RECORD)
    if rows[:, 0].max() > 9:
        raise DataError(f"CIFAR-10 {name}: got label {rows[:, 0].max()}, expected 0 to 9; this is another file")
    return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0].astype(np.int64)
