"""One optimizer step, its randomness, the learning rate and the averaged weights."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path

import pytest
import torch

from unnoise.config import TrainConfig, override
from unnoise.data.dataset import load
from unnoise.presets import named
from unnoise.training import ema
from unnoise.training.run import prepare
from unnoise.training.step import draw, held_out_losses, learning_rate, train_step


def made(**changes):
    """A run and its state, with weights that are not zero anywhere."""
    plain = {"network.base_channels": 8, "train.precision": "fp32", "train.optimizer": "adamw"}
    config = override(named("digits"), {**plain, **changes})
    run, state = prepare(config, load(config.data), Path("unused"))
    for p in state.network.parameters():  # zero-initialised layers would hide mistakes
        torch.nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(p.numel()))
    state.ema.load_state_dict(state.network.state_dict())
    return run, state


def images(count=16):
    random = torch.Generator().manual_seed(1)
    return torch.randint(
        0, 256, (count, 1, 8, 8), generator=random, dtype=torch.uint8
    ), torch.arange(count) % 10


def test_a_step_is_adamw_on_the_clipped_gradient_and_then_the_average():
    """The whole step again, with torch's plain pieces."""
    # one channel per group would make bias gradients zero, and Adam would scale up rounding
    run, state = made(**{"train.clip": 0.01, "train.weight_decay": 0.1, "network.norm_groups": 2})
    reference, average = copy.deepcopy(state.network), copy.deepcopy(state.ema)
    adam = torch.optim.AdamW(reference.parameters(), lr=3e-3, betas=(0.9, 0.999), weight_decay=0.1)
    for _ in range(3):
        batch = draw(run, state.counters.step, *images())
        loss = run.losses(state.loss, batch, reference).mean()
        loss.backward()
        expected_norm = math.sqrt(sum(float((p.grad**2).sum()) for p in reference.parameters()))
        for p in reference.parameters():
            p.grad *= min(1.0, 0.01 / (expected_norm + 1e-6))
        adam.step()
        adam.zero_grad()
        got, norm = train_step(run, state, batch, 3e-3)
        assert float(got) == pytest.approx(loss.item(), rel=1e-6)
        assert float(norm) == pytest.approx(expected_norm, rel=1e-5)
        beta = ema.decay(16, state.counters.nimg, 5000, 0.05)
        for old, new in zip(average.parameters(), reference.parameters(), strict=True):
            old.copy_(beta * old + (1 - beta) * new)
    assert (state.counters.step, state.counters.nimg) == (3, 48)
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(state.network.state_dict()[name], value, rtol=0, atol=2e-6)
        torch.testing.assert_close(
            state.ema.state_dict()[name], average.state_dict()[name], rtol=0, atol=2e-6
        )


@pytest.mark.parametrize("micro", [1, 4, 5, 16, 64])
def test_accumulated_gradients_are_the_batchs(micro):
    whole, parts = (
        made(**{"train.clip": 0.0}),
        made(**{"train.clip": 0.0, "train.micro_batch": micro}),
    )
    results = []
    for run, state in (whole, parts):
        batch = draw(run, 0, *images())
        loss, norm = train_step(run, state, batch, 0.0)
        moments = torch.cat(
            [state.optimizer.state[p]["exp_avg"].flatten() for p in state.network.parameters()]
        )
        results.append((loss, norm, moments))
    torch.testing.assert_close(results[0], results[1], rtol=2e-5, atol=1e-7)


def test_randomness_is_a_function_of_seed_and_step():
    run, _ = made()
    first, again, later = (draw(run, step, *images()) for step in (5, 5, 6))
    other = draw(made(seed=1)[0], 5, *images())
    for name in ("eps", "t", "label"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    for different in (later, other):
        assert not torch.equal(first.eps, different.eps) and not torch.equal(first.t, different.t)
    assert torch.equal(first.x0, again.x0)


def test_labels_are_dropped_to_the_null_label_at_the_stated_rate():
    run, _ = made()
    labels = torch.zeros(20_000, dtype=torch.long)
    dropped = draw(run, 0, torch.zeros(20_000, 1, 8, 8, dtype=torch.uint8), labels).label
    assert set(dropped.tolist()) == {0, 10}
    assert abs((dropped == 10).float().mean() - 0.1) < 0.007  # 3 standard deviations
    never = made(**{"train.label_dropout": 0.0})[0]
    assert torch.equal(draw(never, 0, *images()).label, images()[1])


def test_dropout_of_the_network_repeats_with_the_step_whatever_the_global_generator_did():
    results = []
    for noise in (1, 2):
        run, state = made(**{"network.dropout": 0.5})
        state.network.train()
        torch.manual_seed(noise)
        results.append(train_step(run, state, draw(run, 0, *images()), 1e-3)[0])
    assert torch.equal(*results)


def test_times_are_stratified_or_not():
    run, _ = made()
    t = draw(run, 0, *images(1000)).t
    assert torch.equal(t, torch.arange(1, 1001).double()), (
        "1000 strata of 1000 steps: each exactly once"
    )
    loose = draw(made(**{"train.stratified": False})[0], 0, *images(1000)).t
    assert loose.unique().numel() < 750 and loose.min() >= 1 and loose.max() <= 1000


def test_held_out_loss_is_the_same_every_time_and_leaves_the_network_alone():
    run, state = made()
    pixels, labels = images(200)
    before = copy.deepcopy(state.network.state_dict())
    state.network.eval()
    first = float(held_out_losses(run, state, state.network, pixels, labels, 128).mean())
    torch.manual_seed(77)
    assert float(held_out_losses(run, state, state.network, pixels, labels, 128).mean()) == first
    assert all(torch.equal(before[k], v) for k, v in state.network.state_dict().items())
    assert all(p.grad is None for p in state.network.parameters())


def test_learning_rate_warms_up_and_falls():
    config = TrainConfig(lr=2.0, warmup_kimg=1.0, batch_size=100, lr_schedule="cosine")
    assert learning_rate(config, 0, 0.0) == pytest.approx(0.2)
    assert learning_rate(config, 400, 0.0) == pytest.approx(1.0)
    assert learning_rate(config, 5000, 0.5) == pytest.approx(1.0)
    assert learning_rate(config, 5000, 1 / 3) == pytest.approx(1.5)
    assert learning_rate(config, 9000, 1.0) == pytest.approx(0.0)
    linear = TrainConfig(lr=2.0, warmup_kimg=0.0, lr_schedule="linear")
    assert [learning_rate(linear, 0, p) for p in (0, 0.25, 1)] == [2.0, 1.5, 0.0]
    constant = TrainConfig(lr=2.0, warmup_kimg=0.0, lr_schedule="constant")
    assert learning_rate(constant, 10**9, 0.99) == 2.0


def test_the_average_has_its_half_life_in_images():
    """An old weight's share halves every half-life, whatever the batch size."""
    for batch in (1, 10, 50):
        share = 1.0
        for nimg in range(batch, 500 + batch, batch):
            share *= ema.decay(batch, 10**9 + nimg, 500, 0.05)
        assert share == pytest.approx(0.5, rel=1e-9)


def test_early_on_the_average_reaches_back_a_share_of_the_run():
    assert ema.decay(100, 1000, 1e9, 0.05) == pytest.approx(0.5**2)  # half-life 50 images
    assert ema.decay(100, 1000, 1e9, 0.0) == pytest.approx(1.0, abs=1e-6)


def test_a_gradient_scaler_changes_nothing_but_skips_an_overflowed_step():
    """The fp16 path's arithmetic, with a scaler switched on by hand."""
    (run, state), (plain_run, plain) = made(), made()
    batch = draw(run, 0, *images())
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, enabled=True)
    before = copy.deepcopy(state.network.state_dict())
    train_step(run, state, dataclasses.replace(batch, eps=1e4 * batch.eps), 1e-3)
    assert all(torch.equal(before[k], v) for k, v in state.network.state_dict().items())
    assert state.scaler.get_scale() == 2.0**126
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=True)
    scaled_norm, norm = (
        train_step(run, state, batch, 1e-3)[1],
        train_step(plain_run, plain, batch, 1e-3)[1],
    )
    torch.testing.assert_close(scaled_norm, norm, rtol=1e-5, atol=0)


def test_the_rate_may_fall_over_the_end_alone():
    train = TrainConfig(kimg=1, lr=2.0, lr_schedule="linear", lr_decay=0.4, warmup_kimg=0)
    rates = [learning_rate(train, 0, progress) for progress in (0.0, 0.59, 0.6, 0.8, 1.0)]
    assert rates == pytest.approx([2.0, 2.0, 2.0, 1.0, 0.0])
