"""The planner: its arithmetic and advice exactly, and the command."""

from __future__ import annotations

import dataclasses
import math
import shlex

import pytest

from tests.training.test_probe import TINY
from unnoise import cli
from unnoise.config import override
from unnoise.presets import named
from unnoise.training import plan, probe
from unnoise.training.plan import Plan
from unnoise.training.probe import Measured, Speed
from unnoise.units import seconds

GIB = 2**30


def speeds(*peaks: float) -> list[Speed]:
    """Micro-batches 1, 2, 4, .. at 8 images/s, with these peaks in GiB."""
    return [Speed(2**i, 8.0, int(peak * GIB)) for i, peak in enumerate(peaks)]


def measured(**changes) -> Measured:
    usual = Measured(
        device="cpu",
        precision="float32",
        probe_sec=1,
        parameters=1000,
        gflop_per_image=1,
        speeds=speeds(1, 2, 3, 5),
        too_large=math.inf,
        available_bytes=100 * GIB,
        preview_sec=0,
        checkpoint_bytes=0,
        free_bytes=100 * GIB,
        num_train=1000,
    )
    return dataclasses.replace(usual, **changes)


def config(**changes):
    """Batch 8, with the speeds above one step a second; no end but what is given."""
    usual = {
        "train.batch_size": 8,
        "train.kimg": None,
        "train.warmup_kimg": 0.0,
        "train.keep_best": False,
    }
    return override(
        named("digits"), {**usual, **{k.replace("__", "."): v for k, v in changes.items()}}
    )


# --- arithmetic


def test_the_speed_is_that_of_the_nearest_size_below():
    known = [Speed(2, 4.0, 0), Speed(8, 9.0, 0)]
    assert [probe.img_per_sec(known, m) for m in (1, 2, 4, 8, 16)] == [4, 4, 4, 9, 9]


@pytest.mark.parametrize(
    ("batch", "expected"), [(1, [1]), (2, [1, 2]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12])]
)
def test_sizes(batch, expected):
    assert probe.sizes(batch) == expected


def test_memory_beyond_what_was_measured_is_on_the_last_line():
    known = speeds(1, 1.5, 3)  # 0.75 GiB per image from 2 to 4
    assert [probe.peak_bytes(known, m) / GIB for m in (1, 2, 4, 8)] == [1, 1.5, 3, 6]
    assert probe.peak_bytes(speeds(2, 1), 8) == GIB  # never falling


@pytest.mark.parametrize(
    ("available", "expected"),
    [(10 * GIB, 8), (8.5 * GIB, 4), (5 * GIB, 4), (2.3 * GIB, 2), (0.5 * GIB, 1)],
)
def test_largest_fit_leaves_a_tenth_of_the_memory(available, expected):
    assert (
        measured(speeds=speeds(1, 2, 4), available_bytes=int(available)).largest_fit(8) == expected
    )


def test_what_ran_out_of_memory_does_not_fit_whatever_the_line_says():
    assert measured(speeds=speeds(1, 1, 1), too_large=8).largest_fit(64) == 4


def test_a_micro_batch_is_advised_where_the_batch_does_not_fit():
    made = Plan(config(), measured(available_bytes=4 * GIB), 3600)
    advice = plan.advise(made)
    assert made.micro_batch == 4 and advice[0].text.startswith(
        "micro-batch: 8 images at once do not fit, 4 do"
    )
    assert plan.follow(made.config, advice).train.micro_batch == 4


def test_images_epochs_and_end_within_a_budget():
    made = Plan(config(), measured(), 100)
    assert (made.img_per_sec, made.train_sec, made.nimg, made.epochs) == (8, 100, 800, 0.8)
    whole = Plan(config(train__kimg=1.6), measured())
    assert (whole.train_sec, whole.wall_sec, whole.nimg) == (200, 200, whole.own_nimg)
    assert Plan(config(train__epochs=0.5, train__kimg=1.6), measured()).nimg == 500
    assert Plan(config(train__time="10s", train__kimg=1.6), measured()).nimg == 80


def test_previews_and_checkpoints_are_within_the_budget():
    costs = measured(preview_sec=10, checkpoint_bytes=int(plan.WRITE_BYTES_PER_SEC))
    every = {
        "train__sample_every_kimg": 0.4,
        "train__checkpoint_every_kimg": 0.8,
    }  # every 50 s and 100 s
    whole = Plan(config(**every, train__kimg=1.6), costs)  # 200 s of training
    # 4 by images, and after 20, 60 and 180 s
    assert (whole.previews, whole.checkpoints, whole.wall_sec) == (7, 2, 272)
    made = Plan(config(**every), costs, 232)
    assert (made.train_sec, made.previews, made.checkpoints) == (pytest.approx(159.3, 0.01), 6, 2)
    for budget_sec in range(60, 400, 7):  # never beyond it, and at most two of each unused
        assert 0 <= budget_sec - Plan(config(**every), costs, budget_sec).wall_sec <= 31


def test_a_long_run_saves_every_five_minutes():
    made = Plan(config(train__kimg=100, train__checkpoint_every_kimg=1e9), measured())
    assert made.train_sec == 12_500 and made.checkpoints == 42


def test_disk_counts_what_is_kept_and_what_is_being_written():
    sizes = measured(checkpoint_bytes=100)
    every = {
        "train__sample_every_kimg": 0.1,
        "train__checkpoint_every_kimg": 0.1,
        "train__kimg": 1.0,
    }
    made = Plan(config(**every, train__keep_checkpoints=2), sizes)
    assert made.run_bytes == 3 * 100
    assert Plan(config(**every, train__keep_best=True), sizes).run_bytes == 4 * 100
    assert Plan(config(**every, train__keep_every_kimg=0.25), sizes).run_bytes == 7 * 100


# --- advice


def texts(made) -> list[str]:
    return [line.text.split(":")[0] for line in plan.advise(made)]


def test_a_run_that_fits_has_no_advice():
    assert plan.advise(Plan(config(train__kimg=10, train__ema_halflife_kimg=1), measured())) == []


@pytest.mark.parametrize(
    ("changes", "costs", "kind", "flag"),
    [
        ({"train__warmup_kimg": 8}, {}, "warm-up", "--train.warmup-kimg 0.5"),
        (
            {"train__sample_every_kimg": 0.8},
            {"preview_sec": 20},
            "previews",
            "--train.sample-every-kimg 2",
        ),
        ({}, {"checkpoint_bytes": 90 * GIB}, "disk", "--train.keep-checkpoints 1"),
        ({"train__batch_size": 8}, {"num_train": 10_000}, "length", "--network.norm-groups 1"),
    ],
)
def test_one_line_of_advice_with_flag_and_value(changes, costs, kind, flag):
    made = Plan(
        config(**{"train__kimg": 10, "train__ema_halflife_kimg": 1, **changes}), measured(**costs)
    )
    advice = {line.text.split(":")[0]: line for line in plan.advise(made)}
    assert kind in advice and flag in str(advice[kind])
    if advice[kind].key and kind != "disk":  # followed, it is not said again
        assert kind not in texts(Plan(plan.follow(made.config, [advice[kind]]), made.measured))


def test_too_small_a_budget_names_a_smaller_network():
    made = Plan(named("cifar10"), measured(num_train=50_000), 7200)
    text = next(line.text for line in plan.advise(made) if line.text.startswith("length"))
    assert "try --network.base-channels 76 --network.norm-groups 19" in text  # 57,600 of 150,000


def test_a_budget_beyond_the_end_says_how_to_use_it():
    assert (
        "--train.kimg None" in plan.advise(Plan(config(train__kimg=10), measured(), 9000))[0].text
    )


def test_a_budget_that_holds_nothing_gets_one_line():
    made = Plan(config(train__warmup_kimg=5), measured(preview_sec=100), 50)
    assert made.nimg == pytest.approx(8) and texts(made) == ["budget"]
    assert "(1.0s) and the last preview (100.0s); 3 epochs" in plan.advise(made)[0].text


def test_smaller_is_a_command_and_never_wider():
    made = named("cifar10")
    flags = "try --network.base-channels 64 --network.norm-groups 16"
    assert plan.smaller(made, 0.25) == flags
    assert "base-channels" not in plan.smaller(made, 9.0)


# --- the command


WORDS = [word for key, value in TINY.items() for word in ("--" + key.replace("_", "-"), str(value))]


def test_the_command_ends_with_the_run_that_fits(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(probe, "STEPS_SEC", 1.0)
    words = ["digits", "--objective", "flow", *WORDS, "--kimg", "900", "--train.warmup-kimg", "450"]
    assert cli.main(["plan", *words, "--budget", "60s"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("digits within 1m 00s, on cpu in ") and lines[1].startswith(
        "measured now"
    )
    assert max(map(len, lines[:-1])) <= 160 and len(lines) < 25  # a busy machine says more
    assert list(tmp_path.iterdir()) == []
    final = shlex.split(lines[-1])
    assert final[: len(words) + 2] == ["unnoise", "train", *words]
    assert seconds(final[final.index("--time") + 1]) < 60
    assert float(final[-1]) < 450 and "--train.warmup-kimg" in final[len(words) + 2 :]
    assert cli.main([*final[1:], "--print-config"]) == 0


def test_without_a_budget_it_says_how_long_it_takes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(probe, "STEPS_SEC", 1.0)
    assert cli.main(["plan", "digits", *WORDS]) == 0
    out = capsys.readouterr().out
    assert out.startswith("digits to its end") and "0.8 of 0.8 kimg" in out and "--time" not in out


def test_a_busy_machine_is_said(monkeypatch):
    from unnoise.cli.plan import _busy

    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("os.getloadavg", lambda: (2.1, 0, 0))
    assert _busy() == ["  note      the machine is busy (load 2.1 on 4 cores); alone it is faster"]
    monkeypatch.setattr("os.getloadavg", lambda: (1.9, 9, 9))
    assert _busy() == []


@pytest.mark.parametrize(
    ("sec", "expected"), [(0.3, "1s"), (59.9, "59s"), (340, "5m40s"), (6899, "1h54m")]
)
def test_the_command_has_the_time_rounded_down_to_what_the_flag_reads(sec, expected):
    final = Plan(config(), measured(), sec)
    final.train_sec = sec
    assert plan.command(["train"], final, []).endswith(f"train --time {expected}")
    assert seconds(expected) <= math.ceil(sec)


@pytest.mark.parametrize(("arguments", "expected"), [
    ("cifar11", "did you mean 'cifar10'?"),
    ("no/such/folder", "no preset, folder or file 'no/such/folder'"),
    ("", "plan: expected a preset, a folder or file of pictures"),
    ("digits --budget soon", "--budget: got 'soon', expected a time such as 90s, 20m or 1h30m"),
    ("digits --budget 0m", "--budget: got '0m', expected a time"),
    ("digits --budget", "--budget: a value is missing, expected text"),
    ("digits --budget 2m --time 3m", "--budget: got --time too"),
    ("digits --budgit 2m", "no flag --budgit; did you mean '--budget'?"),
    ("digits --train.warmup-kimg -1", "train.warmup_kimg: got -1"),
    ("digits --objective edn", "did you mean 'edm'?"),
])  # fmt: skip
def test_bad_input_is_one_line(arguments, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plan", *arguments.split()]) == 2
    err = capsys.readouterr().err
    assert expected in err and err.count("\n") == 1, err


def test_help_has_its_own_name_and_the_short_flags_are_known(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["plan", "digits", "--batch-size", "8", "--help"])
    out = capsys.readouterr().out
    assert end.value.code == 0 and "usage: unnoise plan" in out and "unnoise train" not in out
    assert cli.main(["plan", "digits", "--batch-sise", "8"]) == 2
    assert "did you mean '--batch-size'?" in capsys.readouterr().err
