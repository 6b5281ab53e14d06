"""A setting is said once: its field gives flag, Python argument, check and record."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from unnoise import cli
from unnoise.cli import edit, evaluate, sample
from unnoise.cli.flags import parse, sampling
from unnoise.config import SampleConfig
from unnoise.diffusion.grids import SPACINGS
from unnoise.diffusion.samplers import SAMPLERS

ROOT = Path(__file__).parent.parent
KINDS = {"sample": sample.Sample, "evaluate": evaluate.Evaluate, **edit.KINDS}
COMMANDS = [
    *("train", "plan", "sample", "evaluate", "compare", "tune-sampler"),
    *("data", "info", "export", "report", "train cifar10", "sample digits", "evaluate digits"),
    *(f"edit {kind}" for kind in edit.KINDS),
]


def words(value: object) -> list[str]:
    """Words that give a setting of this kind, but not this value."""
    if isinstance(value, tuple):
        return ["0.5", "0.7"]
    if isinstance(value, dict):
        return ["one", "0.5"]
    return {int: ["7"], float: ["0.5"], str: ["other"]}[type(value)]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("field", dataclasses.fields(SampleConfig), ids=lambda f: f.name)
def test_every_sampling_setting_is_a_flag(name, field):
    """Only what is given changes the model's own settings."""
    value = getattr(SampleConfig(), field.name)
    flag = field.name.replace("_", "-")
    given = [f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", *words(value)]
    target = ["digits", "a.png", "b.png"][: 3 if name == "interpolate" else 2]
    arguments = [*(target if name in edit.KINDS else target[:1]), *given]
    _, changes = parse(KINDS[name], arguments, name, sampling("digits"))
    assert list(changes) == [field.name] and (changes[field.name] != value or value is False)


def test_a_new_setting_is_one_field(tmp_path):
    """In a copy of the source, where a sampler takes it."""
    copy = shutil.copytree(ROOT / "src", tmp_path / "src")
    config = copy / "unnoise" / "config.py"
    text = config.read_text()
    field = '    warmth: Share = 0.25\n    """How warm the picture is."""\n'
    config.write_text(text.replace("    clip_x0: bool", field + "    clip_x0: bool", 1))
    code = """
import contextlib, io, json
import unnoise
from unnoise import cli, config
from unnoise.data.images import read_png_text
from unnoise.diffusion.samplers import SAMPLERS
seen = []
def warm(denoiser, x, grid, draw, warmth):
    seen.append(warmth)
    yield from SAMPLERS["ddim"](denoiser, x, grid, draw)
SAMPLERS["warm"] = warm
out = io.StringIO()
with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
    cli.main(["sample", "digits", "--help-all"])
assert "--warmth FLOAT" in out.getvalue() and "How warm the picture is. [0.25]" in out.getvalue()
words = ["sample", "digits", "-n", "1", "--steps", "2", "--sampler", "warm", "--out", "made"]
assert cli.main([*words, "--warmth", "0.5"]) == 0
model = unnoise.load("digits", "cpu")
model.sample(1, sampler="warm", steps=2, warmth=0.75)
model.sample(1, sampler="warm", steps=2)
assert seen == [0.5, 0.75, 0.25], seen
assert json.loads(read_png_text("made/seed-000000.png")["unnoise"])["warmth"] == 0.5
assert config.to_dict(config.RunConfig())["sample"]["warmth"] == 0.25
assert cli.main([*words, "--warmth", "2"]) == 2
"""
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "unnoise: sample.warmth: got 2, expected 0 to 1\n"


@pytest.mark.parametrize("arguments", COMMANDS)
def test_help_fits_a_screen_and_help_all_has_every_flag(arguments, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = {}
    for word in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as end:
            cli.main([*arguments.split(), word])
        shown[word] = capsys.readouterr().out
        assert end.value.code == 0 and f"usage: unnoise {arguments.split()[0]}" in shown[word]
    assert shown["--help"].count("\n") <= 40
    flags = {word: set(re.findall(r"--[a-z][\w.-]*", text)) for word, text in shown.items()}
    assert flags["--help"] - {"--help-all"} < flags["--help-all"]
    assert {"--import"} <= flags["--help-all"]


def test_help_shows_the_defaults_of_the_named_model_or_preset(capsys):
    for arguments, texts in (
        ("sample digits", ["[10]", "[1.5]"]),
        ("train cifar10", ["[0.0002]", "[102400]"]),
        ("train", ["Presets: digits, mnist, cifar10"]),
        ("train digits --objective edm", ["[runs/"]),
    ):
        with pytest.raises(SystemExit):
            cli.main([*arguments.split(), "--help"])
        out = capsys.readouterr().out
        assert all(text in out for text in texts), out
    with pytest.raises(SystemExit):
        cli.main(["sample", "--help"])
    assert "[10]" not in capsys.readouterr().out  # the model's own, whatever it is


def test_help_names_what_there_is():
    from unnoise.cli.flags import helps

    texts = helps(SampleConfig)
    assert all(re.search(rf"\b{name}\b", texts["sampler"]) for name in SAMPLERS)
    assert all(re.search(rf"\b{name}\b", texts["spacing"]) for name in SPACINGS)
