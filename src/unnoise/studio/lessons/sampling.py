"""Lessons 5 to 8: one step, many steps, guidance, copies."""

from __future__ import annotations

import torch
from torch import Tensor

from unnoise.data.images import from_model, to_model
from unnoise.diffusion.levels import Transition
from unnoise.evaluation.frechet import FrechetTo
from unnoise.evaluation.memorization import copying
from unnoise.evaluation.neighbours import rows_of
from unnoise.evaluation.statistics import Statistics
from unnoise.studio.lessons.lesson import (
    DIGITS,
    TEN,
    Bench,
    Control,
    Lesson,
    Line,
    Pictures,
    Plot,
    rms,
)

STEPS = (1, 2, 3, 5, 10, 20, 50)
SCALES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)
SAMPLES = 200
"""How many are measured at a time."""


def step(bench: Bench) -> Lesson:
    """The parts of each step of an ancestral walk."""
    model, how = bench.model, {"sampler": "ddpm", "steps": 20, "guidance_scale": 1.0}
    grid, steps = model.grid(model.settings(**how)), list(model.steps(DIGITS, **how))
    draw = model.noise(DIGITS)
    befores = [grid[0].sigma * draw.normal(), *(each.x for each in steps)]
    rows, facts = list[list[Tensor]](), dict[str, list[str]]()
    for x_t, after, t, s in zip(befores[:-1], steps, grid[:-1], grid[1:], strict=True):
        pair, guess = Transition(t, s), after.prediction.x0
        z = draw.normal() if s.sigma > 0 else torch.zeros_like(x_t)
        rows.append([from_model(part).cpu() for part in (x_t, guess, z, after.x)])
        kept = pair.posterior_mean(torch.ones(()), torch.zeros(())).item()
        trusted = pair.posterior_mean(torch.zeros(()), torch.ones(())).item()
        for name, value in {
            "from t to s": f"{t.t:.0f} to {s.t:.0f}",
            "a, of the guess": f"{trusted:.3f}", "b, of x_t": f"{kept:.3f}", "c, of the noise": f"{pair.beta_tilde**0.5:.3f}",
        }.items():  # fmt: skip
            facts.setdefault(name, []).append(value)
    captions = ("x_t: what the step starts from", "The guess x0", "Fresh noise z",
                "x_s = a guess + b x_t + c z: what the step gives")  # fmt: skip
    columns = [torch.stack(column) for column in zip(*rows, strict=True)]
    ends = [rms(each.prediction.x0, steps[-1].x) for each in steps]
    facts["from guess to end"] = [f"{value:.1f} grey levels" for value in ends]
    of_train = bench.labels[: len(bench.train)]
    means = torch.stack([to_model(bench.train[of_train == i]).mean(0) for i in DIGITS])
    return Lesson(
        text="Sampling walks from noise to a digit, here in 20 steps of DDPM. Each step guesses the "
        "digit, as in lesson 3, but now knows the class.\n"
        "Then it mixes three things: a times the guess, b times the picture that it has, and c "
        "times fresh noise.",
        control=Control("Step", range(1, 21), 9),
        question="Why 20 steps? The guess of step 1 is a whole picture already.",
        answer=f"That guess is a blur: {rms(steps[0].prediction.x0.cpu(), means):.0f} grey levels (RMS) "
        f"from the mean of its class, and {ends[0]:.0f} from the digit at the end. At step 10 that is "
        f"{ends[9]:.0f}, and at step 15 it is {ends[14]:.0f}. So early steps trust the guess little "
        f"(a = {facts['a, of the guess'][0]}) and ask again where there is a little less noise.",
        maths="6. Sampling",
        formula="x_s = a x0_theta + b x_t + c z\n    = m(x0_theta) + Sigma^(1/2) z",
        code='import unnoise\nmodel = unnoise.load("digits")\n'
        'way = list(model.steps(range(10), sampler="ddpm", steps=20, guidance_scale=1))\n'
        "step = way[{value} - 1]\nx_s, guess = step.x, step.prediction.x0",
        facts=facts,
        pictures=[Pictures(c, x, DIGITS) for c, x in zip(captions, columns, strict=True)],
    )


def steps(bench: Bench) -> Lesson:
    """Fréchet distance by number of steps, of DDIM and DDPM."""
    reference = FrechetTo(Statistics.of(bench.reader.features(bench.train)))
    real = reference.distance(bench.reader.features(bench.held_out[:SAMPLES]))
    shown, distances = list[Tensor](), list[list[float]]()
    for sampler in ("ddim", "ddpm"):
        made = [bench.model.sample(SAMPLES, sampler=sampler, steps=n, guidance_scale=1.0)
                for n in STEPS]  # fmt: skip
        shown.append(torch.stack(made)[:, :10])
        distances.append([reference.distance(bench.reader.features(images)) for images in made])
    ddim, ddpm = distances
    better = [str(n) for n, a, b in zip(STEPS, ddim, ddpm, strict=True) if b < a]
    enough = next((n for n, value in zip(STEPS, ddim, strict=True) if value <= real), STEPS[-1])
    return Lesson(
        text="Fewer steps are faster, but each is a longer jump, and the errors add up.\n"
            f"The curves show the Fréchet distance between {SAMPLES} samples and the training digits, "
            "in the features of a small classifier: lower is better. DDPM adds fresh noise at every "
            "step, DDIM adds none.",
        control=Control("Steps", STEPS, STEPS.index(5) if 5 in STEPS else 1),
        question="How many steps would you take?",
        answer=f"DDIM comes from {ddim[0]:.1f} with {STEPS[0]} step to {ddim[-1]:.1f} with {STEPS[-1]}. "
        f"{SAMPLES} real digits have {real:.1f}, as so few never reach 0: DDIM is there with "
        f"{enough} steps, and more bring little. DDPM has the lower distance with "
        f"{', '.join(better) or 'no number of'} steps. Distances this close also depend on the seeds.",
        maths="6. Sampling",
        formula="x_s = alpha_s x0_theta + sigma_s eps_theta   (DDIM)",
        code='import unnoise\nmodel = unnoise.load("digits")\n'
        'ddim, ddpm = (model.sample(200, sampler=name, steps={value}, guidance_scale=1)\n'
        '              for name in ("ddim", "ddpm"))',
        facts={},
        pictures=[Pictures(c, x, DIGITS) for c, x in zip(("DDIM", "DDPM"), shown, strict=True)],
        plot=Plot("Fréchet distance to the training digits", "steps", [
            Line("DDIM", STEPS, ddim), Line("DDPM", STEPS, ddpm),
            Line("real digits", [STEPS[0], STEPS[-1]], [real, real]),
        ], STEPS, "xy"),
    )  # fmt: skip


def guidance(bench: Bench) -> Lesson:
    """What a classifier reads, and how much samples of a class differ, by guidance scale."""
    labels = torch.arange(SAMPLES) % 10

    def variety(images: Tensor, classes: Tensor) -> float:
        """Standard deviation within a class, as the root mean square over pixels and classes."""
        spread = [images[classes == i].double().var(0).mean() for i in DIGITS]
        return float(torch.stack(spread).mean().sqrt())

    real = variety(bench.train, bench.labels[: len(bench.train)])
    made = [bench.model.sample(SAMPLES, guidance_scale=scale) for scale in SCALES]
    right = [100 * bench.read_right(images, labels) for images in made]
    varied = [100 * variety(images, labels) / real for images in made]
    one = SCALES.index(1.0)
    return Lesson(
        text="The network guesses twice: once knowing the class, once not. Guidance starts from the "
            "second guess and goes a multiple of the way to the first. That multiple is the scale.\n"
            "At 0 the class does not matter. At 1 the guess is the one that knows it. Above 1 guidance "
            "goes beyond.",
        control=Control("Guidance scale", SCALES, one),
        question="What does a large scale buy, and what does it cost?",
        answer=f"It buys pictures that look like their class: a classifier reads {right[0]:.0f} % as "
        f"the digit that was asked for at scale 0, {right[one]:.0f} % at 1 and {right[-1]:.0f} % at "
        f"{SCALES[-1]:g}. It costs variety: within a class the pictures differ by {varied[one]:.0f} % "
        f"of what training digits do at scale 1, and by {varied[-1]:.0f} % at {SCALES[-1]:g}. Look down "
        "a column to see it.",
        maths="8. Guidance",
        formula="D = scale D(label) + (1 - scale) D(null)",
        code='import unnoise\nmodel = unnoise.load("digits")\n'
        "images = model.sample(200, guidance_scale={value})",
        facts={},
        pictures=[Pictures("Four samples of each digit",
                           torch.stack([images[:40] for images in made]), DIGITS)],
        plot=Plot("By guidance scale", "scale", [
            Line("% read as asked", SCALES, right), Line("% of real variety", SCALES, varied),
        ], SCALES),
    )  # fmt: skip


def copies(bench: Bench) -> Lesson:
    """Samples with the training digits that are nearest to them, the nearest sample first."""
    samples = bench.model.sample(SAMPLES)
    found = copying(samples, bench.train, bench.held_out)
    others = copying(bench.held_out, bench.train).near
    order = found.near.distances[:, 0].argsort()[torch.linspace(0, SAMPLES - 1, 21).long()]
    near = torch.stack([rows_of(bench.train, row[:5]) for row in found.near.indices[order]])
    flipped = found.near.flipped[order, :5, None, None, None]
    near = torch.where(flipped, near.flip(-1), near)
    first, ratio = found.near.distances[order, 0].tolist(), found.near.ratios[order].tolist()
    own, real = (each.distances[:, 0].sort().values for each in (found.near, others))
    shares = [[100 * (i + 1) / len(y) for i in range(len(y))] for y in (own, real)]
    at = [shares[0][i] for i in torch.linspace(0, SAMPLES - 1, 21).long()]
    pixels = found.record["pixels"]
    return Lesson(
        text="A model could make good digits by copying those that it was trained on. So compare "
        "each sample with the training digit that is nearest to it, pixel by pixel.\n"
        f"The slider goes through {SAMPLES} samples, from the nearest to the farthest.",
        control=Control("Seed of the sample, the nearest first", order.tolist(), 0),
        question="The nearest sample looks much like a training digit. Is it a copy?",
        answer=f"It is {first[0]:.0f} grey levels (RMS) away, and {ratio[0]:.2f} of its mean distance "
        "to the 50 nearest. A copy has at most 1 grey level, or at most 0.2 of that mean: "
        f"{found.record['num_copies']} of the {SAMPLES} samples are copies. Is that near? Ask digits "
        "that nobody copied: the held-out ones are at a median of "
        f"{pixels['held_out_median']:.0f} grey levels, the samples at {pixels['median']:.0f}. In "
        f"{100 * pixels['closer']:.0f} % of pairs the sample is nearer than the held-out digit. As new "
        "as these would be 50 %; far more would be copying.",
        maths="12. Copies",
        formula="d_1 = min over digits of RMS(sample - digit)\nratio = d_1 / mean(d_1 .. d_50)",
        code=TEN.split("rows")[0] + "from unnoise.evaluation.memorization import copying\n"
        "train, held_out = torch.tensor(data.images).split([data.num_train, 297])\n"
        "found = copying(model.sample(200), train, held_out)\n"
        'print(found.near.distances[{value}, 0], *found.record["summary"], sep="\\n")',
        facts={
            "a copy?": ["yes" if found.near.copied[i] else "no" for i in order.tolist()],
            "its share of the mean to the 50 nearest": [f"{value:.2f}" for value in ratio],
        },
        pictures=[
            Pictures("The sample", samples[order][:, None]),
            Pictures("The five nearest training digits, or their mirror images", near),
        ],
        plot=Plot("Grey levels to the nearest training digit", "% of the pictures", [
            Line("samples", shares[0], own.tolist()), Line("held-out digits", shares[1], real.tolist()),
        ], at),
    )  # fmt: skip
