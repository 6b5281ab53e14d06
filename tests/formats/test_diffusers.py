"""Folders of diffusers, read and written without it: every tensor in its place, bad files by name.

The names and shapes in the fixture are those that diffusers itself saves.
"""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import unnoise
from unnoise import cli, formats
from unnoise.errors import CheckpointError, ConfigError, UsageError
from unnoise.networks.layers import ResBlock

FIXTURE = json.loads((Path(__file__).parent.parent / "fixtures/diffusers-unet.json").read_text())
TINY = torch.zeros(1)
SCHEDULER = {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}


def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn(shape) * 0.1 for name, shape in FIXTURE["shapes"].items()}


def folder(
    path: Path,
    tensors: dict[str, Tensor] | None = None,
    scheduler: dict[str, Any] | None = None,
    **config: Any,
) -> Path:
    """A UNet2DModel's folder, with a scheduler, whose config has some other values."""
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps({**FIXTURE["config"], **config}))
    (path / "scheduler_config.json").write_text(json.dumps(SCHEDULER | (scheduler or {})))
    save_file(tensors or weights(), path / "diffusion_pytorch_model.safetensors")
    return path


def test_every_tensor_is_read_and_written_back_the_same(tmp_path):
    model = formats.read(folder(tmp_path / "in"))
    formats.write(model, "diffusers", tmp_path / "out")
    written = load_file(tmp_path / "out/unet/diffusion_pytorch_model.safetensors")
    assert {name: list(value.shape) for name, value in written.items()} == FIXTURE["shapes"]
    assert all(torch.equal(written[name], value) for name, value in weights().items())
    config = json.loads((tmp_path / "out/unet/config.json").read_text())
    given = {**FIXTURE["config"], "time_embedding_dim": 32, "attn_norm_num_groups": 4}
    assert {name: config[name] for name in given} == given
    again = formats.read(tmp_path / "out")
    assert again.config.network == model.config.network.__class__(
        **{**vars(model.config.network), "time_hidden": 32, "time_channels": 32}
    )
    assert (again.shape, again.config.diffusion) == (model.shape, model.config.diffusion)
    assert model.config.diffusion.parameterization == "v" and model.config.sample.steps == 50


def test_each_block_gets_its_own_part_of_the_joined_projection(tmp_path):
    """By value: a wrong order has the right shapes, and is silent."""
    tensors = weights()
    order = [name for name in tensors if name.endswith("time_emb_proj.bias")]
    for number, name in enumerate(order):
        tensors[name] = torch.full_like(tensors[name], float(number))
    for number, letter in enumerate("qkv"):
        name = f"mid_block.attentions.0.to_{letter}.bias"
        tensors[name] = torch.full_like(tensors[name], float(number))
    network = formats.read(folder(tmp_path / "in", tensors)).network
    bias = network.time_projection.bias.split(network._embedding_widths)  # pyright: ignore
    blocks = {name: m.slot for name, m in network.named_modules() if isinstance(m, ResBlock)}
    for ours, theirs in (
        ("encoder.0.1.block", "down_blocks.0.resnets.1"),
        ("encoder.2.0.block", "down_blocks.2.resnets.0"),
        ("middle1", "mid_block.resnets.0"),
        ("middle2", "mid_block.resnets.1"),
        ("decoder.0.0.block", "up_blocks.0.resnets.0"),
        ("decoder.2.2.block", "up_blocks.2.resnets.2"),
    ):
        want = float(order.index(f"{theirs}.time_emb_proj.bias"))
        assert bias[blocks[ours]].unique().tolist() == [want], ours
    heads = network.middle_attention.qkv.bias.unflatten(0, (3, -1))  # pyright: ignore
    assert [part.unique().tolist() for part in heads] == [[0.0], [1.0], [2.0]]


def test_old_names_of_attention_and_a_pickle_of_tensors(tmp_path):
    model = formats.read(folder(tmp_path / "in"))
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = weights()
    for name in list(tensors):
        for new, before in old.items():
            if f".{new}." in name:
                tensors[name.replace(new, before)] = tensors.pop(name)
    path = folder(tmp_path / "old", tensors)
    os.remove(path / "diffusion_pytorch_model.safetensors")
    torch.save(tensors, path / "diffusion_pytorch_model.bin")
    assert formats.read(path).weights_hash == model.weights_hash


def test_classes_and_names_come_back_and_labels_alone_refuse_guidance(tmp_path):
    """Embeddings of N rows have N classes; unnoise's own have one more, for no class."""
    theirs = formats.read(folder(tmp_path / "theirs"))
    assert (theirs.shape.num_classes, theirs.shape.null_label) == (3, False)
    assert theirs.sample(2, label=[0, 2], steps=1).shape == (2, 3, 8, 16)
    with pytest.raises(ConfigError, match="guidance_scale: this model was trained with labels"):
        theirs.sample(2, guidance_scale=2)
    digits = unnoise.load("digits", "cpu")
    formats.write(digits, "diffusers", tmp_path / "own")
    again = formats.read(tmp_path / "own")
    assert (again.shape, again.class_names) == (digits.shape, digits.class_names)
    assert again.network.state_dict().keys() == digits.network.state_dict().keys()
    asked = {"sampler": "ddim", "spacing": "trailing", "steps": 5, "guidance_scale": 2}
    pictures = [m.sample(4, label=5, **asked).int() for m in (again, digits)]
    assert (pictures[0] - pictures[1]).abs().max() <= 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"act_fn": "relu"}, "act_fn: got 'relu'; expected one of silu, swish"),
        ({"center_input_sample": True}, "center_input_sample: got True, expected False"),
        ({"mid_block_type": None}, "mid_block_type: got None, expected UNetMidBlock2D"),
        ({"add_attention": False}, "add_attention: got False, expected True"),
        ({"downsample_type": "resnet"}, "downsample_type: got 'resnet', expected conv"),
        ({"time_embedding_type": "fourier"}, "got 'fourier', expected positional"),
        ({"class_embed_type": "timestep"}, "class_embed_type: got 'timestep', expected None"),
        ({"down_block_types": ["SkipDownBlock2D"]}, "down_block_types: got 'SkipDownBlock2D'"),
        ({"up_block_types": ["UpBlock2D"] * 3}, "up_block_types: .* down_block_types mirrored"),
        ({"block_out_channels": [8, 12, 24]}, "expected multiples of the first"),
        ({"resnet_time_scale_shift": "scale_shift"}, "attn_norm_num_groups: got None, expected"),
        ({"out_channels": 4}, "out_channels: got 4, expected in_channels"),
        ({"norm_num_groups": 3}, "norm_groups: got 3, expected a divisor"),
        ({"attention_head_dim": 5}, "attention_head_channels: got 5, expected a divisor"),
        ({"sample_size": None}, "sample_size: got None"),
        ({"_class_name": "UNet2DConditionModel"}, "_class_name: got UNet2DConditionModel"),
        ({"cross_attention_dim": 8}, "cross_attention_dim: unknown key"),
        ({"layers_per_block": 10**9}, "layers_per_block: got 1,?000,?000,?000, expected 1 to"),
        ({"block_out_channels": [8000, 16000, 24000]}, "has many more than the .* tensors"),
        ({"layers_per_block": 1}, "up_blocks.0.resnets.1.*expected|which this network does not"),
        ({"num_class_embeds": 4}, r"class_embedding.weight is \(3, 32\), expected \(4, 32\)"),
        ({"_unnoise": {"null_label": "x"}}, "null_label: got 'x', expected on or off"),
        ({"_unnoise": {"class_names": ["a"]}}, "names 1 classes of 3"),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_name(tmp_path, config, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        formats.read(folder(tmp_path / "in", **config))
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        ({"beta_schedule": "sigmoid"}, "beta_schedule: got 'sigmoid'; expected one of linear"),
        ({"trained_betas": [0.1]}, r"trained_betas: got \[0.1\], expected None"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr: got True, expected False"),
        ({"set_alpha_to_one": False}, "set_alpha_to_one: got False, expected True"),
        ({"thresholding": True}, "thresholding: got True, expected False"),
        ({"steps_offset": 1}, "steps_offset: got 1, expected 0"),
        ({"variance_type": "learned_range"}, "variance_type: got learned_range, but the network"),
        ({"_class_name": "PNDMScheduler"}, "_class_name: got PNDMScheduler, expected DDPM"),
        ({"beta_end": 2}, "beta_end: got 2, expected more than 0, less than 0.999"),
    ],
)
def test_a_scheduler_that_cannot_be_expressed_is_refused_by_name(tmp_path, scheduler, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        formats.read(folder(tmp_path / "in", scheduler=scheduler))
    assert "scheduler_config.json" in str(caught.value)


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("pickle-ran",)


def test_hostile_files_are_one_line_and_run_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = folder(tmp_path / "in")
    file, tensors = path / "diffusion_pytorch_model.safetensors", weights()
    whole = file.read_bytes()
    missing, extra, wrong = dict(tensors), {**tensors, "more": torch.zeros(1)}, dict(tensors)
    del missing["mid_block.attentions.0.to_k.weight"]
    wrong["mid_block.attentions.0.to_q.weight"] = torch.zeros(24, 23)
    whole_numbers = {name: value.long() for name, value in tensors.items()}
    not_finite = {**tensors, "conv_in.bias": torch.full((8,), torch.nan)}
    for change, message in (
        (whole[:1000], "truncated or damaged"),
        (whole[:-4], "truncated or damaged"),
        (b"", "truncated or damaged"),
        ((2**40).to_bytes(8, "little") + whole[8:], "truncated or damaged"),
        (missing, r"mid_block.attentions.0.to_k.weight is missing, expected \(24, 24\)"),
        (wrong, r"to_q.weight is \(24, 23\), expected \(24, 24\)"),
        (extra, "has more, which this network does not use"),
        (whole_numbers, "is torch.int64, expected torch.float32"),
        (not_finite, "conv_in.bias|stem.bias is not finite"),
    ):
        file.write_bytes(change) if isinstance(change, bytes) else save_file(change, file)
        with pytest.raises(CheckpointError, match=message) as caught:
            formats.read(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    file.unlink()
    pickled = path / "diffusion_pytorch_model.bin"
    for content in (pickle.dumps(Evil()), b"", b"\x80\x02junk"):
        pickled.write_bytes(content)
        with pytest.raises(CheckpointError, match="is damaged, or a pickle of more than tensors"):
            formats.read(path)
    for value in ("x", TINY.to_sparse(), TINY.expand(10**9, 1), TINY.to("meta")):
        torch.save({"conv_in.weight": value}, pickled)
        with pytest.raises(CheckpointError, match="expected tensors by name"):
            formats.read(path)
    torch.save({"conv_in.weight": torch.zeros(10**5)}, pickled)
    with ZipFile(pickled) as whole, ZipFile(path / "b", "w", ZIP_DEFLATED) as squeezed:
        for name in whole.namelist():
            squeezed.writestr(name, whole.read(name))
    os.replace(path / "b", pickled)
    with pytest.raises(CheckpointError, match="is damaged, or a pickle"):
        formats.read(path)
    assert not Path("pickle-ran").exists()
    pickled.unlink()
    with pytest.raises(CheckpointError, match="has no diffusion_pytorch_model"):
        formats.read(path)
    (path / "model_index.json").write_text('{"unet": [], "scheduler": [], "vqvae": []}')
    with pytest.raises(CheckpointError, match="got vqvae, expected only a unet and a scheduler"):
        formats.read(path)
    for text in ("[]", "{", '{"_class_name": 3}', "[" * 10_000):
        (path / "model_index.json").write_text("{}")
        (path / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"config\.json"):
            formats.read(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network.skips": "per_level"}, "network.skips: got per_level, expected every_block"),
        ({"network.patch_size": 2}, "network.patch_size: got 2, expected 1"),
        ({"network.kind": "dit"}, "network.kind: got dit, expected unet"),
        ({"network.channel_multipliers": (1, 1, 1, 1, 1)}, "8x8, expected multiples of 16"),
        ({"network.attention_levels": (0, 1), "network.attention_heads": 2}, "attention_heads: "),
        ({"diffusion.time_scale": 0.25}, "time_scale: got 0.25, expected 1"),
        ({"diffusion.schedule": "flow", "diffusion.times": "uniform"}, "v on schedule flow"),
        ({"diffusion.parameterization": "edm"}, "parameterization: got edm on schedule cosine"),
    ],
)
def test_a_model_that_diffusers_cannot_be_is_refused_by_name(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        formats.write(made(changes), "diffusers", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def made(changes: dict[str, Any], num_classes: int = 0) -> unnoise.Model:
    """A model of the digits' preset with changes, and new weights that are not 0."""
    from unnoise import build
    from unnoise.networks.config import Shape

    config = unnoise.preset("digits", {"train.precision": "fp32", "device": "cpu", **changes})
    shape = {"channels": 1, "height": 8, "width": 8, "num_classes": num_classes}
    network = build.network(config, Shape(**shape))
    torch.manual_seed(0)
    for p in network.parameters():
        p.data = p.data + 0.05 * torch.randn_like(p)
    return unnoise.Model(network, config, {"shape": shape})


def test_the_commands(tmp_path, capsys):
    path, out = folder(tmp_path / "in"), tmp_path / "model.safetensors"
    assert cli.main(["import", str(path), "--out", str(out)]) == 0
    assert f"next: unnoise sample {out}" in capsys.readouterr().out
    assert cli.main(["info", str(out)]) == 0
    assert "3 x 8 x 16 · 3 classes" in capsys.readouterr().out
    assert unnoise.load(out, "cpu").weights_hash == formats.read(path).weights_hash
    assert cli.main(["export", str(out), "--to", "diffusers", "--out", str(tmp_path / "b")]) == 0
    assert "pipelines pass no labels" in capsys.readouterr().out
    for arguments, message in (
        (["export", str(out), "--to", "diffusers", "--out", str(tmp_path / "b")], "is there"),
        (["export", str(out), "--to", "x", "--out", str(tmp_path / "c")], "--to: got 'x'"),
        (["export", str(out), "--to", "diffusers"], "expected a new folder"),
        (["import", str(tmp_path / "none"), "--out", "m.safetensors"], "no such file or folder"),
        (["import", str(tmp_path), "--out", "m.safetensors"], "is unnoise's own already"),
        (
            ["import", str(tmp_path / "b" / "scheduler"), "--out", "m.safetensors"],
            "is of no format",
        ),
        (["import", str(path), "--out", "m.bin"], "a file name that ends in .safetensors"),
        (["import", str(path), "--format", "x", "--out", "m.safetensors"], "format: no 'x'"),
    ):
        assert cli.main(arguments) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and message in lines[0], lines
    with pytest.raises(UsageError, match="no 'x'"):
        formats.write(unnoise.load(out, "cpu"), "x", tmp_path / "c")


def test_a_model_without_a_scheduler_is_told_what_it_was_trained_for(tmp_path, capsys):
    path = folder(tmp_path / "in")
    (path / "scheduler_config.json").unlink()
    out = tmp_path / "model.safetensors"
    arguments = ["--diffusion.schedule", "cosine", "--diffusion.parameterization", "x0"]
    assert cli.main(["import", str(path), "--out", str(out), *arguments]) == 0
    assert "no scheduler_config.json: assumes a linear schedule" in "".join(capsys.readouterr())
    diffusion = unnoise.load(out, "cpu").config.diffusion
    assert (diffusion.schedule, diffusion.parameterization) == ("cosine", "x0")
