"""Batches per second: our reader of the images in memory, and DataLoader as the peers use it.

Every candidate gives float batches in -1..1, shuffled and mirrored at random. DataLoader reads a tensor data set or a folder of
PNGs, in the training process or with two workers. Each is timed alone, from when its first batches have come (workers that
prefetch would run in another's turn), and its workers end with its turn.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.speed import record
from benchmarks.speed.flags import Flags
from benchmarks.speed.interleave import spread
from benchmarks.speed.subjects.ours import images as random_set
from unnoise.data.batches import Batches
from unnoise.data.config import DataConfig
from unnoise.data.dataset import ImageData, load
from unnoise.data.images import to_model

COUNT, WORKERS, SKIPPED, TIMED = 2048, 2, 2, 40
"""Images; workers; batches before the clock starts; batches that are timed."""
Next = Callable[[], Tensor]


class Tensors(Dataset[Tensor]):
    """Images that are in memory, one at a time, as torchvision's CIFAR10 gives them."""

    def __init__(self, data: ImageData) -> None:
        self.images = torch.from_numpy(np.array(data.images))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return _mirrored(self.images[index].float() / 127.5 - 1)


class Pictures(Dataset[Tensor]):
    """A folder of PNGs, opened when asked for."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob("*.png"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.paths[index]) as picture:
            pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
        return _mirrored(pixels.float() / 127.5 - 1)


def _mirrored(image: Tensor) -> Tensor:
    return image.flip(-1) if torch.rand(()) < 0.5 else image


@contextmanager
def resident(data: ImageData, batch: int, device: torch.device) -> Iterator[Next]:
    """Ours."""
    batches, seen = Batches(data, 0, device), 0

    def following() -> Tensor:
        nonlocal seen
        seen += batch
        return to_model(batches.get(seen - batch, batch)[0])

    yield following


@contextmanager
def loader(data: Dataset[Tensor], batch: int, device: torch.device, workers: int) -> Iterator[Next]:
    """DataLoader, in an endless loop over epochs."""
    loads = DataLoader(
        data,
        batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        pin_memory=device.type == "cuda",
    )
    stream = (images for _ in iter(int, 1) for images in loads)
    yield lambda: next(stream).to(device, non_blocking=True)
    stream.close()


def candidates(data: ImageData, folder: Path, batch: int, device: torch.device) -> dict[str, Any]:
    """Name -> what opens a source of batches."""
    tensors, pictures = Tensors(data), Pictures(folder)
    found: dict[str, Callable[[], AbstractContextManager[Next]]] = {
        "unnoise": lambda: resident(data, batch, device)
    }
    for name, source in (("tensors", tensors), ("PNGs", pictures)):
        for workers in (0, WORKERS):
            opens = lambda source=source, workers=workers: loader(source, batch, device, workers)
            found[f"DataLoader of {name}, {workers} workers"] = opens
    return found


def timed(opens: Callable[[], AbstractContextManager[Next]], device: torch.device) -> float:
    """Seconds per batch."""
    with opens() as following:
        for _ in range(SKIPPED):
            following()
        began = time.perf_counter()
        for _ in range(TIMED):
            following()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / TIMED


def run(flags: Flags) -> Iterator[dict[str, Any]]:
    """The result, again after every batch size."""
    device = flags.torch_device
    result = record.about("data", device, SKIPPED, flags.plan) | {
        "rows": [],
        "protocol": " ".join(str(__doc__).split()),
    }
    with tempfile.TemporaryDirectory() as room:
        data, folder = random_set(COUNT), Path(room) / "pictures"
        folder.mkdir()
        for number, image in enumerate(data.images):
            Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number:05d}.png")
        began = time.perf_counter()
        load(DataConfig(source=str(folder), image_size=32, channels=3, cache=f"{room}/cache"))
        result["reading_the_folder_sec"] = time.perf_counter() - began
        for batch in flags.batch:
            opens = candidates(data, folder, batch, device)
            took: dict[str, list[float]] = {name: [] for name in opens}
            for _ in range(flags.repeats):
                for name, source in opens.items():
                    took[name].append(timed(source, device))
            ours = spread(took["unnoise"]).median
            for name, seconds in took.items():
                median = spread(seconds).median
                values = {
                    "subject": name,
                    "batch": batch,
                    "ms_per_batch": 1000 * median,
                    "samples": seconds,
                }
                result["rows"].append(
                    values | {"images_per_sec": batch / median, "sec_to_ours": median / ours}
                )
            yield result
