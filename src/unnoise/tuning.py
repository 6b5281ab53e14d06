"""Tuned sampling: for each budget of evaluations the solver and the time steps that come nearest to
the exact ODE.

The error is the root mean square pixel difference (pixels in 0..1) between the pictures of few
steps and those of a 128-step reference from the same seeds: how far from the exact solution, not
how good the model is.

1. Every deterministic solver on every spacing and, for the spacings by noise, several end-points.
2. For the best solvers, time steps by dynamic programming over the reference trajectory: the path
   through its levels with the least sum of Euler errors (GITS, Chen et al. 2024, without its
   scaling factor).
3. The best few of both refined: each level in turn is moved between its neighbours while the error
   falls, with the solver itself in the loop.

The errors that are reported and compared are those on other seeds than the search's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from unnoise import events
from unnoise.config import SampleConfig
from unnoise.diffusion import grids
from unnoise.diffusion.denoiser import Prediction
from unnoise.diffusion.levels import Level
from unnoise.diffusion.samplers import SAMPLERS, steps_within, stochastic
from unnoise.diffusion.samplers.first_order import euler
from unnoise.errors import ConfigError
from unnoise.model import Model, last
from unnoise.settings import TUNED_NAMES

EXACT: dict[str, Any] = {"eta": 0.0, "churn": 0.0, "sampler_options": {}}
REFERENCE: dict[str, Any] = {"sampler": "dpmpp_3m", "steps": 128, "spacing": "log_snr"}
ENDS = tuple((high, low) for high in (80.0, 30.0, 12.0) for low in (0.002, 0.02, 0.06, 0.15))
"""sigma / alpha at the first and last noisy level, for the spacings by noise."""
RHOS = (3.0, 7.0)
SEARCH_IMAGES = 16
FINALISTS = 3


@dataclass(frozen=True)
class Candidate:
    """A solver on a grid of falling sigma / alpha; `origin` says where the grid comes from."""

    sampler: str
    noises: tuple[float, ...]
    origin: str


@dataclass(frozen=True)
class Row:
    """The best untuned and the tuned candidate for one budget, with errors on held-out seeds."""

    budget: int
    untuned: Candidate
    untuned_error: float
    tuned: Candidate
    tuned_error: float

    @property
    def best(self) -> Candidate:
        return self.tuned if self.tuned_error < self.untuned_error else self.untuned


class Trajectory:
    """Reference pictures of some seeds, and the errors of candidates against them."""

    def __init__(self, model: Model, chosen: SampleConfig, seeds: Sequence[int]) -> None:
        self.model, self.chosen, self.seeds = model, chosen, list(seeds)
        self.denoiser = model.denoiser(model.labels(self.seeds, None), chosen)
        reference = replace(chosen, noises=(), **EXACT, **REFERENCE)
        self.grid = model.grid(reference)
        self.start = self.grid[0].sigma * model.noise(self.seeds).normal()
        self.nodes: list[tuple[Level, Tensor, Prediction]] = []
        at, x, noise = self.grid[0], self.start, model.noise(self.seeds)
        for step in model.walk(self.denoiser, self.grid, noise, reference, self.start):
            self.nodes.append((at, x, step.prediction))
            at, x = step.level, step.x
        self.end = x.clamp(-1, 1)

    def error(self, candidate: Candidate, images: int | None = None) -> float:
        """RMS pixel difference to the reference, over the first `images` seeds or all."""
        model, seeds, denoiser = self.model, self.seeds[:images], self.denoiser
        if len(seeds) < len(self.seeds):
            denoiser = model.denoiser(model.labels(seeds, None), self.chosen)
        settings = replace(self.chosen, sampler=candidate.sampler, noises=candidate.noises, **EXACT)
        try:
            grid = model.grid(settings)
        except ConfigError:  # two levels of a discrete schedule fall together
            return math.inf
        start, end = self.start[: len(seeds)], self.end[: len(seeds)]
        x = last(model.walk(denoiser, grid, model.noise(seeds), settings, start)).x
        error = float((x.clamp(-1, 1) - end).double().pow(2).mean()) ** 0.5 / 2
        return error if math.isfinite(error) else math.inf


def tune(
    model: Model,
    budgets: Sequence[int],
    images: int = 32,
    evaluations: int = 40_000,
    **settings: Any,
) -> tuple[dict[str, dict[str, Any]], list[Row]]:
    """Settings by name (fast, balanced, best, nfe_5, ..) and the table behind them.

    A budget counts evaluations of the denoiser per image; a guided one costs two of the network.
    `evaluations` is how many, times images, the refinement of one budget may spend.
    """
    if not budgets or min(budgets) < 2 or images < 1:
        raise ConfigError(
            f"tune-sampler: got budgets {list(budgets)} and {images} images, "
            "expected 2 and 1 or more"
        )
    chosen = model.settings(**settings)
    search = Trajectory(model, chosen, range(10_000, 10_000 + images))
    held_out = Trajectory(model, chosen, range(20_000, 20_000 + 2 * images))
    program = DynamicProgram(search.nodes)
    rows: list[Row] = []
    for budget in sorted(set(budgets)):
        untuned, tuned = _search(search, program, budget, evaluations)
        errors = held_out.error(untuned), held_out.error(tuned)
        rows.append(Row(budget, untuned, errors[0], tuned, errors[1]))
        events.say(f"{budget} evaluations: {rows[-1].best.sampler}, error {min(errors):.4f}")
    named = dict(zip(TUNED_NAMES, (rows[0], rows[(len(rows) - 1) // 2], rows[-1]), strict=True))
    named |= {f"nfe_{row.budget}": row for row in rows}
    found = {name: {
        "sampler": row.best.sampler, "steps": len(row.best.noises),
        "noises": list(row.best.noises), "guidance_scale": chosen.guidance_scale,
    } for name, row in named.items()}  # fmt: skip
    return found, rows


def _search(
    search: Trajectory, program: DynamicProgram, budget: int, evaluations: int
) -> tuple[Candidate, Candidate]:
    """The best candidate for a budget before and after tuning."""
    plain = _ranked(search, _untuned(search.model, budget))
    solvers = list(dict.fromkeys(c.sampler for c in plain))[: 2 * FINALISTS]
    steps = {solver: steps_within(solver, budget) for solver in solvers}
    ends = _ranked(search, (c for s in solvers[:FINALISTS] for c in _ends(s, steps[s])))
    paths = [Candidate(s, program.path(steps[s]), "trajectory") for s in solvers]
    finalists = sorted({*plain[:FINALISTS], *ends[:FINALISTS], *paths}, key=search.error)
    trials = evaluations // (budget * len(search.seeds) * FINALISTS)
    refined = [refine(search, candidate, trials) for candidate in finalists[:FINALISTS]]
    return min(plain[:FINALISTS], key=search.error), min(refined, key=search.error)


def _ranked(search: Trajectory, candidates: Iterable[Candidate]) -> list[Candidate]:
    """Those that can run, the nearest to the reference first, by a few images."""
    errors = {c: search.error(c, SEARCH_IMAGES) for c in candidates}
    return sorted((c for c in errors if math.isfinite(errors[c])), key=errors.__getitem__)


def _untuned(model: Model, budget: int) -> Iterable[Candidate]:
    """Every deterministic solver on every spacing."""
    for sampler in SAMPLERS:
        if stochastic(sampler) or sampler == "euler":  # euler is ddim
            continue
        for name in grids.SPACINGS:
            try:
                grid = grids.make(model.diffusion.schedule, steps_within(sampler, budget), name)
            except ValueError:
                continue
            yield Candidate(sampler, _noises(grid[:-1]), name)


def _ends(sampler: str, steps: int) -> Iterable[Candidate]:
    """A solver on noises between other end-points: even in noise^(1 / rho), or in the logarithm."""
    for high, low in ENDS:
        for rho in RHOS:
            noises = np.linspace(high ** (1 / rho), low ** (1 / rho), steps) ** rho
            yield Candidate(sampler, tuple(noises.tolist()), f"rho {rho:g}, {high:g} to {low:g}")
        noises = np.geomspace(high, low, steps)
        yield Candidate(sampler, tuple(noises.tolist()), f"log, {high:g} to {low:g}")


def _noises(levels: Sequence[Level]) -> tuple[float, ...]:
    """sigma / alpha of noisy levels; that of pure noise, where alpha is 0, is a large number."""
    return tuple(min(float(v.sigma / v.alpha), 1e6) if v.alpha > 0 else 1e6 for v in levels)


class DynamicProgram:
    """The cheapest paths through a reference trajectory; a jump costs its Euler error there."""

    def __init__(self, nodes: Sequence[tuple[Level, Tensor, Prediction]], keep: int = 64) -> None:
        self.nodes = [*nodes[: -1 : max(1, len(nodes) // keep)], nodes[-1]]
        self.noises = _noises([level for level, _, _ in self.nodes])
        self.cost = np.full((len(self.nodes), len(self.nodes)), np.inf)
        for i, (_, _, prediction) in enumerate(self.nodes):
            for j, (level, x, _) in enumerate(self.nodes[i + 1 :], i + 1):
                self.cost[i, j] = _rms(euler(prediction, level) - x) / float(
                    level.alpha + level.sigma
                )
        # The last step, to data, is an Euler step too: its error is the distance to the end.
        end = self.nodes[-1][2].x0
        self.to_data = np.array([_rms(prediction.x0 - end) for _, _, prediction in self.nodes])

    def path(self, steps: int) -> tuple[float, ...]:
        """The noises of `steps` levels, from the first to the last, with the least sum of costs."""
        if steps == 1:
            return self.noises[:1]
        total, back = self.cost[0], []
        for _ in range(steps - 2):
            through = total[:, None] + self.cost
            back.append(through.argmin(axis=0))
            total = through.min(axis=0)
        indices = [int(np.argmin(total + self.to_data))]
        for choice in reversed(back):
            indices.append(int(choice[indices[-1]]))
        return tuple(self.noises[i] for i in [0, *reversed(indices)])


def _rms(difference: Tensor) -> float:
    return float(difference.double().pow(2).mean() ** 0.5)


def refine(search: Trajectory, candidate: Candidate, trials: int) -> Candidate:
    """Move one level at a time between its neighbours, in the logarithm, while the error falls."""
    best, error, share = candidate, search.error(candidate), 0.4
    while trials > 0 and share > 0.02 and len(best.noises) > 1:
        improved = False
        for i in range(1, len(best.noises)):
            for direction in (-1, 1):
                if trials <= 0:
                    break
                moved = _moved(best, i, direction * share)
                trials -= 1
                after = search.error(moved)
                if after < error:
                    best, error, improved = moved, after, True
                    break
        share = share if improved else share / 2
    return best


def _moved(candidate: Candidate, i: int, share: float) -> Candidate:
    """Level i moved by a share of its way to the neighbour above (< 0) or below (> 0)."""
    log = [math.log(noise) for noise in candidate.noises]
    below = log[i + 1] if i + 1 < len(log) else log[i] - (log[i - 1] - log[i])
    above = min(log[i - 1], log[i] + 3)  # the first level may stand for infinity
    log[i] -= share * (log[i] - below if share > 0 else above - log[i])
    origin = candidate.origin.removesuffix(", refined") + ", refined"
    return replace(candidate, noises=tuple(math.exp(v) for v in log), origin=origin)


def table(rows: Sequence[Row]) -> str:
    """The rows as text."""
    lines = [f"evaluations  {'best untuned':<32} error    {'tuned':<21} error   ratio"]
    for row in rows:
        untuned = f"{row.untuned.sampler}, {row.untuned.origin}"
        ratio = row.tuned_error / max(row.untuned_error, 1e-12)
        lines.append(f"{row.budget:<12} {untuned:<32} {row.untuned_error:.5f}  "
                     f"{row.tuned.sampler:<21} {row.tuned_error:.5f}  {ratio:.2f}")  # fmt: skip
    return "\n".join(lines)
