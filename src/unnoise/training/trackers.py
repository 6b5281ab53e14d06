"""Where metrics go beside metrics.jsonl: TensorBoard, Weights & Biases, trackio. Images seen are on
the x axis."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from unnoise.errors import ConfigError

CLOCKS = ("step", "nimg")
"""Fields of a metrics line that say when, not what."""


class Tracker(Protocol):
    """What the log tells."""

    def metrics(self, values: Mapping[str, float], nimg: int) -> None:
        """Some numbers after so many images."""
        ...

    def picture(self, path: Path, nimg: int) -> None:
        """A grid of samples after so many images."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


class TensorBoard:
    """Event files in RUN/tensorboard; a resumed run hides what came after the place where it goes
    on."""

    def __init__(self, folder: Path, config: Mapping[str, Any], nimg: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(
            str(folder / "tensorboard"), purge_step=nimg + 1 if nimg else None
        )
        if not nimg:
            self.writer.add_text("config", f"```\n{config}\n```", 0)

    def metrics(self, values: Mapping[str, float], nimg: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, nimg)
        self.writer.flush()

    def picture(self, path: Path, nimg: int) -> None:
        from unnoise.data.images import read_png

        self.writer.add_image("samples", read_png(path), nimg)

    def close(self) -> None:
        self.writer.close()


class WandbLike:
    """Weights & Biases, and trackio, which has its interface."""

    def __init__(self, module: Any, folder: Path, config: Mapping[str, Any], nimg: int) -> None:
        self.module = module
        options: dict[str, Any] = {
            "project": "unnoise",
            "name": folder.name,
            "config": dict(config),
        }
        if module.__name__ == "wandb":
            options |= {"dir": str(folder), "id": folder.name, "resume": "allow"}
        else:
            options |= {"resume": "allow"}
        self.run = module.init(**options)

    def metrics(self, values: Mapping[str, float], nimg: int) -> None:
        self.module.log({**values, "nimg": nimg}, step=nimg)

    def picture(self, path: Path, nimg: int) -> None:
        self.module.log({"samples": self.module.Image(str(path)), "nimg": nimg}, step=nimg)

    def close(self) -> None:
        self.module.finish()


def _wandb(folder: Path, config: Mapping[str, Any], nimg: int) -> Tracker:
    import wandb  # pyright: ignore[reportMissingImports]

    return WandbLike(wandb, folder, config, nimg)


def _trackio(folder: Path, config: Mapping[str, Any], nimg: int) -> Tracker:
    import trackio  # pyright: ignore[reportMissingImports]

    return WandbLike(trackio, folder, config, nimg)


TRACKERS: dict[str, Callable[[Path, Mapping[str, Any], int], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": _wandb,
    "trackio": _trackio,
}


def start(name: str, folder: Path, config: Mapping[str, Any], nimg: int) -> Tracker:
    """A tracker for a run that resumes after nimg images; ConfigError without its package."""
    try:
        return TRACKERS[name](folder, config, nimg)
    except ImportError as error:
        package = "unnoise[log]" if name == "tensorboard" else name
        raise ConfigError(
            f"train.trackers: {name} is not installed ({error}); pip install '{package}'"
        ) from error
