"""The Fréchet distance against its closed forms and scipy's matrix root."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from unnoise.evaluation.frechet import frechet_distance, moments


def features(n: int, d: int, seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=random, dtype=torch.float64)
    return torch.randn(n, d, generator=random, dtype=torch.float64) @ mix + torch.randn(d, generator=random).double()


def test_one_dimension_in_closed_form():
    """(m1 - m2)^2 + (s1 - s2)^2."""
    one = (torch.tensor([1.0]).double(), torch.tensor([[4.0]]).double())
    two = (torch.tensor([-2.0]).double(), torch.tensor([[9.0]]).double())
    assert frechet_distance(*one, *two) == pytest.approx(9 + 1)


def test_against_the_definition_with_scipys_root():
    a, b = moments(features(500, 12, 0)), moments(features(500, 12, 1))
    root = sqrtm(a[1].numpy() @ b[1].numpy())
    expected = float(((a[0] - b[0]) ** 2).sum() + np.trace(a[1].numpy() + b[1].numpy() - 2 * root.real))
    assert frechet_distance(*a, *b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(*b, *a) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("count", [5, 500])  # fewer vectors than dimensions, and more
def test_a_set_is_at_distance_0_from_itself(count):
    a = moments(features(count, 12, 0))
    assert frechet_distance(*a, *a) == pytest.approx(0, abs=1e-6)


def test_moments_are_numpys():
    x = features(50, 4, 0)
    mean, cov = moments(x.float())
    np.testing.assert_allclose(mean, x.float().double().numpy().mean(0))
    np.testing.assert_allclose(cov, np.cov(x.float().double().numpy(), rowvar=False))
    with pytest.raises(ValueError, match="got 1 vectors"):
        moments(x[:1])
