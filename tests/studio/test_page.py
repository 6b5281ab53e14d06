"""The page of a run: one file that asks for nothing, looked at in a real browser."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.studio.made import EVIL, HASH, make_hostile, png
from unnoise import cli
from unnoise.studio import page as page_file
from unnoise.studio.page import write

STATIC = page_file.STATIC
KNOWN = {"https://github.com/leeoniya/uPlot", "http://www.w3.org/2000/svg"}
"""Addresses that others' JavaScript names: its own, and a namespace."""


def data(folder: Path) -> dict[str, Any]:
    """What the page holds."""
    found = re.search(r'<script id="run" type="application/json">(.*?)</script>', written(folder))
    assert found is not None
    return json.loads(found[1])


def written(folder: Path) -> str:
    return write(folder).read_text()


# ---------------------------------------------------------------- the file


def test_the_page_is_one_file_that_asks_for_nothing(run):
    source = written(run)
    assert set(re.findall(r"https?://[^\s\"'<>)]*", source)) <= KNOWN
    assert not re.search(r"url\(|@import|<link|<!-- (data|policy)", source)
    assert not re.search(r"^(import|export) ", source, re.MULTILINE)
    assert re.findall(r'src="([^"]*)"', source) == []
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', source)
    assert policy is not None and "unsafe" not in policy[1]
    assert policy[1].startswith("default-src 'none'; img-src data:; style-src 'sha256-")


@pytest.mark.parametrize("path", sorted(STATIC.glob("*.js")), ids=lambda path: path.name)
def test_no_module_makes_html_or_code_of_data(path):
    doors = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|https?://"
    assert not re.search(doors, path.read_text())


def test_the_javascript_of_others_is_unchanged():
    table = (STATIC / "vendor" / "README.md").read_text()
    said = re.findall(r"^\| (\S+) \|.* ([0-9a-f]{64}) \|$", table, re.MULTILINE)
    there = [path for path in (STATIC / "vendor").iterdir() if path.suffix != ".md"]
    assert {(p.name, hashlib.sha256(p.read_bytes()).hexdigest()) for p in there} == set(said)


def test_the_pictures_are_the_files_bit_for_bit(run):
    (run / "samples" / "0000002000.png").write_bytes(png(6))
    found = data(run)
    others = [found["evaluation"][name] for name in ("samples", "neighbours")]
    pictures = [*found["samples"], found["data"]["picture"], *others]
    assert [base64.b64decode(one["src"].partition(",")[2]) for one in pictures] == [
        png(), png(6), png(), png(), png(),
    ]  # fmt: skip


def test_many_grids_are_thinned_evenly_with_the_first_and_last(run):
    for i in range(1, 101):
        (run / "samples" / f"{1000 * i:010d}.png").write_bytes(png())
    found = data(run)
    shown = [one["nimg"] // 1000 for one in found["samples"]]
    assert (len(shown), found["grids"]) == (page_file.MOST_GRIDS, 100)
    assert (shown[0], shown[-1]) == (1, 100)
    assert {b - a for a, b in itertools.pairwise(shown)} == {4, 5}


def test_the_page_of_large_pictures_stays_below_ten_megabytes(run):
    for nimg in range(1000, 13_000, 1000):  # 0.68 MB each: kept as they are
        (run / "samples" / f"{nimg:010d}.png").write_bytes(png(500, 450, noise=True))
    (run / "data.png").write_bytes(png(1500, 900, noise=True))  # 4 MB: drawn again, smaller
    assert 4_000_000 < write(run).stat().st_size < 10_000_000
    found = data(run)
    shown = [one["nimg"] for one in found["samples"]]
    assert 3 < len(shown) < 12 and (shown[0], shown[-1]) == (1000, 12_000)
    content = found["data"]["picture"]["src"].removeprefix("data:image/jpeg;base64,")
    assert base64.b64decode(content).startswith(b"\xff\xd8") and len(content) < 2_000_000


def test_the_command_line_writes_where_it_is_told_and_nowhere_else(run, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["report", str(run)]) == 0
    assert sorted(tmp_path.rglob("*")) == sorted([*before, run / "report.html"])
    out = tmp_path / "page here.html"
    assert cli.main(["report", str(run), "--out", str(out)]) == 0
    assert sorted(tmp_path.rglob("*")) == sorted([*before, run / "report.html", out])
    assert capsys.readouterr().out == f"report: {run / 'report.html'}\nreport: {out}\n"
    line = re.findall(r'"line": "(unnoise report [^"]*)"', out.read_text())[0]
    assert shlex.split(line) == ["unnoise", "report", str(run), f"--out={out}"]


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


@pytest.mark.parametrize(
    "flags", [["--out"], ["--out", "model.safetensors"], ["--outt", "a.html"], ["--out", ""], ["x"]]
)
def test_wrong_flags_are_one_line(run, flags, capsys):
    before = sorted(run.rglob("*"))
    assert cli.main(["report", str(run), *flags]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and sorted(run.rglob("*")) == before


def test_neither_the_page_nor_its_help_imports_anything_heavy(run):
    for arguments in (["report", "--help"], ["report", str(run)]):
        code = f"import sys; from unnoise import cli; cli.main({arguments!r}); print(*sys.modules)"
        command = [sys.executable, "-c", code]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert not {"torch", "numpy", "PIL", "safetensors"} & set(out.split())


# ---------------------------------------------------------------- the browser


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens the page of a run folder; afterwards nothing was complained of or asked for."""
    wrong: list[str] = []
    asked: list[str] = []
    tabs = []

    def open_page(folder: Path, width: int = 1200, scheme: str = "light") -> Any:
        tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        tabs.append(tab)
        file = write(folder).as_uri()
        tab.on("console", lambda message: wrong.append(message.text))
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("dialog", lambda dialog: (wrong.append("dialog"), dialog.dismiss()))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(file)
        return tab

    yield open_page
    for tab in tabs:
        tab.close()
    assert wrong == []
    assert [url for url in asked if not url.startswith(("data:", "file:"))] == []
    assert len([url for url in asked if url.startswith("file:")]) == len(tabs)


def words(tab: Any, selector: str = "body") -> str:
    return " ".join(tab.locator(selector).inner_text().split())


def rows(tab: Any, section: str) -> dict[str, list[str]]:
    """The rows of a section's tables, by their first cell."""
    script = "rows => rows.map(row => [...row.children].map(cell => cell.textContent))"
    found = tab.locator(f"#{section} tbody tr").evaluate_all(script)
    return {first: rest for first, *rest in found}


def drawn(tab: Any) -> dict[str, Any]:
    """What the first chart draws."""
    return tab.locator(".plot").first.evaluate("""one => {
        const shown = one.uplot.series.slice(1).filter((series) => series.show);
        const dots = shown.filter((series, i) => series.points.show(one.uplot, i + 1));
        return { curves: shown.length, log: one.uplot.scales.y.distr === 3, dots: dots.length };
    }""")


def test_the_page_shows_what_the_run_is(run, opened):
    tab = opened(run)
    assert tab.title() == "one run · unnoise"
    head = words(tab, "header")
    for fact in ("running · 50 % of the way", "Images seen 2,000", "Epochs 1", HASH[:12],
                 "Training loss 0.4322", "Held-out loss 0.6123", "Parameters 22", "Preset digits",
                 "Time trained 1h 02m", "Data digits, 1,500 images", "Size 1 × 8 × 8",
                 "Classes 2"):  # fmt: skip
        assert fact in head, fact
    assert tab.locator(".problems").count() == 0
    assert tab.locator("h2").all_inner_texts() == [
        "Samples", "Curves", "Evaluation", "Data", "Tuned samplers", "Settings", "Environment",
        "Checkpoints",
    ]  # fmt: skip
    assert tab.locator("nav a").all_inner_texts() == tab.locator("h2").all_inner_texts()
    numbers = rows(tab, "curves")
    assert numbers["loss"] == ["2", "0.432157", "2,000", "0.432157", "2,000", "0.876543"]
    assert numbers["lr"] == ["2", "0.002", "2,000", "0.001", "1,000", "0.002"]
    assert "skipped_steps" in numbers and "odd" not in numbers
    assert ["6.5 [5.5, 7.5]", "3.25 [2.25, 4.25]"] in rows(tab, "evaluation").values()
    assert rows(tab, "tuned-samplers")["fast"] == ["unipc_3", "2", "1.5", "30  0.15"]
    assert rows(tab, "settings")["train.betas"] == ["[0.8, 0.9]"]
    assert "train.kimg 4 30 train.betas [0.8, 0.9] [0.9, 0.999]" in words(tab, "#settings")
    assert rows(tab, "environment")["2026-01-01T00:00:00+00:00"] == ["10", "H100"]
    assert rows(tab, "environment")["torch"] == ["2.13"]
    assert rows(tab, "checkpoints")["step-00000020"][0] == "2,000"
    assert rows(tab, "data")["classes"] == ["zero, one"]
    assert f"unnoise report {shlex.quote(str(run))}" in tab.locator(".commands").text_content()
    pictures = tab.locator("img").evaluate_all("all => all.map(one => one.naturalWidth)")
    assert len(pictures) == 6 and set(pictures) == {4}


def test_known_numbers_have_their_panels_and_others_are_drawn_together(run, opened):
    tab = opened(run)
    titles = [title.partition("\n")[0] for title in tab.locator("h3").all_inner_texts()]
    assert titles == ["Loss", "Held-out loss by noise level", "Learning rate", "Gradient norm",
                      "Speed", "new"]  # fmt: skip
    legends = [words(tab, f".chart >> nth={i} >> figcaption") for i in (0, 5)]
    assert legends[0] == "training loss 0.4322 held-out loss (averaged weights) 0.6123"
    assert legends[1] == "new_3 3 new_4 4"
    assert drawn(tab) == {"curves": 2, "log": False, "dots": 2}  # few points have dots
    assert "[object" not in tab.locator("main").text_content()


def test_the_slider_and_its_keys_show_the_grids(run, opened):
    for nimg in (500, 1000, 2000):
        (run / "samples" / f"{nimg:010d}.png").write_bytes(png(nimg // 100))
    tab = opened(run)
    shown, said = tab.locator(".grid img"), tab.locator(".grid figcaption")
    assert shown.get_attribute("alt") == "Samples after 2,000 images"
    tab.locator("#slider").focus()
    tab.keyboard.press("ArrowLeft")
    assert shown.evaluate("one => one.naturalWidth") == 10
    assert said.inner_text() == "Samples after 1,000 images"
    assert tab.locator("#slider").get_attribute("aria-valuetext") == "1,000 images"
    tab.locator(".film button").first.click()
    assert shown.get_attribute("alt") == "Samples after 500 images"
    tab.get_by_role("button", name="Play").click()
    tab.locator(".grid figcaption", has_text="the newest").wait_for(timeout=10_000)


def test_curves_are_read_with_the_mouse_and_with_keys(run, opened):
    tab = opened(run)
    figure, plot = tab.locator(".chart").first, tab.locator(".plot").first
    plot.hover()
    assert "at 1,000 images" in figure.inner_text() and "0.8765" in figure.inner_text()
    plot.focus()
    tab.keyboard.press("End")
    assert "at 2,000 images" in figure.inner_text() and "0.4322" in figure.inner_text()
    tab.keyboard.press("ArrowLeft")
    assert "at 1,000 images" in figure.inner_text()
    tab.keyboard.press("Escape")
    assert " images" not in words(tab, ".chart >> nth=0 >> output")


def test_curves_are_smoothed_hidden_and_made_logarithmic(run, opened):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"nimg": 3000, "loss": 0.1}\n')
    tab = opened(run)
    figure = tab.locator(".chart").first
    assert drawn(tab) == {"curves": 2, "log": False, "dots": 2}
    figure.get_by_role("button", name="log").click()
    assert drawn(tab)["log"] and figure.locator("[aria-pressed=true]").first.inner_text() == "log"
    tab.locator("#smoothing").fill("0.5")
    assert drawn(tab)["curves"] == 3  # the loss, raw and smoothed; two points are not smoothed
    figure.get_by_role("button", name="training loss").click()
    assert drawn(tab)["curves"] == 1


@pytest.fixture
def module(browser: Any) -> Iterator[Callable[[str, Any], Any]]:
    """Calls a function of (panels.js, an argument) in a browser."""
    tab = browser.new_page()
    files = {"": "", "panels.js": (STATIC / "panels.js").read_text()}

    def give(route: Any) -> None:
        name = route.request.url.rpartition("/")[2]
        kind = "text/javascript" if name else "text/html"
        route.fulfill(body=files[name], content_type=kind)

    tab.route("**/*", give)
    tab.goto("http://page/")
    call = "async given => ({code})(await import('/panels.js'), given)"
    yield lambda code, given: tab.evaluate(call.replace("{code}", code), given)
    tab.close()


def test_ticks_are_where_they_belong(module):
    assert module("(m, [a, b]) => m.linearTicks(a, b)", [0, 100]) == [0, 20, 40, 60, 80, 100]
    assert module("(m, [a, b]) => m.logTicks(a, b)", [1, 1000]) == [
        1, 2, 5, 10, 20, 50, 100, 200, 500, 1000,
    ]  # fmt: skip
    smooth = module("(m, values) => m.smoothed(values, 0.5)", [1, 1, 3])
    assert smooth == pytest.approx([1, 1, (0.125 + 0.25 + 1.5) / 0.875])
    near = "(m, xs) => xs.map(x => m.nearest([0, 10, 20], x))"
    assert module(near, [0, 14, 15.1, 99, None]) == [0, 1, 2, 2, 2]


def test_curves_grow_and_never_double_back(module):
    curves = {"loss": {"count": 9, "nimg": [1, 2], "values": [5, 4]}, "lr": {}}
    more = [{"nimg": 2, "loss": 9, "step": 1}, {"nimg": 3, "loss": 3}, {"nimg": 3, "new": 7}]
    grown = module("(m, [curves, more]) => m.longer(curves, more)", [curves, more])
    assert grown == {
        "loss": {"count": 10, "nimg": [1, 2, 3], "values": [5, 4, 3]},
        "lr": {},
        "new": {"count": 1, "nimg": [3], "values": [7]},
    }


@pytest.mark.parametrize("log", [False, True])
def test_odd_values_have_an_axis(module, log):
    draw = """(m, [values, log]) => { const [low, high] = m.range(values, log);
                return [low, high, log ? m.logTicks(low, high) : m.linearTicks(low, high)] }"""
    for values in ([3.0], [0.0, 0.0], [-2.0, -2.0], [1e-9, 1e9], [-1e299, 1e299], [1, 1 + 1e-15],
                   [0, 1e-299], [7, 70], [1e-290, 5], [7.0, 7.1]):  # fmt: skip
        if log and min(values) <= 0:
            continue
        low, high, ticks = module(draw, [values, log])
        assert low <= min(values) <= max(values) <= high and low < high, values
        assert (log or len(set(ticks)) >= 2) and len(ticks) <= 14, (values, ticks)
        rounding = 1e-9 * (high - low)
        assert all(low - rounding <= tick <= high + rounding for tick in ticks), (values, ticks)


def test_odd_curves_are_drawn(run, opened):
    odd = ([3.0, 4.0], [1e-9, 1e9], [-1e299, 1e299], [1, 1 + 1e-15], [0, 1e-299], [1e-290, 5])
    with (run / "metrics.jsonl").open("a") as file:
        for letter, values in zip("abcdef", odd, strict=True):
            for nimg, value in enumerate(values, 1):
                file.write(json.dumps({"nimg": nimg, f"odd{letter}": value}) + "\n")
    tab = opened(run)
    assert tab.locator(".plot canvas").count() == tab.locator(".chart").count() == 6 + 6
    for button in tab.locator(".chart h3 button:enabled").all():
        button.click()
    assert tab.locator(".plot canvas").count() == 6 + 6


def test_whatever_is_in_the_files_comes_out_as_text(run, opened):
    tab = opened(make_hostile(run))
    assert tab.title().startswith("<b>&\"'<script>")
    assert (
        tab.locator("b b, main b:not(figcaption b):not(.state), main script, main title").count()
        == 0
    )
    shown = tab.locator("body").text_content()
    for part in ("Data" + EVIL, "Preset" + EVIL, "There is no preset " + EVIL):
        assert part in shown, part
    for section in ("curves", "tuned-samplers", "settings", "environment", "evaluation", "data"):
        assert EVIL in tab.locator(f"#{section}").text_content(), section
    titles = tab.locator("h3").all_inner_texts()
    assert any("__proto__" in title for title in titles)
    assert any("constructor" in title for title in titles)
    assert rows(tab, "settings")[f"{EVIL}.inf"] == ["[inf]"]


def test_a_run_that_has_just_begun_has_a_page(run, opened):
    for path in run.iterdir():
        if path.name != "config.json":
            path.rename(run.parent / path.name)
    tab = opened(run)
    assert tab.locator("h2").all_inner_texts() == ["Data", "Settings"]
    assert "metrics.jsonl is not there" in words(tab, ".problems")
    assert "Images seen unknown" in words(tab, "header")


def test_a_damaged_run_has_a_page(run, opened):
    for path in run.glob("*.*"):
        path.write_bytes(b"[" * 1000)
    tab = opened(run)
    assert tab.locator("h2").all_inner_texts() == ["Samples", "Checkpoints"]
    assert tab.locator(".problems li").count() >= 5


def test_the_page_fits_a_phone_and_follows_the_colour_scheme(run, opened):
    tab = opened(run, width=360, scheme="dark")
    assert tab.evaluate("document.documentElement.scrollWidth") == 360
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark == "rgb(21, 23, 26)"
    assert opened(run).evaluate("getComputedStyle(document.body).backgroundColor") != dark
