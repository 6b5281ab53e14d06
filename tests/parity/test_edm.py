"""Networks of NVlabs/edm, pickled by its own code and read here: outputs and its sampler's steps.

Needs its repository in $UNNOISE_PEERS, as a folder edm.
"""

from __future__ import annotations

import importlib
import os
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.formats.snapshots import FIXTURE, waves, weights
from torch import Tensor

import unnoise
from unnoise import formats
from unnoise.config import override
from unnoise.diffusion import samplers
from unnoise.diffusion.denoiser import Prediction
from unnoise.diffusion.levels import Level

EDM = Path(os.environ.get("UNNOISE_PEERS", ".")) / "edm"
if not EDM.is_dir():
    fix = "get it with git clone https://github.com/NVlabs/edm"
    pytest.skip(f"$UNNOISE_PEERS/edm is not there; {fix}", allow_module_level=True)

SMALL: dict[str, Any] = {
    "img_resolution": 16, "img_channels": 3, "model_type": "SongUNet", "model_channels": 16,
    "channel_mult": [1, 2, 2], "num_blocks": 2, "attn_resolutions": [8],
}  # fmt: skip
NCSN: dict[str, Any] = {
    **SMALL, "embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}  # fmt: skip
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm++": ("EDMPrecond", SMALL),
    "ncsn++": ("EDMPrecond", NCSN),
    "classes": ("EDMPrecond", {**SMALL, "label_dim": 5, "sigma_data": 0.3}),
    "classes that were dropped, augmented": (
        "EDMPrecond",
        {**NCSN, "label_dim": 3, "label_dropout": 0.1, "augment_dim": 9},
    ),
    "wide, as for CIFAR-10": (
        "EDMPrecond",
        {**SMALL, "model_channels": 64, "channel_mult": [2, 2], "attn_resolutions": [16, 8],
         "channel_mult_emb": 2, "num_blocks": 1, "sigma_max": 50.0, "sigma_min": 0.01},
    ),
    "residual encoder, box": ("EDMPrecond", {**SMALL, "encoder_type": "residual"}),
    "fir alone": ("EDMPrecond", {**SMALL, "resample_filter": [1, 3, 3, 1]}),
    "vp": ("VPPrecond", SMALL),
    "vp, other betas": ("VPPrecond", {**SMALL, "beta_d": 15.0, "beta_min": 0.2, "M": 500}),
    "ve": ("VEPrecond", {**NCSN, "label_dim": 2}),
}  # fmt: skip


@pytest.fixture(scope="module")
def edm() -> Any:
    """Its modules networks and generate; what they import but do not need here is left empty."""
    sys.path.insert(0, str(EDM))
    sys.modules.setdefault("click", types.ModuleType("click"))
    try:
        networks = importlib.import_module("training.networks")
        text = (EDM / "generate.py").read_text().partition("# Generalized ablation sampler")[0]
        names: dict[str, Any] = {}
        exec(compile(text, "generate.py", "exec"), names)  # noqa: S102
        yield types.SimpleNamespace(networks=networks, sampler=names["edm_sampler"])
    finally:
        sys.path.remove(str(EDM))


def theirs(edm: Any, name: str) -> Any:
    """One of NETWORKS, with random numbers in all parameters."""
    kind, arguments = NETWORKS[name]
    torch.manual_seed(0)
    network = getattr(edm.networks, kind)(**arguments).eval().requires_grad_(False)
    for key, p in network.named_parameters():
        scale = 0.3 if p.ndim == 1 else 0.7 * p[0].numel() ** -0.5
        p.copy_((p.ndim == 1 and key.endswith("weight")) + scale * torch.randn(p.shape))
    return network


def imported(network: Any, path: Path) -> unnoise.Model:
    """As EDM's training loop writes it, and read here; computed in fp32."""
    with path.open("wb") as file:
        pickle.dump({"ema": network, "loss_fn": None, "augment_pipe": None}, file)
    model = formats.read(path)
    config = override(model.config, {"train.precision": "fp32"})
    return unnoise.Model(model.network, config, model.record)


def exactly(network: Any) -> None:
    """VPPrecond's sigma_inv in float64: in float32 it loses log(1 + sigma^2) of small sigma."""
    beta_d, beta_min = network.beta_d, network.beta_min

    def sigma_inv(sigma: Tensor) -> Tensor:
        square = beta_min**2 + 2 * beta_d * torch.log1p(sigma.double() ** 2)
        return ((square.sqrt() - beta_min) / beta_d).float()

    network.sigma_inv = sigma_inv


def noisy(model: unnoise.Model, x: Tensor, sigma: float) -> tuple[Tensor, Level]:
    """EDM's x = x0 + sigma eps at the level of ours that has this noise, scaled as there."""
    schedule = model.diffusion.schedule
    level = schedule.level(schedule.time(sigma))
    return x * level.alpha, level


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_denoiser(edm, tmp_path, name):
    network = theirs(edm, name)
    model = imported(network, tmp_path / "network-snapshot-000001.pkl")
    if name.startswith("vp"):
        exactly(network)
    x = torch.randn(2, 3, 16, 16)
    classes = model.shape.num_classes
    label = torch.tensor([classes - 1, 0]) if classes else None
    hot = torch.eye(classes)[label] if classes else None
    for sigma in (0.003, 0.1, 1.0, 7.0, 60.0):
        with torch.inference_mode():
            want = network(x * (1 + sigma), torch.tensor(sigma), hot)
            got = model.diffusion.denoise(*noisy(model, x * (1 + sigma), sigma), label).x0
            close(got, want)
            if model.shape.null_label and classes:
                none = network(x * (1 + sigma), torch.tensor(sigma), None)
                null = torch.full((2,), classes)
                got = model.diffusion.denoise(*noisy(model, x * (1 + sigma), sigma), null).x0
                close(got, none)
                assert not torch.allclose(none, want, rtol=1e-2)


def close(got: Tensor, want: Tensor) -> None:
    assert want.std() > 0.01
    assert (got - want).abs().max() < 1e-5 * want.abs().max()


@pytest.mark.parametrize("kind", ["EDMPrecond", "VPPrecond", "VEPrecond"])
def test_the_numbers_of_the_fixture_are_its_own(edm, kind):
    network = getattr(edm.networks, kind)(**FIXTURE["arguments"]).eval().requires_grad_(False)
    network.load_state_dict(weights())
    if kind == "VPPrecond":
        exactly(network)
    for sigma in (0.05, 1.0, 20.0):
        x, hot = waves(7, 1, 1, 8, 8) * (1 + sigma), torch.eye(3)[[1]]
        out = network(x, torch.tensor(sigma), hot)[0, 0].diagonal()
        close(torch.tensor(FIXTURE["outputs"][kind][str(sigma)]), out)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_steps_of_its_sampler(edm, tmp_path, name):
    """Both in float64 but for the network; the whole way in fp32 differs by rounding alone."""
    network = theirs(edm, name)
    model = imported(network, tmp_path / "network-snapshot-000001.pkl")
    if name.startswith("vp"):
        exactly(network)
    noise, classes = model.noise(range(3)).normal(), model.shape.num_classes
    label = torch.arange(3) % classes if classes else None
    hot = torch.eye(classes)[label] if classes else None
    calls: list[float] = []
    network.register_forward_hook(lambda _, inputs, out: calls.append(float(inputs[1])))
    with torch.inference_mode():
        want = edm.sampler(network, noise, hot, num_steps=6)
    settings = model.settings(steps=6)
    grid = model.grid(settings)

    def denoiser(x: Tensor, level: Level) -> Prediction:
        x0 = model.diffusion.denoise(x.float(), level, label).x0.double()
        return Prediction(x0, (x - level.alpha * x0) / level.sigma)

    with torch.inference_mode():
        *_, last = samplers.walk(settings.sampler, denoiser, grid, noise.double)
    close(last.x, want)
    visited = [level.sigma / level.alpha for level in grid[:-1]]
    assert sorted({*calls}, reverse=True) == pytest.approx(visited, rel=1e-6)
    *_, plain = model.steps(range(3), label=None if label is None else label.tolist(), steps=6)
    assert (plain.x - want).abs().max() < 1e-4 * want.abs().max()
    assert settings.sampler == "heun_edm" and model.settings().steps == 18
