"""What `Model.sample` is asked for: labels, settings, and options of samplers and schedules."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import pairwise

import pytest
import torch

import unnoise
from unnoise import build, records
from unnoise.config import DiffusionConfig, to_dict
from unnoise.diffusion.levels import Level
from unnoise.diffusion.samplers import SAMPLERS
from unnoise.diffusion.samplers.step import Step
from unnoise.diffusion.schedules import SCHEDULES, Discrete
from unnoise.errors import ConfigError, DataError
from unnoise.evaluation.likelihood import bits_per_dim
from unnoise.model import Model
from unnoise.reading import from_dict
from unnoise.training.run import prepare


@pytest.fixture(scope="module")
def model() -> Model:
    return unnoise.load("digits", "cpu")


# --- labels


def test_a_model_without_a_null_label_refuses_what_needs_one(model):
    tensors = model.network.state_dict()
    tensors["class_embedding.weight"] = tensors["class_embedding.weight"][:-1]
    shape = replace(model.shape, null_label=False)
    network = build.network(model.config, shape)
    network.load_state_dict(tensors)
    own = Model(network, model.config, {"shape": asdict(shape)})
    plain = model.sample(2, label=3, steps=2, guidance_scale=1)
    assert torch.equal(own.sample(2, label=3, steps=2), plain)
    with pytest.raises(ConfigError, match=r"guidance_scale: this model .* labels only .* guide"):
        own.sample(2, guidance_scale=2)
    with pytest.raises(ConfigError, match="label: got 'none', but this model was trained with"):
        own.sample(2, label=[1, "none"])
    pixels, none = torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.tensor([10])
    with pytest.raises(DataError, match=r"likelihood: labels .* from 0 to 9"):
        bits_per_dim(own, pixels, none)


def test_a_label_for_each_image(model):
    together = model.sample(3, label=[3, "5", "none"], steps=3)
    for i, label in enumerate((3, 5, "none")):
        alone = model.sample(seeds=[i], label=label, steps=3)
        assert (together[i : i + 1].int() - alone.int()).abs().max() <= 1
    parts = model.sample(3, label=torch.tensor([3, 5, 7]), steps=3, batch_size=2)
    assert torch.equal(parts[2:], model.sample(seeds=[2], label=7, steps=3, batch_size=2))
    floats = unnoise.generate_samples(model, 2, label=[3, 5], steps=3)
    assert torch.equal(floats, model.sample(2, label=[3, 5], steps=3).float() / 255)
    *_, step = model.steps([0, 1], [3, 5], steps=3)
    assert step.x.shape == (2, 1, 8, 8)


@pytest.mark.parametrize(("label", "message"), [
    ([3, 5, 7], "label: got 3 for 2 images, expected one, or one for each image"),
    ([3, 10], "label: got 10, expected 0 to 9"),
    (["3", "cat"], "label: no class 'cat'"),
])  # fmt: skip
def test_labels_that_do_not_fit_are_one_line(model, label, message):
    with pytest.raises(ConfigError, match=message):
        model.sample(2, label=label)


# --- options of a sampler


def strong(denoiser, x, grid, draw, strength: float = 1.0):
    """DDIM with the predicted noise made stronger or weaker."""
    for t, s in pairwise(grid):
        prediction = denoiser(x, t)
        x = s.alpha * prediction.x0 + strength * s.sigma * prediction.eps
        yield Step(s, x, prediction)


def test_a_sampler_with_an_option_of_its_own(model, monkeypatch, tmp_path):
    monkeypatch.setitem(SAMPLERS, "strong", strong)
    plain = model.sample(2, sampler="ddim", steps=4)
    assert torch.equal(model.sample(2, sampler="strong", steps=4), plain)
    weaker = {"sampler": "strong", "sampler_options": {"strength": 0.8}, "steps": 4}
    changed = model.sample(2, **weaker)
    assert not torch.equal(changed, plain)
    config = unnoise.override(model.config, {f"sample.{k}": v for k, v in weaker.items()})
    path = tmp_path / "m.safetensors"
    Model(model.network, config, {**model.record, "config": to_dict(config)}).save(path)
    again = unnoise.load(path, "cpu")
    assert torch.equal(again.sample(2), changed)
    assert torch.equal(again.sample(2, sampler="ddim"), plain)  # which has no such option


def test_the_weight_of_the_curvature_is_an_option(model):
    exact, published = (
        model.sample(4, sampler="dpmpp_3m", steps=5, sampler_options=options)
        for options in ({}, {"curvature": 0.5})
    )
    assert not torch.equal(exact, published)


@pytest.mark.parametrize(("settings", "message"), [
    ({"sampler": "dpmpp_3m", "sampler_options": {"curvatur": 1.0}},
     "sample.sampler_options: 'dpmpp_3m' has no 'curvatur'; did you mean 'curvature'"),
    ({"sampler": "ddim", "sampler_options": {"eta": 1.0}}, "'eta', but 'ddim' has no options"),
    ({"sampler": "dpmpp_3m", "sampler_options": {"curvature": "high"}}, "expected a number"),
])  # fmt: skip
def test_options_that_a_sampler_does_not_have_are_one_line(model, settings, message):
    with pytest.raises(ConfigError, match=message):
        model.sample(1, **settings)


# --- options of a schedule


def test_a_schedule_with_an_option_of_its_own(monkeypatch):
    def power(steps: int, exponent: float = 2.0) -> Discrete:
        return Discrete(1 - 0.999 * (torch.arange(steps + 1) / steps).numpy() ** exponent)

    monkeypatch.setitem(SCHEDULES, "power", power)
    config = DiffusionConfig("power", 10, schedule_options={"exponent": 1.0})
    assert build.schedule(config).alpha_bar[5] == pytest.approx(1 - 0.999 / 2)
    assert from_dict(DiffusionConfig, to_dict(config)) == config


@pytest.mark.parametrize(("schedule", "options", "message"), [
    ("cosine", {"shif": 2.0}, "schedule_options: 'cosine' has no 'shif'; did you mean 'shift'"),
    ("cosine", {"shift": -2.0}, "schedule_options: got shift -2, expected a number above 0"),
    ("edm", {"sigma_max": 0.001}, "got sigma_min 0.002 and sigma_max 0.001, expected rising"),
])  # fmt: skip
def test_options_that_a_schedule_does_not_have_are_one_line(schedule, options, message):
    with pytest.raises(ConfigError, match=message):
        build.schedule(DiffusionConfig(schedule, schedule_options=options))


# --- constants that are settings


def test_the_constants_of_edm_reach_the_model():
    config = DiffusionConfig("edm", parameterization="edm", times="uniform", sigma_data=0.3)
    model = build.diffusion_model(config, torch.nn.Identity())
    assert model.coefficients(Level(0.4, 1.0, 0.4)).input_scale == pytest.approx(2.0)


def test_the_standard_deviation_of_the_data_is_measured_and_kept(tmp_path):
    config = unnoise.preset("digits", {"diffusion.sigma_data": None, "device": "cpu"})
    data = unnoise.load_data(config)
    run, state = prepare(config, data, tmp_path)
    record = run.record(state.counters)
    pixels = unnoise.to_model(torch.from_numpy(data.images[: data.num_train].copy())).double()
    kept = record["config"]["diffusion"]["sigma_data"]
    assert kept == pytest.approx(float(pixels.std(correction=0)))
    assert unnoise.load("digits", "cpu").diffusion.sigma_data == 0.5  # as in every old file


def test_the_network_of_the_iddpm_preset_is_told_times_up_to_1000():
    config = unnoise.preset("iddpm").diffusion
    model = build.diffusion_model(config, torch.nn.Identity())
    schedule = model.schedule
    told = model.time_scale * schedule.network_time(schedule.level(schedule.t_max))
    assert told == pytest.approx(999.75)
    assert unnoise.preset("cifar10").diffusion.time_scale == 1


# --- what comes with the package


@pytest.mark.parametrize("name", records.bundled())
def test_a_bundled_model_is_small_tuned_and_names_no_folder_of_its_maker(name):
    file = records.bundled()[name]
    model = unnoise.load(name, "cpu")
    assert file.stat().st_size < 6e6 and file.with_suffix(".jsonl").is_file()
    assert {"fast", "balanced", "best"} <= set(model.tuned)
    assert f"## {name}" in (file.parent / "README.md").read_text()
    assert model.config.data.path is None and '"/' not in json.dumps(model.record)
    images = model.sample(2, sampler="fast")
    shape = model.shape
    assert images.shape == (2, shape.channels, shape.height, shape.width)
    assert images.float().std() > 20  # pictures, not one grey
