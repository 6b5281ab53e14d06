"""The arithmetic of benchmarks/speed: FLOPs, rooflines, ratios and tables; no timing is asserted."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Self

import pytest
import torch
from benchmarks.speed import flags, flops, meter, pairs, roofline, training
from benchmarks.speed.interleave import Plan, Timings, measure, quantile, ratio, spread
from benchmarks.speed.meter import Sample, busy_sec, take
from benchmarks.speed.roofline import Ceiling
from benchmarks.speed.subjects import OURS, SUBJECTS, ours
from benchmarks.speed.subjects.subject import Missing, Setting, function_of, snapshot, stand_in
from torch import nn

from unnoise import build
from unnoise.presets import named

BUSY = Plan(rounds=1, tries=6, pause_sec=0.0)


def flop(work: Callable[[], object]) -> int:
    return roofline.total_flop(flops.count(work))


def test_flops_of_layers():
    x = torch.zeros(2, 6, 8, 8)
    assert flop(lambda: nn.Conv2d(6, 10, 3, padding=1)(x)) == 2 * 2 * 10 * 64 * 6 * 9
    assert (
        flop(lambda: nn.Conv2d(6, 10, 3, stride=2, padding=1, groups=2)(x))
        == 2 * 2 * 10 * 16 * 3 * 9
    )
    assert flop(lambda: nn.Linear(8, 5)(torch.zeros(7, 8))) == 2 * 7 * 5 * 8
    assert flop(lambda: nn.Linear(8, 5, bias=False)(torch.zeros(7, 8))) == 2 * 7 * 5 * 8
    q, k = torch.zeros(2, 4, 16, 8), torch.zeros(2, 4, 12, 8)
    fused = flop(lambda: nn.functional.scaled_dot_product_attention(q, k, k))
    assert (
        fused
        == flop(lambda: torch.softmax(q @ k.transpose(-1, -2), -1) @ k)
        == 2 * 2 * (2 * 4 * 16 * 12 * 8)
    )
    assert flop(lambda: torch.add(x, x)) == 0


def test_a_folded_upsampling_counts_as_the_convolution_it_stands_for():
    x = torch.zeros(1, 4, 8, 8)
    plain = flop(
        lambda: nn.Conv2d(4, 4, 3, padding=1)(nn.functional.interpolate(x, scale_factor=2.0))
    )
    assert (
        flop(lambda: nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1)(x))
        == plain
        == 2 * 4 * 256 * 4 * 9
    )
    assert flop(lambda: nn.ConvTranspose2d(4, 5, 2, stride=2)(x)) == 2 * x.numel() * 5 * 4


def test_bytes_count_what_moves_and_no_views():
    x = torch.zeros(4, 4)
    assert [o.bytes for o in flops.count(lambda: torch.add(x, x))] == [3 * 64]
    assert [o.bytes for o in flops.count(lambda: x.view(16).t())] == []
    assert [o.bytes for o in flops.count(lambda: x.clone())] == [2 * 64]
    assert [o.name for o in flops.count(lambda: x.add_(1))] == ["add_"]


def test_the_network_of_the_cifar10_preset():
    with torch.device("meta"):
        network = build.network(named("cifar10"), build.Shape(3, 32, 32)).eval()
        images, time = torch.zeros(2, 3, 32, 32), torch.zeros(2)
    assert sum(p.numel() for p in network.parameters()) == 35_746_307
    assert flop(lambda: network(images, time)) / 2 == 12_443_713_536


def test_roofline_and_utilisation():
    ceiling = Ceiling(convolution_flop_per_sec=100.0, matmul_flop_per_sec=50.0, bytes_per_sec=10.0)
    operations = [
        flops.Operation("convolution", 1000, 40),  # 10 s of arithmetic, 4 s of memory
        flops.Operation("mm", 100, 40),  # 2 s, 4 s
        flops.Operation("silu", 0, 20),  # 2 s of memory
    ]
    assert roofline.seconds(operations, ceiling, "fp32") == 10 + 4 + 2
    assert roofline.seconds(operations, ceiling, "bf16") == 10 + 2 + 1
    assert roofline.utilisation(1100, 22, ceiling) == 0.5


def test_quartiles_and_ratios():
    assert [quantile([4, 1, 3, 2, 5], q) for q in (0.0, 0.25, 0.5, 0.75, 1.0)] == [1, 2, 3, 4, 5]
    assert quantile([1, 2], 0.25) == 1.25
    assert spread([7.0]).low == spread([7.0]).high == 7
    timings = Timings({"a": [1, 2, 4], "b": [2, 2, 2]})
    found = ratio(timings, "b", "a")
    assert (found.median, found.low, found.high, found.count) == (1, 0.75, 1.5, 3)


def test_candidates_take_turns():
    order: list[str] = []
    takers = {name: lambda name=name: order.append(name) or Sample(1.0) for name in "ab"}
    assert measure(takers, Plan(rounds=3)).sec == {"a": [1.0] * 3, "b": [1.0] * 3}
    assert order == list("ababab")


def test_a_disturbed_sample_is_taken_again():
    foreign = iter([0.5, 0.3, 0.02])
    timings = measure({"a": lambda: Sample(1.0, next(foreign))}, BUSY)
    assert (timings.redone, timings.disturbed) == (2, 0)
    shares = iter([0.5, 0.3, 0.4, 0.6, 0.7, 0.9])
    timings = measure({"a": lambda: Sample(share := next(shares), share)}, BUSY)
    assert (timings.redone, timings.disturbed, timings.sec["a"]) == (5, 1, [0.3])


def test_meter(monkeypatch, tmp_path):
    assert (
        busy_sec("cpu  100 20 30 999 999 1 2 3 7 7\ncpu0 ..") * meter.os.sysconf("SC_CLK_TCK")
        == 156
    )
    monkeypatch.setattr(meter, "STAT", tmp_path / "absent")
    assert take(lambda: None).foreign == 0


def test_absent_peers_are_skipped_with_a_line(tmp_path):
    for name in ("improved-diffusion", "pytorch-ddpm", "ddpm-torch", "edm"):
        with pytest.raises(
            Missing, match=f"{name} is skipped: .*git clone https://github.com/.* {name} && git -C"
        ):
            SUBJECTS[name](Setting(name, peers=str(tmp_path)))


def test_no_peers_folder(monkeypatch):
    monkeypatch.delenv("UNNOISE_PEERS", raising=False)
    with pytest.raises(Missing, match="--peers FOLDER is not there"):
        snapshot(Setting("edm"), "edm", "URL", "COMMIT")


def test_a_pair_that_is_absent_costs_only_itself(monkeypatch):
    class Fake:
        def __init__(self, setting: Setting) -> None:
            self.name = setting.subject

        def __enter__(self) -> Self:
            if self.name == "edm":
                raise Missing("edm is skipped: get it")
            return self

        def __exit__(self, *_: object) -> None: ...

        def ask(self, **_: object) -> dict[str, object]:
            return {}

        def take(self) -> Sample:
            return Sample(1.0 if self.name == OURS else 2.0)

    monkeypatch.setattr(pairs, "Worker", Fake)
    said: list[str] = []
    found = list(pairs.each(Setting(OURS), ["edm", "diffusers"], Plan(rounds=2), said.append))
    assert said == ["edm is skipped: get it"]
    assert [(pair.peer, pair.timings.sec) for pair in found] == [
        ("diffusers", {OURS: [1.0, 1.0], "diffusers": [2.0, 2.0]}),
        (OURS, {OURS: [1.0, 1.0]}),
    ]


def test_a_function_of_a_script(tmp_path):
    script = tmp_path / "main.py"
    script.write_text("import nowhere\n\ndef twice(x):\n    return scale * x\n")
    assert function_of(script, "twice", scale=2)(3) == 6
    with pytest.raises(Missing, match="no function 'thrice'"):
        function_of(script, "thrice")


def test_stand_in_only_for_what_is_absent():
    stand_in("json", "nowhere_at_all")
    assert sys.modules["json"] is json
    assert "nowhere_at_all" in repr(sys.modules.pop("nowhere_at_all"))


def test_per_flop():
    rows = [{"gflop_per_image": 5.0, "sec_to_ours": {"median": 1.0}}, {"gflop_per_image": 10.0}]
    training.per_flop(rows)
    assert rows[0]["sec_per_flop_to_ours"] == 2.0


def test_our_step_trains():
    parts = ours.build(Setting(OURS, batch=2, base_channels=32), "fp32")
    before = [p.clone() for p in parts.network.parameters()]
    step = parts.shipped_step()
    step()
    assert all(
        (a != b).any()
        for a, b in zip(before, parts.network.parameters(), strict=True)
        if b.dim() == 4
    )  # none starts at 0 and stays there


def test_command_line():
    what, found = flags.parse(
        ["training", "--batch", "8", "32", "--subjects", "edm"], ["training"], None
    )
    assert (what, found.batch, found.subjects, found.repeats) == ("training", (8, 32), ("edm",), 5)
    assert training.peers(found, "best") == ["edm"]
    assert "unnoise fp32" not in training.peers(flags.Flags(), "best")
