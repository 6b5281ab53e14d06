"""Which of two evaluations is better, and what may not be compared."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.studio.made import EVALUATION, distance
from unnoise.studio.judge import judge

NAMES = ["references", "dino", "samples and", "tiny", "network", "a"]


def record(frechet: float, **of: dict[str, Any]) -> dict[str, Any]:
    """An evaluation by the extractors of NAMES; `of` changes some of them."""
    made = copy.deepcopy(EVALUATION)
    (own,) = made["distances"]
    made["distances"] = [
        {**own, "extractor": name, "samples": distance(frechet), **of.get(name, {})}
        for name in NAMES
    ]
    return made


def better(a: dict[str, Any], b: dict[str, Any]) -> dict[str, str | None]:
    """The better side by the Fréchet distance of each extractor, and by bits/dim."""
    rows = judge(a, b)["rows"]
    kept = [row for row in rows if "Fréchet distance ↓" in row[0] or "bits" in row[0]]
    return {row[0].rsplit(":", 1)[0]: row[3] for row in kept}


def test_the_rows_have_the_order_of_the_record():
    assert list(better(record(2.0), record(9.0)))[:-1] == NAMES


@pytest.mark.parametrize("change", [{"fingerprint": "other"}, {"reference": "4 images"}])
@pytest.mark.parametrize("name", NAMES)
def test_what_keeps_one_extractor_from_being_compared_keeps_no_other(name, change):
    a, b = record(2.0), record(9.0, **{name: change})
    assert all(better(a, record(9.0))[each] == "a" for each in NAMES)
    assert [each for each in NAMES if better(a, b)[each] is None] == [name]
    assert len(judge(a, b)["warnings"]) == 1


def test_another_number_of_samples_leaves_bits_per_dim_alone():
    a, b = record(2.0), record(9.0)
    b["samples"]["num"] = 300
    b["likelihood"]["bound"]["bits_per_dim"] = 9.0
    found = better(a, b)
    assert found.pop("bits/dim, bound ↓") == "a" and set(found.values()) == {None}
    b["data"]["fingerprint"] = "other"
    assert set(better(a, b).values()) == {None}
    assert judge(a, b)["verdict"][0].startswith("These two may not be compared")


def test_a_number_without_an_error_decides_nothing():
    a, b = record(2.0), record(9.0)
    b["likelihood"]["bound"]["bits_per_dim"] = 9.0
    assert better(a, b)["bits/dim, bound ↓"] == "a"
    b["likelihood"]["bound"]["standard_error"] = None
    assert better(a, b)["bits/dim, bound ↓"] is None
    del b["distances"][0]["samples"]["interval"]
    assert better(a, b)[NAMES[0]] is None and better(a, b)[NAMES[1]] == "a"


def test_a_verdict_claims_no_overlap_where_nothing_was_measured():
    a, b = record(2.0), record(2.0)
    apart = "The numbers do not tell the two apart: no intervals of theirs are apart."
    assert judge(a, b)["verdict"] == [apart]
    a["distances"], b["distances"] = a["distances"][:1], b["distances"][1:]
    b["likelihood"] = {"bound": None, "ode": None}
    assert judge(a, b)["verdict"] == ["The two have no number in common."]
