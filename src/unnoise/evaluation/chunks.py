"""A long array on disk in pieces, so that its making can stop anywhere, go on, and be shared by several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from unnoise.errors import DataError
from unnoise.evaluation import reference


@dataclass(frozen=True)
class Chunks:
    """`count` rows, `size` per file; a file is there whole or not at all, and a damaged one is made again."""

    folder: Path
    name: str
    count: int
    size: int

    def parts(self) -> list[range]:
        """The rows of each file."""
        return [
            range(start, min(start + self.size, self.count))
            for start in range(0, self.count, self.size)
        ]

    def path(self, rows: range) -> Path:
        return self.folder / f"{self.name}-{rows.start:06d}-{rows.stop:06d}.safetensors"

    def make(self, rows: Callable[[range], Tensor], parts: Iterable[range]) -> Iterator[range]:
        """Make those of these parts that are not there yet; gives each when it is there."""
        for part in parts:
            if self._read(part) is None:
                self._write(part, rows(part))
            yield part

    def whole(self) -> Tensor:
        """All rows; DataError while some are missing."""
        read = [self._read(part) for part in self.parts()]
        missing = [part for part, rows in zip(self.parts(), read, strict=True) if rows is None]
        if missing:
            raise DataError(
                f"{self.path(missing[0])}: is missing or damaged; run the same command again (ranks need one shared folder)"
            )
        return torch.cat([rows for rows in read if rows is not None])

    def _write(self, part: range, rows: Tensor) -> None:
        reference.write(self.path(part), {"rows": rows}, {"rows": f"{part.start}:{part.stop}"})

    def _read(self, part: range) -> Tensor | None:
        rows = (reference.read(self.path(part)) or {}).get("rows")
        return rows if rows is not None and len(rows) == len(part) else None
