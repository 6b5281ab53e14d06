"""What the network predicts: target and recovery are inverse, and EDM is its table 1."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unnoise.diffusion.gaussian import diffuse
from unnoise.diffusion.levels import Level
from unnoise.diffusion.parameterizations import PARAMETERIZATIONS, determinant, recover, target


def levels(schedule) -> list[Level]:
    return [schedule.level(t) for t in np.linspace(schedule.t_min, schedule.t_max, 7)]


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_target_and_recovery_are_inverse(name, schedule):
    x0, eps = torch.randn(2, 4, 3, 2, 2, dtype=torch.float64)
    for level in levels(schedule):
        c = PARAMETERIZATIONS[name](level, 0.5)
        if abs(determinant(c, level)) < 1e-4:
            continue  # F says nothing about x0 there (eps at pure noise)
        got = recover(c, level, diffuse(x0, eps, level), target(c, x0, eps))
        torch.testing.assert_close(got, (x0, eps), rtol=1e-6, atol=1e-6)


def test_network_output_scales_are_those_of_the_table(schedule):
    for level in levels(schedule):
        norm = (level.alpha**2 + level.sigma**2) if schedule.steps else None
        v = determinant(PARAMETERIZATIONS["v"](level, 0.5), level)
        assert v == pytest.approx(level.alpha**2 + level.sigma**2)
        assert norm is None or v == pytest.approx(1)
        assert determinant(PARAMETERIZATIONS["flow"](level, 0.5), level) == pytest.approx(
            level.alpha + level.sigma
        )


def test_edm_row_is_edms_table_1():
    for sigma in (0.002, 0.5, 80.0):
        level, sd = Level(sigma, 1.0, sigma), 0.5
        c = PARAMETERIZATIONS["edm"](level, 0.5)
        c_skip, c_out = sd**2 / (sigma**2 + sd**2), sigma * sd / (sigma**2 + sd**2) ** 0.5
        x0, eps = torch.randn(2, 1, 1, 2, 2, dtype=torch.float64)
        y, output = x0 + sigma * eps, torch.randn(1, 1, 2, 2, dtype=torch.float64)
        torch.testing.assert_close(
            recover(c, level, y, output)[0], c_skip * y + c_out * output
        )  # EDM (7)
        assert c.input_scale == pytest.approx(1 / (sigma**2 + sd**2) ** 0.5)
        # lambda(sigma) * |D - x0|^2 is the plain error of F
        error = (output - target(c, x0, eps)) ** 2
        weight = (sigma**2 + sd**2) / (sigma * sd) ** 2
        torch.testing.assert_close(weight * (c_skip * y + c_out * output - x0) ** 2, error)


def test_edm_keeps_input_and_target_at_unit_variance_for_any_data():
    for sd in (0.25, 1.0):
        level = Level(0.7, 0.8, 0.7)
        c = PARAMETERIZATIONS["edm"](level, sd)
        assert c.input_scale**2 * ((level.alpha * sd) ** 2 + level.sigma**2) == pytest.approx(1)
        assert (c.a * sd) ** 2 + c.b**2 == pytest.approx(1)
