"""What turns images into feature vectors, and what has to be said beside a number made of them.

| extractor | its numbers may be called FID and KID |
|---|---|
| `pytorch-fid`, `edm`, `clean` | yes: Inception under a named protocol (`inception.py`) |
| `tiny` | no: a small classifier of 8x8 digits, offline |
| a TorchScript file, or `module:function` | no: whatever it is |

The user's own takes float images (n, c, h, w) in [0, 1], as they are, and returns (n, d). `module:function` is imported, so it runs
that module's code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unnoise.errors import ConfigError, DataError
from unnoise.evaluation import foreign, inception, tiny
from unnoise.precision import full_precision

NAMES = (*inception.PROTOCOLS, "tiny")
EXPECTED = (
    "expected a TorchScript file or module:function, float images (n, c, h, w) in [0, 1] -> (n, d)"
)
TINY_PIXELS = 32 * 32
BATCH_SIZE = 16
"""The fastest for Inception on a CPU; a GPU wants more."""


@dataclass(frozen=True)
class Extractor:
    """A network with its preprocessing, on a device."""

    name: str
    standard: bool
    """Whether distances of its features may be called FID and KID."""
    description: dict[str, str]
    """Resize, range, network and its SHA-256: what is printed beside every number."""
    device: torch.device
    prepare: Callable[[Tensor], Tensor]
    """0..255 in float32 -> what the network takes."""
    network: Callable[[Tensor], Any]
    classify: Callable[[Tensor], Tensor] | None = None
    """The same input -> logits, where the extractor is a classifier too."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of network and preprocessing: features with the same one may be compared."""
        return hashlib.sha256(
            json.dumps([self.name, self.description], sort_keys=True).encode()
        ).hexdigest()

    def probed(self, images: Tensor) -> Extractor:
        """With what it makes of these images in its fingerprint, where the file alone may not say all (it may load others)."""
        if self.standard or self.classify is not None:
            return self
        numbers = " ".join(f"{value:.3g}" for value in self.features(images).flatten().tolist())
        digest = hashlib.sha256(numbers.encode()).hexdigest()
        return replace(self, description={**self.description, "probe": digest})

    def features(self, images: Tensor, batch_size: int = BATCH_SIZE) -> Float[Tensor, "n d"]:
        """Feature vectors, float32, on the CPU, of uint8 images (n, c, h, w); DataError for others.

        ConfigError unless the network gives (n, d) of finite numbers.
        """
        return torch.cat(list(self.stream(images, batch_size)))

    def stream(
        self, images: Tensor, batch_size: int = BATCH_SIZE
    ) -> Iterator[Float[Tensor, "b d"]]:
        """`features`, batch by batch."""
        for batch, start in _batches(images, batch_size):
            yield self._checked(self._run(self.network, batch), len(batch), start)

    def classes(self, images: Tensor, batch_size: int = 256) -> Float[Tensor, "n k"]:
        """Logits, float32, on the CPU; ConfigError unless the extractor is a classifier."""
        if self.classify is None:
            raise ConfigError(
                f"extractor {self.name!r}: is no classifier; expected 'tiny' (digits)"
            )
        return torch.cat(
            [
                self._run(self.classify, batch).float().cpu()
                for batch, _ in _batches(images, batch_size)
            ]
        )

    def _run(self, network: Callable[[Tensor], Any], batch: Tensor) -> Any:
        """Without gradients, and in full float32 where the hardware would round to TF32."""
        with torch.inference_mode(), full_precision():
            try:
                return network(self.prepare(batch.to(self.device).float()))
            except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
                if self.standard or self.name == "tiny":
                    raise
                reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
                raise ConfigError(
                    f"extractor {self.name!r}: fails on float images {tuple(batch.shape)} in [0, 1] ({reason}); "
                    "expected a function of (n, c, h, w) that returns (n, d)"
                ) from error

    def _checked(self, features: Any, count: int, start: int) -> Tensor:
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != count:
            got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ConfigError(
                f"extractor {self.name!r}: returns {got} for {count} images, expected ({count}, features)"
            )
        features = features.float().cpu()
        bad = (~features.isfinite()).any(1).nonzero()
        if len(bad):
            raise ConfigError(
                f"extractor {self.name!r}: features of image {start + int(bad[0])} are not finite; expected numbers; "
                "look at the image and at the network's range (it gets [0, 1] unless it is built in)"
            )
        return features


def _batches(images: Tensor, batch_size: int) -> Iterator[tuple[Tensor, int]]:
    if images.dtype != torch.uint8 or images.ndim != 4:
        got = f"{str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}"
        raise DataError(
            f"images: got {got}, expected uint8 (n, c, h, w); floats of a model: data.images.from_model"
        )
    if not len(images) or images.shape[1] not in (1, 3):
        raise DataError(
            f"images: got {tuple(images.shape)}, expected one or more, with 1 (grey) or 3 (RGB) channels"
        )
    for start in range(0, len(images), batch_size):
        yield images[start : start + batch_size], start


def suited(spec: str, channels: int, height: int, width: int) -> str:
    """The extractor that `auto` is for images of this shape (tiny for tiny grey ones, else edm), or what was asked for."""
    return (
        spec
        if spec != "auto"
        else "tiny"
        if channels == 1 and height * width <= TINY_PIXELS
        else "edm"
    )


def extractor(
    spec: str, device: torch.device | str = "cpu", inception_file: Path | None = None
) -> Extractor:
    """By name, TorchScript file or `module:function`; ConfigError where there is none such."""
    device = torch.device(device)
    if spec in inception.PROTOCOLS:
        return _inception(spec, device, inception_file)
    if spec == "tiny":
        return _tiny(device)
    if Path(spec).is_file() or ":" in spec:
        return _custom(spec, device)
    raise ConfigError(
        f"extractor: none is called {spec!r}; {nearest(spec, NAMES, 'a TorchScript file or module:function')}"
    )


def _inception(name: str, device: torch.device, path: Path | None) -> Extractor:
    protocol = inception.PROTOCOLS[name]
    description = {
        "resize": protocol.resize_words,
        "range": protocol.range_words,
        "network": "Inception 2015-12-05 (TensorFlow), pool3, 2,048 features, float32",
        "sha256": inception.SHA256,
    }
    network = inception.load(path, device)

    def prepare(images: Tensor) -> Tensor:
        return protocol.prepare(images).contiguous(memory_format=torch.channels_last)

    return Extractor(name, True, description, device, prepare, network)


def _tiny(device: torch.device) -> Extractor:
    network = tiny.load(device)
    description = {
        "resize": f"area to {tiny.SIZE} x {tiny.SIZE}, RGB averaged to grey",
        "range": "x / 255",
        "network": f"small classifier of scikit-learn's digits, {tiny.DIMENSION} features, float32",
        "sha256": tiny.sha256(),
    }
    return Extractor("tiny", False, description, device, tiny.prepare, network.features, network)


def _custom(spec: str, device: torch.device) -> Extractor:
    network = foreign.load(spec, "extractor", EXPECTED, device)
    description = {
        "resize": "none",
        "range": "x / 255",
        "network": network.words,
        "sha256": network.sha256,
    }
    return Extractor(spec, False, description, device, lambda images: images / 255, network.call)
