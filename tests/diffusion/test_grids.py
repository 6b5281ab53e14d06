"""Grids: from noise to data, and those of EDM, DPM-Solver and diffusers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from unnoise.diffusion import grids
from unnoise.diffusion.levels import DATA
from unnoise.diffusion.schedules import SCHEDULES


@pytest.mark.parametrize("spacing", grids.SPACINGS)
def test_grids_fall_from_noise_to_data(spacing, schedule):
    for steps in (1, 2, 10, 50):
        grid = grids.make(schedule, steps, spacing)
        assert len(grid) == steps + 1
        assert grid[-1] == DATA
        assert all(a.t > b.t for a, b in pairwise(grid))
        assert spacing == "leading" or grid[0].t == schedule.t_max


def test_full_grid_is_every_level_and_more_is_refused():
    schedule = SCHEDULES["linear"](20)
    for spacing in ("leading", "trailing", "uniform"):
        assert [level.t for level in grids.make(schedule, 20, spacing)] == list(range(20, -1, -1))
        with pytest.raises(ValueError, match="expected fewer"):
            grids.make(schedule, 21, spacing)


def test_karras_grid_is_edms():
    grid = grids.make(SCHEDULES["edm"](0), 18, "karras")
    i = np.arange(18)
    want = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7  # EDM (5)
    np.testing.assert_allclose([level.sigma for level in grid[:-1]], want, rtol=1e-9)


@pytest.mark.parametrize("spacing", ["karras", "log_snr"])
@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid", "flow"])
def test_spacings_by_noise_are_even_from_their_ends(name, spacing):
    """From the schedule's own ends, or from EDM's 80 where the schedule ends on pure noise."""
    schedule = SCHEDULES[name](1000)
    first, last = schedule.level(schedule.t_max), schedule.level(schedule.t_min)
    high = first.sigma / first.alpha if name == "linear" else 80.0
    values = [level.sigma / level.alpha for level in grids.make(schedule, 9, spacing)[1:-1]]
    even = np.log if spacing == "log_snr" else lambda noise: np.asarray(noise) ** (1 / 7)
    gaps = np.diff(even([high, *values]))
    np.testing.assert_allclose(gaps, gaps[0], rtol=1e-6)
    assert values[-1] == pytest.approx(max(last.sigma / last.alpha, 0.002))


def test_a_grid_of_given_noises_begins_at_t_max():
    schedule = SCHEDULES["cosine"](1000)
    grid = grids.from_noises(schedule, (80.0, 3.0, 0.1))
    assert grid[0].t == 1000 and grid[-1] == DATA
    assert [level.sigma / level.alpha for level in grid[1:-1]] == pytest.approx([3.0, 0.1])


def test_the_range_of_edm_is_an_option():
    grid = grids.make(SCHEDULES["edm"](0, sigma_min=0.01, sigma_max=300.0), 5, "log_snr")
    assert [level.sigma for level in grid[:-1]] == pytest.approx(np.geomspace(300, 0.01, 5))
