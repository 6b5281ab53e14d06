"""unnoise export, unnoise import."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from unnoise.cli.flags import Command, Flag, Settings, first_word, parse, sampling
from unnoise.cli.sample import name_of
from unnoise.errors import UsageError
from unnoise.files import claim, discard_leftovers


@dataclass(frozen=True, kw_only=True)
class Export(Command):
    """Write a model alone as one file, with all that sampling needs, or for another package.

    A run's own is RUN/model.safetensors; this makes one of an earlier checkpoint, or a smaller one.
    With --to it is a file of another kind; the sampling flags then change its sampler.
    """

    rare = ("runtime",)
    model: Annotated[str, Flag(metavar="RUN|CHECKPOINT|FILE|NAME")]
    """A run folder, a checkpoint, a model file or a bundled model."""
    to: Literal[
        "safetensors", "onnx", "web", "diffusers", "lucidrains", "openai", "pytorch_ddpm"
    ] = "safetensors"
    """Format: unnoise's own, onnx (the network, the sampler as numbers), web (one HTML file that
    samples in a browser), diffusers, lucidrains, openai (guided-diffusion) or pytorch_ddpm."""
    out: str | None = None
    """What to write: small.safetensors, page.html, ema.pt (lucidrains, openai) or a new folder."""
    half: bool = False
    """Store the weights as fp16, as web always does; the arithmetic stays as it was."""
    folder: bool = False
    """Write the web page as a folder for a web server."""
    runtime: str | None = None
    """The npm package onnxruntime-web for a web page, a folder or .tgz [$UNNOISE_ORT_WEB, or
    downloaded once]."""


def export(arguments: list[str]) -> int:
    """Run `unnoise export RUN|CHECKPOINT|FILE|NAME`."""
    flags, given = parse(Export, arguments, "export", sampling(first_word(arguments)))
    return _said(*WRITERS[flags.to](flags, given))


def _said(path: Path, words: str) -> int:
    files = [file for file in path.rglob("*") if file.is_file()] or [path]
    print(f"{path}: {sum(file.stat().st_size for file in files) / 1e6:.1f} MB\nnext: {words}")
    return 0


def _out(out: str | None, ending: str = "") -> Path:
    """Where to write: a file that may be there if it is unnoise's, or a folder."""
    if out is None or not out.endswith(ending):
        expected = f"a file name that ends in {ending}" if ending else "a new folder"
        raise UsageError(f"--out: got {out}, expected {expected}")
    path = claim(Path(out)) if ending else Path(out)
    discard_leftovers(path.parent, of_dead=True)
    return path


def _no_sampling(given: dict[str, Any]) -> None:
    if given:
        only = "such a file keeps the model's own; expected it with --to onnx or --to web"
        raise UsageError(f"--{next(iter(given)).replace('_', '-')}: {only}")


def _safetensors(flags: Export, given: dict[str, Any]) -> tuple[Path, str]:
    _no_sampling(given)
    path = _out(flags.out, ".safetensors")
    from unnoise.model import load

    load(flags.model, "cpu").alone().save(path, half=flags.half)
    return path, f"unnoise sample {path}"


def _onnx(flags: Export, given: dict[str, Any]) -> tuple[Path, str]:
    path = _out(flags.out)
    from unnoise.formats import onnx
    from unnoise.model import load

    onnx.export(load(flags.model, "cpu"), path, flags.half, given)
    return path, "docs/export.md samples it with onnxruntime and numpy"


def _web(flags: Export, given: dict[str, Any]) -> tuple[Path, str]:
    path = _out(flags.out, "" if flags.folder else ".html")
    from unnoise.formats import onnx, web
    from unnoise.model import load

    if flags.folder and path.suffix == ".html":
        raise UsageError(f"--folder: got --out {path}, expected a folder's name")
    if flags.folder:
        onnx.claim_folder(path, web.FILES)
    onnx.check_installed()  # before a download
    parts = web.runtime(flags.runtime)
    web.export(load(flags.model, "cpu"), name_of(flags.model), path, parts, given)
    return path, f"put {path} on a web server" if flags.folder else f"open {path} in a browser"


def _package(flags: Export, given: dict[str, Any]) -> tuple[Path, str]:
    """A model for another package."""
    _no_sampling(given)
    if flags.half:
        raise UsageError(f"--half: files of {flags.to} hold full precision; expected none")
    path = _out(flags.out, ".pt" if flags.to in ("lucidrains", "openai") else "")
    from unnoise import formats
    from unnoise.model import load

    model = load(flags.model, "cpu")
    formats.write(model, flags.to, path)
    if flags.to == "lucidrains":
        return path, "Trainer(..).load(1), where it is results/model-1.pt"
    if flags.to == "openai":
        return path, f"image_sample.py --model_path {path} {formats.openai.flags_of(model)}"
    if flags.to == "pytorch_ddpm":
        return path, f"main.py --flagfile {path / 'flagfile.txt'} --eval"
    if model.shape.num_classes:
        return path, "see docs/formats.md, as diffusers' pipelines pass no labels"
    return path, f"DiffusionPipeline.from_pretrained({str(path)!r})"


WRITERS: dict[str, Callable[[Export, dict[str, Any]], tuple[Path, str]]] = {
    "safetensors": _safetensors,
    "onnx": _onnx,
    "web": _web,
    **dict.fromkeys(("diffusers", "lucidrains", "openai", "pytorch_ddpm"), _package),
}
"""Format -> function that writes it, and says where and what can be done next."""


@dataclass(frozen=True, kw_only=True)
class Import(Command):
    """Read a model of another package and write it as one of unnoise's."""

    source: Annotated[str, Flag(metavar="FOLDER|FILE")]
    """A folder or file of another package, such as a pipeline of diffusers or model-10.pt."""
    out: str | None = None
    """File to write, such as model.safetensors."""
    format: str | None = None
    """Format of the files: diffusers, edm, lucidrains, openai (improved-diffusion,
    guided-diffusion) or pytorch_ddpm; by default the one that they are of."""
    flags: str | None = None
    """The other package's flags that the model was trained with, in one string, where its file does
    not keep them: "--image_size 64 --num_heads 4 .."."""


def import_(arguments: list[str]) -> int:
    """Run `unnoise import FOLDER|FILE`."""
    from unnoise import formats
    from unnoise.formats.imported import Process

    for i, (word, value) in enumerate(pairwise(arguments)):
        if word == "--flags":  # whose value begins with dashes
            arguments = [*arguments[:i], f"--flags={value}", *arguments[i + 2 :]]
    often = ("image_size", "diffusion.schedule", "diffusion.parameterization")
    flags, changes = parse(Import, arguments, "import", Settings(Process(), False, often))
    path = _out(flags.out, ".safetensors")
    formats.read(flags.source, flags.format, changes, flags.flags).save(path)
    return _said(path, f"unnoise sample {path}")
