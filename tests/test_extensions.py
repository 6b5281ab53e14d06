"""Files of one's own: `--import my.py`."""

from __future__ import annotations

import sys

import pytest

from unnoise import checkpoint, cli
from unnoise.diffusion.samplers import SAMPLERS
from unnoise.records import find

SAMPLER = """
from neighbour import NAME
from unnoise.diffusion.samplers import SAMPLERS

SAMPLERS[NAME] = SAMPLERS["ddim"]
"""


@pytest.fixture
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my.py").write_text(SAMPLER)
    (tmp_path / "neighbour.py").write_text("NAME = 'mine'")
    yield tmp_path
    SAMPLERS.pop("mine", None)
    for name in ("neighbour", str(tmp_path / "my.py")):
        sys.modules.pop(name, None)


WORDS = ["sample", "digits", "--num", "1", "--steps", "2", "--sampler", "mine"]


def test_a_sampler_of_a_file_is_found_by_name(inside, capsys):
    assert cli.main(WORDS) == 2
    assert "sample.sampler: no 'mine'" in capsys.readouterr().err
    assert cli.main([*WORDS, "--import", "my.py", "--import=neighbour.py"]) == 0
    words = ["train", "digits", "--sample.sampler", "mine", "--import", "my.py", "--print-config"]
    capsys.readouterr()
    assert cli.main(words) == 0
    assert '"imports": [\n    "my.py"\n  ]' in capsys.readouterr().out


def test_a_record_says_which_file_to_import_and_imports_nothing_itself(inside, capsys):
    tensors, record = checkpoint.read_model(find("digits"))
    record["config"]["sample"]["sampler"] = "mine"
    record["config"]["imports"] = ["my.py"]
    checkpoint.save_model(inside / "m.safetensors", tensors, record)
    words = ["sample", "m.safetensors", "--num", "1", "--steps", "2"]
    assert cli.main(words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "sample.sampler: no 'mine'" in err
    assert "it was trained with --import my.py; pass it again" in err
    assert cli.main([*words, "--import", "my.py"]) == 0


@pytest.mark.parametrize(("text", "expected"), [
    (None, "--import: got 'my.py', expected a Python file such as my.py"),
    ("a = 1\n\nraise KeyError('x')", "--import my.py: line 3: KeyError: 'x'"),
    ("a = 1\nimport nothing_like_it", "--import my.py: line 2: ModuleNotFoundError: No module"),
    ("def f(:", "--import my.py: line 1: SyntaxError: invalid syntax"),
])  # fmt: skip
def test_a_file_that_fails_is_one_line(inside, capsys, text, expected):
    (inside / "my.py").unlink() if text is None else (inside / "my.py").write_text(text)
    for command in (["info", "digits"], ["compare", "a", "b"], ["sample", "digits"]):
        assert cli.main([*command, "--import", "my.py"]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and expected in err
