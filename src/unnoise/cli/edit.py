"""unnoise edit: each kind of edit is a dataclass of its flags."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from unnoise.cli.flags import HELP, Flag, ModelCommand, first_word, parse, sampling
from unnoise.cli.sample import Animation, folder, formats, seeds_of
from unnoise.cli.values import Box, Seeds, Sides
from unnoise.errors import UsageError, nearest
from unnoise.ranges import Few, Frames, Images, Scale

if TYPE_CHECKING:
    from torch import Tensor

    from unnoise.model import Model

Source = Annotated[str, Flag(metavar="PICTURE|SEED")]


@dataclass(frozen=True, kw_only=True)
class Edit(ModelCommand):
    """What all kinds of edits take."""

    rare = ("scale",)
    out: str | None = None
    """Folder for the pictures [edited/NAME]."""
    scale: Scale | None = None
    """Pixels of the sheet per pixel of an image [as many as make images 64 and it 256 large]."""


@dataclass(frozen=True, kw_only=True)
class Versions(Edit):
    """What edits take that make several versions."""

    picture: Annotated[str, Flag(metavar="PICTURE")]
    """A picture file."""
    num: Annotated[Images | None, Flag(("-n",))] = None
    """Number of versions [8]."""
    seeds: Seeds | None = None
    """One version per seed, such as 0-7."""
    label: str | None = None
    """Class number or name of what is painted [no class]."""


@dataclass(frozen=True, kw_only=True)
class Inpaint(Versions):
    """Paint part of a picture anew: where a mask is white, or in a box."""

    mask: str | None = None
    """A picture that is white where to paint."""
    box: Box | None = None
    """Where to paint, in pixels of the model."""
    resample: Few = 1
    """Walk each part of the way this many times: fits better, and costs as much more."""


@dataclass(frozen=True, kw_only=True)
class Outpaint(Versions):
    """Continue a picture on each side."""

    extend: Sides | None = None
    """Number of pixels to add on each side."""
    resample: Few = 1
    """Walk each part of the way this many times: fits better, and costs as much more."""


@dataclass(frozen=True, kw_only=True)
class Image(Versions):
    """Noise a picture to a share of the steps and denoise it."""

    strength: float = 0.6
    """How far from the picture: from nearly 0 (the same) to 1 (another one)."""


@dataclass(frozen=True, kw_only=True)
class Interpolate(Edit):
    """Go from one picture or seed to another."""

    a: Source
    """Two pictures or seeds."""
    b: Source
    """Two pictures or seeds."""
    frames: Frames = 9
    """Number of pictures on the way."""
    label: str | None = None
    """Class number or name [no class]."""
    animate: Animation = None
    """Also write interpolate.gif (or .webp)."""


@dataclass(frozen=True, kw_only=True)
class Reconstruct(Edit):
    """Find the noise that makes a picture (DDIM inversion), and make the picture from it."""

    picture: Annotated[str, Flag(metavar="PICTURE")]
    """A picture file."""
    label: str | None = None
    """Class number or name [no class]."""
    iterations: Few = 3
    """Fixed-point iterations per step of the inversion; 1 is the classical inversion."""


@dataclass(frozen=True, kw_only=True)
class Variations(Versions):
    """Make neighbours of a picture or seed."""

    picture: Source
    """A picture or a seed."""
    strength: float = 0.3
    """How far away: from nearly 0 (the same) to 1 (another one)."""


@dataclass(frozen=True, kw_only=True)
class Morph(Edit):
    """Go from one class to another with the same noise."""

    a: Source
    """A picture or a seed."""
    from_class: Annotated[str | None, Flag(("--from",))] = None
    """Class number or name at the start."""
    to_class: Annotated[str | None, Flag(("--to",))] = None
    """Class number or name at the end."""
    frames: Frames = 9
    """Number of pictures on the way."""
    animate: Animation = None
    """Also write morph.gif (or .webp)."""


KINDS: dict[str, type[Edit]] = {
    kind.__name__.lower(): kind
    for kind in (Inpaint, Outpaint, Image, Interpolate, Reconstruct, Variations, Morph)
}


def edit(arguments: list[str]) -> int:
    """Run `unnoise edit KIND RUN|FILE|NAME PICTURE..`."""
    name, rest = first_word(arguments), arguments[1:]
    if name is None:
        print("usage: unnoise edit KIND RUN|FILE|NAME PICTURE.. [flags]\n")
        print("\n".join(f"  {kind:<12} {KINDS[kind].__doc__}" for kind in KINDS))
        print("\nThe flags of a kind: unnoise edit KIND --help")
        return 0 if set(HELP) & set(arguments) else 2
    if name not in KINDS:
        raise UsageError(f"edit: no kind {name!r}; {nearest(name, KINDS)}")
    flags, given = parse(KINDS[name], rest, f"edit {name}", sampling(first_word(rest)))
    from unnoise.data.images import ending
    from unnoise.model import load

    model = load(flags.model, flags.device)
    words = [getattr(flags, field) for field in ("picture", "a", "b") if hasattr(flags, field)]
    only_pictures = hasattr(flags, "picture") and not isinstance(flags, Variations)
    sources = [_source(model, word, only_pictures) for word in words]
    flags = replace(flags, out=str(folder(flags, "edited")))
    options = {key: value for key, value in vars(flags).items() if value not in (None, "", ())}
    recipe = {**options, **given, "edit": name, "sources": words, "model": model.weights_hash}
    _claim(flags, recipe, ending(model.shape.channels))
    _write(flags, recipe, *_edited(model, flags, sources, given))
    return 0


def _source(model: Model, word: str, only_pictures: bool) -> int | Tensor:
    """A seed, or the picture of a file."""
    from unnoise.editing import read_picture

    if not word.isdecimal() or Path(word).exists():
        return read_picture(model, word)
    if only_pictures:
        raise UsageError(f"edit: got the seed {word}, expected the path of a picture")
    return int(word)


def _claim(flags: Edit, recipe: dict[str, Any], suffix: str) -> None:
    """Look at what is in the place of the pictures before the work for them."""
    from unnoise.sampling import claim_pictures

    name, count = recipe["edit"], getattr(flags, "frames", 1)
    if isinstance(flags, Versions):
        count = len(seeds_of(flags.seeds, flags.num, 8))
    animations = [f"{name}.{kind}" for kind in formats(getattr(flags, "animate", None))]
    recipes = {f"{name}-{i:06d}{suffix}": {**recipe, "number": i} for i in range(count)}
    claim_pictures(Path(flags.out or ""), {**recipes, f"{name}.png": recipe,
                                           **dict.fromkeys(animations)})  # fmt: skip


def _edited(
    model: Model, flags: Edit, sources: list[Any], settings: dict[str, Any]
) -> tuple[Tensor, list[Tensor], list[str]]:
    """The pictures to write, those that the sheet shows before them, and its words for both."""
    from unnoise import editing
    from unnoise.data.images import from_model

    a, taken = sources[0], ("label", "extend", "strength", "frames", "iterations", "resample")
    options = {**settings, **{key: vars(flags)[key] for key in taken if hasattr(flags, key)}}
    if isinstance(flags, Versions):
        options["seeds"] = seeds_of(flags.seeds, flags.num, 8)
    match flags:
        case Inpaint(mask=mask, box=box):
            if (mask is None) == (box is None):
                raise UsageError("edit inpaint: expected one of --mask FILE and --box x,y,w,h")
            unknown = editing.read_mask(model, mask) if mask else editing.box_mask(model, box or ())
            before, words = [a, a.masked_fill(unknown, 127)], ["original", "masked", "painted"]
            return editing.inpaint(model, a, unknown, **options), before, words
        case Outpaint():
            if flags.extend is None:
                raise UsageError("edit outpaint: expected --extend left,top,right,bottom")
            return editing.outpaint(model, a, **options), [], ["painted"]
        case Image():
            return editing.image_to_image(model, a, **options), [a], ["original", "variation"]
        case Interpolate(a=first, b=last):
            ends = [f"seed {end}" if end.isdecimal() else Path(end).stem for end in (first, last)]
            return editing.interpolate(model, *sources, **options), [], ends
        case Variations():
            before, words = ([], []) if isinstance(a, int) else ([a], ["original"])
            return editing.variations(model, a, **options), before, [*words, "variation"]
        case Morph(from_class=first, to_class=last):
            if first is None or last is None:
                raise UsageError("edit morph: expected --from CLASS and --to CLASS")
            ends = [model.names[i] for i in model.labels([0, 0], [first, last])]  # pyright: ignore
            return editing.morph(model, a, first, last, **options), [], ends
        case _:
            noise, image = editing.reconstruct(model, a, **options)
            error = (image.double() - a.double()).pow(2).mean().sqrt()
            print(f"noise of standard deviation {noise.std():.3f} · "
                  f"reconstruction differs by {error:.2f} of 255 (rms)")  # fmt: skip
            before = [a, from_model(noise / noise.std() / 2)]
            return image[None], before, ["original", "noise", "rebuilt"]


def _write(
    flags: Edit, recipe: dict[str, Any], images: Tensor, before: list[Tensor], words: list[str]
) -> None:
    """The pictures one by one and as a sheet, the originals first, with their recipes."""
    import torch

    from unnoise.data.images import (
        ending,
        grid,
        save_animation,
        save_png,
        save_sample,
        side_by_side,
    )

    name, out = recipe["edit"], Path(flags.out or "")
    for i, image in enumerate(images):
        text = {"unnoise": json.dumps({**recipe, "number": i})}
        save_sample(out / f"{name}-{i:06d}{ending(len(image))}", image, text)
    if isinstance(flags, Versions):
        words[-1:] = [f"{words[-1]}\nseed {i}" for i in seeds_of(flags.seeds, flags.num, 8)]
    elif isinstance(flags, Interpolate | Morph):
        words[1:-1] = [f"{i / (flags.frames - 1):.0%}" for i in range(1, flags.frames - 1)]
    shown, sheet = torch.stack([*before, *images]), out / f"{name}.png"
    picture = grid(shown, min(len(shown), 12), scale=flags.scale, labels=words[: len(shown)])
    save_png(sheet, picture, {"unnoise": json.dumps(recipe)})
    print(f"{len(images)} images in {out}\nsheet: {sheet}")
    for kind in formats(getattr(flags, "animate", None)):
        frames = [side_by_side([grid(x[None])], titles=[words[i]]) for i, x in enumerate(images)]
        save_animation(out / f"{name}.{kind}", frames, max(40, 2000 // len(frames)))
        print(f"animation: {out / f'{name}.{kind}'}")
