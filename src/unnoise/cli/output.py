"""Standard output and error as one door: text that others wrote cannot steer the terminal, and an
output that is dead, full or closed ends nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from unnoise.errors import visible


class Output:
    """A text stream whose writes never fail; it is otherwise the stream that it stands for.

    It shows control characters unless it is `styled`: stderr has bars and others' colours, and what
    unnoise says there are errors, which are visible by themselves.
    """

    def __init__(self, stream: TextIO, styled: bool = False) -> None:
        self.stream, self.styled = stream, styled

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write text visibly; what the encoding lacks becomes an escape."""
        encoding = self.stream.encoding or "utf-8"
        text = text if self.styled else visible(text)
        shown = text.encode(encoding, "backslashreplace").decode(encoding)
        try:
            self.stream.write(shown)
            self.stream.flush()
        except OSError:  # the reader has gone (`| head`), the disk is full
            self.silence()
        return len(text)

    def flush(self) -> None:
        """Flush, if anybody reads."""
        try:
            self.stream.flush()
        except OSError:
            self.silence()

    def silence(self) -> None:
        """Let everything go nowhere from now on, also what is still buffered."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.stream.fileno())
        os.close(nowhere)


@contextmanager
def styled() -> Iterator[None]:
    """Let colours through: in this block all text is unnoise's own, as that of --help."""
    stream = sys.stdout
    if not isinstance(stream, Output):
        yield
        return
    stream.styled = True
    try:
        yield
    finally:
        stream.styled = False


def protect() -> None:
    """Put an Output in place of stdout and stderr, which may be closed (`>&-`)."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # else the next file to be opened would get its number
            os.open(os.devnull, os.O_RDWR)
    out, err = sys.stdout or os.fdopen(1, "w"), sys.stderr or os.fdopen(2, "w")
    sys.stdout, sys.stderr = Output(out), Output(err, styled=True)  # pyright: ignore
