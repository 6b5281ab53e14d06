"""How fast unnoise is: `python -m benchmarks.speed WHAT`, see --help.

training   images per second of a training step, the peers', share of the machine's peak, memory
sampling   8 images with 20 network evaluations each, every project's own sampler
ceilings   what the machine can do
tables     render all results into docs/results/speed.md

The peers' repositories are looked for in --peers or $UNNOISE_PEERS, their packages in this Python;
what is absent is skipped.
"""

from __future__ import annotations

import os
import sys

# Before torch is imported, here and in the subjects' processes: who waits must not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("KMP_BLOCKTIME", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import torch

from benchmarks import record
from benchmarks.speed import compare, tables

WHATS = {"training": compare.run, "sampling": compare.run, "ceilings": compare.limits}
RESULTS, PAGE = Path("benchmarks/results"), Path("docs/results/speed.md")


def main() -> None:
    flags = compare.parse(sys.argv[1:], [*WHATS, "tables"], __doc__)
    if flags.what == "tables":
        print(", ".join(tables.render(RESULTS, PAGE)))
        return
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))  # for all subjects
    result = {}
    for result in WHATS[flags.what](flags):
        record.write(flags.out, result)
    print(tables.table(result))


if __name__ == "__main__":
    main()
