"""What library code reports while it works: progress and messages. Bars, pages and files are
listeners.

    with events.listening(print):
        unnoise.train("digits")

Nobody listens by default. A listener is called in the thread that works and must not raise. Each
thread and each asyncio task has listeners of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, TypeAlias, TypeVar

T = TypeVar("T")


class Progress(NamedTuple):
    """How far one piece of work is; `done` may fall where a part is done again."""

    what: str
    done: float
    total: float
    unit: str = ""
    """image, step, B, ..; empty for a share from 0 to 1."""
    detail: str = ""
    """A line about the newest step."""


class Message(NamedTuple):
    """A line for people."""

    text: str


Event: TypeAlias = Progress | Message
Listener: TypeAlias = Callable[[Event], None]

_LISTENERS: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())


@contextmanager
def listening(*listeners: Listener) -> Iterator[None]:
    """Send the events of a block to these listeners, in place of those outside it."""
    token = _LISTENERS.set(listeners)
    try:
        yield
    finally:
        _LISTENERS.reset(token)


def listeners() -> tuple[Listener, ...]:
    """Give the listeners of now, to hand on to another thread."""
    return _LISTENERS.get()


def send(event: Event) -> None:
    """Tell every listener."""
    for listener in _LISTENERS.get():
        listener(event)


def say(text: str) -> None:
    """Send a Message."""
    send(Message(text))


class Counter:
    """Progress of work that is counted: each `step` reports what is done by then."""

    def __init__(self, what: str, total: float, unit: str = "", done: float = 0) -> None:
        self.progress = Progress(what, done, total, unit)

    def step(self, count: float = 1) -> None:
        self.progress = self.progress._replace(done=self.progress.done + count)
        send(self.progress)


def tracked(items: Iterable[T], what: str, total: int, unit: str = "") -> Iterator[T]:
    """Give the items of an iterable, and report each as progress once it is done with."""
    counter = Counter(what, total, unit)
    for item in items:
        yield item
        counter.step()
