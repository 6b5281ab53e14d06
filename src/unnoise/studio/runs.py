"""The run folders of a studio, and what a page may ask of them. Imports no torch.

A run is known by an id; no path comes in by a URL. Times, sizes and inodes say what has changed.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from unnoise.errors import CheckpointError, ConfigError
from unnoise.reading import typed
from unnoise.records import MODEL_FILE, VERDICT, is_run, read_line
from unnoise.studio import trainers
from unnoise.studio.run_folder import Record, brief, finite, grids, picture, plain, read, state
from unnoise.studio.server import read_body

DEEPEST = 3
"""Levels below the runs folder in which runs are found."""
MOST_FOLDERS = 3000
MOST_TRAINERS = 8
"""More trainings at once are not started."""
MOST_BYTES = 1 << 20
"""Most bytes of metrics.jsonl in one answer."""
PLAN_SEC = 180
NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
PICTURES = {
    "data": "data.png",
    "samples": "evaluation/samples.png",
    "neighbours": "evaluation/neighbours.png",
}
"""What can be asked for by name; grids of samples, by their images seen."""
GROWING = ("metrics.jsonl", trainers.LOG)
CHANGING = (*GROWING, "config.json", "samples", "evaluation.json", VERDICT, MODEL_FILE)
"""What of a run folder is looked at for changes; a page reads only the end of what grows."""


class Wanted(TypedDict):
    """What is to be planned or trained."""

    source: str
    name: NotRequired[str]
    settings: NotRequired[dict[str, Any]]


class Runs:
    """The runs in some places, each a run folder or a folder of them; new ones go to the first of
    those."""

    def __init__(self, places: Sequence[Path]) -> None:
        self.places = places
        self.folder = next((place for place in places if not is_run(place)), Path("runs")).resolve()
        self.found: dict[str, Path] = {}
        self._briefs: dict[Path, tuple[object, Record]] = {}
        self._children: list[subprocess.Popen[bytes]] = []
        self._stopping: set[Path] = set()

    def folders(self) -> dict[str, Path]:
        """Find the runs of now: id -> folder."""
        paths = dict.fromkeys(path.resolve() for place in self.places for path in _below(place))
        self.found = {id_of(path): path for path in paths}
        return self.found

    def folder_of(self, name: str) -> Path:
        """Give the folder of an id, or answer that there is none."""
        folder = self.found.get(name) or self.folders().get(name)
        if folder is None or not folder.is_dir():
            raise HTTPException(404, "no such run; reload the page")
        return folder

    def listing(self) -> Record:
        """Give every run in brief, the one with the newest activity first."""
        self._children = [child for child in self._children if child.poll() is None]
        entries = sorted((self._entry(*run) for run in self.folders().items()), key=_by_activity)
        return {"folder": str(self.folder), "runs": [entry for _, entry in entries]}

    def _entry(self, name: str, folder: Path) -> tuple[int, Record]:
        """Give a run in brief with the time of its last change; files are read when they change."""
        times = [_modified(f"{folder}/{part}") for part in CHANGING]
        known, facts = self._briefs.get(folder, (None, {}))
        if known != times:
            facts = brief(folder)
            last = max(grids(folder), default=None)
            facts["newest"] = last and _url(name, str(last[0]), folder / last[1])
            self._briefs[folder] = times, facts
        known = sum(t for part, t in zip(CHANGING, times, strict=True) if part not in GROWING)
        entry = {"id": name, "name": self._name(folder), "version": str(known), **facts}
        now = state(folder, entry.pop("patience"), entry["progress"])
        entry["error"] = trainers.last_words(folder) if now == "stopped" else None
        if not (folder / "config.json").exists():
            now = "starting" if now == "running" else "failed"
        if now != "running":
            self._stopping.discard(folder)
        elif folder in self._stopping:
            now = "stopping"
        return max(times), {**entry, "state": now}

    def _name(self, folder: Path) -> str:
        inside = self.folder in folder.parents
        return folder.relative_to(self.folder).as_posix() if inside else folder.name

    def detail(self, name: str) -> Record:
        """Give all that is known of a run; pictures have a `src`, and `metrics` says what is new
        after this."""
        folder = self.folder_of(name)
        metrics = measurements(folder, 0, "", whole=False)
        run = read(folder)
        evaluation = run["evaluation"] or {}
        named = {**{k: evaluation.get(k) for k in PICTURES}, "data": run["data"]["picture"]}
        for key, one in [*named.items(), *((str(one["nimg"]), one) for one in run["samples"])]:
            if one:
                one["src"] = _url(name, key, folder / one["path"])
        return {**run, "id": name, "name": self._name(folder), "metrics": metrics}

    def picture(self, name: str, key: str) -> Path:
        """Give the file of a picture, or answer that there is none."""
        folder = self.folder_of(name)
        by_key = {str(nimg): path for nimg, path in grids(folder)} | PICTURES
        with suppress(KeyError):
            if picture(folder, by_key[key], []):
                return folder / by_key[key]
        raise HTTPException(404, "no such picture")

    def start(self, wanted: Wanted) -> str:
        """Train into a new folder of the runs folder; gives the id."""
        name = wanted.get("name", "")
        if not NAME.fullmatch(name):
            expected = "expected up to 80 letters, digits, dots, dashes and underscores"
            raise ConfigError(f"name: got {name!r}, {expected}")
        words = trainers.flags(wanted["source"], wanted.get("settings", {}))
        folder = self.folder / name
        if folder.exists() and {path.name for path in folder.iterdir()} - trainers.LEFT:
            raise ConfigError(f"name: {folder} is there already; expected a new name")
        self._train(folder, ["train", *words, f"--out={folder}"])
        return id_of(folder)

    def resume(self, name: str) -> None:
        """Train on where a run has stopped."""
        folder = self.folder_of(name)
        if not is_run(folder):
            raise ConfigError(f"{folder.name}: has not begun; start it again under its name")
        self._train(folder, ["train", str(folder)])

    def _train(self, folder: Path, arguments: list[str]) -> None:
        if sum(trainers.process(one) is not None for one in self.found.values()) >= MOST_TRAINERS:
            raise HTTPException(429, f"{MOST_TRAINERS} trainings run already; stop one first")
        folder.mkdir(parents=True, exist_ok=True)
        self._stopping.discard(folder)
        self._children.append(trainers.start(folder, arguments))

    def stop(self, name: str) -> None:
        """Have a run save and end, once: a second signal would not let it save."""
        folder = self.folder_of(name)
        if folder not in self._stopping:
            trainers.stop(folder)
            self._stopping.add(folder)


def id_of(folder: Path) -> str:
    """Give the id of a run folder."""
    return hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:12]


def measurements(folder: Path, start: int, file: str, whole: bool = True) -> Record:
    """Give the lines of metrics.jsonl from a byte on, and the byte and file to ask for next.

    It begins at 0 where the file is another than `file`, as after a resumption, or has shrunk.
    """
    try:
        with (folder / "metrics.jsonl").open("rb") as stream:
            known = os.fstat(stream.fileno())
            if file not in ("", str(known.st_ino)) or start > known.st_size:
                start = 0
            stream.seek(start if whole else max(start, known.st_size - MOST_BYTES))
            begin = stream.tell()
            text = stream.read(MOST_BYTES)
    except OSError:
        return {"from": 0, "next": 0, "file": "", "lines": []}
    end = text.rfind(b"\n") + 1 or (len(text) if len(text) == MOST_BYTES else 0)
    lines = [line for line in text[:end].splitlines() if line] if whole else []
    found = [dict(_numbers(line.decode(errors="replace"))) for line in lines]
    return {"from": start, "next": begin + end, "file": str(known.st_ino), "lines": found}


def _numbers(text: str) -> Iterator[tuple[str, float]]:
    with suppress(CheckpointError):
        for key, value in plain(read_line(text)).items():
            if finite(value) is not None:
                yield key, value


def _below(folder: Path) -> list[Path]:
    """Find run folders, breadth first; there are none inside of one."""
    level, found, visited = [folder], [], 0
    for _ in range(DEEPEST + 1):
        below: list[Path] = []
        for one in level[: MOST_FOLDERS - visited]:
            visited += 1
            if is_run(one) or os.path.isfile(one / trainers.LOG):
                found.append(one)
                continue
            with suppress(OSError), os.scandir(one) as parts:
                below += [Path(p) for p in parts if p.name[0] != "." and p.is_dir()]
        level = sorted(below)
    return found


def _modified(path: Path | str) -> int:
    with suppress(OSError):
        return os.stat(path).st_mtime_ns
    return 0


def _by_activity(entry: tuple[int, Record]) -> tuple[int, str]:
    return -entry[0], entry[1]["name"]


def _url(name: str, key: str, path: Path) -> str:
    """Write the address of a picture, which is another one once the file is."""
    return f"/api/runs/{name}/picture/{key}?v={_modified(path)}"


# ---------------------------------------------------------------- routes


def routes(runs: Runs) -> list[Route]:
    """Give what a page may ask; Starlette runs what is not async in its pool of threads."""
    planning = asyncio.Lock()

    def listing(request: Request) -> Response:
        return JSONResponse(runs.listing())

    def detail(request: Request) -> Response:
        return JSONResponse(runs.detail(request.path_params["id"]))

    def metrics(request: Request) -> Response:
        start, file = request.query_params.get("from", "0"), request.query_params.get("file", "")
        if not re.fullmatch("[0-9]{1,15}", start):
            raise ConfigError(f"from: got {start!r}, expected a whole number of bytes")
        folder = runs.folder_of(request.path_params["id"])
        return JSONResponse(measurements(folder, int(start), file))

    def picture(request: Request) -> Response:
        path = runs.picture(request.path_params["id"], request.path_params["key"])
        headers = {"ETag": f'"{_modified(path)}"', "Cache-Control": "private, no-cache"}
        if request.query_params.get("v") == str(_modified(path)):
            headers["Cache-Control"] = "private, max-age=604800, immutable"
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(path.read_bytes(), media_type="image/png", headers=headers)

    async def start(request: Request) -> Response:
        wanted = await _wanted(request)
        return JSONResponse({"id": await run_in_threadpool(runs.start, wanted)})

    async def plan(request: Request) -> Response:
        wanted = await _wanted(request)
        if planning.locked():
            raise HTTPException(429, "a plan is being made already; wait for it")
        async with planning:
            flags = trainers.flags(wanted["source"], wanted.get("settings", {}))
            name = wanted.get("name")
            out = [f"--out={runs.folder / name}"] if name else []
            return JSONResponse({"text": await _run(request, ["plan", *flags, *out])})

    def change(work: Callable[[str], None]) -> Callable[[Request], Response]:
        def endpoint(request: Request) -> Response:
            work(request.path_params["id"])
            return JSONResponse({})

        return endpoint

    return [
        Route("/api/runs", listing),
        Route("/api/runs", start, methods=["POST"]),
        Route("/api/plan", plan, methods=["POST"]),
        Route("/api/runs/{id}", detail),
        Route("/api/runs/{id}/metrics", metrics),
        Route("/api/runs/{id}/picture/{key}", picture),
        Route("/api/runs/{id}/stop", change(runs.stop), methods=["POST"]),
        Route("/api/runs/{id}/resume", change(runs.resume), methods=["POST"]),
    ]


async def _wanted(request: Request) -> Wanted:
    return typed(Wanted, await read_body(request), "")


async def _run(request: Request, arguments: list[str]) -> str:
    """Give what a command prints, or its error; it is ended with the request."""
    pipe, none = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        *trainers.UNNOISE, *arguments, stdin=none, stdout=pipe, stderr=pipe
    )
    work = asyncio.ensure_future(process.communicate())
    gone = asyncio.ensure_future(request.receive())  # the page has left
    try:
        both: set[asyncio.Future[Any]] = {work, gone}
        await asyncio.wait(both, timeout=PLAN_SEC, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise HTTPException(503, f"the plan took more than {PLAN_SEC} s, or was not wanted")
        out, error = (text.decode(errors="replace") for text in work.result())
        if process.returncode:
            last = next(reversed(error.strip().splitlines()), "the plan ended without a word")
            raise ConfigError(last.removeprefix("unnoise: "))
        return out
    finally:
        gone.cancel()
        if process.returncode is None:
            process.kill()
            await process.wait()
