"""digits and CIFAR-10: exact records, published statistics, downloads over a real connection."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import os
import subprocess
import sys
import tarfile
import threading
import time

import numpy as np
import pytest
from sklearn.datasets import load_digits

from unnoise.data import cifar10, download
from unnoise.data.config import DataConfig
from unnoise.data.dataset import load, report
from unnoise.errors import DataError


def test_digits_are_scikit_learns(tmp_path):
    data = load(DataConfig(cache=str(tmp_path)))
    assert data.images.shape == (1797, 1, 8, 8) and data.num_train == 1500 and not data.flip
    assert np.bincount(data.labels).tolist() == np.bincount(load_digits().target).tolist()
    # The original goes from 0 to 16; 255 / 16 per grey level loses nothing.
    back = np.round(data.images.astype(float) * 16 / 255).reshape(1797, 64)
    rows = {(*row.astype(int), int(label)) for row, label in zip(back, data.labels, strict=True)}
    official = load_digits()
    assert rows == {
        (*row.astype(int), int(label))
        for row, label in zip(official.data, official.target, strict=True)
    }
    assert set(data.labels[1500:]) == set(range(10))


def records(count, seed):
    random = np.random.default_rng(seed)
    return np.concatenate(
        [
            random.integers(0, 10, (count, 1), np.uint8),
            random.integers(0, 256, (count, 3072), np.uint8),
        ],
        axis=1,
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
    with pytest.raises(
        DataError, match=r"data_batch_3\.bin: got 12291 bytes, expected a multiple of 3073"
    ):
        load(config)
    third.write_bytes(b"\x0b" + content[1:])
    with pytest.raises(DataError, match="got label 11, expected 0 to 9"):
        load(config)
    third.unlink()
    with pytest.raises(DataError, match=r"data_batch_3.bin is missing"):
        load(config)
    (path / "bad.tar.gz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot be read"):
        load(
            DataConfig(
                source="cifar10", path=str(path / "bad.tar.gz"), cache=str(tmp_path / "cache")
            )
        )
    with pytest.raises(DataError, match="does not exist"):
        load(
            DataConfig(source="cifar10", path=str(path / "nowhere"), cache=str(tmp_path / "cache"))
        )


def overwrite(file, content):
    """As a user does, some time later: two writes within a tick of the file system's clock look
    like one."""
    file.write_bytes(content)
    os.utime(file, (time.time() + 5, time.time() + 5))


def test_cifar10_that_was_overwritten_in_place_is_read_again(cifar, tmp_path):
    folder = cifar[0] / "cifar-10-batches-bin"
    config = DataConfig(source="cifar10", path=str(folder), cache=str(tmp_path / "cache"))
    before = load(config).fingerprint
    overwrite(folder / "data_batch_1.bin", records(4, 99).tobytes())
    assert load(config).fingerprint != before
    assert np.array_equal(load(config).images[:4].reshape(4, -1), records(4, 99)[:, 1:])


def test_a_file_of_cifar10_that_cannot_be_read_is_named(cifar, tmp_path):
    path, _ = cifar
    file = path / "cifar-10-batches-bin" / "data_batch_2.bin"
    file.unlink()
    file.mkdir()
    with pytest.raises(DataError, match=rf"^{file}: cannot be read \(Is a directory\)"):
        load(DataConfig(source="cifar10", path=str(path), cache=str(tmp_path / "cache")))


MEMBER = 512 + 25 * 512
"""Bytes of a member of 4 records in a tar: its header and whole blocks."""


def bad_header(content):
    """The third member's header is damaged."""
    return content[: 2 * MEMBER + 20] + b"\xff" + content[2 * MEMBER + 21 :]


def bad_pixel(content):
    """A byte of a stored (uncompressed) block is another one: only the checksum at the end shows
    it."""
    return content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]


DAMAGES = {
    "no archive": ("tar.gz", lambda content: b"no archive"),
    "empty": ("tar.gz", lambda content: b""),
    "truncated": ("tar.gz", lambda content: content[: len(content) // 2]),
    "without its end": ("tar.gz", lambda content: content[:-6]),
    "bad pixel": ("tar.gz", bad_pixel),
    "bad header": ("tar", bad_header),
    "truncated tar": ("tar", lambda content: content[:30_000]),
    "tar cut between members": ("tar", lambda content: content[: 3 * MEMBER]),
    "truncated xz": ("tar.xz", lambda content: content[: len(content) // 2]),
}


def archive_of(folder, path):
    """An archive of the files of a folder, without the folder itself."""
    kind = path.suffixes[-1].removeprefix(".").replace("tar", "")
    level = {"compresslevel": 0} if kind == "gz" else {}
    with tarfile.open(path, f"w:{kind}", format=tarfile.GNU_FORMAT, **level) as archive:
        for file in sorted(folder.iterdir()):
            archive.add(file, file.name)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_archive_is_said_to_be_damaged_and_the_users_file_is_not_to_be_deleted(
    cifar, tmp_path, damage
):
    suffix, harm = DAMAGES[damage]
    path = tmp_path / f"my.{suffix}"
    archive_of(cifar[0] / "cifar-10-batches-bin", path)
    config = DataConfig(source="cifar10", path=str(path), cache=str(tmp_path / "cache"))
    assert len(load(config).images) == 24
    overwrite(path, harm(path.read_bytes()))
    with pytest.raises(
        DataError,
        match=rf"^CIFAR-10 archive {path}: cannot be read, it is damaged \(.*\); get a new",
    ) as e:
        load(config)
    assert "delete" not in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("known_by", ["name", "download"])
def test_a_damaged_archive_shows_its_md5(tmp_path, known_by):
    content = b"the official archive, damaged"
    path = tmp_path / "cifar-10-binary.tar.gz"
    if known_by == "download":
        path = tmp_path / "cache" / "downloads" / path.name
        path.parent.mkdir(parents=True)
    path.write_bytes(content)
    given = None if known_by == "download" else str(path)
    with pytest.raises(DataError) as error:
        load(DataConfig(source="cifar10", path=given, cache=str(tmp_path / "cache")))
    text = str(error.value)
    assert f"got MD5 {hashlib.md5(content).hexdigest()}, expected {cifar10.MD5}" in text
    assert ("delete it to download it again" in text) == (known_by == "download")


def test_a_whole_archive_without_the_files_is_not_called_damaged(cifar, tmp_path):
    (cifar[0] / "cifar-10-batches-bin" / "data_batch_1.bin").unlink()
    archive_of(cifar[0] / "cifar-10-batches-bin", tmp_path / "my.tar.gz")
    with pytest.raises(DataError, match=r"data_batch_1\.bin is missing"):
        load(
            DataConfig(
                source="cifar10", path=str(tmp_path / "my.tar.gz"), cache=str(tmp_path / "cache")
            )
        )


def test_the_real_cifar10_has_the_published_statistics(shared_data, tmp_path):
    subprocess.run(
        [sys.executable, shared_data / "cifar10" / "unpack.py", tmp_path],
        check=True,
        capture_output=True,
    )
    data = load(DataConfig(source="cifar10", path=str(tmp_path), cache=str(tmp_path / "cache")))
    assert data.num_train == 50_000
    assert (
        "mean 0.490 0.483 0.446, std 0.246 0.243 0.262 of 0..1 · fingerprint 5067714f9489"
        in report(data)
    )
    train = data.images[:50_000]
    assert np.bincount(data.labels[:50_000]).tolist() == [5000] * 10
    counts = np.stack(
        [np.bincount(train[:, c].reshape(-1), minlength=256) for c in range(3)]
    ).astype(float)
    values = np.arange(256) / 255
    mean = counts @ values / counts.sum(1)
    std = np.sqrt(counts @ values**2 / counts.sum(1) - mean**2)
    np.testing.assert_allclose(mean, [0.49140, 0.48216, 0.44653], atol=5e-6)
    np.testing.assert_allclose(std, [0.24703, 0.24349, 0.26159], atol=5e-6)


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
    with pytest.raises(
        DataError, match=r"run the command again to go on, or give a local copy with --data.path"
    ):
        download.download([url + "/file"], path, md5)
    assert not path.exists()
    kept = path.with_name("file.part").stat().st_size
    assert 0 < kept <= 100_000
    download.download([url + "/file"], path, md5)
    assert path.read_bytes() == handler.content and handler.asked == [None, f"bytes={kept}-"]
    download.download([url + "/file"], path, md5)
    assert len(handler.asked) == 2, "what is there is not fetched again"


def test_a_part_that_is_already_whole_counts(server, tmp_path):
    handler, url = server
    (tmp_path / "file.part").write_bytes(handler.content)
    download.download([url + "/file"], tmp_path / "file", hashlib.md5(handler.content).hexdigest())
    assert (tmp_path / "file").read_bytes() == handler.content


def test_a_wrong_md5_is_refused_and_the_next_mirror_tried(server, tmp_path):
    handler, url = server
    path = tmp_path / "file"
    with pytest.raises(DataError, match="MD5 is not"):
        download.download([url + "/file"], path, "0" * 32)
    assert not list(tmp_path.iterdir())
    md5 = hashlib.md5(handler.content).hexdigest()
    download.download([url + "/missing", "http://127.0.0.1:9/none", url + "/file"], path, md5)
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
