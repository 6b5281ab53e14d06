"""The lessons: their numbers, computed in other ways too, and each page in a real browser."""

from __future__ import annotations

import base64
import json
import re
import threading
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

import unnoise
from tests.studio.client import studio as running
from tests.studio.pages import accessible, canvas, wall
from unnoise.diffusion.losses import Batch, Loss
from unnoise.evaluation import tiny
from unnoise.studio import lessons
from unnoise.studio.lessons import learning, sampling
from unnoise.studio.lessons.lesson import Bench, rms

NAMES = list(lessons.LESSONS)
SEEN = """() => [...document.querySelectorAll(".stage canvas")].map((it) => it.toDataURL()).join()
  + document.querySelector(".stage svg")?.outerHTML"""


@pytest.fixture(scope="module", autouse=True)
def few():
    """Fewer samples and values than a reader gets, computed as for a reader."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "STEPS", (1, 3, 10))
        patch.setattr(sampling, "SCALES", (0.0, 1.0, 3.0))
        patch.setattr(sampling, "SAMPLES", 50)
        patch.setattr(learning, "MEASURED", 40)
        patch.setattr(learning, "TIMES", (1, 100, 250, 400, 700, 1000))
        lessons._computed.cache_clear()
        yield
        lessons._computed.cache_clear()


@pytest.fixture(scope="module")
def bench() -> Bench:
    return lessons._bench("cpu")


@pytest.fixture(scope="module")
def read():
    """What the classifier reads."""
    network = tiny.trained(torch.device("cpu"))
    return lambda images: network(images.float() / 255).argmax(1)


@pytest.fixture(scope="module")
def data():
    return unnoise.load_data(unnoise.preset("digits"))


@pytest.fixture(scope="module")
def ten(data) -> np.ndarray:
    """The first held-out digit of each class in [-1, 1]."""
    held_out = range(data.num_train, len(data.images))
    rows = [next(i for i in held_out if data.labels[i] == label) for label in range(10)]
    return data.images[rows] / 127.5 - 1


def pictures(name: str, number: int = 0) -> np.ndarray:
    """The pictures of a lesson as its page gets them, (k, n, c, h, w)."""
    found = lessons.record(name)["pictures"][number]
    return np.frombuffer(base64.b64decode(found["pixels"]), np.uint8).reshape(found["shape"])


def facts(name: str) -> dict[str, list[str]]:
    return {fact["name"]: fact["values"] for fact in lessons.record(name)["facts"]}


def lines(name: str) -> dict[str, list[float]]:
    return {line["name"]: line["y"] for line in lessons.record(name)["plot"]["lines"]}


def pixels(x: Any) -> np.ndarray:
    return np.clip(np.round((np.asarray(x, np.float64) + 1) * 127.5), 0, 255)


def cosine(t: np.ndarray) -> np.ndarray:
    """alpha_bar of the papers' cosine schedule, t = 0 .. 1000."""
    f = np.cos((t / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    betas = np.minimum(1 - f[1:] / f[:-1], 0.999)
    return np.concatenate([[1], np.cumprod(1 - betas)])


ALPHA_BAR = cosine(np.arange(1001))


def logistic(v: Any) -> Any:
    return 1 / (1 + np.exp(-v))


def noised(x0: np.ndarray, t: int, eps: np.ndarray) -> np.ndarray:
    return ALPHA_BAR[t] ** 0.5 * x0 + (1 - ALPHA_BAR[t]) ** 0.5 * eps


def near(found: np.ndarray, expected: np.ndarray, most: int = 1) -> bool:
    """Whether pixels agree to a grey level, which rounding may take."""
    return bool(np.abs(found.astype(int) - expected).max() <= most)


# ---------------------------------------------------------------- the numbers


def test_noise_is_ddpms_forward_process(bench, ten, read):
    eps = bench.model.noise(range(297)).normal().numpy()
    for i, t in enumerate(learning.TIMES):
        assert near(pictures("noise")[i], pixels(noised(ten, t, eps[:10])))
    held_out = bench.data.images[1500:] / 127.5 - 1
    seen = torch.tensor(pixels(noised(held_out, 250, eps)))
    right = (read(seen).numpy() == bench.data.labels[1500:]).mean()
    assert lines("noise")["% right"][2] == pytest.approx(100 * right, abs=0.5)


def test_the_schedules_are_the_papers(ten):
    u = np.arange(1, 1001) / 1000
    sigmoid = (logistic(3) - logistic(6 * u - 3)) / (logistic(3) - logistic(-3))
    bars = {
        "linear": np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)), "cosine": ALPHA_BAR[1:],
        "sigmoid": np.maximum(sigmoid, 1e-9), "flow": (1 - u) ** 2 / ((1 - u) ** 2 + u**2),
    }  # fmt: skip
    assert lessons.record("schedule")["values"] == list(bars)
    for i, (name, bar) in enumerate(bars.items()):
        snr = bar / (1 - bar)
        assert lines("schedule")[name][:-1] == pytest.approx(snr[9:-1:10], rel=1e-4)
        assert (
            facts("schedule")["SNR below 0.01"][i]
            == f"{100 * (snr < 0.01).mean():.0f} % of the time"
        )
    answer = lessons.record("schedule")["answer"]
    assert answer.startswith("Linear: 33\u00a0% of its time, against 6\u00a0% (cosine)")


def test_the_guess_is_the_networks_and_ends_at_the_mean(bench, ten, data):
    eps, none = bench.model.noise(range(10)).normal().numpy(), torch.full((10,), 10)
    for i, t in enumerate(learning.TIMES):
        x_t = torch.tensor(noised(ten, t, eps), dtype=torch.float32)
        v = bench.model.network(x_t, torch.full((10,), t - 1.0), none)
        guess = ALPHA_BAR[t] ** 0.5 * x_t - (1 - ALPHA_BAR[t]) ** 0.5 * v
        assert near(pictures("network", 1)[i], pixels(guess))
        off = 127.5 * float((guess - torch.tensor(ten)).square().mean()) ** 0.5
        said = facts("network")["from guess to true digit"][i].removesuffix(" grey levels")
        assert float(said) == pytest.approx(off, abs=0.1)
    assert (pictures("network", 2)[0] == pixels(ten)).all()
    mean = data.images[:1500].mean(0)
    assert near(pictures("network", 3)[0, 0], mean)
    to_mean = [float(word.split()[0]) for word in facts("network")["from guess to mean digit"]]
    assert min(to_mean) == to_mean[-1] < 20 < to_mean[0]


def test_the_losses_are_the_packages_and_differ_by_their_weights(bench, data):
    rows = slice(data.num_train, data.num_train + 40)
    x0 = unnoise.to_model(torch.tensor(data.images[rows]))
    eps, label = bench.model.noise(range(40)).normal(), torch.tensor(data.labels[rows])
    found = {name: np.array(y) for name, y in lines("loss").items()}
    for i in (0, 12, 24):
        batch = Batch(x0, eps, torch.full((40,), 20.0 + 40 * i), label, 40)
        assert found["v"][i] == pytest.approx(
            float(Loss()(bench.model.diffusion, batch).mean()), rel=1e-3
        )
    bar = ALPHA_BAR[20:1000:40]
    assert found["x0"] == pytest.approx((1 - bar) * found["v"], rel=1e-3)
    assert found["eps"] == pytest.approx(bar * found["v"], rel=1e-3)
    low, high = facts("loss").values()
    assert low[1] == f"{100 * found['eps'][:5].sum() / found['eps'].sum():.0f} %"
    assert int(low[0][:-2]) < int(low[2][:-2]) < int(low[1][:-2])
    assert int(high[1][:-2]) < int(high[2][:-2]) < int(high[0][:-2])


def test_the_steps_are_the_models_walk_by_ddpms_formula(bench):
    how: dict[str, Any] = {"sampler": "ddpm", "steps": 20, "guidance_scale": 1}
    before, guess, fresh, after = (pictures("step", i) for i in range(4))
    assert (after[-1] == bench.model.sample(10, **how).numpy()).all()
    assert (before[1:] == after[:-1]).all()
    way, draw = list(bench.model.steps(range(10), **how)), bench.model.noise(range(10))
    levels = bench.model.grid(bench.model.settings(**how))
    x = levels[0].sigma * draw.normal().double().numpy()
    assert near(before[0], pixels(x))
    found = facts("step")
    for i, (t, s) in enumerate(pairwise(levels)):
        bar_t, bar_s = t.alpha**2, s.alpha**2
        beta = 1 - bar_t / bar_s
        a = bar_s**0.5 * beta / (1 - bar_t)  # DDPM (7)
        b = (1 - beta) ** 0.5 * (1 - bar_s) / (1 - bar_t)
        c = ((1 - bar_s) / (1 - bar_t) * beta) ** 0.5
        z = draw.normal().double().numpy() if i < 19 else np.zeros_like(x)
        assert near(fresh[i], pixels(z))
        x = a * way[i].prediction.x0.double().numpy() + b * x + c * z
        assert near(after[i], pixels(x)) and near(guess[i], pixels(way[i].prediction.x0))
        said = [found[name][i] for name in ("a, of the guess", "b, of x_t", "c, of the noise")]
        assert said == [f"{value:.3f}" for value in (a, b, c)]
        assert float(found["from guess to end"][i].split()[0]) == pytest.approx(
            rms(way[i].prediction.x0, way[-1].x), abs=0.06
        )


def test_quality_is_the_frechet_distance_of_the_samples(bench, data):
    network = tiny.trained(torch.device("cpu"))

    def distance(images) -> float:
        sets = (torch.tensor(x).float() / 255 for x in (images, data.images[:1500]))
        a, b = (network.features(x).double().numpy() for x in sets)
        covs = np.cov(a.T), np.cov(b.T)
        roots = np.linalg.eigvals(covs[0] @ covs[1]).real.clip(0) ** 0.5
        return float(
            ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(covs[0] + covs[1]) - 2 * roots.sum()
        )

    for number, sampler in enumerate(("ddim", "ddpm")):
        for i, steps in ((0, 1), (1, 3)):
            images = bench.model.sample(50, sampler=sampler, steps=steps, guidance_scale=1).numpy()
            assert (pictures("steps", number)[i] == images[:10]).all()
            assert lines("steps")[sampler.upper()][i] == pytest.approx(distance(images), rel=1e-2)
        assert lines("steps")[sampler.upper()] == sorted(
            lines("steps")[sampler.upper()], reverse=True
        )
    assert (
        lines("steps")["real digits"]
        == [pytest.approx(distance(data.images[1500:1550]), rel=1e-2)] * 2
    )


def test_guidance_buys_the_class_and_costs_variety(bench, data, read):
    labels = np.arange(50) % 10

    def spread(images, labels) -> float:
        kinds = [images[labels == i].astype(float) for i in range(10)]
        return float(np.mean([kind.var(0, ddof=1).mean() for kind in kinds])) ** 0.5

    real = spread(data.images[:1500], data.labels[:1500])
    right, varied = lines("guidance").values()
    for i, scale in ((0, 0.0), (2, 3.0)):
        images = bench.model.sample(50, guidance_scale=scale)
        assert (pictures("guidance")[i] == images[:40].numpy()).all()
        assert right[i] == pytest.approx(100 * (read(images).numpy() == labels).mean())
        assert varied[i] == pytest.approx(100 * spread(images.numpy(), labels) / real, rel=1e-4)
    assert right == sorted(right) and varied == sorted(varied, reverse=True)
    assert right[0] < 40 and right[-1] > 95


def test_the_nearest_digits_are_those_of_brute_force(bench, data):
    samples, train = bench.model.sample(50).numpy().astype(float), data.images[:1500].astype(float)
    both = np.stack([train, train[..., ::-1]])
    off = ((samples[:, None, None] - both) ** 2).mean((3, 4, 5)) ** 0.5
    all_, mirrored = off.min(1), off.argmin(1)
    order = [int(seed) for seed in lessons.record("copies")["values"]]
    first = np.sort(all_, 1)
    assert (np.diff(first[order, 0]) >= 0).all() and first[order[0], 0] == first[:, 0].min()
    assert lines("copies")["samples"] == pytest.approx(np.sort(first[:, 0]), rel=1e-5)
    ratios = facts("copies")["distance / mean to the 50 nearest"]
    for i, seed in enumerate(order):
        assert (pictures("copies", 0)[i, 0] == samples[seed]).all()
        rows = np.argsort(all_[seed], kind="stable")[:5]
        shown = [both[mirrored[seed, row], row] for row in rows]
        assert (pictures("copies", 1)[i] == np.stack(shown)).all()
        assert ratios[i] == f"{first[seed, 0] / first[seed, :50].mean():.2f}"


@pytest.mark.parametrize(("name", "number", "variable"), [
    ("noise", 2, "x_t"), ("network", 3, "guess"), ("step", 9, "x_s"), ("steps", 0, "ddpm"),
    ("guidance", 2, "images"), ("schedule", 0, "snr"), ("loss", 1, "error"), ("copies", 0, "found"),
])  # fmt: skip
def test_the_python_lines_compute_what_is_shown(name, number, variable, capsys):
    record = lessons.record(name)
    value = record["values"][number]
    space: dict[str, Any] = {}
    exec(record["code"].replace("{value}", value).replace("200", "50"), space)  # noqa: S102
    made, printed = space[variable], capsys.readouterr().out.split()
    if name in ("noise", "network", "step"):
        place = {"noise": 0, "network": 1, "step": 3}[name]
        assert near(pictures(name, place)[number], pixels(made))
    elif name in ("steps", "guidance"):
        shown = pictures(name, int(name == "steps"))[number]
        assert (shown == made[: len(shown)].numpy()).all()
    elif name == "schedule":
        assert f"{100 * float(printed[0]):.0f} % of the time" == facts(name)["SNR below 0.01"][0]
    elif name == "loss":
        assert 0.5 < float(made["eps"].square().mean()) / lines(name)["eps"][12] < 2  # of 10 digits
    else:
        assert float(printed[0].strip("tensor(,")) == pytest.approx(
            lines(name)["samples"][0], abs=1e-3
        )


# ---------------------------------------------------------------- the pages


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return {path.stem: path for path in lessons.write(tmp_path_factory.mktemp("lessons"))}


@pytest.fixture
def opened(browser, files):
    """Opens a lesson's file; it asked for nothing else and the browser complained of nothing."""
    wrong, contexts = list[str](), list[Any]()

    def open_file(name: str, width: int = 1280, scheme: str = "light") -> Any:
        size = {"width": width, "height": 800}
        contexts.append(browser.new_context(viewport=size, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        own = (*(path.as_uri() for path in files.values()), "data:")
        page.on("request", lambda it: it.url.startswith(own) or wrong.append(it.url))
        page.goto(files[name].as_uri())
        page.locator("h1").wait_for()
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert [text for text in wrong if not text.startswith("Canvas2D: ")] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_file_works_by_keys_alone_and_is_small(name, files, opened):
    assert files[name].stat().st_size < 300_000
    page, record = opened(name), lessons.record(name)
    assert page.locator("h1").inner_text() == record["title"]
    control = page.locator(
        ".lesson-control input, .lesson-control button[aria-pressed=false]"
    ).first
    assert page.locator(".lesson-control").locator("input, fieldset").count() == 1
    before = page.evaluate(SEEN)
    control.focus()
    page.keyboard.press("ArrowRight" if control.get_attribute("type") == "range" else "Enter")
    page.wait_for_function(f"before => ({SEEN})() !== before", arg=before)
    answer = page.locator("details", has_text="Answer")
    assert not answer.locator("p").is_visible()
    answer.locator("summary").focus()
    page.keyboard.press("Enter")
    assert answer.locator("p").inner_text() == record["answer"]
    link = page.locator(".lesson-question a").first.get_attribute("href")
    heading = re.sub(r"[^a-z0-9 -]", "", record["maths"].lower()).replace(" ", "-")
    assert link == f"{lessons.MATHS}#{heading}"
    following = page.get_by_role("link", name="Next:")
    if name != NAMES[-1]:
        following.click()
        assert page.url.endswith(f"{NAMES[NAMES.index(name) + 1]}.html")


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [("network", 390, "dark"), ("loss", 1280, "light"), ("guidance", 390, "light")],
)
def test_a_lesson_is_accessible(name, width, scheme, opened):
    pytest.importorskip("axe_playwright_python", reason="needs axe-playwright-python")
    page = opened(name, width, scheme)
    for summary in page.locator("summary").all():
        summary.click()
    assert accessible(page) == []


def test_every_lesson_fits_a_phone(files, opened):
    page = opened(NAMES[0], 360)
    for name in NAMES:
        page.goto(files[name].as_uri())
        page.locator("h1").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") == 360, name
        page.locator(".stage figure").last.evaluate("it => it.scrollIntoView()")
        box = page.locator(".lesson-control").bounding_box()
        assert 0 <= box["y"] < 600, f"{name}: the control is not seen with what it shows"


def test_the_pictures_on_the_screen_are_the_lessons(opened):
    page = opened("network")
    for number in (0, 5):
        page.get_by_label("Time t").fill(str(number))
        assert page.locator("output").inner_text() == str(learning.TIMES[number])
        for place in (0, 1):
            shown = wall(page, (8, 8), f".stage figure:nth-of-type({place + 1}) canvas")
            assert (shown[..., 0] == pictures("network", place)[number, :, 0]).all()
    mean = canvas(page, ".stage figure:nth-of-type(4) canvas")
    assert (mean[..., 0] == pictures("network", 3)[0, 0, 0]).all()


def curves(page: Any) -> tuple[float, list[list[tuple[float, float]]], list[tuple[float, float]]]:
    """The width of a plot, the points of its curves and its marks, in pixels."""
    wide, paths, marks = page.evaluate("""() => {
      const all = (selector) => [...document.querySelectorAll("svg " + selector)];
      const numbers = (it, ...keys) => keys.map((key) => +it.getAttribute(key));
      return [+document.querySelector("svg").getAttribute("width"),
        all(".line").map((it) => it.getAttribute("d")),
        all("circle").map((it) => numbers(it, "cx", "cy"))];
    }""")
    points = [re.split("[ML]", path)[1:] for path in paths]
    return wide, [[tuple(map(float, p.split())) for p in path] for path in points], marks


def test_the_mark_is_where_the_curve_has_the_controls_value(opened):
    page = opened("noise")
    page.get_by_label("Time t").fill("3")
    _, [points], [mark] = curves(page)
    assert points[3] == tuple(mark) and points == sorted(points)
    share = f"{lines('noise')['% right'][3]:.3g}"
    assert share in page.locator("figcaption", has_text="% right").inner_text()
    assert share in page.locator("svg").get_attribute("aria-label")


@pytest.mark.parametrize(("name", "log_x", "log_y"), [("noise", 0, 0), ("steps", 1, 1)])
def test_curves_fill_their_plot_and_agree_with_its_ticks(name, log_x, log_y, opened):
    page = opened(name)
    wide, found, _ = curves(page)
    assert {points[0][0] for points in found} == {58} and {points[-1][0] for points in found} == {
        wide - 16
    }
    heights = [y for points in found for _, y in points]
    assert 10 <= min(heights) < 30 and 150 < max(heights) <= 188
    for place, log, anchor in ((0, log_x, "middle"), (1, log_y, "end")):
        ticks = page.locator(f"svg g text[text-anchor={anchor}]").evaluate_all(
            "all => all.map((it) => "
            "[+it.textContent, +it.getAttribute('x'), +it.getAttribute('y') - 4])"
        )
        f = np.log if log else np.asarray
        line = np.polyfit(f([tick[0] for tick in ticks]), [tick[1 + place] for tick in ticks], 1)
        for curve, points in zip(lessons.record(name)["plot"]["lines"], found, strict=True):
            expected = np.polyval(line, f(curve["xy"[place]]))
            assert [point[place] for point in points] == pytest.approx(expected, abs=0.1)


def test_the_studio_shows_the_same_lessons(tab, studio):
    page = tab("/#learn")
    assert page.get_by_role("heading", name="Noise").wait_for(timeout=30_000) is None
    page.get_by_role("link", name="5 One step").click()
    page.get_by_role("heading", name="One step").wait_for(timeout=30_000)
    page.get_by_label("Step:").fill("19")
    shown = wall(page, (8, 8), ".stage figure:nth-of-type(4) canvas")
    assert (shown[..., 0] == pictures("step", 3)[19, :, 0]).all()
    page.go_back()
    page.get_by_role("heading", name="Noise").wait_for()
    assert studio.get("/api/lessons/step").json == json.loads(json.dumps(lessons.record("step")))
    page.evaluate("location.hash = 'learn/stepp'")
    assert "no 'stepp'; did you mean 'step'?" in page.get_by_role("alert").inner_text()
    assert studio.get("/api/lessons/stepp").status == 404


def test_a_server_that_ends_does_not_wait_for_a_lesson(tmp_path, monkeypatch):
    begun, done = threading.Event(), threading.Event()

    def slow(name: str, device: str) -> Any:
        begun.set()
        assert done.wait(20)

    monkeypatch.setattr(lessons, "record", slow)
    with running(tmp_path) as other:
        answers = list[Any]()
        asking = threading.Thread(target=lambda: answers.append(other.get("/api/lessons/loss")))
        asking.start()
        assert begun.wait(20)
        other.worker.close()
        asking.join(5)
    done.set()
    assert [(answer.status, answer.json) for answer in answers] == [
        (503, {"error": "the server ends"})
    ]


def test_readers_at_once_share_a_computation(monkeypatch):
    calls = list[Bench]()
    original = lessons.LESSONS["schedule"]
    monkeypatch.setitem(lessons.LESSONS, "schedule", lambda it: calls.append(it) or original(it))
    lessons._computed.cache_clear()
    readers = [threading.Thread(target=lessons.record, args=["schedule"]) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert len(calls) == 1
