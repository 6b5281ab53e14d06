"""The models that the page can use: the bundled ones, and those of run folders. Torch only loads
them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from unnoise.config import SampleConfig, to_dict
from unnoise.errors import CheckpointError, UserError
from unnoise.files import read_json
from unnoise.reading import from_dict
from unnoise.records import MODEL_FILE, bundled, check_model, read_record
from unnoise.studio.run_folder import plain

if TYPE_CHECKING:
    from unnoise.model import Model

MOST_LOADED = 3


class Place(NamedTuple):
    """Where a model is."""

    kind: str
    """bundled, run or checkpoint."""
    name: str
    path: Path
    """What `unnoise.load` takes."""
    file: Path
    """It says what the model is."""

    @property
    def said(self) -> str:
        """What the command line and Python call the model."""
        return self.name if self.kind == "bundled" else str(self.path)


class Models:
    """Models by id; `folders` gives the run folders by theirs."""

    def __init__(self, folders: Callable[[], Mapping[str, Path]], device: str = "auto") -> None:
        self.folders, self.device = folders, device
        self.loaded: OrderedDict[tuple[Path, int], Model] = OrderedDict()
        self.read: dict[Path, tuple[int, dict[str, Any] | None]] = {}
        self.lock = threading.Lock()

    def places(self) -> dict[str, Place]:
        """Every model by its id. Looks into all run folders."""
        found = {name: Place("bundled", name, path, path) for name, path in bundled().items()}
        for key, folder in self.folders().items():
            if (file := folder / MODEL_FILE).is_file():
                found[key] = Place("run", folder.name, folder, file)
            for path in sorted((folder / "checkpoints").glob("step-*")):
                name = f"{folder.name} {path.name}"
                found[f"{key}-{path.name}"] = Place("checkpoint", name, path, path / "state.json")
        return found

    def list(self) -> list[dict[str, Any]]:
        """What the page shows of every model that can be read."""
        found = []
        for key, place in self.places().items():
            with suppress(OSError):  # a run in progress has deleted it
                about = self.about(place.file)
                if about is not None:
                    found.append({"id": key, "kind": place.kind, "name": place.name, **about})
        return found

    def about(self, file: Path) -> dict[str, Any] | None:
        """What a file says of its model; None where that cannot be used."""
        stamp = file.stat().st_mtime_ns
        if self.read.get(file, (None, None))[0] != stamp:
            self.read[file] = stamp, self._read(file)
        return self.read[file][1]

    def _read(self, file: Path) -> dict[str, Any] | None:
        try:
            record = read_json(file) if file.suffix == ".json" else read_record(file)
            record = check_model(record, str(file))
            own = from_dict(SampleConfig, record["config"].get("sample", {}), "sample.")
        except (UserError, AttributeError):
            return None
        tuned = list(record.get("tuned", {}))
        return plain({
            "shape": {key: record["shape"].get(key, 0) for key in
                      ("channels", "height", "width", "num_classes")},
            "class_names": record.get("class_names") or [],
            "weights": str(record.get("weights", ""))[:12],
            "tuned": [name for name in ("fast", "balanced", "best") if name in tuned],
            "settings": to_dict(own),
            "data": record.get("data", {}).get("name"),
            "nimg": record.get("training", {}).get("nimg"),
        })  # fmt: skip

    def find(self, key: str, places: Mapping[str, Place] | None = None) -> Place:
        """One of `places`; CheckpointError for an unknown id."""
        found = (self.places() if places is None else places).get(key)
        if found is None:
            raise CheckpointError(f"model: no {key!r} here; reload the page for a new list")
        return found

    def load(self, place: Place) -> Model:
        """The model, loaded once until its file changes; CheckpointError where it cannot be."""
        from unnoise.model import load

        with self.lock:
            try:
                stamp = place.path, place.file.stat().st_mtime_ns
                model = self.loaded.pop(stamp, None) or load(place.path, self.device)
            except OSError as error:
                what = f"model: no {place.name!r} any more ({error.strerror})"
                raise CheckpointError(what) from error
            self.loaded[stamp] = model  # the latest used is the last
            while len(self.loaded) > MOST_LOADED:
                self.loaded.popitem(last=False)
            return model
