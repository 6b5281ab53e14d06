"""Extractors by name, file and function, and what is said of those that do not work."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unnoise.data.config import DataConfig
from unnoise.data.dataset import load
from unnoise.errors import ConfigError
from unnoise.evaluation import tiny
from unnoise.evaluation.extractors import extractor

IMAGES = torch.randint(0, 256, (5, 3, 6, 7), generator=torch.Generator().manual_seed(0)).to(
    torch.uint8
)

FUNCTIONS = """
import torch
def means(x): return x.mean((2, 3))
def maps(x): return x
def few(x): return x.mean((2, 3))[:1]
def words(x): return "features"
def infinite(x): return torch.where(x.mean((1, 2, 3))[:, None] > 0.5, float("inf"), 0.0)
def fails(x): raise RuntimeError("in torch\\nexpected 1 channel")
def fails_empty(x): raise ValueError
number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch) -> str:
    """A module of the user's in the working directory."""
    name = f"mine_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    return name


def digits():
    data = load(DataConfig(source="digits"))
    return torch.from_numpy(data.images.copy()), torch.from_numpy(data.labels), data.num_train


def test_tiny_reads_held_out_digits():
    images, labels, num_train = digits()
    extract = extractor("tiny")
    right = extract.logits(images[num_train:]).argmax(1) == labels[num_train:]
    assert right.double().mean() > 0.98
    features = extract.features(images[:20])
    assert (
        features.shape == (20, tiny.DIMENSION)
        and features.dtype == torch.float32
        and not features.requires_grad
    )
    assert not extract.standard and extract.name == "tiny" and tiny.WEIGHTS.stat().st_size < 300_000


def test_tiny_takes_other_sizes_and_colours():
    images = digits()[0][:8]
    extract = extractor("tiny")
    expected = extract.features(images)
    large = images.repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(extract.features(large), expected)
    torch.testing.assert_close(extract.features(images.expand(-1, 3, -1, -1)), expected)
    colours = torch.arange(3 * 16 * 16).reshape(1, 3, 16, 16) % 251.0
    blocks = colours.reshape(1, 3, 8, 2, 8, 2).mean((1, 3, 5))
    torch.testing.assert_close(tiny.prepare(colours), blocks[:, None] / 255)


def test_the_users_own_gets_floats_from_0_to_1(module):
    spec = f"{module}:means"
    extract = extractor(spec)
    np.testing.assert_allclose(extract.features(IMAGES, 2), (IMAGES / 255).mean((2, 3)), rtol=1e-5)
    assert extract.name == spec and not extract.standard
    assert set(extract.description) == {"resize", "range", "network", "sha256"}


def test_a_changed_network_has_another_fingerprint(tmp_path, module):
    before = extractor(f"{module}:means").fingerprint
    with (tmp_path / f"{module}.py").open("a") as file:
        file.write("# changed\n")
    assert (
        extractor(f"{module}:means").fingerprint
        != before
        != extractor(f"{module}:maps").fingerprint
    )


def fails(call, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("pytorch_fid", "none is called 'pytorch_fid'; did you mean 'pytorch-fid'"),
        ("what", "expected one of pytorch-fid, edm, clean, tiny, or module:function"),
        ("no_such_module:f", r"cannot be imported \(No module named 'no_such_module'\)"),
        ("MODULE:mean", "has no function 'mean'; did you mean 'means'"),
        ("MODULE:number", "has no function 'number'"),
        ("MODULE:", "has no function ''"),
    ],
)
def test_unknown_ones_are_one_line(spec, words, module):
    fails(lambda: extractor(spec.replace("MODULE", module)), words)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("maps", r"returns \(2, 3, 6, 7\) for 2 images, expected \(2, d\)"),
        ("few", r"returns \(1, 3\) for 2 images"),
        ("words", "returns str for 2 images"),
        ("infinite", "returns numbers that are not finite"),
        ("fails", r"fails on float images \(2, 3, 6, 7\) in \[0, 1\] \(expected 1 channel\)"),
        ("fails_empty", r"in \[0, 1\] \(ValueError\); expected module:function"),
    ],
)
def test_wrong_features_are_one_line(function, words, module):
    images = IMAGES.clone()
    images[:], images[3] = 0, 255
    fails(lambda: extractor(f"{module}:{function}").features(images, 2), words)
