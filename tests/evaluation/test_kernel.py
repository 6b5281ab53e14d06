"""The kernel distance against its definition and torchmetrics, and its standard error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.evaluation.test_frechet import Given, features
from unnoise.evaluation import kernel
from unnoise.evaluation.kernel import kernel_distance


def by_definition(x: np.ndarray, y: np.ndarray) -> float:
    """Loops over pairs."""

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return (a @ b / len(a) + 1) ** 3

    n, m = len(x), len(y)
    within_x = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_x + within_y - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


@given(st.integers(3, 9), st.integers(3, 9), st.integers(1, 6), st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_definition_symmetry_and_rotation(n, m, d, seed):
    x, y = features(n, d, seed), features(m, d, seed + 1)
    expected = by_definition(x.numpy(), y.numpy())
    near = {
        "rel": 1e-9,
        "abs": 1e-9 * float(kernel.kernel(x, x).mean() + kernel.kernel(y, y).mean()),
    }
    assert kernel_distance(x, y)[0] == pytest.approx(expected, **near)
    assert kernel_distance(y, x)[0] == pytest.approx(expected, **near)
    rotation = torch.linalg.qr(features(d, d, seed + 2)).Q
    assert kernel_distance(x @ rotation, y @ rotation)[0] == pytest.approx(expected, **near)


def test_torchmetrics_agrees():
    """On all vectors at once, where its random subsets are all the same."""
    kid = pytest.importorskip("torchmetrics.image.kid", reason="needs torchmetrics (extra dev)")
    x, y = features(60, 24, 0).float(), (features(60, 24, 0) * 1.1).float()
    metric = kid.KernelInceptionDistance(feature=Given(), subsets=2, subset_size=60, normalize=True)
    metric.set_dtype(torch.float64)
    metric.update(x.double()[:, None, None], real=True)
    metric.update(y.double()[:, None, None], real=False)
    expected = float(metric.compute()[0])
    assert kernel_distance(x, y)[0] == pytest.approx(expected, rel=1e-6)


def test_chunks_make_no_difference(monkeypatch):
    x, y = features(31, 5, 0), features(23, 5, 1)
    whole = kernel_distance(x, y)
    monkeypatch.setattr(kernel, "CHUNK", 40)
    assert kernel_distance(x, y) == pytest.approx(whole, rel=1e-12)


def draws(count: int, off: float) -> list[tuple[Tensor, Tensor]]:
    random = torch.Generator().manual_seed(0)
    return [
        (torch.randn(60, 8, generator=random), torch.randn(80, 8, generator=random) * (1 + off))
        for _ in range(count)
    ]


@pytest.mark.parametrize("off", [0.0, 0.3])
def test_unbiased_and_its_standard_error_is_the_spread(off):
    """0 on average for one distribution; there it errs on the safe side."""
    found = [kernel_distance(x, y) for x, y in draws(200, off)]
    values, errors = np.array(found).T
    spread = values.std()
    assert 0.85 < errors.mean() / spread < 1.7
    if off == 0:
        assert abs(values.mean()) < 4 * spread / len(values) ** 0.5
    else:
        assert values.mean() > 10 * spread / len(values) ** 0.5


def test_the_standard_error_is_the_jackknifes():
    x, y = features(12, 3, 0), features(9, 3, 1)

    def left_out(values: list[float]) -> float:
        return (len(values) - 1) * float(np.var(values))

    by_hand = left_out([kernel_distance(x[torch.arange(12) != i], y)[0] for i in range(12)])
    by_hand += left_out([kernel_distance(x, y[torch.arange(9) != i])[0] for i in range(9)])
    assert kernel_distance(x, y)[1] == pytest.approx(by_hand**0.5, rel=1e-9)
