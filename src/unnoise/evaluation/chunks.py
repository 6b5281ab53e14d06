"""A long array on disk in pieces, so that its making can stop anywhere, go on, and be shared by several processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Chunks:
    """`count` rows, `size` per file; a file is there whole or not at all, and one that cannot be read is made again."""

    folder: Path
    name: str
    count: int
    size: int

    def parts(self) -> list[range]:
        """The rows of each file."""
        return [range(start, min(start + self.size, self.count)) for start in range(0, self.count, self.size)]

    def path(self, rows: range) -> Path:
        return self.folder / f"{self.name}-{rows.start:06d}-{rows.stop:06d}.npy"

    def make(self, rows: Callable[[range], Tensor], parts: Iterable[range]) -> Iterator[range]:
        """Make those of these parts that are not there yet; gives each when it is there."""
        for part in parts:
            if self._read(part) is None:
                self._write(part, rows(part).cpu().numpy())
            yield part

    def whole(self) -> Tensor:
        """All rows; ValueError while some are missing."""
        read = [self._read(part) for part in self.parts()]
        missing = [part for part, array in zip(self.parts(), read, strict=True) if array is None]
        if missing:
            raise ValueError(f"{self.path(missing[0])}: is missing or damaged; run the same command again")
        return torch.from_numpy(np.concatenate([array for array in read if array is not None]))

    def _write(self, part: range, array: np.ndarray) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{self.path(part).name}.{os.getpid()}.tmp"
        with temporary.open("wb") as file:
            np.save(file, array)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.path(part))

    def _read(self, part: range) -> np.ndarray | None:
        try:
            array = np.load(self.path(part), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return array if len(array) == len(part) else None
