"""Which noise goes with which image: minibatch optimal transport."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def optimal_transport(
    x0: Float[Tensor, "b c h w"], eps: Float[Tensor, "b c h w"], label: Int[Tensor, " b"] | None
) -> Float[Tensor, "b c h w"]:
    """Reorder the noises so that the sum of ||x0 - eps||^2 is least: straighter paths.

    Only images of one label exchange their noises: otherwise a class would see only some part of
    the Gaussian.  # Tong et al. 2024, section 3.2
    """
    result = eps.clone()
    groups = [torch.arange(len(x0), device=x0.device)] if label is None else [
        (label == value).nonzero()[:, 0] for value in label.unique()
    ]  # fmt: skip
    for rows in groups:
        distances = torch.cdist(x0[rows].flatten(1).double(), eps[rows].flatten(1).double()) ** 2
        _, columns = linear_sum_assignment(distances.cpu().numpy())
        result[rows] = eps[rows[torch.as_tensor(columns, device=rows.device)]]
    return result
