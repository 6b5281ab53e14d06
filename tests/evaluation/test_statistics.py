"""Mean and covariance: streamed, merged, on disk, and what is said of files that are wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unnoise.errors import DataError
from unnoise.evaluation.statistics import Moments, Statistics


def features(n: int = 50, d: int = 6, seed: int = 0, offset: float = 0.0) -> torch.Tensor:
    return (
        torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        + offset
    )


def one_line(error) -> str:
    text = str(error.value)
    assert text and "\n" not in text
    return text


def same(a: Statistics, b: Statistics, tolerance: float = 1e-12) -> None:
    assert a.count == b.count
    torch.testing.assert_close(a.mean, b.mean, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(a.cov, b.cov, rtol=tolerance, atol=tolerance)


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=6).filter(lambda sizes: sum(sizes) > 1),
    st.integers(1, 5),
)
@settings(deadline=None, max_examples=30)
def test_streamed_and_merged_are_the_whole(sizes, d):
    x = features(sum(sizes), d)
    whole = Statistics.of(x)
    np.testing.assert_allclose(whole.cov, np.cov(x.numpy(), rowvar=False).reshape(d, d), atol=1e-12)
    same(Statistics.of(x.split(sizes)), whole)
    total = Moments(d)
    for part in x.split(sizes):
        rank = Moments(d)
        rank.update(part)
        total.merge(rank)
    same(total.statistics(), whole)


def test_nothing_cancels_far_from_zero():
    """A sum of squares less the square of a sum would have lost all digits at 1e8."""
    near, far = (
        Statistics.of(features(400).split(7)),
        Statistics.of(features(400, offset=1e8).split(7)),
    )
    torch.testing.assert_close(far.cov, near.cov, rtol=1e-6, atol=1e-7)


def test_usual_npz_holds_everything(tmp_path):
    stats = Statistics.of(features(), {"extractor": "edm", "data": "ü"})
    stats.save(tmp_path / "deep" / "s.npz")
    with np.load(tmp_path / "deep" / "s.npz") as file:
        np.testing.assert_array_equal(file["mu"], stats.mean)
        np.testing.assert_array_equal(file["sigma"], stats.cov)
    found = Statistics.load(tmp_path / "deep" / "s.npz", 6)
    same(found, stats, 0)
    assert found.about == stats.about and [p.name for p in (tmp_path / "deep").iterdir()] == [
        "s.npz"
    ]


def test_files_of_others_have_no_count(tmp_path):
    np.savez(tmp_path / "s.npz", mu=np.zeros(2, np.float32), sigma=np.eye(2, dtype=np.float32))
    found = Statistics.load(tmp_path / "s.npz")
    assert (
        found.count is None
        and found.mean.dtype == found.cov.dtype == torch.float64
        and found.about == {}
    )


def test_compact_is_float32_and_half(tmp_path):
    stats = Statistics.of(features(300, 100))
    stats.save(tmp_path / "s.npz")
    stats.save_compact(tmp_path / "c.npz")
    found = Statistics.load(tmp_path / "c.npz")
    same(found, stats, 1e-6)
    assert torch.equal(found.cov, found.cov.T)
    assert (tmp_path / "c.npz").stat().st_size < 4 * (100 * 101 / 2) + 8 * 100 + 2000


EYE = np.eye(3)
BAD = {
    "shape of sigma": (
        {"mu": np.zeros(3), "sigma": np.eye(2)},
        r"mu \(3,\).*expected mu \(3,\) and sigma \(3, 3\)",
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
        Statistics.load(tmp_path / "s.npz")
    assert str(tmp_path / "s.npz") in one_line(error)


def test_another_dimension_is_refused(tmp_path):
    Statistics.of(features(d=3)).save(tmp_path / "s.npz")
    with pytest.raises(DataError, match="another extractor") as error:
        Statistics.load(tmp_path / "s.npz", 2048)
    one_line(error)


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
        Statistics.load(path)
    one_line(error)


def test_wrong_features_are_one_line():
    moments = Moments(3)
    for wrong, words in (
        (torch.zeros(2, 4), "expected"),
        (torch.full((2, 3), float("nan")), "not finite"),
    ):
        with pytest.raises(DataError, match=words) as error:
            moments.update(wrong)
        one_line(error)
    with pytest.raises(DataError, match="got 0 vectors"):
        moments.statistics()
    with pytest.raises(DataError, match="got 0 vectors"):
        Statistics.of(iter(()))
