"""ckpt.pt as w86763777's pytorch-ddpm names it: every tensor in its place, bad files by name.

`shapes` names the tensors as that package does; tests/parity holds it against it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import unnoise
from tests.formats.test_diffusers import made
from unnoise import cli, events, formats
from unnoise.config import override
from unnoise.errors import ConfigError, UserError
from unnoise.networks.layers import ResBlock

LAYOUT: dict[str, Any] = {"T": 50, "ch": 32, "ch_mult": [2, 1], "attn": [1], "num_res_blocks": 2}
TABLE = "time_embedding.timembedding.0.weight"


def shapes(
    T: int,
    ch: int,
    ch_mult: Sequence[int],
    attn: Sequence[int],
    num_res_blocks: int,
) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors of a UNet."""
    found: dict[str, tuple[int, ...]] = {TABLE: (T, ch)}

    def layer(name: str, *shape: int) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = shape, shape[:1]

    def block(name: str, n: int, width: int, attends: bool) -> None:
        layer(f"{name}.block1.0", n)
        layer(f"{name}.block1.2", width, n, 3, 3)
        layer(f"{name}.temb_proj.1", width, 4 * ch)
        layer(f"{name}.block2.0", width)
        layer(f"{name}.block2.3", width, width, 3, 3)
        if n != width:
            layer(f"{name}.shortcut", width, n, 1, 1)
        if attends:
            layer(f"{name}.attn.group_norm", width)
            for part in ("proj_q", "proj_k", "proj_v", "proj"):
                layer(f"{name}.attn.{part}", width, width, 1, 1)

    layer("time_embedding.timembedding.1", 4 * ch, ch)
    layer("time_embedding.timembedding.3", 4 * ch, 4 * ch)
    layer("head", ch, 3, 3, 3)
    n, number, skips = ch, 0, [ch]
    for level, multiplier in enumerate(ch_mult):
        for _ in range(num_res_blocks):
            block(f"downblocks.{number}", n, ch * multiplier, level in attn)
            n, number = ch * multiplier, number + 1
            skips.append(n)
        if level + 1 < len(ch_mult):
            layer(f"downblocks.{number}.main", n, n, 3, 3)
            number += 1
            skips.append(n)
    block("middleblocks.0", n, n, True)
    block("middleblocks.1", n, n, False)
    number = 0
    for level, multiplier in reversed(list(enumerate(ch_mult))):
        for _ in range(num_res_blocks + 1):
            block(f"upblocks.{number}", n + skips.pop(), ch * multiplier, level in attn)
            n, number = ch * multiplier, number + 1
        if level:
            layer(f"upblocks.{number}.main", n, n, 3, 3)
            number += 1
    layer("tail.0", n)
    layer("tail.2", 3, n, 3, 3)
    return found


def weights(**changes: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    sizes = shapes(**{**LAYOUT, **changes})
    tensors = {name: torch.randn(shape) * 0.1 for name, shape in sizes.items()}
    for time, row in enumerate(tensors[TABLE]):
        for i in range(len(row) // 2):
            angle = time * math.exp(-math.log(10000) * 2 * i / len(row))
            row[2 * i], row[2 * i + 1] = math.sin(angle), math.cos(angle)
    return tensors


def saved(
    path: Path, tensors: dict[str, Tensor], flagfile: str | None = "--img_size=32", **more: Any
) -> Path:
    """ckpt.pt, whose other weights are all 0, and flagfile.txt."""
    other = {name: torch.zeros_like(value) for name, value in tensors.items()}
    saved = {"net_model": other, "ema_model": tensors, "step": 3, "optim": {"state": {}}, **more}
    torch.save(saved, path / "ckpt.pt")
    if flagfile is not None:
        (path / "flagfile.txt").write_text(flagfile)
    return path / "ckpt.pt"


def test_every_tensor_is_read_and_written_back_the_same(tmp_path):
    tensors = weights()
    file = saved(tmp_path, tensors, "--noparallel\n--attn=1\n", x_T=torch.zeros(4, 3, 16, 16))
    model = formats.read(file)
    network, shape = model.config.network, model.shape
    assert (network.channel_multipliers, network.blocks_per_level, network.attention_levels) == (  # pyright: ignore
        (2, 1), 2, (1,)
    )  # fmt: skip
    assert (shape.channels, shape.height, shape.num_classes) == (3, 16, 0)
    formats.write(model, "pytorch_ddpm", tmp_path / "back")
    written = torch.load(tmp_path / "back" / "ckpt.pt", weights_only=True)["ema_model"]
    assert written.keys() == tensors.keys()
    for name, value in tensors.items():
        assert torch.allclose(written[name], value, atol=1e-4 if name == TABLE else 0.0), name
    again = formats.read(tmp_path / "back" / "ckpt.pt")
    assert (again.config, again.weights_hash) == (model.config, model.weights_hash)


def test_parts_of_the_joined_projection_and_of_attention(tmp_path):
    """By value: a wrong order has the right shapes, and is silent."""
    tensors = weights()
    order = [name for name in tensors if name.endswith("temb_proj.1.bias")]
    for number, name in enumerate(order):
        tensors[name] = torch.full_like(tensors[name], float(number))
    for number, letter in enumerate("qkv"):
        name = f"middleblocks.0.attn.proj_{letter}.bias"
        tensors[name] = torch.full_like(tensors[name], float(number))
    network = formats.read(saved(tmp_path, tensors)).network
    bias = network.time_projection.bias.split(network._embedding_widths)  # pyright: ignore
    blocks = {name: m.slot for name, m in network.named_modules() if isinstance(m, ResBlock)}
    for ours, theirs in (
        ("encoder.0.1.block", "downblocks.1"),
        ("encoder.1.0.block", "downblocks.3"),
        ("middle1", "middleblocks.0"),
        ("middle2", "middleblocks.1"),
        ("decoder.0.2.block", "upblocks.2"),
        ("decoder.1.0.block", "upblocks.4"),
    ):
        want = float(order.index(f"{theirs}.temb_proj.1.bias"))
        assert bias[blocks[ours]].unique().tolist() == [want], ours
    heads = network.middle_attention.qkv.bias.unflatten(0, (3, -1))  # pyright: ignore
    assert [part.unique().tolist() for part in heads] == [[0.0], [1.0], [2.0]]


def test_columns_of_the_first_layer_follow_their_sines_and_cosines(tmp_path):
    """Theirs are sin 0, cos 0, sin 1, ..; ours are all cosines and then all sines."""
    tensors, name = weights(), "time_embedding.timembedding.1.weight"
    tensors[name] = torch.arange(32.0).expand(128, 32).clone()
    first = formats.read(saved(tmp_path, tensors)).network.time_mlp[0].weight  # pyright: ignore
    assert first[0].tolist() == [*range(1, 32, 2), *range(0, 32, 2)]


def test_the_process_of_the_flags(tmp_path):
    said: list[Any] = []
    with events.listening(said.append):
        file = saved(tmp_path, weights(), None)
        with pytest.raises(UserError, match="size of its images; give --image-size 32"):
            formats.read(file)
        model = formats.read(file, changes={"image_size": 32})
    assert "no flagfile.txt beside it; assumes betas from 0.0001 to 0.02" in said.pop().text
    diffusion, sample = model.config.diffusion, model.config.sample
    assert (diffusion.variance, diffusion.timesteps, model.shape.height) == ("large", 50, 32)
    betas = 1 - model.diffusion.schedule.alpha_bar[1:] / model.diffusion.schedule.alpha_bar[:-1]  # pyright: ignore
    assert torch.allclose(torch.tensor(betas), torch.linspace(1e-4, 0.02, 50).double())
    assert (sample.sampler, sample.steps, sample.clip_x0) == ("ddpm", 50, False)
    flags = "--beta_1=0.001\n--beta_T=0.3\n--var_type=fixedsmall\n--img_size=8\n--dropout=0.2\n"
    with events.listening(said.append):
        for file, given in (
            (saved(tmp_path, weights(), flags), None),
            (tmp_path / "ckpt.pt", flags),
        ):
            model = formats.read(file, flags=given)
            assert model.config.diffusion.variance == "small" and model.shape.height == 8
            assert model.diffusion.schedule.alpha_bar[1] == pytest.approx(0.999)  # pyright: ignore
            assert model.config.network.dropout == 0.2  # pyright: ignore
            (tmp_path / "flagfile.txt").unlink(missing_ok=True)
    assert not said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--T=1000", "flag T: got 1000, but the weights are of 50"),
        ("--ch=64", "flag ch: got 64, but the weights are of 32"),
        ("--ch_mult=1 --ch_mult=2", "flag ch_mult: got 1,2, but the weights are of 2,1"),
        ("--attn=0 --attn=1", "flag attn: got 0,1, but the weights are of 1"),
        ("--num_res_blocks=3", "flag num_res_blocks: got 3, but the weights are of 2"),
        ("--img_size=32", "flag img_size: got 32, but the weights are of 16"),
        ("--mean_type=xstart", "flag mean_type: got 'xstart', expected epsilon"),
        ("--var_type=learned", "flag var_type: got 'learned'; expected one of"),
        ("--beta_T=2", "flag beta_T: got 2, expected more than 0, less than 0.999"),
        ("--image_size=32", "flag image_size: unknown key; did you mean 'img_size'"),
    ],
)
def test_flags_that_do_not_fit_are_refused_by_name(tmp_path, flags, message):
    file = saved(tmp_path, weights(), "--ch=999", x_T=torch.zeros(4, 3, 16, 16))
    with pytest.raises(UserError, match=message) as caught:
        formats.read(file, flags=flags)
    assert "\n" not in str(caught.value)


def test_other_weights_are_refused_by_name(tmp_path):
    fine = weights()
    for tensors, message in (
        (fine | {TABLE: fine[TABLE] + 0.1}, "timembedding.0.weight holds other times"),
        (fine | {TABLE: fine[TABLE].long()}, "timembedding.0.weight holds other times"),
        (fine | {"x": torch.zeros(1)}, "has x, which this network does not use"),
        (fine | {"tail.2.bias": torch.zeros(6)}, r"tail.2.bias is \(6,\), expected \(3,\)"),
        (fine | {"upblocks.0.block2.3.weight": torch.zeros(48)}, "expected multiples of 32"),
        ({TABLE: fine[TABLE]}, "has no blocks of a decoder"),
    ):
        file = saved(tmp_path, tensors)
        with pytest.raises(UserError, match=message) as caught:
            formats.read(file)
        assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    for content in ([TABLE], {"ema_model": TABLE}, {"ema_model": {TABLE: 3}}):
        torch.save(content, tmp_path / "ckpt.pt")
        with pytest.raises(UserError, match="expected tensors by name"):
            formats.read(tmp_path / "ckpt.pt")


def test_a_state_dict_alone_is_read_too(tmp_path):
    model = formats.read(saved(tmp_path, weights()))
    for alone in (weights(), {"net_model": weights()}):
        torch.save(alone, tmp_path / "alone.pt")
        assert formats.read(tmp_path / "alone.pt").weights_hash == model.weights_hash


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"diffusion.variance": "learned"}, "variance: got learned, expected large or small"),
        (
            {"diffusion.schedule": "cosine", "diffusion.schedule_options": {}},
            "schedule: got cosine",
        ),
        ({"diffusion.parameterization": "x0"}, "parameterization: got x0, expected eps"),
        ({"diffusion.schedule_options": {"shift": 2.0}}, "schedule_options: got .*shift"),
        ({"network.attention_heads": 2}, "attention_heads: got 2, expected 1"),
        ({"network.conditioning": "scale_shift"}, "conditioning: got scale_shift, expected add"),
    ],
)
def test_a_model_that_it_cannot_be_is_refused_by_name(tmp_path, changes, message):
    read = formats.read(saved(tmp_path, weights()))
    model = unnoise.Model(read.network, override(read.config, changes), read.record)
    with pytest.raises(ConfigError, match=message):
        formats.write(model, "pytorch_ddpm", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_images_are_refused_by_name(tmp_path):
    usual = {"base_channels": 32, "norm_groups": 32, "frequencies": "iddpm"}
    usual |= {"attention_heads": 1, "conditioning": "additive"}
    model = made({f"network.{key}": value for key, value in usual.items()})
    with pytest.raises(ConfigError, match="images of 1 channels and 0 classes; expected 3"):
        formats.write(model, "pytorch_ddpm", tmp_path / "out")


def test_the_commands(tmp_path, capsys):
    file, out, back = saved(tmp_path, weights()), tmp_path / "m.safetensors", tmp_path / "back"
    assert cli.main(["import", str(file), "--out", str(out)]) == 0
    assert cli.main(["export", str(out), "--to", "pytorch_ddpm", "--out", str(back)]) == 0
    assert f"next: main.py --flagfile {back}/flagfile.txt --eval" in capsys.readouterr().out
    assert "--ch_mult=2\n--ch_mult=1\n--attn=1\n" in (back / "flagfile.txt").read_text()
    for path in (back, back / "ckpt.pt"):
        assert cli.main(["import", f"{path}", "--out", f"{tmp_path}/n.safetensors"]) == 0
        assert (tmp_path / "n.safetensors").read_bytes() == out.read_bytes()


def test_what_is_said_of_an_imported_model(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    formats.read(saved(tmp_path, weights(T=3))).save(run / "model.safetensors")
    assert cli.main(["info", str(run / "model.safetensors")]) == 0
    assert "training   imported from pytorch_ddpm\n" in capsys.readouterr().out
    assert cli.main(["push", str(run / "model.safetensors"), "a/b", "--out", f"{tmp_path}/c"]) == 0
    card = (tmp_path / "c" / "README.md").read_text()
    assert "imported from pytorch_ddpm into unnoise." in card and "trained by" not in card
    for own in (run, run / "model.safetensors"):
        with pytest.raises(UserError, match="is unnoise's own already"):
            formats.read(own)
