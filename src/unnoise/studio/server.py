"""The page's server: one page, its files, models, jobs. What a request must be is in guard.py.

An error of the user's is 400 with the command line's own line, as {"error": ..}.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from unnoise import __version__
from unnoise.config import SampleConfig
from unnoise.errors import CheckpointError, ConfigError, UserError, nearest
from unnoise.files import parse_json
from unnoise.reading import from_dict, typed
from unnoise.studio import judge, lines
from unnoise.studio.fields import fields
from unnoise.studio.guard import Guard
from unnoise.studio.jobs import Full, Job, Worker
from unnoise.studio.learn import lesson
from unnoise.studio.models import Models, Place

STATIC = Path(__file__).parent / "static"
KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
MOST_BODY = 24_000_000
BODY_SECONDS = 30
UVICORN: dict[str, Any] = {
    "http": "h11", "ws": "none", "lifespan": "off", "log_level": "error",
    "server_header": False, "timeout_graceful_shutdown": 1,
}  # fmt: skip
"""How uvicorn runs this server."""


async def read_body(request: Request) -> dict[str, Any]:
    """The JSON object that a request holds."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > MOST_BODY:
                    raise HTTPException(413, f"request: expected at most {MOST_BODY:,} bytes")
    except (TimeoutError, ClientDisconnect):
        raise HTTPException(408, f"request: expected all of it in {BODY_SECONDS} s") from None
    return writable(parse_json(bytes(body), "request", object), "request")


def writable(found: Any, where: str) -> dict[str, Any]:
    """A JSON object that can be sent on: Python also reads NaN, 1e999, halves of characters."""
    try:
        json.dumps(found, allow_nan=False, ensure_ascii=False).encode()
    except ValueError as error:
        raise ConfigError(f"{where}: cannot be used ({error})") from None
    return typed(dict[str, Any], found, where)


@dataclass(frozen=True)
class Server:
    """The routes and what is behind them."""

    models: Models
    worker: Worker

    def routes(self) -> list[BaseRoute]:
        files = [path for path in STATIC.rglob("*") if path.suffix in KINDS]
        return [
            Route("/", _file(STATIC / "studio.html")),
            *(
                Route(f"/static/{path.relative_to(STATIC).as_posix()}", _file(path))
                for path in files
            ),
            Route("/api/state", self.state),
            Route("/api/fields", self.fields),
            Route("/api/models", self.list_models),
            Route("/api/jobs", self.start, methods=["POST"]),
            Route("/api/jobs/{id}", self.stream),
            Route("/api/jobs/{id}/stop", self.stop, methods=["POST"]),
            Route("/api/jobs/{id}/png", self.png),
            Route("/api/recipe", self.recipe, methods=["POST"]),
            Route("/api/fit", self.fit, methods=["POST"]),
            Route("/api/jobs/{id}/nearest", self.nearest),
            Route("/api/compare", self.compare),
            Route("/api/lessons/{name}", lesson(self.worker, self.models.device)),
        ]

    async def state(self, request: Request) -> JSONResponse:
        """What the worker does; the page asks first, once it is there."""
        self.worker.wanted.set()
        running = self.worker.running
        return JSONResponse({
            "version": __version__, "worker": self.worker.state,
            "waiting": len(self.worker.waiting),
            "running": None if running is None else running.id,
        })  # fmt: skip

    def fields(self, request: Request) -> JSONResponse:
        """The controls of sampling, once torch is there to say what can be chosen."""
        self.worker.wait()
        from unnoise.diffusion.grids import SPACINGS
        from unnoise.diffusion.samplers import SAMPLERS

        found = fields(SampleConfig)
        choices = {"sampler": list(SAMPLERS), "spacing": list(SPACINGS)}
        for field in found:
            if field["name"] in choices:
                field |= {"type": "choice", "choices": choices[field["name"]]}
        return JSONResponse({"fields": found})

    def list_models(self, request: Request) -> JSONResponse:
        return JSONResponse({"models": self.models.list()})

    async def start(self, request: Request) -> JSONResponse:
        """Check a job and put it into the queue."""
        body = await read_body(request)
        job = await run_in_threadpool(self._submit, body)
        return JSONResponse(job.header, 202)

    def _submit(self, body: dict[str, Any]) -> Job:
        self.worker.wait()
        if self.worker.state != "ready":
            raise ConfigError(self.worker.state)
        from unnoise.studio.recipes import recipe
        from unnoise.studio.works import KINDS as WORKS
        from unnoise.studio.works import checked

        kind, asked = str(body.get("kind")), {k: v for k, v in body.items() if k != "kind"}
        if kind not in WORKS:
            raise ConfigError(f"kind: no {kind[:40]!r}; {nearest(kind[:40], WORKS)}")
        work = from_dict(WORKS[kind], asked)
        place = self.models.find(work.model)
        model = self.models.load(place)
        plan, shape = checked(work, model), model.shape
        header = {
            "kind": kind,
            "model": work.model,
            "shape": [len(plan.seeds), shape.channels, shape.height, shape.width],
            "seeds": plan.seeds,
            "labels": plan.labels,
            "names": None if plan.labels is None else [model.names[i] for i in plan.labels],
            "steps": plan.steps,
            "recipe": recipe(kind, work, plan, model),
            "command": lines.command(kind, work, plan, place.said),
            "python": lines.python(kind, work, plan, place.said),
        }
        return self.worker.submit(Job(model, plan, json.loads(json.dumps(header))))

    def _job(self, request: Request) -> Job:
        job = self.worker.find(request.path_params["id"])
        if job is None:
            raise HTTPException(404, "job: is not here any more; start it again")
        return job

    async def stream(self, request: Request) -> StreamingResponse:
        """The records of a job from number `from` on, until it ends."""
        job, first = self._job(request), request.query_params.get("from", "0")
        if not (first.isascii() and first.isdecimal() and len(first) < 7):
            raise HTTPException(400, f"from: got {first[:20]!r}, expected a whole number from 0")
        records = _records(self.worker, job, int(first)) if request.method == "GET" else iter(())
        return StreamingResponse(records, media_type="application/octet-stream")

    async def stop(self, request: Request) -> JSONResponse:
        job = self._job(request)
        self.worker.stop(job)
        return JSONResponse({"id": job.id, "state": job.state})

    def png(self, request: Request) -> Response:
        """One picture (`index`) or all as a sheet, with the recipe inside."""
        from unnoise.studio.pictures import one, sheet

        job, index = self._job(request), request.query_params.get("index")
        content, name = one(job, _index(job, index)) if index is not None else sheet(_made(job))
        return Response(
            content, media_type="image/png",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )  # fmt: skip

    def nearest(self, request: Request) -> JSONResponse:
        """The training pictures that are nearest to one picture."""
        from unnoise.studio.pictures import nearest_training

        job, index = self._job(request), request.query_params.get("index", "")
        return JSONResponse(nearest_training(job, _index(job, index)))

    def compare(self, request: Request) -> JSONResponse:
        """The evaluations of two models, as far as they have any; `notes` says why not."""
        places = self.models.places()
        asked = [request.query_params.get(side, "") for side in "ab"]
        (a, of_a), (b, of_b) = (self._evaluation(self.models.find(key, places)) for key in asked)
        return JSONResponse({
            "judged": judge.judge(a, b) if a and b else None,
            "evaluated": [a is not None, b is not None],
            "notes": [*of_a, *of_b],
        })  # fmt: skip

    def _evaluation(self, place: Place) -> tuple[dict[str, Any] | None, list[str]]:
        """The evaluation of a model's own weights, and why there is none where others have one."""
        folders = {"run": [place.path], "checkpoint": [place.path, place.path.parents[1]]}
        for folder in folders.get(place.kind, ()):
            record = judge.of_folder(folder)
            if record is None:
                continue
            weights = (self.models.about(place.file) or {}).get("weights")
            if not weights:  # a checkpoint does not say
                self.worker.wait()
                weights = self.models.load(place).weights_hash
            measured = (record["model"] or {}).get("weights", "none")[:12]
            if measured == weights:
                return record, []
            what = f"{place.name}: its evaluation is of other weights ({measured})"
            return None, [f"{what} than the model ({weights})"]
        return None, []

    async def recipe(self, request: Request) -> JSONResponse:
        """What a PNG says of how it was made, and what to ask for to have it again.

        `model` is null where no model here made it, `asked` (a body for /api/jobs) where the
        recipe does not say all.
        """
        body = await read_body(request)

        def read() -> dict[str, Any]:
            from unnoise.studio.pictures import recipe_of
            from unnoise.studio.recipes import asked

            found = writable(recipe_of(body.get("picture")), "picture")
            weights = str(found.get("model"))[:12]
            same = [one for one in self.models.list() if one["weights"] == weights]
            if not same:
                return {"recipe": found, "model": None, "asked": None}
            again = asked(found, same[0])
            return {"recipe": found, "model": same[0]["id"], "asked": again}

        return JSONResponse(await run_in_threadpool(read))

    async def fit(self, request: Request) -> JSONResponse:
        """A picture as the model would see it."""
        body = await read_body(request)

        def read() -> dict[str, Any]:
            from unnoise.studio.pictures import fitted

            self.worker.wait()
            model = self.models.load(self.models.find(str(body.get("model"))))
            return fitted(model, body.get("picture"), body.get("pixels"))

        return JSONResponse(await run_in_threadpool(read))


def _made(job: Job) -> Job:
    """The job, once it has pictures."""
    if job.pictures is None:
        raise HTTPException(409, "job: has no pictures yet")
    return job


def _index(job: Job, text: str) -> int:
    """The number of a picture of a job."""
    count = len(_made(job).pictures)
    if not (text.isascii() and text.isdecimal() and int(text[:9]) < count):
        raise HTTPException(400, f"index: got {text[:20]!r}, expected 0 to {count - 1}")
    return int(text[:9])


async def _records(worker: Worker, job: Job, first: int) -> AsyncIterator[bytes]:
    loop, more = asyncio.get_running_loop(), asyncio.Event()

    def tell() -> None:
        loop.call_soon_threadsafe(more.set)

    job.listeners.append(tell)
    try:
        while True:
            more.clear()
            ended = job.ended or worker.closed  # asked first: after that come no more records
            while first < len(job.records):
                yield job.records[first]
                first += 1
            if ended:
                return
            await more.wait()
    finally:
        job.listeners.remove(tell)


def _file(path: Path) -> Callable[[Request], Response]:
    """An endpoint that gives one file."""

    def give(request: Request) -> Response:
        return Response(path.read_bytes(), media_type=f"{KINDS[path.suffix]}; charset=utf-8")

    return give


def _error(request: Request, error: Exception) -> JSONResponse:
    status = 400
    if isinstance(error, HTTPException):
        status, error = error.status_code, Exception(error.detail)
    elif isinstance(error, Full):
        status = 429
    elif isinstance(error, CheckpointError) and str(error).startswith(("model: no", "run: no")):
        status = 404
    return JSONResponse({"error": str(error)}, status)


def _fault(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": "the server failed; its terminal says how"}, 500)


def app(
    models: Models,
    worker: Worker,
    hosts: Collection[str],
    token: str | None = None,
    routes: Sequence[BaseRoute] = (),
) -> Starlette:
    """The whole server, with further routes."""
    made = Starlette(
        routes=[*Server(models, worker).routes(), *routes],
        middleware=[Middleware(Guard, hosts=hosts, token=token)],
        exception_handlers={UserError: _error, HTTPException: _error, Exception: _fault},
    )
    made.router.redirect_slashes = False
    return made
