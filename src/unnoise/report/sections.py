"""The sections of the page. Each gives its HTML, or "" where the run has nothing for it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from unnoise import __version__
from unnoise.report import commands, pictures
from unnoise.report.curves import MOST_POINTS, Curve, chart
from unnoise.report.html import size, table, text
from unnoise.report.read import RunFiles, finite

PANELS = (
    ("Loss", "loss", r"loss|held_out_loss(_\w+)?", False),
    ("Held-out loss by noise level", "loss", r"held_out_q\d+", False),
    ("Learning rate", "learning rate", r"lr", True),
    ("Gradient norm", "norm", r"grad_norm", False),
    ("Speed", "images per second", r"img_per_sec", True),
)
"""Title, label of the axis, fields of metrics.jsonl, whether it is linear in any case."""

LABELS = {
    "loss": "training loss",
    "held_out_loss": "held-out loss (averaged weights)",
    "held_out_loss_raw": "held-out loss (raw weights)",
    "held_out_q1": "quarter 1 (least noise)",
    "held_out_q2": "quarter 2",
    "held_out_q3": "quarter 3",
    "held_out_q4": "quarter 4 (most noise)",
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "img_per_sec": "images per second",
    "sample_sec": "seconds to sample a grid",
    "skipped_steps": "steps not applied",
}


def samples(run: RunFiles) -> str:
    """The last grid large, a slider through all of them (with JavaScript) and a filmstrip (without it, too)."""
    grids: list[tuple[int, tuple[str, bytes]]] = []
    for nimg, path in pictures.evenly(run.samples, pictures.MOST_GRIDS):
        try:
            grids.append((nimg, pictures.load(path)))
        except pictures.NoPicture as reason:
            run.notes.append(f"samples/{path.name}: {reason}")
    if not grids:
        return ""
    nimg, last = grids[-1]
    kept = pictures.fitting(
        [len(content) for _, (_, content) in grids], 2 * pictures.LARGE_BYTES + len(last[1])
    )
    label = f"{nimg:,} images"
    film = "".join(_frame(*grids[i]) for i in kept)
    count = (
        f"{len(kept)} grids"
        if len(kept) == len(run.samples)
        else f"{len(kept)} of {len(run.samples)} grids, evenly chosen"
    )
    return (
        "<h2>Samples</h2>"
        f'<img id="shown" src="{pictures.data_url(*last)}" alt="samples after {label}">'
        '<div id="slide" hidden><input type="range" min="0" value="0" aria-label="images seen">'
        f'</div><p id="shown-label">{label}</p>'
        f'<p class="dim">The same seeds throughout; {count}. A page holds at most {pictures.MOST_GRIDS} grids and '
        f"{pictures.MOST_BYTES // 1_000_000} MB of pictures.</p>"
        + (f'<div class="film">{film}</div>' if len(kept) > 1 else "")
    )


def _frame(nimg: int, picture: tuple[str, bytes]) -> str:
    label = f"{nimg:,} images"
    return (
        f'<figure><img src="{pictures.data_url(*picture)}" alt="samples after {label}" loading="lazy">'
        f"<figcaption>{label}</figcaption></figure>"
    )


def curves(run: RunFiles) -> str:
    """Known fields in their panels; any other numeric field in its own, numbered ones (x1, x2) together."""
    series = run.series()
    left = {
        name: points
        for name, points in series.items()
        if not any(re.fullmatch(p[2], name) for p in PANELS)
    }
    panels = [
        (t, label, [n for n in series if re.fullmatch(p, n)], linear)
        for t, label, p, linear in PANELS
    ]
    drawn = [name for name, points in left.items() if len({value for _, value in points}) > 1]
    groups: dict[str, list[str]] = {}
    for name in drawn:
        groups.setdefault(re.sub(r"_?\d+$", "", name), []).append(name)
    panels += [
        (LABELS.get(names[0], names[0]) if len(names) == 1 else group, "value", names, False)
        for group, names in groups.items()
    ]
    charts = "".join(
        chart(
            [_curve(name, series[name]) for name in names],
            title,
            label,
            "thousand images seen",
            linear,
        )
        for title, label, names, linear in panels
        if names
    )
    if not series:
        return ""
    rows = [_row(name, points) for name, points in series.items()]
    return (
        f'<h2>Curves</h2><div class="charts">{charts}</div>'
        f'<p class="dim">Every measurement as it is, unsmoothed; of a curve of more than {MOST_POINTS:,} the lowest and highest of '
        "each stretch. Loss: the mean since the measurement before. A dot says its numbers under the pointer.</p>"
        "<details><summary>The numbers</summary>"
        + table(
            ("field", "measurements", "last", "at (images)", "lowest", "at (images)", "highest"),
            rows,
        )
        + "</details>"
    )


def _curve(name: str, points: Sequence[tuple[float, float]]) -> Curve:
    return Curve(LABELS.get(name, name), [(nimg / 1000, value) for nimg, value in points])


def _row(name: str, points: Sequence[tuple[float, float]]) -> tuple[object, ...]:
    (end, last), (where, lowest) = points[-1], min(points, key=lambda point: point[1])
    highest = max(value for _, value in points)
    return (
        name,
        len(points),
        f"{last:.6g}",
        f"{end:,.0f}",
        f"{lowest:.6g}",
        f"{where:,.0f}",
        f"{highest:.6g}",
    )


def data(run: RunFiles) -> str:
    names = run.record.get("class_names")
    classes = (
        ", ".join(map(str, names[:40])) + (", .." if len(names) > 40 else "")
        if isinstance(names, list)
        else ""
    )
    rows = [("fingerprint", run.fingerprint[:16])] if run.fingerprint else []
    rows += [("classes", classes)] if classes else []
    try:
        picture = f'<img src="{pictures.data_url(*pictures.load(run.folder / "data.png"))}" alt="training images">'
    except pictures.NoPicture as reason:
        picture = ""
        if (run.folder / "data.png").is_file():
            run.notes.append(f"data.png: {reason}")
    if not (picture or rows):
        return ""
    return f"<h2>Training images</h2>{picture}" + (table(("", ""), rows, 1) if rows else "")


def samplers(run: RunFiles) -> str:
    """The tuned samplers, if there are any."""
    tuned = {name: row for name, row in run.part("tuned").items() if isinstance(row, dict)}
    if not tuned:
        return ""
    fields = [
        f for f in dict.fromkeys(key for row in tuned.values() for key in row) if f != "noises"
    ]
    rows = [
        (name, *(row.get(f) for f in fields), _noises(row.get("noises")))
        for name, row in tuned.items()
    ]
    head = ("name", *(f.replace("_", " ") for f in fields), "sigma / alpha of the steps")
    return "<h2>Tuned samplers</h2>" + table(head, rows, len(head) - 1)


def _noises(values: object) -> str:
    if not isinstance(values, list):
        return ""
    return "  ".join(str(v) if (n := finite(v)) is None else f"{n:.4g}" for v in values)


def configuration(run: RunFiles) -> str:
    if not run.config:
        return ""
    changed, preset = commands.differing(run), text(run.config.get("preset"))
    if changed is None:
        first = f"<p>No preset {preset} in unnoise {__version__} to compare with.</p>"
    elif changed:
        rows = [(key, *values) for key, values in changed.items()]
        first = f"<p>What differs from the preset {preset}:</p>" + table(
            ("setting", "this run", "preset"), rows
        )
    else:
        first = f"<p>The preset {preset} as it comes.</p>"
    whole = table(("setting", "value"), commands.dotted(run.config).items())
    return f"<h2>Configuration</h2>{first}<details><summary>The whole configuration</summary>{whole}</details>"


def environment(run: RunFiles) -> str:
    """What is the same at every start once, the rest start by start."""
    if not run.starts:
        return ""
    fields = list(dict.fromkeys(key for start in run.starts for key in start))
    own = [
        f
        for f in fields
        if f in ("started", "step") or any(s.get(f) != run.starts[0].get(f) for s in run.starts)
    ]
    same = [(f, run.starts[0].get(f)) for f in fields if f not in own]
    starts = table(own, [[start.get(f) for f in own] for start in run.starts])
    rest = f"<p>At every start:</p>{table(('', ''), same, 1)}" if same else ""
    return f"<h2>Environment</h2>{starts}{rest}"


def checkpoints(run: RunFiles) -> str:
    if not run.checkpoints:
        return ""
    rows = [
        (c.name, "unknown" if c.nimg is None else f"{c.nimg:,.0f}", size(c.size_bytes), c.state)
        for c in run.checkpoints
    ]
    return "<h2>Checkpoints</h2>" + table(("checkpoint", "images seen", "size", "state"), rows)
