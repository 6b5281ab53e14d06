"""Two sets of pictures compared without a model: exact, at a stated size, refused where it must."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import unnoise
from unnoise import cli
from unnoise.config import to_dict
from unnoise.data.dataset import load
from unnoise.data.fit import Target
from unnoise.data.folder import read_picture
from unnoise.data.images import save_png
from unnoise.evaluation import inception, store
from unnoise.evaluation.extractors import extractor, suited
from unnoise.evaluation.frechet import frechet_distance, moments
from unnoise.evaluation.store import Samples


@pytest.fixture(autouse=True)
def _no_fid_network(monkeypatch):
    monkeypatch.delenv(inception.VARIABLE, raising=False)
    monkeypatch.setattr(inception, "PACKAGE", "a_package_that_is_not_there")


def record(folder: Path) -> dict:
    return json.loads((folder / "evaluation.json").read_text())


def save(folder: Path, images: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03d}.png")
    return folder


def random(count: int, size: int, seed: int, most: int = 256) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, most, (count, size, size, 3), dtype=np.uint8)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    tiny = extractor("tiny")
    return frechet_distance(*moments(tiny.features(a)), *moments(tiny.features(b)))


def test_pngs_of_a_models_samples_are_what_the_model_is(tmp_path, capsys):
    words = ["--num", "100", "--steps", "4"]
    assert cli.main(["sample", "digits", *words, "--out", str(tmp_path / "s")]) == 0
    more = ["--no-likelihood", "--out", str(tmp_path / "model")]
    assert cli.main(["evaluate", "digits", *words, *more]) == 0
    sets = ["evaluate", str(tmp_path / "s"), "--against", "digits", "--out", str(tmp_path / "o")]
    assert cli.main(sets) == 0
    found, of_model = record(tmp_path / "o"), record(tmp_path / "model")
    assert found["samples"]["num"] == 100  # grid.png is none
    (ours,), (theirs,) = found["distances"], of_model["distances"]
    assert ours["reference"] == theirs["reference"] == "1,500 training images of digits"
    names = ("frechet", "kernel", "precision", "recall", "frechet_standard_error")
    for name in names:  # other batches round a few pixels otherwise
        assert ours["samples"][name] == pytest.approx(theirs["samples"][name], rel=0.01)
    assert ours["held_out"]["frechet"] == pytest.approx(theirs["held_out"]["frechet"], rel=1e-9)
    paths = sorted((tmp_path / "s").glob("*[0-9].png"))
    pictures = torch.stack([torch.from_numpy(np.array(Image.open(p)))[None] for p in paths])
    data = load(unnoise.DataConfig())
    train = torch.from_numpy(data.images[: data.num_train].copy())
    assert ours["samples"]["frechet"] == pytest.approx(distance(pictures, train), rel=1e-6)
    capsys.readouterr()
    assert cli.main(["compare", str(tmp_path / "model"), str(tmp_path / "o")]) == 0
    said = capsys.readouterr().out
    assert "Fréchet distance ↓" in said and "not comparable" not in said


def test_sets_of_two_sizes_meet_at_the_smaller(tmp_path, capsys):
    a, b = save(tmp_path / "a", random(70, 24, 0)), save(tmp_path / "b", random(80, 12, 1, 200))
    assert cli.main(["evaluate", str(a), "--against", str(b), "--out", str(tmp_path / "o")]) == 0
    said = capsys.readouterr().out
    assert "sizes: mostly 24 x 24 and 12 x 12; compared at 12 x 12 (--image-size)" in said
    assert "compared at 12 x 12, 3 channels" in said
    assert f"for FID: {inception.INSTALL} and then the same command" in said
    assert "no held-out images" in said and "biased" not in said
    wanted = Target(12, 12, 3, "white")
    ours, theirs = (
        torch.from_numpy(np.stack([read_picture(p, wanted) for p in sorted(f.iterdir())]))
        for f in (a, b)
    )
    (one,) = record(tmp_path / "o")["distances"]
    assert one["samples"]["frechet"] == pytest.approx(distance(ours, theirs), rel=1e-6)
    assert one["samples"]["num"] == 70 and one["samples"]["reference_num"] == 80
    words = ["--image-size", "10", "--out", str(tmp_path / "ten"), "-n", "30"]
    assert cli.main(["evaluate", str(a), "--against", str(b), *words]) == 0
    found, said = record(tmp_path / "ten"), capsys.readouterr().out
    assert found["data"]["size"] == [3, 10, 10] and found["samples"]["num"] == 30
    assert "biased: tiny has 64 features, and 30 images are too few" in said


def test_what_is_skipped_is_said(tmp_path):
    sets = [save(tmp_path / name, random(30, 8, seed)) for seed, name in enumerate("ab")]
    (sets[1] / "x.png").write_text("no picture")
    save_png(sets[0] / "grid.png", torch.zeros(3, 8, 8, dtype=torch.uint8), {"unnoise": "{}"})
    notes = unnoise.evaluate_pictures(*sets, tmp_path / "o", features="none")["notes"]
    said = f"{sets[1]}: 1 skipped, the first x.png: is not a picture"
    assert [note for note in notes if "skipped" in note] == [said]


def test_copies_are_found_and_grey_stays_grey(tmp_path):
    reference = np.random.default_rng(0).integers(0, 256, (40, 9, 9), dtype=np.uint8)
    ours = np.concatenate([reference[3:6], 255 - reference[:20]])
    sets = save(tmp_path / "a", ours), save(tmp_path / "b", reference)
    found = unnoise.evaluate_pictures(*sets, tmp_path / "o")
    assert found["copying"]["num_copies"] == 3 and found["data"]["size"] == [1, 9, 9]
    assert found["model"] is None and found["likelihood"] == {}
    assert found["data"]["num_train"] == 40  # all are the reference, none is held out


def test_a_run_means_the_data_that_it_was_trained_on(tmp_path):
    pictures = save(tmp_path / "photos", random(60, 16, 2))
    changes = {"data.image_size": 8, "data.held_out": 0.2}
    config = unnoise.preset(str(pictures), changes)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"config": to_dict(config), "data": ""}))
    (run / "metrics.jsonl").write_text("")
    found = unnoise.evaluate_pictures(pictures, run, tmp_path / "o")
    assert found["data"]["size"] == [3, 8, 8] and found["data"]["num_train"] == 48
    assert found["data"]["num_held_out"] == 12 and found["samples"]["num"] == 60
    assert found["data"]["fingerprint"] == unnoise.load_data(config).fingerprint


def test_images_of_ones_own_are_a_set_too(tmp_path):
    a, b = (unnoise.dataset(random(30, 8, seed), name=f"set {seed}") for seed in (1, 2))
    found = unnoise.evaluate_pictures(a, b, tmp_path, features="none")
    assert found["samples"]["name"] == "set 1" and found["data"]["name"] == "set 2"
    with pytest.raises(ValueError, match=r"samples are 3 x 9 x 9, the data is 3 x 8 x 8"):
        unnoise.evaluate_pictures(unnoise.dataset(random(30, 9, 1)), b, tmp_path)


@pytest.mark.parametrize("spelling", ["--channels", "--data.channels"])
def test_one_note_says_what_becomes_of_transparency(spelling, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, clear in (("a", 1), ("b", 2), ("c", 0)):
        pixels = np.full((9, 8, 8, 4), 255, np.uint8) - random(9, 8, 3)[..., :1] // 2
        pixels[..., 3] = 255
        pixels[:clear, 0, 0, 3] = 100
        save(Path(name), pixels)
    more = ["--out", "o", "--features", "tiny", "--data.background", "black"]
    assert cli.main(["evaluate", "a", "--against", "b", *more]) == 0
    (note,) = [note for note in record(Path("o"))["notes"] if "transparen" in note]
    assert note == (
        "a: 1 of 9 pictures have transparent pixels, now black; b: 2 of 9 pictures have "
        "transparent pixels, now black; --data.channels 4 keeps them"
    )
    assert f"note: {note}" in capsys.readouterr().out
    assert cli.main(["evaluate", "a", "--against", "b", "--out", "p", spelling, "4"]) == 0
    kept = record(Path("p"))
    assert kept["data"]["size"] == [4, 8, 8]
    assert sum("transparency is kept" in note for note in kept["notes"]) == 1
    assert cli.main(["evaluate", "c", "--against", "c", "--out", "q"]) == 0
    assert "transparen" not in str(record(Path("q"))["notes"]), "opaque RGBA is not worth a word"


@pytest.mark.parametrize(("words", "line"), [
    (["a"], "a is no run; expected a model, or --against FOLDER"),
    (["a", "--against", "b/one"], "got 3 images and 1 to compare them with; a Fréchet distance"),
    (["a", "--against", "nowhere"], "no data set, file or folder 'nowhere'"),
    (["nowhere", "--against", "a"], "no data set, file or folder 'nowhere'"),
    (["a", "--against", "digist"], "did you mean 'digits'?"),
    (["a", "--against", "b", "--steps", "4"], "no flag --steps"),
    (["a", "--against", "b", "--guide", "digits"], "got --guide for pictures"),
    (["a", "--against", "b", "--likelihood-num", "5"], "got --likelihood-num for pictures"),
    (["a", "--against", "b", "--source", "b"], "got --source for pictures"),
    (["a", "--against", "a", "--features", "edm"], inception.INSTALL),
    (["a", "--against", "b", "--image-size", "0"], "data.image_size: got 0"),
])  # fmt: skip
def test_bad_input_is_one_line(words, line, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a", random(3, 8, 0))
    save(tmp_path / "b/one", random(1, 8, 1))
    assert cli.main(["evaluate", *words]) == 2
    said = capfd.readouterr().err.strip()
    assert line in said and len(said.splitlines()) == 1


def test_auto_is_fid_where_its_network_is_there(monkeypatch, tmp_path):
    assert suited("auto", (3, 32, 32)) == suited("auto", (1, 8, 8)) == "tiny"
    assert suited("auto", (3, 32, 32), tmp_path / "default_1.pt") == "edm"
    monkeypatch.setenv(inception.VARIABLE, "somewhere.pt")
    assert suited("auto", (3, 32, 32)) == "edm" and suited("auto", (1, 8, 8)) == "tiny"
    assert suited("clean", (1, 8, 8)) == "clean"


def test_a_large_network_makes_fewer_samples_on_a_cpu(monkeypatch):
    model = unnoise.load("digits", "cpu")
    assert Samples.usual_num(model, {}) == 1000
    monkeypatch.setattr(store, "CPU_WORK", 702_753 * 64 * 11 * 2 * 499.0)
    assert Samples.usual_num(model, {}) == 250
    assert Samples.usual_num(model, {"guidance_scale": 1.0}) == 500
    assert Samples.usual_num(model, {"steps": 1000}) == 100


def test_a_long_work_is_announced(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    for silent, count in ((0, 1), (1e9, 0)):
        monkeypatch.setattr(store, "SILENT_SEC", silent)
        monkeypatch.setattr(store, "NUMS", (30,))
        words = {"likelihood": False, "copying": False, "features": ()}
        unnoise.evaluate("digits", tmp_path / str(count), 30, {"steps": 2}, **words)
        assert capsys.readouterr().out.count("samples: 30 take about ") == count


def test_a_report_shows_a_comparison_in_its_folder(tmp_path):
    from unnoise.studio.run_folder import read

    a = save(tmp_path / "a", random(8, 8, 0))
    unnoise.evaluate_pictures(a, a, tmp_path / "run")
    (tmp_path / "run/config.json").write_text(json.dumps({"config": {"preset": "digits"}}))
    found = read(tmp_path / "run")["evaluation"]
    assert found["title"].startswith("samples: 8 pictures of") and found["tables"]
