"""Files are replaced whole, and only where nothing of the user's is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
import torch
from PIL import Image

from unnoise import cli, records
from unnoise.data.images import grid, save_animation, save_png
from unnoise.errors import UsageError
from unnoise.files import claim, replacing, write_bytes

IMAGES = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(3, 1, 1, 1)


def test_a_folder_is_never_replaced_by_a_file_nor_a_file_by_a_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError):
        write_bytes(tmp_path / "folder", b"theirs")
    with pytest.raises(OSError), replacing(tmp_path / "file") as temporary:
        temporary.mkdir()
    assert (tmp_path / "folder" / "mine.txt").read_text() == (tmp_path / "file").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_a_pipe_stays_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe"):
        write_bytes(tmp_path / "pipe", b"x")
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("kind", ["new", "empty", "png", "gif", "webp", "model"])
def test_what_unnoise_wrote_may_be_replaced(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "empty":
        path.touch()
    elif kind == "png":
        save_png(path, IMAGES[0], {"unnoise": "{}"})
    elif kind in ("gif", "webp"):
        save_animation(path, [grid(IMAGES)] * 2, frame_ms=40)
    elif kind == "model":
        shutil.copy(records.bundled()["digits"], path)
    assert claim(path) == path


@pytest.mark.parametrize("kind", ["a file", "a folder", "a pipe", "a photo"])
def test_what_is_the_users_may_not(tmp_path, kind):
    path = tmp_path / "mine.png"
    if kind == "a file":
        path.write_text("import unnoise  # my own notes on unnoise")
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    else:
        Image.new("RGB", (9, 9)).save(path)
    with pytest.raises(UsageError, match=r"mine\.png.*expected a new name"):
        claim(path)


@pytest.mark.parametrize("words", [("data", "digits"), ("report", "run"), ("export", "digits")])
def test_no_command_replaces_a_file_of_the_users(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    ending = {"data": "png", "report": "html", "export": "safetensors"}[words[0]]
    path = tmp_path / f"mine.{ending}"
    path.write_text("my notes on unnoise")
    assert cli.main([*words, "--out", path.name]) == 2
    assert "did not write" in capsys.readouterr().err
    assert path.read_text() == "my notes on unnoise"


def test_a_mosaic_is_a_png(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data", "digits", "--out", "mine.py"]) == 2
    assert "expected a file name that ends in .png" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("words", [("data", "digits", "--out", "a.png"),
                                   ("export", "digits", "--out", "a.safetensors")])  # fmt: skip
def test_two_commands_at_once_into_one_place(tmp_path, words):
    run = [sys.executable, "-m", "unnoise", *words]
    children = [subprocess.Popen(run, cwd=tmp_path, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [child.wait() for child in children] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == [words[-1]]
    assert cli.main(["info", str(tmp_path / words[-1])]) == 0
