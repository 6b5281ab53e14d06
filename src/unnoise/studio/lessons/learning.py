"""Lessons 1 to 4: noise, schedule, network, loss."""

from __future__ import annotations

import torch
from torch import Tensor

from unnoise.data.images import from_model, to_model
from unnoise.diffusion.schedules import SCHEDULES
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

TIMES = (1, *range(25, 1001, 25))


def noise(bench: Bench) -> Lesson:
    """x_t by t, and how many a classifier still reads."""
    levels = [bench.model.diffusion.schedule.level(t) for t in TIMES]
    rows = range(bench.data.num_train, len(bench.data.images))
    noisy = [from_model(bench.noised(bench.ten, level)[2]) for level in levels]
    read = [
        100 * bench.read_right(from_model(bench.noised(rows, level)[2]), bench.labels[rows])
        for level in levels
    ]
    lost = next(i for i, share in enumerate(read) if share < 50)
    return Lesson(
        text="A diffusion model learns to take noise away. So first we add noise.\n"
        "The noisy picture x_t is the digit x0, made fainter by alpha, plus Gaussian noise eps, "
        "made stronger by sigma. The time t says how much: t = 0 is the digit, and t = 1000 is "
        "almost only noise.",
        control=Control("Time t", TIMES, TIMES.index(250)),
        question="Up to which t can you read most of the digits? And a computer?",
        answer=f"A small classifier that only knows clean digits reads {read[0]:.0f} % of "
        f"{len(rows)} digits at t = 1. At t = {TIMES[lost]} it reads fewer than half: "
        f"{read[lost]:.0f} %, although alpha is still {levels[lost].alpha:.2f}. At t = 1000 it reads "
        f"{read[-1]:.0f} %, and guessing gives 10 %. Compare your own eyes with the curve.",
        maths="1. Noising",
        formula="x_t = alpha_t x0 + sigma_t eps,   eps ~ N(0, I)",
        code=TEN,
        facts={
            "alpha": [f"{level.alpha:.3f}" for level in levels],
            "sigma": [f"{level.sigma:.3f}" for level in levels],
        },
        pictures=[Pictures("x_t: ten digits with noise", torch.stack(noisy), DIGITS)],
        plot=Plot(
            "Digits that a classifier reads", "t", [Line("% read right", TIMES, read)], TIMES
        ),
    )


def schedule(bench: Bench) -> Lesson:
    """The SNR of four schedules, over the share of their time."""
    shares = [i / 100 for i in range(1, 101)]
    names = ("linear", "cosine", "sigmoid", "flow")
    made = [SCHEDULES[name](1000) for name in names]
    at = [i / 10 for i in range(1, 11)]
    pictures, snr, one, wasted = [], [], [], []
    for each in made:
        x = [bench.noised(bench.ten[3:4], each.level(u * each.t_max))[2] for u in at]
        pictures.append(from_model(torch.cat(x)))
        fine = [float(each.level(i * each.t_max / 1000).snr) for i in range(1, 1001)]
        snr.append([max(fine[round(1000 * u) - 1], 1e-5) for u in shares])
        one.append(sum(value >= 1 for value in fine) / 1000)
        wasted.append(sum(value < 0.01 for value in fine) / 10)
    worst = wasted.index(max(wasted))
    others = [pair for pair in zip(names, wasted, strict=True) if pair[0] != names[worst]]
    return Lesson(
        text="A schedule says how fast digits drown in noise. What counts is the signal-to-noise "
            "ratio, SNR: at 1 there is as much picture as noise, and below 0.01 hardly any picture.\n"
            "Training visits every time equally often. So the schedule decides how much of the work "
            "goes to which noise.",
        control=Control("Schedule", names, 1),
        question="Which schedule spends most of its time on almost pure noise, with an SNR below "
        "0.01?",
        answer=f"{names[worst].capitalize()}: {wasted[worst]:.0f} % of its time, against "
        + ", ".join(f"{share:.0f} % ({name})" for name, share in others)
        + ". Its last pictures look alike, and there is little to learn from them. This model was "
        f"trained with the schedule {bench.model.config.diffusion.schedule}.",
        maths="2. Schedules",
        formula="snr_t = (alpha_t / sigma_t)^2",
        code="from unnoise.diffusion.schedules import SCHEDULES\n"
        'schedule = SCHEDULES["{value}"](1000)\n'
        "snr = [schedule.level(i * schedule.t_max / 1000).snr for i in range(1, 1001)]\n"
        "print(sum(value < 0.01 for value in snr) / 1000)",
        facts={
            "SNR falls below 1 after": [f"{100 * share:.0f} % of the time" for share in one],
            "SNR below 0.01": [f"{share:.0f} % of the time" for share in wasted],
        },
        pictures=[Pictures("A 3 after 10 %, 20 %, .. 100 % of the time", torch.stack(pictures))],
        plot=Plot("Signal-to-noise ratio (1e-5 stands for less)", "share of the time",
                  [Line(n, shares, y) for n, y in zip(names, snr, strict=True)], log="y"),
    )  # fmt: skip


def network(bench: Bench) -> Lesson:
    """What the network makes of x_t, and the mean digit that it falls back to."""
    none = torch.full((10,), bench.model.shape.num_classes)
    mean = to_model(bench.train).mean(0)
    rows, from_truth, from_mean = list[tuple[Tensor, Tensor]](), [], []
    for t in TIMES:
        level = bench.model.diffusion.schedule.level(t)
        x0, _, x_t = bench.noised(bench.ten, level)
        guess = bench.guess(x_t, level, none).x0
        rows.append((from_model(x_t), from_model(guess)))
        from_truth.append(rms(guess, x0))
        from_mean.append(rms(guess.cpu(), mean))
    seen, guessed = (torch.stack(column) for column in zip(*rows, strict=True))
    truth = torch.tensor(bench.data.images[bench.ten])[None]
    return Lesson(
        text="The network gets a noisy picture x_t and its time t. From these it guesses the digit. "
        "Here nobody tells it which digit it is, and it never saw these ten in training.\n"
        "Move the slider from little noise to much, and watch its guesses.",
        control=Control("Time t", TIMES, TIMES.index(400)),
        question="At t = 1000 all guesses look alike. What are they?",
        answer="The mean of all training digits, which is the last picture. Where nothing can be "
        "seen, no other guess has a smaller squared error. The network is not perfect: its guesses "
        f"are {from_mean[-1]:.0f} grey levels (RMS) from the mean. From the true digits they are "
        f"{from_truth[-1]:.0f} there, but only {from_truth[0]:.1f} at t = 1.",
        maths="3. What the network predicts",
        formula="x0_theta = alpha_t x_t - sigma_t F_theta(x_t, t)\n(the F of this model is v)",
        code=TEN + "\nguess = model.diffusion.denoise(x_t, level, torch.full((10,), 10)).x0"
        "  # 10: no class",
        facts={
            "from guess to true digit": [f"{value:.1f} grey levels" for value in from_truth],
            "from guess to mean digit": [f"{value:.1f} grey levels" for value in from_mean],
        },
        pictures=[
            Pictures("x_t: what the network gets", seen, DIGITS),
            Pictures("What it guesses", guessed, DIGITS),
            Pictures("The true digits", truth, DIGITS),
            Pictures("The mean of all training digits", from_model(mean)[None, None]),
        ],
    )


def loss(bench: Bench) -> Lesson:
    """The squared errors of x0, eps and v by t."""
    times = range(20, 1000, 40)  # the middles of 25 equal parts
    rows = range(bench.data.num_train, bench.data.num_train + 150)
    errors: dict[str, list[float]] = {"x0": [], "eps": [], "v": []}
    for t in times:
        level = bench.model.diffusion.schedule.level(t)
        x0, eps, x_t = bench.noised(rows, level)
        guess = bench.guess(x_t, level, bench.labels[rows])
        off = guess.x0 - x0, guess.eps - eps
        for name, value in zip(errors, (*off, level.alpha * off[1] - level.sigma * off[0]),
                               strict=True):  # fmt: skip
            errors[name].append(float(value.square().mean()))
    fifths = {name: (sum(y[:5]) / sum(y), sum(y[-5:]) / sum(y)) for name, y in errors.items()}
    return Lesson(
        text="Training takes random times t and averages the squared error of the network's answer. "
        "The answer can be written in three ways: as the digit x0, as the noise eps, or as v, "
        "a mix of both.\n"
        "Each way is the same error with another weight: that of x0 is sigma² times that of v, "
        "and that of eps is alpha² times it. This is measured on 150 held-out digits.",
        control=Control("The loss compares", tuple(errors), 1),
        question="Which loss depends most on times with little noise, and which on times with much?",
        answer=f"With eps, {100 * fifths['eps'][0]:.0f} % of the loss comes from the fifth of the times "
        f"with least noise. With x0, {100 * fifths['x0'][1]:.0f} % comes from the fifth with most. With "
        f"v it is {100 * fifths['v'][0]:.0f} % and {100 * fifths['v'][1]:.0f} %, so all times count. "
        f"This model was trained on {bench.model.config.diffusion.parameterization}.",
        maths="4. Loss",
        formula="L_simple = E || F_theta(x_t, t) - F ||^2\nv = alpha_t eps - sigma_t x0",
        code=TEN.replace("{value}", "500")
        + "\nguess = model.diffusion.denoise(x_t, level, torch.arange(10))\n"
        "error = {'x0': guess.x0 - x0, 'eps': guess.eps - eps}\n"
        "error['v'] = level.alpha * error['eps'] - level.sigma * error['x0']\n"
        "print(error['{value}'].square().mean())",
        facts={
            "of the loss, from t up to 200": [f"{100 * fifths[name][0]:.0f} %" for name in errors],
            "from t above 800": [f"{100 * fifths[name][1]:.0f} %" for name in errors],
        },
        plot=Plot(
            "Mean squared error", "t", [Line(n, times, y) for n, y in errors.items()], log="y"
        ),
    )
