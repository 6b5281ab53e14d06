"""Which numbers a setting may have: said in the type of its field, as in `steps: Count = 50`.

`config.from_dict` reads the ranges, so that a value is checked where it comes in and nowhere else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """The finite numbers between two bounds; `above` and `below` exclude their bound."""

    above: float | None = None
    least: float | None = None
    below: float | None = None
    most: float | None = None

    def __contains__(self, value: float) -> bool:
        above, least, below, most = self.above, self.least, self.below, self.most
        low = (above is None or value > above) and (least is None or value >= least)
        high = (below is None or value < below) and (most is None or value <= most)
        return low and high and (isinstance(value, int) or math.isfinite(value))

    def __str__(self) -> str:
        """The range in words, for a message that says what was expected."""
        if self.least is not None and self.most is not None:
            return f"{_number(self.least)} to {_number(self.most)}"
        words = ("more than {}", "{} or more", "less than {}", "at most {}")
        bounds = zip(words, (self.above, self.least, self.below, self.most), strict=True)
        said = [word.format(_number(bound)) for word, bound in bounds if bound is not None]
        return ", ".join(said) or "a finite number"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(least=0)]
Share = Annotated[float, Range(least=0, most=1)]
Strength = Annotated[float, Range(above=0, most=1)]
"""Share of the way from data to noise."""
Finite = Annotated[float, Range()]
Kimg = Annotated[float, Range(least=1e-6)]
"""An interval or a length in thousands of images; other numbers are divided by it."""
Guidance = Annotated[float, Range(least=-1000, most=1000)]
Count = Annotated[int, Range(least=1, most=10**9)]
Few = Annotated[int, Range(least=1, most=1000)]
"""What is repeated or listed, and never by the thousand: levels, blocks, frames of a side."""
Total = Annotated[int, Range(least=0, below=2**53)]
"""What is counted up: images seen, bytes of a file."""
Steps = Annotated[int, Range(least=1, most=100_000)]
Width = Annotated[int, Range(least=1, most=100_000)]
"""Channels of a layer."""
Images = Annotated[int, Range(least=1, most=10_000_000)]
"""Images of one call."""
Frames = Annotated[int, Range(least=1, most=10_000)]
"""Pictures on the way from one to another."""
Scale = Annotated[int, Range(least=1, most=100)]
"""Pixels of a sheet per pixel of an image."""
Seed = Annotated[int, Range(least=0, below=2**63)]
