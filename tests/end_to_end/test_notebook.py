"""notebooks/diffusion_model.ipynb runs from top to bottom."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "diffusion_model.ipynb"


def execute(folder: Path, changes: str) -> nbformat.NotebookNode:
    """Run it as a reader would who edits the first cell."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert "CHANGES = {}" in notebook.cells[1].source
    notebook.cells[1].source = notebook.cells[1].source.replace(
        "CHANGES = {}", f"CHANGES = {changes}"
    )
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def pictures(notebook: nbformat.NotebookNode) -> int:
    return sum(
        "image/png" in output.get("data", {})
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )


def test_the_notebook_runs_with_a_short_training(tmp_path):
    notebook = execute(tmp_path, '{"train.kimg": 1, "train.sample_every_kimg": 0.5}')
    assert pictures(notebook) == 6  # mosaic, schedules, noising, losses, samples, denoising
    assert (tmp_path / "runs" / "digits" / "model.safetensors").exists()


@pytest.mark.slow
def test_the_notebook_runs_as_it_is(tmp_path):
    assert pictures(execute(tmp_path, "{}")) == 6


def test_the_notebook_is_stored_without_outputs():
    assert not any(cell.get("outputs") for cell in nbformat.read(NOTEBOOK, as_version=4).cells)
