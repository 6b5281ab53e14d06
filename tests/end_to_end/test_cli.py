"""The commands as a user types them: what they write, how they fail, and that nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import unnoise
from unnoise import checkpoint, cli, tuning
from unnoise.config import RunConfig
from unnoise.reading import from_dict

TINY = [
    "--network.base-channels", "8", "--batch-size", "16", "--kimg", "0.32",
    "--train.warmup-kimg", "0.1", "--train.log-every-kimg", "0.048",
    "--train.sample-every-kimg", "0.16", "--train.checkpoint-every-kimg", "0.08",
    "--sample.steps", "2",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "digits"
    assert cli.main(["train", "digits", "--out", str(folder), *TINY]) == 0
    return folder


@pytest.fixture
def inside(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def one_line(capsys, *arguments: str) -> str:
    """Run a command that must fail with exit code 2 and exactly one line on stderr."""
    capsys.readouterr()
    assert cli.main(list(arguments)) == 2
    err = capsys.readouterr().err
    assert err.startswith("unnoise: ") and err.count("\n") == 1, err
    return err


def command(*arguments: str, **options) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "unnoise", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def pictures(folder: Path, count: int = 12, classes: tuple[str, ...] = ("cats", "dogs")) -> Path:
    random = np.random.default_rng(0)
    for i in range(count):
        path = folder / classes[i % len(classes)] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 24, 3), np.uint8)).save(path)
    return folder


# --- help


def test_help_is_quick_and_imports_no_torch():
    for arguments in (
        ["--help"],
        ["train", "cifar10", "--help"],
        ["sample", "--help"],
        ["data", "--help"],
        ["edit", "morph", "--help"],
        ["edit", "--help"],
        ["tune-sampler", "--help"],
    ):
        code = f"""import sys; from unnoise import cli
try: cli.main({arguments!r})
except SystemExit: pass
assert not {{"torch", "numpy", "PIL"}} & set(sys.modules)"""
        text = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        assert "unnoise" in text
    for arguments in (["--help"], ["sample", "digits", "--help"]):
        times = []
        for _ in range(5):
            before = os.times()
            words = [sys.executable, "-m", "unnoise", *arguments]
            subprocess.run(words, capture_output=True, check=True)
            times.append(os.times().children_user - before.children_user)
        assert min(times) < 0.4  # of the processor, which others may share


def test_no_command_shows_the_usage_and_fails(capsys):
    assert cli.main([]) == 2
    assert "train PRESET|PATH" in capsys.readouterr().out


# --- train


@pytest.mark.parametrize(("flags", "changes"), [
    (["--train.batch-size", "64"], {"train.batch_size": 64}),
    (["--from", "digits"], {"train.start": "digits"}),  # and so its network
])  # fmt: skip
def test_print_config_is_the_whole_config_with_the_flags_in_it(capsys, flags, changes):
    assert cli.main(["train", "cifar10", *flags, "--print-config"]) == 0
    config = from_dict(RunConfig, json.loads(capsys.readouterr().out))
    assert config == unnoise.preset("cifar10", changes)


def test_switches_lists_and_none(capsys):
    flags = [
        "--train.no-labels",
        "--data.flip",
        "True",
        "--network.attention-levels",
        "0",
        "1",
        "--train.kimg",
        "None",
    ]
    assert cli.main(["train", "digits", *flags, "--epochs=2", "--print-config"]) == 0
    config = from_dict(RunConfig, json.loads(capsys.readouterr().out))
    assert (config.train.labels, config.data.flip, config.network.attention_levels) == (
        False,
        True,
        (0, 1),
    )
    assert (config.train.kimg, config.train.epochs) == (None, 2)


def test_a_plan_prints_its_figures_and_writes_nothing(inside, capsys):
    assert cli.main(["plan", "digits", *TINY]) == 0
    out = capsys.readouterr().out
    assert all(
        word in out
        for word in ("parameters", "GFLOP per image", "images/s", "memory", "to its end")
    )
    assert list(inside.iterdir()) == []


def test_the_same_command_on_a_finished_run_changes_nothing(run, capsys):
    before = {
        p: p.stat().st_mtime_ns for p in run.rglob("*.*") if p.name not in ("config.json", ".lock")
    }
    assert cli.main(["train", "digits", "--out", str(run), *TINY]) == 0
    assert "done" in capsys.readouterr().out
    assert before == {
        p: p.stat().st_mtime_ns for p in run.rglob("*.*") if p.name not in ("config.json", ".lock")
    }


@pytest.mark.long
@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_by_a_real_signal_the_same_command_ends_in_the_same_model(run, tmp_path, way):
    folder = tmp_path / "stopped"
    arguments = ["train", "digits", "--out", str(folder), *TINY]
    process = command(*arguments)
    while process.poll() is None and not (folder / "checkpoints" / "step-00000005").exists():
        time.sleep(0.005)
    process.send_signal(way)
    out, err = process.communicate()
    assert process.returncode == (-9 if way == signal.SIGKILL else 128 + way), err
    assert way == signal.SIGKILL or (f"unnoise train {folder} resumes it" in out and err == "")
    again = command(*arguments)
    out, err = again.communicate()
    assert again.returncode == 0, err
    assert "resuming from" in out
    got, expected = (load_file(f / "model.safetensors") for f in (folder, run))
    assert all(torch.equal(got[name], value) for name, value in expected.items())
    last = "checkpoints/step-00000020/optimizer.safetensors"
    assert (folder / last).read_bytes() == (run / last).read_bytes()


@pytest.mark.long
@pytest.mark.skipif(os.name != "posix", reason="limits of the operating system")
def test_a_full_disk_is_one_line_and_the_checkpoints_stay(run, tmp_path):
    """A limit on file sizes stands in for the full disk: the optimizer's file does not fit."""
    import resource

    folder = tmp_path / "full"
    shutil.copytree(run, folder)
    limit = (folder / "checkpoints" / "step-00000020" / "optimizer.safetensors").stat().st_size - 1
    assert (folder / "model.safetensors").stat().st_size < limit
    process = command(
        "train", "digits", "--out", str(folder), *TINY, "--kimg", "0.4",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    _, err = process.communicate()
    assert process.returncode == 2 and err.count("\n") == 1
    assert "not written" in err and "step-00000020 is intact" in err
    found, skipped = checkpoint.newest(folder / "checkpoints")
    assert found is not None and found.name == "step-00000020" and not skipped
    assert cli.main(["train", "digits", "--out", str(folder), *TINY, "--kimg", "0.4"]) == 0
    assert checkpoint.checkpoints(folder / "checkpoints")[-1].name == "step-00000025"


def test_metrics_that_cannot_be_written_are_one_line(run, tmp_path, capsys, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("unnoise.training.log.Log.metrics", full)
    err = one_line(capsys, "train", "digits", "--out", str(tmp_path / "a"), *TINY)
    assert (
        "cannot be written (No space left on device)" in err and "run the same command again" in err
    )


def test_own_pictures_train_and_sample_in_two_commands(inside, capsys):
    pictures(inside / "pets")
    (inside / "pets" / "cats" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    small = [
        "--network.base-channels",
        "16",
        "--kimg",
        "0.03",
        "--batch-size",
        "8",
        "--sample.steps",
        "2",
    ]
    assert cli.main(["train", "pets", "--image-size", "12", *small]) == 0
    out = capsys.readouterr().out
    assert "12 images" in out and "broken.png" in out and "2 classes: cats 6, dogs 6" in out
    assert cli.main(["sample", "runs/pets", "--num", "3", "--label", "dogs", "--out", "new"]) == 0
    assert Image.open("new/seed-000000.png").size == (12, 12)


# --- sample


def test_animation_and_trajectory_show_the_process(inside):
    words = ["sample", "digits", "--num", "3", "--steps", "5", "--sampler", "dpmpp_2m"]
    assert cli.main([*words, "--animate", "--trajectory"]) == 0
    assert cli.main([*words, "--animate", "webp"]) == 0
    for name in ("denoising.gif", "denoising.webp"):
        with Image.open(inside / "samples" / "digits" / name) as animation:
            assert animation.n_frames == 5 + 3
            animation.seek(4)
            last = np.asarray(animation.convert("L"))
    with Image.open(inside / "samples" / "digits" / "grid.png") as grid:
        both = np.asarray(grid)
    # The last step, x_t at data on the left and the last x0 on the right, is the samples.
    assert np.array_equal(last[-len(both) :, : both.shape[1]], both)
    singles = [Image.open(inside / "samples" / "digits" / f"seed-00000{i}.png") for i in range(3)]
    with Image.open(inside / "samples" / "digits" / "trajectory.png") as sheet:
        shown = np.asarray(sheet)[-2 * 3 * 66 :]
    for i, single in enumerate(singles):
        row, large = shown[2 * i * 66 :][:64], np.asarray(single).repeat(8, 0).repeat(8, 1)
        last = [row[:, x : x + 64] for x in range(row.shape[1] - 90, row.shape[1] - 63)]
        assert any(np.array_equal(each, large) for each in last), "x_t at data is the picture"
    text = unnoise_text(inside / "samples" / "digits" / "trajectory.png")
    assert json.loads(text)["seeds"] == [0, 1, 2]


def unnoise_text(path: Path) -> str:
    with Image.open(path) as picture:
        return picture.info["unnoise"]


def test_an_earlier_checkpoint_exports_as_a_model_of_half_the_size(run, inside, capsys):
    earliest = unnoise.checkpoint.checkpoints(run / "checkpoints")[0]
    assert cli.main(["export", str(earliest), "--out", "whole.safetensors"]) == 0
    assert cli.main(["export", str(earliest), "--out", "half.safetensors", "--half"]) == 0
    whole, half = (inside / f"{name}.safetensors" for name in ("whole", "half"))
    assert 0.45 < half.stat().st_size / whole.stat().st_size < 0.7  # the record is not halved
    expected = unnoise.load(earliest)
    assert torch.equal(unnoise.load(whole).sample(2), expected.sample(2))
    off = (unnoise.load(half).sample(2).int() - expected.sample(2).int()).abs().float().mean()
    assert off < 2
    assert cli.main(["info", "half.safetensors"]) == 0
    assert cli.main(["export", str(earliest)]) == 2
    assert (
        "--out: got None, expected a file name that ends in .safetensors" in capsys.readouterr().err
    )


def test_autoguidance_by_an_early_checkpoint_of_the_same_run(run, inside):
    early = run / "checkpoints" / "step-00000015"
    words = ["sample", str(run), "--num", "2", "--steps", "4"]
    assert (
        cli.main([*words, "--guide", str(early), "--guidance-scale", "3", "--out", "guided"]) == 0
    )
    assert cli.main([*words, "--guidance-scale", "1", "--out", "plain"]) == 0
    guided, plain = (
        np.asarray(Image.open(inside / d / "seed-000000.png")) for d in ("guided", "plain")
    )
    assert not np.array_equal(guided, plain)
    recipe = json.loads(unnoise_text(inside / "guided" / "seed-000000.png"))
    assert recipe["guide"] == unnoise.load(early, "cpu").weights_hash != recipe["model"]


def test_sampling_with_noises_thresholds_and_an_interval(inside):
    flags = [
        "--noises",
        "50",
        "5",
        "1",
        "0.2",
        "--dynamic-threshold",
        "0.99",
        "--guidance-interval",
        "0.3",
        "10",
    ]
    assert cli.main(["sample", "digits", "--num", "2", "--sampler", "unipc_2", *flags]) == 0
    path = inside / "samples" / "digits" / "seed-000000.png"
    recipe = json.loads(unnoise_text(path))
    assert (recipe["noises"], recipe["guidance_interval"]) == ([50, 5, 1, 0.2], [0.3, 10])
    model = unnoise.load("digits", "cpu")
    settings = {name: recipe[name] for name in recipe if name not in ("model", "seed", "label")}
    again = model.sample(seeds=[0], **settings)  # a picture's own recipe makes it again
    assert np.array_equal(np.asarray(Image.open(path)), again[0, 0].numpy())


@pytest.mark.long
def test_tune_sampler_keeps_what_it_found(run, inside, capsys, monkeypatch):
    monkeypatch.setattr(tuning, "ENDS", ((80.0, 0.002),))
    monkeypatch.setattr(tuning, "RHOS", (7.0,))
    words = f"tune-sampler {run} --budgets 3 4 --images 2 --evaluations 50".split()
    assert cli.main([*words, "--out", "tuned.safetensors"]) == 0
    out = capsys.readouterr().out
    assert "best untuned" in out and "--sampler balanced" in out
    assert cli.main(["sample", "tuned.safetensors", "--sampler", "fast", "--num", "2"]) == 0
    assert cli.main(["info", "tuned.safetensors"]) == 0
    assert "fast (" in capsys.readouterr().out


def test_moving_a_model_leaves_the_original_where_it_is():
    model = unnoise.load("digits", "cpu")
    assert model.to("cpu") is model
    model.to("meta")
    assert model.sample(1, steps=2).shape == (1, 1, 8, 8)


def test_ctrl_c_in_python_saves_and_is_raised(inside, monkeypatch):
    from unnoise.training import loop

    real = loop.train_step

    def step(objective, state, batch, lr):
        if state.counters.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return real(objective, state, batch, lr)

    monkeypatch.setattr(loop, "train_step", step)
    changes = {
        "network.base_channels": 8,
        "train.batch_size": 16,
        "train.kimg": 0.1,
        "sample.steps": 2,
    }
    with pytest.raises(KeyboardInterrupt, match="everything is saved"):
        unnoise.train("digits", changes=changes)
    assert (inside / "runs" / "digits" / "checkpoints" / "step-00000004").is_dir()


def test_a_closed_pipe_is_no_error():
    process = command("info", "digits")
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr.read() == ""


def test_sample_writes_pictures_that_say_how_they_were_made(run, inside, capsys):
    assert (
        cli.main(["sample", str(run), "--num", "5", "--label", "3", "--steps", "4", "--out", "a"])
        == 0
    )
    assert sorted(p.name for p in (inside / "a").iterdir()) == [
        "grid.png", *(f"seed-{i:06d}.png" for i in range(5)),
    ]  # fmt: skip
    capsys.readouterr()
    assert cli.main(["info", "a/seed-000004.png"]) == 0
    text = json.loads(capsys.readouterr().out)
    assert (text["seed"], text["label"], text["sampler"], text["steps"]) == (4, 3, "unipc_2", 4)
    assert text["model"] == checkpoint.read_model(run / "model.safetensors")[1]["weights"][:12]
    assert cli.main(["info", "a/grid.png"]) == 0
    assert json.loads(capsys.readouterr().out)["seeds"] == [0, 1, 2, 3, 4]


def test_a_preset_and_a_folder_of_one_name_are_told_apart(inside, capsys):
    (inside / "digits").mkdir()
    assert cli.main(["train", "digits", "--kimg", "0.064"]) == 0
    assert "digits is a preset; the folder here is ./digits\n" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "count"), [([], 60), (["--label", "3"], 64), (["-n", "64"], 64)])
def test_without_a_number_every_class_is_seen_as_often(inside, capsys, words, count):
    assert cli.main(["sample", "digits", "--steps", "1", "--out", "all", *words]) == 0
    assert f"{count} images in all" in capsys.readouterr().out
    assert len([*Path("all").glob("*[0-9].png")]) == count


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_picture_depends_on_its_seed_and_not_on_its_batch(run, inside, sampler):
    flags = ["--sampler", sampler, "--steps", "3"]
    assert cli.main(["sample", str(run), "--seeds", "0-9", "--out", "a", *flags]) == 0
    assert (
        cli.main(
            ["sample", str(run), "--seeds", "7,2-4", "--batch-size", "3", "--out", "b", *flags]
        )
        == 0
    )
    for seed in (2, 3, 4, 7):
        one, two = (np.asarray(Image.open(f"{f}/seed-{seed:06d}.png"), int) for f in ("a", "b"))
        # bitwise up to the rounding of float32 kernels that differ with the batch's size
        assert np.abs(one - two).max() <= 1
    assert not np.array_equal(
        np.asarray(Image.open("a/seed-000002.png")), np.asarray(Image.open("a/seed-000003.png"))
    )


def test_labels_by_number_name_and_none(run):
    model = unnoise.load(run)
    assert torch.equal(model.sample(2, label=3), model.sample(2, label="3"))
    by_seed = model.sample(4)
    assert torch.equal(by_seed[3:4], model.sample(seeds=[3], label=3))
    assert not torch.equal(model.sample(2, label="none"), model.sample(2, label=3))


def test_generate_samples_is_the_originals_call(run):
    model = unnoise.load(run)
    images = unnoise.generate_samples(model, num_samples=8, device=torch.device("cpu"))
    assert images.shape == (8, 1, 8, 8) and images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1


# --- data and info


def test_data_prints_the_report_and_writes_a_mosaic(inside, capsys):
    pictures(inside / "pets")
    assert cli.main(["data", "pets", "--size", "16", "--out", "m.png"]) == 0
    out = capsys.readouterr().out
    assert "12 images" in out and "16 x 16, RGB" in out and "mosaic: m.png" in out
    assert Image.open("m.png").width > 100


def test_info_of_a_run(run, capsys):
    assert cli.main(["info", str(run)]) == 0
    out = capsys.readouterr().out
    assert "1 x 8 x 8 · 10 classes" in out and "step 20" in out and '"preset": "digits"' in out
    assert out.splitlines()[-1] == f"resume     unnoise train {run}"  # in sight, not above the JSON


# --- one clear line


@pytest.mark.parametrize(("arguments", "expected"), [
    ("trian digits", "no command 'trian'; did you mean 'train'?"),
    ("train", "expected a preset, a folder or file"),
    ("train digitz", "did you mean 'digits'?"),
    ("train digits --train.bach-size 3", "did you mean '--train.batch-size'?"),
    ("train digits --train.batch-size many", "many"),
    ("train digits --train.labels False", "got --train.labels False, expected nothing after a"),
    ("train digits --batch-size 0", "train.batch_size: got 0, expected 1 to 10,000,000"),
    ("train digits --image-size 0", "image_size: got 0"),
    ("train digits --image-size -4", "image_size: got -4"),
    ("train digits --network.attention-levels 7", "got (7,), expected levels from 0 to 1"),
    ("train digits --network.norm-groups 5", "norm_groups"),
    ("train digits --diffusion.schedule cosin", "did you mean 'cosine'?"),
    ("train digits --sample.sampler dim", "did you mean 'ddim'?"),
    ("train digits --time soon", "expected a time such as"),
    ("train digits --seed -1", "seed: got -1"),
    ("train digits --device cuda:9", "device: 'cuda:9' is not there"),
    ("train digits --train.precision fp16", "needs CUDA"),
    ("train digits --out", "--out: a value is missing, expected text"),
    ("sample nothing", "nothing: no such run folder, model file or bundled model"),
    ("sample digits --seeds 9-3", "expected numbers and rising ranges"),
    ("sample digits --num 0", "--num: got 0"),
    ("sample digits --label 10", "label: got 10, expected 0 to 9"),
    ("sample digits --label cat", "label: no class 'cat'"),
    ("sample digits --sampler eulr", "did you mean 'euler'"),
    ("sample digits --animate mp4", "--animate: got 'mp4', expected one of gif or webp"),
    ("sample digits --guide digits --guidance-scale 1", "guidance_scale is 1"),
    ("sample digits --noises 1 2", "expected falling values"),
    ("sample digits --guidance-interval 3 1", "low before high"),
    ("sample digits --dynamic-threshold 2", "dynamic_threshold: got 2, expected 0 to 1"),
    ("sample digits --churn 3", "has none; expected one of heun"),
    ("sample digits --steps x", "--steps: got 'x', expected a whole number"),
    ("sample digits --guidance-interval 3", "a value is missing, expected a number and a number"),
    ("sample digits --sampler-options a", "expected names, each followed by a number"),
    ("tune-sampler digits", "belongs to the package"),
    ("train digits --objective edn", "did you mean 'edm'?"),
    ("train digits --kimg x", "--kimg/--train.kimg: got 'x', expected a number"),
    ("sample digits --steps 0", "steps: got 0, expected 1 to 100,000"),
    ("sample digits --steps 1001", "steps: got 1001"),
    ("sample digits --eta 2", "sample.eta: got 2, expected 0"),
    ("sample digits --guidance-scale nan", "sample.guidance_scale: got nan"),
    ("sample digits --scale 0", "--scale: got 0"),
    ("sample digits --batch-size 0", "expected 1 to 10,000,000"),
    ("info pyproject.toml", "is no model file"),
    ("data nowhere", "nowhere"),
    ("info digits --x", "no flag --x"),
    ("info digits --x=3 --import", "--import/--imports: a value is missing, expected text"),
    ("sample digits more", "got 'more', expected a flag"),
    ("sample digits --deep-cache 2", "no flag --deep-cache"),
    ("sample digits --import nowhere.py", "--import: got 'nowhere.py', expected a Python file"),
])  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(capsys, tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    words = arguments.split()
    device = ["--device", "cpu"] if "precision" in arguments else []
    assert expected in one_line(capsys, *words, *device)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pyproject.toml"]


def test_an_empty_folder_and_one_of_broken_pictures_only(inside, capsys):
    (inside / "empty").mkdir()
    assert "empty: no pictures" in one_line(capsys, "train", "empty")
    (inside / "empty" / "a.png").write_bytes(b"not a picture")
    assert "a.png" in one_line(capsys, "train", "empty")


@pytest.mark.parametrize("keep", [0, 7, 1000, -1])
def test_a_truncated_model_file(run, inside, capsys, keep):
    content = (run / "model.safetensors").read_bytes()
    (inside / "m.safetensors").write_bytes(content[:keep])
    assert "truncated or damaged" in one_line(capsys, "sample", "m.safetensors")


def test_a_truncated_checkpoint_without_another(run, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    for path in checkpoint.checkpoints(folder / "checkpoints"):
        os.truncate(path / "network.safetensors", 100)
    err = one_line(capsys, "train", "digits", "--out", str(folder), *TINY, "--kimg", "1")
    assert "no sound checkpoint is left" in err and "network.safetensors is 100 bytes" in err


def test_a_config_that_does_not_match_the_weights(run, inside, capsys):
    tensors, record = checkpoint.read_model(run / "model.safetensors")
    record["config"]["network"]["base_channels"] = 16
    checkpoint.save_model(inside / "m.safetensors", tensors, record)
    err = one_line(capsys, "sample", "m.safetensors")
    assert "the weights do not match the configuration" in err and "expected" in err


def test_another_config_in_the_same_folder_is_refused(run, capsys):
    err = one_line(capsys, "train", "digits", "--out", str(run), *TINY, "--lr", "0.5")
    assert "train.lr: 0.004 -> 0.5" in err and "another --out" in err


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(unnoise.CheckpointError):
        cli.main(["sample", str(tmp_path / "no"), "--debug"])
