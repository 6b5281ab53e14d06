"""Writing a checkpoint beside training: the state is copied at its step, and a thread writes the copy while steps go on."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread

from torch import Tensor

Groups = dict[str, dict[str, Tensor]]


class Saver:
    """One save at a time. What it raises is raised by the next call here, on the thread that trains."""

    def __init__(self, beside: bool) -> None:
        self.beside = beside
        self._thread: Thread | None = None
        self._error: Exception | None = None

    def start(self, save: Callable[[Groups], None], groups: Groups) -> None:
        """save(groups), after the save before it: in a thread with a copy in the host's memory, or here and now."""
        self.wait()
        if not self.beside:
            save(groups)
            return
        copied = {
            name: {key: _copy(value) for key, value in group.items()}
            for name, group in groups.items()
        }
        # A daemon: a second Ctrl-C does not wait for it, and what it leaves half-written has a temporary name.
        self._thread = Thread(
            target=self._run, args=(save, copied), name="unnoise save", daemon=True
        )
        self._thread.start()

    def _run(self, save: Callable[[Groups], None], groups: Groups) -> None:
        try:
            save(groups)
        except Exception as error:  # noqa: BLE001 (raised again by `wait`)
            self._error = error

    def check(self) -> None:
        """Raise what a finished save raised."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Until nothing is being saved."""
        if self._thread is not None:
            self._thread.join()
        self._thread, error, self._error = None, self._error, None
        if error is not None:
            raise error


def _copy(value: Tensor) -> Tensor:
    return value.to("cpu", copy=True)
