"""The Gaussian distances of the variational bound."""

from __future__ import annotations

import math

import pytest
import torch

from unnoise.diffusion.gaussian import discretized_log_likelihood, kl_divergence, log_variance
from unnoise.diffusion.levels import Transition
from unnoise.diffusion.schedules import SCHEDULES


def test_kl_and_decoder():
    mean1, mean2 = torch.tensor([0.3]), torch.tensor([-0.2])
    p, q = torch.distributions.Normal(mean1, 0.7), torch.distributions.Normal(mean2, 1.3)
    got = kl_divergence(mean1, 2 * math.log(0.7), mean2, 2 * math.log(1.3))
    torch.testing.assert_close(got, torch.distributions.kl_divergence(p, q))
    values = torch.linspace(-1, 1, 256, dtype=torch.float64)
    total = (
        discretized_log_likelihood(values, torch.full_like(values, 0.123), math.log(0.3))
        .exp()
        .sum()
    )
    assert total.item() == pytest.approx(1, abs=1e-6)  # the 256 bins cover the line


def test_learned_variance_lies_between_the_two():
    schedule = SCHEDULES["cosine"](100)
    step = Transition(schedule.level(50.0), schedule.level(49.0))
    share = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    got = log_variance("learned", step, share, 0.0)
    small, large = log_variance("small", step, None, 0.0), log_variance("large", step, None, 0.0)
    torch.testing.assert_close(
        got, torch.tensor([small, (small + large) / 2, large], dtype=torch.float64)
    )
    with pytest.raises(ValueError, match="learned"):
        log_variance("learned", step, None, 0.0)
