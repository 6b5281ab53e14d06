"""Pieces of samples and features, and kept statistics: made again where damaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unnoise.data.config import DataConfig
from unnoise.data.dataset import load
from unnoise.errors import DataError
from unnoise.evaluation import store
from unnoise.evaluation.extractors import extractor
from unnoise.evaluation.statistics import Statistics
from unnoise.evaluation.store import DataStore, Pieces, read_tensors, write_tensors
from unnoise.parallel import World

FEATURES = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def made(monkeypatch) -> list[int]:
    """Counts how often statistics are computed."""
    found: list[int] = []
    of = Statistics.of
    monkeypatch.setattr(Statistics, "of", lambda x: found.append(len(x)) or of(x))
    return found


@pytest.fixture
def data(tmp_path) -> DataStore:
    return DataStore(load(DataConfig()), tmp_path, World())


def test_statistics_are_found_by_data_extractor_and_rows(data, made):
    tiny, rows = extractor("tiny"), range(20)
    first, again = (data.statistics(tiny, rows, FEATURES) for _ in range(2))
    assert made == [20] and first.count == again.count == 20 and first.about == again.about
    assert torch.equal(first.mean, again.mean) and torch.equal(first.cov, again.cov)
    assert again.cov.dtype == torch.float64
    other = replace(data, data=replace(data.data, fingerprint="other"))
    other.statistics(tiny, rows, FEATURES)
    data.statistics(replace(tiny, name="other"), rows, FEATURES)
    data.statistics(tiny, range(19), FEATURES)
    assert len(made) == 4


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "gone"])
def test_damaged_statistics_are_made_again(damage, data, made, tmp_path):
    good = data.statistics(extractor("tiny"), range(20), FEATURES)
    (path,) = (tmp_path / "features").iterdir()
    content = bytearray(path.read_bytes())
    if damage == "bit":
        content[-10] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"bit": content, "cut": content[:-8], "empty": b""}[damage])
    assert read_tensors(path) is None
    for _ in range(2):
        assert torch.equal(data.statistics(extractor("tiny"), range(20), FEATURES).cov, good.cov)
    assert len(made) == 2 and [p.name for p in path.parent.iterdir()] == [path.name]


def test_unwritable_is_one_line(tmp_path):
    (tmp_path / "features").write_text("a file where the folder belongs")
    expected = r"cannot be written \(.+\); make room, or choose another place .+UNNOISE_CACHE\)$"
    with pytest.raises(DataError, match=expected):
        write_tensors(tmp_path / "features" / "x.safetensors", {"rows": torch.zeros(2)}, {})


def test_pieces_are_made_once_and_again_where_they_are_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "PIECE", 10)
    asked: list[range] = []

    def rows(part: range) -> torch.Tensor:
        asked.append(part)
        return torch.arange(part.start, part.stop)[:, None]

    pieces, parts = Pieces(tmp_path, "x", 25), [range(10), range(10, 20), range(20, 25)]
    with pytest.raises(DataError, match="missing"):
        pieces.whole()
    assert pieces.make(rows, World(), "x")[:, 0].tolist() == list(range(25)) and asked == parts
    damaged = bytearray(pieces.path(parts[1]).read_bytes())
    damaged[-5] ^= 4
    pieces.path(parts[1]).write_bytes(damaged)
    assert pieces.make(rows, World(), "x")[:, 0].tolist() == list(range(25))
    assert asked == [*parts, parts[1]]


def test_every_rank_makes_its_part(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "PIECE", 10)
    monkeypatch.setattr(World, "barrier", lambda self: None)

    def rank(number: int, folder: Path) -> torch.Tensor:
        pieces = Pieces(folder, "x", 25)
        return pieces.make(lambda part: torch.full((len(part), 1), number), World(number, 2), "x")

    assert len(rank(1, tmp_path)) == 0
    assert rank(0, tmp_path)[:, 0].tolist() == [0] * 10 + [1] * 10 + [0] * 5


def test_features_of_the_data_are_kept(data, tmp_path):
    tiny, rows = extractor("tiny"), range(1495, 1500)
    plain = data.features(tiny, rows)
    images = torch.from_numpy(data.data.images[1495:1500].copy())
    assert torch.equal(plain, tiny.features(images))
    assert torch.equal(data.features(tiny, rows), plain)
    assert len(list(tmp_path.rglob("rows-1495*.safetensors"))) == 1
