"""Muon: momentum whose update is made orthogonal, for a network's matrices; AdamW moves the rest.

Jordan et al. 2024, with the scale of Liu et al. 2025, under which it takes AdamW's learning rates.
torch.optim.Muon does the same for one matrix at a time. Here kernels of convolutions are matrices
too, (out, in x height x width), and all matrices of a shape are one batch.
"""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b and c of the quintic a s + b s^3 + c s^5 for singular values s."""
ITERATIONS = 5
"""Applied this often, the quintic takes singular values in (0.01, 1] to 0.68 .. 1.14."""
MOMENTUM = 0.95
RMS = 0.2
"""Root mean square of an update's entries, about what AdamW's are."""


def orthogonalized(
    matrices: Float[Tensor, "n r c"], dtype: torch.dtype = torch.bfloat16
) -> Float[Tensor, "n r c"]:
    """About U V^T for each matrix U S V^T, by Newton-Schulz from X of norm 1.

    X <- a X + b (X X^T) X + c (X X^T)^2 X
    """
    a, b, c = COEFFICIENTS
    x = (matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)).to(dtype)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x  # the product of the shorter sides is the smaller
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon for `matrices`, tensors (out, ..) of two or more dimensions; fused AdamW for `others`.

    Not `fast`: fp32 on a CPU that gains nothing from bf16; its ranks then differ by less.
    An attribute `found_inf` of 1 on the device makes a step change nothing, as with PyTorch's fused
    optimizers; 0 has no effect.
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        fast: bool = True,
    ) -> None:
        self.fast = fast
        common: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
        self.adamw = torch.optim.AdamW(others, betas=betas, fused=True, **common)
        super().__init__(matrices, common)
        self.param_groups += self.adamw.param_groups
        self.state = self.adamw.state  # one place for both, as a checkpoint expects it

    @torch.no_grad()
    def step(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, closure: Any = None
    ) -> None:
        """Move all parameters that have a gradient."""
        self.adamw.found_inf = self.found_inf  # pyright: ignore[reportAttributeAccessIssue]
        self.adamw.step()
        group, by_shape = self.param_groups[0], dict[torch.Size, list[Tensor]]()
        for parameter in group["params"]:
            if parameter.grad is not None:
                by_shape.setdefault(parameter.shape, []).append(parameter)
        for alike in by_shape.values():
            self._move(alike, group["lr"], group["weight_decay"])

    def _move(self, alike: list[Tensor], lr: float | Tensor, weight_decay: float) -> None:
        """One step of parameters of one shape."""
        for p in alike:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        momenta = [self.state[p]["momentum"] for p in alike]
        gradients = [p.grad for p in alike if p.grad is not None]
        if self.found_inf is not None:
            bad, pairs = self.found_inf.bool(), zip(momenta, gradients, strict=True)
            gradients = [torch.where(bad, momentum, gradient) for momentum, gradient in pairs]
            lr = lr * (1 - self.found_inf)
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        ahead = torch.stack(torch._foreach_lerp(gradients, momenta, MOMENTUM))
        flat = ahead.flatten(2)
        dtype = torch.bfloat16 if self.fast or flat.device.type != "cpu" else torch.float32
        update = orthogonalized(flat, dtype).to(flat.dtype).view_as(ahead)
        rms = RMS * math.sqrt(max(flat.shape[1:]))
        if weight_decay:
            torch._foreach_mul_(alike, torch.as_tensor(1 - lr * weight_decay, device=ahead.device))
        torch._foreach_sub_(alike, list((lr * rms * update).unbind()))
