"""The exponential moving average of the weights, its half-life counted in images.

torch.optim.swa_utils.AveragedModel has one fixed decay; a half-life in images with a ramp changes
it with every step.
"""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

import torch
from torch import Tensor, nn

from unnoise.parallel import local_tensor


def decay(batch_size: int, nimg: int, halflife_nimg: float, rampup: float) -> float:
    """The factor beta on the old average after a batch that brings the images seen to nimg."""
    # EDM's ramp: the average never reaches further back than a share of the run.
    halflife = min(halflife_nimg, nimg * rampup) if rampup > 0 else halflife_nimg
    return 0.5 ** (batch_size / max(halflife, 1e-8))


@torch.no_grad()
def update(
    average: nn.Module, network: nn.Module, beta: float, wanted: Tensor | None = None
) -> None:
    """average = beta * average + (1 - beta) * network, parameter by parameter.

    With a tensor `wanted` only if that is true, without asking the device whether it is.
    """
    old, new = ([local_tensor(p) for p in module.parameters()] for module in (average, network))
    if wanted is None:
        torch._foreach_lerp_(old, new, 1 - beta)
        return
    steps = torch._foreach_sub(new, old)
    torch._foreach_mul_(steps, (1 - beta) * wanted.float())
    torch._foreach_add_(old, steps)
