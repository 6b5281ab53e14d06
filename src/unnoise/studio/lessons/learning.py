"""Lessons 1 to 4: noise, schedule, network, loss."""

from __future__ import annotations

import torch
from torch import Tensor

from unnoise.data.images import from_model, to_model
from unnoise.diffusion.schedules import SCHEDULES
from unnoise.studio.lessons.lesson import DIGITS, Bench, Line, Pictures, Plot, Shown, rms

TIMES = (1, *range(25, 1001, 25))
MEASURED = 150
"""Held-out digits whose loss is measured."""


def noise(bench: Bench) -> Shown:
    """x_t by t, and how many digits a classifier still reads."""
    levels = [bench.level(t) for t in TIMES]
    rows = range(bench.data.num_train, len(bench.data.images))
    noisy = [from_model(bench.noised(bench.ten, level)[2]) for level in levels]
    read = [
        bench.read_right(from_model(bench.noised(rows, level)[2]), bench.labels[rows])
        for level in levels
    ]
    lost = next(i for i, share in enumerate(read) if share < 50)
    said = {"count": len(rows), "first": read[0], "half": read[lost], "last": read[-1]}
    return Shown(
        values=TIMES,
        start=TIMES.index(250),
        said=said | {"t": TIMES[lost], "alpha": levels[lost].alpha},
        facts={
            "alpha": [f"{level.alpha:.3f}" for level in levels],
            "sigma": [f"{level.sigma:.3f}" for level in levels],
        },
        pictures=[Pictures("x_t: ten digits with noise", torch.stack(noisy), DIGITS)],
        plot=Plot("Digits that a classifier reads", "t", [Line("% right", TIMES, read)], TIMES),
    )


def schedule(bench: Bench) -> Shown:
    """The SNR of four schedules, over the share of their time."""
    shares, at = [i / 100 for i in range(1, 101)], [i / 10 for i in range(1, 11)]
    names = ("linear", "cosine", "sigmoid", "flow")
    pictures, lines, one, wasted = [], [], [], {}
    for name in names:
        each = SCHEDULES[name](1000)
        x = [bench.noised(bench.ten[3:4], each.level(u * each.t_max))[2] for u in at]
        pictures.append(from_model(torch.cat(x)))
        snr = [float(each.level(i * each.t_max / 1000).snr) for i in range(1, 1001)]
        lines.append(Line(name, shares, [max(value, 1e-5) for value in snr[9::10]]))
        one.append(f"{sum(value >= 1 for value in snr) / 10:.0f} % of the time")
        wasted[name] = sum(value < 0.01 for value in snr) / 10
    worst = max(names, key=lambda name: wasted[name])
    others = (f"{share:.0f} % ({name})" for name, share in wasted.items() if name != worst)
    said = {"worst": worst.capitalize(), "most": wasted[worst], "others": ", ".join(others)}
    own = bench.model.config.diffusion.schedule
    return Shown(
        values=names,
        start=names.index(own),
        said=said | {"own": own},
        facts={
            "SNR falls below 1 after": one,
            "SNR below 0.01": [f"{share:.0f} % of the time" for share in wasted.values()],
        },
        pictures=[Pictures("A 3 after 10 %, 20 %, .. 100 % of the time", torch.stack(pictures))],
        plot=Plot("SNR (1e-5 stands for less)", "share of the time", lines, log="y"),
    )


def network(bench: Bench) -> Shown:
    """What the network makes of x_t, and the mean digit that it falls back to."""
    none = torch.full((10,), bench.model.shape.num_classes)
    mean = to_model(bench.train).mean(0)
    rows, from_truth, from_mean = list[tuple[Tensor, Tensor]](), [], []
    for t in TIMES:
        x0, _, x_t = bench.noised(bench.ten, bench.level(t))
        guess = bench.guess(x_t, bench.level(t), none).x0
        rows.append((from_model(x_t), from_model(guess)))
        from_truth.append(rms(guess, x0))
        from_mean.append(rms(guess.cpu(), mean))
    seen, guessed = (torch.stack(column) for column in zip(*rows, strict=True))
    truth = torch.tensor(bench.data.images[bench.ten])[None]
    return Shown(
        values=TIMES,
        start=TIMES.index(400),
        said={"mean": from_mean[-1], "truth": from_truth[-1], "clear": from_truth[0]},
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


def loss(bench: Bench) -> Shown:
    """The squared errors of x0, eps and v by t."""
    times = range(20, 1000, 40)  # the middles of 25 equal parts
    rows = range(bench.data.num_train, bench.data.num_train + MEASURED)
    errors: dict[str, list[float]] = {"x0": [], "eps": [], "v": []}
    for t in times:
        level = bench.level(t)
        x0, eps, x_t = bench.noised(rows, level)
        guess = bench.guess(x_t, level, bench.labels[rows])
        off = guess.x0 - x0, guess.eps - eps
        parts = (*off, level.alpha * off[1] - level.sigma * off[0])
        for values, part in zip(errors.values(), parts, strict=True):
            values.append(float(part.square().mean()))
    low = {name: 100 * sum(y[:5]) / sum(y) for name, y in errors.items()}
    high = {name: 100 * sum(y[-5:]) / sum(y) for name, y in errors.items()}
    said = {"eps": low["eps"], "x0": high["x0"], "low": low["v"], "high": high["v"]}
    return Shown(
        values=list(errors),
        start=1,
        said=said | {"count": MEASURED, "own": bench.model.config.diffusion.parameterization},
        facts={
            "of the loss, from t up to 200": [f"{share:.0f} %" for share in low.values()],
            "from t above 800": [f"{share:.0f} %" for share in high.values()],
        },
        plot=Plot(
            "Mean squared error", "t", [Line(n, times, y) for n, y in errors.items()], log="y"
        ),
    )
