"""The Fréchet distance against closed forms, scipy and torchmetrics; its error and its bias."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from torch import Tensor, nn

from unnoise.evaluation.frechet import FrechetTo, frechet_distance, moments, perfect
from unnoise.evaluation.statistics import Statistics


def features(n: int, d: int, seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=random, dtype=torch.float64)
    return (
        torch.randn(n, d, generator=random, dtype=torch.float64) @ mix
        + torch.randn(d, generator=random).double()
    )


def distance(x: Tensor, y: Tensor) -> float:
    return frechet_distance(*moments(x), *moments(y))


def test_one_dimension_in_closed_form():
    """(m1 - m2)^2 + (s1 - s2)^2."""
    one = (torch.tensor([1.0]).double(), torch.tensor([[4.0]]).double())
    two = (torch.tensor([-2.0]).double(), torch.tensor([[9.0]]).double())
    assert frechet_distance(*one, *two) == pytest.approx(9 + 1)


def test_gaussians_whose_covariances_commute_in_closed_form():
    """|m1 - m2|^2 + sum_i (s1_i - s2_i)^2, in any frame."""
    random = torch.Generator().manual_seed(0)
    frame = torch.linalg.qr(torch.randn(9, 9, generator=random, dtype=torch.float64)).Q
    s1, s2, m1, m2 = torch.rand(4, 9, generator=random, dtype=torch.float64)
    covs = [frame @ torch.diag(s**2) @ frame.T for s in (s1, s2)]
    expected = float(((m1 - m2) ** 2).sum() + ((s1 - s2) ** 2).sum())
    assert frechet_distance(m1, covs[0], m2, covs[1]) == pytest.approx(expected, rel=1e-10)


def test_against_the_definition_with_scipys_root():
    a, b = moments(features(500, 12, 0)), moments(features(500, 12, 1))
    root = sqrtm(a[1].numpy() @ b[1].numpy())
    expected = float(
        ((a[0] - b[0]) ** 2).sum() + np.trace(a[1].numpy() + b[1].numpy() - 2 * root.real)
    )
    assert frechet_distance(*a, *b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(*b, *a) == pytest.approx(expected, rel=1e-9)


class Given(nn.Module):
    """torchmetrics asks a network for features: these are there already."""

    num_features = 24

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0, 0] if x.ndim == 4 else x.new_zeros(len(x), self.num_features)


def test_torchmetrics_agrees():
    fid = pytest.importorskip("torchmetrics.image.fid", reason="needs torchmetrics (extra dev)")
    x, y = features(300, 24, 0).float(), (features(250, 24, 0) * 1.2 + 0.1).float()
    metric = fid.FrechetInceptionDistance(feature=Given(), normalize=True)
    metric.set_dtype(torch.float64)
    metric.update(x[:, None, None], real=True)
    metric.update(y[:, None, None], real=False)
    assert distance(x, y) == pytest.approx(float(metric.compute()), rel=1e-6)
    assert FrechetTo(Statistics.of(x)).distance(y) == pytest.approx(
        float(metric.compute()), rel=1e-6
    )


SIZES = st.tuples(st.integers(2, 40), st.integers(2, 40), st.integers(1, 12), st.integers(0, 1000))


@given(SIZES)
@settings(deadline=None, max_examples=40)
def test_properties_for_any_number_of_vectors(sizes):
    """Symmetry, rotations, scale, a set and itself; N below the dimension as well."""
    n, m, d, seed = sizes
    x, y = features(n, d, seed), features(m, d, seed + 1)
    found = distance(x, y)
    scale = float(x.var(0).sum() + y.var(0).sum() + (x.mean(0) - y.mean(0)).square().sum())
    near = {"rel": 1e-6, "abs": 1e-6 * scale}
    assert found >= 0
    assert distance(y, x) == pytest.approx(found, **near)
    assert distance(x, x) == pytest.approx(0, abs=1e-6 * scale)
    assert distance(x, x + 1) == pytest.approx(d, rel=1e-6, abs=1e-6 * scale)
    rotation = torch.linalg.qr(features(d, d, seed + 2)).Q
    assert distance(x @ rotation, y @ rotation) == pytest.approx(found, **near)
    assert distance(3 * x, 3 * y) == pytest.approx(9 * found, **{**near, "abs": 1e-5 * scale})
    assert FrechetTo(Statistics.of(y)).estimate(x).value == pytest.approx(found, **near)


@pytest.mark.parametrize("count", [5, 500])  # fewer vectors than dimensions, and more
def test_a_set_is_at_distance_0_from_itself(count):
    a = moments(features(count, 12, 0))
    assert frechet_distance(*a, *a) == pytest.approx(0, abs=1e-6)


def test_moments_are_numpys():
    x = features(50, 4, 0)
    mean, cov = moments(x.float())
    np.testing.assert_allclose(mean, x.float().double().numpy().mean(0))
    np.testing.assert_allclose(cov, np.cov(x.float().double().numpy(), rowvar=False))


class Model:
    """Gaussian samples of a falling spectrum, as features have, with scale and mean off."""

    def __init__(self, d: int, off: float) -> None:
        variances = torch.arange(1, d + 1, dtype=torch.float64) ** -1.0
        self.std, self.shift = variances.sqrt() * (1 + off), off / d**0.5
        self.reference = Statistics(
            None, torch.zeros(d, dtype=torch.float64), torch.diag(variances)
        )
        self.truth = off**2 + float(variances.sum()) * off**2

    def draw(self, n: int, seed: int) -> Tensor:
        random = torch.Generator().manual_seed(seed)
        return (
            torch.randn(n, len(self.std), generator=random, dtype=torch.float64) * self.std
            + self.shift
        )


@pytest.mark.parametrize(("d", "n"), [(40, 30), (40, 100), (40, 1000)])
def test_standard_error_is_the_spread_of_repeated_samples(d, n):
    """Within its promise of 0.9 to 1.6 times, for N below the dimension too."""
    model = Model(d, 0.3)
    to = FrechetTo(model.reference)
    found = [to.estimate(model.draw(n, seed)) for seed in range(150)]
    spread = float(np.std([one.value for one in found]))
    error = float(np.mean([one.standard_error for one in found]))
    assert 0.9 < error / spread < 1.6
    mean = np.mean([one.value for one in found])
    inside = np.mean([one.interval[0] <= mean <= one.interval[1] for one in found])
    assert inside > 0.92


def test_standard_error_is_the_jackknife_for_many_vectors():
    """Leaving out every vector once, where means and covariances both differ."""
    x, to = features(300, 3, 0), FrechetTo(Statistics.of(features(300, 3, 1)))
    left_out = [to.distance(x[torch.arange(300) != i]) for i in range(300)]
    assert to.estimate(x).standard_error == pytest.approx((299 * np.var(left_out)) ** 0.5, rel=0.01)


@pytest.mark.parametrize("n", [60, 200, 2000])
def test_a_perfect_model_gets_what_perfect_says(n):
    model = Model(20, 0.0)
    found = np.mean(
        [FrechetTo(model.reference).distance(model.draw(n, seed)) for seed in range(60)]
    )
    assert perfect(model.reference.cov, n) == pytest.approx(found, rel=0.1)


def test_streaming_batches_of_float32():
    x, to = features(100, 8, 0), FrechetTo(Statistics.of(features(90, 8, 1)))
    assert to.distance(x.float()) == pytest.approx(to.distance(x), rel=1e-5)
