"""The discrete variational bound on -log2 P(image), term by term, in bits/dim.  (docs/maths.md, 11)

    bound = L_T + sum over pairs t > s of the grid of L_{s<t} + L_0                     DDPM (5)

It belongs to ancestral sampling along the same grid: other grids are other models and have other
bounds. Terms are those of Improved DDPM's `calc_bpd_loop` (total_bpd, vb, prior_bpd), on any
schedule:

- L_T is the KL divergence of q(x_T | x0) from N(0, 1), or from N(0, sigma_T^2) for edm and flow.
- L_0 is a Gaussian cut into 256 bins around the last x0. Its variance, for "small" and "large"
  alike and as one end of "learned", is beta~ of the last two noisy levels, as in Improved DDPM (at
  least that of (2, 1)); on edm and flow it is the noise of the last level, (sigma / alpha)^2, which
  is right where the data's density is flat on that scale. A grey level of less than 1e-12 counts as
  that (as in both papers' code), so a bad model's L_0 is at most 39.9 bits.
- x0 is clipped to [-1, 1] unless told otherwise, as in both papers.

Each image has its own noise, one draw for each term: a term is an unbiased estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unnoise.diffusion.denoiser import Denoiser, Prediction
from unnoise.diffusion.gaussian import NATS_PER_BIT, diffuse, kl_divergence, mean_flat
from unnoise.diffusion.levels import Level, Transition
from unnoise.diffusion.losses import variance_floor, vlb_term
from unnoise.diffusion.noise import Noise, derive_seed
from unnoise.diffusion.schedules import SIGMA_RANGE, Schedule


class Chain(NamedTuple):
    """The reverse process whose bound it is."""

    grid: Sequence[Level]
    """From noise to data."""
    variance: str
    decoder: float
    """The variance of the last Gaussian, where beta~ is 0."""

    @property
    def pairs(self) -> list[Transition]:
        return [Transition(t, s) for t, s in pairwise(self.grid)]


class Portion(NamedTuple):
    """Some of the images as the maths takes them."""

    x0: Float[Tensor, "b c h w"]
    """float64 in [-1, 1]."""
    denoiser: Denoiser
    """The network for these images' labels, in float64."""
    seeds: range

    @property
    def noise(self) -> Noise:
        """The images' own noise, from its beginning."""
        _, c, h, w = self.x0.shape
        return Noise(self.seeds, (c, h, w), self.x0.device)

    def uniform(self, count: int) -> Tensor:
        """The images' own numbers in [0, 1), float64 (b, count) on the CPU."""
        seeds = [derive_seed(seed, "terms") for seed in self.seeds]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        draws = [torch.rand(count, generator=g, dtype=torch.float64) for g in generators]
        return torch.stack(draws)


def prior(x0: Float[Tensor, "b c h w"], level: Level, variance: float) -> Float[Tensor, " b"]:
    """L_T = KL(N(alpha x0, sigma^2) || N(0, variance)) in bits/dim."""
    mean, log_var = level.alpha * x0, 2 * float(np.log(level.sigma))
    kl = kl_divergence(mean, log_var, torch.zeros_like(mean), float(np.log(variance)))
    return mean_flat(kl) / NATS_PER_BIT


def prior_variance(schedule: Schedule, level: Level) -> float:
    """Variance of x_t at the first level: 1 on the variance-preserving schedules, else sigma^2."""
    return 1.0 if schedule.steps is not None else float(level.sigma) ** 2


def decoder_variance(schedule: Schedule, grid: Sequence[Level]) -> float:
    """Variance of the last Gaussian, whose mean is x0."""
    if schedule.steps is None:
        return float(grid[-2].sigma / grid[-2].alpha) ** 2
    return max(float(Transition(grid[-3], grid[-2]).beta_tilde), variance_floor(schedule))


def term(
    prediction: Prediction, x0: Tensor, x_t: Tensor, step: Transition, variance: str, decoder: float
) -> Float[Tensor, " b"]:
    """L_{s<t}, or L_0 where s is data, of each image in bits/dim."""
    if step.s.sigma > 0:
        return vlb_term(prediction, x0, x_t, step, variance, 0.0)
    # Improved DDPM decodes with beta~ of the pair before for the large variance too.
    variance = "small" if variance == "large" else variance
    return vlb_term(prediction, x0, x_t, step, variance, decoder)


def all_terms(
    denoiser: Denoiser,
    x0: Float[Tensor, "b c h w"],
    chain: Chain,
    draw: Callable[[], Tensor],
    progress: Callable[[int], object] = lambda steps: None,
) -> Float[Tensor, "b k"]:
    """Every term of float64 images, from noise to data; `draw` gives the noise of the next pair."""
    bits = []
    for step in chain.pairs:
        x_t = diffuse(x0, draw().to(x0), step.t)
        bits.append(term(denoiser(x_t, step.t), x0, x_t, step, chain.variance, chain.decoder))
        progress(1)
    return torch.stack(bits, 1)


def drawn_terms(
    part: Portion,
    chain: Chain,
    draw: Callable[[], Tensor],
    count: int,
    progress: Callable[[int], object],
) -> Float[Tensor, "b k"]:
    """count - 1 drawn terms, divided by how often each is drawn, and L_0: without bias."""
    chance = torch.from_numpy(_chances(chain.grid))
    quantiles = (torch.arange(count - 1) + part.uniform(count - 1)) / (count - 1)
    drawn = torch.searchsorted(chance.cumsum(0), quantiles).clamp(max=len(chance) - 1)
    pairs = torch.cat([drawn, torch.full((len(drawn), 1), len(chance))], dim=1)
    often, once = (count - 1) * chance[drawn], torch.ones(len(drawn), 1, dtype=torch.float64)
    weights = torch.cat([1 / often, once], dim=1)
    bits = []
    for k in range(count):
        bits.append(_terms_of(part, chain, pairs[:, k].tolist(), draw().to(part.x0)))
        progress(1)
    return torch.stack(bits, 1) * weights.to(part.x0)


def _chances(grid: Sequence[Level]) -> np.ndarray:
    """How often each pair is drawn: by its share of log(sigma / alpha), and a tenth evenly.

    A term is about as large as its share, since sigma / alpha bounds the error of a good x0. Far
    noise adds nothing.
    """
    ratios = [float(one.sigma / one.alpha) if one.alpha > 0 else np.inf for one in grid[:-1]]
    widths = -np.diff(np.log(np.minimum(ratios, SIGMA_RANGE[1])))
    return 0.9 * widths / widths.sum() + 0.1 / len(widths)


def _terms_of(part: Portion, chain: Chain, pairs: Sequence[int], eps: Tensor) -> Tensor:
    """Each image's term at its own pair, (b,): one network call at b levels."""
    x0, steps = part.x0, chain.pairs
    factors = torch.tensor([steps[pair].t for pair in pairs], dtype=torch.float64, device=x0.device)
    t, alpha, sigma = factors.T.reshape(3, -1, 1, 1, 1)
    level = Level(t, alpha, sigma)
    x_t = diffuse(x0, eps, level)
    found, bits = part.denoiser(x_t, level), []
    for i, pair in enumerate(pairs):
        one = slice(i, i + 1)
        share = None if found.var_frac is None else found.var_frac[one]
        alone = Prediction(found.x0[one], found.eps[one], share)
        bits.append(term(alone, x0[one], x_t[one], steps[pair], chain.variance, chain.decoder))
    return torch.cat(bits)
