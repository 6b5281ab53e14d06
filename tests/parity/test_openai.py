"""Models of improved-diffusion and guided-diffusion, run by their own code and read here.

Needs their repositories in $UNNOISE_PEERS, as folders of these names.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.formats.conftest import exact
from tests.formats.test_openai import SMALL as SMALL_LAYOUT
from tests.formats.test_openai import UPDOWN, shapes
from torch import Tensor, nn

from unnoise import formats
from unnoise.diffusion import grids
from unnoise.diffusion.noise import Noise
from unnoise.diffusion.schedules import linear
from unnoise.model import Model

PEERS = Path(os.environ.get("UNNOISE_PEERS", "."))
PACKAGES = ("improved-diffusion", "guided-diffusion")
for each in PACKAGES:
    if not (PEERS / each).is_dir():
        fix = f"get it with git clone https://github.com/openai/{each}"
        pytest.skip(f"$UNNOISE_PEERS/{each} is not there; {fix}", allow_module_level=True)

SMALL = "--image_size 32 --num_channels 32 --num_res_blocks 1 --use_fp16 False"
FLAGS = {
    "defaults": ("improved-diffusion", "--image_size 64 --num_channels 32"),
    "cifar10": (
        "improved-diffusion",
        (
            "--image_size 32 --num_channels 32 --num_res_blocks 3 --learn_sigma True --dropout 0.3 "
            "--diffusion_steps 4000 --noise_schedule cosine --rescale_timesteps True"
        ),
    ),
    "lsun": (
        "improved-diffusion",
        (
            "--image_size 64 --num_channels 32 --num_res_blocks 1 --num_heads 1 --learn_sigma True "
            "--use_scale_shift_norm False --attention_resolutions 16 --rescale_timesteps False"
        ),
    ),
    "small variance, x0": (
        "improved-diffusion",
        (
            "--image_size 32 --num_channels 32 --num_res_blocks 1 --sigma_small True "
            "--predict_xstart True --diffusion_steps 100 --rescale_timesteps False"
        ),
    ),
    "classes": (
        "improved-diffusion",
        (
            "--image_size 64 --num_channels 32 --num_res_blocks 1 --class_cond True "
            "--learn_sigma True --diffusion_steps 4000 --noise_schedule cosine "
            "--rescale_timesteps False"
        ),
    ),
    "guided 64": (
        "guided-diffusion",
        (
            f"{SMALL} --attention_resolutions 32,16,8 --class_cond True --diffusion_steps 1000 "
            "--dropout 0.1 --learn_sigma True --noise_schedule cosine --num_head_channels 16 "
            "--resblock_updown True --use_new_attention_order True --use_scale_shift_norm True "
            "--channel_mult 1,2,2"
        ),
    ),
    "guided, the older attention": (
        "guided-diffusion",
        (
            f"{SMALL} --attention_resolutions 32,16,8 --learn_sigma True --noise_schedule linear "
            "--num_head_channels 16 --resblock_updown True --channel_mult 1,3"
        ),
    ),
    "guided, other sizes": (
        "guided-diffusion",
        (
            "--image_size 16 --num_channels 32 --num_res_blocks 2 --channel_mult 1,1,3 "
            "--attention_resolutions 8,16 --num_heads 2 --resblock_updown False "
            "--use_scale_shift_norm False --diffusion_steps 200 --rescale_timesteps True"
        ),
    ),
}


def peer(package: str, module: str) -> Any:
    """A module of a package's repository."""
    if str(PEERS / package) not in sys.path:
        sys.path.append(str(PEERS / package))
    return importlib.import_module(f"{package.replace('-', '_')}.{module}")


def theirs(package: str, flags: str) -> tuple[nn.Module, Any]:
    """Model and diffusion, by their scripts' own reading of flags; no weight is 0."""
    scripts = peer(package, "script_util")
    defaults, parser = scripts.model_and_diffusion_defaults(), argparse.ArgumentParser()
    scripts.add_dict_to_argparser(parser, defaults)
    given, _ = parser.parse_known_args(shlex.split(flags))
    torch.manual_seed(0)
    model, diffusion = scripts.create_model_and_diffusion(
        **scripts.args_to_dict(given, defaults.keys())
    )
    for p in model.parameters():
        p.data = p.data + 0.03 * torch.randn_like(p)
    return model.eval(), diffusion


def saved(package: str, flags: str, path: Path) -> tuple[nn.Module, Any, Model]:
    model, diffusion = theirs(package, flags)
    torch.save(model.state_dict(), path)
    return model, diffusion, exact(formats.read(path, flags=flags))


def batch(model: Model, n: int = 2) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(1)
    shape = model.shape
    label = torch.tensor([999, 3, 500])[:n]
    return torch.randn(n, shape.channels, shape.height, shape.width), (
        {"y": label} if shape.num_classes else {}
    )


@pytest.mark.parametrize("name", FLAGS)
def test_the_same_outputs_there_and_back(tmp_path, name):
    package, flags = FLAGS[name]
    model, diffusion, ours = saved(package, flags, tmp_path / "ema_0.9999_030000.pt")
    x, label = batch(ours)
    index = torch.tensor([diffusion.num_timesteps - 1, 3])
    factor = 1000 / diffusion.num_timesteps if diffusion.rescale_timesteps else 1
    assert ours.diffusion.time_scale == factor
    levels = ours.diffusion.schedule.level(index + 1.0)
    assert torch.allclose(
        levels.alpha.flatten().double() ** 2, torch.tensor(diffusion.alphas_cumprod)[index]
    )
    with torch.no_grad():
        want = model(x, index.float() * factor, **label)
        close(ours.network(x, index.float() * factor, label.get("y")), want)
        formats.write(ours, "openai", tmp_path / "back.pt")
        other = theirs(package, flags.replace("--use_new_attention_order True", ""))[0]
        other.load_state_dict(torch.load(tmp_path / "back.pt"))
        close(other(x, index.float() * factor, **label), want)


def close(ours: Tensor, want: Tensor, most: float = 1e-5) -> None:
    assert want.std() > 0.1
    assert (ours - want).abs().max() <= most * want.abs().max()


def test_the_names_and_shapes_that_the_fixture_of_our_own_tests_has():
    for layout, updown in ((SMALL_LAYOUT, False), (UPDOWN, True)):
        unet = peer("guided-diffusion", "unet").UNetModel(
            16, 3, 32, layout.get("outputs", 3), layout["blocks"], (2,), channel_mult=(1, 2),
            num_classes=layout.get("classes"), use_scale_shift_norm=updown, resblock_updown=updown,
        )  # fmt: skip
        theirs = {name: tuple(value.shape) for name, value in unet.state_dict().items()}
        assert shapes(**layout) == theirs


@pytest.mark.parametrize("ddim", [False, True])
@pytest.mark.parametrize(
    "name", ["cifar10", "small variance, x0", "guided 64", "guided, other sizes"]
)
def test_the_same_steps_from_the_same_noise(tmp_path, monkeypatch, name, ddim):
    package, flags = FLAGS[name]
    flags += " --timestep_respacing ddim5 --use_ddim True" if ddim else " --timestep_respacing 5"
    model, diffusion, ours = saved(package, flags, tmp_path / "model030000.pt")
    _, label = batch(ours)
    seeds, shape = [4, 5], (3, ours.shape.height, ours.shape.width)
    noise = Noise(seeds, shape)
    monkeypatch.setattr(torch, "randn_like", lambda x: noise.normal() if not ddim else x)
    loop = diffusion.ddim_sample_loop_progressive if ddim else diffusion.p_sample_loop_progressive
    first = ours.grid(ours.settings())[0].sigma * noise.normal()  # theirs begins with variance 1
    walk = loop(model, (2, *shape), noise=first, device="cpu", model_kwargs=label)
    labels = label["y"].tolist() if label else None
    steps = [step.x for step in ours.steps(seeds, labels)]
    assert len(steps) == diffusion.num_timesteps == 5
    for mine, want in zip(steps, walk, strict=True):
        close(mine, want["sample"], 3e-5)


def test_their_spacings_are_leading_and_uniform():
    """For odd numbers, theirs adds up rounding errors and may take a half-way time's neighbour."""
    space = peer("guided-diffusion", "respace").space_timesteps
    for total in (1000, 4000):
        for steps in (2, 10, 20, 25, 50, 100, 128, 250, 500, total):
            for spacing, name in (("uniform", f"{steps}"), ("leading", f"ddim{steps}")):
                if spacing == "uniform" or total % steps == 0:
                    levels = grids.make(linear(total), steps, spacing)[:-1]
                    assert {int(level.t) - 1 for level in levels} == space(total, name), name
