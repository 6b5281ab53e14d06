"""The section on RUN/evaluation.json, which `unnoise evaluate` wrote."""

from __future__ import annotations

from unnoise.evaluation.summary import tables, title
from unnoise.report import pictures
from unnoise.report.html import table, text
from unnoise.report.read import RunFiles

FIGURES = (
    ("samples.png", "Samples"),
    (
        "neighbours.png",
        "Samples and their nearest training images: in each row the sample, its nearest, the next three",
    ),
)


def measured(run: RunFiles) -> str:
    """The evaluation's tables, samples and closest pairs; a damaged file becomes a note."""
    record = run.evaluation
    if not record:
        return ""
    try:
        head, parts = title(record), tables(record)
        notes = [text(note) for note in record["notes"]]
        weights = str(record["model"]["weights"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        run.notes.append(
            f"evaluation.json is not what unnoise evaluate writes ({type(error).__name__}: {error})"
        )
        return ""
    now = str(run.record.get("weights", ""))
    if now and not now.startswith(weights):
        run.notes.append(
            f"evaluation.json is of other weights ({weights}) than model.safetensors ({now[:12]})"
        )
    shown = "".join(
        table(part.head, part.rows)
        + (f'<p class="dim">{text(part.about)}</p>' if part.about else "")
        for part in parts
    )
    listed = f"<ul>{''.join(f'<li>{note}</li>' for note in notes)}</ul>" if notes else ""
    figures = "".join(
        _figure(run, *f) for f in FIGURES if f[0] != "neighbours.png" or record.get("copying")
    )
    return f"<h2>Evaluation</h2><p>{text(head)}</p>{shown}{listed}{figures}"


def _figure(run: RunFiles, name: str, caption: str) -> str:
    try:
        picture = pictures.data_url(*pictures.load(run.folder / "evaluation" / name))
    except pictures.NoPicture as reason:
        run.notes.append(f"evaluation/{name}: {reason}")
        return ""
    return f'<figure class="wide"><img src="{picture}" alt="{text(caption)}"><figcaption>{text(caption)}</figcaption></figure>'
