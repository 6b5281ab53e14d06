"""Inpainting, inversion and interpolation against the exact denoiser of a Gaussian mixture."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from tests.mixture import Mixture

from unnoise.diffusion import grids
from unnoise.diffusion.editing import inpaint, invert, slerp, zigzag
from unnoise.diffusion.samplers import SAMPLERS, walk
from unnoise.diffusion.schedules import SCHEDULES

MIXTURE = Mixture([[-0.6, 0.3], [0.5, 0.1], [0.2, -0.7]], std=0.2)


def normal(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(
        count, 1, 1, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_known_pixels_come_out_bit_for_bit(sampler, schedule):
    process = SCHEDULES[schedule](1000)
    grid = grids.make(process, 10, "log_snr")
    known, noise = 0.3 * normal(7, 1), normal(7)
    unknown = torch.tensor([[[[True, False]]]])
    denoiser = inpaint(MIXTURE.denoise, known, unknown, lambda: noise)
    *_, step = walk(sampler, denoiser, grid, lambda: normal(7, 2), start=grid[0].sigma * noise)
    assert torch.equal(step.x[..., 1], known[..., 1])
    assert step.x.isfinite().all() and not torch.allclose(step.x[..., 0], known[..., 0])


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "unipc_2"])
def test_the_denoiser_sees_known_pixels_on_their_own_path(sampler):
    grid = grids.make(SCHEDULES["cosine"](1000), 10, "log_snr")
    known, noise, seen = 0.3 * normal(7, 1), normal(7), []

    def spy(x_t, level):
        torch.testing.assert_close(
            x_t[..., 1], level.alpha * known[..., 1] + level.sigma * noise[..., 1]
        )
        seen.append(level)
        return MIXTURE.denoise(x_t, level)

    denoiser = inpaint(spy, known, torch.tensor([[[[True, False]]]]), lambda: noise)
    assert len(
        list(walk(sampler, denoiser, grid, lambda: normal(7, 2), start=grid[0].sigma * noise))
    ) == len(seen)


def test_what_is_painted_fits_what_is_known():
    """The second pixel at -0.7 is only had by the third component: the first pixel then lies near
    its 0.2."""
    grid = grids.make(SCHEDULES["cosine"](1000), 200, "trailing")
    noise = normal(400)
    known = torch.full((400, 1, 1, 2), -0.7, dtype=torch.float64)
    denoiser = inpaint(MIXTURE.denoise, known, torch.tensor([[[[True, False]]]]), lambda: noise)
    *_, step = walk("ddim", denoiser, grid, lambda: noise, start=grid[0].sigma * noise)
    assert abs(float(step.x[..., 0].mean()) - 0.2) < 0.1


def test_resampling_brings_the_exact_conditional_distribution():
    """Given the second pixel, the first one's three components have known shares; one pass of
    replacement misses them."""
    known_value, count = -0.1, 1500
    grid = grids.make(SCHEDULES["cosine"](1000), 60, "trailing")
    likelihood = torch.exp(-((known_value - MIXTURE.means[:, 1]) ** 2) / (2 * MIXTURE.std**2))
    exact = float((likelihood * MIXTURE.means[:, 0]).sum() / likelihood.sum())
    errors = []
    for repeats in (1, 20):
        generator = torch.Generator().manual_seed(0)

        def draw(generator=generator):
            return torch.randn(count, 1, 1, 2, generator=generator, dtype=torch.float64)

        noise, known = draw(), torch.full((count, 1, 1, 2), known_value, dtype=torch.float64)
        denoiser = inpaint(MIXTURE.denoise, known, torch.tensor([[[[True, False]]]]), draw)
        path = zigzag(grid, repeats)
        *_, step = walk("ddpm", denoiser, path, draw, start=grid[0].sigma * noise)
        assert torch.equal(step.x[..., 1], known[..., 1])
        errors.append(abs(float(step.x[..., 0].mean()) - exact))
    assert errors[1] < errors[0] / 2, errors


def test_a_zigzag_goes_up_as_often_as_asked_and_ends_on_data():
    grid = grids.make(SCHEDULES["cosine"](1000), 20, "trailing")
    assert zigzag(grid, 1) == grid
    path = zigzag(grid, 3)
    down = sum(s.t < t.t for t, s in pairwise(path))
    assert (path[0], path[-1], path[-2]) == (grid[0], grid[-1], grid[-2])
    assert down == 3 * 19 + 1 and len(path) - 1 == down + 2 * 19


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_inversion_and_ddim_are_inverse(schedule):
    process = SCHEDULES[schedule](1000)
    grid = grids.make(process, 40, "log_snr")
    x0 = MIXTURE.means[torch.arange(6) % 3].reshape(6, 1, 1, 2) + 0.1 * normal(6)
    errors = []
    for iterations in (1, 3, 30):
        *_, noisy = invert(MIXTURE.denoise, x0, grid, iterations)
        assert noisy.level == grid[0] and noisy.nfe == 40 * iterations
        *_, back = SAMPLERS["ddim"](MIXTURE.denoise, noisy.x, grid, lambda: normal(6))
        errors.append(float((back.x - x0).abs().max()))
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-6, errors


def test_slerp_keeps_the_length_and_the_ends():
    a, b = torch.randn(3, 8, 8), torch.randn(3, 8, 8)
    a, b = a / a.norm(), b / b.norm()
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    for share in (0.2, 0.5, 0.9):
        assert float(slerp(a, b, share).norm()) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(slerp(a, a, 0.3), a)
    half = slerp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 0.5)
    torch.testing.assert_close(half, torch.tensor([0.5**0.5, 0.5**0.5]))
