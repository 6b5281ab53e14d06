"""Files that are there whole or not at all, JSON read whole, and SHA-256. Imports no torch."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from unnoise.errors import CheckpointError, UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

T = TypeVar("T")
NEAR_BYTES = 1 << 17
OURS = (b"\x89PNG", b"GIF8", b"RIFF", b"PK\x03\x04", b"<!doctype html>\n<html lang")
"""How the files begin that unnoise writes where a user says, but for safetensors."""
LONGEST_NAME = 200
"""Bytes of a name, to which file systems let as many be added as a temporary name has more."""
DEEPEST = 400
"""Levels of lists and objects in JSON: deeper ones cannot be written again on every Python."""
MOST_JSON_BYTES = 1 << 28
"""What a file of JSON may have: no record of unnoise's, or of others', comes near."""


@contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[Path]:
    """Give a temporary path for a new file or folder, and rename what was made there to `path`.

    Nothing is left behind, and an older `path` stays, where the block raises. The temporary name
    holds the process id, so that two processes can write the same path. `durable` also flushes to
    the disk before and after the rename, so that a crash of the machine cannot leave half a file.
    An OSError names `path`.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "is a device or a pipe, not a file", str(path))
    name = os.fsdecode(os.fsencode(path.name)[:LONGEST_NAME])
    temporary = path.parent / f".{name}.{os.getpid()}.tmp"
    made = temporary / path.name  # in a folder of its own: some writers make more files beside it
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        yield made
        if durable:
            for file in [*made.rglob("*"), made]:
                _flush(file)
        if path.is_dir() and made.is_dir():  # a folder cannot be renamed onto another
            os.replace(path, temporary / "old")
        os.replace(made, path)
        if durable:
            _flush(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        if (temporary / "old").exists() and not path.exists():
            os.replace(temporary / "old", path)
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Be the only process in this block for `path`, which need not exist; others wait.

    What killed writers of `path` left is deleted. Without locks (Windows, some network disks)
    nobody waits.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    name = os.fsdecode(os.fsencode(path.name)[:LONGEST_NAME])
    lock = path.parent / f".{name}.lock"
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:  # no locks here: others may be at work
            os.close(descriptor)
            yield
            return
        with suppress(FileNotFoundError):
            if lock.stat().st_ino == os.fstat(descriptor).st_ino:
                break
        os.close(descriptor)  # the process before this one has deleted it
    try:
        for left in path.parent.glob(f".{glob.escape(name)}.*.tmp"):
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def claim(path: Path, flag: str = "--out") -> Path:
    """Give back a path that the user chose for a file, if nothing of the user's is there.

    UsageError for a folder, a device, or a file that is neither of OURS nor safetensors, or does
    not name unnoise near its beginning or end, as all do that it writes. Call this before the work
    for the file.
    """
    if not path.exists() or (path.is_file() and not path.stat().st_size):
        return path
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(NEAR_BYTES)
            file.seek(max(0, path.stat().st_size - NEAR_BYTES))
            kind = head.startswith(OURS) or head[8:9] == b"{"
            if kind and b"unnoise" in head + file.read():
                return path
    kind = "a folder" if path.is_dir() else "a file that unnoise did not write"
    kind = kind if path.is_file() or path.is_dir() else "a device or a pipe"
    raise UsageError(f"{flag}: {path} is {kind}; expected a new name")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: object) -> None:
    """Write JSON whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: Path, kind: type[T] = dict[str, Any]) -> T:
    """Read a file of JSON of one type (an object unless told); CheckpointError otherwise."""
    try:
        if (size := path.stat().st_size) > MOST_JSON_BYTES:
            raise CheckpointError(f"{path}: has {size / 1e6:,.0f} MB, expected JSON of at most 268")
        text = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    return parse_json(text, str(path), kind)


def parse_json(text: str | bytes, where: str, kind: type[T] = dict[str, Any]) -> T:
    """Read JSON of one type, whoever wrote it; CheckpointError for anything else.

    Also for what is nested too deeply, or a number of too many digits, to be JSON of unnoise.
    """
    try:
        value = json.loads(text)
        parts = [value]
        for _ in range(DEEPEST):
            inner = [part for part in parts if isinstance(part, dict | list)]
            parts = [p for part in inner for p in (part.values() if type(part) is dict else part)]
            if not parts:
                break
        if parts:
            raise ValueError(f"more than {DEEPEST} levels")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: cannot be read ({error})") from error
    expected = getattr(kind, "__origin__", kind)
    if not isinstance(value, expected):
        got = f"holds a {type(value).__name__}, expected a {expected.__name__}"
        raise CheckpointError(f"{where}: {got}; it is damaged")
    return value


def discard_leftovers(folder: Path, of_dead: bool = False) -> None:
    """Delete what writers that were killed left in a folder that only this process writes to.

    `of_dead` is for a folder that others write to as well: only what ended processes left goes.
    """
    for path in folder.glob(".*.tmp"):
        name, process, _ = path.name[1:].rsplit(".", 2)
        if of_dead and (not process.isdecimal() or _alive(int(process))):
            continue
        old, final = path / "old", folder / name  # a folder on its way to be replaced
        if old.is_dir() and not final.exists():
            os.replace(old, final)
        shutil.rmtree(path, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return True


def sha256(path: Path) -> str:
    """Give the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
