"""torch.compile for training, and only where its gradients are those of the plain network.

Compilers have been wrong on just such networks: Inductor's mix-order reduction gave wrong gradients
of the biases to which a time embedding is added (pytorch#190796, #193061), so it is off.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from unnoise import events
from unnoise.memory import halving, out_of_memory
from unnoise.networks.config import Shape
from unnoise.precision import Arithmetic

OPTIONS: dict[str, Any] = {"triton.mix_order_reduction": False}
WITHOUT = "training goes on without it; --train.compile off spares the attempt"
PART = 64
"""Images at a time of the plain network, whose pass needs more memory than the compiled one's."""
WORST, TIMES = 0.05, 3.0
"""A gradient may be this far from float32's, relative to it, or so many times as far as the plain
network's in the same precision."""
NOTHING = 1e-5
"""A gradient below this share of all counts as this share: some are 0 but for rounding."""
NUDGE = 0.02
"""Standard deviation of weights in the place of those that start at zero and let nothing pass."""

Gradients = dict[str, Tensor]


def compiled(network: nn.Module, shape: Shape, count: int, arithmetic: Arithmetic) -> nn.Module:
    """The network compiled, or itself, with a message, where that fails or gives other gradients.

    `count` images are a step's: compilation is for their shape. Weights and gradients stay as they
    are, the check costs about three steps.
    """
    try:
        fast = compile_network(network)
        wrong = differing(fast, network, shape, count, arithmetic)
    except Exception as error:
        if out_of_memory(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        events.say(f"torch.compile failed ({reason}): {WITHOUT}")
        return network
    if not wrong:
        return fast
    name, error = max(wrong.items(), key=lambda one: one[1])
    events.say(
        f"torch.compile gives wrong gradients ({len(wrong)} weights, {name} by {error:.0%}): "
        f"{WITHOUT}"
    )
    return network


def compile_network(network: nn.Module) -> nn.Module:
    """torch.compile with OPTIONS, as far as this version of PyTorch knows them."""
    known = torch._inductor.list_options()
    options = {name: value for name, value in OPTIONS.items() if name in known}
    return cast(nn.Module, torch.compile(network, options=options))


def differing(
    fast: nn.Module, plain: nn.Module, shape: Shape, count: int, arithmetic: Arithmetic
) -> dict[str, float]:
    """The parameters whose gradients by `fast` are wrong, with their errors relative to float32's.

    Both modules have the same parameters; random images, times and labels, without dropout.
    """
    device, random = arithmetic.device, torch.Generator().manual_seed(0)
    size = (count, shape.channels, shape.height, shape.width)
    x, weight = (torch.randn(size, generator=random).to(device) for _ in range(2))
    time = torch.rand(count, generator=random).to(device)
    label = (torch.arange(count) % shape.num_classes).to(device) if shape.num_classes else None

    def gradients(network: nn.Module, part: int, exact: bool) -> Gradients:
        network.zero_grad(set_to_none=True)
        for start in range(0, count, part):
            rows = slice(start, start + part)
            with nullcontext() if exact else arithmetic.autocast():
                out = network(x[rows], time[rows], None if label is None else label[rows])
            # a learned variance has twice the channels
            wanted = weight[rows].repeat(1, out.shape[1] // shape.channels, 1, 1)
            (out.float() * wanted).mean(dim=(1, 2, 3)).sum().backward()
        grads = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
        network.zero_grad(set_to_none=True)
        return {name: grad.float() for name, grad in grads.items()}

    def compare() -> dict[str, float]:
        _, ours = halving(count, lambda most: gradients(fast, most, exact=False))
        rough, exact = (
            halving(min(PART, count), lambda most, exact=exact: gradients(plain, most, exact))[1]
            for exact in (False, True)
        )
        least = NOTHING * float(torch.stack([v.norm() for v in exact.values()]).norm())
        found: dict[str, float] = {}
        for name, v in exact.items():
            scale = float(v.norm().clamp(min=least))
            error, usual = (float((g[name] - v).norm()) / scale for g in (ours, rough))
            if not error <= max(WORST, TIMES * usual):
                found[name] = error
        return found

    with _nudged(plain):
        return compare()


@contextmanager
def _nudged(network: nn.Module) -> Iterator[None]:
    """Without dropout, and with small weights in the place of zeros."""
    modes = {module: module.training for module in network.modules()}
    saved = [(p, p.detach().clone()) for p in network.parameters()]
    random = torch.Generator().manual_seed(1)
    dropout = any(isinstance(module, nn.Dropout) and module.p > 0 for module in modes)
    network.train(not dropout)
    try:
        with torch.no_grad():
            for p, before in saved:
                if not before.any():
                    p.copy_(NUDGE * torch.randn(p.shape, generator=random))
        yield
    finally:
        with torch.no_grad():
            for p, before in saved:
                p.copy_(before)
        for module, mode in modes.items():
            module.training = mode
