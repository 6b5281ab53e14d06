"""Weights named as by improved-diffusion and guided-diffusion: every tensor in its place.

`shapes` names the tensors as those packages do; tests/parity holds it against them.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import unnoise
from tests.formats.test_diffusers import Evil, made
from unnoise import cli, events, formats
from unnoise.errors import CheckpointError, ConfigError, UserError
from unnoise.formats import openai
from unnoise.networks.layers import ResBlock

SMALL: dict[str, Any] = {"multipliers": (1, 2), "attention": (1,), "blocks": 1}
FLAGS = "--image_size 16 --num_heads 2 --channel_mult 1,2"
UPDOWN = {**SMALL, "updown": True, "factor": 2, "outputs": 6, "classes": 5}


def shapes(
    multipliers: tuple[int, ...],
    attention: tuple[int, ...],
    blocks: int,
    updown: bool = False,
    factor: int = 1,
    outputs: int = 3,
    classes: int = 0,
    base: int = 32,
    inputs: int = 3,
) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors of a UNetModel; `factor` 2 has scale and shift."""
    found: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *shape: int) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = shape, shape[:1]

    def block(name: str, n: int, width: int) -> None:
        layer(f"{name}.in_layers.0", n)
        layer(f"{name}.in_layers.2", width, n, 3, 3)
        layer(f"{name}.emb_layers.1", factor * width, 4 * base)
        layer(f"{name}.out_layers.0", width)
        layer(f"{name}.out_layers.3", width, width, 3, 3)
        if n != width:
            layer(f"{name}.skip_connection", width, n, 1, 1)

    def attend(name: str, width: int) -> None:
        layer(f"{name}.norm", width)
        layer(f"{name}.qkv", 3 * width, width, 1)
        layer(f"{name}.proj_out", width, width, 1)

    layer("time_embed.0", 4 * base, base)
    layer("time_embed.2", 4 * base, 4 * base)
    if classes:
        found["label_emb.weight"] = (classes, 4 * base)
    layer("input_blocks.0.0", base, inputs, 3, 3)
    n, number, skips = base, 1, [base]
    for level, multiplier in enumerate(multipliers):
        for _ in range(blocks):
            block(f"input_blocks.{number}.0", n, base * multiplier)
            n, number = base * multiplier, number + 1
            if level in attention:
                attend(f"input_blocks.{number - 1}.1", n)
            skips.append(n)
        if level + 1 < len(multipliers):
            down = f"input_blocks.{number}.0"
            block(down, n, n) if updown else layer(f"{down}.op", n, n, 3, 3)
            number += 1
            skips.append(n)
    block("middle_block.0", n, n)
    attend("middle_block.1", n)
    block("middle_block.2", n, n)
    number = 0
    for level, multiplier in reversed(list(enumerate(multipliers))):
        for i in range(blocks + 1):
            block(f"output_blocks.{number}.0", n + skips.pop(), base * multiplier)
            n, number = base * multiplier, number + 1
            if level in attention:
                attend(f"output_blocks.{number - 1}.1", n)
            if level and i == blocks:
                up = f"output_blocks.{number - 1}.{1 + (level in attention)}"
                block(up, n, n) if updown else layer(f"{up}.conv", n, n, 3, 3)
    layer("out.0", n)
    layer("out.2", outputs, n, 3, 3)
    return found


def weights(layout: dict[str, Any]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn(shape) * 0.1 for name, shape in shapes(**layout).items()}


def read(
    path: Path, tensors: dict[str, Tensor], flags: str | None = FLAGS, **asked: Any
) -> unnoise.Model:
    torch.save(tensors, path / "ema.pt")
    return formats.read(path / "ema.pt", flags=flags, **asked)


LAYOUTS: dict[str, tuple[dict[str, Any], str]] = {
    "convolutions": (SMALL, FLAGS),
    "resampling in blocks, scale and shift, classes": (UPDOWN, FLAGS),
    "no attention but in the middle": (
        {**SMALL, "attention": (), "blocks": 2},
        "--image_size 16 --num_head_channels 16 --channel_mult 1,2",
    ),
    "one level": ({**SMALL, "multipliers": (1,), "attention": (0,)}, "--image_size 9"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_tensor_is_read_and_written_back_the_same(tmp_path, name):
    layout, flags = LAYOUTS[name]
    tensors = weights(layout)
    model = read(tmp_path, tensors, flags)
    network, shape = model.config.network, model.shape
    assert (network.channel_multipliers, network.blocks_per_level, network.attention_levels) == (  # pyright: ignore
        layout["multipliers"], layout["blocks"], layout["attention"]
    )  # fmt: skip
    assert (shape.num_classes, shape.null_label) == (
        (5, False) if layout.get("classes") else (0, True)
    )
    formats.write(model, "openai", tmp_path / "back.pt")
    written = torch.load(tmp_path / "back.pt", weights_only=True)
    assert written.keys() == tensors.keys()
    assert all(torch.equal(written[name], value) for name, value in tensors.items())
    again = formats.read(tmp_path / "back.pt", flags=openai.flags_of(model))
    assert (again.config.network, again.config.diffusion, again.weights_hash) == (
        model.config.network, model.config.diffusion, model.weights_hash
    )  # fmt: skip


@pytest.mark.parametrize("layout", [SMALL, UPDOWN], ids=["convolutions", "blocks"])
def test_each_block_gets_its_own_part_of_the_joined_projection(tmp_path, layout):
    """By value: a wrong order has the right shapes, and is silent."""
    tensors = weights(layout)
    order = [name for name in tensors if name.endswith("emb_layers.1.bias")]
    for number, name in enumerate(order):
        tensors[name] = torch.full_like(tensors[name], float(number))
    network = read(tmp_path, tensors).network
    bias = network.time_projection.bias.split(network._embedding_widths)  # pyright: ignore
    blocks = {name: m.slot for name, m in network.named_modules() if isinstance(m, ResBlock)}
    places = {
        "encoder.0.0.block": "input_blocks.1.0", "encoder.1.0.block": "input_blocks.3.0",
        "middle1": "middle_block.0", "middle2": "middle_block.2",
        "decoder.0.0.block": "output_blocks.0.0", "decoder.0.1.block": "output_blocks.1.0",
        "decoder.1.0.block": "output_blocks.2.0", "decoder.1.1.block": "output_blocks.3.0",
    }  # fmt: skip
    if layout is UPDOWN:
        places |= {"down.0": "input_blocks.2.0", "up.0": "output_blocks.1.2"}
    assert places.keys() == blocks.keys()
    for ours, theirs in places.items():
        want = float(order.index(f"{theirs}.emb_layers.1.bias"))
        assert bias[blocks[ours]].unique().tolist() == [want], ours


def test_both_orders_of_attention(tmp_path):
    """Rows are (head, query or key or value, channel), or the first two the other way around."""
    tensors = weights(SMALL)
    name, width = "middle_block.1.qkv.bias", 64
    rows = torch.arange(3 * width).float()
    older = tensors | {name: rows.view(3, 2, width // 2).transpose(0, 1).flatten()}
    for given, more in ((older, ""), (tensors | {name: rows}, " --use_new_attention_order True")):
        network = read(tmp_path, given, FLAGS + more).network
        assert torch.equal(network.middle_attention.qkv.bias.data, rows)  # pyright: ignore


def test_the_process_and_the_sampling_of_the_flags(tmp_path):
    said: list[Any] = []
    with events.listening(said.append):
        model = read(tmp_path, weights(SMALL))
    assert "assumes noise_schedule linear, diffusion_steps 1000, as the" in said.pop().text
    assert vars(model.config.diffusion) | {"schedule": "linear", "variance": "large"} == vars(
        model.config.diffusion
    )
    assert vars(model.config.sample) | {"sampler": "ddpm", "steps": 1000, "spacing": "uniform"} == (
        vars(model.config.sample)
    )
    more = (
        "--diffusion_steps=400 --noise_schedule cosine --rescale_timesteps yes --use_ddim t "
        "--timestep_respacing ddim25 --predict_xstart True --lr 1e-4 --clip_denoised False "
        "--sigma_small True --num_head_channels 16 --dropout 0.3 --use_fp16 True"
    )
    with events.listening(said.append):
        model = read(tmp_path, weights(SMALL), f"{FLAGS} {more}", changes={"sample.eta": 0.5})
    assert not said
    d, s, network = model.config.diffusion, model.config.sample, model.config.network
    assert (d.schedule, d.timesteps, d.time_scale, d.parameterization, d.variance) == (
        "cosine", 400, 2.5, "x0", "small"
    )  # fmt: skip
    assert (s.sampler, s.steps, s.spacing, s.clip_x0, s.eta) == ("ddim", 25, "leading", False, 0.5)
    assert (network.dropout, network.heads(64)) == (0.3, 4)  # pyright: ignore


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (None, "expected the flags of its training or sampling, such as --flags"),
        ("--num_heads 2", "flag image_size: is missing"),
        ("--image_size 64", "64 stands for channel_mult 1,2,3,4, but the weights are of 1,2"),
        ("--image_size 16 --channel_mult 1,2,2", "channel_mult: got 1,2,2, but .* of 1,2"),
        ("--image_size 16 --num_channels 64", "num_channels: got 64, but the weights are of 32"),
        ("--image_size 16 --num_res_blocks 2", "num_res_blocks: got 2, but the weights are of 1"),
        ("--image_size 16 --attention_resolutions 16", "resolutions: got 16, .* are of 8"),
        ("--image_size 16 --attention_resolutions 1", "resolutions: got , but .* are of 8"),
        ("--image_size 16 --timestep_respacing 1", "got 1, expected one number above 1"),
        ("--image_size 16 --class_cond True", "class_cond: got True, but the weights are of False"),
        ("--image_size 16 --learn_sigma True", "learn_sigma: got True, but"),
        ("--image_size 16 --use_scale_shift_norm 1", "use_scale_shift_norm: got True, but"),
        ("--image_size 16 --resblock_updown", "resblock_updown: got True, but"),
        ("--image_size 16 --num_heads 3", "attention_heads: got 3, expected a divisor"),
        ("--image_size 16 --num_heads_upsample 1", "num_heads_upsample: got 1, expected num_heads"),
        ("--image_size 16 --diffusion_steps 400", "rescale_timesteps: is missing; .* improved"),
        ("--image_size 16 --noise_schedule sqrt", "noise_schedule: got 'sqrt'; expected one of"),
        ("--image_size 16 --class_cond maybe", "class_cond: got 'maybe', expected on or off"),
        ("--image_size 16 --num_heads x", "num_heads: got 'x', expected a whole number"),
        ("--image_size 16 --num_heads 0", "num_heads: got 0, expected 1 to"),
        ("--image_size 99999", "image_size: got 99,?999, expected 1 to 4,096"),
        ("--image_size 16 --timestep_respacing 10,20", "got 10,20, expected one number"),
        ("--image_size 16 --timestep_respacing ddim30", "got ddim30, expected .* N divides 1000"),
        ("--image_size 16 --timestep_respacing 1001", "timestep_respacing: got 1001"),
        ("--image_size 16 --classifier_scale 1.0", "classifier_scale: is of a classifier"),
        ("--large_size 256 --small_size 64", "large_size: is of a classifier or an upsampler"),
        ("--image_size 16 --num_head 2", "num_head: unknown key; did you mean 'num_heads'"),
        ("image_train.py --image_size 16", "got 'image_train.py', expected --name value"),
        ("--data_dir 'a b", "--flags: No closing quotation"),
    ],
)
def test_flags_that_do_not_fit_are_refused_by_name(tmp_path, flags, message):
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, weights(SMALL), flags)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({**SMALL, "inputs": 6}, "takes 6 channels and gives 3; an upsampler"),
        ({**SMALL, "inputs": 6, "outputs": 6}, "takes 6 channels and gives 6; an upsampler"),
        ({**SMALL, "outputs": 4}, "takes 3 channels and gives 4"),
    ],
)
def test_other_networks_are_refused_by_name(tmp_path, layout, message):
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path, weights(layout))


def test_other_weights_are_refused_by_name(tmp_path):
    fine = weights(SMALL)
    classifier = {name: value for name, value in fine.items() if name[:6] != "output"}
    stem = fine | {"input_blocks.0.0.weight": torch.zeros(16, 3, 3, 3)}  # channel_mult 0.5,..
    narrow = fine | {"output_blocks.3.0.out_layers.3.weight": torch.zeros(48, 1)}
    narrow["output_blocks.2.0.out_layers.3.weight"] = torch.zeros(48, 1)
    more, infinite = (
        fine | {"x": torch.zeros(1)},
        fine | {"out.2.bias": torch.full((3,), torch.nan)},
    )
    lacks = {
        name: value for name, value in fine.items() if name != "input_blocks.1.0.in_layers.0.bias"
    }
    numbered = fine | {"output_blocks.99999999999999.0.x": torch.zeros(1)}
    for tensors, message in (
        (classifier, "has no output_blocks; a classifier"),
        (stem, "channel_mult: begins with 0.5, expected 1"),
        (narrow, r"its levels have \[48, 64\] channels, expected multiples of 32"),
        (more, "has x, which this network does not use"),
        (infinite, "out_conv.bias is not finite"),
        (lacks, "input_blocks.1.0.in_layers.0.bias is missing"),
        (numbered, "output_blocks.4.0.out_layers.3.weight is missing"),
        ({"input_blocks.0.0.weight": torch.zeros(())}, "output_blocks"),
        (fine | {"time_embed.0.weight": torch.zeros(3, 0)}, r"time_embed.0.weight is \(3, 0\)"),
        (fine | {"time_embed.0.weight": torch.zeros(3)}, r"time_embed.0.weight is \(3,\)"),
    ):
        with pytest.raises(CheckpointError, match=message) as caught:
            read(tmp_path, tensors)
        assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_hostile_and_other_files_run_nothing(tmp_path):
    path = tmp_path / "ema.pt"
    for content, message in (
        (pickle.dumps({"input_blocks.0.0.weight": Evil()}), "is damaged, or a pickle of more"),
        (b"input_blocks.0.0.weight", "is damaged, or a pickle of more"),
        (b"PK\x03\x04 input_blocks.0.0.weight", "is damaged, or a pickle of more"),
        (b"", "is of no format"),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            formats.read(path, flags=FLAGS)
    torch.save({"input_blocks.0.0.weight": "x"}, path)
    with pytest.raises(CheckpointError, match="expected tensors by name"):
        formats.read(path, flags=FLAGS)
    torch.save({"state": {0: {"exp_avg": torch.zeros(1)}}}, path)  # opt030000.pt
    with pytest.raises(CheckpointError, match="is of no format"):
        formats.read(path, flags=FLAGS)
    assert not Path("pickle-ran").exists()


def test_files_from_before_pytorch_1_6(tmp_path):
    model = read(tmp_path, weights(SMALL))
    torch.save(weights(SMALL), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert formats.read(tmp_path / "old.pt", flags=FLAGS).weights_hash == model.weights_hash


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network.kind": "dit"}, "network.kind: got dit, expected unet"),
        ({"network.skips": "per_level"}, "network.skips: got per_level, expected every_block"),
        ({}, "network.norm_groups: got 2, expected 32"),
        (
            {"network.base_channels": 32, "network.norm_groups": 32},
            "network.frequencies: got ddpm, expected iddpm",
        ),
    ],
)
def test_a_network_that_they_cannot_be_is_refused_by_name(tmp_path, changes, message):
    model = made(changes)
    with pytest.raises(ConfigError, match=message):
        formats.write(model, "openai", tmp_path / "out.pt")
    assert not (tmp_path / "out.pt").exists()


def iddpm(changes: dict[str, Any]) -> unnoise.Model:
    usual = {
        "base_channels": 32,
        "norm_groups": 32,
        "frequencies": "iddpm",
        "channel_multipliers": (1, 1),
    }
    return made({f"network.{key}": value for key, value in usual.items()} | changes, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"diffusion.schedule": "sigmoid"}, "schedule: got sigmoid, expected linear or cosine"),
        ({"diffusion.schedule_options": {"shift": 2.0}}, "schedule_options: got .*shift"),
        ({"diffusion.parameterization": "v"}, "parameterization: got v, expected eps or x0"),
        ({"diffusion.time_scale": 0.3}, "time_scale: got 0.3, expected 1"),
        ({"network.time_hidden": 16}, "time_hidden: got 16, expected 128"),
    ],
)
def test_a_process_that_they_have_not_is_refused_by_name(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        formats.write(
            iddpm({"diffusion.parameterization": "eps", **changes}), "openai", tmp_path / "o.pt"
        )


def test_a_model_of_ours_goes_out_with_its_null_label(tmp_path):
    model = iddpm({"diffusion.parameterization": "eps", "diffusion.variance": "small"})
    formats.write(model, "openai", tmp_path / "o.pt")
    flags = openai.flags_of(model)
    assert "--class_cond True" in flags and "--sigma_small True" in flags
    again = formats.read(tmp_path / "o.pt", flags=flags)
    assert (again.shape.num_classes, again.shape.labels) == (5, 5)
    x, time, label = torch.randn(2, 1, 8, 8), torch.tensor([3.0, 900.0]), torch.tensor([4, 0])
    torch.testing.assert_close(again.network(x, time, label), model.network(x, time, label))


def test_the_commands(tmp_path, capsys):
    torch.save(weights(SMALL), tmp_path / "ema.pt")
    out, back = tmp_path / "m.safetensors", tmp_path / "back.pt"
    arguments = ["import", str(tmp_path / "ema.pt"), "--out", str(out)]
    assert cli.main([*arguments, "--flags", FLAGS]) == 0
    assert f"next: unnoise sample {out}" in capsys.readouterr().out
    assert cli.main(["export", str(out), "--to", "openai", "--out", str(back)]) == 0
    said = capsys.readouterr().out
    flags = said.split(f"next: image_sample.py --model_path {back} ")[1].strip()
    assert (
        cli.main(["import", str(back), "--out", str(tmp_path / "n.safetensors"), "--flags", flags])
        == 0
    )
    assert (tmp_path / "n.safetensors").read_bytes() == out.read_bytes()
    for words, message in (
        ([*arguments, "--flags"], "--flags: a value is missing"),
        (["export", str(out), "--to", "openai", "--out", str(tmp_path / "x")], "ends in .pt"),
        (["export", str(out), "--to", "openai", "--out", str(back)], "expected a new name"),
        (["export", str(out), "--to", "openai", "--half", "--out", f"{tmp_path}/h.pt"], "--half"),
    ):
        assert cli.main(words) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and message in lines[0], lines
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "model_index.json").write_text("{}")
    with pytest.raises(UserError, match="--flags: files of diffusers say everything"):
        formats.read(tmp_path / "d", flags="--image_size 8")
