"""A model as ONNX: the graph is the network, and a plan is the sampler."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import ROOT
from tests.formats.conftest import floats, tiny
from unnoise import cli
from unnoise.diffusion.denoiser import Prediction
from unnoise.diffusion.samplers import SAMPLERS, stochastic, walk
from unnoise.errors import ConfigError
from unnoise.formats import onnx
from unnoise.model import Model, last

onnxruntime = pytest.importorskip("onnxruntime", reason="needs pip install 'unnoise[onnx]'")
EDM = {"schedule": "edm", "parameterization": "edm", "times": "log_normal_sigma"}
FLOW = {"schedule": "flow", "parameterization": "flow", "times": "uniform"}


def check_network(model: Model, graph: bytes, tolerance: float = 1e-5) -> None:
    """The graph's output is the network's, of batches of any size."""
    session, shape = onnxruntime.InferenceSession(graph), model.shape
    generator = torch.Generator().manual_seed(0)
    for n in (1, 2, 3, 7, 64):
        size = (n, shape.channels, shape.height, shape.width)
        x, t = torch.randn(size, generator=generator), torch.rand(n, generator=generator) * 999
        given = {"x": x.numpy(), "t": t.numpy()}
        label = torch.arange(n) % (shape.num_classes + 1) if shape.num_classes else None
        given |= {} if label is None else {"label": label.numpy()}
        expected = model.network(x, t, label)[:, : shape.channels]
        assert np.abs(session.run(None, given)[0] - expected.numpy()).max() < tolerance


def reader() -> dict:
    """The sampler that docs/export.md shows, as functions."""
    text = (ROOT / "docs" / "export.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    assert len(code.splitlines()) <= 80
    made: dict = {}
    exec(code.partition("\nnetwork, record")[0], made)  # noqa: S102
    return made


def check_pictures(model: Model, folder: Path, plan: str | None = None, **settings) -> None:
    """The pictures, pixels in 0..1, are the command line's."""
    read = reader()
    network, record, noise = read["load"](folder)
    classes = record["shape"]["num_classes"]
    labels = np.arange(10) % classes if classes else None
    found = read["sample"](network, record, noise[:10], labels, plan)
    expected = floats(model, 10, **settings).numpy()
    assert expected.std() > 0.1
    assert np.abs(found - expected).max() / 2 < 2e-3


def test_digits_are_the_network_and_the_pictures(folder, digits):
    check_network(digits, (folder / "model.onnx").read_bytes())
    check_pictures(digits, folder)
    check_pictures(digits, folder, "fast: ipndm_edm, 5 steps", sampler="fast")
    check_pictures(digits, folder, "best: ipndm, 20 steps", sampler="best")
    check_pictures(digits, folder, "unipc_2, 5 steps", steps=5)


def test_the_example_of_the_docs_runs(folder, digits, monkeypatch):
    monkeypatch.chdir(folder.parent)
    text, made = (ROOT / "docs" / "export.md").read_text(), {}
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], made)  # noqa: S102
    assert np.abs(made["pixels"] - digits.sample(10).numpy().astype(int)).max() <= 1


def test_nothing_of_this_machine_is_in_the_files(folder):
    graph = (folder / "model.onnx").read_bytes()
    assert b"site-packages" not in graph and str(ROOT).encode() not in graph
    assert b".py" not in graph


@pytest.mark.long
@pytest.mark.parametrize(
    ("diffusion", "kind"),
    [(EDM, "unet"), (FLOW, "dit"), ({"parameterization": "v"}, "lucidrains")],
    ids=["edm", "flow", "v"],
)
def test_tiny_models_are_the_network_and_the_pictures(diffusion, kind, tmp_path):
    """Guidance in an interval, Heun's two evaluations, an input scale, no classes, fp16 weights."""
    import onnx as package

    model = tiny(kind, **diffusion)
    onnx.export(model, tmp_path / "m", False, {})
    graph = (tmp_path / "m" / "model.onnx").read_bytes()
    check_network(model, graph)
    check_pictures(model, tmp_path / "m")
    halved = package.load_from_string(graph)
    onnx._halve(halved)
    check_network(model, halved.SerializeToString(), 1e-2)
    assert len(halved.SerializeToString()) < 0.85 * len(graph)


def test_a_sampler_that_is_not_linear_is_refused(monkeypatch):
    """One of a user's own that keeps the picture within a range: unit vectors do not tell it."""

    def clamped(denoiser, x, grid, draw):
        for step in SAMPLERS["ddim"](denoiser, x, grid, draw):
            yield step._replace(x=step.x.clamp(-1, 1))

    monkeypatch.setitem(SAMPLERS, "clamped", clamped)
    model = tiny()
    with pytest.raises(ConfigError, match="'clamped' is not linear in its predictions"):
        onnx.plan(model, model.settings(sampler="clamped", steps=5))


def test_weights_beyond_fp16_are_refused():
    import onnx as package

    values = package.numpy_helper.from_array(np.full(99, 7e4, "f4"), "w")
    graph = package.helper.make_graph([], "g", [], [], [values])
    with pytest.raises(ConfigError, match="half: w is beyond"):
        onnx._halve(package.helper.make_model(graph))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    "diffusion", [EDM, FLOW, {"parameterization": "v"}], ids=["edm", "flow", "v"]
)
def test_a_plan_is_its_sampler(sampler, diffusion):
    """In double precision, of x0 = 0.9 tanh(x)."""
    model = tiny(**diffusion)
    chosen = model.settings(sampler=sampler, steps=6, spacing="log_snr")
    if stochastic(sampler):
        with pytest.raises(ConfigError, match="draws noise on the way"):
            onnx.plan(model, chosen)
        return
    noise, grid, levels = model.noise(range(2)).normal().double(), model.grid(chosen), []

    def denoiser(x_t, level):
        levels.append((level.alpha, level.sigma))
        x0 = 0.9 * x_t.tanh()
        return Prediction(x0, (x_t - level.alpha * x0) / level.sigma)

    expected = last(walk(sampler, denoiser, grid, lambda: noise)).x
    plan, states = onnx.plan(model, chosen), [noise]
    for call in plan["calls"]:
        x = np.tensordot(call["weights"], np.stack(states), 1)
        states.append(0.9 * np.tanh(x))
    found = np.tensordot(plan["weights"], np.stack(states), 1)
    assert np.abs(found - expected.numpy()).max() < 1e-6
    assert [(call["alpha"], call["sigma"]) for call in plan["calls"]] == levels


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--to onnx", "--out: got None, expected a new folder"),
        ("--to onnx --out there", "there is a folder with mine.txt; expected a new folder"),
        ("--to onnx --out there/mine.txt", "mine.txt is a file; expected a new folder"),
        ("--to onnx --out new --sampler ddpm", "'ddpm' draws noise on the way"),
        ("--to onnx --out new --dynamic-threshold 0.9", "dynamic_threshold: got 0.9"),
        ("--steps 5 --out a.safetensors", "--steps: such a file keeps the model's own"),
        ("--to onxx --out new", "--to: got 'onxx', expected"),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_line(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    Path("there/mine.txt").write_text("mine")
    assert cli.main(["export", "digits", *words.split()]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert Path("there/mine.txt").read_text() == "mine" and len(list(Path().iterdir())) == 1


def test_without_the_packages_one_line_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(onnx.importlib.util, "find_spec", lambda name: None)
    out = ("--out", str(tmp_path / "new"))
    assert cli.main(["export", "digits", "--to", "onnx", *out]) == 2
    assert "pip install 'unnoise[onnx]'" in capsys.readouterr().err


def test_the_same_folder_is_written_again_and_says_what_it_holds(folder):
    record = json.loads((folder / "model.json").read_text())
    assert record["classes"] == [str(i) for i in range(10)]
    onnx.claim_folder(folder, onnx.FILES)
