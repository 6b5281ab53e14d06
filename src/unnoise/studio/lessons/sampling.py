"""Lessons 5 to 8: one step, many steps, guidance, copies."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from unnoise.data.images import from_model, to_model
from unnoise.diffusion.levels import Transition
from unnoise.evaluation.frechet import FrechetTo
from unnoise.evaluation.memorization import copying
from unnoise.evaluation.neighbours import rows_of
from unnoise.evaluation.statistics import Statistics
from unnoise.studio.lessons.lesson import DIGITS, Bench, Line, Pictures, Plot, Shown, rms

STEPS = (1, 2, 3, 5, 10, 20, 50)
SCALES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)
SAMPLES = 200
"""How many are measured at a time."""


def step(bench: Bench) -> Shown:
    """The parts of each step of an ancestral walk."""
    model, how = bench.model, {"sampler": "ddpm", "steps": 20, "guidance_scale": 1.0}
    grid, way = model.grid(model.settings(**how)), list(model.steps(DIGITS, **how))
    draw = model.noise(DIGITS)
    x_t, factors, rows = grid[0].sigma * draw.normal(), [], list[list[Tensor]]()
    for (t, s), after in zip(pairwise(grid), way, strict=True):
        pair, one, zero = Transition(t, s), torch.ones(()), torch.zeros(())
        a, b = pair.posterior_mean(zero, one).item(), pair.posterior_mean(one, zero).item()
        factors.append((a, b, pair.beta_tilde**0.5))
        z = draw.normal() if s.sigma > 0 else torch.zeros_like(x_t)
        rows.append([from_model(x).cpu() for x in (x_t, after.prediction.x0, z, after.x)])
        x_t = after.x
    captions = ("x_t: what the step starts from", "The guess x0", "Fresh noise z",
                "x_s = a guess + b x_t + c z: what the step gives")  # fmt: skip
    columns = [torch.stack(column) for column in zip(*rows, strict=True)]
    ends = [rms(each.prediction.x0, x_t) for each in way]
    learned = bench.labels[: len(bench.train)]
    means = torch.stack([to_model(bench.train[learned == i]).mean(0) for i in DIGITS])
    said = {"blur": rms(way[0].prediction.x0.cpu(), means), "a": factors[0][0]}
    names = ("a, of the guess", "b, of x_t", "c, of the noise")
    return Shown(
        values=range(1, 21),
        start=9,
        said=said | {"first": ends[0], "tenth": ends[9], "late": ends[14]},
        facts={
            "from t to s": [f"{t.t:.0f} to {s.t:.0f}" for t, s in pairwise(grid)],
            **{name: [f"{row[i]:.3f}" for row in factors] for i, name in enumerate(names)},
            "from guess to end": [f"{value:.1f} grey levels" for value in ends],
        },
        pictures=[Pictures(c, x, DIGITS) for c, x in zip(captions, columns, strict=True)],
    )


def steps(bench: Bench) -> Shown:
    """Fréchet distance by number of steps, of DDIM and DDPM."""
    features = bench.reader.features
    reference = FrechetTo(Statistics.of(features(bench.train)))
    real = reference.distance(features(bench.held_out[:SAMPLES]))
    pictures, lines = [], []
    for name in ("DDIM", "DDPM"):
        how = {"sampler": name.lower(), "guidance_scale": 1.0}
        made = [bench.model.sample(SAMPLES, steps=n, **how) for n in STEPS]
        pictures.append(Pictures(name, torch.stack(made)[:, :10], DIGITS))
        lines.append(Line(name, STEPS, [reference.distance(features(images)) for images in made]))
    ddim, ddpm = (line.y for line in lines)
    better = [str(n) for n, a, b in zip(STEPS, ddim, ddpm, strict=True) if b < a]
    enough = next((n for n, value in zip(STEPS, ddim, strict=True) if value <= real), STEPS[-1])
    lines.append(Line("real digits", [STEPS[0], STEPS[-1]], [real, real]))
    said = {"count": SAMPLES, "first": ddim[0], "last": ddim[-1], "real": real, "enough": enough}
    better = ", ".join(better) or "no number of"
    return Shown(
        values=STEPS,
        start=len(STEPS) // 2,
        said=said | {"fewest": STEPS[0], "most": STEPS[-1], "better": better},
        pictures=pictures,
        plot=Plot("Fréchet distance to the training digits", "steps", lines, STEPS, "xy"),
    )


def guidance(bench: Bench) -> Shown:
    """What a classifier reads, and how much samples of a class differ, by guidance scale."""
    labels = torch.arange(SAMPLES) % 10

    def variety(images: Tensor, classes: Tensor) -> float:
        """Standard deviation within a class, as the root mean square over pixels and classes."""
        spread = [images[classes == i].double().var(0).mean() for i in DIGITS]
        return float(torch.stack(spread).mean().sqrt())

    real = variety(bench.train, bench.labels[: len(bench.train)])
    made = [bench.model.sample(SAMPLES, guidance_scale=scale) for scale in SCALES]
    right = [bench.read_right(images, labels) for images in made]
    varied = [100 * variety(images, labels) / real for images in made]
    one = SCALES.index(1.0)
    told = {"right": right, "varied": varied}
    lines = [Line("% read as asked", SCALES, right), Line("% of real variety", SCALES, varied)]
    four = torch.stack([images[:40] for images in made])
    return Shown(
        values=SCALES,
        start=one,
        said={key: [y[0], y[one], y[-1]] for key, y in told.items()} | {"most": SCALES[-1]},
        pictures=[Pictures("Four samples of each digit", four, DIGITS)],
        plot=Plot("By guidance scale", "scale", lines, SCALES),
    )


def copies(bench: Bench) -> Shown:
    """Samples with the training digits that are nearest to them, the nearest sample first."""
    samples = bench.model.sample(SAMPLES)
    found = copying(samples, bench.train, bench.held_out)
    near, others = found.near, copying(bench.held_out, bench.train).near
    places = torch.linspace(0, SAMPLES - 1, 21).long()
    order = near.distances[:, 0].argsort()[places]
    five = torch.stack([rows_of(bench.train, row) for row in near.indices[order, :5]])
    five = torch.where(near.flipped[order, :5, None, None, None], five.flip(-1), five)
    lines = []
    for name, one in (("samples", near), ("held-out digits", others)):
        sorted_ = one.distances[:, 0].sort().values.tolist()
        shares = [100 * (i + 1) / len(sorted_) for i in range(len(sorted_))]
        lines.append(Line(name, shares, sorted_))
    pixels, ratios = found.record["pixels"], near.ratios[order].tolist()
    said = {"first": lines[0].y[0], "ratio": ratios[0], "copies": found.record["num_copies"],
            "many": near.distances.shape[1], "count": SAMPLES}  # fmt: skip
    said |= {"real": pixels["held_out_median"], "own": pixels["median"]}
    return Shown(
        values=order.tolist(),
        start=0,
        said=said | {"closer": 100 * pixels["closer"]},
        facts={
            "a copy?": ["yes" if near.copied[i] else "no" for i in order],
            "distance / mean to the 50 nearest": [f"{value:.2f}" for value in ratios],
        },
        pictures=[
            Pictures("The sample", samples[order][:, None]),
            Pictures("The five nearest training digits, or their mirror images", five),
        ],
        plot=Plot("Grey levels to the nearest training digit", "% of the pictures", lines,
                  [lines[0].x[i] for i in places]),
    )  # fmt: skip
