"""denoising-diffusion-pytorch itself: its checkpoints read here, and ours read by its Trainer.

It runs as its repository has it, in $UNNOISE_PEERS/denoising-diffusion-pytorch.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from benchmarks.speed.subject import Missing, Setting, snapshot, stand_in
from tests.formats.conftest import exact
from torch import Tensor

from unnoise import build, formats
from unnoise.diffusion import samplers
from unnoise.diffusion.losses import WEIGHTINGS
from unnoise.diffusion.parameterizations import determinant
from unnoise.model import Model

URL = "https://github.com/lucidrains/denoising-diffusion-pytorch"
EMA = pytest.importorskip("ema_pytorch").EMA
pytest.importorskip("einops")
try:
    snapshot(Setting("denoising-diffusion-pytorch"), URL, "faed4db")
except Missing as missing:
    pytest.skip(str(missing), allow_module_level=True)
fid = ("pytorch_fid", "pytorch_fid.fid_score", "pytorch_fid.inception")
stand_in("torchvision", "accelerate", "hyper_connections", *fid)
import denoising_diffusion_pytorch as theirs  # pyright: ignore[reportMissingImports]

for name in [name for name, module in sys.modules.items() if isinstance(module, MagicMock)]:
    del sys.modules[name]

LAYOUTS: dict[str, dict[str, Any]] = {
    "usual": {"dim_mults": (1, 2, 4)},
    "one level, grey": {"dim_mults": (3,), "channels": 1},
    "a stem of its own": {"dim_mults": (1, 2), "init_dim": 12, "channels": 4},
    "heads": {"dim_mults": (1, 1, 2), "attn_heads": 2, "attn_dim_head": 6},
    "full attention": {"dim_mults": (2, 3, 1), "full_attn": (False, True, False)},
    "linear attention": {"dim_mults": (1, 2), "full_attn": (False, False)},
    "learned variance": {"dim_mults": (1, 2), "learned_variance": True},
}


def made(unet: dict[str, Any], **process: Any) -> Any:
    """Their model for images of 16x8 with random weights."""
    torch.manual_seed(0)
    learned = unet.get("learned_variance")
    kind = theirs.LearnedGaussianDiffusion if learned else theirs.GaussianDiffusion
    diffusion = kind(theirs.Unet(8, **unet), image_size=(16, 8), **process)
    for p in diffusion.parameters():
        p.data = p.data + 0.1 * torch.randn_like(p)
    return diffusion.eval()


def trainer(diffusion: Any, folder: Path) -> Any:
    """What `Trainer.save` and `Trainer.load` need of a Trainer."""
    accelerator = SimpleNamespace(
        is_main_process=True, is_local_main_process=True, scaler=None, device="cpu",
        get_state_dict=lambda model: model.state_dict(), unwrap_model=lambda model: model,
    )  # fmt: skip
    adam = torch.optim.Adam(diffusion.parameters(), lr=1e-4, betas=(0.9, 0.99))
    return SimpleNamespace(
        accelerator=accelerator, model=diffusion, opt=adam, ema=EMA(diffusion, beta=0.995),
        step=7, results_folder=folder, device="cpu",
    )  # fmt: skip


def read(diffusion: Any, folder: Path) -> Model:
    """The model of a checkpoint that the Trainer saved after a step, whose average is another."""
    its = trainer(diffusion, folder)
    diffusion.model.final_conv.weight.square().sum().backward()
    its.opt.step()
    for p in diffusion.parameters():
        p.data = p.data + 1
    theirs.Trainer.save(its, 10)
    diffusion.load_state_dict(its.ema.ema_model.state_dict())
    size = {"image_size": 16, "image_width": 8}
    return exact(formats.read(folder / "model-10.pt", changes=size))


def close(ours: Tensor, want: Tensor) -> None:
    assert want.std() > 0.05
    assert (ours - want).abs().max() <= 1e-5 * max(1.0, float(want.abs().max()))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_outputs_there_and_back(tmp_path, layout):
    learned = layout == "learned variance"
    diffusion = made(LAYOUTS[layout], objective="pred_noise" if learned else "pred_v")
    model = read(diffusion, tmp_path)
    assert model.config.diffusion.variance == ("learned" if learned else "small")
    x, time = torch.randn(2, diffusion.channels, 16, 24), torch.tensor([3, 731])
    formats.write(model, "lucidrains", tmp_path / "model-11.pt")
    again = made(LAYOUTS[layout], objective=diffusion.objective)
    its = trainer(again, tmp_path)
    for p in its.ema.ema_model.parameters():
        p.data = p.data + 1
    theirs.Trainer.load(its, 11)
    with torch.inference_mode():
        want = diffusion.model(x, time)
        close(model.network(x, time.float()), want)
        assert torch.equal(again.model(x, time), want)
        assert torch.equal(its.ema.ema_model.model(x, time), want)
    assert its.step == 0 and its.opt.param_groups[0]["betas"] == (0.9, 0.99)
    its.opt.step()


PROCESSES = {
    f"{schedule} {objective}{' clipped' * clipped}": {
        "beta_schedule": schedule,
        "objective": f"pred_{objective}",
        "min_snr_loss_weight": clipped,
    }
    for clipped in (False, True)
    for schedule in ("linear", "cosine", "sigmoid")
    for objective in ("noise", "x0", "v")
}


@pytest.mark.parametrize("process", PROCESSES)
def test_the_same_levels_and_loss_weights_there_and_back(tmp_path, process):
    diffusion = made({"dim_mults": (1,)}, timesteps=400, **PROCESSES[process])
    model = read(diffusion, tmp_path)
    level = model.diffusion.schedule.level(torch.arange(1, 401))
    det = determinant(model.diffusion.coefficients(level), level)
    weight = torch.as_tensor(WEIGHTINGS[model.config.diffusion.weighting](level, det))
    torch.testing.assert_close(
        torch.as_tensor(level.alpha).flatten().float(), diffusion.sqrt_alphas_cumprod
    )
    want = diffusion.loss_weight
    torch.testing.assert_close(weight.float().flatten().expand(400), want, rtol=3e-5, atol=0)
    formats.write(model, "lucidrains", tmp_path / "model-11.pt")
    again = made({"dim_mults": (1,)}, timesteps=400)
    theirs.Trainer.load(trainer(again, tmp_path), 11)
    tables = dict(again.named_buffers())
    for name, want in diffusion.named_buffers():
        torch.testing.assert_close(tables[name], want, rtol=3e-5, atol=1e-7)


SAMPLERS = {
    "p_sample": ({}, {"sampler": "ddpm", "steps": 30}),
    "ddim": ({"sampling_timesteps": 10}, {"sampler": "ddim", "steps": 10}),
    "ddim with eta": (
        {"sampling_timesteps": 15, "ddim_sampling_eta": 0.7},
        {"sampler": "ddim", "steps": 15, "eta": 0.7},
    ),
}


@pytest.mark.parametrize("process", list(PROCESSES)[:9])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_steps_with_the_same_noise(tmp_path, monkeypatch, sampler, process):
    given, settings = SAMPLERS[sampler]
    diffusion = made({"dim_mults": (1, 2)}, timesteps=30, **given, **PROCESSES[process])
    same_steps(diffusion, read(diffusion, tmp_path), settings, monkeypatch)


def test_the_same_steps_with_learned_variance(tmp_path, monkeypatch):
    """Which predicts eps, though its class says pred_v unless told otherwise."""
    diffusion = made(LAYOUTS["learned variance"], timesteps=30)
    same_steps(diffusion, read(diffusion, tmp_path), SAMPLERS["p_sample"][1], monkeypatch)


def same_steps(diffusion: Any, model: Model, settings: dict[str, Any], monkeypatch: Any) -> None:
    chosen = model.settings(**settings)
    denoiser, grid = model.denoiser(None, chosen), model.grid(chosen)
    options = build.sampler_options(chosen, model.diffusion, grid)
    noise = torch.randn(31, 2, 3, 16, 8)
    ours, its = iter(noise), iter(noise)
    with torch.inference_mode():
        walk = samplers.walk(chosen.sampler, denoiser, grid, lambda: next(ours), options)
        steps = [step.x for step in walk]
    monkeypatch.setattr(torch, "randn", lambda *_, **__: next(its))
    monkeypatch.setattr(torch, "randn_like", lambda *_: next(its))
    _, *want = diffusion.sample(2, return_all_timesteps=True).unbind(1)
    assert len(steps) == len(want)
    for x, y in zip(steps, want, strict=True):
        error = (x - (2 * y - 1)).abs()  # where alpha is small, x0 = (x - sigma eps) / alpha
        assert error.mean() <= 1e-5 and error.max() <= 1e-3
