"""digits, MNIST and CIFAR-10: exact records, published statistics, downloads over a real connection."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import io
import struct
import subprocess
import sys
import tarfile
import threading

import numpy as np
import pytest
from sklearn.datasets import load_digits

from unnoise.data import cifar10, download, mnist
from unnoise.data.config import DataConfig, DataError
from unnoise.data.dataset import load


def test_digits_are_scikit_learns(tmp_path):
    data = load(DataConfig(cache=str(tmp_path)))
    assert data.images.shape == (1797, 1, 8, 8) and data.num_train == 1500 and not data.flip
    assert np.bincount(data.labels).tolist() == np.bincount(load_digits().target).tolist()
    # The original goes from 0 to 16; 255 / 16 per grey level loses nothing.
    back = np.round(data.images.astype(float) * 16 / 255).reshape(1797, 64)
    rows = {(*row.astype(int), int(label)) for row, label in zip(back, data.labels, strict=True)}
    official = load_digits()
    assert rows == {(*row.astype(int), int(label)) for row, label in zip(official.data, official.target, strict=True)}
    assert set(data.labels[1500:]) == set(range(10))


def records(count, seed):
    random = np.random.default_rng(seed)
    return np.concatenate(
        [random.integers(0, 10, (count, 1), np.uint8), random.integers(0, 256, (count, 3072), np.uint8)], axis=1
    )


@pytest.fixture
def cifar(tmp_path):
    """A folder of CIFAR-10's layout, 4 images per file, and its rows."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    rows = [records(4, i) for i in range(6)]
    for i, part in enumerate(rows[:5], 1):
        (folder / f"data_batch_{i}.bin").write_bytes(part.tobytes())
    (folder / "test_batch.bin").write_bytes(rows[5].tobytes())
    return tmp_path, np.concatenate(rows)


@pytest.mark.parametrize("packed", [False, True])
def test_cifar10_records_are_label_then_planes(cifar, tmp_path, packed):
    path, rows = cifar
    if packed:
        path = path / "c.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            archive.add(tmp_path / "cifar-10-batches-bin", "cifar-10-batches-bin")
    data = load(DataConfig(source="cifar10", path=str(path), cache=str(tmp_path / "cache")))
    assert data.num_train == 20 and data.flip and data.class_names[3] == "cat"
    assert np.array_equal(data.labels, rows[:, 0])
    assert np.array_equal(data.images.reshape(24, -1), rows[:, 1:])


def test_cifar10_that_is_incomplete_truncated_or_something_else(cifar, tmp_path):
    path, _ = cifar
    config = DataConfig(source="cifar10", path=str(path), cache=str(tmp_path / "cache"))
    third = path / "cifar-10-batches-bin" / "data_batch_3.bin"
    content = third.read_bytes()
    third.write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"data_batch_3\.bin: got 12291 bytes, expected a multiple of 3073"):
        load(config)
    third.write_bytes(b"\x0b" + content[1:])
    with pytest.raises(DataError, match="got label 11, expected 0 to 9"):
        load(config)
    third.unlink()
    with pytest.raises(DataError, match=r"data_batch_3.bin is missing"):
        load(config)
    (path / "bad.tar.gz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot be read"):
        load(DataConfig(source="cifar10", path=str(path / "bad.tar.gz"), cache=str(tmp_path / "cache")))
    with pytest.raises(DataError, match="does not exist"):
        load(DataConfig(source="cifar10", path=str(path / "nowhere"), cache=str(tmp_path / "cache")))


def test_the_real_cifar10_has_the_published_statistics(shared_data, tmp_path):
    subprocess.run([sys.executable, shared_data / "cifar10" / "unpack.py", tmp_path], check=True, capture_output=True)
    data = load(DataConfig(source="cifar10", path=str(tmp_path), cache=str(tmp_path / "cache")))
    assert data.num_train == 50_000
    train = data.images[:50_000]
    assert np.bincount(data.labels[:50_000]).tolist() == [5000] * 10
    counts = np.stack([np.bincount(train[:, c].reshape(-1), minlength=256) for c in range(3)]).astype(float)
    values = np.arange(256) / 255
    mean = counts @ values / counts.sum(1)
    std = np.sqrt(counts @ values**2 / counts.sum(1) - mean**2)
    np.testing.assert_allclose(mean, [0.49140, 0.48216, 0.44653], atol=5e-6)
    np.testing.assert_allclose(std, [0.24703, 0.24349, 0.26159], atol=5e-6)


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize("form", ["plain", "gz", "npz"])
def test_mnist_from_idx_gzip_and_npz(tmp_path, form):
    random = np.random.default_rng(0)
    arrays = [
        random.integers(0, 256, (6, 28, 28), np.uint8), random.integers(0, 10, 6, np.uint8),
        random.integers(0, 256, (2, 28, 28), np.uint8), random.integers(0, 10, 2, np.uint8),
    ]  # fmt: skip
    path = tmp_path / "mnist"
    path.mkdir()
    if form == "npz":
        path = path / "mnist.npz"
        np.savez(path, **dict(zip(("x_train", "y_train", "x_test", "y_test"), arrays, strict=True)))
    else:
        for name, array in zip(mnist.FILES, arrays, strict=True):
            content = idx(array)
            (path / (name + (".gz" if form == "gz" else ""))).write_bytes(
                gzip.compress(content) if form == "gz" else content
            )
    data = load(DataConfig(source="mnist", path=str(path), cache=str(tmp_path / "cache")))
    assert np.array_equal(data.images[:, 0], np.concatenate([arrays[0], arrays[2]])) and data.num_train == 6
    assert np.array_equal(data.labels, np.concatenate([arrays[1], arrays[3]])) and not data.flip


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
        DataConfig(source="mnist", path=str(shared_data / "mnist" / "mnist.npz"), cache=str(tmp_path / "cache"))
    )
    assert data.images.shape == (70_000, 1, 28, 28) and data.num_train == 60_000
    train = data.images[:60_000] / np.float32(255)
    assert abs(train.mean(dtype=float) - 0.1307) < 5e-5 and abs(train.std(dtype=float) - 0.3081) < 5e-5
    assert np.bincount(data.labels[:60_000]).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves CONTENT; honours Range unless told not to; breaks off after BREAK_AFTER bytes once."""

    content, break_after, ranges, asked = b"", None, True, []

    def do_GET(self):
        cls = type(self)
        cls.asked.append(self.headers.get("Range"))
        if self.path != "/file":
            self.send_error(404)
            return
        start = int(self.headers["Range"][6:-1]) if self.headers.get("Range") and cls.ranges else 0
        if start >= len(cls.content):
            self.send_error(416)
            return
        body = cls.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if cls.break_after is not None:
            body, cls.break_after = body[: cls.break_after], None
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    class Mine(Server):
        content, asked = np.random.default_rng(0).bytes(300_000), []

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Mine)) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield Mine, f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_goes_on_where_it_was(server, tmp_path, ranges):
    handler, url = server
    handler.break_after, handler.ranges = 100_000, ranges
    md5, path = hashlib.md5(handler.content).hexdigest(), tmp_path / "deep" / "file"
    with pytest.raises(DataError, match=r"run the command again to go on, or give a local copy with --data.path"):
        download.download([url + "/file"], path, md5, False)
    assert not path.exists()
    kept = path.with_name("file.part").stat().st_size
    assert 0 < kept <= 100_000
    download.download([url + "/file"], path, md5, False)
    assert path.read_bytes() == handler.content and handler.asked == [None, f"bytes={kept}-"]
    download.download([url + "/file"], path, md5, False)
    assert len(handler.asked) == 2, "what is there is not fetched again"


def test_a_part_that_is_already_whole_counts(server, tmp_path):
    handler, url = server
    (tmp_path / "file.part").write_bytes(handler.content)
    download.download([url + "/file"], tmp_path / "file", hashlib.md5(handler.content).hexdigest(), False)
    assert (tmp_path / "file").read_bytes() == handler.content


def test_a_wrong_md5_is_refused_and_the_next_mirror_tried(server, tmp_path):
    handler, url = server
    path = tmp_path / "file"
    with pytest.raises(DataError, match="MD5 is not"):
        download.download([url + "/file"], path, "0" * 32, False)
    assert not list(tmp_path.iterdir())
    md5 = hashlib.md5(handler.content).hexdigest()
    download.download([url + "/missing", "http://127.0.0.1:9/none", url + "/file"], path, md5, False)
    assert path.read_bytes() == handler.content


def test_cifar10_downloads_by_itself(server, cifar, tmp_path, monkeypatch):
    handler, url = server
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(cifar[0] / "cifar-10-batches-bin", "cifar-10-batches-bin")
    handler.content = buffer.getvalue()
    monkeypatch.setattr(cifar10, "URLS", (url + "/file",))
    monkeypatch.setattr(cifar10, "MD5", hashlib.md5(handler.content).hexdigest())
    data = load(DataConfig(source="cifar10", cache=str(tmp_path / "cache")))
    assert np.array_equal(data.images.reshape(24, -1), cifar[1][:, 1:])
