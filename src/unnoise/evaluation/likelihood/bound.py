"""The discrete variational bound on -log2 P(image), term by term, in bits/dim.                  (docs/maths.md, 5)

    bound = L_T + sum over pairs t > s of the grid of L_{s<t} + L_0                               DDPM (5)

It belongs to ancestral sampling along the same grid: other grids are other models and have other bounds. Terms are those
of Improved DDPM's `calc_bpd_loop` (total_bpd, vb, prior_bpd, xstart_mse, mse), on any schedule:

- L_T is the KL divergence of q(x_T | x0) from N(0, 1), or from N(0, sigma_T^2) for edm and flow.
- L_0 is a Gaussian cut into 256 bins around the last x0. Its variance, for "small" and "large" alike and as one end of
  "learned", is beta~ of the last two noisy levels, as in Improved DDPM (at least that of (2, 1)); on edm and flow it is
  the noise of the last level, (sigma / alpha)^2, which is right where the data's density is flat on that scale.
  A grey level of less than 1e-12 counts as that (as in both papers' code), so a bad model's L_0 is at most 39.9 bits.
- x0 is clipped to [-1, 1] unless told otherwise, as in both papers.

Each image has its own noise, one draw for each term: a term is an unbiased estimate of its expectation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unnoise import build, events
from unnoise.diffusion import grids
from unnoise.diffusion.denoiser import Denoiser, Prediction, clip_x0
from unnoise.diffusion.gaussian import NATS_PER_BIT, VARIANCES, diffuse, kl_divergence, mean_flat
from unnoise.diffusion.levels import Level, Transition
from unnoise.diffusion.losses import variance_floor, vlb_term
from unnoise.diffusion.noise import Noise
from unnoise.diffusion.schedules import SIGMA_RANGE, Schedule
from unnoise.errors import ConfigError
from unnoise.evaluation.likelihood import common
from unnoise.evaluation.likelihood.common import Batch, Likelihood
from unnoise.model import Model
from unnoise.precision import full_precision

CONTINUOUS_STEPS = 1000


@dataclass(frozen=True)
class BoundSettings:
    """Which bound, and how much of it."""

    steps: int | None = None
    """Levels of the grid; None = all of a discrete schedule, 1000 of a continuous one."""
    spacing: str | None = None
    """Where they lie; None = uniform (Improved DDPM's respacing), log_snr on a continuous schedule."""
    variance: str | None = None
    """small, large or learned; None = the model's own."""
    clip_x0: bool = True
    """Clamp the predicted image to [-1, 1]."""
    terms: int | None = None
    """Estimate the sum without bias from so many terms of each image: L_0 and drawn ones, stratified; None = all."""


@dataclass(frozen=True)
class VariationalBound(Likelihood):
    """The bound of each image: bits = prior + terms.sum(1)."""

    prior: Float[Tensor, " n"]
    """L_T."""
    terms: Float[Tensor, "n k"]
    """From noise to data, the last is L_0; drawn ones are divided by their chance, so they add up too."""
    x0_mse: Float[Tensor, "n k"]
    """Mean squared error of the predicted x0 at each term's level."""
    eps_mse: Float[Tensor, "n k"]
    """And of the noise."""
    pairs: Int[Tensor, "n k"]
    """Which pair of the grid each term is: 0 is the noisiest."""
    levels: tuple[Level, ...]
    """The grid, from noise to data."""

    def parts(self) -> dict[str, float]:
        prior, total = float(self.prior.mean()), float(self.terms.sum(1).mean())
        last = (self.terms * (self.pairs == len(self.levels) - 2)).sum(1).mean()
        return {"prior": prior, "middle": total - float(last), "decoder": float(last)}


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


class Terms(NamedTuple):
    """The bound's terms of one batch, each (b, k) from noise to data."""

    bits: Tensor
    x0_mse: Tensor
    eps_mse: Tensor
    pairs: Tensor


def variational_bound(
    model: Model,
    images: Tensor | np.ndarray,
    labels: Tensor | np.ndarray | Sequence[int] | None = None,
    settings: BoundSettings = BoundSettings(),
    seed: int = 0,
    batch_size: int = 64,
) -> VariationalBound:
    """The bound for uint8 (n, c, h, w) images, in bits/dim; image i's noise is that of seed + i."""
    images, labels = common.check(model, images, labels, batch_size)
    chain = make_chain(model, settings)
    count = len(chain.pairs) if settings.terms is None else settings.terms
    if not 2 <= count <= len(chain.pairs):
        raise ConfigError(
            f"bound.terms: got {count}, expected 2 to {len(chain.pairs)}, the terms that there are"
        )
    first, prior_variance = (
        chain.grid[0],
        common.prior_variance(model.diffusion.schedule, chain.grid[0]),
    )
    parts, priors = [], []
    bar = events.Counter("bound", count * -(-len(images) // batch_size), "term")
    with (
        torch.inference_mode(),
        full_precision(),
    ):
        for batch in common.batches(model, images, labels, seed, batch_size):
            denoiser = clip_x0(batch.denoiser) if settings.clip_x0 else batch.denoiser
            draw = Noise(batch.seeds, common.image_shape(images), batch.x0.device).normal
            if settings.terms is None:
                terms = all_terms(denoiser, batch.x0, chain, draw, bar.step)
            else:
                terms = drawn_terms(batch._replace(denoiser=denoiser), chain, draw, count, bar.step)
            parts.append(Terms(*(part.cpu() for part in terms)))
            priors.append(prior(batch.x0, first, prior_variance).cpu())
    bits, x0_mse, eps_mse, pairs = (torch.cat(part) for part in zip(*parts, strict=True))
    recipe = {
        "method": "variational bound",
        **common.recipe(model, labels, len(images), seed),
        **asdict(settings),
        "steps": len(chain.pairs),
        "spacing": _spacing(model.diffusion.schedule, settings),
        "variance": chain.variance,
        "prior_variance": prior_variance,
        "decoder_variance": chain.decoder,
    }
    total = torch.cat(priors)
    return VariationalBound(
        total + bits.sum(1), recipe, total, bits, x0_mse, eps_mse, pairs, tuple(chain.grid)
    )


def make_chain(model: Model, settings: BoundSettings) -> Chain:
    """The reverse process of some settings; ConfigError where there is none."""
    schedule, variance = model.diffusion.schedule, settings.variance or model.diffusion.variance
    build.lookup(dict.fromkeys(VARIANCES), variance, "bound.variance")
    if variance == "learned" and model.diffusion.variance != "learned":
        raise ConfigError("bound.variance: this model has learned none; expected small or large")
    grid = _grid(schedule, settings)
    return Chain(grid, variance, decoder_variance(schedule, grid))


def _spacing(schedule: Schedule, settings: BoundSettings) -> str:
    return settings.spacing or ("log_snr" if schedule.steps is None else "uniform")


def _grid(schedule: Schedule, settings: BoundSettings) -> list[Level]:
    steps = (schedule.steps or CONTINUOUS_STEPS) if settings.steps is None else settings.steps
    if steps < 2:
        raise ConfigError(f"bound.steps: got {steps}, expected 2 or more")
    spacing = _spacing(schedule, settings)
    build.lookup(grids.SPACINGS, spacing, "bound.spacing")
    try:
        return grids.make(schedule, steps, spacing)
    except ValueError as error:
        raise ConfigError(f"bound.{error}") from error


def prior(x0: Float[Tensor, "b c h w"], level: Level, variance: float) -> Float[Tensor, " b"]:
    """L_T = KL(N(alpha x0, sigma^2) || N(0, variance)) in bits/dim."""
    mean, log_var = level.alpha * x0, 2 * float(np.log(level.sigma))
    kl = kl_divergence(mean, log_var, torch.zeros_like(mean), float(np.log(variance)))
    return mean_flat(kl) / NATS_PER_BIT


def decoder_variance(schedule: Schedule, grid: Sequence[Level]) -> float:
    """Of the last Gaussian, whose mean is x0."""
    if schedule.steps is None:
        return float(grid[-2].sigma / grid[-2].alpha) ** 2
    return max(float(Transition(grid[-3], grid[-2]).beta_tilde), variance_floor(schedule))


def term(
    prediction: Prediction, x0: Tensor, x_t: Tensor, step: Transition, variance: str, decoder: float
) -> Float[Tensor, " b"]:
    """L_{s<t}, or L_0 where s is data, of each image in bits/dim."""
    if step.s.sigma > 0:
        return vlb_term(prediction, x0, x_t, step, variance, 0.0)
    # Improved DDPM decodes with beta~ of the pair before for the large variance too, for a better likelihood.
    return vlb_term(
        prediction, x0, x_t, step, "small" if variance == "large" else variance, decoder
    )


def all_terms(
    denoiser: Denoiser,
    x0: Float[Tensor, "b c h w"],
    chain: Chain,
    draw: Callable[[], Tensor],
    progress: Callable[[int], object] = lambda steps: None,
) -> Terms:
    """Every term of float64 images; `draw` gives the noise of the next pair, from t_max down."""
    bits, x0_mse, eps_mse = [], [], []
    for step in chain.pairs:
        eps = draw().to(x0)
        x_t = diffuse(x0, eps, step.t)
        prediction = denoiser(x_t, step.t)
        bits.append(term(prediction, x0, x_t, step, chain.variance, chain.decoder))
        x0_mse.append(mean_flat((prediction.x0 - x0) ** 2))
        eps_mse.append(mean_flat((prediction.eps - eps) ** 2))
        progress(1)
    pairs = torch.arange(len(bits)).expand(len(x0), -1)
    return Terms(torch.stack(bits, 1), torch.stack(x0_mse, 1), torch.stack(eps_mse, 1), pairs)


def drawn_terms(
    batch: Batch,
    chain: Chain,
    draw: Callable[[], Tensor],
    count: int,
    progress: Callable[[int], object],
) -> Terms:
    """L_0 and count - 1 others, each divided by how often it is drawn: the sum is unbiased."""
    chance = torch.from_numpy(_chances(chain.grid))
    u = [
        torch.rand(count - 1, generator=g, dtype=torch.float64)
        for g in common.generators(batch.seeds, "terms")
    ]
    quantiles = (torch.arange(count - 1) + torch.stack(u)) / (count - 1)
    drawn = torch.searchsorted(chance.cumsum(0), quantiles).clamp(max=len(chance) - 1)
    pairs = torch.cat([drawn, torch.full((len(drawn), 1), len(chance))], dim=1)
    weights = torch.cat(
        [1 / ((count - 1) * chance[drawn]), torch.ones(len(drawn), 1, dtype=torch.float64)], dim=1
    )
    columns = []
    for k in range(count):
        columns.append(_terms_of(batch, chain, pairs[:, k].tolist(), draw().to(batch.x0)))
        progress(1)
    bits, x0_mse, eps_mse = (torch.stack(part, dim=1) for part in zip(*columns, strict=True))
    return Terms(bits * weights.to(bits), x0_mse, eps_mse, pairs)


def _chances(grid: Sequence[Level]) -> np.ndarray:
    """How often each pair but the last is drawn: by its share of log(sigma / alpha), and a tenth evenly.

    A term is about as large as its share, since sigma / alpha bounds the error of a good x0. Far noise adds nothing.
    """
    ratios = [
        float(level.sigma / level.alpha) if level.alpha > 0 else np.inf for level in grid[:-1]
    ]
    widths = -np.diff(np.log(np.minimum(ratios, SIGMA_RANGE[1])))
    return 0.9 * widths / widths.sum() + 0.1 / len(widths)


def _terms_of(
    batch: Batch, chain: Chain, pairs: Sequence[int], eps: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Each image's term at its own pair, (b,): one network call at b levels."""
    x0, steps = batch.x0, chain.pairs
    factors = torch.tensor([steps[pair].t for pair in pairs], dtype=torch.float64, device=x0.device)
    t, alpha, sigma = factors.T.reshape(3, -1, 1, 1, 1)
    level = Level(t, alpha, sigma)
    x_t = diffuse(x0, eps, level)
    prediction = batch.denoiser(x_t, level)
    bits = []
    for i, pair in enumerate(pairs):
        share = None if prediction.var_frac is None else prediction.var_frac[i : i + 1]
        one = Prediction(prediction.x0[i : i + 1], prediction.eps[i : i + 1], share)
        bits.append(
            term(one, x0[i : i + 1], x_t[i : i + 1], steps[pair], chain.variance, chain.decoder)
        )
    return (
        torch.cat(bits),
        mean_flat((prediction.x0 - x0) ** 2),
        mean_flat((prediction.eps - eps) ** 2),
    )
