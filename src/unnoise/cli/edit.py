"""unnoise edit: pictures changed by one's own model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unnoise.cli.flags import parse
from unnoise.cli.sample import SamplerFlags, animation, seeds_of, with_format
from unnoise.errors import UsageError, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from unnoise.model import Model

USAGE = """\
usage: unnoise edit KIND RUN|FILE|NAME PICTURE.. [flags]

  inpaint RUN PICTURE --mask FILE | --box x,y,w,h    paint anew where the mask is white, or in the box
  outpaint RUN PICTURE --extend left,top,right,bottom   continue the picture by so many pixels
  image RUN PICTURE --strength 0.6                   noise the picture to this share of the steps and denoise it
  interpolate RUN A B --frames 9                     the way from A to B
  reconstruct RUN PICTURE                            the picture from its own noise (DDIM inversion)
  variations RUN A --strength 0.3                    neighbours of A
  morph RUN A --from CLASS --to CLASS --frames 9     from one class to another

A and B are pictures or seeds. `unnoise edit KIND --help` shows the flags.
"""


@dataclass(frozen=True)
class EditFlags(SamplerFlags):
    """Change pictures with a trained model: single PNGs and a sheet."""

    mask: str | None = None
    """inpaint: a picture that is white where to paint."""
    box: str | None = None
    """inpaint: where to paint, as x,y,width,height in pixels of the model."""
    extend: str | None = None
    """outpaint: pixels to add, as left,top,right,bottom."""
    resample: int | None = None
    """inpaint, outpaint: walk the way so many times, which fits better and costs as much more [1]."""
    strength: float | None = None
    """image, variations: from nearly 0 (the same) to 1 (another picture) [0.6; 0.3]."""
    frames: int | None = None
    """interpolate, morph: how many pictures on the way [9]."""
    from_class: str | None = None
    """morph: class number or name at the start (also --from)."""
    to_class: str | None = None
    """morph: class number or name at the end (also --to)."""
    iterations: int | None = None
    """reconstruct: fixed-point iterations per step of the inversion; 1 is the classical one [3]."""
    animate: str | None = None
    """interpolate, morph: also write frames.gif (or .webp: --animate webp)."""
    num: int | None = None
    """inpaint, outpaint, image, variations: how many versions [8]."""
    seeds: str | None = None
    """inpaint, outpaint, image, variations: one version per seed, such as 0-7."""
    label: str | None = None
    """Class number or name of what is painted [no class]."""
    out: str = "edited"
    """Folder for the pictures."""
    scale: int | None = None
    """Pixels of the sheet per pixel of an image [so that images are about 64 high]."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""


EVERY_KIND = {f.name for f in fields(SamplerFlags)} | {"out", "scale", "device"}
VERSIONS = {"num", "seeds", "label"}


@dataclass(frozen=True)
class Kind:
    """An edit: how many sources it takes, which flags beside the common ones, and what does it."""

    sources: int
    flags: set[str]
    run: Callable[[Model, list[Any], EditFlags], tuple[Tensor, Tensor | None]]
    """Gives the pictures to write, and those that the sheet shows before them."""


def edit(arguments: list[str]) -> int:
    """unnoise edit KIND RUN|FILE|NAME PICTURE.."""
    words = list(_leading_words(arguments))
    if not words:
        print(USAGE, end="")
        return 0 if {"--help", "-h"} & set(arguments) else 2
    if words[0] not in KINDS:
        raise UsageError(f"edit: no kind {words[0]!r}; {nearest(words[0], KINDS)}")
    kind = KINDS[words[0]]
    arguments = [_long(a) for a in with_format(arguments[len(words) :])]
    flags = parse(EditFlags(), arguments, f"unnoise edit {words[0]}")
    _check(words, kind, flags)
    from unnoise.model import load

    model = load(words[1], flags.device)
    images, before = kind.run(model, [_source(model, word) for word in words[2:]], flags)
    _write(model, words[0], words[2:], flags, images, before)
    return 0


def _leading_words(arguments: list[str]) -> list[str]:
    words: list[str] = []
    for argument in arguments:
        if argument.startswith("-"):
            break
        words.append(argument)
    return words


def _long(argument: str) -> str:
    flag, equals, value = argument.partition("=")
    return {"--from": "--from-class", "--to": "--to-class"}.get(flag, flag) + equals + value


def _check(words: list[str], kind: Kind, flags: EditFlags) -> None:
    name = words[0]
    if len(words) != 2 + kind.sources:
        what = "a model and " + ("a picture" if kind.sources == 1 else "two pictures or seeds")
        raise UsageError(
            f"edit {name}: got {len(words) - 1} words, expected {what}; see unnoise edit --help"
        )
    default = EditFlags()
    for field in fields(EditFlags):
        given = getattr(flags, field.name) != getattr(default, field.name)
        if given and field.name not in EVERY_KIND | kind.flags:
            raise UsageError(f"edit {name}: takes no --{field.name.replace('_', '-')}")
    animation(flags.animate)


def _source(model: Model, word: str) -> int | Tensor:
    """A seed, or the picture of a file."""
    from unnoise.editing import read_picture

    return int(word) if word.isdecimal() and not Path(word).exists() else read_picture(model, word)


def _numbers(flag: str, text: str, names: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 4:
        raise UsageError(f"{flag}: got {text!r}, expected {names}, such as 8,8,16,16")
    return numbers


def _only_pictures(name: str, sources: list[Any]) -> Tensor:
    if isinstance(sources[0], int):
        raise UsageError(f"edit {name}: got the seed {sources[0]}, expected the path of a picture")
    return sources[0]


def _seeds(flags: EditFlags) -> list[int]:
    return seeds_of(flags.seeds, flags.num, 8)


def _inpaint(model: Model, sources: list[Any], flags: EditFlags) -> tuple[Tensor, Tensor | None]:
    import torch

    from unnoise import editing

    picture = _only_pictures("inpaint", sources)
    if (flags.mask is None) == (flags.box is None):
        raise UsageError("edit inpaint: expected one of --mask FILE and --box x,y,width,height")
    if flags.mask is not None:
        unknown = editing.read_mask(model, flags.mask)
    else:
        unknown = editing.box_mask(model, _numbers("--box", str(flags.box), "x,y,width,height"))
    images = editing.inpaint(
        model, picture, unknown, _seeds(flags), flags.label, flags.resample or 1, **flags.settings()
    )
    return images, torch.stack([picture, torch.where(unknown, 127, picture).to(torch.uint8)])


def _outpaint(model: Model, sources: list[Any], flags: EditFlags) -> tuple[Tensor, Tensor | None]:
    from unnoise import editing

    if flags.extend is None:
        raise UsageError("edit outpaint: expected --extend left,top,right,bottom")
    extend = _numbers("--extend", flags.extend, "left,top,right,bottom")
    picture = _only_pictures("outpaint", sources)
    settings = flags.settings()
    return editing.outpaint(
        model, picture, extend, _seeds(flags), flags.label, flags.resample or 1, **settings
    ), None


def _image(model: Model, sources: list[Any], flags: EditFlags) -> tuple[Tensor, Tensor | None]:
    from unnoise import editing

    picture = _only_pictures("image", sources)
    strength = 0.6 if flags.strength is None else flags.strength
    images = editing.image_to_image(
        model, picture, strength, _seeds(flags), flags.label, **flags.settings()
    )
    return images, picture[None]


def _interpolate(
    model: Model, sources: list[Any], flags: EditFlags
) -> tuple[Tensor, Tensor | None]:
    from unnoise import editing

    frames = 9 if flags.frames is None else flags.frames
    return editing.interpolate(
        model, sources[0], sources[1], frames, flags.label, **flags.settings()
    ), None


def _reconstruct(
    model: Model, sources: list[Any], flags: EditFlags
) -> tuple[Tensor, Tensor | None]:
    import torch

    from unnoise import editing
    from unnoise.data.images import from_model

    picture = _only_pictures("reconstruct", sources)
    iterations = 3 if flags.iterations is None else flags.iterations
    noise, image = editing.reconstruct(model, picture, flags.label, iterations, **flags.settings())
    error = (image.double() - picture.double()).pow(2).mean().sqrt()
    print(
        f"noise of standard deviation {noise.std():.3f} · reconstruction differs by {error:.2f} of 255 (rms)"
    )
    return image[None], torch.stack([picture, from_model(noise / noise.std() / 2)])


def _variations(model: Model, sources: list[Any], flags: EditFlags) -> tuple[Tensor, Tensor | None]:
    from unnoise import editing

    strength = 0.3 if flags.strength is None else flags.strength
    images = editing.variations(
        model, sources[0], strength, _seeds(flags), flags.label, **flags.settings()
    )
    return images, None if isinstance(sources[0], int) else sources[0][None]


def _morph(model: Model, sources: list[Any], flags: EditFlags) -> tuple[Tensor, Tensor | None]:
    from unnoise import editing

    if flags.from_class is None or flags.to_class is None:
        raise UsageError("edit morph: expected --from CLASS and --to CLASS")
    frames = 9 if flags.frames is None else flags.frames
    return editing.morph(
        model, sources[0], flags.from_class, flags.to_class, frames, **flags.settings()
    ), None


KINDS = {
    "inpaint": Kind(1, {"mask", "box", "resample", *VERSIONS}, _inpaint),
    "outpaint": Kind(1, {"extend", "resample", *VERSIONS}, _outpaint),
    "image": Kind(1, {"strength", *VERSIONS}, _image),
    "interpolate": Kind(2, {"frames", "animate", "label"}, _interpolate),
    "reconstruct": Kind(1, {"iterations", "label"}, _reconstruct),
    "variations": Kind(1, {"strength", *VERSIONS}, _variations),
    "morph": Kind(1, {"frames", "animate", "from_class", "to_class"}, _morph),
}


def _write(
    model: Model,
    name: str,
    sources: list[str],
    flags: EditFlags,
    images: Tensor,
    before: Tensor | None,
) -> None:
    """The pictures one by one and as a sheet, the originals first, each with its recipe in its text."""
    import torch

    from unnoise.data.images import grid, save_animation, save_png

    given = {
        f.name: getattr(flags, f.name) for f in fields(flags) if getattr(flags, f.name) is not None
    }
    recipe = {"edit": name, "sources": sources, "model": model.weights_hash, **given}
    out = Path(flags.out)
    for i, image in enumerate(images):
        save_png(
            out / f"{name}-{i:06d}.png", image, {"unnoise": json.dumps({**recipe, "number": i})}
        )
    everything = images if before is None else torch.cat([before, images])
    columns = len(everything) if len(everything) <= 12 else None
    sheet = out / f"{name}.png"
    save_png(sheet, grid(everything, columns, scale=flags.scale), {"unnoise": json.dumps(recipe)})
    print(f"{len(images)} images in {out}\nsheet: {sheet}")
    if flags.animate is not None:
        frames = [grid(image[None], scale=flags.scale) for image in images]
        path = out / f"{name}.{flags.animate}"
        save_animation(
            path, [*frames, *frames[-2:0:-1]], frame_ms=max(40, 2000 // len(frames)), last_ms=200
        )
        print(f"animation: {path}")
