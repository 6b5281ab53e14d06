"""Schedules: the tables of the papers, levels of floats and tensors, options."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from unnoise.diffusion.schedules import SCHEDULES, Discrete

DISCRETE = [name for name, make in SCHEDULES.items() if make(10).steps is not None]


def test_linear_and_cosine_tables():
    linear, cosine = SCHEDULES["linear"](1000), SCHEDULES["cosine"](1000)
    np.testing.assert_allclose(
        linear.alpha_bar[1:], np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)), rtol=1e-12
    )
    assert cosine.alpha_bar[0] == 1
    f = lambda u: math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    assert cosine.alpha_bar[500] == pytest.approx(f(0.5) / f(0), rel=1e-9)  # Improved DDPM (17)
    assert 0 < cosine.alpha_bar[1000] < 1e-6
    for name in DISCRETE:
        table = SCHEDULES[name](1000).alpha_bar
        assert np.all(np.diff(table) < 0) and table[-1] > 0


def test_levels_of_tensors_equal_levels_of_floats(schedule):
    times = torch.linspace(schedule.t_min, schedule.t_max, 5, dtype=torch.float64)
    times = times.round() if schedule.steps else times
    batch = schedule.level(times)
    assert batch.alpha.shape == (5, 1, 1, 1)
    for i, t in enumerate(times.tolist()):
        one = schedule.level(t)
        assert (batch.alpha[i].item(), batch.sigma[i].item()) == pytest.approx(
            (one.alpha, one.sigma)
        )
        if one.alpha > 0:
            assert one.half_log_snr == pytest.approx(0.5 * math.log(one.snr))


def test_time_inverts_noise_to_signal(schedule):
    for noise in (0.05, 0.3, 1.0, 7.0):
        level = schedule.level(schedule.time(noise))
        assert level.sigma / level.alpha == pytest.approx(noise, rel=1e-6)


def test_fractional_times_lie_between():
    schedule = SCHEDULES["cosine"](100)
    below, between, above = (schedule.level(t) for t in (40.0, 40.5, 41.0))
    assert between.half_log_snr == pytest.approx((below.half_log_snr + above.half_log_snr) / 2)
    assert between.alpha**2 + between.sigma**2 == pytest.approx(1)
    with pytest.raises(ValueError, match="no noise level"):
        schedule.level(0.5)


def test_discrete_needs_no_special_length():
    assert isinstance(SCHEDULES["cosine"](4000), Discrete)
    assert SCHEDULES["linear"](4000).alpha_bar[-1] == pytest.approx(
        SCHEDULES["linear"](1000).alpha_bar[-1], rel=0.1
    )


@pytest.mark.parametrize("name", [*DISCRETE, "flow"])
def test_a_shift_multiplies_the_noise_at_every_time(name):
    plain, shifted = (SCHEDULES[name](100, shift=shift) for shift in (1.0, 3.0))
    for t in (1.0, 30.5, 99.0) if name in DISCRETE else (0.01, 0.5, 0.99):
        before, after = plain.level(t), shifted.level(t)
        assert before == SCHEDULES[name](100).level(t)
        ratio = (after.sigma / after.alpha) / (before.sigma / before.alpha)
        assert ratio == pytest.approx(3, rel=1e-9)
        assert shifted.time(after.sigma / after.alpha) == pytest.approx(t, rel=1e-9)
        # Hoogeboom et al. 2023: log-SNR + 2 log(base / resolution), here 1 / 3
        assert math.log(after.snr) == pytest.approx(math.log(before.snr) + 2 * math.log(1 / 3))


def test_the_shift_of_flow_is_stable_diffusion_3s():
    flow = SCHEDULES["flow"](0, shift=3.0)
    for t in (0.1, 0.5, 0.9, 1.0):
        level = flow.level(t)
        assert level.sigma == pytest.approx(3 * t / (1 + 2 * t))  # Esser et al. 2024 (23)
        assert flow.network_time(level) == pytest.approx(1000 * level.sigma)


def test_options_out_of_range_are_refused():
    for name, options in (
        ("cosine", {"shift": 0.0}),
        ("flow", {"shift": -1.0}),
        ("edm", {"sigma_min": 90.0}),
        ("edm", {"sigma_max": math.inf}),
        ("linear", {"beta_start": 0.1}),
        ("linear", {"power": 0.0}),
    ):
        with pytest.raises(ValueError, match=f"got {next(iter(options))}|sigma_max inf|power 0"):
            SCHEDULES[name](100, **options)
    edm = SCHEDULES["edm"](0, sigma_min=0.01, sigma_max=200.0)
    assert (edm.t_min, edm.t_max) == (0.01, 200.0)
