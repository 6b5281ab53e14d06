"""Events on a terminal: a bar for each piece of work, and lines above it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from tqdm import tqdm

from unnoise import events
from unnoise.errors import visible
from unnoise.events import Event, Message, Progress

LAYOUT = "{desc} {percentage:3.0f}%|{bar:20}| {elapsed}<{remaining}"
PLAIN_EVERY_SEC = 10
"""Where there is no terminal, a line about a long run is printed this often."""


@contextmanager
def shown(speaks: bool = True) -> Iterator[None]:
    """Show the events of a block on the terminal, or nothing unless this process `speaks`."""
    terminal = Terminal()
    try:
        with events.listening(*([terminal] if speaks else [])):
            yield
    finally:
        terminal.close()


def shown_by_default() -> AbstractContextManager[None]:
    """Show the events of a block on the terminal, unless somebody listens already."""
    return nullcontext() if events.listeners() else shown()


class Terminal:
    """A listener: one bar on stderr, messages on stdout (above the bar, where there is one)."""

    def __init__(self) -> None:
        self.interactive = sys.stderr.isatty()
        self.bar: tqdm | None = None
        self.what = ""
        self.plain_at = time.monotonic()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Message):
            text = visible(event.text)
            tqdm.write(text) if self.bar is not None else print(text, flush=True)
        elif self.interactive:
            self._move(event)
        elif event.detail and time.monotonic() - self.plain_at > PLAIN_EVERY_SEC:
            self.plain_at = time.monotonic()
            print(event.detail, flush=True)

    def _move(self, event: Progress) -> None:
        if self.bar is None or self.what != event.what:
            self.close()
            options = {"unit": event.unit, "unit_scale": True} if event.unit == "B" else {}
            self.bar = tqdm(total=event.total, bar_format=LAYOUT, leave=False, dynamic_ncols=True,
                            initial=event.done, **options)  # fmt: skip
            self.what = event.what
        self.bar.total = event.total
        self.bar.set_description_str(event.detail or event.what, refresh=False)
        self.bar.update(event.done - self.bar.n)
        if event.done >= event.total:
            self.close()

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()
        self.bar, self.what = None, ""
