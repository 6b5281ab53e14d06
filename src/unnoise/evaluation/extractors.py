"""Networks that turn images into feature vectors, and what must be said next to their numbers.

| extractor | its numbers may be called FID and KID |
|---|---|
| `pytorch-fid`, `edm`, `clean` | yes: Inception under a named protocol (`inception.py`) |
| `tiny` | no: a small classifier of 8x8 digits, offline |
| `module:function` | no: whatever it is |

The user's own takes float images (n, c, h, w) in [0, 1], RGBA as RGB on white; it returns (n, d).
`module:function` is imported, so it runs that module's code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from unnoise.data.fit import KINDS
from unnoise.data.images import opaque
from unnoise.errors import ConfigError, nearest
from unnoise.evaluation import foreign, inception, tiny
from unnoise.evaluation.statistics import Statistics
from unnoise.files import sha256
from unnoise.precision import full_precision

NAMES = (*inception.PROTOCOLS, "tiny")
TINY_PIXELS = 32 * 32
BATCH_SIZE = {"cpu": 16}
"""The fastest for Inception on a CPU; 256 on other devices."""
LOGITS_BATCH_SIZE = 256


@dataclass(frozen=True)
class Extractor:
    """A network with its preprocessing, on a device."""

    name: str
    standard: bool
    """Whether distances of its features may be called FID and KID."""
    description: dict[str, str]
    """Resize, range, network and its SHA-256: what is printed next to every number."""
    device: torch.device
    prepare: Callable[[Tensor], Tensor]
    """0..255 in float32 -> what the network takes."""
    network: Callable[[Tensor], Tensor]
    classify: Callable[[Tensor], Tensor] | None = None
    """The same input -> logits, where the extractor is a classifier too."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of network and preprocessing: features with the same one may be compared."""
        text = json.dumps([self.name, self.description], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def probed(self, images: Tensor) -> Extractor:
        """Add what it makes of these images to its fingerprint: a user's code may load files."""
        if self.standard or self.classify is not None:
            return self
        numbers = " ".join(f"{value:.3g}" for value in self.features(images).flatten().tolist())
        digest = hashlib.sha256(numbers.encode()).hexdigest()
        return replace(self, description={**self.description, "probe": digest})

    def features(
        self, images: UInt8[Tensor, "n c h w"], batch_size: int | None = None
    ) -> Float[Tensor, "n d"]:
        """Feature vectors, float32, on the CPU."""
        size = batch_size or BATCH_SIZE.get(self.device.type, 256)
        return self._run(self.network, images, size)

    def logits(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        """Logits of a classifier, float32, on the CPU."""
        assert self.classify is not None
        return self._run(self.classify, images, LOGITS_BATCH_SIZE)

    def statistics(self, path: Path, probe: UInt8[Tensor, "n c h w"]) -> Statistics:
        """Those of a file, if they are of this extractor as far as it says."""
        found = Statistics.load(path, self.features(probe).shape[1])
        if found.about.get("fingerprint", self.fingerprint) != self.fingerprint:
            made = f"was made with {found.about.get('extractor', 'another')}, not this {self.name}"
            raise ConfigError(f"reference {path}: {made}; expected statistics of {self.name}")
        return found

    def _run(self, network: Callable[[Tensor], Tensor], images: Tensor, size: int) -> Tensor:
        """Without gradients, and in full float32 where the hardware would round to TF32."""
        with torch.inference_mode(), full_precision():
            parts = (self.prepare(opaque(p.to(self.device)).float()) for p in images.split(size))
            return torch.cat([network(part).float().cpu() for part in parts])


def extractor(
    spec: str, device: torch.device | str = "cpu", inception_file: Path | None = None
) -> Extractor:
    """Find an extractor by name or `module:function`; ConfigError where there is none."""
    device = torch.device(device)
    if spec in inception.PROTOCOLS:
        return _inception(spec, device, inception_file)
    if spec == "tiny":
        return _tiny(device)
    if ":" in spec:
        return _own(spec, foreign.network(spec, "extractor"), device)
    fix = nearest(spec, NAMES, "module:function")
    raise ConfigError(f"extractor: none is called {spec!r}; {fix}")


def suited(spec: str, size: Sequence[int], inception_file: Path | None = None) -> str:
    """The name that "auto" stands for, for images of size (c, h, w); others as they are.

    It is edm, but tiny for tiny grey images, channels of other kinds, and where the FID network is
    not there. ConfigError for Inception where the channels are no colours.
    """
    if size[0] not in KINDS and spec in inception.PROTOCOLS:
        expected = "expected 1, 3 or 4, or --features tiny, none or module:function"
        raise ConfigError(f"extractor {spec}: got images of {size[0]} channels, {expected}")
    there = inception.chosen(inception_file) is not None
    return spec if spec != "auto" else "edm" if there and not for_tiny(size) else "tiny"


def for_tiny(size: Sequence[int]) -> bool:
    """Whether images of size (c, h, w) are what the tiny network is for, there or not."""
    return size[0] not in KINDS or (size[0] == 1 and size[1] * size[2] <= TINY_PIXELS)


def classifier(spec: str, num_classes: int, device: torch.device) -> Extractor:
    """A user's classifier of images, whose features are its logits."""
    return _own(spec, foreign.network(spec, "classifier", num_classes), device)


def _own(spec: str, network: foreign.Foreign, device: torch.device) -> Extractor:
    described = _described("none", "x / 255", f"function {spec}", network.sha256)
    classify = network if network.columns else None
    return Extractor(spec, False, described, device, lambda images: images / 255, network, classify)


def _inception(name: str, device: torch.device, path: Path | None) -> Extractor:
    protocol, network = inception.PROTOCOLS[name], inception.folded(path, device)
    words = "Inception 2015-12-05 (TensorFlow), pool3, 2,048 features, float32"
    described = _described(protocol.resize_words, protocol.range_words, words, inception.SHA256)

    def prepare(images: Tensor) -> Tensor:
        return protocol.prepare(images).contiguous(memory_format=torch.channels_last)

    return Extractor(name, True, described, device, prepare, network)


def _tiny(device: torch.device) -> Extractor:
    network = tiny.trained(device)
    words = f"small classifier of scikit-learn's digits, {tiny.DIMENSION} features, float32"
    resize = f"area to {tiny.SIZE} x {tiny.SIZE}, RGB averaged to grey"
    described = _described(resize, "x / 255", words, sha256(tiny.WEIGHTS))
    return Extractor("tiny", False, described, device, tiny.prepare, network.features, network)


def _described(resize: str, range_: str, network: str, digest: str) -> dict[str, str]:
    return {"resize": resize, "range": range_, "network": network, "sha256": digest}
