"""Bits/dim against closed forms: of Gaussians and of Gaussian mixtures."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

import unnoise
from tests.mixture import Mixture
from unnoise.config import RunConfig, override
from unnoise.data.config import DataConfig
from unnoise.data.dataset import load
from unnoise.diffusion import grids
from unnoise.diffusion.levels import DATA, Level
from unnoise.diffusion.noise import Noise
from unnoise.diffusion.parameterizations import PARAMETERIZATIONS, target
from unnoise.diffusion.schedules import SCHEDULES
from unnoise.errors import ConfigError, DataError
from unnoise.evaluation import bound, likelihood
from unnoise.evaluation.bound import Chain, all_terms, decoder_variance, prior
from unnoise.evaluation.likelihood import bits_per_dim
from unnoise.model import Model
from unnoise.precision import full_precision

MIXTURE = Mixture([[-0.6, 0.3], [0.5, 0.1], [0.2, -0.7]], std=0.2)
OBJECTIVES = {
    "edm": {"schedule": "edm", "parameterization": "edm", "times": "log_normal_sigma"},
    "flow": {"schedule": "flow", "parameterization": "flow", "times": "logit_normal"},
    "v": {"schedule": "cosine", "parameterization": "v"},
    "eps": {"schedule": "linear", "parameterization": "eps"},
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES)


class Ideal(torch.nn.Module):
    """The network that a mixture's ideal denoiser makes: it finds the level from the time."""

    def __init__(
        self, mixture: Mixture, parameterization: str, schedule: str, timesteps: int, classes: int
    ) -> None:
        super().__init__()
        self.mixture, self.parameterization, self.classes = mixture, parameterization, classes
        self.name, self.schedule = schedule, SCHEDULES[schedule](timesteps)
        self.weight = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x, time, label=None):
        out = torch.empty_like(x)
        for number in time.unique().tolist():
            out[time == number] = self.at(x[time == number], number)
        return out

    def at(self, x, number):
        t = {"edm": lambda: math.exp(4 * number), "flow": lambda: number / 1000}.get(
            self.name, lambda: number + 1
        )()
        level = self.schedule.level(t)
        c = PARAMETERIZATIONS[self.parameterization](level, 0.5)
        return target(c, *self.mixture.denoise(x / c.input_scale, level)[:2])


def ideal(mixture: Mixture, objective: str, timesteps: int = 1000, classes: int = 0) -> Model:
    changes = {f"diffusion.{key}": value for key, value in OBJECTIVES[objective].items()}
    config = override(RunConfig(), {**changes, "diffusion.timesteps": timesteps, "device": "cpu"})
    kind = config.diffusion
    network = Ideal(mixture, kind.parameterization, kind.schedule, timesteps, classes)
    shape = {"channels": 1, "height": 1, "width": mixture.means.shape[1], "num_classes": classes}
    return Model(network, config, {"shape": shape})


def log_density(mixture: Mixture, x: torch.Tensor, level: Level) -> torch.Tensor:
    """log p(x_t) of float64 (n, 1, 1, d), in nats."""
    variance = (level.alpha * mixture.std) ** 2 + level.sigma**2
    distances = ((x.flatten(1)[:, None] - level.alpha * mixture.means) ** 2).sum(-1)
    constant = math.log(len(mixture.means)) + mixture.means.shape[1] / 2 * math.log(
        2 * math.pi * variance
    )
    return torch.logsumexp(-distances / (2 * variance), 1) - constant


def within(estimates: torch.Tensor, truth: float, errors: float = 4.0) -> None:
    """Independent estimates agree with a number within so many standard errors."""
    error = float(estimates.std()) / len(estimates) ** 0.5
    assert abs(float(estimates.mean()) - truth) < errors * error + 1e-12, (
        float(estimates.mean()),
        truth,
        error,
    )


def draws(*shape: int):
    generator = torch.Generator().manual_seed(0)
    return lambda: torch.randn(shape, generator=generator, dtype=torch.float64)


# The variational bound


@pytest.mark.parametrize("variance", ["small", "large", "learned"])
@every_schedule
def test_each_term_is_the_closed_form_of_a_gaussian(schedule, variance):
    """q(x_s | x_t, x0) by Bayes' rule, the ideal x0 of N(m, std^2), and its bins."""
    m, std, share = 0.2, 0.4, 0.3
    grid = grids.make(SCHEDULES[schedule](100), 12, "log_snr")
    x0 = torch.tensor([0, 100, 180, 255], dtype=torch.float64).reshape(2, 1, 1, 2) / 127.5 - 1
    gaussian = Mixture([[m, m]], std)

    def denoiser(x_t, level):
        return gaussian.denoise(x_t, level)._replace(var_frac=torch.full_like(x_t, share))

    decoder = 0.003
    terms = all_terms(denoiser, x0, Chain(grid, variance, decoder), draws(2, 1, 1, 2))
    draw = draws(2, 1, 1, 2)
    for i, (t, s) in enumerate(pairwise(grid)):
        eps = draw()
        x_t = t.alpha * x0 + t.sigma * eps
        gain = t.alpha * std**2 / (t.alpha**2 * std**2 + t.sigma**2)
        x0_hat = m + gain * (x_t - t.alpha * m)
        ratio = t.alpha / s.alpha
        beta = t.sigma**2 - ratio**2 * s.sigma**2
        if s.sigma > 0:
            small = 1 / (1 / s.sigma**2 + ratio**2 / beta)
            mean, mean_hat = (
                small * (s.alpha * x / s.sigma**2 + ratio * x_t / beta) for x in (x0, x0_hat)
            )
        else:
            small, mean, mean_hat = decoder, x0, x0_hat
        large = beta if s.sigma > 0 or variance == "learned" else decoder
        chosen = {"small": small, "large": large, "learned": large**share * small ** (1 - share)}[
            variance
        ]
        p = Normal(mean_hat, chosen**0.5)
        if s.sigma > 0:
            want = kl_divergence(Normal(mean, small**0.5), p)
        else:
            below = torch.where(x0 < -0.999, 0.0, p.cdf(x0 - 1 / 255))
            above = torch.where(x0 > 0.999, 1.0, p.cdf(x0 + 1 / 255))
            want = -torch.log(torch.clamp(above - below, min=1e-12))
        bits = want.mean((1, 2, 3)) / math.log(2)
        torch.testing.assert_close(terms[:, i], bits, rtol=1e-6, atol=1e-9)


@every_schedule
def test_a_terms_expectation_is_the_closed_form(schedule):
    """E over eps of L_{s<t} = (snr_s - snr_t) / 2 ((1 - g alpha)^2 (x0 - m)^2 + g^2 sigma^2)."""
    m, std, value = 0.2, 0.4, 0.6
    grid = grids.make(SCHEDULES[schedule](100), 8, "log_snr")
    x0 = torch.full((4000, 1, 1, 2), value, dtype=torch.float64)
    terms = all_terms(
        Mixture([[m, m]], std).denoise, x0, Chain(grid, "small", 0.01), draws(*x0.shape)
    )
    for i, (t, s) in enumerate(pairwise(grid[:-1])):
        gain = t.alpha * std**2 / (t.alpha**2 * std**2 + t.sigma**2)
        error = (1 - gain * t.alpha) ** 2 * (value - m) ** 2 + gain**2 * t.sigma**2
        within(terms[:, i], (s.snr - t.snr) / 2 * error / math.log(2))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_bound_of_a_perfect_model_is_its_likelihood(schedule):
    """Data N(0, 1): the exact reverse steps are Gaussian with variance beta_t."""
    grid = grids.make(SCHEDULES[schedule](40), 40, "uniform")
    value = 200 / 127.5 - 1
    x0 = torch.full((4000, 1, 1, 2), value, dtype=torch.float64)

    def denoiser(x_t, level):
        return (
            Mixture([[0.0, 0.0]], 1.0).denoise(x_t, level)._replace(var_frac=torch.ones_like(x_t))
        )

    def bits(variance):
        terms = all_terms(denoiser, x0, Chain(grid, variance, 1e-3), draws(*x0.shape))
        return prior(x0, grid[0], 1.0) + terms.sum(1)

    exact = -math.log2(
        float(Normal(0.0, 1.0).cdf(torch.tensor(value + 1 / 255, dtype=torch.float64)))
        - float(Normal(0.0, 1.0).cdf(torch.tensor(value - 1 / 255, dtype=torch.float64)))
    )
    perfect = bits("learned")
    assert float(perfect.std()) / 4000**0.5 < 0.02
    within(perfect, exact)
    assert float(bits("small").mean()) > exact + 0.1  # any other variance is worse


def test_the_decoders_variance():
    for name in ("linear", "cosine"):
        process = SCHEDULES[name](1000)
        bar = process.alpha_bar
        for first, second, spacing, steps in (
            (1, 2, "uniform", 1000),
            (1, 112, "uniform", 10),
            (100, 200, "trailing", 10),
        ):
            beta = 1 - bar[second] / bar[first]
            want = (
                beta * (1 - bar[first]) / (1 - bar[second])
            )  # Improved DDPM's posterior_variance[1] of that process
            got = decoder_variance(process, grids.make(process, steps, spacing))
            assert got == pytest.approx(want, rel=1e-9)
        fine = grids.make(process, 400, "log_snr")
        assert decoder_variance(process, fine) == decoder_variance(
            process, grids.make(process, 1000, "uniform")
        )
    for name, sigma in (("edm", 0.002), ("flow", 0.001 / 0.999)):
        process = SCHEDULES[name](0)
        for spacing, steps in (("log_snr", 2), ("uniform", 300)):
            grid = grids.make(process, steps, spacing)
            noise = sigma if spacing == "uniform" else max(sigma, 0.002)
            assert decoder_variance(process, grid) == pytest.approx(noise**2)


def test_few_drawn_terms_are_an_unbiased_estimate_of_the_sum(monkeypatch):
    model = ideal(Mixture([[0.1, -0.3]], 0.3), "v", timesteps=30)
    images = torch.tensor([90, 200], dtype=torch.uint8).expand(800, 1, 1, 2)
    whole = bits_per_dim(model, images, batch_size=800)
    few = bits_per_dim(model, images, batch_size=800, terms=5, seed=10_000)
    error = math.hypot(whole.standard_error, few.standard_error)
    assert error < 0.25 and abs(whole.mean - few.mean) < 4 * error
    # With a known number for each term the draws alone are tested, and nearly without noise.
    asked = set()

    def known(value):
        def term(prediction, x0, x_t, step, *_):
            asked.add(step)
            return torch.full((len(x0),), value(step)).double()

        return term

    for value in (
        lambda step: 1.0,
        lambda step: math.log(step.t.sigma / max(step.s.sigma, 1e-2)) / step.t.alpha,
    ):
        monkeypatch.setattr(bound, "term", known(value))
        exact = bits_per_dim(model, images[:1])
        asked.clear()
        drawn = bits_per_dim(model, images, batch_size=800, terms=5)
        assert len(asked) == 30
        within(drawn.bits, exact.mean)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_bound_runs_for_every_objective(objective):
    """400 log-SNR levels of a perfect model come near the density, times the width of a bin."""
    mixture = Mixture([[-0.6, 0.3, 0.1], [0.5, 0.1, -0.2]], 0.15)
    model = ideal(mixture, objective)
    images = torch.tensor([[[[70, 160, 130]]], [[[190, 140, 110]]]], dtype=torch.uint8).repeat(
        150, 1, 1, 1
    )
    found = bits_per_dim(model, images, steps=400, spacing="log_snr", batch_size=300).mean
    density = log_density(mixture, images.double() / 127.5 - 1, DATA).mean()
    exact = math.log2(127.5) - float(density) / 3 / math.log(2)
    assert exact - 0.1 < found < exact + 0.4, (found, exact)


# The images


@pytest.fixture(scope="module")
def digits() -> tuple[Model, np.ndarray, np.ndarray]:
    data = load(DataConfig())
    return unnoise.load("digits", "cpu"), data.images[-5:], data.labels[-5:]


METHODS = {"bound": {"steps": 20}, "drawn": {"terms": 4}}


@pytest.mark.parametrize("kind", METHODS)
def test_an_images_number_depends_on_its_seed_only(digits, kind):
    model, images, labels = digits
    together = bits_per_dim(model, images, labels, **METHODS[kind]).bits
    parted = bits_per_dim(model, images, labels, batch_size=2, **METHODS[kind]).bits
    torch.testing.assert_close(parted, together, rtol=1e-4, atol=1e-4)
    tail = bits_per_dim(model, images[3:], labels[3:], seed=3, **METHODS[kind]).bits
    torch.testing.assert_close(tail, together[3:], rtol=1e-4, atol=1e-4)
    head = bits_per_dim(model, images[:2], labels[:2], **METHODS[kind]).bits
    torch.testing.assert_close(head, together[:2], rtol=1e-4, atol=1e-4)
    other = bits_per_dim(model, images, labels, seed=100, **METHODS[kind]).bits
    assert (other - together).abs().min() > 1e-4


@pytest.mark.parametrize("kind", METHODS)
def test_a_recipe_makes_the_same_numbers_again(digits, kind):
    model, images, labels = digits
    images, labels = images[:3], labels[:3]
    first = bits_per_dim(model, images, labels, seed=7, **METHODS[kind])
    said = json.loads(json.dumps(first.describe()))
    expected = {"model": model.weights_hash, "num_images": 3, "labels": "given"}
    assert expected.items() <= said.items()
    same = {name: said[name] for name in ("steps", "spacing", "variance", "clip_x0", "terms")}
    again = bits_per_dim(model, images, labels, seed=said["seeds"][0], **same)
    assert torch.equal(again.bits, first.bits)
    assert said["bits_per_dim"] == pytest.approx(sum(first.bits.tolist()) / 3)
    spread = float(np.std(first.bits.numpy(), ddof=1))
    assert said["standard_error"] == pytest.approx(spread / 3**0.5)
    one = bits_per_dim(model, images[:1], labels[:1], **METHODS[kind])
    assert one.describe()["standard_error"] is None


def test_precision_is_full_inside_and_put_back_afterwards():
    def now():
        return torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()

    before = now()
    try:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        with pytest.raises(KeyError), full_precision():
            assert now() == (False, "highest")
            raise KeyError
        assert now() == (True, "high")
    finally:
        torch.backends.cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])


def test_labels_matter_and_may_be_left_open(digits):
    model, images, labels = digits
    given = bits_per_dim(model, images, labels, steps=20)
    wrong = bits_per_dim(model, images, (labels + 1) % 10, steps=20)
    open_ = bits_per_dim(model, images, np.full(5, 10), steps=20)
    assert given.mean < wrong.mean
    assert given.describe()["labels"] == "given" and open_.describe()["labels"] == "null"


def test_learned_variance_takes_part_and_the_images_noise_is_the_seeds():
    config = override(
        unnoise.preset("digits"), {"diffusion.variance": "learned", "network.base_channels": 8}
    )
    config = override(config, {"diffusion.timesteps": 20, "device": "cpu"})
    network = unnoise.build.network(config, unnoise.build.Shape(1, 8, 8, 0))
    torch.nn.init.normal_(network.out_conv.weight, std=0.1)
    shape = {"channels": 1, "height": 8, "width": 8, "num_classes": 0}
    model = Model(network, config, {"shape": shape})
    images = torch.from_numpy(load(DataConfig()).images[:3].copy())
    numbers = {
        kind: bits_per_dim(model, images, variance=kind).bits
        for kind in ("small", "large", "learned")
    }
    assert (numbers["learned"] - numbers["small"]).abs().min() > 1e-3
    assert torch.equal(bits_per_dim(model, images).bits, numbers["learned"])
    (batch,) = likelihood.checked(model, images, None, 0, 3).portions()
    noise = Noise(range(3), (1, 8, 8))
    chain, _ = likelihood.make_chain(model, likelihood.BoundSettings())
    with torch.no_grad():
        terms = all_terms(batch.denoiser, batch.x0, chain, noise.normal)
        fixed, pairs = noise.normal().double(), [19, 0, 7]
        everything = all_terms(batch.denoiser, batch.x0, chain, lambda: fixed)
        one_each = bound._terms_of(batch, chain, pairs, fixed)  # each image at a level of its own
    whole = bits_per_dim(model, images, clip_x0=False)
    torch.testing.assert_close(terms[:, -1].mean().item(), whole.parts["decoder"])
    torch.testing.assert_close(one_each, everything[range(3), pairs], rtol=1e-4, atol=1e-5)


BAD = {
    "no labels": ({"labels": None}, ConfigError, "expected a label"),
    "label of no class": ({"labels": [0, 1, 2, 3, 11]}, DataError, "from 0 to 11; expected whole"),
    "too few labels": ({"labels": [1, 2]}, DataError, r"expected whole numbers \(5,\)"),
    "float labels": ({"labels": [0.5] * 5}, DataError, "expected whole numbers"),
    "floats": ({"images": torch.zeros(5, 1, 8, 8)}, DataError, "float32 .* expected uint8"),
    "size": ({"images": torch.zeros(5, 1, 9, 8).byte()}, DataError, r"\(5, 1, 9, 8\); expected"),
    "channels": ({"images": torch.zeros(5, 3, 8, 8).byte()}, DataError, r"more, 1, 8, 8\)"),
    "one image": ({"images": torch.zeros(1, 8, 8).byte()}, DataError, r"more, 1, 8, 8\)"),
    "none": ({"images": torch.zeros(0, 1, 8, 8).byte(), "labels": []}, DataError, "1 or more"),
    "batch": ({"batch_size": 0}, ConfigError, "batch_size 0"),
    "method": ({"method": "ode"}, ConfigError, "bound.method: unknown key"),
    "setting": ({"step": 5}, ConfigError, "bound.step: unknown key; did you mean 'steps'"),
    "variance": ({"variance": "learned"}, ConfigError, "learned none; expected small or large"),
    "variance name": ({"variance": "smal"}, ConfigError, "did you mean 'small'"),
    "spacing": ({"spacing": "log"}, ConfigError, "did you mean 'log_snr'"),
    "one step": ({"steps": 1}, ConfigError, "got 1, expected 2"),
    "more steps than levels": ({"steps": 1001}, ConfigError, "bound.steps: got 1001"),
    "terms": ({"steps": 10, "terms": 11}, ConfigError, "expected 2 to 10"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(digits, case):
    model, images, labels = digits
    arguments, kind, message = BAD[case]
    with pytest.raises(kind, match=message) as caught:
        bits_per_dim(model, **{"images": images, "labels": labels, **arguments})
    assert "\n" not in str(caught.value)


def test_labels_for_a_model_without_classes_are_refused():
    images = torch.zeros(2, 1, 1, 2, dtype=torch.uint8)
    with pytest.raises(ConfigError, match="trained without"):
        bits_per_dim(ideal(MIXTURE, "v"), images, [0, 1])
