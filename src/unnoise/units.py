"""Times as people write them."""

from __future__ import annotations

import re

from unnoise.errors import ConfigError

MOST_SEC = 3600 * 1_000_000


def seconds(text: str) -> float:
    """Read train.time as seconds: 90s, 20m, 1h30m or plain seconds; else a ConfigError."""
    number = r"(\d+(?:\.\d+)?)"
    match = re.fullmatch(rf"(?:{number}h)?(?:{number}m)?(?:{number}s?)?", text.strip())
    if not text.strip() or match is None:
        raise ConfigError(f"train.time: got {text!r}, expected a time such as 90s, 20m or 1h30m")
    hours, minutes, rest = (float(group or 0) for group in match.groups())
    sec = 3600 * hours + 60 * minutes + rest
    if sec > MOST_SEC:
        raise ConfigError(f"train.time: got {text[:20]!r}, expected at most 1000000h")
    return sec


def duration(sec: float) -> str:
    """Write seconds as 1h 02m, 3m 05s or 12s."""
    whole = round(sec)
    if whole >= 3600:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 60}m {whole % 60:02d}s" if whole >= 60 else f"{whole}s"
