"""unnoise export."""

from __future__ import annotations

from pathlib import Path

from unnoise.cli.flags import first_word, option, switch
from unnoise.errors import UsageError, nearest

HELP = """\
usage: unnoise export RUN|CHECKPOINT|FILE|NAME --out FILE.safetensors [--half]

One file with the averaged weights and all that sampling needs: configuration, image shape, class names, sampler settings (tuned
ones too), the data's fingerprint. A run's own is RUN/model.safetensors; this makes one of an earlier checkpoint, or a smaller one.

  --half    weights as fp16: half the size; computed in the model's own precision as before
"""


KEPT = ("config", "shape", "class_names", "data", "training", "tuned")
"""Of a checkpoint's record; the rest is the trainer's."""


def export(arguments: list[str]) -> int:
    """unnoise export RUN|CHECKPOINT|FILE|NAME."""
    target, arguments = first_word(
        arguments, "export", "a run folder, a checkpoint, a model file or a bundled model"
    )
    if target is None or {"--help", "-h"} & set(arguments):
        print(HELP, end="")
        return 0
    out, arguments = option(arguments, "--out")
    half, rest = switch(arguments, "--half")
    if rest:
        raise UsageError(f"no flag {rest[0]}; {nearest(rest[0], ['--out', '--half'])}")
    if out is None or not out.endswith(".safetensors"):
        raise UsageError(f"--out: got {out!r}, expected a file name that ends in .safetensors")
    from unnoise.model import load

    path = Path(out)
    model = load(target, "cpu")
    model.record = {name: model.record[name] for name in KEPT if name in model.record}
    model.save(path, half=half)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB\nnext: unnoise sample {path}")
    return 0
