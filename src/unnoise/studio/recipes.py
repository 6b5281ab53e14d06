"""What pictures of the page say of themselves, and what to ask for to have them again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from unnoise.config import SampleConfig, to_dict
from unnoise.model import Model
from unnoise.reading import from_dict
from unnoise.settings import resolve
from unnoise.studio.works import KINDS, Edit, Plan, Work


def recipe(kind: str, work: Work, plan: Plan, model: Model) -> dict[str, Any]:
    """What the pictures of this work say of themselves: enough to make them again.

    Of plain samples it is what `unnoise sample` writes.
    """
    own = {"model": model.weights_hash, **to_dict(plan.chosen)}
    name = {"edit" if isinstance(work, Edit) else "studio": kind} if plan.said else {}
    seeds = {} if kind == "walk" else {"seeds": plan.seeds}
    return {**own, **name, **plan.said, **seeds, "label": work.label}


def recipe_of_one(recipe: Mapping[str, Any], index: int, label: int | None) -> dict[str, Any]:
    """The recipe of one of the pictures, whose label is a number."""
    one = {key: value for key, value in recipe.items() if key not in ("seeds", "label")}
    if "points" in one:
        one["points"] = [one["points"][index]]
    else:
        one["seed"] = recipe["seeds"][index]
    if "branches" in one:
        one["branches"] = [{**b, "label": _of_one(b["label"], index)} for b in one["branches"]]
        return {**one, "label": _of_one(recipe["label"], index)}
    return one if label is None else {**one, "label": label}


def asked(recipe: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any] | None:
    """The request that makes the pictures of a recipe again; None where it does not say enough.

    `about` is what `Models.list` says of their model.
    """
    kind, own = str(recipe.get("edit") or recipe.get("studio") or "sample"), about["settings"]
    if kind not in KINDS or "guide" in recipe:
        return None
    taken = fields(KINDS[kind])
    said = {each.name: recipe[each.name] for each in taken if recipe.get(each.name) is not None}
    needed = {each.name for each in taken if each.default_factory is each.default is MISSING}
    if not needed <= said.keys():
        return None
    count, label = about["shape"]["num_classes"], said.get("label")
    if type(label) is int and 0 <= label <= count:
        said["label"] = [*(about["class_names"] or range(count)), "no class"][label]
    one = {"num": 1} if "seed" in said else {}
    settings = _shortest({key: value for key, value in recipe.items() if key in own}, own)
    return {"kind": kind, **one, **said, "model": about["id"], "settings": settings}


def _shortest(found: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that differ from a model's own, if they say it all."""
    less = {key: value for key, value in found.items() if value != own[key]}
    before = from_dict(SampleConfig, own, "sample.")
    whole = resolve(before, {}, found)
    return less if resolve(before, {}, less) == whole else dict(found)


def _of_one(label: Any, index: int) -> Any:
    return label[index] if isinstance(label, list | tuple) else label
