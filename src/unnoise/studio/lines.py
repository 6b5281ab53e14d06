"""The command and the Python code that make what a job of the page makes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unnoise.config import SampleConfig
from unnoise.reading import from_dict
from unnoise.studio import commands

if TYPE_CHECKING:
    from unnoise.studio.works import Plan, Work


def command(kind: str, work: Work, plan: Plan, model: str) -> str | None:
    """The command line, or None where it cannot say this."""
    asked, settings = vars(work), from_dict(SampleConfig, work.settings, "sample.")
    if isinstance(work.label, list) or asked.get("branches") or kind == "walk":
        return None
    flags, own = list[str](), SampleConfig()
    for key in work.settings:
        flags += commands.flag(key, getattr(settings, key), getattr(own, key))
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
    """The code, which leaves the pictures in `images`."""
    asked: dict[str, Any] = vars(work)
    start, how = f"import unnoise\nmodel = unnoise.load({model!r})\n", _how(work)
    seeds, row = plan.seeds, _in_a_row(plan.seeds)
    which = f"range({seeds[0]}, {seeds[-1] + 1})" if row else repr(seeds)
    if kind == "walk":
        where = f"{list(asked['corners'])}, {list(asked['points'])}"
        return f"{start}from unnoise import editing\nimages = editing.plane(model, {where}{how})"
    if kind == "sample" and not asked["branches"]:
        first = f"{len(seeds)}, seed={seeds[0]}" if row else f"seeds={which}"
        return f"{start}images = model.sample({first}{how})"
    if kind == "sample":
        lines, done = [f"steps = list(model.steps({which}{how}))"], 0
        for branch in asked["branches"]:
            at, done = branch.step - done - 1, branch.step
            lines.append(f"steps = list(model.steps({which}, start=steps[{at}]{_how(branch)}))")
        return start + "\n".join([*lines, "images = unnoise.from_model(steps[-1].x)"])
    own = "".join(f", {key}={asked[key]!r}" for key in ("strength", "resample") if key in asked)
    function = {"inpaint": "inpaint", "image": "image_to_image"}[kind]
    more = ', editing.read_mask(model, "mask.png")' if kind == "inpaint" else ""
    return (
        f"{start}from unnoise import editing\n"
        f'picture = editing.read_picture(model, "picture.png")\n'
        f"images = editing.{function}(model, picture{more}{own}, seeds={which}{how})"
    )


def _how(part: Any) -> str:
    """The label and the settings of a work or a branch as arguments."""
    label = "" if part.label is None else f", label={part.label!r}"
    return label + "".join(f", {key}={value!r}" for key, value in part.settings.items())


def _in_a_row(seeds: list[int]) -> bool:
    return seeds == list(range(seeds[0], seeds[0] + len(seeds)))


def _seeds(seeds: list[int]) -> list[str]:
    row = f"{seeds[0]}-{seeds[-1]}" if len(seeds) > 1 and _in_a_row(seeds) else ""
    return ["--seeds", row or ",".join(map(str, seeds))]
