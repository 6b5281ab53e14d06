"""A network as a denoiser: what it is told, and thresholding."""

from __future__ import annotations

import pytest
import torch

from unnoise.diffusion.denoiser import DiffusionModel, Prediction, clip_x0, dynamic_threshold
from unnoise.diffusion.schedules import SCHEDULES

LEVEL = SCHEDULES["cosine"](100).level(40.0)


def assert_consistent(prediction, x, level):
    """x_t = alpha * x0 + sigma * eps."""
    torch.testing.assert_close(
        level.alpha * prediction.x0 + level.sigma * prediction.eps, x, rtol=1e-5, atol=1e-5
    )


def test_clipping_keeps_x_t():
    x = torch.randn(4, 1, 2, 2)
    clipped = clip_x0(lambda x_t, level: Prediction(5 * x_t, x_t))(x, LEVEL)
    assert clipped.x0.abs().max() <= 1
    assert_consistent(clipped, x, LEVEL)


def test_dynamic_thresholding_is_imagens():
    """By hand: s = the quantile of |x0| (at least 1), then clip(x0, -s, s) / s, image by image."""
    x0 = torch.linspace(-3, 3, 101).reshape(1, 1, 1, 101)
    both = torch.cat([x0, x0 / 10])
    out = dynamic_threshold(lambda x_t, level: Prediction(both, x_t), 0.8)(
        torch.randn(2, 1, 1, 101), LEVEL
    ).x0
    s = torch.quantile(x0.abs().flatten(), 0.8)
    torch.testing.assert_close(out[:1], x0.clamp(-s, s) / s)
    torch.testing.assert_close(out[1:], x0 / 10)  # within the range: untouched


class Told(torch.nn.Module):
    """Outputs its input, and keeps the times that it was told."""

    def forward(self, x, time, label=None):
        self.time = time
        return x


@pytest.mark.parametrize("level", [LEVEL, SCHEDULES["cosine"](100).level(torch.tensor([40.0]))])
def test_the_network_is_told_the_scaled_time(level):
    x, network = torch.randn(1, 1, 2, 2), Told()
    for scale, time in ((1.0, 39.0), (0.25, 9.75)):
        DiffusionModel(network, SCHEDULES["cosine"](100), "v", time_scale=scale).denoise(x, level)
        assert network.time.tolist() == [time]


def test_the_standard_deviation_of_the_data_scales_what_edm_is_shown():
    x, schedule = torch.randn(1, 1, 2, 2), SCHEDULES["edm"](0)
    for sd in (0.5, 0.3):
        model = DiffusionModel(Told(), schedule, "edm", sigma_data=sd)
        output, _ = model.output(x, schedule.level(0.4), None)
        torch.testing.assert_close(output, x / (0.4**2 + sd**2) ** 0.5)
