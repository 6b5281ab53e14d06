"""Both notebooks run from top to bottom, and the outputs that they store are those of a run."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SHORT = {
    "diffusion_model": "EPOCHS, SHOW_EVERY, T, BATCH = 4, 1, 50, 250",
    "tour": """CHANGES = {"train.kimg": 0.2, "train.sample_every_kimg": 0.1}
TUNING = {"images": 2, "evaluations": 50}""",
}
FEW_PICTURES_OF_COLOUR = """DATASET = "cifar10"
EPOCHS, SHOW_EVERY, T, BATCH, MULTIPLIERS, WIDTH = 1, 1, 50, 32, (1, 2, 2), 16
import numpy as np, unnoise
images = np.random.default_rng(0).integers(0, 256, (64, 3, 32, 32), np.uint8)
data = unnoise.dataset(images, np.arange(64) % 10, [str(i) for i in range(10)])
unnoise.load_data = lambda config: data"""


def stored(name: str) -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def execute(name: str, folder: Path, settings: str = "") -> nbformat.NotebookNode:
    """Run it as a reader would who adds lines to the cell of settings."""
    notebook = stored(name)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    first.source += "\n" + settings
    NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def opened(notebook: nbformat.NotebookNode) -> list[list[Image.Image]]:
    """Each cell's pictures."""
    return [
        [
            Image.open(io.BytesIO(base64.b64decode(output["data"]["image/png"])))
            for output in cell.get("outputs", [])
            if "image/png" in output.get("data", {})
        ]
        for cell in notebook.cells
    ]


def pictures(notebook: nbformat.NotebookNode) -> list[list[tuple[int, int]]]:
    """The sizes of each cell's pictures."""
    return [[picture.size for picture in cell] for cell in opened(notebook)]


def printed(notebook: nbformat.NotebookNode) -> list[str]:
    """What each cell printed."""
    return [
        "".join(output.text for output in cell.get("outputs", []) if output.get("name") == "stdout")
        for cell in notebook.cells
    ]


@pytest.mark.long
@pytest.mark.parametrize("name", SHORT)
def test_a_notebook_stores_what_a_short_run_of_it_shows(name, tmp_path):
    notebook = execute(name, tmp_path, SHORT[name])
    assert pictures(notebook) == pictures(stored(name))
    if name == "diffusion_model":  # what the tour prints is measured
        assert printed(notebook) == printed(stored(name))
        ends = [
            [picture for cell in opened(n) for picture in cell] for n in (notebook, stored(name))
        ]
        for at in (0, -1):  # what no training changes: the data, and the package's own model
            new, old = (np.asarray(end[at].convert("L"), float) for end in ends)
            assert np.abs(new - old).mean() < 1


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_a_notebook_stores_what_a_whole_run_of_it_shows(name, tmp_path):
    notebook = execute(name, tmp_path)
    assert pictures(notebook) == pictures(stored(name))
    assert [bool(text) for text in printed(notebook)] == [bool(t) for t in printed(stored(name))]


@pytest.mark.slow
def test_one_variable_trains_on_pictures_with_colour(tmp_path):
    notebook = execute("diffusion_model", tmp_path, FEW_PICTURES_OF_COLOUR)
    assert sum(map(len, pictures(notebook))) == 10


@pytest.mark.parametrize("name", SHORT)
def test_stored_outputs_are_whole_and_small(name):
    path = NOTEBOOKS / f"{name}.ipynb"
    cells = [cell for cell in stored(name).cells if cell.cell_type == "code"]
    assert path.stat().st_size < 1_500_000
    assert sum(map(len, pictures(stored(name)))) >= 9
    assert not any(o.output_type == "error" for cell in cells for o in cell.outputs)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
