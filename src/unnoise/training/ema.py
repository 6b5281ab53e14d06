"""The exponential moving average of the weights, its half-life counted in images.

torch.optim.swa_utils.AveragedModel has one fixed decay; a half-life in images with a ramp changes
it with every step.
"""

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
def update(average: nn.Module, network: nn.Module, beta: float) -> None:
    """average = beta * average + (1 - beta) * network, parameter by parameter."""
    old, new = _local(average), _local(network)
    torch._foreach_lerp_(old, new, 1 - beta)  # pyright: ignore[reportPrivateImportUsage]


@torch.no_grad()
def update_where(wanted: Tensor, average: nn.Module, network: nn.Module, beta: float) -> None:
    """`update` if the tensor `wanted` is true, without asking the device whether it is."""
    old, new = _local(average), _local(network)
    steps = torch._foreach_sub(new, old)  # pyright: ignore[reportPrivateImportUsage]
    share = (1 - beta) * wanted.float()
    torch._foreach_mul_(steps, share)  # pyright: ignore[reportPrivateImportUsage]
    torch._foreach_add_(old, steps)  # pyright: ignore[reportPrivateImportUsage]


def _local(network: nn.Module) -> list[Tensor]:
    """This rank's part of every parameter."""
    return [local_tensor(value) for value in network.parameters()]
