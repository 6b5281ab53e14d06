"""Training batches without worker processes: the images stay on the device (or in the memory map)
and are indexed.

Image number i of a run is defined by the seed alone: epoch i // n has its own permutation and its
own coin per position for horizontal flips. So batches do not depend on the batch size, the number
of ranks, or where a run was interrupted.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from unnoise.data.dataset import ImageData

RESIDENT_BYTES = 4 << 30
"""Larger sets stay in the memory map, also on a GPU."""


class Batches:
    """Random access to the endless, shuffled stream of training images."""

    def __init__(self, data: ImageData, seed: int, device: torch.device | str = "cpu") -> None:
        self.count, self.flip, self.seed = data.num_train, data.flip, seed
        self.device = torch.device(device)
        self.images, self.labels = data.images[: self.count], None
        self.resident = self.device.type != "cpu" and self.images.nbytes <= RESIDENT_BYTES
        if self.resident:
            self.images = torch.from_numpy(np.array(self.images)).to(self.device)
        if data.labels is not None:
            self.labels = torch.from_numpy(np.array(data.labels[: self.count]))
        self._epoch = (-1, np.empty(0, np.int64), np.empty(0, bool))

    def _plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of an epoch's images and which positions are flipped."""
        if self._epoch[0] != epoch:
            random = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
            self._epoch = (epoch, random.permutation(self.count), random.random(self.count) < 0.5)
        return self._epoch[1], self._epoch[2]

    def get(
        self, start: int, count: int, part: slice = slice(None)
    ) -> tuple[Tensor, Tensor | None]:
        """Images start .. start + count of the stream, or a part of them: uint8 (n, c, h, w), and
        labels (n,) or None."""
        rows, flips = np.empty(count, np.int64), np.empty(count, bool)
        filled = 0
        while filled < count:
            epoch, position = divmod(start + filled, self.count)
            order, flipped = self._plan(epoch)
            more = min(count - filled, self.count - position)
            rows[filled : filled + more] = order[position : position + more]
            flips[filled : filled + more] = flipped[position : position + more]
            filled += more
        rows, flips = rows[part], flips[part]
        index = torch.from_numpy(rows)
        if isinstance(self.images, Tensor):
            images = self.images[to_device(index, self.device)]
        else:
            chosen = torch.from_numpy(np.ascontiguousarray(self.images[rows]))
            images = to_device(chosen, self.device)
        if self.flip:
            mirrored = to_device(torch.from_numpy(flips), self.device)[:, None, None, None]
            images = torch.where(mirrored, images.flip(-1), images)
        return images, None if self.labels is None else to_device(self.labels[index], self.device)


def to_device(value: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on the device; the host does not wait until CUDA has copied it."""
    return value.to(device, non_blocking=device.type == "cuda")
