"""What FID, KID, precision, recall, density and coverage say of real images: CIFAR-10 against CIFAR-10.

    nohup nice python -m benchmarks.real_fid --data-path CIFAR --work FOLDER --out benchmarks/results/real-fid.json

Train images 1 to 5,000 are the reference, compared in all three protocols with

- other: train images 5,001 to 10,000, what a perfect model would get at this number;
- jpeg75: the reference itself, saved as JPEG of quality 75 (Pillow's defaults, so colours at half resolution);
- flipped: the reference itself, mirrored.

60,000 images go through Inception, an hour on two good cores: features are kept in FOLDER in chunks, so a run that was stopped
goes on, and every comparison is written to the JSON when it is there. `--table` prints it.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unnoise.data.config import DataConfig
from unnoise.data.dataset import load
from unnoise.evaluation.coverage import coverage
from unnoise.evaluation.extractors import Extractor, extractor
from unnoise.evaluation.frechet import FrechetTo, perfect
from unnoise.evaluation.kernel import kernel_distance
from unnoise.evaluation.statistics import Statistics
from unnoise.files import write_json

PROTOCOLS = ("edm", "pytorch-fid", "clean")
COUNT = 5000
CHUNK = 200


def jpeg75(images: Tensor) -> Tensor:
    """Through a JPEG file and back."""

    def saved(image: Tensor) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=75)
        return np.asarray(Image.open(file)).transpose(2, 0, 1).copy()

    return torch.stack([torch.from_numpy(saved(image)) for image in images])


SETS: dict[str, Callable[[Tensor], Tensor]] = {
    "reference": lambda images: images[:COUNT],
    "other": lambda images: images[COUNT : 2 * COUNT],
    "jpeg75": lambda images: jpeg75(images[:COUNT]),
    "flipped": lambda images: images[:COUNT].flip(-1),
}


def features(
    extract: Extractor, images: Tensor, name: str, folder: Path, part_of: tuple[int, int] = (0, 1)
) -> Tensor:
    """From the folder, or made now, chunk by chunk; of several processes each makes its part."""
    parts, start_time, made = [], time.monotonic(), 0
    for start in range(part_of[0] * CHUNK, len(images), part_of[1] * CHUNK):
        path = folder / f"{extract.name}-{extract.fingerprint[:12]}-{name}-{start:05d}.npy"
        if not path.exists():
            part = extract.features(images[start : start + CHUNK])
            temporary = path.with_name(f".{path.stem}.{os.getpid()}.npy")
            np.save(temporary, part.numpy())
            os.replace(temporary, path)
            made += len(part)
            rate = made / (time.monotonic() - start_time)
            print(
                f"{extract.name} {name} {start + len(part)}/{len(images)} · {rate:.1f} images/s",
                flush=True,
            )
        parts.append(torch.from_numpy(np.load(path)))
    return torch.cat(parts)


def measured(samples: Tensor, reference: Tensor) -> dict[str, Any]:
    """Every number of one comparison; a minute and more."""
    to = FrechetTo(Statistics.of(reference))
    fid, infinity, kid = (
        to.estimate(samples),
        to.infinity(samples),
        kernel_distance(samples, reference),
    )
    return {
        "samples": len(samples),
        "reference": len(reference),
        "fid": asdict(fid) | {"interval": fid.interval},
        "fid_infinity": asdict(infinity),
        "fid_of_a_perfect_model": perfect(to.reference.cov, len(samples))
        + perfect(to.reference.cov, len(reference)),
        "kid": asdict(kid),
        **asdict(coverage(samples, reference)),
    }


def table(path: Path) -> str:
    """What was measured, as Markdown."""
    lines = [
        "| protocol | compared | FID | 95 % | FID∞ ± | KID x 1000 ± | precision | recall | density | coverage |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in json.loads(path.read_text())["rows"]:
        low, high = row["fid"]["interval"]
        infinity, kid = row["fid_infinity"], row["kid"]
        lines.append(
            f"| {row['protocol']} | {row['compared']} | {row['fid']['value']:.2f} | {low:.2f} to {high:.2f} "
            f"| {infinity['value']:.2f} ± {infinity['standard_error']:.2f} "
            f"| {1000 * kid['value']:.3f} ± {1000 * kid['standard_error']:.3f} | {row['precision']:.3f} "
            f"| {row['recall']:.3f} | {row['density']:.3f} | {row['coverage']:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-path")
    parser.add_argument("--inception", type=Path)
    parser.add_argument("--work", type=Path, default=Path("real_fid"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--part", help="only features, part I of N processes, such as 0/2")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/real-fid.json"))
    parser.add_argument(
        "--table", action="store_true", help="print the table of --out and do nothing else"
    )
    arguments = parser.parse_args()
    if arguments.table:
        print(table(arguments.out))
        return
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    images = torch.from_numpy(
        load(DataConfig(source="cifar10", path=arguments.data_path)).images[: 2 * COUNT].copy()
    )
    sets = {name: make(images) for name, make in SETS.items()}
    rows = json.loads(arguments.out.read_text())["rows"] if arguments.out.exists() else []
    extracts = [extractor(protocol, "cpu", arguments.inception) for protocol in PROTOCOLS]
    work = arguments.work
    if arguments.part:
        part, of = map(int, arguments.part.split("/"))
        for name, extract in itertools.product(sets, extracts):
            features(extract, sets[name], name, work, (part, of))
        return
    for name, extract in itertools.product(list(sets)[1:], extracts):
        key = {"protocol": extract.name, "compared": name, "fingerprint": extract.fingerprint}
        if any(key.items() <= row.items() for row in rows):
            continue
        found = measured(
            features(extract, sets[name], name, work),
            features(extract, sets["reference"], "reference", work),
        )
        rows.append(key | found | {"about": extract.description})
        write_json(
            arguments.out,
            {"data": "CIFAR-10 train images", "torch": torch.__version__, "rows": rows},
        )
    print(table(arguments.out))


if __name__ == "__main__":
    main()
