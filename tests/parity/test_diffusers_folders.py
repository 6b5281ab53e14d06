"""Models that diffusers saved, read here; and models of ours, run by diffusers' own code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    UNet2DModel,
)
from tests.formats.test_diffusers import made
from torch import Tensor

import unnoise
from unnoise import formats
from unnoise.diffusion.noise import Noise

CIFAR10: dict[str, Any] = {
    "sample_size": 32, "block_out_channels": (32, 64, 64, 64), "norm_eps": 1e-6,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "attention_head_dim": None,
}  # fmt: skip
"""The layout of google/ddpm-cifar10-32, with fewer channels."""
SMALL: dict[str, Any] = {
    "sample_size": (16, 8), "block_out_channels": (32, 64), "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip
LAYOUTS = {
    "cifar10": CIFAR10,
    "heads of 8 channels": SMALL,
    "heads of 16 channels, classes": {**SMALL, "attention_head_dim": 16, "num_class_embeds": 3},
    "sines first, iddpm's frequencies": {**SMALL, "flip_sin_to_cos": False},
    "cosines first, ddpm's frequencies": {**SMALL, "freq_shift": 1},
    "scale and shift": {
        **SMALL, "resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 32,
        "time_embedding_dim": 96, "in_channels": 1, "out_channels": 2, "layers_per_block": 3,
    },
}  # fmt: skip


def theirs(layout: dict[str, Any]) -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(**layout).eval()


def flat(folder: Path) -> None:
    """As google/ddpm-cifar10-32 lies: all files side by side."""
    for file in [*folder.glob("*/*")]:
        file.rename(folder / file.name)
    (folder / "unet").rmdir()
    (folder / "scheduler").rmdir()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_outputs_there_and_back(tmp_path, layout):
    network = theirs(LAYOUTS[layout])
    network.save_pretrained(tmp_path / "in")
    model = formats.read(tmp_path / "in")
    channels, classes = network.config["in_channels"], network.config["num_class_embeds"]
    x, time = torch.randn(2, channels, 32, 16), torch.tensor([3.0, 731.0])
    label = torch.tensor([2, 0]) if classes else None
    formats.write(model, "diffusers", tmp_path / "out")
    back = UNet2DModel.from_pretrained(tmp_path / "out" / "unet").eval()
    with torch.inference_mode():
        want = network(x, time, label).sample
        ours = model.network(x, time, label)
        torch.testing.assert_close(ours, want, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(back(x, time, label).sample, want, rtol=1e-5, atol=1e-5)


def by_ddim(
    unet: UNet2DModel, scheduler: Any, x: Tensor, steps: int, label: Tensor | None = None
) -> Tensor:
    """diffusers' loop, as of its pipelines, with given noise and labels."""
    # unnoise clips the noise along with the picture, as diffusers does on request
    clipped = {"use_clipped_model_output": True} if isinstance(scheduler, DDIMScheduler) else {}
    scheduler.set_timesteps(steps)
    x = x * scheduler.init_noise_sigma
    with torch.inference_mode():
        for t in scheduler.timesteps:
            x = scheduler.step(unet(x, t, label).sample, t, x, **clipped).prev_sample
    return (x / 2 + 0.5).clamp(0, 1) * 255


def close(ours: Tensor, want: Tensor) -> None:
    assert (ours - want).abs().max() < 1.5 and (ours - want).abs().mean() < 0.3  # rounded to uint8


SCHEDULERS = {
    "linear": DDIMScheduler(),
    "other betas": DDIMScheduler(
        num_train_timesteps=400, beta_start=1e-3, beta_end=0.03, prediction_type="v_prediction",
    ),
    "scaled": DDIMScheduler(beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear"),
    "cosine v": DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction",
        timestep_spacing="trailing", clip_sample=False,
    ),
    "x0": DDIMScheduler(prediction_type="sample", timestep_spacing="trailing"),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_same_pictures_of_ddim(tmp_path, name):
    unet = theirs(SMALL)
    DDIMPipeline(unet, SCHEDULERS[name]).save_pretrained(tmp_path / "in")
    if name == "linear":
        flat(tmp_path / "in")
    model = formats.read(tmp_path / "in", changes={})
    noise = Noise([0, 1, 2], (3, 16, 8), torch.device("cpu")).normal()
    want = by_ddim(unet, SCHEDULERS[name], noise, 20)
    ours = fp32(model).sample(3, steps=20)
    assert ours.float().std() > 20
    close(ours.float(), want)
    formats.write(model, "diffusers", tmp_path / "out")
    pipeline = DDIMPipeline.from_pretrained(tmp_path / "out")
    scheduler: Any = pipeline.scheduler
    assert torch.allclose(
        scheduler.alphas_cumprod, SCHEDULERS[name].alphas_cumprod, rtol=1e-5, atol=1e-7
    )
    close(by_ddim(pipeline.unet, scheduler, noise, 20), want)


def fp32(model: unnoise.Model) -> unnoise.Model:
    from unnoise.config import override

    config = override(model.config, {"train.precision": "fp32"})
    return unnoise.Model(model.network, config, model.record)


@pytest.mark.parametrize(
    ("changes", "classes"),
    [
        ({}, 10),
        ({"diffusion.schedule": "sigmoid"}, 0),
        ({"diffusion.schedule_options": {"shift": 0.5}}, 0),
        ({"diffusion.schedule": "linear", "diffusion.parameterization": "eps"}, 0),
    ],
)
def test_a_model_of_ours_runs_in_diffusers(tmp_path, changes, classes):
    model = made(changes, classes)
    formats.write(model, "diffusers", tmp_path / "out")
    pipeline = DDIMPipeline.from_pretrained(tmp_path / "out")
    noise = Noise([0, 1, 2], (1, 8, 8), torch.device("cpu")).normal()
    label = torch.tensor([0, 1, 10]) if classes else None
    ddim = model.sample(
        3, label=[0, 1, "none"] if classes else None, sampler="ddim", steps=20, guidance_scale=1,
        spacing="trailing",
    )  # fmt: skip
    close(ddim.float(), by_ddim(pipeline.unet, pipeline.scheduler, noise, 20, label))
    solver = DPMSolverMultistepScheduler.from_config(
        pipeline.scheduler.config, final_sigmas_type="zero", lower_order_final=False
    )
    assert isinstance(solver, DPMSolverMultistepScheduler)
    ours = model.sample(
        3, label=[0, 1, "none"] if classes else None, sampler="dpmpp_2m", steps=20,
        guidance_scale=1, spacing="trailing", clip_x0=False,
    )  # fmt: skip
    close(ours.float(), by_ddim(pipeline.unet, solver, noise, 20, label))
    if not classes:
        assert len(pipeline(batch_size=2, num_inference_steps=3, output_type="np").images) == 2


def test_the_loop_of_the_docs_makes_guided_digits(tmp_path):
    """The code in docs/formats.md, on the bundled model: the pictures are unnoise's."""
    formats.write(unnoise.load("digits", "cpu"), "diffusers", tmp_path / "digits")
    model = fp32(unnoise.load("digits", "cpu"))
    noise = Noise(range(10), (1, 8, 8), torch.device("cpu")).normal()
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    code = page.split("```python\n")[2].split("```")[0]
    names: dict[str, Any] = {"folder": str(tmp_path / "digits"), "x": noise}
    exec(code, names)  # noqa: S102
    asked = {"sampler": "ddim", "spacing": "trailing", "steps": 20, "guidance_scale": 1.5}
    ours = model.sample(10, **asked).float()
    close(ours, (names["x"] / 2 + 0.5).clamp(0, 1) * 255)
    assert ours.std() > 60  # strokes on a ground


class Adapter(torch.nn.Module):
    """The three lines of docs/formats.md."""

    def __init__(self, unet: UNet2DModel) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None) -> Tensor:
        return self.unet(x, time, label).sample


@pytest.mark.parametrize("layout", ["heads of 8 channels", "heads of 16 channels, classes"])
def test_a_wrapped_model_makes_the_pictures_of_the_imported_one(tmp_path, layout):
    unet = theirs(LAYOUTS[layout])
    DDIMPipeline(unet, DDIMScheduler()).save_pretrained(tmp_path / "in")
    imported = fp32(formats.read(tmp_path / "in"))
    shape = imported.shape
    wrapped = unnoise.wrap(
        Adapter(unet), schedule="linear", parameterization="eps", shape=shape, device="cpu"
    )
    label = [0, 2, 1] if shape.num_classes else None
    asked = {"label": label, "sampler": "dpmpp_2m", "steps": 8, "spacing": "trailing"}
    close(wrapped.sample(3, **asked).float(), imported.sample(3, **asked).float())
    assert all(p.requires_grad for p in unet.parameters())


def test_ddpm_keeps_its_variance(tmp_path):
    layout = {**SMALL, "out_channels": 6}
    scheduler = DDPMScheduler(variance_type="learned_range", beta_schedule="squaredcos_cap_v2")
    DDPMPipeline(theirs(layout), scheduler).save_pretrained(tmp_path / "in")
    model = formats.read(tmp_path / "in")
    assert model.config.diffusion.variance == "learned" and model.config.sample.sampler == "ddpm"
    assert model.sample(1, steps=3).shape == (1, 3, 16, 8)
    formats.write(model, "diffusers", tmp_path / "out")
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "out")
    assert pipeline.scheduler.config["variance_type"] == "learned_range"
    assert len(pipeline(num_inference_steps=3, output_type="np").images) == 1
