from __future__ import annotations

from pathlib import Path

import pytest

from tests.studio.made import make


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with everything in it."""
    return make(tmp_path / "one run")
