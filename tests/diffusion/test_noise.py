"""Noise depends on its seed only."""

from __future__ import annotations

import torch

from unnoise.diffusion.noise import Noise, derive_seed, stream


def test_noise_depends_on_the_seed_only():
    together, alone = Noise([3, 4, 5], (1, 2, 2)), Noise([4], (1, 2, 2))
    for _ in range(2):
        torch.testing.assert_close(together.normal()[1], alone.normal()[0], rtol=0, atol=0)
    draws = {
        float(torch.rand((), generator=stream(s, i, n)))
        for s in (0, 1)
        for i in (0, 1)
        for n in ("a", "b")
    }
    assert len(draws) == 8
    assert derive_seed(1, 23) != derive_seed(12, 3)
