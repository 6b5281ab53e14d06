"""Times, sizes and numbers as people write them."""

from __future__ import annotations

import re

from unnoise.errors import ConfigError

MOST_SEC = 3600 * 1_000_000


def seconds(text: str, name: str = "train.time") -> float:
    """Read 90s, 20m, 1h30m or plain seconds, as seconds; a ConfigError names the setting `name`."""
    number = r"(\d+(?:\.\d+)?)"
    match = re.fullmatch(rf"(?:{number}h)?(?:{number}m)?(?:{number}s?)?", text.strip())
    if not text.strip() or match is None:
        raise ConfigError(f"{name}: got {text!r}, expected a time such as 90s, 20m or 1h30m")
    hours, minutes, rest = (float(group or 0) for group in match.groups())
    sec = 3600 * hours + 60 * minutes + rest
    if sec > MOST_SEC:
        raise ConfigError(f"{name}: got {text[:20]!r}, expected at most 1000000h")
    return sec


def duration(sec: float) -> str:
    """Write seconds as 1h 02m, 3m 05s or 12s."""
    whole = round(sec)
    if whole >= 3600:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 60}m {whole % 60:02d}s" if whole >= 60 else f"{whole}s"


def size(count: float) -> str:
    """Write a number of bytes as 12.5 MiB or 1.3 GiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def digits(value: float) -> str:
    """Write three significant digits, or all of those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
