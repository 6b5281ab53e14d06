"""A torch module of one's own as a model: it samples, edits, tunes, evaluates, and is not saved."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import unnoise
from unnoise import editing, tuning
from unnoise.errors import ConfigError, DataError
from unnoise.networks.config import Shape
from unnoise.networks.network import Network


class Own(nn.Module):
    """The bundled digits' network behind an interface of its own."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.inner = network

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None) -> Tensor:
        return self.inner(x, time, label)


@pytest.fixture(scope="module")
def digits() -> unnoise.Model:
    return unnoise.load("digits", "cpu")


@pytest.fixture(scope="module")
def wrapped(digits) -> unnoise.Model:
    return unnoise.wrap(
        Own(digits.network), schedule="cosine", parameterization="v", shape=Shape(1, 8, 8, 10),
        device="cpu",
    )  # fmt: skip


def test_it_samples_as_the_model_does_with_guidance_too(digits, wrapped):
    asked = {"label": 3, "steps": 5, "guidance_scale": 2.0, "sampler": "ddim", "clip_x0": True}
    ours = digits.sample(4, **asked, spacing="trailing").int()
    theirs = wrapped.sample(4, **asked).int()
    assert (ours - theirs).abs().float().mean() < 3  # the bundled model may compute in bf16
    assert wrapped.images_at_once() >= 1 and wrapped.network.widest_bytes(8, 8, True) >= 4 * 64 * 32


@pytest.mark.long
def test_it_evaluates_and_tunes_and_says_where_it_stands(wrapped, tmp_path):
    data = unnoise.load_data(unnoise.preset("digits"))
    record = unnoise.evaluate(
        wrapped, tmp_path / "e", 40, {"steps": 3}, data, features="tiny", likelihood_num=4,
        likelihood_terms=2,
    )  # fmt: skip
    assert record["likelihood"]["bound"]["num_images"] == 4
    tuned, _ = tuning.tune(wrapped, [4], images=4, evaluations=200)
    fast = wrapped.with_tuned(tuned).sample(2, sampler="fast")
    assert fast.shape == (2, 1, 8, 8) and wrapped.to("cpu") is wrapped


def test_it_edits(wrapped):
    picture = wrapped.sample(1, label=3, steps=5)[0]
    made = editing.variations(wrapped, picture, 0.3, [0, 1], 3, steps=4)
    assert made.shape[-3:] == (1, 8, 8)


def test_saving_is_refused_in_a_line(wrapped, tmp_path):
    with pytest.raises(ConfigError, match=r"cannot hold the code of Own; save .* wrap it again"):
        wrapped.save(tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


class Fails(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Narrow(nn.Module):
    def forward(self, x: Tensor, time: Tensor, label: Tensor | None) -> Tensor:
        return x[:, :1]


@pytest.mark.parametrize(
    ("module", "asked", "message"),
    [
        (Fails(), {}, r"wrap: Fails\(x \(1, 3, 8, 8\), time \(1,\)\) fails \(TypeError"),
        (Narrow(), {}, r"gives a tensor \(1, 1, 8, 8\), expected a tensor \(1, 3, 8, 8\)"),
        (torch.sin, {}, r"wrap: got .*, expected a torch.nn.Module"),
        (Narrow(), {"shape": (3, 8)}, r"shape: got \(3, 8\), expected \(channels"),
        (Narrow(), {"shape": (3, 8, "x")}, r"shape.width: got 'x'"),
        (Narrow(), {"schedule": "linaer"}, "schedule: no 'linaer'; did you mean 'linear'"),
        (Narrow(), {"parameterization": "e"}, "parameterization: no 'e'"),
        (Narrow(), {"changes": {"diffusion.variance": "learned"}}, r"tensor \(1, 6, 8, 8\)"),
        (Narrow(), {"changes": {"sample.step": 3}}, "sample.step: unknown key"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(module, asked, message):
    given = {"schedule": "linear", "parameterization": "eps", "shape": (3, 8, 8), **asked}
    with pytest.raises(ConfigError, match=message) as caught:
        unnoise.wrap(module, **given)
    assert "\n" not in str(caught.value)


def test_a_module_without_weights_on_a_continuous_schedule(tmp_path):
    class Data(Narrow):
        def forward(self, x: Tensor, time: Tensor, label: Tensor | None) -> Tensor:
            assert label is None and time.dtype == torch.float32
            return torch.full_like(x, 0.5)

    model = unnoise.wrap(Data(), schedule="flow", parameterization="x0", shape=(2, 4, 6))
    assert model.sample(2, steps=4).unique().tolist() == [191]
    assert isinstance(model.network, Network)
    with pytest.raises(DataError, match="data"):  # of which nothing is known
        unnoise.evaluate(model, tmp_path)
