"""`unnoise evaluate`: what it writes, that it goes on, that ranks agree, what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import unnoise
from unnoise import cli
from unnoise.data.dataset import load
from unnoise.errors import ConfigError
from unnoise.evaluation import store
from unnoise.evaluation.extractors import extractor
from unnoise.evaluation.frechet import frechet_distance, moments
from unnoise.evaluation.metrics import METRICS, Metric
from unnoise.evaluation.settings import Settings
from unnoise.evaluation.statistics import Statistics
from unnoise.evaluation.summary import summary

FAST = ["--num", "60", "--steps", "4", "--likelihood-num", "8", "--likelihood-terms", "4"]


@pytest.fixture(scope="module", autouse=True)
def small_pieces():
    """Several files for the few samples of a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "PIECE", 25)
        yield


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate") / "digits"
    assert cli.main(["evaluate", "digits", *FAST, "--out", str(folder)]) == 0
    return folder


def record(folder: Path) -> dict:
    return json.loads((folder / "evaluation.json").read_text())


def numbers(folder: Path) -> dict:
    return {k: v for k, v in record(folder).items() if k != "environment"}


def flat(value, name: str = "") -> dict[str, float]:
    """All numbers of a record by their path."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, part in items for k, v in flat(part, f"{name}/{key}").items()}
    return {name: float(value)} if isinstance(value, int | float) else {}


def test_it_says_what_every_number_is_of(measured):
    found = record(measured)
    (one,) = found["distances"]
    assert one["extractor"] == "tiny" and not one["standard"]
    assert one["reference"] == "1,500 training images of digits"
    assert {"resize", "range", "network", "sha256", "fingerprint"} <= one.keys()
    assert (
        found["samples"] == {"num": 60, "first_seed": 0, "name": ""}
        and found["model"]["steps"] == 4
    )
    assert found["likelihood"]["bound"]["bits_per_dim"] > 0
    assert found["copying"]["num_samples"] == 60
    assert found["classes"]["overall"]["count"] == 60
    assert any("no FID" in note for note in found["notes"])
    assert {"torch", "seconds", "processor"} <= found["environment"].keys()
    assert (measured / "evaluation/samples.png").stat().st_size and (
        measured / "evaluation/neighbours.png"
    ).stat().st_size


def test_the_distance_is_that_of_the_samples_to_all_training_images(measured):
    model, data, tiny = unnoise.load("digits"), load(unnoise.DataConfig()), extractor("tiny")
    samples = tiny.features(model.sample(60, steps=4, batch_size=7))
    train = tiny.features(torch.from_numpy(np.array(data.images[: data.num_train])))
    expected = frechet_distance(*moments(samples), *moments(train))
    # other batches round a few pixels otherwise
    assert record(measured)["distances"][0]["samples"]["frechet"] == pytest.approx(
        expected, rel=1e-3
    )


def test_from_python_it_is_the_same(measured, tmp_path):
    found = unnoise.evaluate("digits", tmp_path, 60, {"steps": 4}, likelihood=False, copying=False)
    assert found["distances"][0]["samples"]["frechet"] == pytest.approx(
        record(measured)["distances"][0]["samples"]["frechet"], rel=1e-6
    )
    assert record(tmp_path)["samples"]["num"] == 60


def test_the_text_has_no_fid_for_other_features(measured):
    text = summary(record(measured))
    assert "Fréchet distance" in text and "FID," not in text and "bits/dim, bound" in text
    assert all(len(line) < 400 for line in text.splitlines())


def test_again_nothing_is_sampled_and_the_numbers_are_the_same(measured, monkeypatch):
    before = numbers(measured)
    monkeypatch.setattr(unnoise.Model, "sample", lambda *_, **__: pytest.fail("sampled again"))
    assert cli.main(["evaluate", "digits", *FAST, "--out", str(measured)]) == 0
    # the covariance of 60 samples has no full rank: its root magnifies the last bits
    assert flat(numbers(measured)) == pytest.approx(flat(before), rel=1e-5)


def test_other_settings_are_other_samples(measured, tmp_path):
    shutil.copytree(measured, tmp_path / "copy")
    words = [*FAST, "--steps", "5", "--no-likelihood", "--no-copying"]
    assert cli.main(["evaluate", "digits", *words, "--out", str(tmp_path / "copy")]) == 0
    found = record(tmp_path / "copy")
    assert not (tmp_path / "copy/evaluation/neighbours.png").exists()
    assert found["model"]["steps"] == 5 and found["copying"] is None and found["likelihood"] == {}
    assert (
        found["distances"][0]["samples"]["frechet"]
        != record(measured)["distances"][0]["samples"]["frechet"]
    )


def test_what_is_measured_of_the_same_samples_is_added(measured, tmp_path):
    shutil.copytree(measured, tmp_path / "copy")
    path = tmp_path / "copy/evaluation" / f"{record(measured)['key']}-60.json"
    path.write_text(json.dumps(record(measured) | {"likelihood": {}}))
    words = [*FAST, "--features", "none", "--no-copying"]
    assert cli.main(["evaluate", "digits", *words, "--out", str(tmp_path / "copy")]) == 0
    before, now = record(measured), record(tmp_path / "copy")
    assert now["distances"] == before["distances"] and now["copying"] == before["copying"]
    assert now["likelihood"] == before["likelihood"]


def test_statistics_that_were_saved_are_the_reference_and_know_their_extractor(measured, tmp_path):
    data, tiny = load(unnoise.DataConfig()), extractor("tiny")
    made = Statistics.of(tiny.features(torch.from_numpy(np.array(data.images[: data.num_train]))))
    probed = tiny.probed(torch.from_numpy(np.array(data.images[:2])))
    about = {"extractor": "tiny", "fingerprint": probed.fingerprint}
    Statistics(made.count, made.mean, made.cov, about).save(tmp_path / "s.npz")
    words = ["--no-likelihood", "--no-copying", "--reference", str(tmp_path / "s.npz")]
    assert cli.main(["evaluate", "digits", *FAST, *words, "--out", str(tmp_path / "b")]) == 0
    pair = [
        record(found)["distances"][0]["samples"]["frechet"] for found in (measured, tmp_path / "b")
    ]
    assert pair[0] == pytest.approx(pair[1], rel=1e-4)  # float32 on disk
    b = record(tmp_path / "b")
    assert "SHA-256" in b["distances"][0]["reference"]
    assert not any("which protocol" in note for note in b["notes"])


def test_classes_of_other_data_are_not_taken_for_the_models(tmp_path, capfd):
    for name in "ab":
        for i in range(30):
            picture = torch.randint(
                0, 256, (1, 8, 8), generator=torch.Generator().manual_seed(i), dtype=torch.uint8
            )
            unnoise.save_png(tmp_path / f"digits/{name}/{i}.png", picture, {})
    words = [*FAST, "--data", str(tmp_path / "digits"), "--out", str(tmp_path / "o")]
    assert cli.main(["evaluate", "digits", *words]) == 0
    found = record(tmp_path / "o")
    assert found["classes"] is None and found["distances"][0]["per_class"] == []
    assert found["likelihood"]["bound"]["labels"] == "null"
    assert any("classes are not the model's" in note for note in found["notes"])


def test_a_function_that_reads_other_files_is_not_taken_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "judge_of_files.py").write_text(
        "import pathlib\n"
        "def f(x): return x.flatten(1)[:, 20:23] * float(pathlib.Path('w.txt').read_text())\n"
    )
    words = [*FAST, "--features", "judge_of_files:f", "--no-likelihood", "--no-copying"]
    values = []
    for weight in ("1", "5"):
        (tmp_path / "w.txt").write_text(weight)
        assert cli.main(["evaluate", "digits", *words, "--out", str(tmp_path / "o")]) == 0
        values.append(record(tmp_path / "o")["distances"][-1]["samples"]["frechet"])
    assert values[1] == pytest.approx(25 * values[0], rel=1e-3)


def test_a_checkpoint_is_measured_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    unnoise.train(
        "digits",
        tmp_path / "run",
        {"train.kimg": 0.128, "network.base_channels": 8, "sample.steps": 2},
    )
    (path,) = (tmp_path / "run/checkpoints").glob("step-*")
    words = ["--num", "20", "--no-likelihood", "--no-copying"]
    assert cli.main(["evaluate", str(path), *words]) == 0
    assert cli.main(["evaluate", str(tmp_path / "run/model.safetensors"), *words]) == 0
    assert (tmp_path / f"evaluation-{path.name}/evaluation.json").is_file()
    assert (tmp_path / "evaluation-run/evaluation.json").is_file()


@pytest.mark.long
def test_two_ranks_make_what_one_makes(tmp_path):
    words = ["-n", "150", "--steps", "2", "--no-likelihood", "--no-copying"]  # two pieces
    assert cli.main(["evaluate", "digits", *words, "--out", str(tmp_path / "one")]) == 0
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *torchrun, "-m", "unnoise"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "UNNOISE_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [*command, "evaluate", "digits", *words, "--out", str(tmp_path / "two")],
        check=False, capture_output=True, text=True, timeout=240, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("read as their label") == 1
    one, two = (numbers(tmp_path / k)["distances"][0]["samples"] for k in ("one", "two"))
    names = ("frechet", "frechet_standard_error", "kernel", "precision", "recall", "coverage")
    assert [two[name] for name in names] == pytest.approx([one[name] for name in names], rel=1e-6)


def test_statistics_from_a_file_are_the_reference(measured, tmp_path):
    data, tiny = load(unnoise.DataConfig()), extractor("tiny")
    mean, cov = moments(tiny.features(torch.from_numpy(np.array(data.images[: data.num_train]))))
    np.savez(tmp_path / "stats.npz", mu=mean.numpy(), sigma=cov.numpy())
    words = ["--reference", str(tmp_path / "stats.npz"), "--no-likelihood"]
    assert cli.main(["evaluate", "digits", *FAST, *words, "--out", str(tmp_path / "out")]) == 0
    found = record(tmp_path / "out")["distances"][0]
    assert found["samples"]["frechet"] == pytest.approx(
        record(measured)["distances"][0]["samples"]["frechet"], rel=1e-6
    )
    assert found["samples"]["kernel"] is None and "stats.npz" in found["reference"]


def test_side_by_side_it_is_said_what_may_not_be_compared(measured, tmp_path, capsys):
    for i, image in enumerate(load(unnoise.DataConfig()).images[:200]):
        unnoise.save_png(tmp_path / f"few/{i}.png", torch.from_numpy(image.copy()), {})
    words = ["--num", "70", *FAST[2:], "--no-likelihood", "--no-copying"]
    words += ["--against", str(tmp_path / "few")]
    assert cli.main(["evaluate", "digits", *words, "--out", str(tmp_path / "b")]) == 0
    capsys.readouterr()
    assert cli.main(["compare", str(measured), str(tmp_path / "b")]) == 0
    said = capsys.readouterr().out
    assert "60 samples and 70" in said and "190 training images of few" in said
    assert said.count("Fréchet distance ↓  ") == 1
    assert "bits/dim, bound" in said and "copies of training images" in said
    (tmp_path / "b/evaluation.json").write_text('{"distances": [3]}')
    assert cli.main(["compare", str(measured), str(tmp_path / "b")]) == 2
    assert cli.main(["compare", str(measured), str(tmp_path / "nothing")]) == 2
    assert cli.main(["compare", str(measured)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_the_report_shows_it_and_survives_a_damaged_one(measured, tmp_path):
    from unnoise.studio.run_folder import read

    folder = tmp_path / "run"
    unnoise.train(
        "digits", folder, {"train.kimg": 0.128, "network.base_channels": 8, "sample.steps": 2}
    )
    shutil.copy(measured / "evaluation.json", folder)
    shutil.copytree(measured / "evaluation", folder / "evaluation")
    run = read(folder)
    found = run["evaluation"]
    assert any("read as their label" in row for row in found["tables"][-1]["rows"])
    assert found["samples"] and found["neighbours"]
    assert any("evaluation.json is of other weights" in problem for problem in run["problems"])
    (folder / "evaluation.json").write_text('{"model": 3, "distances": []}')
    run = read(folder)
    assert run["evaluation"] is None
    assert any("evaluation.json: cannot be read" in problem for problem in run["problems"])


@pytest.mark.parametrize(("words", "line"), [
    (["--features", "edn"], "did you mean 'edm'"),
    (["--features", "edm", "--inception", "nowhere.pt"], "nowhere.pt"),
    (["--num", "1"], "--num: got 1, expected 2 to 10,000,000"),
    (["--likelihood", "ode"], "got --likelihood ode, expected nothing after a switch"),
    (["--likelihood-num", "0"], "--likelihood-num: got 0, expected 1 to 10,000,000"),
    (["--reference", "nowhere.npz"], "nowhere.npz"),
    (["--reference", "nowhere.npz", "--features", "tiny,edm"], "--reference: is of one extractor"),
    (["--data", "cifar11"], "cifar11"),
    (["--sampler", "ddin"], "ddim"),
    (["--classifier", "no.such:thing"], "no.such"),
    (["--first-seed", "-3"], "--first-seed: got -3"),
    (["--nun", "3"], "--num"),
    (["--likelihood-terms", "1"], "--likelihood-terms: got 1, expected 2 or more, or 0 for all"),
    (["--reference", "few.npz"], "few.npz: got half (6,), mu (3,), count (), expected mu (64,)"),
    (["--reference", "others.npz"], "was made with edm, not this tiny"),
])  # fmt: skip
def test_bad_input_is_one_line(words, line, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Statistics(9, torch.zeros(3), torch.eye(3)).save(tmp_path / "few.npz")
    about = {"extractor": "edm", "fingerprint": "another"}
    Statistics(99, torch.zeros(64), torch.eye(64), about).save(tmp_path / "others.npz")
    monkeypatch.setattr(unnoise.Model, "sample", lambda *_, **__: pytest.fail("sampled first"))
    assert cli.main(["evaluate", "digits", *FAST, "--out", str(tmp_path), *words]) == 2
    said = capfd.readouterr().err.strip()
    assert line in said and len(said.splitlines()) == 1


def test_data_of_another_kind_is_made_the_models(tmp_path, capfd):
    (tmp_path / "a").mkdir()
    for i in range(4):
        unnoise.data.images.save_png(
            tmp_path / f"a/{i}.png", torch.zeros(3, 9, 9, dtype=torch.uint8) + i, {}
        )
    words = [*FAST, "--data", str(tmp_path / "a"), "--out", str(tmp_path / "o")]
    assert cli.main(["evaluate", "digits", *words]) == 0
    assert "not those that the model was trained on" in capfd.readouterr().out  # made grey and 8x8


def test_a_metric_is_one_entry(measured, tmp_path, capsys, monkeypatch):
    """In the record, the table and `compare`; records of before have none, and need no entry."""
    metric = Metric(lambda c: float(c.samples.std()), "spread of features", more_is_better=True)
    monkeypatch.setitem(METRICS, "spread", metric)
    words = [*FAST, "--no-likelihood", "--no-copying", "--out", str(tmp_path / "b")]
    assert cli.main(["evaluate", "digits", *words]) == 0
    (one,) = record(tmp_path / "b")["distances"]
    tiny = extractor("tiny")
    samples = tiny.features(unnoise.load("digits").sample(60, steps=4, batch_size=7))
    assert one["samples"]["spread"] == pytest.approx(float(samples.std()), rel=1e-3)
    assert one["held_out"]["spread"] > 0
    assert "spread of features ↑" in capsys.readouterr().out
    monkeypatch.delitem(METRICS, "spread")  # whoever compares has not imported it
    assert cli.main(["compare", str(measured), str(tmp_path / "b")]) == 0
    (line,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith("spread"))
    assert line.split()[-2:] == ["-", f"{one['samples']['spread']:.4g}"]


def test_records_of_before_metrics_are_shown(measured):
    old = record(measured)
    del old["distances"][0]["metrics"]
    assert summary(old) == summary(record(measured))


def test_images_of_ones_own_are_the_reference(measured, tmp_path):
    data = load(unnoise.DataConfig())
    own = replace(data, name="mine", fingerprint="mine")
    settings = {"likelihood": False, "copying": False}
    found = unnoise.evaluate("digits", tmp_path, 60, {"steps": 4}, own, **settings)
    (one,), (before,) = found["distances"], record(measured)["distances"]
    assert one["reference"] == "1,500 training images of mine"
    assert one["samples"]["frechet"] == pytest.approx(before["samples"]["frechet"], rel=1e-6)
    assert found["data"]["config"] is None and found["likelihood"] == {}


def test_settings_from_python_are_checked_too(tmp_path):
    with pytest.raises(ConfigError, match="likelihood_num: got 0, expected 1 to 10,000,000"):
        unnoise.evaluate("digits", tmp_path, 60, likelihood_num=0)


@pytest.mark.parametrize(
    ("given", "names"),
    [("none", ()), ((), ()), ("a, b,a", ("a", "b")), (("a,b", "c"), ("a", "b", "c"))],
)
def test_names_are_a_tuple_or_a_text_with_commas(given, names):
    assert Settings(features=given).features == names


def test_a_run_can_measure_itself_on_the_way(tmp_path):
    changes = {"train.kimg": 0.256, "train.sample_every_kimg": 0.128, "network.base_channels": 8,
    "sample.steps": 2,
               "train.evaluate": "auto", "train.evaluate_num": 40}  # fmt: skip
    model = unnoise.train("digits", tmp_path / "run", changes)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    measured = [line["frechet_tiny"] for line in lines if "frechet_tiny" in line]
    assert len(measured) == 2
    data, tiny = load(unnoise.DataConfig()), extractor("tiny")
    train = moments(tiny.features(torch.from_numpy(np.array(data.images[: data.num_train]))))
    expected = frechet_distance(*moments(tiny.features(model.sample(40))), *train)
    assert measured[-1] == pytest.approx(expected, rel=1e-3)
    known = {"train.evaluate_reference": str(tmp_path / "known.npz")}
    about = {"extractor": "tiny", "fingerprint": tiny.fingerprint}
    mean, cov = train[0] + 1, train[1]  # other than the training images'
    Statistics(1500, mean, cov, about).save(tmp_path / "known.npz")
    longer = {**changes, **known, "train.evaluate": None, "train.kimg": 0.384}
    model = unnoise.train("digits", tmp_path / "run", longer)
    last = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    expected = frechet_distance(*moments(tiny.features(model.sample(40))), mean, cov)
    assert last["frechet_tiny"] == pytest.approx(expected, rel=1e-3)
    Statistics(1500, mean, cov, {"fingerprint": "another"}).save(tmp_path / "known.npz")
    with pytest.raises(ValueError, match=r"known\.npz: was made with another, not this tiny"):
        unnoise.train("digits", tmp_path / "other", {**changes, **known})
    with pytest.raises(ValueError, match="did you mean 'tiny'"):
        unnoise.train("digits", tmp_path / "other", {**changes, "train.evaluate": "tiney"})
    assert not (tmp_path / "other/checkpoints").exists()
