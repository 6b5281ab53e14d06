"""New processes, forked from one that has imported everything and done nothing else.

They tell by lines of JSON.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT_SEC = 120.0
"""No child may be silent for longer."""
Tell = Callable[[Any], object]


@dataclass
class Child:
    pid: int
    pipe: int
    text: bytes = b""

    def wait_for_line(self) -> bool:
        """Until it has told something; False if it ended without."""
        while b"\n" not in self.text:
            if not self._hear():
                return False
        return True

    def _hear(self) -> bool:
        if not select.select([self.pipe], [], [], LIMIT_SEC)[0]:
            os.kill(self.pid, signal.SIGKILL)
        told = os.read(self.pipe, 65536)
        self.text += told
        return bool(told)

    def end(self, kill: bool = False) -> list[Any]:
        """All that it told, when it has ended."""
        if kill:
            os.kill(self.pid, signal.SIGKILL)  # not yet waited for, so the id is still its own
        while self._hear():
            pass
        os.close(self.pipe)
        os.waitpid(self.pid, 0)
        return [json.loads(text) for text in self.text.split(b"\n") if text]


def fork(work: Callable[[Tell], object], log: Path) -> Child:
    """Work in a new process; its output goes to a file, an exception is the last that it tells."""
    sys.stdout.flush()
    reader, writer = os.pipe()
    if pid := os.fork():
        os.close(writer)
        return Child(pid, reader)
    tell = lambda value: os.write(writer, json.dumps(value).encode() + b"\n")
    code = 0
    try:
        os.close(reader)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, 1)
        os.dup2(file, 2)
        work(tell)
    except BaseException as error:  # noqa: BLE001  (as the interpreter does at its end)
        traceback.print_exc()
        tell({"error": type(error).__name__, "says": str(error)[:200]})
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
