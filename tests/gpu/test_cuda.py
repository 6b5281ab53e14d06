"""On a CUDA device: the same numbers as on the CPU, every precision, compilation, and exact
resumption."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import unnoise
from unnoise import build
from unnoise.config import override
from unnoise.data.batches import Batches
from unnoise.data.dataset import load
from unnoise.evaluation import metrics
from unnoise.evaluation.comparison import Comparison
from unnoise.evaluation.frechet import FrechetTo
from unnoise.evaluation.statistics import Statistics
from unnoise.presets import named
from unnoise.training import loop
from unnoise.training.run import prepare
from unnoise.training.step import collect_outcomes, draw, train_step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

TINY = {
    "train.kimg": 1.28,
    "train.batch_size": 64,
    "train.sample_every_kimg": 0.64,
    "train.checkpoint_every_kimg": 0.64,
}


@pytest.fixture(scope="module")
def data():
    return load(unnoise.DataConfig())


@pytest.mark.parametrize("preset", ["digits", "cifar10", "ddpm", "iddpm"])
def test_the_network_computes_on_the_gpu_what_it_does_on_the_cpu(preset):
    size, channels = (8, 1) if preset == "digits" else (32, 3)
    net = build.network(named(preset), build.Shape(channels, size, size))
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.05)
    net.eval()
    x, t = torch.randn(2, channels, size, size), torch.tensor([3.0, 700.0])
    expected = net.double()(x.double(), t).float()
    with torch.no_grad():
        got = net.cuda()(x.double().cuda(), t.cuda()).float().cpu()
        half = net.float()
        with torch.autocast("cuda", torch.bfloat16):
            rough = half(x.cuda(), t.cuda()).float().cpu()
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert (rough - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("compiled", ["off", "on"])
def test_training_in_every_precision_compiled_or_not(data, tmp_path, precision, compiled):
    config = override(
        named("digits"), {**TINY, "train.precision": precision, "train.compile": compiled}
    )
    assert loop.train(config, data, tmp_path).finished
    assert unnoise.load(tmp_path).sample(8).shape == (8, 1, 8, 8)


def test_seeds_give_the_same_pictures_on_either_device():
    model = unnoise.load("digits", "cpu")
    on_cpu = model.sample(16).int()
    config = dataclasses.replace(model.config.train, precision="fp32")
    gpu = unnoise.Model(
        model.network, dataclasses.replace(model.config, device="cuda", train=config), model.record
    )
    assert (gpu.sample(16).int() - on_cpu).abs().float().mean() < 1


@pytest.mark.parametrize(
    ("compiled", "optimizer"), [("off", "adamw"), ("off", "muon"), ("on", "adamw")]
)
def test_no_step_waits_for_the_device(data, tmp_path, compiled, optimizer):
    changes = {
        "device": "cuda",
        "train.precision": "bf16",
        "train.compile": compiled,
        "train.optimizer": optimizer,
    }
    config = override(named("digits"), {**TINY, **changes, "train.ema_also_kimg": (1.0,)})
    run, state = prepare(config, data, tmp_path)
    batches = Batches(data, 0, run.arithmetic.device)

    def step() -> None:
        images = batches.get(state.counters.nimg, 64)
        train_step(run, state, draw(run, state.counters.step, *images), 1e-3)

    for _ in range(3):  # compilation, workspaces, the schedule's table
        step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not list(collect_outcomes(state)) and state.counters.loss_steps == 6


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_step_that_is_not_finite_changes_nothing(data, tmp_path, optimizer):
    changes = {
        "device": "cuda",
        "train.precision": "bf16",
        "train.compile": "off",
        "train.optimizer": optimizer,
    }
    config = override(named("digits"), {**TINY, **changes})
    run, state = prepare(config, data, tmp_path)
    batch = draw(run, 0, *Batches(data, 0, run.arithmetic.device).get(0, 64))
    train_step(run, state, batch, 1e-3)
    before = [v.clone() for module in (state.network, state.ema) for v in module.parameters()]
    train_step(run, state, dataclasses.replace(batch, x0=batch.x0 * float("nan")), 1e-3)
    after = [v for module in (state.network, state.ema) for v in module.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert [outcome.step for outcome in collect_outcomes(state)] == [
        2
    ] and state.counters.skipped == 1
    train_step(run, state, batch, 1e-3)
    moved = [v for module in (state.network, state.ema) for v in module.parameters()]
    assert not all(torch.equal(a, b) for a, b in zip(before, moved, strict=True))


@pytest.mark.parametrize("conditioning", ["additive", "scale_shift"])
def test_a_compiled_network_has_the_gradients_of_the_plain_one(data, tmp_path, conditioning):
    changes = {"device": "cuda", "train.compile": "on"}
    config = override(named("digits"), {**TINY, **changes, "network.conditioning": conditioning})
    run, _ = prepare(config, data, tmp_path)
    assert run.arithmetic.compile  # `compiled` has compared them


def test_interrupted_on_a_gpu_it_is_the_same_run(data, tmp_path, monkeypatch):
    """To rounding: cuDNN's convolution gradients may add in another order."""
    config = override(named("digits"), {**TINY, "train.compile": "off"})
    loop.train(config, data, tmp_path / "whole")
    folder = tmp_path / "stopped"
    first = loop.train_step

    def stopping(objective, state, batch, lr):
        if state.counters.step == 12:
            raise MemoryError
        return first(objective, state, batch, lr)

    monkeypatch.setattr(loop, "train_step", stopping)
    with pytest.raises(MemoryError):
        loop.train(config, data, folder)
    monkeypatch.setattr(loop, "train_step", first)
    assert loop.train(config, data, folder).finished
    a, b = (load_file(f / "model.safetensors") for f in (tmp_path / "whole", folder))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-2, atol=1e-2)


def test_muon_moves_the_weights_as_on_the_cpu(data, tmp_path):
    """Three fp32 steps on channels_last weights; Muon's own iteration is bf16 on both."""
    ends = []
    for device in ("cpu", "cuda"):
        changes = {
            "device": device,
            "train.precision": "fp32",
            "train.compile": "off",
            "train.optimizer": "muon",
            "train.tf32": False,
        }
        run, state = prepare(
            override(named("digits"), {**TINY, **changes}), data, tmp_path / device
        )
        start = [p.detach().cpu().clone() for p in state.network.parameters()]
        batches = Batches(data, 0, run.arithmetic.device)
        batch = draw(run, 0, *batches.get(0, 64))
        eps = torch.randn(batch.eps.shape, generator=torch.Generator().manual_seed(0)).to(
            batch.eps.device
        )
        for _ in range(3):
            train_step(run, state, dataclasses.replace(batch, eps=eps), 1e-3)
        ends.append(
            [p.detach().cpu() - s for p, s in zip(state.network.parameters(), start, strict=True)]
        )
    on_cpu, on_gpu = (torch.cat([v.flatten() for v in moves]) for moves in ends)
    assert (on_gpu - on_cpu).norm() < 0.1 * on_cpu.norm()


def test_distances_of_features_on_the_gpu_are_those_on_the_cpu():
    x, y = torch.randn(400, 24), torch.randn(500, 24) + 0.1

    def found(device: str) -> dict[str, Any]:
        place = torch.device(device)
        to = FrechetTo(Statistics.of(y).to(place))
        return metrics.measured(Comparison(x.to(place), y.to(place), to))

    assert flat(found("cuda")) == pytest.approx(flat(found("cpu")), rel=1e-6)


def flat(found: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in found.items() if isinstance(value, float)}
