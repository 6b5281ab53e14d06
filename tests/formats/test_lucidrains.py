"""Checkpoints of denoising-diffusion-pytorch, read and written without it.

Names and shapes are those that its Trainer saves; tests/parity compares with the original itself.
"""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import unnoise
from unnoise import cli, events, formats
from unnoise.errors import CheckpointError, ConfigError
from unnoise.formats import lucidrains

SIZE = {"image_size": 8}
Shapes = Iterator[tuple[str, tuple[int, ...]]]


def block(name: str, channels: int, out: int) -> Shapes:
    yield f"{name}.mlp.1.weight", (2 * out, 32)
    yield f"{name}.mlp.1.bias", (2 * out,)
    for part, inputs in (("block1", channels), ("block2", out)):
        yield f"{name}.{part}.proj.weight", (out, inputs, 3, 3)
        yield f"{name}.{part}.proj.bias", (out,)
        yield f"{name}.{part}.norm.g", (1, out, 1, 1)
    if channels != out:
        yield f"{name}.res_conv.weight", (out, channels, 1, 1)
        yield f"{name}.res_conv.bias", (out,)


def attention(name: str, channels: int, full: bool) -> Shapes:
    yield f"{name}.mem_kv", (2, 3, 4, 5) if full else (2, 3, 5, 4)
    yield f"{name}.norm.g", (1, channels, 1, 1)
    yield f"{name}.to_qkv.weight", (45, channels, 1, 1)
    out = f"{name}.to_out" if full else f"{name}.to_out.0"
    yield f"{out}.weight", (channels, 15, 1, 1)
    yield f"{out}.bias", (channels,)
    if not full:
        yield f"{name}.to_out.1.g", (1, channels, 1, 1)


def level(
    name: str, joined: int, width: int, full: bool, conv: tuple[str, int, int, int]
) -> Shapes:
    yield from block(f"{name}.0", joined, width)
    yield from block(f"{name}.1", joined, width)
    yield from attention(f"{name}.2", width, full)
    part, inputs, out, side = conv
    yield f"{name}.{part}.weight", (out, inputs, side, side)
    yield f"{name}.{part}.bias", (out,)


def unet() -> Shapes:
    """Unet(8, init_dim=6, dim_mults=(1, 2), channels=3, attn_heads=3, attn_dim_head=5)."""
    for name, shape in (("init_conv", (6, 3, 7, 7)), ("final_conv", (3, 6, 1, 1)),
                        ("time_mlp.1", (32, 8)), ("time_mlp.3", (32, 32))):  # fmt: skip
        yield f"{name}.weight", shape
        yield f"{name}.bias", shape[:1]
    yield from level("downs.0", 6, 6, False, ("3.1", 24, 8, 1))
    yield from level("downs.1", 8, 8, True, ("3", 8, 16, 3))
    yield from block("mid_block1", 16, 16)
    yield from attention("mid_attn", 16, True)
    yield from block("mid_block2", 16, 16)
    yield from level("ups.0", 24, 16, True, ("3.1", 16, 8, 3))
    yield from level("ups.1", 14, 8, False, ("3", 8, 6, 3))
    yield from block("final_res_block", 12, 6)


def cosine(steps: int, s: float = 0.008) -> Tensor:
    """alpha_bar of 1 .. steps, float64."""
    u = torch.arange(steps + 1, dtype=torch.float64) / steps
    values = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2
    return torch.cumprod(1 - (1 - values[1:] / values[:-1]).clamp(max=0.999), dim=0)


def state(alpha_bar: Tensor, weight: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """A GaussianDiffusion's state: the tables that are read, and its U-Net's weights."""
    torch.manual_seed(0)
    snr = alpha_bar / (1 - alpha_bar)
    before = torch.cat([torch.ones(1), alpha_bar[:-1]])
    tables = {
        "betas": 1 - alpha_bar / before,
        "sqrt_recipm1_alphas_cumprod": snr**-0.5,
        "loss_weight": weight(snr),
    }
    weights = {f"model.{name}": torch.randn(shape) * 0.1 for name, shape in unet()}
    return weights | {name: value.float() for name, value in tables.items()}


def written(path: Path, average: dict[str, Tensor] | None = None, **others: Any) -> Path:
    """A Trainer's checkpoint with an average of the weights, by default of a v model."""
    average = state(cosine(100), lambda snr: snr / (snr + 1)) if average is None else average
    online = {name: value + 1 for name, value in average.items()}
    ema: dict[str, Tensor] = {f"ema_model.{name}": value for name, value in average.items()}
    ema |= {f"online_model.{name}": value for name, value in online.items()}
    ema |= {"initted": torch.tensor(True), "step": torch.tensor(3)}
    opt = {"state": {}, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.99), "params": [0]}]}
    checkpoint = {"step": 3, "model": online, "opt": opt, "ema": ema, "scaler": None}
    torch.save(checkpoint | {"version": "2.3.1", **others}, path)
    return path


def test_the_average_is_read_and_written_back_the_same(tmp_path):
    path = written(tmp_path / "model-1.pt")
    model = formats.read(path, changes={"image_size": 8, "image_width": 12})
    assert (model.shape.channels, model.shape.height, model.shape.width) == (3, 8, 12)
    network = model.config.network
    assert network == lucidrains.LucidrainsConfig(8, (1, 2), 6, (1,), 3, 5)
    diffusion = model.config.diffusion
    assert (diffusion.schedule, diffusion.timesteps) == ("cosine", 100)
    assert (diffusion.parameterization, diffusion.weighting) == ("v", "snr")
    assert model.sample(2, steps=3).shape == (2, 3, 8, 12)
    formats.write(model, "lucidrains", tmp_path / "model-2.pt")
    before, after = (torch.load(tmp_path / f"model-{n}.pt", weights_only=True) for n in (1, 2))
    assert before.keys() == after.keys() and after["scaler"] is None
    averaged = {name: v for name, v in before["ema"].items() if name.startswith("ema_model")}
    assert averaged.keys() | {"initted", "step"} < after["ema"].keys()
    assert len(after["ema"]) == 2 * len(after["model"]) + 2
    for name, value in averaged.items():
        for other in (after["ema"][name], after["model"][name.removeprefix("ema_model.")]):
            torch.testing.assert_close(other, value, rtol=2e-5, atol=1e-7)
    assert after["opt"]["param_groups"][0]["params"] == list(range(len([*unet()])))
    again = formats.read(tmp_path / "model-2.pt", changes=SIZE)
    assert again.config.diffusion == diffusion and again.config.network == network


def waves(number: int, shape: tuple[int, ...]) -> Tensor:
    count = torch.arange(math.prod(shape), dtype=torch.float64)
    return (0.3 * torch.sin(1.7 * count + number)).float().reshape(shape)


def test_the_outputs_are_those_of_the_original(tmp_path):
    """The numbers are its Unet's, with these weights and inputs."""
    shapes = dict(unet())
    weights = {f"model.{n}": waves(i, shapes[n]) for i, n in enumerate(sorted(shapes))}
    tensors = state(cosine(100), lambda snr: snr) | weights
    model = formats.read(written(tmp_path / "model-1.pt", tensors), changes=SIZE)
    x = torch.stack([3 * waves(50 + i, (3, 8, 4)) for i in range(2)])
    out = model.network(x, torch.tensor([3.0, 731.0])).flatten()[::24]
    want = [-0.3787919, 0.3578463, 0.6383605, -0.6010926, -0.2752599, 0.1969439, -0.4317851,
            -0.5777833]  # fmt: skip
    torch.testing.assert_close(out, torch.tensor(want), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("weight", "objective", "weighting", "note"),
    [
        (lambda snr: snr / snr, "eps", "none", ""),
        (lambda snr: snr, "x0", "snr", ""),
        (lambda snr: snr / (snr + 1), "v", "snr", ""),
        (lambda snr: snr.clamp(max=5) / snr, "eps", "min_snr", ""),
        (lambda snr: snr.clamp(max=5), "x0", "min_snr", ""),
        (lambda snr: snr.clamp(max=3) / (snr + 1), "v", "min_snr", "min_snr_gamma was 3"),
    ],
)
def test_the_objective_by_its_loss_weight(tmp_path, weight, objective, weighting, note):
    path, messages = written(tmp_path / "model-1.pt", state(cosine(100), weight)), []
    with events.listening(messages.append):
        model = formats.read(path, changes=SIZE)
    diffusion = model.config.diffusion
    assert (diffusion.parameterization, diffusion.weighting) == (objective, weighting)
    assert [note in message.text for message in messages] == [True] * bool(note)
    formats.write(model, "lucidrains", tmp_path / "model-2.pt")
    assert formats.read(tmp_path / "model-2.pt", changes=SIZE).config.diffusion == diffusion


def test_learned_variance_predicts_eps(tmp_path):
    """Its class has pred_v unless told otherwise, and never looks at it."""
    tensors = state(cosine(100), lambda snr: snr / (snr + 1))
    tensors["model.final_conv.weight"] = torch.randn(6, 6, 1, 1)
    tensors["model.final_conv.bias"] = torch.randn(6)
    model = formats.read(written(tmp_path / "model-1.pt", tensors), changes=SIZE)
    diffusion = model.config.diffusion
    found = (diffusion.variance, diffusion.parameterization, diffusion.weighting)
    assert found == ("learned", "eps", "none")
    assert model.sample(1, steps=3, sampler="ddpm").shape == (1, 3, 8, 8)


def shaped(*shape: int) -> Tensor:
    return torch.ones(shape)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model.init_conv.weight": shaped(6, 6, 7, 7)},
            "self_condition: got True, expected False",
        ),
        (
            {"model.final_conv.weight": shaped(8, 6, 1, 1)},
            "out_dim: got 8 for images of 3 channels",
        ),
        ({"model.time_mlp.0.weights": shaped(8)}, "Fourier features of time cannot be expressed"),
        ({"model.classes_emb.weight": shaped(9, 8)}, "classifier_free_guidance.py cannot be"),
        ({"model.downs.0.2.fn.norm.g": shaped(1)}, "attention of an older version cannot be"),
        ({"model.mid_attn.mem_kv": None}, "mid_attn.mem_kv is missing, unlike in version 2"),
        ({"model.time_mlp.1.weight": shaped(0, 0)}, r"time_mlp.1.weight is \(0, 0\), unlike in"),
        ({"model.downs.1.3.weight": None}, "downs.1.3.weight is missing, unlike in"),
        ({"model.downs.1.3.weight": shaped(17, 8, 3, 3)}, r"is \(17, 8, 3, 3\), expected \(16, 8"),
        (
            {"model.ups.0.2.mem_kv": shaped(2, 9, 4, 5)},
            r"mem_kv is \(2, 9, 4, 5\), expected \(2, 3",
        ),
        ({"model.more": shaped(1)}, r"more is \(1,\), expected None"),
        ({"model.init_conv.bias": torch.full((6,), torch.nan)}, "init_conv.bias is not finite"),
        ({"betas": None}, "betas is missing"),
        ({"betas": shaped(7)}, r"sqrt_recipm1_alphas_cumprod is \(100,\), expected \(7,\)"),
        ({"loss_weight": shaped(100) * 2}, "loss_weight: got that of no objective"),
        ({"loss_weight": torch.full((100,), torch.nan)}, "loss_weight: got that of no objective"),
        (
            {"sqrt_recipm1_alphas_cumprod": (1 / cosine(100, 0.0081) - 1).sqrt()},
            "betas: got those of another schedule, expected those of linear, cosine, sigmoid",
        ),
        ({"sqrt_recipm1_alphas_cumprod": shaped(100) * torch.nan}, "betas: got those of another"),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_name(tmp_path, change, message):
    tensors = state(cosine(100), lambda snr: snr / (snr + 1)) | change
    tensors = {name: value for name, value in tensors.items() if value is not None}
    path = written(tmp_path / "model-1.pt", tensors)
    with pytest.raises(CheckpointError, match=message) as caught:
        formats.read(path, format="lucidrains", changes=SIZE)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("pickle-ran",)


def test_hostile_files_are_one_line_and_run_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path / "model-1.pt")
    whole = path.read_bytes()
    for content in (whole[:-1000], whole[:60_000], pickle.dumps(Evil()), b"", b"\x80\x02junk"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"damaged|cannot be read"):
            formats.read(path, format="lucidrains", changes=SIZE)
    for others, message in (
        ({"ema": None}, "expected a checkpoint with averaged weights, ema"),
        ({"ema": {"ema_model.betas": "x"}}, "expected a checkpoint with averaged weights, ema"),
        ({"ema": {"step": torch.tensor(0)}}, "time_mlp.1.weight is missing"),
        ({"opt": Evil()}, "a pickle of more than tensors"),
    ):
        with pytest.raises(CheckpointError, match=message):
            formats.read(written(path, None, **others), format="lucidrains", changes=SIZE)
    torch.save([1], path)
    with pytest.raises(CheckpointError, match="expected a checkpoint with averaged weights, ema"):
        formats.read(path, format="lucidrains", changes=SIZE)
    with pytest.raises(CheckpointError, match="is of no format that unnoise knows"):
        formats.read(path, changes=SIZE)
    assert not Path("pickle-ran").exists()


@pytest.mark.parametrize(
    ("changes", "classes", "message"),
    [
        ({}, 3, "network.kind: got lucidrains of 3 classes, expected lucidrains of none"),
        ({"network.kind": "unet", "network.norm_groups": 8}, 0, "got unet of 0 classes"),
        ({"diffusion.time_scale": 0.25}, 0, "time_scale: got 0.25, and variance small"),
        ({"diffusion.variance": "large"}, 0, "expected 1, and small or learned"),
        ({"diffusion.variance": "learned"}, 0, "got v on schedule cosine; expected eps on"),
        ({"diffusion.parameterization": "flow"}, 0, "got flow on schedule cosine"),
        ({"diffusion.schedule": "flow", "diffusion.times": "uniform"}, 0, "v on schedule flow"),
    ],
)
def test_a_model_that_it_cannot_be_is_refused_by_name(tmp_path, changes, classes, message):
    from tests.formats.test_diffusers import made

    own = {"network.kind": "lucidrains", "network.channel_multipliers": (1, 1)}
    own |= {"network.base_channels": 8, "diffusion.parameterization": "v"}
    with pytest.raises(ConfigError, match=message):
        formats.write(made({**own, **changes}, classes), "lucidrains", tmp_path / "model-1.pt")
    assert not (tmp_path / "model-1.pt").exists()


def test_the_commands(tmp_path, capsys):
    path, out = written(tmp_path / "model-1.pt"), tmp_path / "model.safetensors"
    read = ["import", str(path), "--out", str(out)]
    back = ["export", str(out), "--to", "lucidrains", "--out", str(tmp_path / "model-2.pt")]
    assert cli.main([*read, "--image-size", "8"]) == 0
    assert f"next: unnoise sample {out}" in capsys.readouterr().out
    assert unnoise.load(out, "cpu").weights_hash == formats.read(path, changes=SIZE).weights_hash
    assert cli.main(back) == 0
    assert "next: Trainer(..).load(1)" in capsys.readouterr().out
    for arguments, message in (
        (read, "does not say the size of its images; give --image-size 32"),
        ([*read, "--image-size", "9"], "expected fewer levels, as images of 9x9"),
        ([*back[:-1], str(tmp_path / "folder")], "expected a file name that ends in .pt"),
        (back, "is a file that unnoise did not write"),
        ([*back[:-1], "x.pt", "--half"], "--half: files of lucidrains hold full precision"),
    ):
        assert cli.main(arguments) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and message in lines[0], lines
