"""Explore in a real browser, used as a person would."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

import unnoise
from tests.studio.pages import accessible, canvas, drop, state_of, wall
from unnoise.data.images import from_model, read_png

FAST: dict[str, Any] = {"sampler": "fast"}
PLANE = """async (rows) => {
  const { plane } = await import("/static/pca.js");
  return plane(rows.map((row) => Uint8Array.from(row)));
}"""
BRIGHT = "selector => document.querySelector(selector)?.width > 1"


def explore(tab, part: str, width: int = 1280, scheme: str = "light", **stored):
    """Open a part of Explore with the digits, as a page does that was used before; count its jobs
    in `page.jobs`."""
    page = tab("/#explore", width=width, scheme=scheme)
    values = {"explore.model": "digits", "explore.part": part}
    values |= {f"explore.{part}.digits": stored} if stored else {}
    for key, value in values.items():
        page.evaluate(
            "([k, v]) => localStorage.setItem(k, v)", [f"unnoise.{key}", json.dumps(value)]
        )
    page.jobs = []
    page.on(
        "request", lambda request: request.url.endswith("/api/jobs") and page.jobs.append(request)
    )
    page.reload()
    page.get_by_role("button", name="Latent walk").wait_for()
    return page


def seen(page, text: str) -> None:
    """Wait for a text in the stage."""
    page.locator(".stage", has_text=re.compile(text)).wait_for(timeout=30_000)


def at(page, right: int, down: int) -> None:
    """Wait until the walk shows the picture of a point."""
    text = re.compile(rf"^\s*{right} % right, {down} % down\s*, .* s")
    page.locator(".explore-here figcaption", has_text=text).wait_for(timeout=10_000)


# ---------------------------------------------------------------- sampler x steps

PLOT = {"num": 4, "seed": 3, "classes": None, "guidance": None, "steps": [2, 4]}


def test_a_cell_is_made_once_and_is_what_the_model_samples(tab):
    page = explore(tab, "plot", **PLOT, samplers=["ddim", "fast"])
    page.get_by_role("button", name="Make 3 cells").click()
    page.get_by_role("button", name="All are made").wait_for()
    assert len(page.jobs) == 3
    model = unnoise.load("digits")
    for name, asked in {
        "ddim, 4 steps": {"sampler": "ddim", "steps": 4},
        "fast, its": FAST,
    }.items():
        cell = page.get_by_role("button", name=re.compile(f"^{name}.*NFE"))
        picture = wall(page, (8, 8), f".explore-cell[aria-label^='{name}'] canvas")[..., 0]
        assert (picture == model.sample(4, 3, **asked)[:, 0].numpy()).all()
        assert " NFE · " in cell.inner_text()
    assert "4 NFE" in page.get_by_role("button", name="ddim, 2 steps").inner_text()

    page.get_by_label("Steps", exact=True).fill("4, 3, 2")
    page.get_by_role("button", name="Make 1 cell").click()
    page.get_by_role("button", name="All are made").wait_for()
    assert len(page.jobs) == 4
    assert page.locator(".explore-plot thead th").all_inner_texts() == [
        "Sampler", "2 steps", "3 steps", "4 steps"]  # fmt: skip

    page.reload()  # the server still has them
    page.get_by_role("button", name="All are made").wait_for()
    assert len(page.jobs) == 4
    page.get_by_role("button", name="ddim, 3 steps").click()
    page.get_by_role("dialog").locator(".wall canvas").wait_for()
    page.keyboard.press("Escape")
    assert page.get_by_role("dialog").count() == 0


@pytest.mark.slow
def test_a_plot_stops_and_says_what_cannot_be_made(tab):
    page = explore(tab, "plot", **{**PLOT, "steps": [900]}, samplers=["ddim", "heun"])
    page.get_by_role("button", name="Make 2 cells").click()
    seen(page, "step [0-9]+ of 900")
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Make 2 cells").wait_for()
    page.get_by_label("Steps", exact=True).fill("100001, 2")
    page.get_by_role("button", name="Make 4 cells").click()
    page.get_by_role("button", name="Try again").wait_for()
    alert = page.get_by_role("alert").inner_text()
    assert alert == "sample.steps: got 100001, expected 1 to 100,000"
    assert page.get_by_role("button", name="heun, 2 steps: 6 NFE").count() == 1


# ---------------------------------------------------------------- latent walk

HERE = ".explore-here canvas"


@pytest.mark.slow
def test_the_picture_follows_the_point(tab):
    page = explore(tab, "walk", corners=[5, 6, 7, 8], at=[0.5, 0.5], classes=[2], settings=FAST)
    at(page, 50, 50)
    corners = unnoise.load("digits").sample(seeds=[5, 6, 7, 8], label=2, **FAST)[:, 0].numpy()
    for i in range(4):
        page.wait_for_function(BRIGHT, arg=f".explore-corner{i} canvas")
        assert (canvas(page, f".explore-corner{i} canvas")[..., 0] == corners[i]).all()

    box = page.get_by_role("slider", name="point between the seeds").bounding_box()
    before = len(page.jobs)
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] + 90, box["y"] + box["height"] + 90, steps=60)
    page.mouse.up()
    at(page, 100, 100)
    assert 1 <= len(page.jobs) - before < 40  # the newest point, not every one
    assert (canvas(page, HERE)[..., 0] == corners[3]).all()

    page.keyboard.press("Home")
    at(page, 0, 0)
    assert (canvas(page, HERE)[..., 0] == corners[0]).all()
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("ArrowDown")
    at(page, 10, 2)

    page.get_by_role("button", name="Dice up right").click()
    page.get_by_role("slider", name="point between the seeds").press("End")
    at(page, 100, 100)
    page.reload()
    at(page, 100, 100)


@pytest.mark.slow
def test_a_walk_comes_back_from_its_png(tab, tmp_path):
    asked = {"corners": [5, 900, 7, 8], "at": [0.3, 0.9], "classes": [6], "settings": FAST}
    page = explore(tab, "walk", **asked)
    at(page, 30, 90)
    picture = canvas(page, HERE)[..., 0]
    with page.expect_download() as download:
        page.get_by_text("Save as PNG").click()
    download.value.save_as(tmp_path / "walk.png")
    assert (read_png(tmp_path / "walk.png")[0].numpy() == picture).all()
    other = explore(tab, "classes", seed=0, rows=1, classes=[1], settings=FAST)
    seen(other, "step 5 of 5, .* s")
    drop(other, tmp_path / "walk.png")
    at(other, 30, 90)
    assert (canvas(other, HERE)[..., 0] == picture).all()
    stored = json.loads(other.evaluate("localStorage.getItem('unnoise.explore.walk.digits')"))
    kept = {key: stored[key] for key in ("corners", "at", "classes")}
    assert kept == {key: asked[key] for key in kept}


@pytest.mark.slow
def test_the_square_is_filled_and_emptied_by_another_seed(tab):
    page = explore(tab, "walk", corners=[1, 1, 2, 2], at=[0, 0], classes=[4], settings=FAST)
    page.get_by_role("button", name="Fill the square").click()
    page.wait_for_function(BRIGHT, arg=".explore-pad canvas")
    page.locator("button.main:disabled", has_text="Fill the square").wait_for()
    at(page, 0, 0)
    pictures = wall(page, (8, 8), ".explore-pad canvas")[..., 0].reshape(7, 7, 8, 8).astype(int)
    assert (abs(pictures - pictures[:, :1]) <= 1).all()  # both ends of a row are one seed
    ends = unnoise.load("digits").sample(seeds=[1, 2], label=4, **FAST)[:, 0].numpy().astype(int)
    far = abs(pictures[:, 0, None] - ends).mean((2, 3))
    assert far[0, 0] < far[0, 1] and far[6, 1] < far[6, 0]
    page.get_by_role("button", name="Dice down left").click()
    page.wait_for_function("() => !document.querySelector('.explore-pad canvas')")


# ---------------------------------------------------------------- class x seed


def test_rows_are_seeds_and_columns_are_classes(tab):
    page = explore(tab, "classes", seed=7, rows=2, classes=[3, 8, 10], settings=FAST)
    seen(page, "step 5 of 5, .* s")
    assert page.locator(".explore-table thead th").all_inner_texts() == [
        "Seed",
        "3",
        "8",
        "no class",
    ]
    assert page.locator(".explore-table tbody th").all_inner_texts() == ["7", "8"]
    expected = unnoise.load("digits").sample(
        seeds=[7, 7, 7, 8, 8, 8], label=[3, 8, "none"] * 2, **FAST
    )
    for i, cell in enumerate(page.locator(".explore-table canvas").all()):
        values = cell.evaluate("c => [...c.getContext('2d').getImageData(0, 0, 8, 8).data]")
        assert (np.array(values).reshape(8, 8, 4)[..., 0] == expected[i, 0].numpy()).all()
    page.get_by_role("button", name="all in turn").click()
    seen(page, "step 5 of 5, .* s")
    page.wait_for_function("() => document.querySelectorAll('.explore-table canvas').length === 20")
    assert page.get_by_label("Seeds (rows)", exact=True).get_attribute("max") == "6"


@pytest.mark.slow
def test_a_model_without_classes_shows_its_seeds(tab, browser):
    page = explore(tab, "plot")

    def without(route) -> None:
        answer = route.fetch().json()
        for model in answer["models"]:
            model["shape"]["num_classes"] = 0
        route.fulfill(json=answer)

    page.route("**/api/models", without)
    page.reload()
    page.get_by_role("button", name="Class × seed").click()
    seen(page, "digits was trained without classes")
    seen(page, "step 10 of 10, .* s")
    assert page.locator(".explore-seeds canvas").count() == 6
    assert json.loads(page.jobs[-1].post_data)["label"] is None


# ---------------------------------------------------------------- paths


@pytest.mark.parametrize(("count", "values"), [(2, 64), (90, 300)])
def test_the_plane_is_numpys(tab, count, values):
    random = np.random.default_rng(count)
    rows = random.normal(size=(count, 4)) @ random.normal(size=(4, values)) * 25 + 128
    rows = np.clip(rows + 8 * random.normal(size=rows.shape), 0, 255).astype(np.uint8)
    found = tab("/").evaluate(PLANE, rows.tolist())
    u, s, _ = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    expected, points = (u * s)[:, :2], np.array(found["points"])
    expected *= np.sign((expected * points).sum(0))
    np.testing.assert_allclose(points, expected, atol=1e-5 * s[0])
    np.testing.assert_allclose(found["shares"], s[:2] ** 2 / (s**2).sum(), atol=1e-9)
    assert (points.max(0) >= -points.min(0)).all()


def test_paths_are_where_the_pictures_are(tab):
    asked = {"sampler": "ddim", "steps": 6}
    page = explore(tab, "paths", num=4, seed=2, classes=None, of="x0", settings=asked)
    page.locator(".explore-plane polyline").first.wait_for(state="attached")
    lines = page.locator(".explore-plane polyline.faint")
    text = "all => all.map(one => one.getAttribute('points'))"
    drawn = np.array([
        [list(map(float, point.split(","))) for point in line.split()]
        for line in lines.evaluate_all(text)
    ])  # fmt: skip
    steps = list(unnoise.load("digits").steps(range(2, 6), **asked))
    x0 = [from_model(step.prediction.x0) for step in steps[:-1]] + [from_model(steps[-1].x)]
    flat = np.stack([one.flatten(1).numpy() for one in x0], 1).reshape(24, -1).astype(float)
    u, s, _ = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    expected = (u * s)[:, :2]

    def distances(points: np.ndarray) -> np.ndarray:
        return np.linalg.norm(points[:, None] - points[None], axis=-1)

    own, wanted = distances(drawn.reshape(24, 2)), distances(expected)
    np.testing.assert_allclose(own / own.max(), wanted / wanted.max(), atol=2e-3)
    assert (canvas(page, ".explore-end canvas")[..., 0] == x0[-1][0, 0].numpy()).all()
    page.get_by_label("step", exact=True).fill("1")
    page.wait_for_function(
        "() => document.querySelector('.scrubber p').innerText.startsWith('step 2,')"
    )
    assert (canvas(page, ".explore-end canvas")[..., 0] == x0[1][0, 0].numpy()).all()
    page.get_by_role("button", name="Noisy x").click()
    x = from_model(steps[1].x / (steps[1].level.alpha ** 2 + steps[1].level.sigma ** 2) ** 0.5)
    assert (canvas(page, ".explore-end canvas")[..., 0] == x[0, 0].numpy()).all()


def test_the_last_step_has_noise_0(tab):
    page = explore(tab, "paths", num=2, seed=2, classes=None, of="x0", settings=FAST)
    seen(page, r"step 5, noise 0\. The")


# ---------------------------------------------------------------- all parts


@pytest.mark.slow
def test_a_refusal_stands_alone(tab):
    page = explore(tab, "classes", seed=0, rows=1, classes=[1], settings=FAST)
    gone = "model: no 'digits' here"

    def refused(press: str, blank: str) -> None:
        page.route("**/api/jobs", lambda route: route.fulfill(status=404, json={"error": gone}))
        page.get_by_role("button", name=press).click()
        alert = page.get_by_role("alert")
        alert.wait_for()
        assert alert.inner_text() == gone
        page.wait_for_function(
            "s => [...document.querySelectorAll(s)].every((one) => one.width === 1)", arg=blank
        )
        assert not re.search(r"step \d", page.locator(".stage").inner_text())
        page.unroute("**/api/jobs")

    seen(page, "step 5 of 5, .* s")
    refused("Make again", ".explore-table canvas")
    page.get_by_role("button", name="Make again").click()
    seen(page, "step 5 of 5, .* s")
    assert page.get_by_role("alert").count() == 0
    page.get_by_role("button", name="Paths").click()
    page.locator(".explore-plane polyline").first.wait_for(state="attached")
    refused("Make again", ".stage canvas")
    assert page.locator(".explore-plane").count() == 0
    page.get_by_role("button", name="Latent walk").click()
    at(page, 50, 50)
    page.wait_for_function(BRIGHT, arg=".explore-corner0 canvas")
    refused("Four new seeds", ".explore-walk canvas")


@pytest.mark.slow
def test_leaving_a_part_stops_its_job(tab, studio):
    slow = {"sampler": "ddim", "steps": 900}
    page = explore(tab, "classes", seed=0, rows=1, classes=None, settings=slow)
    seen(page, "step [0-9]+ of 900")
    job = studio.worker.running
    page.get_by_role("button", name="Sampler × steps").click()
    assert state_of(job) == "stopped"


@pytest.mark.slow
@pytest.mark.parametrize("part", ["plot", "walk", "classes", "paths"])
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_every_part_is_accessible_and_fits(tab, part, width, scheme):
    page = explore(tab, part, width, scheme)
    if part == "plot":
        page.get_by_role("button", name="Make 12 cells").click()
        page.get_by_role("button", name="All are made").wait_for()
    else:
        page.wait_for_timeout(2000)
    assert accessible(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_a_plot_is_made_while_nobody_looks(tab):
    page = tab("/#explore")
    page.locator("select").first.select_option("digits")
    page.get_by_role("button", name="Make 12 cells").wait_for()
    page.evaluate("() => (window.requestAnimationFrame = () => 0)")  # as in a hidden tab
    page.get_by_role("button", name="Make 12 cells").click()
    page.get_by_role("button", name="All are made").wait_for()
