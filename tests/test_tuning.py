"""Tuned sampling: the dynamic program, the refinement, and what is kept with a model."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import unnoise
from unnoise import tuning
from unnoise.errors import ConfigError
from unnoise.model import Model


@pytest.fixture(scope="module")
def model() -> Model:
    return unnoise.load("digits", "cpu")


@pytest.fixture(scope="module")
def search(model) -> tuning.Trajectory:
    return tuning.Trajectory(model, model.settings(guidance_scale=1.0), range(8))


@pytest.fixture
def few_candidates(monkeypatch):
    monkeypatch.setattr(tuning, "ENDS", ((80.0, 0.002), (30.0, 0.02)))
    monkeypatch.setattr(tuning, "RHOS", (7.0,))


@pytest.mark.long
def test_the_reference_is_near_the_exact_solution(model, search):
    """Heun's method with 8 times as many evaluations ends at the same pictures."""
    grid = model.grid(model.settings(steps=500, spacing="log_snr"))
    noises = tuple(level.sigma / level.alpha for level in grid[:-1])
    assert search.error(tuning.Candidate("heun", noises, "")) < 2e-3


def test_paths_are_the_cheapest_of_all(search):
    program = tuning.DynamicProgram(search.nodes, keep=12)
    count, to_data = len(program.nodes), program.to_data
    for steps in (2, 3, 4):
        costs = {
            middle: sum(program.cost[i, j] for i, j in itertools.pairwise((0, *middle)))
            + to_data[middle[-1]]
            for middle in itertools.combinations(range(1, count), steps - 1)
        }
        best = min(costs, key=costs.__getitem__)
        assert program.path(steps) == tuple(program.noises[i] for i in (0, *best))


def test_refining_lowers_the_error_and_keeps_the_first_level(search):
    start = tuning.Candidate("dpmpp_2m", (80.0, 20.0, 5.0, 1.0, 0.2), "by hand")
    after = tuning.refine(search, start, trials=40)
    assert search.error(after) < 0.8 * search.error(start)
    assert after.noises[0] == pytest.approx(80.0) and all(
        a > b for a, b in itertools.pairwise(after.noises)
    )
    assert tuning.refine(search, start, trials=0) == start


@pytest.mark.long
def test_tuned_settings_are_kept_named_and_used(model, tmp_path, few_candidates):
    tuned, rows = tuning.tune(model, budgets=(3, 4), images=2, evaluations=40)
    assert list(tuned) == ["fast", "balanced", "best", "nfe_3", "nfe_4"]
    assert tuned["fast"] == tuned["nfe_3"] and tuned["best"] == tuned["nfe_4"]
    assert all(row.budget in (3, 4) and np.isfinite(row.tuned_error) for row in rows)
    assert "best untuned" in tuning.table(rows)
    path = tmp_path / "m.safetensors"
    model.with_tuned(tuned).save(path)
    again = unnoise.load(path, "cpu")
    chosen = again.settings(sampler="fast")
    assert (
        chosen.sampler == tuned["fast"]["sampler"]
        and list(chosen.noises) == tuned["fast"]["noises"]
    )
    *_, step = again.steps([0], sampler="fast")
    assert step.nfe <= 2 * 3  # guided: two network evaluations each
    assert torch.equal(again.sample(2), model.sample(2))  # the defaults stay
    assert (
        again.settings(sampler="fast", steps=9).noises == ()
    )  # asked for other steps: an ordinary grid


def test_what_is_not_tuned_is_said(model):
    with pytest.raises(ConfigError, match="run `unnoise tune-sampler`"):
        model.with_tuned({}).settings(sampler="balanced")
    with pytest.raises(ConfigError, match="budgets"):
        tuning.tune(model, budgets=(1,))
