"""Pairs of levels against the tables of DDPM."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unnoise.diffusion.levels import Transition
from unnoise.diffusion.schedules import SCHEDULES

DISCRETE = [name for name, make in SCHEDULES.items() if make(10).steps is not None]


@pytest.mark.parametrize("name", DISCRETE)
def test_pair_posterior_is_ddpms_tables(name):
    schedule = SCHEDULES[name](1000)
    bar = schedule.alpha_bar
    beta = 1 - bar[1:] / bar[:-1]
    for t in (1, 2, 500, 1000):
        step = Transition(schedule.level(float(t)), schedule.level(t - 1.0))
        assert step.beta == pytest.approx(beta[t - 1], rel=1e-9)
        tilde = (1 - bar[t - 1]) / (1 - bar[t]) * beta[t - 1]  # DDPM (7)
        assert step.beta_tilde == pytest.approx(tilde, rel=1e-9, abs=1e-15)
        x0, x_t = torch.randn(2, 1, 1, 2, 2, dtype=torch.float64)
        first = bar[t - 1] ** 0.5 * beta[t - 1] / (1 - bar[t])
        second = (1 - beta[t - 1]) ** 0.5 * (1 - bar[t - 1]) / (1 - bar[t])
        torch.testing.assert_close(
            step.posterior_mean(x_t, x0), first * x0 + second * x_t, rtol=1e-8, atol=1e-10
        )


def test_forward_transitions_compose(schedule):
    a, b, c = (schedule.level(t) for t in np.linspace(schedule.t_max, schedule.t_min, 3))
    ab, bc, ac = Transition(a, b), Transition(b, c), Transition(a, c)
    assert ac.ratio == pytest.approx(ab.ratio * bc.ratio)
    assert ac.beta == pytest.approx(ab.beta + ab.ratio**2 * bc.beta)
