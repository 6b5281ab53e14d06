"""Some trials of every row of the fault suite, in a process that forks. `make faults` runs all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import FAULTS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """The rows that were asked for, run once."""
    here = [
        item
        for item in request.session.items
        if item.path == Path(__file__) and isinstance(item, pytest.Function)
    ]
    rows = [item.callspec.params["row"] for item in here]
    file = tmp_path_factory.mktemp("faults") / "results.json"
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "UNNOISE_CACHE": str(file.parent / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", *rows, "--json", str(file)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert file.exists(), done.stdout + done.stderr
    print(done.stdout)
    return json.loads(file.read_text())["rows"]


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the suite forks its trainers")
@pytest.mark.parametrize("row", FAULTS)
def test_no_fault_costs_more_than_it_must(results, row):
    assert not results[row]["failures"], "\n".join(results[row]["failures"])
    assert results[row]["trials"] == FAULTS[row].subset
