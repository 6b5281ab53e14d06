"""Muon: its polynomial, PyTorch's Muon, what it moves, and that a bad step changes nothing."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.training.test_step import images, made
from unnoise import api, checkpoint
from unnoise.config import override
from unnoise.errors import ConfigError
from unnoise.presets import named
from unnoise.training import loop
from unnoise.training import state as states
from unnoise.training.muon import COEFFICIENTS, ITERATIONS, Muon, orthogonalized
from unnoise.training.step import draw, train_step


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(5, 12), (12, 5), (7, 7)])
def test_the_iteration_is_its_polynomial_on_the_singular_values(shape):
    """U S V^T -> U p(p(p(p(p(S / |S|))))) V^T, in float64."""
    batch = normal(3, *shape)
    a, b, c = COEFFICIENTS
    for matrix, got in zip(batch, orthogonalized(batch, torch.float64), strict=True):
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        s = s / s.norm()
        for _ in range(ITERATIONS):
            s = a * s + b * s**3 + c * s**5
        torch.testing.assert_close(got, u @ s.diag() @ v, rtol=0, atol=1e-12)


def test_updates_are_about_orthogonal_in_bf16():
    singular = torch.linalg.svdvals(orthogonalized(normal(4, 64, 288)).double())
    assert singular.min() > 0.6 and singular.max() < 1.3


def test_it_is_torchs_muon_and_adamw():
    """Five steps against torch.optim.Muon on flattened kernels and AdamW on the rest."""
    shapes = [(8, 4, 3, 3), (8, 4, 3, 3), (16, 8), (6, 20), (8,)]
    ours = [torch.nn.Parameter(normal(*shape, seed=i).float()) for i, shape in enumerate(shapes)]
    theirs = [
        torch.nn.Parameter(p.detach().clone().flatten(1) if p.ndim > 1 else p.detach().clone())
        for p in ours
    ]
    chosen = {"lr": 0.01, "weight_decay": 0.1}
    mine = Muon(ours[:4], ours[4:], **chosen)
    muon = torch.optim.Muon(theirs[:4], **chosen, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(theirs[4:], **chosen)
    for step in range(5):
        for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            p.grad = normal(*p.shape, seed=100 * step + i).float()
            q.grad = p.grad.reshape(q.shape).clone()
        for optimizer in (mine, muon, adamw):
            optimizer.step()
    for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
        moved = (q.detach() - normal(*shapes[i], seed=i).float().reshape(q.shape)).norm()
        assert (p.detach().reshape(q.shape) - q.detach()).norm() < (
            0.04 if p.ndim > 1 else 1e-5
        ) * moved  # bf16 alone is off by 2 %


def test_it_moves_the_matrices_inside_and_adamw_the_rest():
    _, state = made(**{"train.optimizer": "muon", "train.muon_lr": 6e-3, "train.lr": 3e-3})
    names = {id(p): name for name, p in state.network.named_parameters()}
    inside = {names[id(p)] for p in state.network.hidden_matrices()}
    assert inside == {
        name
        for name, p in state.network.named_parameters()
        if p.ndim > 1
        and not name.startswith(("stem", "out_conv", "class_embedding", "time_projection"))
    }
    assert {names[id(p)] for p in state.optimizer.param_groups[0]["params"]} == inside
    counts = [len(group["params"]) for group in state.optimizer.param_groups]
    assert sum(counts) == len(names) and state.optimizer.param_groups[0]["lr_factor"] == 2


@pytest.mark.parametrize("decides", ["host", "device"])
def test_a_bad_step_changes_nothing(decides, monkeypatch):
    run, state = made(**{"train.optimizer": "muon", "train.weight_decay": 0.1})
    train_step(run, state, draw(run, 0, *images()), 1e-3)
    before = copy.deepcopy(
        {k: v.clone() for group in states.tensors(state).values() for k, v in group.items()}
    )
    if decides == "device":
        from unnoise.training import step as module

        plain = module._apply
        monkeypatch.setattr(module, "_apply", lambda *a, wait: plain(*a, wait=False))
    batch = draw(run, 1, *images())
    batch.eps[0] = torch.nan
    train_step(run, state, batch, 1e-3)
    after = {k: v for group in states.tensors(state).values() for k, v in group.items()}
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=0, msg=name)


def test_host_and_device_take_the_same_step(monkeypatch):
    from unnoise.training import step as module

    ends = []
    for wait in (True, False):
        plain = module._apply
        with monkeypatch.context() as patch:
            patch.setattr(
                module, "_apply", lambda *a, wait, plain=plain, now=wait: plain(*a, wait=now)
            )
            run, state = made(**{"train.optimizer": "muon", "train.weight_decay": 0.1})
            train_step(
                run, state, draw(run, 0, *images()), 1e-3
            )  # of more, bf16 makes much of the last bit
            ends.append(state.network.state_dict())
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_a_run_with_muon_and_three_averages_goes_on_bit_for_bit(tmp_path):
    """Stopped after half and resumed: the same weights in every model file."""
    changes = {
        "network.base_channels": 8, "train.optimizer": "muon", "train.batch_size": 16,
        "train.sample_every_kimg": 1e9, "train.ema_halflife_kimg": 0.1,
        "train.ema_also_kimg": (0.05, 0.2), "train.ema_rampup": 0.0,
        "train.lr_schedule": "constant", "train.warmup_kimg": 2.0,
    }  # fmt: skip
    api.train("digits", tmp_path / "whole", {**changes, "train.kimg": 0.64})
    api.train("digits", tmp_path / "halves", {**changes, "train.kimg": 0.32})
    api.train("digits", tmp_path / "halves", {**changes, "train.kimg": 0.64})
    weights = {}
    for file in ("model", "model-ema-0.05", "model-ema-0.2"):
        whole, halves = (
            api.load_model(tmp_path / run / f"{file}.safetensors", "cpu")
            for run in ("whole", "halves")
        )
        assert whole.weights_hash == halves.weights_hash
        weights[whole.record["training"]["ema_halflife_kimg"]] = whole.network.state_dict()[
            "out_norm.bias"
        ]
    assert list(weights) == [0.1, 0.05, 0.2]
    assert (
        weights[0.05].norm() > weights[0.1].norm() > weights[0.2].norm() > 0
    )  # from zero, the shortest came furthest


@pytest.mark.parametrize(
    ("key", "value"),
    [("ema_also_kimg", (5.0,)), ("ema_also_kimg", (0.0,)), ("lr_decay", 0.0), ("muon_lr", 0.0)],
)
def test_wrong_numbers_are_refused(key, value, tmp_path):
    with pytest.raises(ConfigError, match=f"train.{key}.*: (got|5, 5 are)"):
        api.train("digits", tmp_path, {f"train.{key}": value})


def test_the_memory_format_of_the_weights_does_not_matter():
    ends, weights = [], None
    for layout in ("off", "on"):
        run, state = made(**{"train.optimizer": "muon", "train.channels_last": layout})
        weights = weights or {
            name: value.clone() for name, value in state.network.state_dict().items()
        }
        state.network.load_state_dict(weights)
        start = [p.detach().clone() for p in state.network.hidden_matrices()]
        train_step(run, state, draw(run, 0, *images()), 1e-3)
        ends.append(
            torch.cat(
                [
                    (p - s).flatten()
                    for p, s in zip(state.network.hidden_matrices(), start, strict=True)
                ]
            )
        )
    assert (ends[1] - ends[0]).norm() < 0.05 * ends[0].norm()


@pytest.mark.parametrize(("before", "after"), [("adamw", "muon"), ("muon", "adamw")])
def test_a_run_may_go_on_with_the_other_optimizer(tmp_path, before, after):
    def config(optimizer, kimg):
        changes = {
            "network.base_channels": 8,
            "train.batch_size": 16,
            "train.sample_every_kimg": 1e9,
            "train.warmup_kimg": 0.0,
        }
        return override(
            named("digits"), {**changes, "train.optimizer": optimizer, "train.kimg": kimg}
        )

    loop.train(config(before, 0.32), api.load_data(config(before, 1.0)), tmp_path)
    loop.train(config(after, 0.64), api.load_data(config(after, 1.0)), tmp_path, resume="anyway")
    *_, last = checkpoint.checkpoints(tmp_path / "checkpoints")
    kinds = {name.split("/")[0] for name in checkpoint.load(last)[0]["optimizer"]}
    assert last.name == "step-00000040" and ("momentum" in kinds) == (after == "muon")
