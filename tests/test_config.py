"""The configuration: to JSON and back, changed by dotted keys, and refused in one line."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import unnoise
from unnoise.cli.train import Train, configured
from unnoise.config import RunConfig, check, differences, flat, flattened, override, to_dict
from unnoise.errors import ConfigError
from unnoise.networks.config import DiTConfig, Shape, UNetConfig
from unnoise.presets import PRESETS, changed, named, origin
from unnoise.reading import from_dict, helps
from unnoise.units import seconds


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_json_and_can_run(name):
    config = PRESETS[name]()
    assert config.preset == name
    assert from_dict(RunConfig, json.loads(json.dumps(to_dict(config)))) == config
    check(config)


def test_override_changes_exactly_what_is_named():
    before = named("cifar10")
    after = override(
        before,
        {"train.lr": 1, "network.channel_multipliers": [1, 2], "data.image_size": 64, "seed": 7},
    )
    assert (
        after.train.lr == 1.0
        and isinstance(after.train.lr, float)
        and after.network.channel_multipliers == (1, 2)
    )
    assert differences(before, after) == [
        "data.image_size: None -> 64",
        "network.channel_multipliers: (1, 2, 2, 2) -> (1, 2)",
        "train.lr: 0.0002 -> 1.0",
        "seed: 0 -> 7",
    ]
    assert differences(after, after) == [] and flat(after)["train.lr"] == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train.batchsize": 3}, r"train\.batchsize: unknown key; did you mean 'batch_size'\?"),
        ({"trian.lr": 3}, r"trian\.lr: unknown key; did you mean 'train'\?"),
        ({"seed.lr": 3}, r"seed\.lr: unknown key"),
        ({"zzz": 3}, r"zzz: unknown key; expected one of preset, data"),
        ({"train.lr": "fast"}, r"train\.lr: got 'fast', expected a number"),
        ({"train.batch_size": 1.5}, r"train\.batch_size: got 1\.5, expected a whole number"),
        ({"train.batch_size": True}, r"train\.batch_size: got True, expected a whole number"),
        ({"train.lr": None}, r"train\.lr: got None, expected a number"),
        ({"train.betas": [0.9]}, r"train\.betas: got 1 values, expected 2"),
        ({"train.precision": "bf61"}, r"train\.precision: got 'bf61'; did you mean 'bf16'\?"),
        ({"network": 3}, r"network: got 3"),
        ({"sample.noises": [1.0] * 100_001}, "got 100,001 values, expected at most 100,000"),
        ({"network.kind": "dti"}, r"network\.kind: no 'dti'; did you mean 'dit'\?"),
        ({"network.depth": 4}, r"network\.depth: unknown key"),
        ({"network.kind": "dit", "network.dropout": 0.1}, r"network\.dropout: unknown key"),
    ],
)
def test_what_override_refuses(change, message):
    with pytest.raises(ConfigError, match=message):
        override(RunConfig(), change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train.batch_size": 0}, r"train\.batch_size: got 0, expected 1 to 10,000,000"),
        ({"train.lr": 0}, r"train\.lr: got 0, expected more than 0"),
        ({"train.lr": float("nan")}, r"train\.lr: got nan"),
        ({"train.micro_batch": 0}, r"train\.micro_batch: got 0, expected 1 to 10,000,000"),
        ({"train.time": "0s"}, r"train\.time: got 0s"),
        ({"train.kimg": None}, r"no end is set; give one of --epochs, --kimg or --time"),
        ({"train.label_dropout": 1.5}, r"train\.label_dropout: got 1\.5, expected 0 to 1"),
        ({"train.lr_decay": 0.0}, r"train\.lr_decay: got 0, expected more than 0, at most 1"),
        ({"train.clip": -1.0}, r"train\.clip: got -1, expected 0 or more"),
        ({"train.ema_also_kimg": [5]}, r"train\.ema_also_kimg: 5, 5 are not all different"),
        ({"network.norm_eps": -1.0}, r"network\.norm_eps"),
        ({"train.betas": (1.0, 2.0)}, r"train\.betas: got 1, expected 0 or more, less than 1"),
        ({"seed": -1}, r"seed: got -1, expected 0 or more"),
        ({"sample.noises": [1, -1]}, r"sample\.noises: got -1, expected more than 0"),
        (
            {"sample.guidance_scale": float("inf")},
            r"guidance_scale: got inf, expected -1,000 to 1,000",
        ),
    ],
)
def test_numbers_out_of_range(change, message):
    with pytest.raises(ConfigError, match=message):
        check(override(named("digits"), change))


@pytest.mark.parametrize(("name", "changes", "ends"), [
    (".", {}, (None, None, "1h")),
    (".", {"train.kimg": 5}, (None, 5.0, None)),
    (".", {"train": MappingProxyType({"epochs": 2})}, (2.0, None, None)),
    (".", {"train.kimg": 5, "train.time": "2h"}, (None, 5.0, "2h")),
    (".", {"train.kimg": None}, (None, None, "1h")),
    ("mnist", {"train.epochs": 3}, (3.0, None, None)),
    ("digits", {"train.time": "10m"}, (None, None, "10m")),
    ("digits", {"train.epochs": 3, "train.kimg": 30}, (3.0, 30.0, None)),
    ("ddpm", {"train.kimg": 5}, (None, 5.0, None)),
    ("ddpm", {"train.lr": 1e-3}, (500.0, None, None)),
])  # fmt: skip
def test_an_end_that_is_given_takes_the_place_of_the_presets(name, changes, ends):
    train = unnoise.preset(name, changes).train
    assert (train.epochs, train.kimg, train.time) == ends
    given = [pair for pair in flattened(RunConfig(), changes) if pair[1] is not None]
    flags = [part for key, value in given for part in (f"--{key}", str(value))]
    assert configured(Train, [name, *flags], "train")[1].train == train


def test_an_end_of_ones_own_stays_beside_another():
    own = unnoise.preset("digits", {"train.time": "10h"})
    train = changed(own, {"train.kimg": 5}).train
    assert (train.epochs, train.kimg, train.time) == (None, 5.0, "10h")
    with pytest.raises(ConfigError, match=r"changes: got \['train.kimg'\], expected names"):
        unnoise.preset("digits", ["train.kimg"])


@pytest.mark.parametrize(
    ("text", "value"),
    [("90", 90), ("90s", 90), ("20m", 1200), ("1h30m", 5400), ("1h2m3s", 3723), ("0.5h", 1800)],
)
def test_times(text, value):
    assert seconds(text) == value


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
def test_times_add_up(h, m, s):
    assert seconds(f"{h}h{m}m{s}s") == 3600 * h + 60 * m + s


@pytest.mark.parametrize("text", ["", " ", "h", "20 minutes", "m20", "-5m", "1m1h"])
def test_what_is_no_time(text):
    with pytest.raises(ConfigError, match=r"expected a time such as 90s, 20m or 1h30m"):
        seconds(text)


def test_a_folder_is_the_pictures_preset_and_a_misspelt_preset_is_suggested(tmp_path):
    assert named(str(tmp_path)).data.source == str(tmp_path)
    with pytest.raises(
        ConfigError, match="no preset, folder or file 'cifra10'; did you mean 'cifar10'"
    ):
        named("cifra10")
    with pytest.raises(ConfigError, match="'photos/no'; expected a path that is there, hf:owner"):
        named("photos/no")


@pytest.mark.parametrize("name", ["digits", "cifar10", "flow"])
def test_a_folder_may_have_a_presets_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    for word in (f"{name}/", f"./{name}", f"./{name}/"):
        assert named(word).data.source == f"./{name}" and named(word).preset == "pictures"
    assert named(name).preset == name


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize(
    "size", [(8, 8), (30, 30), (48, 48), (64, 64), (96, 96), (97, 111), (96, 98)]
)
def test_own_pictures_of_any_size_have_a_network_that_fits_them(tmp_path, size, gpu):
    height, width = size
    changes = {"data": {"image_size": height}, "data.image_width": width, "train.lr": 1.0}
    config = override(named(str(tmp_path), None, changes, gpu), changes)
    config.network.check(Shape(3, height, width))
    assert (config.data.source, config.data.image_width) == (str(tmp_path), width)
    changed = [line.split(":")[0] for line in differences(origin(config), config)]
    assert {*changed} <= {"data.source", "data.image_size", "data.image_width", "train.lr"}
    assert config.network.patch_size == (2 if size == (96, 98) else 1)  # 97 and 111 are odd
    base = (128 if height <= 48 else 64) if gpu else 32
    assert config.network.widths == [base, 2 * base, 2 * base, 2 * base]
    assert config.train.batch_size == (256 if gpu else 16)


def test_a_given_setting_wins_over_that_of_the_size(tmp_path):
    (tmp_path / "photos").mkdir()
    words = [str(tmp_path / "photos"), "--image-size", "64", "--network.base-channels", "48",
             "--network.norm-groups=3", "--device=cpu"]  # fmt: skip
    _, config = configured(Train, words, "train")
    assert config.network.widths == [48, 96, 96, 96]
    changes = {"data.image_size": 64, "network.base_channels": 48, "network.norm_groups": 3}
    assert config == unnoise.preset(words[0], {**changes, "device": "cpu"})
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    record = {"config": to_dict(config), "data": ""}
    (tmp_path / "run" / "config.json").write_text(json.dumps(record))
    _, again = configured(Train, [str(tmp_path / "run")], "train")
    assert again == config


def test_the_size_of_an_array_file_is_that_of_its_images(tmp_path):
    shapes = {"a.npy": (3, 128, 90), "b.npz": (3, 128, 90, 3), "c.npz": (3, 2, 128, 90)}
    for name, shape in shapes.items():
        save = np.save if name.endswith(".npy") else np.savez
        save(tmp_path / name, np.zeros(shape, np.uint8))
        config = unnoise.preset(str(tmp_path / name), {"device": "cpu"})
        assert (config.data.image_size, config.data.image_width) == (128, 90)
        assert config.network.patch_size == 2
        assert (
            unnoise.preset("pictures", {"data.source": str(tmp_path / name), "device": "cpu"})
            == config
        )
        given = unnoise.preset(str(tmp_path / name), {"data": {"image_size": 32}})
        assert given.data.image_size == 32 and given.network.patch_size == 1


def test_the_network_of_arrays_from_python_suits_their_size(tmp_path):
    data = unnoise.dataset(np.zeros((20, 90, 110), np.uint8))
    changes = {"train.kimg": 0.016, "train.batch_size": 8, "device": "cpu", "sample.steps": 1}
    model = unnoise.train("pictures", tmp_path / "run", changes, data=data)
    assert model.config.network.patch_size == 2
    assert model.sample(1).shape == (1, 1, 90, 110)


def test_the_objective_that_a_preset_has_changes_nothing():
    assert named("cifar10-small", "flow") == named("cifar10-small")
    assert named("cifar10-small", "v") != named("cifar10-small")


def test_a_network_is_told_apart_by_its_kind():
    config = override(named("digits"), {"network.depth": 2, "network.kind": "dit"})
    assert config.network == DiTConfig(depth=2)  # the other kind's defaults, then the key
    assert override(config, {"network.kind": "dit", "network.heads": 4}).network.depth == 2
    values = json.loads(json.dumps(to_dict(config)))
    assert values["network"]["kind"] == "dit" and from_dict(RunConfig, values) == config
    assert "network.kind: unet -> dit" in differences(named("digits"), config)
    assert override(config, {"network.kind": "unet"}).network == UNetConfig()


def test_a_retired_setting_is_ignored_in_a_record_and_refused_from_a_user():
    record = to_dict(RunConfig())
    record["sample"]["deep_cache"], record["train"]["fused_norm"] = 3, "on"
    del record["network"]["kind"]  # as before there were other kinds
    assert from_dict(RunConfig, record) == RunConfig()
    with pytest.raises(ConfigError, match=r"sample\.deep_cache: this setting no longer exists"):
        override(RunConfig(), {"sample.deep_cache": 3})
    with pytest.raises(ConfigError, match=r"sample\.deep_cache: this setting no longer exists"):
        override(RunConfig().sample, {"deep_cache": 3}, "sample.")
    with pytest.raises(ConfigError, match=r"train\.fused_norm: this setting no longer exists"):
        override(RunConfig(), {"train": {"fused_norm": "off"}})


def test_every_setting_has_a_help_text_and_a_default_within_its_range():
    for part in (RunConfig(), *(v for v in vars(RunConfig()).values() if is_dataclass(v))):
        assert from_dict(type(part), to_dict(part)) == part
        texts = helps(type(part))
        for field in fields(part):
            assert field.name in texts or is_dataclass(getattr(part, field.name)), field.name
