"""Mean and covariance: in parts, on disk, and what is said of files that are wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unnoise.errors import DataError
from unnoise.evaluation import statistics
from unnoise.evaluation.statistics import Statistics


def features(n: int = 50, d: int = 6, seed: int = 0, offset: float = 0.0) -> torch.Tensor:
    return (
        torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        + offset
    )


def one_line(error) -> str:
    text = str(error.value)
    assert text and "\n" not in text
    return text


@given(st.integers(2, 40), st.integers(1, 5), st.integers(1, 12))
@settings(deadline=None, max_examples=30)
def test_parts_add_up_to_the_whole(n, d, chunk):
    x = features(n, d)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "CHUNK", chunk)
        found = Statistics.of(x)
    assert found.count == n
    np.testing.assert_allclose(found.mean, x.numpy().mean(0), atol=1e-12)
    np.testing.assert_allclose(found.cov, np.cov(x.numpy(), rowvar=False).reshape(d, d), atol=1e-12)


def test_nothing_cancels_far_from_zero(monkeypatch):
    """A sum of squares less the square of a sum would have lost all digits at 1e8."""
    monkeypatch.setattr(statistics, "CHUNK", 7)
    near, far = Statistics.of(features(400)), Statistics.of(features(400, offset=1e8))
    torch.testing.assert_close(far.cov, near.cov, rtol=1e-6, atol=1e-7)


def test_files_of_others_have_no_count(tmp_path):
    np.savez(tmp_path / "s.npz", mu=np.zeros(2, np.float32), sigma=np.eye(2, dtype=np.float32))
    found = Statistics.load(tmp_path / "s.npz", 2)
    assert found.count is None and found.about == {}
    assert found.mean.dtype == found.cov.dtype == torch.float64


def test_ours_is_half_of_the_matrix_in_float32(tmp_path):
    about = {"extractor": "edm", "data": "ü"}
    stats = replace(Statistics.of(features(300, 100)), about=about)
    stats.save(tmp_path / "deep" / "c.npz")
    found = Statistics.load(tmp_path / "deep" / "c.npz", 100)
    torch.testing.assert_close(found.cov, stats.cov, rtol=1e-6, atol=1e-6)
    assert torch.equal(found.mean, stats.mean) and torch.equal(found.cov, found.cov.T)
    assert found.count == 300 and found.about == about
    (path,) = (tmp_path / "deep").iterdir()
    assert path.stat().st_size < 4 * (100 * 101 / 2) + 8 * 100 + 2000


EYE = np.eye(3)
BAD = {
    "shape of sigma": (
        {"mu": np.zeros(3), "sigma": np.eye(2)},
        r"mu \(3,\).*expected mu \(3,\) and sigma \(3, 3\); made with another extractor",
    ),
    "no mu": ({"sigma": EYE}, r"got sigma \(3, 3\), expected mu"),
    "no sigma": ({"mu": np.zeros(3)}, "expected mu"),
    "something else": ({"x": np.zeros(3)}, "got neither of them"),
    "not finite": ({"mu": np.zeros(3), "sigma": EYE * np.nan}, "not finite"),
    "not symmetric": ({"mu": np.zeros(3), "sigma": np.triu(np.ones((3, 3)))}, "not symmetric"),
    "no covariance": ({"mu": np.zeros(3), "sigma": -EYE}, "negative variances"),
    "words": ({"mu": np.array(["a", "b", "c"]), "sigma": EYE}, "could not convert"),
    "short half": ({"mu": np.zeros(3), "half": np.zeros(5)}, "expected mu"),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_files_are_one_line(name, tmp_path):
    arrays, words = BAD[name]
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(DataError, match=words) as error:
        Statistics.load(tmp_path / "s.npz", 3)
    assert str(tmp_path / "s.npz") in one_line(error)


def test_unwritable_is_one_line(tmp_path):
    (tmp_path / "file").write_text("where the folder belongs")
    with pytest.raises(DataError, match=r"s\.npz: cannot be written \(.+\); choose another place$"):
        Statistics.of(features()).save(tmp_path / "file" / "s.npz")


@pytest.mark.parametrize(
    "kind", ["missing", "empty", "text", "truncated", "flipped", "pickle", "folder"]
)
def test_unreadable_files_are_one_line(kind, tmp_path):
    path = tmp_path / "s.npz"
    Statistics.of(features(d=40)).save(path)
    data = path.read_bytes()
    path.unlink()
    if kind == "pickle":
        np.savez(path, mu=np.array([{}], dtype=object), sigma=EYE)
    elif kind == "folder":
        path.mkdir()
    elif kind != "missing":
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]
        path.write_bytes(
            {"empty": b"", "text": b"mu", "truncated": data[:-200], "flipped": flipped}[kind]
        )
    with pytest.raises(DataError, match=r"s\.npz: .*(cannot be read|damaged)") as error:
        Statistics.load(path, 40)
    assert "pickle" not in one_line(error)  # numpy says: trust any text, and unpickle
