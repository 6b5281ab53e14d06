"""Where metrics go beside metrics.jsonl, with images seen on the x axis."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from unnoise.data.images import read_png
from unnoise.errors import ConfigError


class TensorBoard:
    """Event files in RUN/tensorboard; a resumed run hides what came after its checkpoint."""

    def __init__(self, folder: Path, config: Mapping[str, Any], nimg: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = nimg + 1 if nimg else None
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=purge)
        if not nimg:
            self.writer.add_text("config", f"```\n{config}\n```", 0)

    def write(self, values: Mapping[str, float], nimg: int, picture: Path | None) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, nimg)
        if picture is not None:
            self.writer.add_image("samples", read_png(picture), nimg)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """Weights & Biases, or trackio, which has its interface."""

    def __init__(self, name: str, folder: Path, config: Mapping[str, Any]) -> None:
        self.module = importlib.import_module(name)
        options = {"dir": str(folder), "id": folder.name} if name == "wandb" else {}
        options |= {"project": "unnoise", "name": folder.name, "resume": "allow"}
        self.module.init(config=dict(config), **options)

    def write(self, values: Mapping[str, float], nimg: int, picture: Path | None) -> None:
        samples = {} if picture is None else {"samples": self.module.Image(str(picture))}
        self.module.log({**values, **samples, "nimg": nimg}, step=nimg)

    def close(self) -> None:
        self.module.finish()


Tracker: TypeAlias = TensorBoard | Wandb


def start(name: str, folder: Path, config: Mapping[str, Any], nimg: int) -> Tracker:
    """A tracker for a run that resumes after nimg images; ConfigError without its package."""
    own = name == "tensorboard"
    try:
        return TensorBoard(folder, config, nimg) if own else Wandb(name, folder, config)
    except ImportError as error:
        raise ConfigError(
            f"train.trackers: {name} is not installed ({error}); "
            f"pip install '{'unnoise[log]' if own else name}'"
        ) from error
