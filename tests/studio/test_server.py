"""The page's server: what it makes is what the command line and Python make, bit for bit."""

from __future__ import annotations

import base64
import gc
import http.client
import itertools
import json
import os
import shlex
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("uvicorn", reason="needs the studio: pip install 'unnoise[studio]'")

import unnoise
from tests.studio.client import Done, Studio, read, until
from tests.studio.client import studio as running
from tests.studio.made import EVALUATION
from unnoise import cli, editing
from unnoise.checkpoint import save
from unnoise.config import SampleConfig, to_dict
from unnoise.data.images import png, read_png, read_png_text
from unnoise.diffusion.samplers import evaluations
from unnoise.records import MODEL_FILE, bundled
from unnoise.studio import jobs, pictures, works
from unnoise.studio.jobs import MOST_FRAMES, MOST_KEPT, MOST_KEPT_BYTES, MOST_WAITING
from unnoise.studio.recipes import asked

LONG = {"kind": "sample", "model": "digits", "num": 64, "seed": 7,
        "settings": {"sampler": "ddpm", "steps": 900, "spacing": "uniform"}}  # fmt: skip
"""A job of some ten seconds."""


@pytest.fixture(scope="module")
def digits() -> unnoise.Model:
    return unnoise.load("digits", "cpu")


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """A picture larger than the model's, and a mask."""
    shades = (torch.arange(16 * 16).reshape(1, 16, 16) % 251).to(torch.uint8)
    mask = torch.zeros(1, 8, 8, dtype=torch.uint8)
    mask[:, 2:6, 1:5] = 255
    return {"picture": png(shades, {}), "mask": png(mask, {})}


def text(files: dict[str, bytes]) -> dict[str, str]:
    return {name: base64.b64encode(content).decode() for name, content in files.items()}


KINDS: dict[str, dict[str, Any]] = {
    "plain": {"kind": "sample", "num": 3, "seed": 4},
    "seeds": {"kind": "sample", "seeds": [5, 3, 2**40], "label": "none"},
    "labels": {"kind": "sample", "num": 3, "label": ["3", None, "no class"]},
    "tuned": {"kind": "sample", "num": 2, "label": 3, "settings": {"sampler": "fast"}},
    "branch": {"kind": "sample", "num": 2, "settings": {"sampler": "ddim", "steps": 9},
               "label": [1, 2], "branches": [
                   {"step": 1, "settings": {"sampler": "ddpm", "steps": 7}, "label": ["4", "none"]},
                   {"step": 3, "settings": {"sampler": "heun", "guidance_scale": 2.5}}]},
    "walk": {"kind": "walk", "corners": [1, 2, 3, 4], "label": "8", "settings": {"steps": 4},
             "points": [[0.0, 0.0], [0.25, 0.75], [1.0, 1.0]]},
    "inpaint": {"kind": "inpaint", "num": 3, "label": 2, "settings": {"steps": 6}},
    "resample": {"kind": "inpaint", "num": 2, "seed": 3, "resample": 3, "settings": {"steps": 12}},
    "image": {"kind": "image", "num": 2, "strength": 0.45, "settings": {"sampler": "ddpm"}},
}  # fmt: skip


@pytest.fixture(scope="module")
def made(studio: Studio, files: dict[str, bytes]) -> dict[str, Done]:
    """Each of KINDS done once."""
    edits, found = text(files), {}
    for name, body in KINDS.items():
        more = {} if body["kind"] in ("sample", "walk") else {"picture": edits["picture"]}
        more |= {"mask": edits["mask"]} if body["kind"] == "inpaint" else {}
        found[name] = studio.make(model="digits", **body, **more)
        assert found[name].end["state"] == "done", found[name].end
    return found


def test_the_pictures_are_those_of_python(made, digits, files, tmp_path):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    picture = editing.read_picture(digits, tmp_path / "picture")
    mask = editing.read_mask(digits, tmp_path / "mask")
    known = ~mask.expand(3, 1, 8, 8)
    expected = {
        "plain": digits.sample(3, 4),
        "seeds": digits.sample(seeds=[5, 3, 2**40], label="none"),
        "labels": digits.sample(3, label=["3", None, "none"]),
        "tuned": digits.sample(2, label=3, sampler="fast"),
        "inpaint": editing.inpaint(digits, picture, mask, range(3), 2, steps=6),
        "resample": editing.inpaint(digits, picture, mask, [3, 4], resample=3, steps=12),
        "image": editing.image_to_image(digits, picture, 0.45, range(2), sampler="ddpm"),
    }
    for name, images in expected.items():
        assert torch.equal(made[name].pictures, images), name
    kept = made["inpaint"].pictures[known], picture.expand(3, 1, 8, 8)[known]
    assert torch.equal(*kept)


@pytest.mark.parametrize("name", KINDS)
def test_frames_and_header_say_what_there_is(name, made, studio):
    done = made[name]
    frames, header = done.frames, done.header
    assert [frame.step for frame in frames] == list(range(1, header["steps"] + 1))
    assert {frame.x.shape for frame in frames} == {tuple(header["shape"])}
    pictures = studio.worker.jobs[header["id"]].pictures
    assert torch.equal(done.pictures, pictures)
    assert (frames[-1].x == frames[-1].x0).all()
    assert frames[-1].noise == 0 and frames[0].noise > frames[-2].noise > 0
    for a, b in itertools.pairwise(frames):
        assert b.nfe > a.nfe if b.noise < a.noise else b.nfe == a.nfe  # up again costs nothing


@pytest.mark.parametrize("name", KINDS)
def test_the_python_code_makes_the_same(name, made, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file, content in files.items():
        Path(f"{file}.png").write_bytes(content)
    names: dict[str, Any] = {}
    exec(made[name].header["python"], names)  # noqa: S102  (our own code)
    assert torch.equal(names["images"], made[name].pictures)


@pytest.mark.parametrize("name", KINDS)
def test_a_png_has_the_recipe_that_makes_its_pictures_again(name, made, studio, tmp_path, capsys):
    done = made[name]
    sheet = studio.recipe(studio.png(done.header))
    assert sheet["recipe"] == done.header["recipe"] and sheet["model"] == "digits"
    again = studio.make(**sheet["asked"])
    assert torch.equal(again.pictures, done.pictures)
    for index in range(len(done.pictures)):
        content = studio.png(done.header, f"?index={index}")
        path = tmp_path / f"{index}.png"
        path.write_bytes(content)
        assert torch.equal(read_png(path), done.pictures[index])
        assert cli.main(["info", str(path)]) == 0
        one = studio.recipe(content)
        assert json.loads(capsys.readouterr().out) == one["recipe"]
        alone = studio.make(**one["asked"]).pictures[0]
        assert (alone.int() - done.pictures[index].int()).abs().max() <= 1  # of a batch of one


SETTINGS: list[dict[str, Any]] = [
    {},
    {"sampler": "balanced"},
    {"sampler": "dpmpp_3m", "sampler_options": {"curvature": 0.5}, "noises": []},
    {"noises": [30.0, 2.0, 0.2], "sampler": "ddim", "sampler_options": {}},
    {"sampler": "ddim", "eta": 0.5, "clip_x0": False, "spacing": "karras", "steps": 5},
    {"sampler": "heun", "churn": 2.0, "churn_range": [0.1, 50], "churn_noise": 1.01, "steps": 4},
    {"guidance_scale": -1, "guidance_interval": [0.2, 5.0], "dynamic_threshold": 0.9},
]


ASKED: list[dict[str, Any]] = [
    {"num": 2},
    {"seeds": [9, 4], "label": "none"},
    {"seed": 3, "num": 2, "label": "7"},
]


@pytest.mark.parametrize("number", range(len(SETTINGS)))
def test_the_command_writes_the_same_pixels_and_recipe(number, studio, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    body = {"kind": "sample", "model": "digits", "settings": SETTINGS[number]}
    done = studio.make(**body, **ASKED[number % len(ASKED)])
    words = shlex.split(done.header["command"])
    assert words[0] == "unnoise" and cli.main([*words[1:], "--out", "made"]) == 0
    for index, seed in enumerate(done.header["seeds"]):
        path = Path(f"made/seed-{seed:06d}.png")
        assert torch.equal(read_png(path), done.pictures[index])
        Path("ours.png").write_bytes(studio.png(done.header, f"?index={index}"))
        assert read_png_text("ours.png") == read_png_text(path)
    Path("ours.png").write_bytes(studio.png(done.header))
    assert torch.equal(read_png("ours.png"), read_png("made/grid.png"))
    assert read_png_text("ours.png") == read_png_text("made/grid.png")


@pytest.mark.parametrize("name", ["inpaint", "resample", "image"])
def test_the_command_of_an_edit_writes_the_same_pixels(name, made, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file, content in files.items():
        Path(f"{file}.png").write_bytes(content)
    words = shlex.split(made[name].header["command"])
    assert cli.main([*words[1:], "--out", "made"]) == 0
    for index, image in enumerate(made[name].pictures):
        path = Path("made") / f"{KINDS[name]['kind']}-{index:06d}.png"
        assert torch.equal(read_png(path), image)


def test_a_picture_of_the_command_line_is_restored(studio, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = "sample digits --seeds 3,14 --label none --sampler ddpm --steps 5 --eta 0 --out made"
    assert cli.main(words.split()) == 0
    found = studio.recipe(Path("made/grid.png").read_bytes())
    assert found["asked"]["settings"].keys() == {"sampler", "steps"} and not found["recipe"]["eta"]
    again = studio.make(**found["asked"]).pictures
    assert torch.equal(again[1], read_png("made/seed-000014.png"))


def test_settings_that_bring_others_are_all_asked_for():
    own = json.loads(json.dumps(to_dict(SampleConfig(steps=2, noises=(3.0, 1.0)))))
    about = {"id": "x", "settings": own, "shape": {"num_classes": 0}, "class_names": []}
    said = {**own, "model": "f00d", "seed": 1}
    few = asked({**said, "eta": 0.5}, about)
    assert few == {"kind": "sample", "num": 1, "seed": 1, "model": "x", "settings": {"eta": 0.5}}
    more = asked({**said, "steps": 5}, about)  # 5 steps alone would bring an ordinary grid
    assert more is not None and more["settings"] == {**own, "steps": 5}
    assert asked({**said, "guide": "f00d"}, about) is None
    assert asked({**said, "edit": "inpaint"}, about) is None


def test_a_stream_resumes_anywhere(made, studio):
    whole = made["plain"]
    first = whole.content
    starts = []
    rest = first
    while rest:
        starts.append(len(first) - len(rest))
        rest = rest[4 + int.from_bytes(rest[:4], "little") :]
    for number, at in enumerate([*starts, len(first)]):
        assert studio.finish(whole.header, number).content == first[at:]
    assert studio.finish(whole.header, 10**5).content == b""


def opened(studio: Studio, header: dict[str, Any]) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", studio.port, timeout=30)
    connection.request("GET", f"/api/jobs/{header['id']}")
    yield connection.getresponse()
    connection.close()


def test_a_dropped_stream_leaves_no_listener_and_stops_nothing(studio):
    header = studio.start(**LONG)
    job = studio.worker.jobs[header["id"]]
    until(lambda: len(job.records) > 2)
    streams = [opened(studio, header) for _ in range(3)]
    for stream in streams:
        assert next(stream).read(100)
    until(lambda: len(job.listeners) == 3)
    for stream in streams:
        next(stream, None)
    until(lambda: not job.listeners)
    before = len(job.records)
    until(lambda: len(job.records) > before)
    assert job.state == "running"
    studio.post(f"/api/jobs/{header['id']}/stop")


def test_stop_ends_within_a_step(studio):
    header = studio.start(**{**LONG, "settings": {"sampler": "ddpm", "steps": 100}})
    job = studio.worker.jobs[header["id"]]
    until(lambda: len(job.records) > 4)
    assert studio.post(f"/api/jobs/{header['id']}/stop").json["id"] == header["id"]
    frames = len(job.records)
    done = studio.finish(header)
    assert done.end["state"] == "stopped" and done.end["error"] is None
    assert len(job.records) <= frames + 2  # the step that was on its way, and the end
    assert studio.get(f"/api/jobs/{header['id']}/png").status == 409
    assert studio.post(f"/api/jobs/{header['id']}/stop").json["state"] == "stopped"
    assert studio.finish(header).content == done.content


def test_a_waiting_job_stops_at_once_and_makes_room(studio):
    long = studio.start(**LONG)
    until(lambda: studio.get("/api/state").json["running"] == long["id"])
    short = {"kind": "sample", "model": "digits", "num": 1, "settings": {"steps": 1}}
    waiting = [studio.start(**short) for _ in range(MOST_WAITING)]
    full = studio.post("/api/jobs", {**short, "num": 2})
    assert full.status == 429 and "jobs are waiting" in full.json["error"]
    assert studio.get("/api/state").json["waiting"] == MOST_WAITING
    assert studio.post(f"/api/jobs/{waiting[0]['id']}/stop").json["state"] == "stopped"
    ended = studio.finish(waiting[0])
    assert ended.end["state"] == "stopped" and not ended.frames
    assert studio.worker.jobs[long["id"]].state == "running"
    last = studio.start(**short)
    studio.post(f"/api/jobs/{long['id']}/stop")
    assert all(studio.finish(one).end["state"] == "done" for one in [*waiting[1:], last])


def test_the_jobs_of_many_clients_do_not_mix(studio, digits):
    wrong: list[str] = []

    def client(number: int) -> None:
        for turn in range(4):
            seed, steps = 100 * number + turn, 3 + number
            done = studio.make(kind="sample", model="digits", num=2, seed=seed,
                               settings={"sampler": "ddim", "steps": steps})  # fmt: skip
            if done.header["seeds"] != [seed, seed + 1] or len(done.frames) != steps:
                wrong.append(f"{number} {turn}: {done.header}")
            expected = digits.sample(2, seed, sampler="ddim", steps=steps)
            if not torch.equal(done.pictures, expected):
                wrong.append(f"{number} {turn}: pictures")

    threads = [threading.Thread(target=client, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_branch_changes_only_what_comes_after(studio):
    body = {"kind": "sample", "model": "digits", "num": 3, "settings": {"sampler": "ddim",
            "steps": 10}}  # fmt: skip
    plain = studio.make(**body)
    same = studio.make(**body, branches=[{"step": 4, "settings": body["settings"]}])
    assert torch.equal(same.pictures, plain.pictures)
    assert [f.nfe for f in same.frames] == [f.nfe for f in plain.frames]
    for a, b in zip(same.frames, plain.frames, strict=True):
        assert (a.x == b.x).all() and (a.x0 == b.x0).all() and a.noise == b.noise
    more = {"sampler": "ddim", "steps": 30}
    other = studio.make(**body, branches=[{"step": 4, "settings": more, "label": "none"}])
    assert len(other.frames) == other.header["steps"] > len(plain.frames)
    for a, b in zip(other.frames[:4], plain.frames[:4], strict=True):
        assert (a.x == b.x).all() and (a.x0 == b.x0).all()
    assert not torch.equal(other.pictures, plain.pictures)


def test_long_jobs_keep_some_frames_and_the_last(studio, monkeypatch):
    settings = {"sampler": "ddim", "steps": 102, "guidance_scale": 1.0, "spacing": "uniform"}
    body = {"kind": "sample", "model": "digits", "num": 1, "settings": settings}
    done = studio.make(**body)
    assert [f.step for f in done.frames] == list(range(2, 103, 2))
    assert len(done.frames) <= MOST_FRAMES
    assert done.frames[-1].nfe == evaluations("ddim", 102) == 102
    monkeypatch.setattr(jobs, "MOST_FRAME_BYTES", 9 * 2 * 64)
    assert [f.step for f in studio.make(**body).frames] == [*range(12, 102, 12), 102]


def test_the_memory_of_kept_jobs_is_bounded(monkeypatch):
    monkeypatch.setattr(jobs, "MOST_KEPT", 12)
    with running() as studio:
        worker, body = studio.worker, {"kind": "sample", "model": "digits", "num": 1}
        small = {"sampler": "ddim", "steps": 1}
        for seed in range(20):
            last = studio.make(**body, seed=seed, settings=small)
        until(lambda: worker.running is None)
        assert len(worker.jobs) == 12 and last.header["id"] in worker.jobs
        assert all(job.model is None for job in worker.jobs.values())
        monkeypatch.setattr(jobs, "MOST_KEPT_BYTES", 3 * len(last.content))
        studio.make(**body, settings=small)
        until(lambda: worker.running is None)
        assert sum(len(r) for job in worker.jobs.values() for r in job.records) <= (
            jobs.MOST_KEPT_BYTES
        )
        assert 1 <= len(worker.jobs) <= 3 and MOST_KEPT_BYTES < 2**28


def test_jobs_that_are_read_outlive_those_that_are_not(monkeypatch):
    assert MOST_KEPT > 100  # a walk through the square, before the square itself is saved
    monkeypatch.setattr(jobs, "MOST_KEPT", 5)
    small = {"kind": "sample", "model": "digits", "num": 1, "settings": {"steps": 1}}
    with running() as studio:
        read, other = studio.make(**small), studio.make(**small)
        ends = itertools.cycle(["", "/png", "/nearest?index=0"])
        for end in itertools.islice(ends, 9):
            studio.make(**small)
            assert studio.get(f"/api/jobs/{read.header['id']}{end}").status == 200
        assert studio.get(f"/api/jobs/{other.header['id']}/png").status == 404


def test_a_job_that_ended_keeps_no_upload(studio, files):
    done = studio.make(kind="image", model="digits", picture=text(files)["picture"], num=1)
    until(lambda: studio.worker.running is None)
    job = studio.worker.jobs[done.header["id"]]
    gc.collect()
    held = [one for one in gc.get_objects() if issubclass(type(one), works.Edit | works.Plan)]
    assert job.plan is None and not held
    assert studio.png(done.header, "?index=0") and studio.png(done.header)


def run_of(folder: Path, name: str = "digits") -> Path:
    """A run folder with a bundled model and a checkpoint that says that it is one."""
    folder.mkdir(parents=True)
    shutil.copy(bundled()[name], folder / MODEL_FILE)
    record = unnoise.load(name).record
    (folder / "config.json").write_text(json.dumps({"config": record["config"], "data": "f00d"}))
    checkpoint = folder / "checkpoints" / "step-00000001"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text(json.dumps(record))
    return folder


def test_models_are_the_bundled_ones_and_those_of_runs(tmp_path):
    good, damaged, cut = (run_of(tmp_path / name) for name in ("good", "damaged", "cut"))
    (damaged / MODEL_FILE).write_bytes(b"no model")
    (damaged / "checkpoints/step-00000001/state.json").write_text("{}")
    whole = (cut / MODEL_FILE).read_bytes()
    (cut / MODEL_FILE).write_bytes(whole[:-1000])
    with running(tmp_path) as studio:
        models = studio.get("/api/models").json["models"]
        names = [(model["kind"], model["name"]) for model in models]
        assert names[:3] == [("bundled", name) for name in bundled()]
        assert sorted(names[3:]) == [
            ("checkpoint", "cut step-00000001"), ("checkpoint", "good step-00000001"),
            ("run", "cut"), ("run", "good"),
        ]  # fmt: skip
        ids = {model["name"]: model["id"] for model in models}
        done = studio.make(kind="sample", model=ids["good"], num=2)
        assert shlex.split(done.header["command"])[:3] == ["unnoise", "sample", str(good)]
        assert torch.equal(done.pictures, unnoise.load(good).sample(2))
        for name in ("cut", "good step-00000001"):
            refused = studio.post("/api/jobs", {"kind": "sample", "model": ids[name]})
            assert refused.status == 400 and len(refused.json["error"].splitlines()) == 1
        gone = studio.post("/api/jobs", {"kind": "sample", "model": "0123456789ab"})
        assert gone.status == 404 and "reload the page" in gone.json["error"]


def test_a_model_that_changes_is_loaded_anew(tmp_path):
    folder = run_of(tmp_path / "run")
    with running(tmp_path) as studio:
        (key,) = (m["id"] for m in studio.get("/api/models").json["models"] if m["kind"] == "run")
        first = studio.make(kind="sample", model=key, num=1, settings={"steps": 3})
        model = unnoise.load(folder)
        with torch.inference_mode():
            for value in model.network.parameters():
                value.mul_(1.05)
        del model.record["weights"]
        model.save(folder / MODEL_FILE)
        os.utime(folder / MODEL_FILE, ns=(1, 1))
        expected = unnoise.load(folder).sample(1, steps=3)
        second = studio.make(kind="sample", model=key, num=1, settings={"steps": 3})
        assert torch.equal(second.pictures, expected)
        assert not torch.equal(first.pictures, expected)
        shutil.rmtree(folder / "checkpoints")
        (folder / MODEL_FILE).unlink()
        assert studio.post("/api/jobs", {"kind": "sample", "model": key}).status == 404
        assert studio.finish(second.header).content == second.content


def test_an_evaluation_of_other_weights_is_not_judged(tmp_path):
    a, b = (run_of(tmp_path / name) for name in "ab")
    own = unnoise.load("digits")

    def measured(folder: Path, weights: str) -> None:
        record = {**EVALUATION, "model": {**EVALUATION["model"], "weights": weights}}
        (folder / "evaluation.json").write_text(json.dumps(record))

    def compared(*names: str) -> Any:
        return studio.get("/api/compare?a={}&b={}".format(*(ids[name] for name in names))).json

    with running(tmp_path) as studio:
        ids = {model["name"]: model["id"] for model in studio.get("/api/models").json["models"]}
        measured(a, own.weights_hash)
        assert compared("a", "b") == {"judged": None, "evaluated": [True, False], "notes": []}
        measured(b, own.weights_hash)
        assert compared("a", "b")["judged"] and compared("a", "b step-00000001")["judged"]
        measured(b, "0123456789ab")
        found = compared("a", "b")
        said = f"other weights (0123456789ab) than the model ({own.weights_hash})"
        assert found["judged"] is None and found["evaluated"] == [True, False]
        assert found["notes"] == [f"b: its evaluation is of {said}"]
        digits = own.weights_hash
        own.record.pop("weights")  # as the record of a checkpoint
        with torch.inference_mode():
            next(own.network.parameters()).mul_(1.05)
        save(b / "checkpoints", 2, {"ema": dict(own.network.state_dict())}, own.record)
        ids["later"] = f"{ids['b']}-step-00000002"
        measured(b, digits)
        found = compared("a", "later")
        assert found["judged"] is None and own.weights_hash != digits
        assert f"({digits}) than the model ({own.weights_hash})" in found["notes"][0]
        measured(b, own.weights_hash)
        assert compared("a", "later")["judged"] and not compared("a", "b")["judged"]


def test_the_training_pictures_are_read_once_and_by_one(studio, monkeypatch):
    made, inside, loads = studio.make(kind="sample", model="digits", num=1), [], []

    def load(config: Any) -> Any:
        loads.append(config)
        return true_load(config)

    def nearest(*arguments: Any) -> Any:
        inside.append(1)
        time.sleep(0.05)
        assert inside == [1]
        inside.pop()
        return true_nearest(*arguments)

    true_load, true_nearest = pictures.load, pictures.nearest
    monkeypatch.setattr(pictures, "load", load)
    monkeypatch.setattr(pictures, "nearest", nearest)
    pictures.training_data.cache_clear()
    path = f"/api/jobs/{made.header['id']}/nearest?index=0"
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(studio.get, [path] * 4))
    assert [one.status for one in found] == [200] * 4 and len(loads) == 1
    assert len({one.content for one in found}) == 1


def test_a_request_looks_into_the_run_folders_once(studio, monkeypatch):
    looks = []
    folders = studio.models.folders
    monkeypatch.setattr(studio.models, "folders", lambda: (looks.append(1), folders())[1])
    studio.make(kind="sample", model="digits", num=1)
    assert len(looks) == 1
    studio.get("/api/compare?a=digits&b=emoji")
    assert len(looks) == 2


@pytest.mark.parametrize("device", ["nope", "cuda:", "cuda:x", "CPU", "cpu\n"])
def test_a_device_that_cannot_be_is_told_at_once(device, capsys, monkeypatch):
    monkeypatch.setattr("unnoise.cli.studio._listen", lambda *_: pytest.fail("serves"))
    assert cli.main(["studio", "--device", device]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--device: got {device!r}, expected auto, cpu, cuda" in line


def test_a_fault_of_ours_is_told_and_the_worker_goes_on(studio, monkeypatch, capsys):
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("of the test")

    body = {"kind": "sample", "model": "digits", "num": 1}
    with monkeypatch.context() as patched:
        patched.setattr(jobs, "_frame", broken)
        end = studio.make(**body).end
    assert end["state"] == "failed" and end["error"] == "ZeroDivisionError: of the test"
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert studio.make(**body).end["state"] == "done"


def test_what_the_page_asks_first(studio):
    until(lambda: studio.worker.running is None)
    state = studio.get("/api/state").json
    assert state["worker"] in ("starting", "ready") and state["running"] is None
    found = {field["name"]: field for field in studio.get("/api/fields").json["fields"]}
    assert found["sampler"]["type"] == "choice" and "unipc_3" in found["sampler"]["choices"]
    assert (found["steps"]["least"], found["steps"]["most"]) == (1, 100_000)
    assert found["guidance_scale"]["help"].startswith("Push towards the class")
    assert read(b"", {}).frames == []
