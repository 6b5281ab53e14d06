"""The network as sampling calls it gives what the plain one gives."""

from __future__ import annotations

import pytest
import torch
from tests.networks.test_unet import SMALL, random_weights

from unnoise.errors import ConfigError
from unnoise.model import load
from unnoise.networks.sampling import DeepCache, cast_weights
from unnoise.networks.unet import UNet


def network(every: str = "every_block", stem: str = "conv") -> UNet:
    import dataclasses

    net = UNet(dataclasses.replace(SMALL, skips=every, stem=stem), 1, 1, 8, num_classes=3)
    return random_weights(net).requires_grad_(False)


def inputs(batch: int, time: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(int(time))
    return (
        torch.randn(batch, 1, 8, 8, generator=generator),
        torch.full((batch,), time),
        torch.arange(batch) % 3,
    )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_rounded_weights_change_no_bit_under_autocast(layout):
    net = network().to(memory_format=layout)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    fast = cast_weights(net, torch.bfloat16)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast(*inputs(3, 500.0)), net(*inputs(3, 500.0)))
    assert fast.get_parameter("stem.weight").dtype == torch.bfloat16
    for key, value in net.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, before[key])


@pytest.mark.parametrize(
    ("every", "stem"), [("every_block", "conv"), ("per_level", "conv"), ("per_level", "block")]
)
def test_deep_cache_computes_the_deep_levels_at_every_nth_call(every, stem):
    net, calls = network(every, stem), []
    net.middle1.register_forward_hook(lambda *_: calls.append(1))
    cached = DeepCache(net, 3)
    outs, plain, deep = [], [], []
    for time in (900.0, 800.0, 700.0, 600.0, 500.0):
        calls.clear()
        outs.append(cached(*inputs(2, time)))
        deep.append(len(calls))
        plain.append(net(*inputs(2, time)))
    assert deep == [1, 0, 0, 1, 0]
    assert torch.equal(outs[0], plain[0]) and torch.equal(outs[3], plain[3])
    assert not torch.equal(outs[1], plain[1]) and not torch.equal(outs[2], plain[2])
    calls.clear()
    assert (
        torch.equal(cached(*inputs(2, 900.0)), plain[0]) and len(calls) > 0
    )  # another walk begins
    assert torch.equal(cached(*inputs(3, 800.0)), net(*inputs(3, 800.0)))  # another batch


def test_the_shallow_levels_see_the_new_time_and_image():
    net = network()
    cached = DeepCache(net, 2)
    x, time, label = inputs(2, 900.0)
    first = cached(x, time, label)
    assert torch.equal(
        cached(x, time, label), first
    )  # the same call again: kept features are the right ones
    cached(x, time, label)
    assert not torch.equal(cached(x + 0.1, time, label), first)


def test_sampling_with_deep_cache():
    model = load("digits", device="cpu")
    plain = model.sample(4, sampler="ddim", steps=20).float()
    near, far = (model.sample(4, sampler="ddim", steps=20, deep_cache=n).float() for n in (2, 10))
    errors = [(images - plain).square().mean().sqrt().item() for images in (near, far)]
    assert 0 < errors[0] < errors[1] and errors[0] < 25
    assert torch.equal(model.sample(4, sampler="ddim", steps=20, deep_cache=1).float(), plain)
    with pytest.raises(ConfigError, match=r"deep_cache: got 0, expected 1 \(off\) or more"):
        model.sample(1, deep_cache=0)
    with pytest.raises(ConfigError, match="cuda_graphs: needs CUDA, got device cpu"):
        model.sample(1, cuda_graphs=True)
    with pytest.raises(ConfigError, match="expected one of the two"):
        model.sample(1, deep_cache=2, cuda_graphs=True)
