"""Records whose digests are right and whose content is wrong: read by type and range, at one door
each, and told in one line that names the file."""

from __future__ import annotations

import json
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import unnoise
from tests.attacks.records import changed, sealed
from tests.training import runs
from unnoise import checkpoint, cli, records
from unnoise.errors import CheckpointError, DataError, DivergedError
from unnoise.evaluation import record as evaluation
from unnoise.files import parse_json, read_json, sha256
from unnoise.training import state as states

RUN = Path(__file__).parent / "fixtures" / "run-0.1"
DIGITS = records.bundled()["digits"]
DEEP = '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"
DIGITS_5000 = '{"a": ' + "9" * 5000 + "}"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return shutil.copytree(RUN, tmp_path / "run")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(path: Path, at: tuple[Any, ...], value: Any) -> Path:
    """The bundled model with another value in its record."""
    sealed(path, load_file(DIGITS), changed(records.read_record(DIGITS), at, value))
    return path


def message(call: Callable[[], object]) -> str:
    with pytest.raises(CheckpointError) as error:
        call()
    return str(error.value)


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit code and the one line of an error."""
    capsys.readouterr()
    code, err = cli.main(list(words)), capsys.readouterr().err
    return code, err.strip()


# --- 1: types and ranges


@pytest.mark.parametrize(("at", "value", "expected"), [
    (("shape",), None, "shape: got None, expected names and values"),
    (("shape",), {"channels": 1, "height": 8}, "shape.width: is missing"),
    (("shape", "channels"), True, "shape.channels: got True, expected a whole number"),
    (("shape", "height"), float("nan"), "shape.height: got nan, expected a whole number"),
    (("shape", "num_classes"), -1, "shape.num_classes: got -1, expected 0 to 100,000"),
    (("config",), [], "config: got [], expected names and values"),
    (("config", "imports"), 3, "config.imports: got 3, expected a list"),
    (("class_names",), 10**9, "class_names: got 1000000000, expected a list"),
    (("class_names",), ["a"], "its record names 1 classes of 10"),
    (("data",), "x", "data: got 'x', expected names and values"),
    (("tuned",), True, "tuned: got True, expected names and values"),
    (("tuned", "fast"), {}, "tuned.fast.sampler: is missing"),
    (("tuned", "fast", "steps"), 0, "tuned.fast.steps: got 0, expected 1 to 100,000"),
    (("tuned", "fast", "noises"), ["x"], "its tuned 'fast' is damaged (sample.noises: got 'x'"),
])  # fmt: skip
@pytest.mark.parametrize("read", [unnoise.load, checkpoint.read_model])
def test_a_wrong_record_of_a_model_is_one_line(tmp_path, read, at, value, expected):
    path = made(tmp_path / "m.safetensors", at, value)
    said = message(lambda: read(path))
    assert str(path) in said and expected in said


def test_tuned_settings_that_cannot_be_used_are_refused(tmp_path):
    path = made(tmp_path / "m.safetensors", ("tuned", "fast", "sampler"), "dimm")
    with pytest.raises(unnoise.errors.UnknownNameError, match=r"sample\.sampler: no 'dimm'"):
        unnoise.load(path, "cpu")


def test_other_keys_of_a_newer_version_do_no_harm(tmp_path):
    path = made(tmp_path / "m.safetensors", ("later",), {"a": 1})
    assert unnoise.load(path, "cpu").record["later"] == {"a": 1}


def _header(path: Path, text: str) -> None:
    path.write_bytes(len(text).to_bytes(8, "little") + text.encode())


READERS: dict[str, Callable[[Path], object]] = {
    "config.json": lambda path: records.read_run(path.parent),
    "manifest.json": lambda path: records.read_manifest(path.parent),
    "environment.json": records.read_starts,
    "evaluation.json": evaluation.read,
    "metrics.jsonl": lambda path: records.read_line(path.read_text(errors="replace")),
    "any.json": read_json,
}


@pytest.mark.parametrize("text", [
    DEEP, DIGITS_5000, '{"a": ', "[]", "3", "null", "", "\xff\xfe", "\0" * 99, '{"a": 1}',
])  # fmt: skip
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_record_is_one_line_for_every_reader(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text.encode("latin-1"))
    fine = {"any.json": '{"a": 1}', "environment.json": "[]"}
    if fine.get(name) == text:
        READERS[name](path)
    else:
        assert name in message(lambda: READERS[name](path))


@pytest.mark.parametrize("text", [DEEP, DIGITS_5000])
def test_a_header_of_such_json_is_one_line(tmp_path, text):
    path = tmp_path / "m.safetensors"
    _header(path, text)
    for read in (records.read_record, records.read_header, checkpoint.read_model, unnoise.load):
        assert str(path) in message(lambda read=read: read(path))
    save_file({"a": torch.zeros(1)}, path, {"unnoise": text})
    for read in (records.read_record, checkpoint.read_model, unnoise.load):
        assert str(path) in message(lambda read=read: read(path))


def test_json_has_400_levels_at_most():
    for levels, refused in ((399, False), (401, True)):
        text = '{"a": ' * levels + "1" + "}" * levels
        if refused:
            assert "more than 400 levels" in message(lambda text=text: parse_json(text, "x"))
        else:
            json.dumps(parse_json(text, "x"), indent=2)


@pytest.mark.parametrize(("at", "value"), [
    (("model",), 3), (("model", "noises"), None), (("model", "guidance_scale"), "x"),
    (("samples", "num"), "16"), (("data", "fingerprint"), None), (("distances",), {}),
    (("distances", 0, "samples"), None), (("distances", 0, "samples", "interval"), [1.0]),
    (("distances", 0, "per_class"), [{}]), (("likelihood",), []),
    (("likelihood", "bound", "bits_per_dim"), "x"), (("copying", "summary"), [3]),
    (("classes", "overall"), None), (("notes",), None),
])  # fmt: skip
def test_a_wrong_evaluation_is_one_line(run, folder, capsys, at, value):
    path = run / "evaluation.json"
    record = read_json(path)
    assert evaluation.read(path) == record
    path.write_text(json.dumps(changed(record, at, value)))
    code, line = told(capsys, "compare", "run", str(RUN))
    assert code == 2 and line.startswith("unnoise: run/evaluation.json: cannot be read (")
    assert line.endswith("expected a record of `unnoise evaluate`") and str(at[-1]) in line
    assert cli.main(["report", "run"]) == 0  # which leaves it out


def test_a_metric_that_is_no_number_is_refused(run):
    path = run / "evaluation.json"
    record = read_json(path)
    record["distances"][0]["metrics"] = {"interval_words": "mine"}
    path.write_text(json.dumps(record))
    expected = "distances.0.interval_words: got '95 %"
    assert expected in message(lambda: evaluation.read(path))


def test_numbers_that_are_not_finite_have_a_table(run, folder, capsys):
    record = read_json(run / "evaluation.json")
    record["likelihood"]["bound"]["bits_per_dim"] = None
    (run / "evaluation.json").write_text(json.dumps(record))
    assert cli.main(["compare", "run", str(RUN)]) == 0
    assert "not finite ± 0.45" in capsys.readouterr().out


# --- 2: sizes


@pytest.mark.parametrize(("at", "value"), [
    (("config", "network", "base_channels"), 100_000),
    (("config", "network", "blocks_per_level"), 1000),
    (("shape", "num_classes"), 1010),
])  # fmt: skip
def test_a_network_is_not_much_larger_than_the_weights_of_the_file(tmp_path, at, value):
    path = made(tmp_path / "m.safetensors", at, value)
    if at[-1] == "num_classes":
        record = changed(records.read_record(path), ("class_names",), [])
        sealed(path, load_file(DIGITS), record)
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = message(lambda: unnoise.load(path, "cpu"))
    assert "the weights do not match the configuration" in said and str(path) in said
    assert time.monotonic() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


# --- 3: nothing that is not finite


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_loaded(tmp_path, value):
    tensors, path = load_file(DIGITS), tmp_path / "m.safetensors"
    name = min(tensors)
    tensors[name].view(-1)[-1] = value
    sealed(path, tensors, records.read_record(DIGITS))
    said = message(lambda: unnoise.load(path, "cpu"))
    assert said == f"{path}: {name} is not finite; it is damaged or has diverged"


def test_weights_of_another_type_are_not_loaded(tmp_path):
    tensors, path = load_file(DIGITS), tmp_path / "m.safetensors"
    name = min(tensors)
    sealed(path, {**tensors, name: tensors[name].to(torch.int8)}, records.read_record(DIGITS))
    said = message(lambda: unnoise.load(path, "cpu"))
    assert said.endswith(f"{name} is torch.int8, expected torch.float32")


@pytest.fixture
def diverging(folder: Path) -> Path:
    """A model whose weights are finite and whose pictures are not: SiLU of -inf is not a number."""
    tensors, path = load_file(DIGITS), folder / "m.safetensors"
    tensors["out_norm.weight"].fill_(3e38)
    sealed(path, tensors, records.read_record(DIGITS))
    return path


@pytest.mark.parametrize("words", [
    ("sample", "m.safetensors", "-n", "1"),
    ("evaluate", "m.safetensors", "--num", "2", "--features", "tiny", "--no-likelihood"),
    ("edit", "interpolate", "m.safetensors", "1", "2"),
])  # fmt: skip
def test_pictures_that_are_not_finite_end_with_code_3(diverging, capsys, words):
    code, line = told(capsys, *words, "--device", "cpu")
    said = [text for text in line.splitlines() if text.startswith("unnoise: ")]
    assert code == 3 and len(said) == 1 and "pictures: got values that are not finite" in said[0]
    with pytest.raises(DivergedError, match="pictures: got values that are not finite"):
        unnoise.load(diverging, "cpu").sample(1)


def test_a_preview_that_is_not_finite_is_said_and_training_goes_on(tmp_path, capsys, monkeypatch):
    def diverged(*arguments: Any, **settings: Any) -> torch.Tensor:
        raise DivergedError("pictures: got values that are not finite")

    monkeypatch.setattr(unnoise.model.Model, "sample", diverged)
    data = unnoise.data.dataset.load(unnoise.DataConfig())
    assert runs.train(runs.tiny(), data, tmp_path, measure=lambda model: diverged()).finished
    told_ = capsys.readouterr()
    said = told_.out + told_.err
    assert said.count("no samples, training continues: pictures: got values") == 2
    assert said.count("not measured, training continues: pictures: got values") == 2
    assert not (tmp_path / "samples").exists() and (tmp_path / "model.safetensors").exists()
    assert sum("held_out_loss" in line for line in runs.curve(tmp_path)) == 2


def test_a_run_without_one_applied_step_has_diverged(tmp_path, monkeypatch):
    runs.change_loss(monkeypatch, lambda batch, loss: loss * float("nan"))
    data = unnoise.data.dataset.load(unnoise.DataConfig())
    config = runs.tiny(**{"train.max_skipped": 1000})
    with pytest.raises(DivergedError, match="not one of 20 steps had a finite loss"):
        runs.train(config, data, tmp_path)


# --- 4: the newest sound checkpoint


def _state(**changes: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        record = {**read_json(path / "state.json"), **changes}
        kept = {key: value for key, value in record.items() if value != "gone"}
        (path / "state.json").write_text(json.dumps(kept))

    return change


def _text(name: str, text: str) -> Callable[[Path], object]:
    return lambda path: (path / name).write_text(text)


def _not_finite(path: Path) -> None:
    tensors = load_file(path / "optimizer.safetensors")
    tensors[min(tensors)] = tensors[min(tensors)] * float("nan")
    save_file(tensors, path / "optimizer.safetensors")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "step is text": _state(step="x"),
    "nimg is below 0": _state(nimg=-1),
    "nimg is gone": _state(nimg="gone"),
    "train_sec is null": _state(train_sec=None),
    "train_sec is infinite": _state(train_sec=float("inf")),
    "step is a list": _state(step=[1]),
    "scaler is a number": _state(scaler=3),
    "scaler lacks keys": _state(scaler={"scale": 2.0}),
    "state.json is a list": _text("state.json", "[]"),
    "state.json is deep": _text("state.json", DEEP),
    "state.json has digits": _text("state.json", DIGITS_5000),
    "no weights": lambda path: (path / "ema.safetensors").unlink(),
    "no safetensors": _text("network.safetensors", "<html>"),
    "not finite": _not_finite,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_checkpoint_with_right_digests_and_wrong_content_is_skipped(run, kind):
    folder = run / "checkpoints"
    (older,) = checkpoint.checkpoints(folder)
    newer = shutil.copytree(older, folder / checkpoint.name(21))
    assert checkpoint.newest(folder, states.read) == (newer, [])
    DAMAGE[kind](newer)
    manifest = read_json(newer / "manifest.json")
    there = [newer / name for name in manifest["files"] if (newer / name).exists()]
    files = {p.name: {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in there}
    (newer / "manifest.json").write_text(json.dumps({**manifest, "files": files}))
    checkpoint.verify(newer)
    found, (reason,) = checkpoint.newest(folder, states.read)
    assert found == older and str(newer) in reason


@pytest.mark.parametrize(("key", "value"), [
    ("files", 3), ("files", {"state.json": 3}), ("files", {"state.json": {"bytes": "x"}}),
    ("files", {"../x": {"bytes": 1, "sha256": ""}}), ("format", None),
])  # fmt: skip
def test_a_wrong_manifest_is_skipped(run, key, value):
    folder = run / "checkpoints"
    (path,) = checkpoint.checkpoints(folder)
    manifest = read_json(path / "manifest.json")
    (path / "manifest.json").write_text(json.dumps({**manifest, key: value}))
    found, (reason,) = checkpoint.newest(folder, states.read)
    assert found is None and str(path) in reason


# --- 5: places


def _elsewhere(folder: Path, **data: Any) -> Path:
    """A model file whose record names places."""
    record = records.read_record(DIGITS)
    return made(folder / "m.safetensors", ("config", "data"), {**record["config"]["data"], **data})


def test_a_record_of_a_known_set_names_no_copy_of_it(folder):
    model = unnoise.load(_elsewhere(folder, source="mnist", path="/etc/passwd"), "cpu")
    assert (model.config.data.source, model.config.data.path) == ("mnist", None)


def test_a_record_names_no_place_to_write(folder):
    model = unnoise.load(_elsewhere(folder, cache=str(folder / "theirs")), "cpu")
    assert model.config.data == unnoise.DataConfig()
    unnoise.evaluate(model, folder / "out", num=2, likelihood=False, copying=False)
    assert not (folder / "theirs").exists()


@pytest.mark.parametrize("places", [
    {"source": "theirs"}, {"source": "/etc"},
])  # fmt: skip
def test_a_bare_file_reads_no_place_that_was_not_asked_for(folder, capsys, places):
    path = _elsewhere(folder, **places)
    shutil.copytree(RUN / "samples", folder / "theirs")
    code, line = told(capsys, "evaluate", str(path), "--num", "2", "--device", "cpu")
    expected = "expected --data PATH, or a run folder of `unnoise train`"
    assert code == 2 and line.splitlines()[-1].endswith(expected)
    for model in (unnoise.load(path, "cpu"), unnoise.load(path, "cpu").with_tuned({})):
        with pytest.raises(DataError, match="expected --data PATH"):
            unnoise.evaluate(model, folder / "out", num=2)
    asked = ("--data", "digits", "--num", "2", "--no-likelihood", "--out", "out")
    assert cli.main(["evaluate", str(path), *asked, "--device", "cpu"]) == 0


@pytest.mark.parametrize("same", [True, False])
def test_in_its_run_folder_a_source_is_what_it_was_trained_on(folder, same):
    _elsewhere(folder, source="photos").rename(folder / "model.safetensors")
    record = read_json(RUN / "config.json")
    record["config"]["data"]["source"] = "photos" if same else "digits"
    (folder / "config.json").write_text(json.dumps(record))
    assert unnoise.load(folder, "cpu").config.data.source == ("photos" if same else "")
