"""The class and the split of each picture: from its folders, its file name or a table."""

from __future__ import annotations

import codecs
import csv
import io
import json
import operator
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from unnoise.data.cache import Writer, times
from unnoise.data.config import DataConfig
from unnoise.data.listing import LARGEST_FILE_BYTES, SUFFIXES, Entry, Listing
from unnoise.errors import DataError, nearest

TRAINING, HELD_OUT = {"train", "training"}, {"test", "testing", "val", "valid", "validation"}
"""Names of folders and files that split the pictures."""
SAYS = {"folders": "the sub-folders", "names": "the file names", "none": "data.classes"}
"""data.classes, and what then says the classes."""
COUNTER = re.compile(r"[ _.-]*(\(\d+\)|\d+)$")
"""What may follow the class in a file name: cat_001, cat-1, cat (3)."""
FILES = ("file_name", "filename", "file", "image", "path", "image_id", "id", "name")
LABELS = ("label", "labels", "class", "category", "target")
"""Columns of a CSV: of each the first that is there."""


class Place(NamedTuple):
    """What is known of a picture before it is opened."""

    label: str
    """"" where it has no class."""
    held_out: bool = False
    unused: str = ""
    """Why it is not used."""


def tables(config: DataConfig, listing: Listing) -> list[Entry]:
    """The files that say the classes: the chosen one, else those among the pictures."""
    if config.classes == "auto":
        return listing.tables
    if config.classes in SAYS:
        return []
    file = Path(config.classes)
    if not file.is_file():
        fix = nearest(config.classes, ["auto", *SAYS], "a CSV file that is there")
        raise DataError(f"data.classes: got {config.classes!r}; {fix}")
    name = _relative(file, config.source) if os.path.isdir(config.source) else file.name
    return [Entry(name, times(file), partial(file.open, "rb"))]


def _relative(path: str | Path, folder: str) -> str:
    """A path from a folder, with slashes."""
    try:
        return os.path.relpath(path, folder).replace(os.sep, "/")
    except ValueError:  # on another drive
        return os.path.basename(path)


def find(
    config: DataConfig, listing: Listing, names: Sequence[str]
) -> tuple[dict[str, Place], str, list[str]]:
    """The place of each picture, what says its class, and notes."""
    places = dict(zip(names, arranged(names), strict=True))
    labels, notes, origin = dict[str, str](), list[str](), SAYS.get(config.classes, SAYS["folders"])
    if config.classes == "names":
        labels = {name: COUNTER.sub("", PurePosixPath(name).stem) for name in names}
    root = "" if config.classes == "auto" else config.source
    for table in tables(config, listing):
        try:
            labels, unknown = _told(table, names, labels.copy(), root)
        except DataError as error:
            if config.classes != "auto":
                raise
            notes.append(f"{error}; it is not used")
            continue
        origin = PurePosixPath(table.name).name
        what = f"{table.name}: lines that name no picture, or several: {len(unknown)}"
        notes += [f"{what}, such as {unknown[0]}"] if unknown else []
    if origin != SAYS["folders"]:
        why = f"has no class in {origin}" if labels else ""
        for name, place in places.items():
            label = labels.get(name, "")
            places[name] = Place(label, place.held_out, "" if label else why)
    return places, origin, notes


def _told(
    table: Entry, names: Sequence[str], labels: dict[str, str], root: str
) -> tuple[dict[str, str], list[str]]:
    """The labels with those that a table adds, and its files that are no pictures.

    A table names a picture by its path from the table's folder, or in short: without folders where
    no other picture is called so, or without suffix. One that was found says nothing of pictures
    beside its folder; a chosen one, with the `root` of all, may give the path from there too.
    """
    folder, known = table.name[: table.name.rfind("/") + 1], {*names}
    prefix = "" if root else folder
    short: dict[str, list[str]] = defaultdict(list)
    for path in (PurePosixPath(name) for name in names if name.startswith(prefix)):
        for key in {str(path.with_suffix(""))[len(prefix) :], path.name, path.stem}:
            short[key].append(str(path))
    unknown, lines = [], [*_lines(table)]
    for file, label in lines:
        file = unicodedata.normalize("NFC", file.replace("\\", "/").removeprefix("./"))
        whole = (
            [_relative(os.path.join(root, folder, file), root), file] if root else [folder + file]
        )
        meant = next(([path] for path in whole if path in known), short.get(file, []))
        if len(meant) != 1:
            unknown.append(file)
        elif labels.setdefault(meant[0], label) != label:
            said = f"{meant[0]} is {labels[meant[0]]!r} and {label!r}"
            raise DataError(f"{table.name}: {said}, expected one class for each picture")
    if lines and len(unknown) == len(lines):
        raise DataError(f"{table.name}: names no picture; its first is {unknown[0]}")
    if lines and not any(labels.values()):
        raise DataError(f"{table.name}: gives no picture a class")
    return labels, unknown


def _lines(table: Entry) -> Iterator[tuple[str, str]]:
    """File and class of each line of a CSV, or of StyleGAN's and EDM's dataset.json."""
    try:
        if table.stamp[0] > LARGEST_FILE_BYTES:
            raise ValueError(f"{table.stamp[0]:,} bytes, more than {LARGEST_FILE_BYTES:,}")
        with table.open() as file:
            content = file.read()
        utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
        if table.name.lower().endswith(".json"):
            for name, number in json.loads(text)["labels"] or ():
                yield str(name), str(operator.index(number))
            return
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        rows = [row for row in csv.reader(io.StringIO(text, ""), delimiter=delimiter) if row]
        head = [cell.strip().lower() for cell in rows[0]] if rows else []
        file, label = (
            next((name for name in known if name in head), "") for known in (FILES, LABELS)
        )
        if len(head) == 2 and not table.name.endswith("metadata.csv"):  # which may hold captions
            file = file or next((cell for cell in head if cell != label), head[0])
            label = head[1 - head.index(file)]
        if not file or not label:
            expected = f"one of {', '.join(FILES)} and one of {', '.join(LABELS)}"
            raise ValueError(f"got the columns {', '.join(head) or 'none'}; expected {expected}")
        for row in rows[not file.endswith(SUFFIXES) :]:  # without a header where that is a picture
            row += [""] * len(head)  # a short line
            yield row[head.index(file)].strip(), row[head.index(label)].strip()
    except Exception as error:  # whatever a stranger's file makes of it
        plain = type(error) in (ValueError, UnicodeDecodeError)
        said = str(error) if plain else f"{type(error).__name__}: {error}"
        raise DataError(f"{table.name}: cannot be read as classes ({said})") from error


def arranged(names: Iterable[str]) -> list[Place]:
    """The class and the split of each picture, from the folders in which it lies.

    Folders that hold all the others count for nothing; train beside test or val splits the
    pictures; classes are the folders below, and what has none there is not used.
    """
    paths = [name.split("/")[:-1] for name in names]
    while paths and all(paths) and len({path[0] for path in paths}) == 1:
        paths = [path[1:] for path in paths]
    tops = [path[0].lower() if path else "" for path in paths]
    of_training = [path for path, top in zip(paths, tops, strict=True) if top in TRAINING]
    classes = any(len(path) > 1 for path in of_training)
    split = bool(of_training) and bool({*tops} & HELD_OUT)
    if not split or not (classes or {*tops} <= TRAINING | HELD_OUT):
        return [Place(path[0] if path else "") for path in paths]
    found = []
    for path, top in zip(paths, tops, strict=True):
        label = path[1] if len(path) > 1 else ""
        unused = "" if label or not classes else "lies in no class folder"
        unused = unused if top in TRAINING | HELD_OUT else "lies beside train and test"
        found.append(Place(label, top in HELD_OUT, unused))
    return found


def natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """A key that sorts 2 before 10, and 1 before 01."""
    parts = [part.lstrip("0") if part.isdigit() else part for part in re.split(r"(\d+)", name)]
    return [(len(p) if i % 2 else 0, p) for i, p in enumerate(parts)], name


def label(writer: Writer, used: list[str], places: dict[str, Place], origin: str) -> None:
    """Classes are two or more, in the order of writer.class_names, else in natural order."""
    labels = [places[name].label for name in used]
    rank = {name: i for i, name in enumerate(writer.class_names)}
    names = sorted({*labels}, key=lambda name: (rank.get(name, len(rank)), natural(name)))
    names = names if len(names) > 1 and "" not in labels else []
    numbers = {name: i for i, name in enumerate(names)}
    writer.class_names, writer.labels = names, [numbers.get(label, 0) for label in labels]
    found = f"{len(names)} classes, from {origin}"
    none = "for classes put every picture into one of two or more sub-folders"
    none = f"no classes: {none}" if origin == SAYS["folders"] else f"no classes, by {origin}"
    stray = [name for name in used if not places[name].label]
    if stray and len({*labels}) > 2:
        share = f"{len(stray)} of {len(used)} pictures"
        none = f"no classes: {stray[0]} lies in no sub-folder ({share})"
    skipped = {places[name].label for name, _ in writer.skipped if name in places}
    unused = set() if stray else skipped - {*labels, ""}
    untrained = {*names} - {*labels[: writer.num_train]}
    writer.notes = [found if names else none, *writer.notes]
    writer.notes += [f"{n} is no class: none of its pictures can be used" for n in sorted(unused)]
    held = "is not trained: all its pictures are held out"
    writer.notes += [f"class {name} {held}" for name in sorted(untrained)]
    inner = {part.lower() for name in used for part in name.split("/")[:-1]}
    held_out = sum(places[name].held_out for name in used)
    if not held_out and inner & TRAINING and inner & HELD_OUT:
        writer.notes.append("train and test folders below the classes are not told apart")
    if held_out:
        says = "as their folders or files say (test, val)"
        writer.notes.append(f"{held_out} pictures are held out, {says}")
