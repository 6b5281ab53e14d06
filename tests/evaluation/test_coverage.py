"""Precision, recall, density and coverage against loops over pairs, with ties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unnoise.evaluation import coverage as module
from unnoise.evaluation.coverage import coverage, radii


def brute_force(
    s: np.ndarray, r: np.ndarray, k_p: int, k_c: int
) -> tuple[float, float, float, float]:
    """As the papers' code: <= for precision and recall, < for density and coverage."""

    def d2(a: np.ndarray, b: np.ndarray) -> float:
        return float(((a - b) ** 2).sum())

    def radius(x: np.ndarray, i: int, k: int) -> float:
        return sorted(d2(x[i], x[j]) for j in range(len(x)) if j != i)[k - 1]

    r_p, r_c = ([radius(r, i, k) for i in range(len(r))] for k in (k_p, k_c))
    s_p = [radius(s, j, k_p) for j in range(len(s))]
    precision = np.mean([any(d2(a, b) <= r_p[i] for i, b in enumerate(r)) for a in s])
    recall = np.mean([any(d2(a, b) <= s_p[j] for j, a in enumerate(s)) for b in r])
    density = sum(d2(a, b) < r_c[i] for a in s for i, b in enumerate(r)) / (k_c * len(s))
    covered = np.mean([any(d2(a, b) < r_c[i] for a in s) for i, b in enumerate(r)])
    return float(precision), float(recall), density, float(covered)


def numbers(found) -> tuple[float, ...]:
    return found.precision, found.recall, found.density, found.coverage


POINTS = st.integers(0, 10_000).map(np.random.default_rng)


@given(
    POINTS,
    st.integers(4, 14),
    st.integers(4, 14),
    st.integers(1, 3),
    st.integers(1, 3),
    st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_against_loops_over_pairs(random, n, m, d, k, ties):
    """Small integers tie all the time, and are often equal; float32 as features are."""
    if ties:
        s, r = (random.integers(0, 3, (count, d)).astype(np.float32) for count in (n, m))
    else:
        s, r = (random.normal(size=(count, d)).astype(np.float32) for count in (n, m))
    found = coverage(torch.from_numpy(s), torch.from_numpy(r), k, k)
    assert numbers(found) == pytest.approx(brute_force(s.astype(float), r.astype(float), k, k))


def test_the_papers_ks_and_chunks(monkeypatch):
    random = np.random.default_rng(0)
    s, r = random.normal(size=(50, 4)), random.normal(size=(40, 4)) * 1.5
    expected = brute_force(s, r, 3, 5)
    assert numbers(coverage(torch.from_numpy(s), torch.from_numpy(r))) == pytest.approx(expected)
    monkeypatch.setattr(module, "CHUNK", 100)
    assert numbers(coverage(torch.from_numpy(s), torch.from_numpy(r))) == pytest.approx(expected)


def test_equal_vectors_are_at_distance_0_at_any_length():
    """Rounding must not put copies outside a ball of radius 0."""
    random = torch.Generator().manual_seed(0)
    one = torch.randn(1, 64, generator=random) + 50
    x = torch.cat([one.expand(8, 64), torch.randn(20, 64, generator=random) * 0.01 + 50])
    assert (radii(x, (3, 5))[1][:8] == 0).all()
    assert coverage(x, x).precision == coverage(x, x).recall == 1


def test_what_they_tell_apart():
    random = torch.Generator().manual_seed(0)
    real = torch.randn(400, 8, generator=random)
    same = coverage(torch.randn(400, 8, generator=random), real)
    narrow = coverage(0.3 * torch.randn(400, 8, generator=random), real)
    far = coverage(torch.randn(400, 8, generator=random) + 100, real)
    assert same.density == pytest.approx(1, abs=0.15) and same.coverage > 0.9
    assert narrow.precision == 1 and narrow.recall < 0.2 and narrow.coverage < same.coverage
    assert numbers(far) == (0, 0, 0, 0)
