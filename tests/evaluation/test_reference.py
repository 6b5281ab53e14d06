"""The cache of statistics, and the files that pieces of features lie in too: used, and made again where damaged."""

from __future__ import annotations

import pytest
import torch

from unnoise.errors import DataError
from unnoise.evaluation.reference import Key, cached_statistics, read, write
from unnoise.evaluation.statistics import Statistics

KEY = Key("data", "extractor", "0:20")


class Maker:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.made = 0

    def features(self) -> torch.Tensor:
        self.made += 1
        return torch.randn(20, 3, generator=torch.Generator().manual_seed(0))

    def statistics(self) -> Statistics:
        return Statistics.of(self.features())


@pytest.mark.parametrize(
    "other",
    [Key("b", "extractor", "0:20"), Key("data", "b", "0:20"), Key("data", "extractor", "b")],
)
def test_found_by_all_three(other, tmp_path):
    maker = Maker()
    for _ in range(2):
        cached_statistics(tmp_path, KEY, maker.statistics)
    assert maker.made == 1
    cached_statistics(tmp_path, other, maker.statistics)
    assert maker.made == 2


def test_statistics_come_back_as_they_were(tmp_path):
    maker = Maker()
    first, again = (cached_statistics(tmp_path, KEY, maker.statistics) for _ in range(2))
    assert maker.made == 1 and first.count == again.count == 20 and first.about == again.about
    assert (
        torch.equal(first.mean, again.mean)
        and torch.equal(first.cov, again.cov)
        and again.cov.dtype == torch.float64
    )


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "gone"])
def test_damage_is_made_again(damage, tmp_path):
    maker = Maker()
    good = cached_statistics(tmp_path, KEY, maker.statistics)
    path = KEY.path(tmp_path, "statistics")
    data = bytearray(path.read_bytes())
    if damage == "bit":
        data[-10] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"bit": data, "cut": data[:-8], "empty": b""}[damage])
    assert read(path) is None
    for _ in range(2):
        assert (
            torch.equal(cached_statistics(tmp_path, KEY, maker.statistics).cov, good.cov)
            and maker.made == 2
        )
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_failing_to_make_leaves_nothing(tmp_path):
    def fails() -> Statistics:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_statistics(tmp_path, KEY, fails)
    assert read(KEY.path(tmp_path, "statistics")) is None


def test_unwritable_is_one_line(tmp_path):
    (tmp_path / "features").write_text("a file where the folder belongs")
    with pytest.raises(
        DataError,
        match=r"cannot be written \(.+\); make room, or choose another place .+UNNOISE_CACHE\)$",
    ):
        write(tmp_path / "features" / "x.safetensors", {"rows": torch.zeros(2)}, {})
