"""A compiled network is used where its gradients are the plain network's, and only there."""

from __future__ import annotations

import pytest
import torch

import unnoise
from benchmarks import product
from unnoise import events
from unnoise.training import compiled as module

SMALL = {
    "device": "cpu", "train.compile": "on", "train.batch_size": 6, "network.base_channels": 16,
    "network.norm_groups": 8, "network.blocks_per_level": 1, "network.dropout": 0.1,
    "train.precision": "fp32",
}  # fmt: skip


@pytest.fixture
def prepared(monkeypatch):
    """A run with a stand-in for the compiler, and what was said."""

    def prepare(compiler, **changes):
        monkeypatch.setattr(torch, "compile", compiler)
        config = unnoise.preset("cifar10-speedrun", {**SMALL, **changes})
        said = []
        with events.listening(lambda event: said.append(event.text)):
            run, state = product.prepared(config, product.random_data(8))
        return run, state, said

    return prepare


class Biased(torch.nn.Module):
    """The network with the gradient of one weight multiplied."""

    def __init__(self, network, factor):
        super().__init__()
        self.network = network
        weight = network.decoder[0][0].block.conv1.bias
        weight.register_hook(lambda grad: grad * factor if self.here else grad)
        self.here = False

    def forward(self, *inputs):
        inputs[0].requires_grad_().register_hook(lambda grad: self._mark(False))
        out = self.network(*inputs)
        out.register_hook(lambda grad: self._mark(True))
        return out

    def _mark(self, here):
        self.here = here


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_is_used_where_the_gradients_agree(prepared, precision):
    compiler = lambda network, options: Biased(network, 1.0)
    run, _, said = prepared(compiler, **{"train.precision": precision})
    assert not said and run.arithmetic.compile and isinstance(run.diffusion.network, Biased)


def test_one_wrong_gradient_is_found_and_named(prepared):
    run, state, said = prepared(lambda network, options: Biased(network, 1.2))
    assert "decoder.0.0.block.conv1.bias by 20%" in said[0]
    assert run.diffusion.network is state.network and not run.arithmetic.compile


def test_a_compiler_that_fails_is_done_without(prepared):
    def compiler(network, options):
        raise RuntimeError("no C++ compiler\nand a long story")

    run, state, said = prepared(compiler)
    assert said == [f"torch.compile failed (no C++ compiler): {module.WITHOUT}"]
    assert run.diffusion.network is state.network


def test_the_check_changes_nothing(prepared):
    plain, compiled = (
        prepared(lambda network, options: network, **{"train.compile": on})[1].network
        for on in ("off", "on")
    )
    for name, value in plain.state_dict().items():
        assert torch.equal(value, compiled.state_dict()[name]), name
    assert all(p.grad is None for p in compiled.parameters())
    assert compiled.training == plain.training


def test_a_gradient_that_is_nothing_but_rounding_is_no_error(prepared):
    """One channel per group: the bias before a norm changes nothing."""

    each = {"network.norm_groups": 16, "network.channel_multipliers": (1, 1, 1)}
    run, _, said = prepared(lambda network, options: Biased(network, 3.0), **each)
    norms = [m for m in run.diffusion.network.modules() if isinstance(m, torch.nn.GroupNorm)]
    assert norms[0].num_groups == norms[0].num_channels and not said


def test_mix_order_reduction_is_off_where_there_is_one(prepared):
    seen = []

    def compiler(network, options):
        seen.append(options)
        return network

    prepared(compiler)
    known = torch._inductor.list_options()
    assert seen == [{k: False for k in module.OPTIONS if k in known}]
