"""The lessons for the studio's page."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from unnoise.errors import nearest
from unnoise.studio.jobs import Worker


def lesson(worker: Worker, device: str) -> Callable[[Request], Awaitable[JSONResponse]]:
    """An endpoint that gives a lesson, computed in seconds the first time."""

    def compute(name: str, made: Future[dict[str, Any]]) -> None:
        try:
            worker.wait()
            from unnoise.studio import lessons

            if name not in lessons.LESSONS:
                said = nearest(name[:40], lessons.LESSONS)
                raise HTTPException(404, f"lesson: no {name[:40]!r}; {said}")
            made.set_result(lessons.record(name, device))
        except Exception as error:  # noqa: BLE001  (the request raises it)
            made.set_exception(error)

    async def give(request: Request) -> JSONResponse:
        made = Future[dict[str, Any]]()
        arguments = request.path_params["name"], made
        threading.Thread(target=compute, args=arguments, daemon=True).start()
        while not made.done():
            if worker.closed:  # a server that ends does not wait
                raise HTTPException(503, "the server ends")
            await asyncio.sleep(0.02)
        return JSONResponse(made.result())

    return give
