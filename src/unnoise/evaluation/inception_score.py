"""The Inception Score of a classifier's logits (Salimans et al. 2016): clear classes, and many.

exp(mean_x KL(p(y | x) || p(y))). FID's network gives no logits, so it takes a network of the user's;
with any other than the TensorFlow Inception of 2015 it is no Inception Score to compare.
"""

from __future__ import annotations

import torch
from torch import Tensor

SPLITS = 10


def inception_score(logits: Tensor, splits: int = SPLITS) -> tuple[float, float]:
    """Mean and standard deviation over splits of logits (n, classes), in their order."""
    parts = logits.double().log_softmax(1).tensor_split(splits)
    scores = torch.stack([_score(part) for part in parts])
    return float(scores.mean()), float(scores.std(correction=0))


def _score(log_p: Tensor) -> Tensor:
    log_marginal = log_p.logsumexp(0) - torch.tensor(float(len(log_p))).log()
    return (log_p.exp() * (log_p - log_marginal)).sum(1).mean().exp()
