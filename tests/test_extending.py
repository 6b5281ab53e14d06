"""Every block of docs/extending.md runs, and what it registers trains, samples or measures."""

from __future__ import annotations

import re
from pathlib import Path
from unittest import mock

import pytest

import unnoise
from unnoise.diffusion.grids import SPACINGS
from unnoise.diffusion.losses import LOSSES, WEIGHTINGS
from unnoise.diffusion.samplers import SAMPLERS
from unnoise.diffusion.schedules import SCHEDULES
from unnoise.evaluation.metrics import METRICS
from unnoise.networks.config import NETWORK_CONFIGS
from unnoise.networks.registry import NETWORKS

PAGE = (Path(__file__).parent.parent / "docs" / "extending.md").read_text()
BLOCKS = dict(
    re.findall(r"^## (.+?)$(?:(?!^## ).)*?^```python\n(.+?)^```", PAGE, re.MULTILINE | re.DOTALL)
)
SHORT = {
    "network.base_channels": 8, "network.norm_groups": 8, "train.batch_size": 16,
    "train.kimg": 0.064, "train.time": None,
    "train.warmup_kimg": 0.0, "sample.steps": 2, "train.precision": "fp32", "device": "cpu",
}  # fmt: skip
QUICK = {"features": ("tiny",), "likelihood": False, "copying": False}
REGISTRIES = (
    SPACINGS, LOSSES, WEIGHTINGS, SAMPLERS, SCHEDULES, METRICS, NETWORK_CONFIGS, NETWORKS,
)  # fmt: skip


def run(title: str) -> dict:
    short = SHORT
    if title == "A network":  # which has no base_channels
        short = {k: v for k, v in SHORT.items() if not k.startswith("network.")}
    names = {"unnoise": unnoise, "SHORT": short, "QUICK": QUICK}
    exec(compile(BLOCKS[title], f"docs/extending.md, {title}", "exec"), names)  # noqa: S102
    return names


@pytest.fixture(autouse=True)
def _restored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    patches = [mock.patch.dict(registry) for registry in REGISTRIES]
    for patch in patches:
        patch.start()
    yield
    for patch in patches:
        patch.stop()


def test_the_page_has_the_doors():
    assert len(BLOCKS) == PAGE.count("```python") == 9


@pytest.mark.parametrize("title", BLOCKS)
def test_a_block_runs(title):
    names = run(title)
    if "config" in names and "model" not in names:  # a schedule, a weighting: they train
        config = unnoise.override(names["config"], SHORT)
        names["model"] = unnoise.train(config, "runs/block")
    if "model" in names:
        assert names["model"].sample(2).shape[0] == 2
    if "images" in names:
        assert len(names["images"]) >= 2


def test_what_was_registered_is_kept_by_name():
    assert run("A loss")["model"].config.diffusion.loss == "Huber"
    loaded = unnoise.load("runs/huber")
    assert loaded.config.diffusion.loss == "Huber"
    names = run("A network")
    assert unnoise.load("runs/plain").config.network == names["PlainConfig"](8)
    assert run("A metric")["record"]["distances"]
    assert "spread" in str(Path("evaluated/evaluation.json").read_text())
