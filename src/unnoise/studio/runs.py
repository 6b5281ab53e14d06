"""Stand-in until the branch of the runs is merged."""

import hashlib
from pathlib import Path


class Runs:
    def __init__(self, places: list[Path]) -> None:
        self.places = places

    def folders(self):
        found = {}
        for place in self.places:
            for path in [place, *sorted(place.glob("*"))]:
                if (path / "config.json").is_file():
                    found[hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]] = path
        return found


def routes(runs):
    return []
