"""Runs in the studio: what a server tells of them, and what a person does in a browser."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.studio.made import make, png
from unnoise.cli.train import Train, configured
from unnoise.config import override
from unnoise.errors import ConfigError
from unnoise.presets import named
from unnoise.records import LOCK
from unnoise.studio import trainers
from unnoise.studio.run_folder import read

pytest.importorskip("starlette", reason="needs the studio: pip install 'unnoise[studio]'")

from tests.studio.client import Studio, until
from tests.studio.client import studio as served
from unnoise.studio.runs import NAME, Runs, id_of, measurements


@pytest.fixture
def place(studio: Studio) -> Iterator[Path]:
    """The folder of runs, which is empty again afterwards and in which nothing trains."""
    folder = studio.runs.folder
    yield folder
    for path in folder.iterdir():
        if (number := trainers.process(path)) is not None:
            os.kill(number, signal.SIGKILL)
        path.rename(folder.parent / f"{path.name}-{time.monotonic_ns()}")
    studio.runs._stopping.clear()


@pytest.fixture
def client(studio: Studio) -> Studio:
    return studio


def entry(client: Any, name: str) -> dict[str, Any]:
    return next(one for one in client.get("/api/runs").json["runs"] if one["name"] == name)


def training(folder: Path, *flags: str) -> subprocess.Popen[bytes]:
    """A real training of digits, as on a terminal."""
    words = ["train", "digits", f"--out={folder}", "--train.log-every-kimg", "0.2", *flags]
    quiet = subprocess.DEVNULL
    return subprocess.Popen([*trainers.UNNOISE, *words], stdout=quiet, stderr=quiet)


# ---------------------------------------------------------------- what the server tells


def test_runs_are_found_newest_first(run, tmp_path):
    other = make(tmp_path / "more" / "deep")
    make(run / "samples" / "inside")  # no run of its own
    make(tmp_path / ".hidden" / "x")
    os.utime(other / "metrics.jsonl", (time.time() + 9,) * 2)
    found = Runs([tmp_path]).listing()
    assert [one["name"] for one in found["runs"]] == ["more/deep", "one run"]
    first = found["runs"][0]
    assert re.fullmatch("[0-9a-f]{12}", first["id"]) and first["id"] == id_of(other)
    assert (first["preset"], first["progress"], first["nimg"]) == ("digits", 0.5, 2000)
    assert (first["loss"], first["held_out_loss"]) == (0.43215678, 0.61234567)
    assert first["newest"].startswith(f"/api/runs/{first['id']}/picture/2000?v=")
    single = Runs([other, tmp_path, run])
    assert len(single.listing()["runs"]) == 2 and single.folder == tmp_path


def test_fifty_runs_are_listed_within_fifty_milliseconds(tmp_path):
    for i in range(50):
        make(tmp_path / str(i))
    runs, took = Runs([tmp_path]), []
    for _ in range(5):
        began = time.thread_time()  # whatever else the machine does
        assert len(runs.listing()["runs"]) == 50
        took.append(time.thread_time() - began)
    assert min(took) < 0.05


def test_what_has_changed_is_read_again(run, tmp_path):
    runs = Runs([tmp_path])
    before = runs.listing()["runs"][0]
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"nimg": 3000, "loss": 0.25}\n')
    grown = runs.listing()["runs"][0]
    assert (grown["nimg"], grown["loss"]) == (3000, 0.25) and grown["version"] == before["version"]
    (run / "samples" / "0000003000.png").write_bytes(png())
    os.utime(run / "samples", (time.time() + 1,) * 2)  # clocks of files are coarse
    after = runs.listing()["runs"][0]
    assert after["version"] != before["version"] and "/picture/3000?" in after["newest"]


def test_a_run_gives_its_pictures_and_no_other_file(place, client):
    folder = make(place / "a run")
    found = client.get(f"/api/runs/{id_of(folder)}").json
    assert found["name"] == "a run" and found["curves"] == read(folder)["curves"]
    evaluation = found["evaluation"]
    pictures = [found["data"]["picture"], evaluation["samples"], evaluation["neighbours"]]
    for one in [*found["samples"], *pictures]:
        answer = client.get(one["src"])
        assert answer.content == png() and answer.headers["content-type"] == "image/png"
        assert "immutable" in answer.headers["cache-control"]
        again = client.get(one["src"], **{"If-None-Match": answer.headers["etag"]})
        assert (again.status, again.content) == (304, b"")
    os.utime(folder / "data.png", (1, 1))
    changed = client.get(found["data"]["picture"]["src"])
    assert "no-cache" in changed.headers["cache-control"]
    (folder / "data.png").unlink()
    (folder / "data.png").symlink_to(folder / "config.json")
    for key in ("data", "0", "3000", "config.json", "../config.json", "..%2fconfig.json",
                "data.png", "%2e%2e%2fmodel.safetensors", "samples%2f0000001000.png", "data%00",
                "9" * 400):  # fmt: skip
        assert client.get(f"/api/runs/{id_of(folder)}/picture/{key}").status == 404, key


@pytest.mark.parametrize("way", ["", "/metrics", "/picture/data", "/stop", "/resume"])
@pytest.mark.parametrize("name", ["0" * 12, "..", "%2e%2e", "a%2fb", "x" * 5000])
def test_an_unknown_run_is_one_line(place, client, way, name):
    path = f"/api/runs/{name}{way}"
    answer = client.post(path) if way in ("/stop", "/resume") else client.get(path)
    assert answer.status in (404, 405), answer.text


def test_only_new_and_whole_lines_of_the_metrics_come(run):
    path = run / "metrics.jsonl"
    first = measurements(run, 0, "")
    assert [line.get("loss") for line in first["lines"]] == [0.87654321, None, 0.43215678, None]
    assert "odd" not in first["lines"][2] and first["next"] == path.stat().st_size
    with path.open("a") as file:
        file.write('{"nimg": 3000, "loss": NaN, "lr": 1}\nbroken\n{"nimg": 40')
    more = measurements(run, first["next"], first["file"])
    assert more["lines"] == [{"nimg": 3000, "lr": 1}, {}]
    with path.open("a") as file:
        file.write("00}\n")
    last = measurements(run, more["next"], more["file"])
    assert last["lines"] == [{"nimg": 4000}] and last["from"] == more["next"]
    assert measurements(run, last["next"], last["file"])["lines"] == []
    cut = path.read_text().splitlines(keepends=True)[:2]
    (run / "new").write_text("".join(cut))
    os.replace(run / "new", path)  # as a run that resumes does
    path.open("a").write("x" * 2000)
    again = measurements(run, last["next"], last["file"])
    assert again["from"] == 0 and len(again["lines"]) == 2 and again["file"] != last["file"]
    path.write_text(cut[0])
    assert measurements(run, 10_000, again["file"])["lines"][0]["loss"] == 0.87654321
    path.unlink()
    assert measurements(run, 5, "")["lines"] == []


@pytest.mark.parametrize("start", ["-1", "x", "1e3", "", "9" * 40, "١"])
def test_a_wrong_byte_is_one_line(place, client, start):
    name = id_of(make(place / "m"))
    answer = client.get(f"/api/runs/{name}/metrics?from={quote(start)}")
    assert answer.status == 400 and answer.json["error"].startswith("from: got")


# ---------------------------------------------------------------- trainings


def test_settings_become_the_flags_that_give_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-photos").mkdir()
    settings = {"train.time": "8s", "data.image_size": 16, "data.flip": False, "train.kimg": None,
                "train.betas": [0.8, 0.9], "train.batch_size": 16}  # fmt: skip
    words = trainers.flags("digits", settings)
    assert configured(Train, words, "train")[1] == override(named("digits"), settings)
    assert trainers.flags("-photos", {})[0] == "./-photos"
    assert "--train.batch-size" in words  # also where it is that of the preset on this machine


WRONG = [
    ({"name": "a/b"}, "name: got 'a/b'"), ({"name": "../x"}, "name: got"), ({"name": ""}, "name:"),
    ({"name": ".x"}, "name: got"), ({"name": "x" * 81}, "name: got"), ({"name": 3}, "name: got 3"),
    ({"name": "x\n"}, "name: got"), ({"name": "there"}, "is there already"),
    ({"source": "/no/such"}, "no preset, folder or file"), ({"source": ""}, "no preset"),
    ({"source": ["digits"]}, "source: got"), ({"source": "a\0b"}, "no preset"),
    ({"settings": {"train.tme": "1h"}}, "train.tme: unknown key; did you mean 'time'?"),
    ({"settings": {"train.time": "soon"}}, "expected a time such as 90s"),
    ({"settings": {"train.batch_size": 1e99}}, "train.batch_size: got"),
    ({"settings": {"data.image_size": "32; rm"}}, "data.image_size: got"),
    ({"settings": {"imports": ["/tmp/x.py"]}}, "imports: cannot be given here"),
    ({"settings": {"data.source": "/"}}, "data.source: cannot be given here"),
    ({"settings": []}, "settings: got"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "said"), WRONG, ids=[str(change) for change, _ in WRONG])
def test_a_wrong_start_is_one_line_and_writes_nothing(place, client, change, said):
    make(place / "there")
    before = sorted(place.rglob("*"))
    answer = client.post("/api/runs", {"source": "digits", "name": "new", **change})
    assert answer.status == 400 and said in answer.json["error"]
    assert answer.json["error"].count("\n") == 0 and sorted(place.rglob("*")) == before


@pytest.mark.parametrize("body", ["", "{", "[]", "3", "[" * 5000, '{"source": 1e999}'])
def test_a_body_that_is_no_request_is_one_line(place, client, body):
    headers = {"Content-Type": "application/json"}
    for path in ("/api/runs", "/api/plan"):
        assert client.request("POST", path, body.encode(), headers).status == 400


def test_names_stay_inside_the_folder_of_runs():
    good = ["a", "photos-2", "A.b_c", "9" * 80]
    bad = ["", ".", "..", "-x", "_x", "a/b", "a\\b", "a b", "é", "a\n", "x" * 81, "a\0"]
    assert all(map(NAME.fullmatch, good)) and not any(map(NAME.fullmatch, bad))


def test_a_plan_is_what_the_command_says_and_ends_with_the_request(
    place, client, studio, monkeypatch
):
    fake = "import sys, time; print(sys.argv); time.sleep(60 if '--seed' in sys.argv else 0)"
    monkeypatch.setattr(trainers, "UNNOISE", (sys.executable, "-c", fake))
    asked = {"source": "digits", "name": "x", "settings": {"train.time": "8s"}}
    text = client.post("/api/plan", asked).json["text"]
    assert text == f"['-c', 'plan', 'digits', '--train.time', '8s', '--out={place / 'x'}']\n"
    asked["settings"] = {"seed": 5}
    leaving = http.client.HTTPConnection("127.0.0.1", studio.port)
    headers = {"Content-Type": "application/json"}
    leaving.request("POST", "/api/plan", json.dumps(asked), headers)
    until(lambda: client.post("/api/plan", asked).status == 429, 5)
    leaving.close()
    fail = "import sys; print('warning', file=sys.stderr); sys.exit('unnoise: too little memory')"
    monkeypatch.setattr(trainers, "UNNOISE", (sys.executable, "-c", fail))

    def freed() -> Any:  # the one before was ended as its client left
        answer = client.post("/api/plan", {"source": "digits"})
        return answer if answer.status != 429 else None

    assert until(freed, 5).json == {"error": "too little memory"}


def test_who_trains_is_known_by_the_lock(run):
    assert trainers.process(run) is None and read(run)["state"] == "running"  # it is fresh
    (run / LOCK).write_text("")
    assert read(run)["state"] == "stopped"  # in order
    (run / LOCK).write_text(str(os.getpid()))  # of another boot, or a number in use again
    assert trainers.process(run) is None
    for text in ("x", "-1", "0", "9" * 30):
        (run / LOCK).write_text(text)
        assert trainers.process(run) is None
        with pytest.raises(ConfigError, match="nothing to stop"):
            trainers.stop(run)


@pytest.mark.slow
def test_a_training_outlives_the_server_and_is_stopped_and_resumed(place, client, monkeypatch):
    source = {"source": "digits", "name": "long", "settings": {"train.kimg": 2.0}}
    asked = client.post("/api/runs", source)
    name = asked.json["id"]
    first = entry(client, "long")
    assert first["id"] == name and first["state"] == "starting"
    twice = client.post("/api/runs", source)
    assert twice.status == 400
    assert client.post(f"/api/runs/{name}/resume").status == 400
    number = trainers.process(place / "long")
    assert number is not None and os.getsid(number) == number  # no terminal's signals reach it
    signals: list[Path] = []
    stop = trainers.stop
    monkeypatch.setattr(trainers, "stop", lambda folder: (signals.append(folder), stop(folder)))
    with served(place) as late:  # a server that knows nothing of it
        until(lambda: entry(late, "long")["state"] == "running")
        for _ in range(2):  # the second is no second signal
            assert late.post(f"/api/runs/{name}/stop").status == 200
        assert entry(late, "long")["state"] in ("stopping", "stopped")
        until(lambda: entry(late, "long")["state"] == "stopped")
    assert signals == [place / "long"]
    assert "stopped: everything is saved" in (place / "long" / trainers.LOG).read_text()
    assert entry(client, "long")["error"] is None
    seen = entry(client, "long")["nimg"] or 0
    assert client.post(f"/api/runs/{name}/resume").status == 200
    done = until(lambda: (one := entry(client, "long"))["state"] == "finished" and one, 60)
    assert done["nimg"] == 2048 > seen
    until(lambda: trainers.process(place / "long") is None)


def test_a_training_that_cannot_begin_says_why(place, client, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    asked = {"source": str(tmp_path / "empty"), "name": "none"}
    name = client.post("/api/runs", asked).json["id"]
    failed = until(lambda: (one := entry(client, "none"))["state"] == "failed" and one)
    assert "no images" in failed["error"] or "expected" in failed["error"], failed["error"]
    assert client.post(f"/api/runs/{name}/resume").status == 400
    monkeypatch.setattr(trainers, "UNNOISE", (sys.executable, "-c", "print('done')"))
    assert client.post("/api/runs", asked).json["id"] == name  # the name is free


# ---------------------------------------------------------------- in a browser


def two(place: Path) -> None:
    """Two runs with grids of other sizes at other times, and other settings."""
    for name, sizes in (("first", {1000: 10, 2000: 20}), ("second", {500: 5, 1500: 15, 4000: 40})):
        folder = make(place / name)
        for path in (folder / "samples").iterdir():
            path.unlink()
        for nimg, size in sizes.items():
            (folder / "samples" / f"{nimg:010d}.png").write_bytes(png(size, size))
    recorded = json.loads((place / "second" / "config.json").read_text())
    recorded["config"]["train"]["lr"] = 0.125
    (place / "second" / "config.json").write_text(json.dumps(recorded))


def shown(page: Any) -> list[int]:
    script = "all => Promise.all(all.map(one => one.decode().then(() => one.naturalWidth)))"
    return page.locator(".several img").evaluate_all(script)


def compare(page: Any) -> None:
    page.locator(".entry").nth(1).wait_for()
    for name in ("first", "second"):  # in this order, whichever is ticked
        page.get_by_label(f"show {name}").uncheck()
    for name in ("first", "second"):
        page.get_by_label(f"show {name}").check()
    page.locator(".several img").nth(1).wait_for()


def test_one_slider_shows_the_samples_of_all_ticked_runs(place, tab):
    two(place)
    page = tab("/#runs")
    compare(page)
    slider, said = page.locator("#slider"), page.locator(".several figcaption")
    assert shown(page) == [20, 40] and slider.get_attribute("max") == "4"
    slider.focus()
    seen = []
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
        seen.append((slider.get_attribute("aria-valuetext"), *said.all_inner_texts()))
    assert [row[0] for row in seen] == [f"{n} images" for n in ("2,000", "1,500", "1,000", "500")]
    assert seen[1][1:] == ("first after 1,000 images", "second after 1,500 images")
    assert seen[3][1] == "first no samples yet"
    page.keyboard.press("ArrowRight")
    assert shown(page) == [10, 5]
    differ = page.get_by_label("Differences").locator("tbody tr").all_inner_texts()
    assert differ == ["train.lr\t0.004\t0.125"]
    legend = page.locator(".chart figcaption").first.inner_text()
    assert "first · training loss" in legend and "second · training loss" in legend
    page.reload()  # loses nothing
    page.locator(".several img").nth(1).wait_for()
    assert slider.get_attribute("aria-valuetext") == "1,000 images"


@pytest.mark.slow
def test_a_run_that_trains_is_watched_live(place, tab):
    page = tab("/#runs")
    page.get_by_text("No run yet in").wait_for()
    asked: list[str] = []
    child = training(place / "live", "--train.time", "9s", "--train.log-every-kimg", "0.3")
    page.locator(".entry .state.running").wait_for(timeout=20_000)
    page.locator(".plot").first.wait_for(timeout=20_000)
    page.on("request", lambda request: asked.append(request.url))
    points = "() => document.querySelector('.plot').uplot.data[0].length"
    early = page.evaluate(points)
    page.wait_for_function(f"early => ({points})() > early + 3", arg=early, timeout=20_000)
    read_whole = [url for url in asked if re.search(r"/api/runs/\w+$", url)]
    news = [url for url in asked if "/metrics?from=" in url]
    assert news and "from=0&" not in " ".join(news)
    page.locator(".entry .state.finished").wait_for(timeout=30_000)
    assert child.wait(20) == 0
    assert len(read_whole) <= 3  # only as grids and checkpoints come
    whole = read(place / "live")["curves"]["loss"]["count"]
    page.wait_for_function(
        """whole => document.querySelector('.plot').uplot.data[1].filter(v => v !== null).length
           === whole""", arg=whole)  # fmt: skip


def test_new_measurements_keep_what_the_reader_chose(place, tab):
    two(place)
    folder = place / "first"
    page = tab(f"/#runs/{id_of(folder)}")
    page.locator("#settings summary").click()
    page.locator(".chart").first.get_by_role("button", name="training loss").click()
    page.locator("#slider").focus()
    page.keyboard.press("ArrowLeft")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"nimg": 3000, "loss": 0.125, "held_out_loss": 0.5}\n')
    (folder / "samples" / "0000003000.png").write_bytes(png(30, 30))
    page.locator(".run header", has_text="3,000").wait_for()
    page.wait_for_function("() => document.querySelector('#slider').max === '2'")
    assert page.locator(".grid figcaption").inner_text() == "Samples after 1,000 images"
    assert page.evaluate("document.activeElement.id") == "slider"
    assert page.locator("#settings details").get_attribute("open") is not None
    drawn = "document.querySelector('.plot').uplot.series.slice(1).map(one => one.show)"
    assert page.evaluate(drawn) == [False, True]
    page.go_back()


@pytest.mark.slow
def test_a_person_trains_on_a_folder_and_stops_it(place, tab, tmp_path):
    (tmp_path / "my cats").mkdir()
    for i in range(30):
        (tmp_path / "my cats" / f"{i}.png").write_bytes(png(16, 16, noise=True))
    page = tab("/#runs")
    plan, start = (page.get_by_role("button", name=name) for name in ("Plan", "Start training"))
    plan.wait_for()
    assert plan.is_disabled() and start.is_disabled()
    page.get_by_label("Folder of pictures").fill(str(tmp_path / "my dogs"))
    plan.click()
    page.get_by_text("no preset, folder or file").wait_for()
    page.get_by_label("Folder of pictures").fill(str(tmp_path / "my cats"))
    page.get_by_label("Training time").fill("10m")
    page.get_by_label("Picture size").fill("8")
    plan.click()
    page.locator(".plan", has_text="images/s").wait_for(timeout=90_000)
    page.get_by_label("Picture size").fill("16")
    assert start.is_disabled()  # the plan is of other settings
    page.get_by_label("Picture size").fill("8")
    start.click()
    page.locator(".entry .state.running").wait_for(timeout=60_000)
    assert page.locator(".entry").inner_text().startswith("my-cats")
    page.reload()
    page.get_by_role("button", name="stop and save: my-cats").click()
    page.locator(".entry .state.stopped").wait_for(timeout=60_000)
    page.get_by_role("button", name="resume: my-cats").click()
    page.locator(".entry .state.running").wait_for(timeout=60_000)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_screen_has_no_serious_fault_of_access(place, tab, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe")
    two(place)
    page = tab("/#runs", width=390, scheme=scheme)
    compare(page)
    for opened in (False, True):
        if opened:
            page.locator(".entry .facts a").first.click()
            page.locator(".run h1").wait_for()
        found = axe.Axe().run(page).response["violations"]
        serious = [one for one in found if one["impact"] in ("serious", "critical")]
        assert [(one["id"], one["nodes"][0]["html"]) for one in serious] == []
        assert page.evaluate("document.documentElement.scrollWidth") == 390
