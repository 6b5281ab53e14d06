"""The Inception Score against its closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unnoise.errors import DataError
from unnoise.evaluation.inception_score import inception_score


def test_clear_classes_and_none():
    clear = torch.eye(10).repeat(20, 1) * 1000
    assert inception_score(clear) == pytest.approx((10, 0))
    assert inception_score(torch.zeros(100, 10)) == pytest.approx((1, 0))


def test_against_the_definition():
    logits = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)) * 3
    p = logits.double().softmax(1).numpy()
    scores = []
    for part in np.split(p, 3):
        kl = (part * (np.log(part) - np.log(part.mean(0)))).sum(1)
        scores.append(np.exp(kl.mean()))
    assert inception_score(logits, 3) == pytest.approx((np.mean(scores), np.std(scores)))


@pytest.mark.parametrize(
    "wrong", [torch.zeros(5, 3), torch.zeros(20), torch.full((20, 3), float("nan"))]
)
def test_wrong_logits_are_one_line(wrong):
    with pytest.raises(
        DataError, match=r"^logits: got .*, expected finite \(n, classes\) with n at least 10$"
    ):
        inception_score(wrong)
