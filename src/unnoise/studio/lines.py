"""The command and the Python code that make what a job of the page makes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unnoise.studio import commands

if TYPE_CHECKING:
    from unnoise.studio.works import Plan, Work


def command(kind: str, work: Work, plan: Plan, model: str) -> str | None:
    """The command line, or None where it cannot say this."""
    asked = vars(work)
    if isinstance(work.label, list) or asked.get("branches") or kind == "walk":
        return None
    flags = [part for key, value in work.settings.items() for part in commands.flag(key, value)]
    if work.label is not None:
        flags += commands.flag("label", work.label)
    seeds = plan.seeds
    flags += ["--num", str(len(seeds))] if seeds[0] == 0 and _in_a_row(seeds) else _seeds(seeds)
    if kind == "sample":
        return commands.command("sample", Path(model), *flags)
    words = ["picture.png", *(["--mask", "mask.png"] if kind == "inpaint" else [])]
    for key in ("strength", "resample"):
        words += commands.flag(key, asked[key]) if key in asked else []
    first = f"./{model}" if model.startswith("-") else model
    return shlex.join(["unnoise", "edit", kind, first, *words, *flags])


def python(kind: str, work: Work, plan: Plan, model: str) -> str:
    """The code."""
    settings = "".join(f", {key}={value!r}" for key, value in work.settings.items())
    label = "" if work.label is None else f", label={work.label!r}"
    seeds = plan.seeds
    row = _in_a_row(seeds)
    which = f"range({seeds[0]}, {seeds[-1] + 1})" if row else repr(seeds)
    start = f"import unnoise\nmodel = unnoise.load({model!r})\n"
    asked: dict[str, Any] = vars(work)
    if kind == "sample" and not asked["branches"]:
        first = f"{len(seeds)}, seed={seeds[0]}" if row else f"seeds={which}"
        return f"{start}images = model.sample({first}{label}{settings})"
    if kind == "sample":
        lines = [f"steps = list(model.steps({which}{label}{settings}))"]
        done = 0
        for branch in asked["branches"]:
            own = "".join(f", {key}={value!r}" for key, value in branch.settings.items())
            own = (f", label={branch.label!r}" if branch.label is not None else "") + own
            at = branch.step - done - 1
            lines.append(f"steps = list(model.steps({which}, start=steps[{at}]{own}))")
            done = branch.step
        return start + "\n".join([*lines, "images = unnoise.from_model(steps[-1].x)"])
    if kind == "walk":
        return f"{start}# four seeds {list(asked['corners'])}; points {list(asked['points'])}"
    own = "".join(f", {key}={asked[key]!r}" for key in ("strength", "resample") if key in asked)
    function = {"inpaint": "inpaint", "image": "image_to_image"}[kind]
    more = ', editing.read_mask(model, "mask.png")' if kind == "inpaint" else ""
    return (
        f"{start}from unnoise import editing\n"
        f'picture = editing.read_picture(model, "picture.png")\n'
        f"images = editing.{function}(model, picture{more}{own}, seeds={which}{label}{settings})"
    )


def _in_a_row(seeds: list[int]) -> bool:
    return seeds == list(range(seeds[0], seeds[0] + len(seeds)))


def _seeds(seeds: list[int]) -> list[str]:
    row = f"{seeds[0]}-{seeds[-1]}" if len(seeds) > 1 and _in_a_row(seeds) else ""
    return ["--seeds", row or ",".join(map(str, seeds))]
