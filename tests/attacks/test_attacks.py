"""One in a dozen attacks of each kind, in a process that forks. `make attacks` runs all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_no_attack_succeeds():
    kinds = ("pictures", "zips", "records", "formats", "flags", "api", "studio")
    command = [sys.executable, "-m", "tests.attacks", *kinds, "--every", "12"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
