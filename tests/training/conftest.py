"""Fixtures of the training tests."""

from __future__ import annotations

import pytest

import unnoise
from unnoise.data.dataset import ImageData, load


@pytest.fixture(scope="session")
def data() -> ImageData:
    """The digits."""
    return load(unnoise.DataConfig())
