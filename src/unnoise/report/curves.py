"""Curves as inline SVG: one small function, with ticks, labels and a legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 480, 280
LEFT, RIGHT, TOP, BOTTOM = 80, 468, 12, 234
"""The plotted area in the picture's units."""
COLOURS = 6
MOST_POINTS = 1000
"""A longer curve is thinned to about so many points, the lowest and highest of each stretch."""
DOTTED_POINTS = 60
"""A curve of so few points has a dot for each, which says its numbers."""
LOG_RATIO = 10
"""Values that span more than this, all above 0, are drawn on a logarithmic axis."""


@dataclass(frozen=True)
class Curve:
    """A named line through (x, y)."""

    label: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axis:
    """Values low..high on pixels start..end."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value."""
        low, high, value = (
            map(math.log10, (self.low, self.high, value))
            if self.log
            else (self.low, self.high, value)
        )
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def ticks(self) -> list[float]:
        return _log_ticks(self.low, self.high) if self.log else _ticks(self.low, self.high)


def x_axis(curves: Sequence[Curve]) -> Axis:
    """From 0 to the last x."""
    return Axis(0, max(x for curve in curves for x, _ in curve.points) or 1, LEFT, RIGHT)


def y_axis(values: Sequence[float], linear: bool = False) -> Axis:
    """Logarithmic where the values span much and are above 0; else linear, between round numbers."""
    low, high = min(values), max(values)
    if not linear and low > 0 and high / low >= LOG_RATIO:
        return Axis(low, high, BOTTOM, TOP, log=True)
    if 0 <= low < high / 2:
        low = 0.0
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        around = abs(low) / 2 or 1.0
        low, high = low - around, high + around
    step = _step(low, high)
    return Axis(
        math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, BOTTOM, TOP
    )


def _step(low: float, high: float) -> float:
    """A round number, 1, 2, 2.5 or 5 times a power of ten, that fits three to six times."""
    rough = max((high - low) / 6, 1e-300)
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))


def _ticks(low: float, high: float) -> list[float]:
    step = _step(low, high)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, every few where there are many, with 2 and 5 between where there are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = math.ceil(len(powers) / 8)
    factors = (1, 2, 5) if len(powers) <= 4 else (1,)
    ticks = [factor * 10.0**power for power in powers[::every] for factor in factors]
    return [tick for tick in ticks if low <= tick <= high]


def thinned(
    points: Sequence[tuple[float, float]], most: int = MOST_POINTS
) -> list[tuple[float, float]]:
    """At most about `most` points: the first, the last, and the lowest and highest of each stretch, so that no spike is lost."""
    if len(points) <= most:
        return list(points)
    kept, stretches = {0, len(points) - 1}, most // 2
    for i in range(stretches):
        stretch = range(len(points) * i // stretches, len(points) * (i + 1) // stretches)
        kept |= {min(stretch, key=lambda j: points[j][1]), max(stretch, key=lambda j: points[j][1])}
    return [points[i] for i in sorted(kept)]


def chart(
    curves: Sequence[Curve], title: str, label: str, x_label: str, linear: bool = False
) -> str:
    """A figure with its legend; `label` names the values and is followed by (log) on a logarithmic axis."""
    across = x_axis(curves)
    up = y_axis([y for curve in curves for _, y in curve.points], linear)
    label += " (log)" if up.log else ""
    middle, centre = (TOP + BOTTOM) / 2, (LEFT + RIGHT) / 2
    lines = "".join(_line(curve, i % COLOURS, across, up) for i, curve in enumerate(curves))
    legend = "".join(
        f'<span><i class="c{i % COLOURS}"></i>{escape(curve.label)}</span>'
        for i, curve in enumerate(curves)
    )
    return (
        f'<figure class="chart"><h3>{escape(title)}</h3>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{_frame(across, up)}"
        f'<text x="{centre:g}" y="{HEIGHT - 8}" class="m">{escape(x_label)}</text>'
        f'<text transform="translate(13 {middle:g}) rotate(-90)" class="m">{escape(label)}</text>'
        f'{lines}</svg><figcaption class="legend">{legend}</figcaption></figure>'
    )


def _frame(across: Axis, up: Axis) -> str:
    """Grid lines, ticks and their numbers."""
    parts = []
    for tick in across.ticks():
        x = across.at(tick)
        parts.append(f'<path class="g" d="M{x:.1f} {TOP}V{BOTTOM}"/>')
        parts.append(f'<text class="m" x="{x:.1f}" y="{BOTTOM + 18}">{tick:.10g}</text>')
    for tick in up.ticks():
        y = up.at(tick)
        parts.append(f'<path class="g" d="M{LEFT} {y:.1f}H{RIGHT}"/>')
        parts.append(f'<text class="e" x="{LEFT - 6}" y="{y + 4:.1f}">{tick:.10g}</text>')
    return "".join(parts) + f'<path class="a" d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}"/>'


def _line(curve: Curve, colour: int, across: Axis, up: Axis) -> str:
    points = thinned(curve.points)
    pixels = " ".join(f"{across.at(x):.1f},{up.at(y):.1f}" for x, y in points)
    dots = ""
    if len(points) <= DOTTED_POINTS:
        dots = "".join(
            f'<circle cx="{across.at(x):.1f}" cy="{up.at(y):.1f}" r="3"><title>{escape(curve.label)}: {y:.6g} at {x:g}'
            "</title></circle>"
            for x, y in points
        )
    return f'<g class="c{colour}"><polyline points="{pixels}"/>{dots}</g>'
