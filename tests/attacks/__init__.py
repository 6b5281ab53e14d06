"""Bad input of every kind, made by generators: what comes from outside is done right, or refused in
one line.

Each file of attacks yields `harness.Attack`s; `python -m tests.attacks` (make attacks) runs them
and prints the table of docs/security.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from tests.attacks import api, environment, flags, formats, pictures, records, studio, zips
from tests.attacks.harness import Attack

KINDS: dict[str, Callable[[Path], Iterator[Attack]]] = {
    "pictures": pictures.attacks,
    "zips": zips.attacks,
    "records": records.attacks,
    "flags": flags.attacks,
    "environment": environment.attacks,
    "formats": formats.attacks,
    "api": api.attacks,
    "studio": studio.attacks,
}
"""Name -> attacks; each gets a folder of its own for what they share."""
