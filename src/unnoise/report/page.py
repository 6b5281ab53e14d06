"""The page, section by section. Whatever comes from a file or a name goes through `text`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from unnoise import __version__
from unnoise.errors import ConfigError
from unnoise.report import commands, sections
from unnoise.report.html import duration, number, text
from unnoise.report.measured import measured
from unnoise.report.read import RunFiles, finite
from unnoise.units import seconds

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""The browser itself forbids every request."""


def render(run: RunFiles, out: Path | None) -> str:
    """The whole page."""
    body = "".join(section(run) for section in SECTIONS) + _commands(run, out)
    here = Path(__file__).parent
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{text(run.name)} · unnoise</title><style>{(here / 'page.css').read_text()}</style></head>\n"
        f"<body>{_head(run)}{_notes(run)}{body}"
        f"<footer>Made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by unnoise {__version__}. One file, no requests.</footer>"
        f"<script>{(here / 'page.js').read_text()}</script></body></html>\n"
    )


def _head(run: RunFiles) -> str:
    lines, training, shape, data = (
        run.lines,
        run.part("training"),
        run.part("shape"),
        run.part("data"),
    )
    seen = max(
        (n for n in (finite(training.get("nimg")), lines[-1]["nimg"] if lines else None) if n),
        default=None,
    )
    model_at = finite(training.get("nimg"))
    if lines and model_at is not None and model_at < lines[-1]["nimg"]:
        run.notes.append(
            f"model.safetensors is of {model_at:,.0f} images; the curves go on to {lines[-1]['nimg']:,.0f}"
        )
    count = finite(data.get("num_train"))
    facts = {
        "Preset": run.config.get("preset", "unknown"),
        "Parameters": "unknown" if run.parameters is None else f"{run.parameters:,}",
        "Images seen": "unknown" if seen is None else f"{seen:,.0f}",
        "Epochs": number(run.last("epoch")),
        "Time trained": duration(run.last("train_sec")),
        "Training loss": number(run.last("loss")),
        "Held-out loss": number(run.last("held_out_loss")),
        "State": _progress(run, seen),
    }
    if shape:
        facts["Images"] = f"{shape.get('channels')} x {shape.get('height')} x {shape.get('width')}"
        facts["Classes"] = shape.get("num_classes") or "none"
    if data:
        facts["Data"] = str(data.get("name")) + ("" if count is None else f", {count:,.0f} images")
    if run.record:
        facts["Model hash"] = str(run.record["weights"])[:16]
    shown = "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in facts.items()
    )
    return f'<h1>{text(run.name)}</h1><p class="dim">A training run of unnoise</p><dl class="facts">{shown}</dl>'


def _progress(run: RunFiles, seen: float | None) -> str:
    """How much of the way to its end the run is, by whichever end is nearer."""
    train = run.config.get("train")
    ends = train if isinstance(train, dict) else {}
    try:
        limit = seconds(str(ends["time"])) if ends.get("time") else None
    except ConfigError:
        limit = None
    kimg = finite(ends.get("kimg"))
    pairs = (
        (seen, None if kimg is None else 1000 * kimg),
        (run.last("epoch"), finite(ends.get("epochs"))),
        (run.last("train_sec"), limit),
    )
    done = max((at / end for at, end in pairs if at is not None and end), default=None)
    if done is None:
        return "unknown"
    return "finished" if done >= 1 else f"{100 * done:.0f} % of the way: going on, or stopped"


def _notes(run: RunFiles) -> str:
    if not run.notes:
        return ""
    return f'<div class="notes">Missing, broken or worth knowing:<ul>{"".join(f"<li>{text(n)}</li>" for n in run.notes)}</ul></div>'


def _commands(run: RunFiles, out: Path | None) -> str:
    lines = []
    again = commands.train(run)
    if again is not None:
        lines.append(
            (
                "Go on with the training (a finished run: with a later end, such as --kimg, added)",
                again,
            )
        )
    if run.record:
        lines.append(("Make pictures", commands.sample(run, "--num", "64")))
    if run.record and not run.part("tuned"):
        lines.append(("Find the best solver and time steps", commands.tune(run)))
    if "balanced" in run.part("tuned"):
        lines.append(
            ("Make pictures with a tuned sampler", commands.sample(run, "--sampler", "balanced"))
        )
    lines.append(("Make this page again", commands.report(run, out)))
    return (
        '<h2>Commands</h2><p class="dim">In the folder from which this page was made.</p>'
        + "".join(f"<p>{what}</p><pre>{text(line)}</pre>" for what, line in lines)
    )


SECTIONS: tuple[Callable[[RunFiles], str], ...] = (
    sections.samples,
    sections.curves,
    measured,
    sections.data,
    sections.samplers,
    sections.configuration,
    sections.environment,
    sections.checkpoints,
)
"""In the order of the page. A section gives its HTML, or "" where there is nothing to show."""
