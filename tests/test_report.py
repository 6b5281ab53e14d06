"""The report of a run: self-contained, its numbers are the run's, and no state of the folder breaks it."""

from __future__ import annotations

import base64
import html
import itertools
import json
import os
import re
import shlex
import struct
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest

from unnoise import cli
from unnoise.cli.flags import parse
from unnoise.config import RunConfig, override, to_dict
from unnoise.presets import PRESETS, named
from unnoise.report import curves, pictures, write
from unnoise.report.curves import Curve

HASH = "0123456789abcdef" * 4


def png(width: int = 4, height: int = 4, noise: bool = False) -> bytes:
    """A grey picture, or one that does not compress."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    rows = (
        b"\0" + (os.urandom(3 * width) if noise else b"\x80" * 3 * width) for _ in range(height)
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b"".join(rows), 1)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def model_file(record: dict) -> bytes:
    tensors = {"a": {"dtype": "F32", "shape": [3, 5], "data_offsets": [0, 60]}}
    tensors["b"] = {"dtype": "F32", "shape": [7], "data_offsets": [60, 88]}
    header = json.dumps({"__metadata__": {"unnoise": json.dumps(record)}, **tensors}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(88)


METRICS = [
    {"step": 10, "nimg": 1000, "epoch": 0.5, "loss": 0.87654321, "grad_norm": 2.5, "lr": 1e-3, "img_per_sec": 101.0,
     "train_sec": 10.0},
    {"step": 10, "nimg": 1000, "held_out_loss": 0.71234567, "held_out_q1": 0.5, "held_out_q2": 0.25, "new_3": 1, "new_4": 2},
    {"step": 20, "nimg": 2000, "epoch": 1.0, "loss": 0.43215678, "grad_norm": 1.5, "lr": 2e-3, "img_per_sec": 99.0,
     "train_sec": 3725.0, "odd": "text", "skipped_steps": 0},
    {"step": 20, "nimg": 2000, "held_out_loss": 0.61234567, "held_out_q1": 0.4, "held_out_q2": 0.2, "new_3": 3, "new_4": 4},
]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A whole run folder with everything in it, made without training."""
    folder = tmp_path / "one run"
    config = to_dict(override(PRESETS["digits"](), {"train.kimg": 4.0, "train.betas": (0.8, 0.9)}))
    (folder / "samples").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"config": config, "data": "f00d" * 16}))
    start = {"started": "2026-01-01T00:00:00+00:00", "step": 0, "torch": "2.13", "device": "cpu"}
    (folder / "environment.json").write_text(
        json.dumps([start, {**start, "step": 10, "device": "H100"}])
    )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in METRICS))
    (folder / "data.png").write_bytes(png())
    for nimg in (1000, 2000):
        (folder / "samples" / f"{nimg:010d}.png").write_bytes(png())
    checkpoint = folder / "checkpoints" / "step-00000020"
    checkpoint.mkdir(parents=True)
    (checkpoint / "ema.safetensors").write_bytes(bytes(1000))
    (checkpoint / "state.json").write_text('{"nimg": 2000}')
    files = {"ema.safetensors": {"bytes": 1000, "sha256": ""}}
    (checkpoint / "manifest.json").write_text(json.dumps({"format": 1, "files": files}))
    tuned = {
        "fast": {"sampler": "unipc_3", "steps": 2, "noises": [30.0, 0.15], "guidance_scale": 1.5}
    }
    record = {
        "config": config, "weights": HASH, "tuned": tuned, "class_names": ["zero", "one"],
        "shape": {"channels": 1, "height": 8, "width": 8, "num_classes": 2},
        "data": {"name": "digits", "num_train": 1500},
        "training": {"step": 20, "nimg": 2000, "train_sec": 3725.0, "loss": 0.43215678, "held_out_loss": 0.61234567},
    }  # fmt: skip
    (folder / "model.safetensors").write_bytes(model_file(record))
    return folder


def page(folder: Path) -> str:
    return write(folder).read_text()


def shown(source: str) -> str:
    """What a reader sees: no tags, no styles and scripts, entities resolved."""
    source = re.sub(r"<(style|script)>.*?</\1>", "", source, flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]+>", " ", source))


def notes(source: str) -> str:
    found = re.search(r'<div class="notes">.*?</div>', source)
    return shown(found[0]) if found else ""


class Tags(HTMLParser):
    """Every tag with its attributes, and whether tags that must be closed are."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.all: list[tuple[str, dict[str, str | None]]] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.all.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.all.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_one_well_formed_file_that_asks_for_nothing(run):
    source = page(run)
    assert not re.search(r"https?://|url\(|@import", source)
    tags = Tags(source).all
    for tag, attributes in tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert not {"href", "srcset", "onclick", "onload"} & attributes.keys()
        if "src" in attributes:
            assert attributes["src"].startswith("data:image/png;base64,") and tag == "img"
    policy = next(a["content"] for _, a in tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_the_pictures_are_the_files_bit_for_bit_with_the_last_grid_large(run):
    (run / "samples" / "0000002000.png").write_bytes(png(6))
    images = [
        (a.get("id"), base64.b64decode(a["src"].partition(",")[2]))
        for t, a in Tags(page(run)).all
        if t == "img"
    ]
    assert images == [("shown", png(6)), (None, png()), (None, png(6)), (None, png())]


def test_the_numbers_are_those_of_the_run(run):
    text = shown(page(run))
    for fact in (
        "digits",
        "22",
        "2,000",
        "1h 02m",
        "0.4322",
        "0.6123",
        HASH[:16],
        "1 x 8 x 8",
        "50 % of the way",
    ):
        assert fact in text, fact
    rows = dict(re.findall(r"<tr><td>(\w+)</td>(.*?)</tr>", page(run)))
    cells = {name: re.findall(r">([^<]+)</td>", row) for name, row in rows.items()}
    assert cells["loss"] == ["2", "0.432157", "2,000", "0.432157", "2,000", "0.876543"]
    assert cells["lr"] == ["2", "0.002", "2,000", "0.001", "1,000", "0.002"]
    assert cells["held_out_q1"][1] == "0.4" and "odd" not in cells and "train_sec" not in cells
    assert cells["fast"] == ["unipc_3", "2", "1.5", "30  0.15"]
    words = " ".join(text.split())
    assert "Parameters 22 Images seen 2,000 Epochs 1 Time trained 1h 02m" in words
    assert (
        "training loss: 0.432157 at 2 " in words and "learning rate: 0.001 at 1 " in words
    )  # thousand images
    assert (
        "setting this run preset train.kimg 4.0 70 train.betas [0.8, 0.9] [0.9, 0.999] The whole"
        in words
    )
    assert re.search(r"step-00000020\s+2,000\s+1\.\d+ kB\s+all files of the right size", text)
    assert re.search(r"2026-01-01T00:00:00\+00:00\s+10\s+H100", text) and notes(page(run)) == ""


def test_unknown_numbers_are_drawn_together_and_constant_ones_only_listed(run):
    source = page(run)
    titles = [html.unescape(t) for t in re.findall(r'<figure class="chart"><h3>(.*?)</h3>', source)]
    assert titles == [
        "Loss",
        "Held-out loss by noise level",
        "Learning rate",
        "Gradient norm",
        "Speed",
        "new",
    ]
    legends = re.findall(r'<figcaption class="legend">(.*?)</figcaption>', source)
    assert "new_3" in legends[-1] and "new_4" in legends[-1] and "held-out loss" in legends[0]
    assert "<td>skipped_steps</td>" in source


def points(figure: str) -> list[list[tuple[float, float]]]:
    lines = re.findall(r'<polyline points="(.*?)"', figure)
    return [[tuple(map(float, pair.split(","))) for pair in line.split()] for line in lines]


def test_points_are_where_they_belong():
    left, right, top, bottom = curves.LEFT, curves.RIGHT, curves.TOP, curves.BOTTOM
    figure = curves.chart(
        [Curve("a", [(0, 0), (50, 5), (100, 10)]), Curve("b", [(25, 10)])], "t", "y", "x"
    )
    middle = ((left + right) / 2, (top + bottom) / 2)
    assert points(figure) == [
        [(left, bottom), middle, (right, top)],
        [(left + (right - left) / 4, top)],
    ]
    ticks = re.findall(r'<text class="(m|e)" x="([\d.]+)" y="([\d.]+)">([\d.]+)</text>', figure)
    across = {text: float(x) for kind, x, _, text in ticks if kind == "m"}
    assert across == {
        str(v): pytest.approx(left + (right - left) * v / 100, abs=0.06)
        for v in (0, 20, 40, 60, 80, 100)
    }
    up = {text: float(y) - 4 for kind, _, y, text in ticks if kind == "e"}
    assert up == {
        str(v): pytest.approx(bottom + (top - bottom) * v / 10, abs=0.06)
        for v in (0, 2, 4, 6, 8, 10)
    }


def test_a_logarithmic_axis_is_one():
    figure = curves.chart([Curve("a", [(0, 1000), (1, 1), (2, 31.6227766)])], "t", "y", "x")
    (line,) = points(figure)
    assert [y for _, y in line] == [
        curves.TOP,
        curves.BOTTOM,
        pytest.approx((curves.TOP + curves.BOTTOM) / 2, abs=0.06),
    ]
    assert "y (log)" in figure and {">1<", ">10<", ">100<", ">1000<"} <= set(
        re.findall(r">\d+<", figure)
    )
    assert "(log)" not in curves.chart(
        [Curve("a", [(0, 1000), (1, 1)])], "t", "y", "x", linear=True
    )


@pytest.mark.parametrize(
    "values",
    [
        [3.0],
        [0.0, 0.0],
        [-2.0, -2.0],
        [1e-9, 1e9],
        [-1e299, 1e299],
        [1, 1 + 1e-15],
        [0, 1e-299],
        [7, 70],
        [1e-290, 5],
    ],
)
def test_every_series_stays_inside_its_frame_and_has_ticks(values):
    figure = curves.chart([Curve("a", list(enumerate(values)))], "t", "y", "x")
    for x, y in points(figure)[0]:
        assert curves.LEFT <= x <= curves.RIGHT and curves.TOP <= y <= curves.BOTTOM
    ticks = re.findall('class="e"[^>]*>([^<]*)<', figure)
    assert 2 <= len(ticks) <= 14 and len(set(ticks)) == len(ticks)


def test_a_long_curve_is_thinned_without_losing_ends_or_spikes():
    values = [(float(i), float(i % 7)) for i in range(50_000)]
    values[31_415] = (31_415.0, 99.0)
    values[27_182] = (27_182.0, -99.0)
    thin = curves.thinned(values)
    assert len(thin) <= curves.MOST_POINTS + 2 and thin == sorted(thin)
    assert {values[0], values[-1], values[31_415], values[27_182]} <= set(thin)


def test_many_grids_are_thinned_evenly_with_the_first_and_last(run):
    for i in range(1, 101):
        (run / "samples" / f"{1000 * i:010d}.png").write_bytes(png())
    source = page(run)
    labels = [int(n.replace(",", "")) for n in re.findall(r"<figcaption>([\d,]+) images<", source)]
    assert len(labels) == pictures.MOST_GRIDS and (labels[0], labels[-1]) == (1000, 100_000)
    gaps = [b - a for a, b in itertools.pairwise(labels)]
    assert max(gaps) - min(gaps) <= 1000
    assert f"{pictures.MOST_GRIDS} of 100 grids" in shown(source)


def test_old_grids_are_ordered_by_number_and_other_files_are_none(run):
    for name in ("00000500.png", "3000.png", "grid.png", "-5.png", "9" * 200 + ".png", "7.txt"):
        (run / "samples" / name).write_bytes(png())
    assert re.findall(r"<figcaption>([\d,]+) images<", page(run)) == [
        "500",
        "1,000",
        "2,000",
        "3,000",
    ]


def test_the_page_of_large_grids_stays_below_ten_megabytes(run):
    for nimg in range(1000, 13_000, 1000):
        (run / "samples" / f"{nimg:010d}.png").write_bytes(
            png(500, 450, noise=True)
        )  # 0.68 MB: kept as it is
    (run / "data.png").write_bytes(png(1500, 900, noise=True))  # 4 MB: drawn again, smaller
    source = page(run)
    assert 4_000_000 < len(source.encode()) < 10_000_000
    labels = re.findall(r"<figcaption>([\d,]+) images<", source)
    assert 3 < len(labels) < 12 and (labels[0], labels[-1]) == ("1,000", "12,000")
    large = [a["src"] for t, a in Tags(source).all if t == "img" and a["alt"] == "training images"]
    content = base64.b64decode(large[0].removeprefix("data:image/jpeg;base64,"))
    assert content.startswith(b"\xff\xd8") and len(content) < 1_500_000


EVIL = "<b>&\"'</title><script>alert(1)</script>"


def test_names_are_escaped(run, tmp_path):
    config = json.loads((run / "config.json").read_text())
    config["config"]["preset"] = config["config"]["data"]["source"] = EVIL
    config["config"][EVIL] = {EVIL: EVIL}
    (run / "config.json").write_text(json.dumps(config))
    (run / "environment.json").write_text(json.dumps([{EVIL: EVIL, "started": EVIL}, {EVIL: 1}]))
    with (run / "metrics.jsonl").open("a") as file:
        file.write(
            json.dumps({"nimg": 1, EVIL: 1, "step": EVIL})
            + "\n"
            + json.dumps({"nimg": 2, EVIL: 2})
            + "\n"
        )
    record = {"weights": EVIL, "tuned": {EVIL: {EVIL: EVIL, "noises": [EVIL]}}, "class_names": [EVIL], "data": {"name": EVIL},
              "shape": {"channels": EVIL, "num_classes": EVIL}, "training": {"loss": EVIL, "nimg": EVIL}}  # fmt: skip
    (run / "model.safetensors").write_bytes(model_file(record))
    folder = run.rename(tmp_path / "<b>&\"'<script>")
    (folder / "checkpoints" / "step-00000020").rename(
        folder / "checkpoints" / "step-<b>&\"'<script>"
    )
    source = page(folder)
    tags = [tag for tag, _ in Tags(source).all]
    assert (
        "b" not in tags
        and tags.count("script") == 1
        and tags.count("title") == 1 + source.count("<circle")
    )
    assert "<b>" not in source and "alert(1)" in shown(source) and folder.name in shown(source)


def test_a_name_that_is_no_unicode_gives_a_page(run, tmp_path):
    folder = run.rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff run"))
    assert "run" in page(folder)


PIECES = (
    "environment.json",
    "metrics.jsonl",
    "data.png",
    "samples",
    "checkpoints",
    "model.safetensors",
    "config.json",
)


@pytest.mark.parametrize("piece", PIECES)
def test_what_is_missing_is_said(run, piece):
    run.joinpath(piece).rename(run / "elsewhere")
    assert piece in notes(page(run))
    assert Tags(page(run)).all and "Make this page again" in page(run)


@pytest.mark.parametrize("piece", [p for p in PIECES if "." in p])
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1, 2]", b"\xff\xfe\0", b"null", b"[" * 100_000, b'{"config": {}}', b"9" * 9],
)
def test_what_is_broken_is_said(run, piece, content):
    (run / piece).write_bytes(content)
    source = page(run)
    assert Tags(source).all
    assert piece in notes(source) or (piece, content) == ("environment.json", b"[1, 2]")


def test_broken_lines_are_left_out_and_counted(run):
    bad = [
        '{"step": 3, "nim',
        '"text"',
        "7",
        '{"loss": 4}',
        '{"nimg": "a"}',
        '{"nimg": -1}',
        '{"nimg": true}',
        "\0",
        "",
    ]
    good = [
        '{"nimg": 3000, "loss": NaN, "lr": 0.5}',
        '{"nimg": 3100, "loss": Infinity}',
        '{"nimg": 3200, "loss": 1' + "0" * 999 + "}",
    ]
    with (run / "metrics.jsonl").open("a") as file:
        file.write("\n".join(bad + good))
    source = page(run)
    assert f"metrics.jsonl: {len(bad)} broken line(s) left out (line 5, 6, 7, 8, 9, ..)" in notes(
        source
    )
    assert "2 value(s) that are not finite" in notes(source)
    assert "nan" not in source.split("Training images")[0].partition("<h2>Curves")[2].lower()
    assert (
        re.search(r"<td>loss</td><td>2</td><td>0.432157</td>", source)
        and "<td>lr</td><td>3</td><td>0.5</td>" in source
    )


def test_a_curve_never_doubles_back(run):
    lines = [{"nimg": nimg, "loss": 1.0} for nimg in (2000, 3000, 1000)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (line,) = points(page(run))
    assert len(line) == 3 and line == sorted(line)


def test_damage_that_can_be_seen_is_said(run):
    model = run / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1])
    (run / "checkpoints" / "step-00000020" / "ema.safetensors").write_bytes(b"short")
    (run / "samples" / "0000001000.png").write_bytes(png()[:-12])
    text = shown(page(run))
    assert "model.safetensors is truncated" in text and "damaged: ema.safetensors" in text
    assert "samples/0000001000.png: is not a whole PNG" in text


def test_a_model_behind_the_curves_is_said(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"nimg": 2500, "loss": 0.3}\n')
    assert "model.safetensors is of 2,000 images; the curves go on to 2,500" in notes(page(run))


def test_a_run_that_has_just_begun_has_a_page(run):
    for path in run.iterdir():
        if path.name != "config.json":
            path.rename(run.parent / path.name)
    source = page(run)
    assert re.findall("<h2>(.*?)</h2>", source) == ["Training images", "Configuration", "Commands"]
    assert "Make pictures" not in source and "Go on with the training" in source


CHANGED = [
    ("digits", {}),
    (
        "digits",
        {
            "train.betas": (0.8, 0.9),
            "train.tf32": False,
            "train.time": "1h30m",
            "sample.noises": (3.0, 0.5),
        },
    ),
    (
        "cifar10",
        {
            "network.attention_sizes": (),
            "data.flip": False,
            "train.kimg": None,
            "train.epochs": 3.0,
            "seed": 7,
        },
    ),
    ("iddpm", {"data.path": "-a dir/with $x & 'quotes'", "train.labels": True}),
    ("photos", {"train.micro_batch": 8}),
]


@pytest.mark.parametrize(("name", "changes"), CHANGED)
def test_the_command_to_go_on_gives_the_configuration(run, name, changes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    config = override(named(name), changes)
    record = {"config": json.loads(json.dumps(to_dict(config))), "data": ""}
    (run / "config.json").write_text(json.dumps(record))
    line = re.search(r"<pre>(unnoise train .*?)</pre>", page(run))
    assert line is not None
    words = shlex.split(html.unescape(line[1]))
    assert words[2] == name and words[-2:] == ["--out", str(run)]
    assert len([w for w in words if w.startswith("--")]) == len(changes) + 1
    again = parse(named(words[2]), words[3:-2], f"unnoise train {words[2]}")
    assert isinstance(again, RunConfig) and again == config


def test_the_command_line_writes_where_it_is_told_and_nowhere_else(run, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["report", str(run)]) == 0
    assert sorted(tmp_path.rglob("*")) == sorted([*before, run / "report.html"])
    out = tmp_path / "page here.html"
    assert cli.main(["report", str(run), "--out", str(out)]) == 0
    assert sorted(tmp_path.rglob("*")) == sorted([*before, run / "report.html", out])
    assert capsys.readouterr().out == f"report: {run / 'report.html'}\nreport: {out}\n"
    again = html.unescape(re.findall(r"<pre>(unnoise report .*?)</pre>", out.read_text())[0])
    assert shlex.split(again) == ["unnoise", "report", str(run), "--out", str(out)]


def test_a_failed_write_leaves_the_old_page_and_nothing_else(run, monkeypatch):
    (run / "report.html").write_text("old")
    before = sorted(run.rglob("*"))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(run)
    assert (run / "report.html").read_text() == "old" and sorted(run.rglob("*")) == before


def test_a_link_is_replaced_and_not_followed(run, tmp_path):
    (tmp_path / "precious").write_text("x")
    (run / "report.html").symlink_to(tmp_path / "precious")
    write(run)
    assert (tmp_path / "precious").read_text() == "x" and not (run / "report.html").is_symlink()


@pytest.mark.parametrize("kind", ["nothing", "empty", "file", "foreign"])
def test_no_run_is_one_line_and_exit_code_2(tmp_path, kind, capsys):
    folder = tmp_path / "x"
    if kind == "file":
        folder.write_text("x")
    elif kind != "nothing":
        folder.mkdir()
    if kind == "foreign":
        (folder / "config.json").write_text('{"hidden_size": 768}')
        (folder / "model.safetensors").write_bytes(model_file({"author": "x"}))
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["report", str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(folder) in error and "expected a run folder" in error
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "flags", [["--out"], ["--out", "model.safetensors"], ["--outt", "a.html"], ["--out", ""], ["x"]]
)
def test_wrong_flags_are_one_line(run, flags, capsys):
    before = sorted(run.rglob("*"))
    assert cli.main(["report", str(run), *flags]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and sorted(run.rglob("*")) == before


def test_neither_the_page_nor_its_help_imports_anything_heavy(run):
    for arguments in (["report", "--help"], ["report", str(run)]):
        code = f"import sys; from unnoise import cli; assert cli.main({arguments!r}) == 0; print(*sys.modules)"
        out = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        assert not {"torch", "numpy", "PIL", "safetensors"} & set(out.split())
