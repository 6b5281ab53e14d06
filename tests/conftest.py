"""Shared fixtures. Shapes of public functions are checked by jaxtyping while the tests run."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

MEASURES = [
    f"unnoise.evaluation.{name}" for name in ("frechet", "kernel", "coverage", "statistics", "tiny")
]
if importlib.util.find_spec(
    "beartype"
):  # a GPU machine without network may have torch and pytest alone
    install_import_hook(["unnoise.diffusion", "unnoise.networks", *MEASURES], "beartype.beartype")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; tests that need it are skipped where it is
    absent."""
    path = Path(os.environ.get("UNNOISE_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip("needs the real data beside the checkout (or in $UNNOISE_SHARED_DATA)")
    return path


@pytest.fixture(autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("UNNOISE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def _global_generator_untouched(request: pytest.FixtureRequest) -> None:
    torch.manual_seed(0)
