"""Snapshots of NVlabs/edm, read without it: every tensor in its place, nothing runs.

The names and shapes in the fixture are those that EDM itself saves. Its outputs are compared in
tests/parity/test_edm.py.
"""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import unnoise
from tests.formats.conftest import exact
from tests.formats.snapshots import (
    FIXTURE,
    SOURCE,
    Call,
    parameter,
    persistent,
    pickled,
    snapshot,
    storage,
    tensor,
    waves,
    weights,
)
from unnoise import cli, formats
from unnoise.config import DiffusionConfig
from unnoise.errors import CheckpointError, ConfigError, UsageError
from unnoise.networks.config import Shape, SongUNetConfig

CONV = "model.enc.8x8_conv.weight"
BLOCK = "model.dec.4x4_in0"


@pytest.fixture(autouse=True)
def _nothing_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not Path("canary").exists()


def read(content: bytes, name: str = "network-snapshot-000123.pkl") -> unnoise.Model:
    Path(name).write_bytes(content)
    return formats.read(name)


def test_a_snapshot_is_the_network_that_its_arguments_say():
    model = read(snapshot())
    assert model.config.network == SongUNetConfig(
        base_channels=8, channel_multipliers=(1, 2), blocks_per_level=1, attention_levels=(1,),
        dropout=0.13, time_embedding="fourier", encoder="residual", resample="fir",
        time_multiplier=2,
    )  # fmt: skip
    assert model.shape == Shape(1, 8, 8, 3, null_label=True)
    model.save("model.safetensors")
    again = unnoise.load("model.safetensors", "cpu")
    assert again.weights_hash == model.weights_hash
    assert again.sample(2, label=["none", 1], guidance_scale=2, steps=2).shape == (2, 1, 8, 8)


def test_each_tensor_has_its_place():
    """By value where shapes are equal: a wrong order would be silent."""
    tensors = weights()
    names = [name for name in tensors if name.endswith(("conv1.bias", "affine.bias"))]
    for number, name in enumerate(names):
        tensors[name] = torch.full_like(tensors[name], float(number))
    tensors[f"{BLOCK}.qkv.bias"] = torch.arange(48.0)
    own = read(snapshot(tensors)).network.state_dict()
    for ours, theirs in {
        "down.0.conv2.bias": "enc.4x4_down.conv1.bias",
        "encoder.0.0.time.bias": "enc.8x8_block0.affine.bias",
        "encoder.1.0.conv2.bias": "enc.4x4_block0.conv1.bias",
        "middle1.time.bias": "dec.4x4_in0.affine.bias",
        "middle2.conv2.bias": "dec.4x4_in1.conv1.bias",
        "decoder.0.1.conv2.bias": "dec.4x4_block1.conv1.bias",
        "decoder.1.0.time.bias": "dec.8x8_block0.affine.bias",
        "up.0.conv2.bias": "dec.8x8_up.conv1.bias",
    }.items():
        assert own[ours].unique().tolist() == [float(names.index(f"model.{theirs}"))], ours
    q, k, v = own["middle1.attention.qkv.bias"].unflatten(0, (3, -1))  # theirs (channel, 3)
    assert (
        torch.equal(q, torch.arange(16) * 3.0) and torch.equal(v, q + 2) and torch.equal(k, q + 1)
    )
    none = tensors["model.map_label.bias"]
    first = tensors["model.map_label.weight"][:, 0] * math.sqrt(3) + none
    embedding = own["class_embedding.weight"]
    torch.testing.assert_close(embedding[0], first)
    assert torch.equal(embedding[3], none)


PROCESSES = {
    "EDMPrecond": ({}, DiffusionConfig("edm", parameterization="edm", times="log_normal_sigma")),
    "VPPrecond": ({}, DiffusionConfig("vp", times="uniform")),
    "VEPrecond": (
        {},
        DiffusionConfig("ve", times="log_normal_sigma", schedule_options={"sigma_min": 0.02}),
    ),
}


@pytest.mark.parametrize("kind", PROCESSES)
def test_each_preconditioning_is_a_schedule(kind):
    arguments, expected = PROCESSES[kind]
    model = read(snapshot(None, kind, **arguments))
    assert model.config.diffusion == expected
    assert (model.config.sample.sampler, model.config.sample.clip_x0) == ("heun_edm", False)
    sign = -1 if kind == "VEPrecond" else 1
    wanted = sign * weights()["model.dec.8x8_aux_conv.bias"]
    assert torch.equal(model.network.state_dict()["out_conv.bias"], wanted)


@pytest.mark.parametrize("kind", PROCESSES)
def test_the_outputs_are_those_of_edm(kind):
    """D(x; sigma) of class 1, on a diagonal; the fixture's numbers are its own network's."""
    model = exact(read(snapshot(None, kind)))
    schedule = model.diffusion.schedule
    for sigma, expected in FIXTURE["outputs"][kind].items():
        level = schedule.level(schedule.time(float(sigma)))
        x = waves(7, 1, 1, 8, 8) * (1 + float(sigma)) * level.alpha
        with torch.inference_mode():
            out = model.diffusion.denoise(x, level, torch.tensor([1])).x0[0, 0].diagonal()
        torch.testing.assert_close(out, torch.tensor(expected), rtol=2e-5, atol=2e-5)


def test_labels_without_dropout_know_no_picture_without_one():
    model = read(snapshot(label_dropout=0))
    assert model.shape == Shape(1, 8, 8, 3, null_label=False)
    with pytest.raises(ConfigError, match="trained with labels only"):
        model.sample(1, label=0, guidance_scale=2)


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in weights().items() if name not in names}


def with_tensor(name: str, value: Any) -> bytes:
    return snapshot({**weights(), name: value})


TINY = torch.zeros(4)
REFUSED: dict[str, tuple[bytes, str]] = {
    "another network": (snapshot(model_type="DhariwalUNet"), "got 'DhariwalUNet', expected SongU"),
    "no model_type": (snapshot(None, "iDDPMPrecond"), "is of class iDDPMPrecond, expected EDMPre"),
    "skip encoder": (snapshot(encoder_type="skip"), "encoder_type: got 'skip'; expected one of"),
    "skip decoder": (snapshot(decoder_type="skip"), "decoder_type: got 'skip', expected standard"),
    "a filter": (snapshot(resample_filter=[1, 2, 1]), "resample_filter: got .*expected .1, 1. or"),
    "unknown": (snapshot(more=3), "more: unknown key"),
    "sizes": (snapshot(channel_mult=[1, 2, 2, 2, 2]), "images of 8x8 cannot be halved 4 times"),
    "wide": (snapshot(model_channels=4000), "many more than the .* tensors"),
    "resolution": (snapshot(img_resolution=10**9), "img_resolution: got 1,?000,?000,?000, expec"),
    "sigma_max": (snapshot(sigma_max=float("nan")), "expected rising numbers"),
    "nested": (snapshot(channel_mult=[[1]]), "channel_mult: expected numbers or text"),
    "an object": (snapshot(dropout=Call("collections.OrderedDict")), "dropout: expected numbers"),
    "by position": (
        pickled({"ema": persistent("EDMPrecond", {"_init_args": (8,), "_init_kwargs": {}})}),
        "arguments without names",
    ),
    "missing": (snapshot(without(CONV)), r"8x8_conv.weight is missing, expected \(8, 1, 3, 3\)"),
    "shape": (with_tensor(CONV, torch.zeros(8, 1, 3, 2)), r"conv.weight is \(8, 1, 3, 2\), expec"),
    "one more": (with_tensor("model.more", TINY), "has model.more, which this network does not"),
    "not finite": (with_tensor(CONV, torch.full((8, 1, 3, 3), math.nan)), "stem.weight is not fi"),
    "whole numbers": (with_tensor(CONV, torch.ones(8, 1, 3, 3, dtype=torch.int64)), "is torch.int"),
    "another kernel": (
        with_tensor("model.dec.8x8_up.conv0.resample_filter", torch.zeros(1, 1, 4, 4)),
        "8x8_up.conv0.resample_filter is not resample_filter",
    ),
    "no ema": (pickled({"G_ema": 1}), "is damaged, or holds no 'ema' of EDM"),
    "a number": (pickled({"ema": 3}), "holds no 'ema' of EDM"),
    "a gadget": (pickled({"ema": Call("os.mkdir", ("canary",))}), "asks for os.mkdir, which no"),
    "a gadget beside": (
        snapshot({**weights(), "model.a": Call("os.system", ("mkdir canary",))}),
        "asks for os.system",
    ),
    "a gadget in a storage": (
        with_tensor(
            CONV,
            parameter(tensor(TINY, Call("torch.storage._load_from_bytes", (
                pickled(Call("os.mkdir", ("canary",))),
            )))),
        ),
        "is damaged, or holds no 'ema'",
    ),
    "beyond the storage": (
        with_tensor(CONV, tensor(TINY, storage(TINY), 0, (10**12,), (1,))),
        "conv.weight has more numbers than the file",
    ),
    "one number for all": (
        with_tensor(CONV, tensor(TINY, storage(TINY), 0, (10**7, 10**7), (0, 0))),
        "conv.weight has more numbers than the file",
    ),
    "before the storage": (
        with_tensor(CONV, tensor(TINY, storage(TINY), -1, (8, 1, 3, 3), (0, 0, 0, 0))),
        "conv.weight has more numbers than the file",
    ),
    "truncated": (snapshot()[:5000], "is damaged"),
    "empty": (b"", "is damaged"),
    "not EDM's": (pickle.dumps(SOURCE), "is damaged, or holds no 'ema'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_one_line(name):
    content, message = REFUSED[name]
    with pytest.raises((CheckpointError, ConfigError), match=message) as caught:
        read(content)
    assert "\n" not in str(caught.value)


def test_a_module_that_is_in_itself_ends():
    state: dict[str, Any] = {"_init_args": (), "_init_kwargs": {}, "_parameters": {}}
    state |= {"_buffers": {}, "_modules": {}}
    inner = persistent("Any", state)
    both = {**state, "_modules": {"a": inner, "b": inner}}
    with pytest.raises(CheckpointError, match=r"holds the module [ab]\. twice"):
        read(pickled({"ema": persistent("EDMPrecond", both)}))


def test_the_commands(capsys):
    Path("network-snapshot-000123.pkl").write_bytes(snapshot())
    Path("training-state-000123.pt").write_bytes(b"PK")
    out = ["--out", "model.safetensors"]
    assert cli.main(["import", "network-snapshot-000123.pkl", *out]) == 0
    assert cli.main(["sample", "model.safetensors", "--num", "1", "--steps", "2"]) == 0
    capsys.readouterr()
    for words, message in (
        (["import", "training-state-000123.pt", *out], "network-snapshot-000123.pkl beside it"),
        (["export", "model.safetensors", "--to", "diffusers", "--out", "d"], "got song_unet, exp"),
    ):
        assert cli.main(words) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and message in lines[0], lines
    with pytest.raises(UsageError, match="--to: no 'edm'"):
        formats.write(unnoise.load("model.safetensors", "cpu"), "edm", "d")
    assert FIXTURE["arguments"]["augment_dim"] == 9  # whose weights nothing here needs
