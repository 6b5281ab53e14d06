"""What users type wrong and what machines lack: one line each, before any work, by kind."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from unnoise import api, cli, files, ranks
from unnoise.cli.output import Output
from unnoise.cli.sample import name_of
from unnoise.data import cache
from unnoise.data.config import DataConfig
from unnoise.data.images import read_png_text
from unnoise.errors import ConfigError, UsageError, closest, nearest
from unnoise.evaluation.statistics import Statistics
from unnoise.units import seconds

MORPH = "edit morph digits 5 --from 3 --to 8"
SMALL = "train digits --device cpu --kimg 0.02 --batch-size 4 --network.base-channels 8 --out run"


@pytest.fixture
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def refused(words: str, capsys) -> str:
    """The one line of a refusal."""
    assert cli.main(words.split(" ")) == 2
    out, err = capsys.readouterr()
    assert err.startswith("unnoise: ") and err.count("\n") == 1 and not out
    return err


@pytest.fixture
def no_data(monkeypatch):
    """Whoever reads a data set or a model has begun to work."""

    def read(*arguments, **more):
        raise AssertionError("this is work")

    for name in ("unnoise.api.load_data", "unnoise.data.dataset.load", "unnoise.model.load"):
        monkeypatch.setattr(name, read)


# --- numbers

ABSURD = {
    f"sample digits --num {10**9}": "--num: got 1000000000, expected 1 to 10,000,000",
    f"sample digits --batch-size {10**12}": "--batch-size: got 1000000000000, expected 1 to",
    "sample digits --scale 100000": "--scale: got 100000, expected 1 to 100",
    "sample digits --seeds 0-9999999,0-9999999": "at most 10 million",
    f"{MORPH} --frames {10**9}": "--frames: got 1000000000, expected 1 to 10,000",
    f"{MORPH} --frames {'9' * 40}": "--frames: got a number of more than 30 digits",
    "edit interpolate digits 1 2 --frames 0": "--frames: got 0, expected 1 to 10,000",
    f"edit inpaint digits a.png --resample {10**9}": "--resample: got 1000000000, expected 1 to",
    f"edit reconstruct digits a.png --iterations {10**9}": "--iterations: got 1000000000",
    f"evaluate digits --num {10**9}": "--num: got 1000000000, expected 2 to 10,000,000",
    "evaluate digits --num 1": "--num: got 1, expected 2 to 10,000,000",
    f"evaluate digits --first-seed {2**63}": "--first-seed: got 9223372036854775808, expected",
    f"tune-sampler digits --out t --budgets {10**9}": "budgets: got 1000000000, expected 1 to",
    f"{SMALL} --train.log-every-kimg 1e-310": "log_every_kimg: got 1e-310, expected 1e-06 or more",
    f"{SMALL} --train.keep-every-kimg 1e-310": "keep_every_kimg: got 1e-310, expected 1e-06",
    f"{SMALL} --epochs 1e308": "epochs: got 1e+308, expected 1e-06 to 1e+09",
    f"{SMALL} --network.blocks-per-level {10**11}": "got 100000000000, expected 1 to 1,000",
    f"plan digits --budget {'9' * 400}h": "--budget: got '99999999999999999999', expected at most",
    f"{SMALL} --time {'9' * 400}s": "train.time: got '99999999999999999999', expected at most",
}


@pytest.mark.parametrize("words", ABSURD)
def test_absurd_numbers_are_refused_before_any_work(words, inside, no_data, capsys):
    assert ABSURD[words] in refused(words, capsys)


@pytest.mark.parametrize("steps", [10**12, 100_001])
def test_steps_without_measure_are_refused(steps, inside, capsys):
    said = f"sample.steps: got {steps}, expected 1 to 100,000"
    assert said in refused(f"sample digits -n 1 --steps {steps}", capsys)
    assert not list(inside.iterdir())


def test_numbers_in_the_range_are_taken():
    assert seconds("1000000h") == 3.6e9
    with pytest.raises(ConfigError, match="at most 1000000h"):
        seconds("1000001h")


OUT_OF_MEMORY = (
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("Storage size calculation overflowed with sizes=[999999999, 999999999]"),
)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: str(error)[-20:])
def test_memory_that_runs_out_is_one_line(error, monkeypatch, inside, capsys):
    def fail(*arguments):
        raise error

    monkeypatch.setattr("unnoise.sampling.describe", fail)
    assert "memory ran out; expected fewer" in refused("info digits", capsys)


# --- names

NEAREST = {
    "ddmi": "ddim", "dpdm": "ddpm", "unipc2": "unipc_2", "xyz": None, "workers": None,
    "heum": "heun", "log": "log_snr",
}  # fmt: skip


@pytest.mark.parametrize("name", NEAREST)
def test_swapped_letters_come_first_and_nonsense_is_not_suggested(name):
    known = ("ddpm", "ddim", "heun", "unipc_2", "trackers", "log_snr")
    assert closest(name, known) == NEAREST[name]
    listed = NEAREST[name] or "expected one of ddpm, ddim, heun, unipc_2, trackers, log_snr"
    assert listed in nearest(name, known)


def test_a_flag_is_known_by_its_last_part():
    known = ("--train.lr", "--network.dropout", "--train.label-dropout")
    assert closest("--dropout", known) == "--network.dropout"
    assert closest("--learning", known) is None


FLAGS = {
    "train digits --learning-rate 1": "no flag --learning-rate; did you mean '--lr'?",
    "sample digits --cfg 2": "no flag --cfg; did you mean '--guidance-scale'?",
    "sample digits --cfg-scale=2": "no flag --cfg-scale; did you mean '--guidance-scale'?",
    "edit variations digits 3 --class 2": "no flag --class; did you mean '--label'?",
    "train digits --wandb": "no flag --wandb; did you mean '--train.trackers wandb'?",
    "train digits --fp16": "no flag --fp16; did you mean '--train.precision fp16'?",
    "train digits --resolution 8": "no flag --resolution; did you mean '--image-size'?",
    "train digits --ema 5": "no flag --ema; did you mean '--train.ema-halflife-kimg'?",
    "train digits --epoch 5": "no flag --epoch; did you mean '--epochs'?",
    "train digits --batch 5": "no flag --batch; did you mean '--batch-size'?",
    "sample digits --output x": "no flag --output; did you mean '--out'?",
    "evaluate digits --gpu": "no flag --gpu; did you mean '--device cuda'?",
    "info digits --gpu": "no flag --gpu; see unnoise info --help-all",
    "train digits --num-workers 3": "no flag --num-workers; see unnoise train --help-all",
    "sample digits --model 3": "no flag --model; see unnoise sample --help-all",
    "train digits --train.stratified -1": "got --train.stratified -1, expected nothing after a",
    "train digits --train.stratified 1": "got --train.stratified 1, expected nothing after a",
    "train digits --train.no-labels true": "got --train.no-labels true, expected nothing after a",
    "train digits --out ": "--out: got '', expected text",
}


@pytest.mark.parametrize("words", FLAGS)
def test_flags_of_other_tools_and_words_after_switches(words, inside, no_data, capsys):
    assert FLAGS[words] in refused(words, capsys)


WRONG_RUNS = {
    "--diffusion.schedule x": "diffusion.schedule: no 'x'",
    "--sample.sampler ddmi": "sample.sampler: no 'ddmi'; did you mean 'ddim'?",
    "--diffusion.loss x": "diffusion.loss: no 'x'",
    "--train.lr -1": "train.lr: got -1, expected more than 0",
    "--objective v --sample.steps 2000": "sample.",
    "--diffusion.parameterization eps --diffusion.schedule flow": "diffusion.",
}


@pytest.mark.parametrize("command", ["train", "plan"])
@pytest.mark.parametrize("flags", WRONG_RUNS)
def test_a_run_is_checked_before_its_data_are_read(command, flags, inside, no_data, capsys):
    assert WRONG_RUNS[flags] in refused(f"{command} digits {flags}", capsys)


def test_a_device_that_is_not_there_is_not_offered(inside, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    said = refused("sample digits --device cuda:7", capsys)
    assert said == "unnoise: device: 'cuda:7' is not there; expected auto or cpu\n"


@pytest.mark.parametrize("words", ["sample", "evaluate", "export", "info", "edit variations"])
def test_a_text_is_no_model_file(words, inside, capsys):
    Path("README.md").write_text("# words\n" * 99)
    more = {"export": " --out m.safetensors", "edit variations": " 3"}.get(words, "")
    assert "README.md: is no model file; expected" in refused(f"{words} README.md{more}", capsys)


# --- the environment

RANKS: dict[tuple[tuple[str, str], ...], ranks.Ranks | str] = {
    (): ranks.Ranks(),
    (("WORLD_SIZE", ""),): ranks.Ranks(),
    (("WORLD_SIZE", "0"),): ranks.Ranks(),
    (("WORLD_SIZE", "1"), ("RANK", "0")): ranks.Ranks(),
    (("WORLD_SIZE", "x"),): "WORLD_SIZE: got 'x', expected a number",
    (("WORLD_SIZE", "-2"),): "WORLD_SIZE: got '-2', expected a number",
    (("WORLD_SIZE", "9" * 5000),): "WORLD_SIZE: got '99999999999999999999', expected a number",
    (("WORLD_SIZE", "2"),): "WORLD_SIZE: got 2, but RANK is not set; start with torchrun",
    (("WORLD_SIZE", "2"), ("RANK", "1")): "WORLD_SIZE: got 2, but MASTER_ADDR is not set",
    (("RANK", ""),): ranks.Ranks(),
    (("RANK", "3"),): ranks.Ranks(),
    (("WORLD_SIZE", "2"), ("RANK", "x")): "RANK: got 'x', expected a number below WORLD_SIZE, 2",
    (("WORLD_SIZE", "2"), ("RANK", "2")): "RANK: got '2', expected a number below WORLD_SIZE, 2",
    (("WORLD_SIZE", "2"), ("LOCAL_RANK", "-1")): "LOCAL_RANK: got '-1', expected a number below",
    (("WORLD_SIZE", "4"), ("RANK", "3"), ("LOCAL_RANK", "1"), ("MASTER_ADDR", "a"),
     ("MASTER_PORT", "1")): ranks.Ranks(3, 4, 1),
}  # fmt: skip


@pytest.mark.parametrize("given", RANKS, ids=str)
def test_ranks_are_read_in_one_place(given, inside, monkeypatch, capsys):
    for name in ranks.STARTED:
        monkeypatch.delenv(name, raising=False)
    for name, value in given:
        monkeypatch.setenv(name, value)
    expected = RANKS[given]
    if isinstance(expected, ranks.Ranks):
        assert ranks.read() == expected
        return
    assert refused("info digits", capsys).startswith(f"unnoise: {expected}")
    assert cli.main(["--version"]) == 0


@pytest.mark.parametrize("home", ["there", "not there", "", "/"])
def test_without_a_home_the_cache_is_in_the_temporary_folder(home, inside, monkeypatch):
    Path("there").mkdir()
    monkeypatch.delenv("UNNOISE_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(inside / home) if home[:1].isalpha() else home)
    monkeypatch.setattr("tempfile.tempdir", str(inside / "temporary"))
    there = inside / "there" / ".cache" / "unnoise"
    other = inside / "temporary" / f"unnoise-{os.getuid()}"
    assert cache.root(DataConfig()) == (there if home == "there" else other)
    assert cache.root(DataConfig(cache="mine")) == Path("mine")


def test_a_current_folder_that_is_gone_is_one_line(inside, monkeypatch, capsys):
    Path("gone").mkdir()
    monkeypatch.chdir("gone")
    Path("../gone").rmdir()
    assert "the current folder is gone; change to another" in refused("info digits", capsys)
    assert cli.main(["--version"]) == 0


def test_names_may_be_as_long_as_the_file_system_takes_them(inside, capsys):
    for size in (200, 250, 255):
        path = Path("é" * 10 + "x" * (size - 20))
        with files.locked(path):
            files.write_json(path, {"size": size})
        assert json.loads(path.read_text()) == {"size": size}
    assert len(list(inside.iterdir())) == 3
    assert "File name too long" in refused(f"sample digits -n 1 --out {'x' * 256}", capsys)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16", "utf-8"])
def test_every_encoding_is_written_in_full(encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    output = Output(stream)
    output.write("ä")
    output.write("\u20ac\n")
    text = stream.buffer.getvalue().decode(encoding)  # pyright: ignore[reportAttributeAccessIssue]
    shown = {"ascii": "\\xe4\\u20ac\n", "latin-1": "ä\\u20ac\n"}.get(encoding, "ä\u20ac\n")
    assert text == shown


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_the_version_is_told_to_nobody(closed):
    command = f"{sys.executable} -m unnoise --version {closed}"
    done = subprocess.run(["bash", "-c", command], check=False, capture_output=True, text=True)
    told = "unnoise" in done.stdout
    assert (done.returncode, done.stderr, told) == (0, "", closed == "2>&-")


# --- places

NAMES = {
    "digits": "digits",
    "runs/photos": "photos",
    "runs/photos/": "photos",
    "runs/photos/model.safetensors": "photos",
    "runs/photos/checkpoints/step-00000012": "photos-step-00000012",
    "small.safetensors": "small",
    "runs/photos/model-ema-5.safetensors": "model-ema-5",
    ".": "inside",
}


@pytest.mark.parametrize("model", NAMES)
def test_pictures_go_into_a_folder_of_the_models_own(model, tmp_path, monkeypatch):
    run = tmp_path / "inside" / "runs" / "photos"
    (run / "checkpoints" / "step-00000012").mkdir(parents=True)
    for name in ("model.safetensors", "model-ema-5.safetensors", "../../small.safetensors"):
        (run / name).touch()
    monkeypatch.chdir(tmp_path / "inside")
    assert name_of(model) == NAMES[model]


def test_pictures_of_another_recipe_are_never_replaced_silently(inside, capsys):
    sample = "sample digits -n 3 --steps 2"
    both = "edit interpolate digits 1 2 --steps 2 --frames 3"

    def said(words: str) -> str:
        assert cli.main(words.split()) == 0
        return capsys.readouterr().out

    first = said(sample)
    assert "3 images in samples/digits" in first and "replaces" not in first
    assert "replaces" not in said(sample) + said(f"{sample} --out other")
    told = said("sample digits -n 4 --steps 2")  # the grid alone is another one
    assert "will replace 1 file of another recipe in samples/digits: seeds [0, 1, 2]\n" in told
    told = said("sample digits -n 2 --steps 3")
    warned = "will replace 3 files of another recipe in samples/digits: steps 2 (2 more stay;"
    assert warned in told
    told = said("sample digits --seeds 2 --steps 3 --label 7")
    assert "will replace 2 files of another recipe in samples/digits: steps 2, label 2" in told
    assert "3 images in edited/digits" in (first := said(both)) and "replaces" not in first
    assert "replaces" not in said(f"{both} --scale 2")
    told = said(both.replace("1 2", "1 4"))
    assert "will replace 4 files of another recipe in edited/digits: b 2, sources" in told


FOREIGN = {
    "sample digits -n 3 --steps 1": "samples/digits/seed-000002.png",
    "sample digits -n 1 --steps 1 ": "samples/digits/grid.png",
    "sample digits -n 1 --steps 1 --animate": "samples/digits/denoising.gif",
    "sample digits -n 1 --steps 1 --trajectory": "samples/digits/trajectory.png",
    "edit variations digits 3 -n 2": "edited/digits/variations-000001.png",
    "edit interpolate digits 1 2": "edited/digits/interpolate.png",
    "edit interpolate digits 1 2 --animate webp": "edited/digits/interpolate.webp",
    "evaluate digits --num 2 --save-reference mine/s.npz": "mine/s.npz",
}


@pytest.mark.parametrize("words", FOREIGN)
def test_files_of_others_are_refused_before_the_work(words, inside, monkeypatch, capsys):
    path = Path(FOREIGN[words])
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    monkeypatch.setattr("unnoise.model.Model.walk", lambda *_: pytest.fail("this is work"))
    flag = "--save-reference" if path.suffix == ".npz" else "--out"
    said = f"{flag}: {path} is a file that unnoise did not write; expected a new name"
    assert said in refused(words.strip(), capsys)
    assert list(path.parent.iterdir()) == [path] and path.read_bytes() == b"mine"


def test_statistics_are_known_again(inside):
    path = Path("s.npz")
    statistics = Statistics(9, torch.zeros(3), torch.eye(3, dtype=torch.float64))
    statistics.save(path)
    assert files.claim(path, "--save-reference") == path
    assert Statistics.load(path, 3).count == 9
    np.savez(path, mu=np.zeros(3), sigma=np.eye(3))  # another tool's
    with pytest.raises(
        UsageError, match=r"--save-reference: s\.npz is a file that unnoise did not"
    ):
        files.claim(path, "--save-reference")


def test_a_picture_still_says_how_it_was_made(inside):
    assert cli.main(["sample", "digits", "-n", "1", "--steps", "2", "--label", "3"]) == 0
    recipe = json.loads(read_png_text("samples/digits/seed-000000.png")["unnoise"])
    assert (recipe["steps"], recipe["seed"], recipe["label"]) == (2, 0, 3)


def test_a_preset_in_python_is_checked_as_before():
    with pytest.raises(ConfigError, match="expected 1e-06 or more"):
        api.preset("digits", {"train.log_every_kimg": 1e-310})
