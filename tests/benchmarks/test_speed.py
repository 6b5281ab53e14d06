"""The arithmetic of the benchmarks: FLOP, rooflines, ratios and tables; no timing is asserted."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Self

import pytest
import torch
from benchmarks.speed import child, compare, flops, tables, worker
from benchmarks.speed.flops import Ceiling, Operation
from benchmarks.speed.subject import OURS, Missing, Setting, function_of, snapshot, stand_in
from benchmarks.timing import Plan, Sample, Timings, busy_sec, measure, ratio, spread, take
from torch import nn

from benchmarks import product, timing

BUSY = Plan(rounds=1, tries=6, pause_sec=0.0)


def flop(work: Callable[[], object]) -> int:
    return flops.total(flops.count(work))


def test_flops_of_layers():
    x, rows = torch.zeros(2, 6, 8, 8), torch.zeros(7, 8)
    assert flop(lambda: nn.Conv2d(6, 10, 3, padding=1)(x)) == 2 * 2 * 10 * 64 * 6 * 9
    grouped = nn.Conv2d(6, 10, 3, stride=2, padding=1, groups=2)
    assert flop(lambda: grouped(x)) == 2 * 2 * 10 * 16 * 3 * 9
    for bias in (True, False):
        assert flop(lambda bias=bias: nn.Linear(8, 5, bias)(rows)) == 2 * 7 * 5 * 8
    q, k = torch.zeros(2, 4, 16, 8), torch.zeros(2, 4, 12, 8)
    fused = flop(lambda: nn.functional.scaled_dot_product_attention(q, k, k))
    plain = flop(lambda: torch.softmax(q @ k.transpose(-1, -2), -1) @ k)
    assert fused == plain == 2 * 2 * (2 * 4 * 16 * 12 * 8)
    assert flop(lambda: torch.add(x, x)) == 0


def test_a_folded_upsampling_counts_as_the_convolution_it_stands_for():
    x, layer = torch.zeros(1, 4, 8, 8), nn.Conv2d(4, 4, 3, padding=1)
    plain = flop(lambda: layer(nn.functional.interpolate(x, scale_factor=2.0)))
    folded = flop(lambda: nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1)(x))
    assert folded == plain == 2 * 4 * 256 * 4 * 9
    assert flop(lambda: nn.ConvTranspose2d(4, 5, 2, stride=2)(x)) == 2 * x.numel() * 5 * 4


def test_bytes_count_what_moves_and_no_views():
    x = torch.zeros(4, 4)
    assert [o.bytes for o in flops.count(lambda: torch.add(x, x))] == [3 * 64]
    assert [o.bytes for o in flops.count(lambda: x.view(16).t())] == []
    assert [o.bytes for o in flops.count(lambda: x.clone())] == [2 * 64]
    assert [o.name for o in flops.count(lambda: x.add_(1))] == ["add_"]


def test_the_network_of_the_cifar10_preset():
    with torch.device("meta"):
        network = product.network("cifar10", 3, 32).eval()
        images, time = torch.zeros(2, 3, 32, 32), torch.zeros(2)
    assert sum(p.numel() for p in network.parameters()) == 35_746_307
    assert flop(lambda: network(images, time)) / 2 == 12_443_713_536


def test_roofline():
    ceiling = Ceiling(convolution_flop_per_sec=100.0, matmul_flop_per_sec=50.0, bytes_per_sec=10.0)
    operations = [
        Operation("convolution", 1000, 40),  # 10 s of arithmetic, 4 s of memory
        Operation("mm", 100, 40),  # 2 s, 4 s
        Operation("silu", 0, 20),  # 2 s of memory
    ]
    assert flops.least_sec(operations, ceiling, "fp32") == 10 + 4 + 2
    assert flops.least_sec(operations, ceiling, "bf16") == 10 + 2 + 1


def test_quartiles_and_ratios():
    assert spread([4, 1, 3, 2, 5]) == {"median": 3, "low": 2, "high": 4, "count": 5}
    timings = Timings({"a": [1, 2, 4], "b": [2, 2, 2]})
    assert ratio(timings, "b", "a") == {"median": 1, "low": 0.75, "high": 1.5, "count": 3}
    assert timings.medians() == {"a": 2, "b": 2}


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


def test_what_others_use(monkeypatch, tmp_path):
    ticks = busy_sec("cpu  100 20 30 999 999 1 2 3 7 7\ncpu0 ..")
    assert ticks * timing.os.sysconf("SC_CLK_TCK") == 156
    monkeypatch.setattr(timing, "STAT", tmp_path / "absent")
    assert take(lambda: None).foreign == 0


def test_absent_peers_are_skipped_with_a_line(tmp_path):
    for name in ("improved-diffusion", "pytorch-ddpm", "ddpm-torch", "edm"):
        line = f"{name} is skipped: .*git clone https://github.com/.* {name} && git -C"
        with pytest.raises(Missing, match=line):
            child.SUBJECTS[name](Setting(name, peers=str(tmp_path)))


def test_no_peers_folder(monkeypatch):
    monkeypatch.delenv("UNNOISE_PEERS", raising=False)
    with pytest.raises(Missing, match="--peers FOLDER is not there"):
        snapshot(Setting("edm"), "URL", "COMMIT")


def test_a_pair_that_is_absent_costs_only_itself(monkeypatch):
    class Fake:
        def __init__(self, setting: Setting) -> None:
            self.name = setting.subject

        def __enter__(self) -> Self:
            if self.name == "edm":
                raise Missing("edm is skipped: get it")
            return self

        def __exit__(self, *_: object) -> None: ...

        def take(self) -> Sample:
            return Sample(1.0 if self.name == OURS else 2.0)

    monkeypatch.setattr(worker, "Worker", Fake)
    said: list[str] = []
    found = worker.pairs(Setting(OURS), ["edm", "diffusers"], Plan(rounds=2), said.append)
    assert [(pair.peer, pair.timings.sec) for pair in found] == [
        ("diffusers", {OURS: [1.0, 1.0], "diffusers": [2.0, 2.0]}),
        (OURS, {OURS: [1.0, 1.0]}),
    ]
    assert said == ["edm is skipped: get it"]


def test_a_subject_answers_from_its_own_process():
    setting = Setting(OURS, work="sampling", batch=2, base_channels=32, nfe=3)
    with worker.Worker(setting) as ours:
        assert ours.take().sec > 0
    assert ours.about["calls"] == 3 and ours.about["parameters"] == 2_245_763
    assert len(ours.operations) > 100


def test_a_subject_that_fails_says_where():
    setting = Setting(OURS, work="sampling", batch=2, base_channels=31)
    with (
        pytest.raises(worker.Failed, match=r"unnoise \(shipped\): ConfigError: .*31"),
        worker.Worker(setting),
    ):
        pass


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
    compare.per_flop(rows)
    assert rows[0]["sec_per_flop_to_ours"] == 2.0


def test_our_step_trains():
    parts = child.built(Setting(OURS, batch=2, base_channels=32))
    before = [p.clone() for p in parts.network.parameters()]
    parts.shipped_step()()
    assert all(
        (a != b).any()
        for a, b in zip(before, parts.network.parameters(), strict=True)
        if b.dim() == 4
    )  # none starts at 0 and stays there


def test_command_line():
    words = ["training", "--batch", "8", "32", "--subjects", "edm", "--base-channels", "32"]
    flags = compare.parse(words, ["training"], None)
    assert (flags.what, flags.batch, flags.plan) == ("training", [8, 32], Plan())
    assert flags.setting == Setting(OURS, base_channels=32)
    assert compare.peers(flags, "best") == ["edm"]
    flags = compare.parse(["training"], ["training"], None)
    assert compare.FP32 in compare.peers(flags, "shipped")
    assert compare.FP32 not in compare.peers(flags, "best")


ROW = {
    "subject": "edm", "way": "best", "batch": 8, "precision": "bf16", "format": "nhwc",
    "compiled": "", "version": "1", "parameters": 39_390_339, "gflop_per_image": 13.995,
    "images_per_sec": 5.32, "utilisation": 0.49, "roofline_share": 0.6, "peak_bytes": 2**30,
    "calls": 20, "sec_per_flop_to_ours": 1.1,
    "sec_to_ours": {"median": 1.2, "low": 1.1, "high": 1.3},
}  # fmt: skip
RESULT = {
    "what": "training", "machine": "a machine", "device": "cpu", "threads": 2, "torch": "2",
    "date": "2026-01-01", "commit": "abc", "command": "python -m benchmarks.speed training",
    "rows": [ROW],
}  # fmt: skip


@pytest.fixture
def results(tmp_path):
    (tmp_path / "speed-training-cpu.json").write_text(json.dumps(RESULT))
    (tmp_path / "speed-data-cpu.json").write_text('{"what": "data"}')  # of an earlier commit
    (tmp_path / "other.json").write_text("{}")
    return tmp_path


def test_tables_are_rendered_between_their_marks_and_again(results):
    page = results / "results.md"
    mark = "speed:training -->"
    page.write_text(f"# Results\n\n<!-- {mark}\nold\n<!-- /{mark}\n\nafter\n")
    assert tables.render(results, page) == ["training"]
    once = page.read_text()
    assert "| edm 1 | bf16 nhwc | 39.4 | 13.995 | 5.32 | 1.20 (1.10 to 1.30) | 1.10 |" in once
    assert once.startswith(f"# Results\n\n<!-- {mark}\na machine, 2 threads, torch 2")
    assert once.endswith(f"<!-- /{mark}\n\nafter\n") and "old" not in once
    tables.render(results, page)
    assert page.read_text() == once


def test_missing_marks_are_one_clear_error(results):
    page = results / "results.md"
    page.write_text("# Results\n")
    line = r"results.md: no mark <!-- speed:training -->; put it and .* where"
    with pytest.raises(ValueError, match=line):
        tables.render(results, page)
    assert page.read_text() == "# Results\n"


def test_every_table_has_a_cell_for_every_column():
    for what in ("training", "sampling"):
        head, rows = tables.rates({"what": what, "rows": [ROW]})
        assert [len(cells) for cells in rows] == [len(head)]


def test_remarks():
    row = {"subject": "edm", "note": "another network", "redone": 2, "disturbed": 1}
    text = tables.remarks({"rows": [row, row]})
    assert text.startswith("edm: another network. 4 samples were taken again because")
    assert "2 kept although they did" in text
    assert tables.remarks({"rows": [{"subject": "x", "note": ""}]}) == ""
