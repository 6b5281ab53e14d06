"""What FID, KID, precision, recall, density and coverage say of real images: of CIFAR-10.

    nohup nice python -m benchmarks.real_fid --data-path CIFAR --work FOLDER --out FILE.json

Train images 1 to 5,000 are the reference, compared in all three protocols with

- other: train images 5,001 to 10,000, what a perfect model would get at this number;
- jpeg75: the reference, saved as JPEG of quality 75 (colours at half resolution);
- flipped: the reference itself, mirrored.

60,000 images go through Inception, an hour on two good cores: features are kept in FOLDER, so a run
that was stopped resumes, and every comparison is written to the JSON when it is there. `--table`
prints it.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import unnoise
from benchmarks import record
from unnoise.data.dataset import load
from unnoise.evaluation.coverage import coverage
from unnoise.evaluation.extractors import extractor
from unnoise.evaluation.frechet import FrechetTo, perfect
from unnoise.evaluation.kernel import kernel_distance
from unnoise.evaluation.statistics import Statistics
from unnoise.evaluation.store import DataStore
from unnoise.parallel import World

PROTOCOLS = ("edm", "pytorch-fid", "clean")
COUNT = 5000


def jpeg75(images: np.ndarray) -> np.ndarray:
    """Through a JPEG file and back."""

    def saved(image: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(file, "JPEG", quality=75)
        return np.asarray(Image.open(file)).transpose(2, 0, 1)

    return np.stack([saved(image) for image in images])


SETS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "reference": lambda images: images[:COUNT],
    "other": lambda images: images[COUNT : 2 * COUNT],
    "jpeg75": lambda images: jpeg75(images[:COUNT]),
    "flipped": lambda images: images[:COUNT, ..., ::-1],
}


def measured(samples: Tensor, reference: Tensor) -> dict[str, Any]:
    """Every number of one comparison; a minute and more."""
    to, counts = FrechetTo(Statistics.of(reference)), (len(samples), len(reference))
    fid, (kid, kid_error) = to.estimate(samples), kernel_distance(samples, reference)
    return {
        "samples": counts[0], "reference": counts[1],
        "fid": asdict(fid) | {"interval": fid.interval},
        "fid_of_a_perfect_model": sum(perfect(to.reference.cov, count) for count in counts),
        "kid": {"value": kid, "standard_error": kid_error},
        **coverage(samples, reference)._asdict(),
    }  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    shares, lines = ("precision", "recall", "density", "coverage"), []
    for row in result["rows"]:
        fid, kid = row["fid"], row["kid"]
        low, high = fid["interval"]
        lines.append((
            row["protocol"], row["compared"], f"{fid['value']:.2f}", f"{low:.2f} to {high:.2f}",
            f"{1000 * kid['value']:.3f} ± {1000 * kid['standard_error']:.3f}",
            *(f"{row[name]:.3f}" for name in shares),
        ))  # fmt: skip
    head = ["protocol", "compared", "FID", "95 %", "KID x 1000 ±", *shares]
    return record.markdown(head, lines)


def main() -> None:
    parser = record.flags(__doc__)
    parser.set_defaults(out=Path("benchmarks/results/real-fid.json"))
    parser.add_argument("--data-path")
    parser.add_argument("--inception", type=Path)
    parser.add_argument("--work", type=Path, default=Path("real_fid"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="print the table of --out, no more")
    flags = parser.parse_args()
    result = record.read(flags.out, {"data": "CIFAR-10 train images", "rows": []})
    if flags.table:
        print(table(result))
        return
    torch.set_num_threads(flags.threads)
    data = load(unnoise.DataConfig(source="cifar10", path=flags.data_path))
    stores = {
        name: DataStore(replace(data, images=make(data.images)), flags.work / name, World())
        for name, make in SETS.items()
    }
    extracts = [extractor(protocol, "cpu", flags.inception) for protocol in PROTOCOLS]
    for name, extract in itertools.product(list(SETS)[1:], extracts):
        key = {"protocol": extract.name, "compared": name, "fingerprint": extract.fingerprint}
        if any(key.items() <= row.items() for row in result["rows"]):
            continue
        samples, reference = (
            stores[one].features(extract, range(COUNT)) for one in (name, "reference")
        )
        found = measured(samples, reference)
        result["rows"].append(key | found | {"about": extract.description})
        record.write(flags.out, result | {"torch": torch.__version__})
    print(table(result))


if __name__ == "__main__":
    main()
