"""Parquet files with encoded pictures, as Hugging Face lays them out: local, or from its hub."""

from __future__ import annotations

import importlib
import io
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

from unnoise.data.cache import Source, Writer, times
from unnoise.data.classes import HELD_OUT, TRAINING, Place
from unnoise.data.config import DataConfig
from unnoise.data.folder import add_pictures
from unnoise.data.listing import Entry
from unnoise.errors import DataError
from unnoise.events import tracked

HUB = "hf:"
EXTRAS = {"pyarrow": "parquet", "huggingface_hub": "hub"}
LABELS = ("label", "labels", "fine_label", "class", "category", "target")
ORIGIN = f"the columns {', '.join(LABELS)}"
PICTURE = re.compile(r"(large_)?binary|struct<(.*, )?bytes: (large_)?binary.*")
CLASS = re.compile(r"u?int\d+|(large_)?string|bool|dictionary<.*")
"""Types of the columns that are used."""
ROWS = 64
"""How many rows are in memory at once."""


def download(source: str) -> Path:
    """The folder with the parquet files of hf:OWNER/NAME[@REVISION], in the hub's own cache."""
    hub = _extra("huggingface_hub", source)
    name, _, revision = source.removeprefix(HUB).partition("@")
    wanted = {"repo_type": "dataset", "revision": revision or None}
    try:
        folder = Path(hub.snapshot_download(name, allow_patterns="*.parquet", **wanted))
    except Exception as error:  # of the network, of the hub, of the name
        said = str(error).strip().partition("\n")[0]
        fix = "expected hf:OWNER/NAME of a data set"
        raise DataError(f"{source}: cannot be downloaded ({said}); {fix}") from error
    if not any(folder.rglob("*.parquet")):
        fix = f"what the hub made of it may be at {HUB}{name}@refs/convert/parquet"
        raise DataError(f"{source}: has no parquet files; {fix}")
    return folder


def source(config: DataConfig) -> Source:
    """A parquet file, or all of a folder or data set; those of a test split are held out."""
    parquet = _extra("pyarrow.parquet", config.source)
    hub = config.source.startswith(HUB)
    path = download(config.source) if hub else Path(config.source)
    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    base = path.parent if path.is_file() else path
    named = {file.relative_to(base).as_posix(): file for file in files}
    key = [(name, *times(file)) for name, file in named.items()]

    def fill(writer: Writer) -> None:
        entries, places, origin = list[Entry](), dict[str, Place](), ORIGIN
        tests = {name for name in named if _held_out(name)}
        tests = set[str]() if len(tests) == len(named) else tests
        with (writer.scratch / "pictures").open("w+b") as kept:  # they are used in another order
            for name, file in tracked(named.items(), path.name, len(named), "file"):
                rows = _rows(parquet, file, name, writer, config.classes != "none")
                for row, (content, label, column) in enumerate(rows):
                    which = f"{name} row {row}"
                    opened = partial(_kept, kept, kept.tell(), len(content))
                    entries.append(Entry(which, (len(content), 0), opened))
                    unused = f"has no class in {column}" if column and not label else ""
                    places[which] = Place(label, name in tests, unused)
                    kept.write(content)
                    origin = column or origin
            if not entries:
                raise DataError(f"{config.source}: got 0 rows, expected pictures")
            add_pictures(writer, config, entries, places, origin)

    return Source(Path(config.source).stem, key, fill)


def _rows(
    parquet: Any, file: Path, name: str, writer: Writer, labelled: bool
) -> Iterator[tuple[bytes, str, str]]:
    """Picture and class of each row, "" where it has none; and which column says so."""
    try:
        table = parquet.ParquetFile(file)
        schema = table.schema_arrow
        kinds = {field.name: str(field.type) for field in schema}
        images = [each for each in kinds if PICTURE.fullmatch(kinds[each])][:1]
        labels = [each for each in LABELS if labelled and CLASS.fullmatch(kinds.get(each, ""))][:1]
        if not images:
            got = ", ".join(f"{each} ({kind})" for each, kind in kinds.items())
            raise ValueError(f"got the columns {got}; expected one with the bytes of pictures")
        classes = []
        with suppress(LookupError, TypeError, ValueError):  # as far as Hugging Face's names go
            features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
            classes = [str(each) for each in features[labels[0]]["names"]]
        writer.class_names = [*dict.fromkeys((*writer.class_names, *classes))]
        for batch in table.iter_batches(ROWS, columns=images + labels):
            columns = (batch.column(each).to_pylist() for each in images + labels)
            for picture, *values in zip(*columns, strict=True):
                content = picture.get("bytes") if isinstance(picture, dict) else picture
                label = _class(values[0], classes) if values else ""
                yield content or b"", label, f"the column {labels[0]}" if labels else ""
    except Exception as error:  # whatever a stranger's file makes of it
        said = str(error).partition("\n")[0]
        raise DataError(f"{name}: cannot be read as parquet ({said})") from error


def _class(value: Any, names: list[str]) -> str:
    """A label as text; hidden ones are -1."""
    if value is None or (isinstance(value, int) and value < 0):
        return ""
    return names[value] if isinstance(value, int) and value < len(names) else str(value)


def _held_out(name: str) -> bool:
    """Whether the last word of a path that names a split names a test split."""
    words = [word for word in re.split("[^a-z]+", name.lower()) if word in TRAINING | HELD_OUT]
    return bool(words) and words[-1] in HELD_OUT


def _extra(module: str, source: str) -> Any:
    """A package that a plain installation lacks."""
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        fix = f"pip install 'unnoise[{EXTRAS[package]}]'"
        raise DataError(f"{source}: {package} is not installed ({error}); {fix}") from error


def _kept(file: IO[bytes], start: int, size: int) -> IO[bytes]:
    file.seek(start)
    return io.BytesIO(file.read(size))
