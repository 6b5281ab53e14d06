"""Pictures inside the page, and how many of them."""

from __future__ import annotations

import base64
import io
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

MOST_GRIDS = 24
MOST_BYTES = 7_000_000
"""Of all pictures of a page together; base64 makes a third more of them."""
LARGE_BYTES = 700_000
"""A picture of more is drawn again as a JPEG of at most LARGE_PIXELS a side."""
LARGE_PIXELS = 1280
SIGNATURE = b"\x89PNG\r\n\x1a\n"


class NoPicture(Exception):
    """Why a picture is not on the page."""


def load(path: Path) -> tuple[str, bytes]:
    """Type and bytes of a PNG, smaller where it is large; NoPicture says why not."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise NoPicture(error.strerror or str(error)) from None
    if not content.startswith(SIGNATURE) or b"IEND" not in content[-12:]:
        raise NoPicture("is not a whole PNG")
    return (
        ("image/png", content)
        if len(content) <= LARGE_BYTES
        else ("image/jpeg", _smaller(path, content))
    )


def data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def evenly(items: Sequence[T], most: int) -> list[T]:
    """At most `most` items, evenly spread, the first and the last among them; of one, the last."""
    if len(items) <= most:
        return list(items)
    if most == 1:
        return [items[-1]]
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def fitting(sizes: Sequence[int], spent: int) -> list[int]:
    """Which of some pictures are shown: evenly thinned to MOST_GRIDS, and further until they fit MOST_BYTES less `spent`."""
    for most in range(min(MOST_GRIDS, len(sizes)), 0, -1):
        kept = evenly(range(len(sizes)), most)
        if most == 1 or sum(sizes[i] for i in kept) + spent <= MOST_BYTES:
            return kept
    return []


def _smaller(path: Path, content: bytes) -> bytes:
    """The picture as a JPEG of at most LARGE_PIXELS a side. Imports torch: Pillow belongs to unnoise.data."""
    import torch

    from unnoise.data.fit import Target
    from unnoise.data.folder import read_picture
    from unnoise.data.images import to_pil
    from unnoise.errors import DataError

    width, height = struct.unpack(">II", content[16:24])
    scale = min(1.0, LARGE_PIXELS / max(width, height, 1))
    wanted = Target(math.ceil(height * scale), math.ceil(width * scale), 3, "white")
    try:
        pixels = read_picture(path, wanted)
    except DataError as error:
        raise NoPicture(str(error)) from None
    file = io.BytesIO()
    to_pil(torch.from_numpy(pixels)).save(file, "JPEG", quality=85)
    return file.getvalue()
