"""A run that starts from the weights of a model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import unnoise
from unnoise import api, cli
from unnoise.errors import CheckpointError, ConfigError
from unnoise.presets import named

SHORT = {
    "device": "cpu", "train.precision": "fp32", "train.kimg": 0.256, "train.batch_size": 64,
    "train.warmup_kimg": 0, "train.lr": 1e-12, "train.muon_lr": 1e-12,
    "sample.sampler": "ddim", "sample.steps": 1,
}  # fmt: skip


def train(folder, **changes):
    model = unnoise.train("digits", folder, {**SHORT, **changes}, on_event=lambda event: None)
    return model.record, load_file(folder / "model.safetensors")


def test_it_starts_from_the_averaged_weights_in_fp16_too(tmp_path):
    digits = unnoise.load("digits", "cpu")
    digits.save(tmp_path / "half.safetensors", half=True)
    for start, tolerance in (("digits", 1e-7), (str(tmp_path / "half.safetensors"), 1e-3)):
        record, weights = train(tmp_path / str(tolerance), **{"train.start": start})
        for name, value in digits.network.state_dict().items():
            torch.testing.assert_close(weights[name], value, rtol=tolerance, atol=tolerance)
        source = unnoise.load(start, "cpu")
        assert record["training"]["started_from"] == source.weights_hash
        assert record["training"]["nimg"] == 256  # its own
    assert "started_from" not in train(tmp_path / "anew")[0]["training"]


def test_a_run_and_a_checkpoint_are_models_too(tmp_path):
    train(tmp_path / "a", **{"train.start": "digits"})
    step = next((tmp_path / "a" / "checkpoints").iterdir())
    for number, start in enumerate((tmp_path / "a", step)):
        _, weights = train(tmp_path / f"b{number}", **{"train.start": str(start)})
        before = load_file(tmp_path / "a" / "model.safetensors")
        assert all(torch.allclose(weights[name], before[name], atol=1e-7) for name in before)


def test_it_resumes_without_the_file_and_remembers_it(tmp_path):
    start = tmp_path / "digits.safetensors"
    unnoise.load("digits", "cpu").save(start)
    first, _ = train(tmp_path / "run", **{"train.start": str(start)})
    start.unlink()
    again, _ = train(tmp_path / "run", **{"train.start": str(start), "train.kimg": 0.512})
    assert again["training"]["started_from"] == first["training"]["started_from"]
    assert again["training"]["nimg"] == 512
    with pytest.raises(ConfigError, match=r"another configuration.*train\.start"):
        train(tmp_path / "run")


@pytest.mark.long
def test_a_run_that_died_before_its_first_checkpoint_starts_from_it_again(tmp_path):
    config = unnoise.preset("digits", {**SHORT, "train.start": "digits"})
    train(tmp_path / "run", **{"train.start": "digits"})
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    assert api.train_here(config, tmp_path / "run").finished
    digits = unnoise.load("digits", "cpu").network.state_dict()
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.allclose(weights[name], digits[name], atol=1e-7) for name in digits)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train.start": "digitz"}, "digitz: no such run folder, model file or bundled model"),
        (
            {"train.start": "digits", "network.base_channels": 64},
            "only 0% .* width .set otherwise there: network.base_channels 32",
        ),
    ],
)
def test_what_is_no_start_is_said_before_anything_is_written(tmp_path, changes, words):
    with pytest.raises(CheckpointError, match=words):
        train(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_what_fits_is_taken_and_the_rest_is_said(tmp_path):
    said = []
    changes = {**SHORT, "train.start": "digits", "network.blocks_per_level": 2}
    unnoise.train(
        "digits", tmp_path, {**changes, "train.labels": False},
        on_event=lambda event: said.append(getattr(event, "text", "")),
    )  # fmt: skip
    (line,) = [text for text in said if text.startswith("starts from digits")]
    assert (
        "new: " in line
        and " is (" in line
        and " more; set otherwise there: network.blocks_per_level 1)" in line
    )
    digits = unnoise.load("digits", "cpu").network.state_dict()
    weights = load_file(tmp_path / "model.safetensors")
    taken = [
        name for name in weights if name in digits and weights[name].shape == digits[name].shape
    ]
    assert len(taken) > 50
    assert all(torch.allclose(weights[name], digits[name], atol=1e-7) for name in taken)


def test_own_pictures_of_another_size_take_the_network_of_the_model(tmp_path):
    for i in range(20):
        Image.effect_noise((64, 64), 50 + i).save(tmp_path / f"{i}.png")
    plain = unnoise.preset(str(tmp_path), {"data.image_size": 64})
    digits = unnoise.load("digits", "cpu").config.network
    changes = {"data.image_size": 64, "train.start": "digits"}
    config = unnoise.preset(str(tmp_path), changes)
    assert plain.network != digits and config.network == digits
    assert config.train.batch_size == plain.train.batch_size
    wider = unnoise.preset(str(tmp_path), {**changes, "network.base_channels": 64})
    assert wider.network == replace(digits, base_channels=64)
    run = {"data.image_size": 16, "train.start": "digits", "data.cache": str(tmp_path / "cache")}
    unnoise.train(str(tmp_path), tmp_path / "run", {**SHORT, **run})
    assert unnoise.preset(str(tmp_path / "run"), {"data.image_size": 16}).network == digits
    gone = {**SHORT, **run, "train.start": str(tmp_path / "gone.safetensors")}
    with pytest.raises(CheckpointError, match="gone"):
        unnoise.train(str(tmp_path), tmp_path / "new", gone)
    with pytest.raises(ConfigError, match=f"unnoise train {tmp_path}/run goes on with its own"):
        unnoise.train(str(tmp_path), tmp_path / "run", gone)


def test_a_preset_takes_the_network_of_the_model_too():
    there = unnoise.load("cifar10-small", "cpu").config.network
    config = unnoise.preset("cifar10-small", {"train.start": "cifar10-small"})
    assert config.network == there != unnoise.preset("cifar10-small").network
    again = unnoise.preset("cifar10", {"train.start": "digits", "network.dropout": 0.2})
    assert again.network == replace(unnoise.load("digits", "cpu").config.network, dropout=0.2)
    assert again.train == replace(unnoise.preset("cifar10").train, start="digits")


def test_settings_under_which_the_weights_are_another_function_are_named(tmp_path):
    """Their shapes are the same, so nothing else would tell."""
    said = []
    changes = {"train.start": "digits", "network.attention_heads": 1}
    unnoise.train(
        "digits", tmp_path, {**SHORT, **changes}, objective="edm",
        on_event=lambda event: said.append(getattr(event, "text", "")),
    )  # fmt: skip
    (line,) = [text for text in said if text.startswith("starts from digits")]
    heads = unnoise.load("digits", "cpu").config.network.attention_heads
    assert f"set otherwise there: network.attention_heads {heads}, diffusion." in line
    unnoise.train(  # and the same settings say nothing
        "digits", tmp_path / "b", {**SHORT, "train.start": "digits"},
        on_event=lambda event: said.append(getattr(event, "text", "")),
    )  # fmt: skip
    assert "set otherwise" not in [t for t in said if t.startswith("starts from digits")][-1]


def test_a_run_goes_on_with_its_own_settings(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes = {**SHORT, "network.base_channels": 16, "train.start": None}
    unnoise.train("digits", "runs/mine", changes, on_event=lambda event: None)
    assert cli.main(["train", "runs/mine", "--kimg", "0.512"]) == 0
    assert "done: runs/mine" in capsys.readouterr().out
    model = unnoise.load("runs/mine", "cpu")
    assert model.record["training"]["nimg"] == 512
    assert model.config.network.base_channels == 16 and model.config.train.lr == 1e-12
    again = unnoise.train("runs/mine", on_event=lambda event: None)
    assert again.record["training"]["nimg"] == 512
    assert cli.main(["train", "runs/mine", "--lr", "1"]) == 2
    assert "another configuration (train.lr" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mine"]


def test_a_folder_of_pictures_with_a_config_is_no_run(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert named(str(tmp_path)).preset == "pictures"
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        named(str(tmp_path))
