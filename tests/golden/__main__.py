"""Compare what two source trees compute: python -m tests.golden [BASE] [--only PART ..].

BASE is a commit; the other one is the working tree. Both run on this machine, at the same time and
with one thread each, because other processors and thread counts give other last digits. Exit code 1
if any number differs. A row or a part of one that only one tree has is reported, and no difference.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent.parent
PROBE = Path(__file__).with_name("probe.py")
PARTS = ("training", "sampling", "evaluation")

Rows = dict[str, dict[str, np.ndarray]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("base", nargs="?", default="HEAD", help="commit to compare with [HEAD]")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="unnoise-golden-") as name:
        folder = Path(name)
        base = check_out(arguments.base, folder / "base")
        draw_digit(folder / "digit.png")
        if set(arguments.only) & {"sampling", "evaluation"}:
            finish([start(base, folder, "models", [])])
        trees = {"base": base, "new": ROOT / "src"}
        finish([start(tree, folder, side, arguments.only) for side, tree in trees.items()])
        before, after = (read(folder / f"{side}.npz") for side in trees)
    lines = [line(row, before.get(row), after.get(row)) for row in {**before, **after}]
    print("\n".join([f"{'row':40} {arguments.base[:10]:10} {'here':10} result", *lines]))
    differ = sum("DIFFERS" in text for text in lines)
    alone = len(before.keys() ^ after.keys())
    sec = time.monotonic() - began
    print(f"\n{len(lines)} rows, {differ} differ, {alone} new or gone, in {sec:.0f} s")
    return int(differ > 0)


def check_out(commit: str, folder: Path) -> Path:
    """The source of a commit in a folder of its own; leaves nothing behind in the repository."""
    folder.mkdir()
    archive = subprocess.run(
        ["git", "archive", commit, "src"], cwd=ROOT, check=True, stdout=subprocess.PIPE
    )
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder / "src"


def draw_digit(path: Path) -> None:
    """A picture to edit that no code of either tree had a part in."""
    from sklearn.datasets import load_digits

    Image.fromarray((load_digits().images[3] * 15.9).astype(np.uint8)).save(path)


def start(source: Path, folder: Path, side: str, parts: list[str]) -> subprocess.Popen[bytes]:
    """The probe of one tree, in the background; without parts it trains the models for both."""
    inside = folder / f"work-{side}"
    inside.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    environment["UNNOISE_CACHE"] = str(folder / f"cache-{side}")
    paths = [folder / f"{side}.npz", folder / "models", folder / "digit.png"]
    return subprocess.Popen([sys.executable, PROBE, *paths, *parts], cwd=inside, env=environment)


def finish(probes: list[subprocess.Popen[bytes]]) -> None:
    """Wait for all; a probe that failed has said why on stderr."""
    codes = [probe.wait() for probe in probes]
    if any(codes):
        sys.exit(f"golden: a probe failed (exit codes {codes}); nothing was compared")


def read(path: Path) -> Rows:
    rows: Rows = {}
    with np.load(path) as file:
        for name in file.files:
            row, _, part = name.partition("|")
            rows.setdefault(row, {})[part] = file[name]
    return rows


def digest(parts: dict[str, np.ndarray]) -> str:
    whole = hashlib.sha256()
    for name, value in sorted(parts.items()):
        whole.update(f"{name} {value.dtype} {value.shape}".encode() + value.tobytes())
    return whole.hexdigest()[:8]


def line(
    row: str, before: dict[str, np.ndarray] | None, after: dict[str, np.ndarray] | None
) -> str:
    """A row of the table."""
    hashes = " ".join(f"{digest(parts) if parts else '-':10}" for parts in (before, after))
    if before is None or after is None:
        return f"{row:40} {hashes} {'new' if before is None else 'gone'}"
    return f"{row:40} {hashes} {compared(before, after)}"


def compared(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> str:
    """equal, or DIFFERS with the part that differs most. A row that failed is never equal."""
    errors = [str(parts["error"]) for parts in (before, after) if "error" in parts]
    if errors:
        return (
            f"DIFFERS: {errors[-1]}" if len(errors) == 1 else f"DIFFERS, fails in both: {errors[1]}"
        )
    both = before.keys() & after.keys()
    found = sorted(filter(None, (difference(k, before[k], after[k]) for k in both)), reverse=True)
    alone = len(before.keys() ^ after.keys())
    note = f" ({alone} parts are new or gone)" if alone else ""
    if not found:
        return "equal" + note
    return f"DIFFERS in {len(found)} of {len(both)} parts, most in {found[0][1]}{note}"


def difference(part: str, before: np.ndarray, after: np.ndarray) -> tuple[float, str] | None:
    """How much two arrays differ, relative to the largest number, and in words."""
    if before.dtype != after.dtype or before.shape != after.shape or before.dtype.kind == "U":
        same = before.dtype == after.dtype and np.array_equal(before, after)
        kinds = [f"{a.dtype} {a.shape}" if a.dtype.kind != "U" else str(a) for a in (before, after)]
        return None if same else (np.inf, f"{part}: {kinds[0][:60]} -> {kinds[1][:60]}")
    if np.array_equal(before, after, equal_nan=before.dtype.kind == "f"):
        return None
    left, right = before.astype(np.float64), after.astype(np.float64)
    largest = np.nan_to_num(np.abs(left)).max()
    size = np.abs(right - left).max()
    relative = float(size / largest) if largest else float(size)
    relative = np.inf if np.isnan(relative) else relative
    return relative, f"{part}: {size:.3g}, the largest being {largest:.3g}"


if __name__ == "__main__":
    sys.exit(main())
