"""The variational bound against two independent ones, with the same network outputs and noise.

1. DDPM's and Improved DDPM's formulas in numpy, from the tables of betas, full and respaced.
2. Improved DDPM's own program, `GaussianDiffusion.calc_bpd_loop` of
   github.com/openai/improved-diffusion at 1bc7bbb: GOLDEN is what
   `python -m tests.parity.test_likelihood_parity PATH/TO/improved-diffusion` printed. There two of
   its functions are replaced: `_extract_into_tensor`, so that it does not round its tables to
   float32, and the approximate normal cumulative distribution, by the exact one that we use.
   GOLDEN_DECODER is the last term with its own approximation.
"""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch

from unnoise.diffusion import grids
from unnoise.diffusion.denoiser import DiffusionModel, clip_x0, conditional
from unnoise.diffusion.schedules import SCHEDULES
from unnoise.evaluation.bound import Chain, all_terms, decoder_variance, prior

GREY = [[[[0, 31, 128], [77, 254, 255]]], [[[200, 190, 3], [0, 131, 64]]]]
CASES = {
    "linear small": ("linear", 100, 100, "small", True),
    "linear large": ("linear", 100, 100, "large", False),
    "cosine learned": ("cosine", 100, 100, "learned", True),
    "cosine learned, respaced": ("cosine", 1000, 8, "learned", True),
    "linear large, respaced": ("linear", 1000, 12, "large", True),
}
"""Schedule, T, levels that are kept, variance, whether x0 is clipped.

Both keep the same levels unless one falls in the middle between two: both round it to even, and
ours count from 1.
"""
SHOWN = (0, 2, -2, -1)
"""The terms in GOLDEN, from noise to data."""


def network(x: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The noise, and v in [-1, 1] of the learned variance; t counts from 0."""
    t = t.double().reshape(-1, 1, 1, 1)
    return 0.3 * x + 0.1 * t / 1000 + 0.2 * torch.sin(5 * x), torch.cos(3 * x + t / 100)


class Network(torch.nn.Module):
    def __init__(self, learned: bool) -> None:
        super().__init__()
        self.learned = learned

    def forward(self, x, time, label=None):
        return torch.cat(network(x, time), 1) if self.learned else network(x, time)[0]


def images() -> torch.Tensor:
    return torch.tensor(GREY, dtype=torch.float64) / 127.5 - 1


def noise():
    """A function that gives the next noise: no random generator has to stay the same."""
    index = torch.arange(12, dtype=torch.float64).reshape(2, 1, 2, 3)
    calls = iter(range(1, 10_000))
    return lambda: 1.4 * torch.sin(7.1 * next(calls) + 1.3 * index + 0.37 * index**2)


def ours(case: tuple[str, int, int, str, bool]) -> dict[str, torch.Tensor]:
    schedule, timesteps, steps, variance, clip = case
    process = SCHEDULES[schedule](timesteps)
    grid = grids.make(process, steps, "uniform")
    denoiser = conditional(
        DiffusionModel(Network(variance == "learned"), process, "eps", variance), None
    )
    chain = Chain(grid, variance, decoder_variance(process, grid))
    terms = all_terms(clip_x0(denoiser) if clip else denoiser, images(), chain, noise())
    first = prior(images(), grid[0], 1.0)
    return {
        "total_bpd": first + terms.sum(1),
        "prior_bpd": first,
        "vb": terms,
    }


def by_the_papers(case: tuple[str, int, int, str, bool]) -> dict[str, np.ndarray]:
    """DDPM (5) to (13) and Improved DDPM (15) to (19) with arrays that count from 0."""
    schedule, timesteps, steps, variance, clip = case
    if schedule == "linear":
        betas = np.linspace(1e-4, 0.02, timesteps) * 1000 / timesteps
    else:
        f = np.cos((np.arange(timesteps + 1) / timesteps + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = np.minimum(1 - f[1:] / f[:-1], 0.999)
    kept = [round(i * (timesteps - 1) / (steps - 1)) for i in range(steps)]
    bar = np.cumprod(1 - betas)[kept]
    bar_before = np.append(1.0, bar[:-1])
    betas = 1 - bar / bar_before  # Improved DDPM (19)
    tilde = betas * (1 - bar_before) / (1 - bar)
    tilde[0] = tilde[1]
    x0, draw, log2 = images().numpy(), noise(), math.log(2)
    vb = []
    for i in reversed(range(steps)):
        eps = draw().numpy()
        x_t = bar[i] ** 0.5 * x0 + (1 - bar[i]) ** 0.5 * eps
        eps_hat, v = (
            out.numpy() for out in network(torch.from_numpy(x_t), torch.tensor([kept[i]] * 2))
        )
        x0_hat = (x_t - (1 - bar[i]) ** 0.5 * eps_hat) / bar[i] ** 0.5
        x0_hat = np.clip(x0_hat, -1, 1) if clip else x0_hat
        factors = (
            bar_before[i] ** 0.5 * betas[i] / (1 - bar[i]),
            (1 - betas[i]) ** 0.5 * (1 - bar_before[i]) / (1 - bar[i]),
        )
        mean, mean_hat = (factors[0] * x + factors[1] * x_t for x in (x0, x0_hat))
        large = betas[i] if i > 0 else tilde[0]
        share = (v + 1) / 2
        var = {
            "small": tilde[i],
            "large": large,
            "learned": np.exp(share * np.log(betas[i]) + (1 - share) * np.log(tilde[i])),
        }
        var = var[variance] * np.ones_like(x0)
        if i > 0:
            bits = (
                0.5
                * (np.log(var / tilde[i]) + (tilde[i] + (mean - mean_hat) ** 2) / var - 1)
                / log2
            )
        else:
            cdf = np.vectorize(lambda z: 0.5 * math.erfc(-z / 2**0.5))
            upper = np.where(x0 > 0.999, 1.0, cdf((x0 + 1 / 255 - mean_hat) / var**0.5))
            lower = np.where(x0 < -0.999, 0.0, cdf((x0 - 1 / 255 - mean_hat) / var**0.5))
            bits = -np.log2(np.maximum(upper - lower, 1e-12))
        vb.append(bits.mean((1, 2, 3)))
    last_mean, last_var = bar[-1] ** 0.5 * x0, 1 - bar[-1]
    prior_bpd = (0.5 * (last_var + last_mean**2 - 1 - math.log(last_var)) / log2).mean((1, 2, 3))
    terms = np.stack(vb, 1)
    return {
        "total_bpd": prior_bpd + terms.sum(1),
        "prior_bpd": prior_bpd,
        "vb": terms,
    }


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("variance", ["small", "large", "learned"])
@pytest.mark.parametrize("steps", [60, 8])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_every_term_is_the_papers(schedule, steps, variance, clip):
    case = (schedule, 60, steps, variance, clip)
    want, got = by_the_papers(case), ours(case)
    for name, values in want.items():
        torch.testing.assert_close(
            got[name], torch.from_numpy(values), rtol=1e-9, atol=1e-9, msg=lambda m, n=name: n + m
        )


def summary(result: dict[str, torch.Tensor]) -> dict[str, list]:
    """What GOLDEN keeps of a result."""
    return {
        "total_bpd": result["total_bpd"].tolist(),
        "prior_bpd": result["prior_bpd"].tolist(),
        "vb": result["vb"][:, list(SHOWN)].tolist(),
    }


def by_improved_diffusion(
    case: tuple[str, int, int, str, bool], exact: bool
) -> dict[str, torch.Tensor]:
    """The result of the program itself, which must be importable."""
    from improved_diffusion import gaussian_diffusion, losses, respace  # pyright: ignore[reportMissingImports]

    schedule, timesteps, steps, variance, clip = case
    g = gaussian_diffusion
    kinds = {"small": "FIXED_SMALL", "large": "FIXED_LARGE", "learned": "LEARNED_RANGE"}
    process = respace.SpacedDiffusion(
        use_timesteps=respace.space_timesteps(timesteps, [steps]),
        betas=g.get_named_beta_schedule(schedule, timesteps),
        model_mean_type=g.ModelMeanType.EPSILON,
        model_var_type=g.ModelVarType[kinds[variance]],
        loss_type=g.LossType.MSE,
    )

    def extract(table, at, shape):
        return torch.from_numpy(table)[at].reshape(-1, *[1] * (len(shape) - 1)).expand(shape)

    approximate, draw = losses.approx_standard_normal_cdf, noise()
    saved = g._extract_into_tensor, torch.randn_like
    g._extract_into_tensor, torch.randn_like = extract, lambda x: draw()
    losses.approx_standard_normal_cdf = torch.special.ndtr if exact else approximate
    try:
        net = Network(variance == "learned")
        return process.calc_bpd_loop(net, images(), clip_denoised=clip)
    finally:
        g._extract_into_tensor, torch.randn_like = saved
        losses.approx_standard_normal_cdf = approximate


GOLDEN = {
    "linear small": {
        "total_bpd": [8.246701609600457, 11.117177731481656],
        "prior_bpd": [9.104882388650128e-06, 6.780500860033509e-06],
        "vb": [
            [1.1039207553780366e-05, 8.769758434459969e-06, 1.1035862334725366, 3.6632857540572683],
            [2.401775063765326e-06, 5.4760716072652865e-06, 3.259816061111568, 3.3181729381292433],
        ],
    },
    "linear large": {
        "total_bpd": [12.143586155305403, 12.382670013321139],
        "prior_bpd": [9.104882388650128e-06, 6.780500860033509e-06],
        "vb": [
            [0.1277861075848025, 0.08419830646849136, 0.8654758340378501, 3.6632857540572683],
            [0.03403163753614854, 0.1112832504479098, 1.273459738179149, 3.2075793713125607],
        ],
    },
    "cosine learned": {
        "total_bpd": [7.8143367652944224, 8.860053730763699],
        "prior_bpd": [1.0844241202349938e-07, 8.07577445468885e-08],
        "vb": [
            [0.0005254758182254113, 0.0013772379796556551, 0.617049549956456, 3.4379645609469858],
            [0.0001143286193249213, 0.0008602110355120776, 1.3061540193992043, 3.0472369401993507],
        ],
    },
    "cosine learned, respaced": {
        "total_bpd": [307.909989730563, 198.88146808243903],
        "prior_bpd": [1.0845108140985675e-09, 8.07641952543927e-10],
        "vb": [
            [0.10727116883488648, 0.1302456120918094, 304.7329432113354, 1.915545106989507],
            [0.035905039691663074, 0.29316887987470036, 194.45244828092686, 1.1883337627733617],
        ],
    },
    "linear large, respaced": {
        "total_bpd": [8.749772691366669, 8.722530304782532],
        "prior_bpd": [1.8021670565785136e-05, 1.3421000204986345e-05],
        "vb": [
            [0.00041823322779974267, 0.0039945108276459385, 4.42360888176643, 1.8970083226008576],
            [0.00013653155122901676, 0.0024918129981270193, 5.043689266674939, 2.1227572412049325],
        ],
    },
}
GOLDEN_DECODER = {
    "linear small": [3.660248746895139, 3.3187789399371788],
    "linear large": [3.660248746895139, 3.208233304910986],
    "cosine learned": [3.43496061042719, 3.0479079238489595],
    "cosine learned, respaced": [1.9145772847100186, 1.1888411045834826],
    "linear large, respaced": [1.8972366832140444, 2.1228422801831535],
}


@pytest.mark.parametrize("name", CASES)
def test_every_term_is_improved_diffusions(name):
    got, want = summary(ours(CASES[name])), GOLDEN[name]
    for key, values in want.items():
        np.testing.assert_allclose(got[key], values, rtol=1e-6, atol=1e-9, err_msg=key)
    last = [terms[-1] for terms in got["vb"]]
    np.testing.assert_allclose(last, GOLDEN_DECODER[name], rtol=2e-3)


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    print(
        "GOLDEN =",
        {name: summary(by_improved_diffusion(case, True)) for name, case in CASES.items()},
    )
    print(
        "GOLDEN_DECODER =",
        {n: by_improved_diffusion(c, False)["vb"][:, -1].tolist() for n, c in CASES.items()},
    )
    for name, case in CASES.items():
        theirs, mine = by_improved_diffusion(case, True), ours(case)
        print(
            name,
            *(f"{key} {float((theirs[key] - mine[key]).abs().max()):.1e}" for key in mine),
            file=sys.stderr,
        )
