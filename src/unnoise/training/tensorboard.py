"""The metrics and samples of a run for TensorBoard, with images seen on the x axis."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unnoise.data.images import read_png
from unnoise.errors import ConfigError


class TensorBoard:
    """Event files in RUN/tensorboard; a resumed run hides what came after its checkpoint."""

    def __init__(self, folder: Path, config: Mapping[str, Any], nimg: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            said = f"train.tensorboard: tensorboard is not installed ({error})"
            raise ConfigError(f"{said}; pip install 'unnoise[log]'") from error
        purge = nimg + 1 if nimg else None
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=purge)
        if not nimg:
            self.writer.add_text("config", f"```\n{config}\n```", 0)

    def write(self, values: Mapping[str, float], nimg: int, picture: Path | None) -> None:
        """Add numbers and the samples' picture."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, nimg)
        if picture is not None:
            self.writer.add_image("samples", read_png(picture), nimg)
        self.writer.flush()
