"""Guidance: denoisers made from denoisers."""

from __future__ import annotations

import pytest
import torch
from tests.mixture import Mixture

from unnoise.diffusion.denoiser import DiffusionModel, Prediction, conditional
from unnoise.diffusion.guidance import autoguidance, classifier_free, mixture, within
from unnoise.diffusion.levels import Level
from unnoise.diffusion.schedules import SCHEDULES

LEVEL = SCHEDULES["cosine"](100).level(40.0)


class ByLabel(torch.nn.Module):
    """Outputs its label as F everywhere, and counts the images it saw."""

    seen = 0

    def forward(self, x, time, label=None):
        self.seen += len(x)
        return torch.zeros_like(x) + label.reshape(-1, 1, 1, 1).to(x)


def model():
    return DiffusionModel(ByLabel(), SCHEDULES["cosine"](100), "x0")


def assert_consistent(prediction, x, level):
    """x_t = alpha * x0 + sigma * eps."""
    torch.testing.assert_close(
        level.alpha * prediction.x0 + level.sigma * prediction.eps, x, rtol=1e-5, atol=1e-5
    )


def test_guidance_extrapolates_in_one_call_and_counts_double():
    by_label = model()
    x, label = torch.randn(2, 1, 2, 2), torch.tensor([3, 5])
    plain = conditional(by_label, label)(x, LEVEL)
    guided = classifier_free(by_label, label, 10, 2.5)(x, LEVEL)
    assert guided.nfe == 2 and plain.nfe == 1 and by_label.network.seen == 6
    torch.testing.assert_close(guided.x0[:, 0, 0, 0], 10 + 2.5 * (label - 10.0))
    assert_consistent(guided, x, LEVEL)
    torch.testing.assert_close(classifier_free(by_label, label, 10, 1.0)(x, LEVEL).x0, plain.x0)


def test_images_without_a_class_are_not_guided():
    by_label = model()
    null = torch.tensor([10, 10])
    assert classifier_free(by_label, null, 10, 3.0)(torch.randn(2, 1, 2, 2), LEVEL).nfe == 1


def test_the_weights_of_a_mixture_may_differ_by_image():
    x, ones = torch.randn(3, 1, 2, 2), torch.ones(3, dtype=torch.long)
    share = torch.tensor([0.0, 0.25, 1.0])
    mixed = mixture(model(), [2 * ones, 6 * ones], [1 - share, share])(x, LEVEL)
    torch.testing.assert_close(mixed.x0[:, 0, 0, 0], torch.tensor([2.0, 3.0, 6.0]))
    assert_consistent(mixed, x, LEVEL)


@pytest.mark.parametrize(("noise", "nfe"), [(0.05, 1), (0.1, 2), (1.0, 2), (3.0, 2), (3.1, 1)])
def test_guidance_in_an_interval_of_noise(noise, nfe):
    level = Level(0.0, (1 + noise**2) ** -0.5, noise * (1 + noise**2) ** -0.5)
    label = torch.tensor([3])
    guided = classifier_free(model(), label, 10, 2.0, (0.1 * 0.999, 3.0 * 1.001))
    prediction = guided(torch.randn(1, 1, 2, 2), level)
    assert prediction.nfe == nfe
    assert prediction.x0[0, 0, 0, 0] == (3 if nfe == 1 else -4)


def test_pure_noise_lies_beyond_every_finite_interval():
    pure = Level(1.0, 0.0, 1.0)
    one, two = (lambda x, level, k=k: Prediction(x, x, nfe=k) for k in (1, 2))
    assert within((0.0, 1e9), two, one)(torch.zeros(1, 1, 1, 1), pure).nfe == 2
    assert within((0.0, 50.0), two, one)(torch.zeros(1, 1, 1, 1), pure).nfe == 1


def test_autoguidance_moves_away_from_the_worse_model():
    """For Gaussian data of two widths the guided denoiser is the analytic extrapolation; scale 1 is
    the good one."""
    good, bad = Mixture([[0.0, 0.0]], std=0.2), Mixture([[0.0, 0.0]], std=0.5)
    x = torch.randn(5, 1, 1, 2, dtype=torch.float64)
    a, b = good.denoise(x, LEVEL).x0, bad.denoise(x, LEVEL).x0
    guided = autoguidance(good.denoise, bad.denoise, 2.0)(x, LEVEL)
    torch.testing.assert_close(guided.x0, 2 * a - b)
    assert guided.nfe == 2
    assert_consistent(guided, x, LEVEL)
    torch.testing.assert_close(autoguidance(good.denoise, bad.denoise, 1.0)(x, LEVEL).x0, a)
