"""Play and Compare in a real browser, used as a person would."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import unnoise
from tests.studio.client import until
from tests.studio.pages import accessible, done, drop, wall
from unnoise.data.images import read_png, read_png_text


def choose(tab, **stored) -> None:
    """Open Play with these choices, as a page does that was used before."""
    first = {"model": "digits", "num": 6, "seed": 0, "locked": False, "classes": None,
             "settings": {"sampler": "fast"}}  # fmt: skip
    tab.evaluate(
        "text => localStorage.setItem('unnoise.play', text)", json.dumps({**first, **stored})
    )
    tab.evaluate("() => sessionStorage.clear()")  # or the job before is found again
    tab.reload()
    done(tab)


def at(page, step: int) -> None:
    """Wait until a step is shown and painted."""
    page.wait_for_function(
        "words => document.querySelector('[aria-label=step]').ariaValueText.startsWith(words)",
        arg=f"step {step},",
    )
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")


def grey(images) -> np.ndarray:
    return images[:, 0].numpy()


def test_a_new_page_shows_a_bundled_model_at_work(tab):
    page = tab()
    done(page)
    assert "emoji" in page.locator("select").first.inner_text()
    pictures = wall(page, (32, 32))
    assert len(pictures) == 20 and all(picture[..., 3].max() > 200 for picture in pictures)
    assert page.title() == "Play · unnoise studio"


def test_the_wall_shows_what_the_model_samples(tab):
    page = tab()
    choose(page, seed=5, num=7)
    expected = grey(unnoise.load("digits").sample(7, 5, sampler="fast"))
    assert (wall(page, (8, 8))[:7, ..., 0] == expected).all()
    page.locator("text='3'").click()
    page.wait_for_function(
        "() => document.querySelector('.recipe code').textContent.includes('--label 3')"
    )
    done(page)
    expected = grey(unnoise.load("digits").sample(7, 5, label=3, sampler="fast"))
    assert (wall(page, (8, 8))[:7, ..., 0] == expected).all()


def test_steps_are_scrubbed_and_keys_work(tab):
    page = tab()
    choose(page, settings={"sampler": "ddim", "steps": 12})
    last = wall(page, (8, 8))
    page.locator("main").click(position={"x": 5, "y": 5})
    for _ in range(11):
        page.keyboard.press("ArrowLeft")
    at(page, 1)
    first = wall(page, (8, 8))
    page.keyboard.press("x")
    at(page, 1)
    noisy = wall(page, (8, 8))
    assert (first != last).any() and (noisy != first).any()
    assert abs(np.corrcoef(noisy[0, ..., 0].flat, last[0, ..., 0].flat)[0, 1]) < 0.6
    for _ in range(11):
        page.keyboard.press("ArrowRight")
    at(page, 12)
    assert (wall(page, (8, 8)) == last).all()  # without noise x_t is the picture
    page.keyboard.press("r")
    page.wait_for_function("() => document.querySelector('[id^=number]').value !== '0'")


def test_a_branch_keeps_what_is_before_and_changes_the_rest(tab):
    page = tab()
    choose(page, settings={"sampler": "ddim", "steps": 12}, num=4)
    slider = page.get_by_label("step", exact=True)
    slider.fill("5")
    at(page, 6)
    before = wall(page, (8, 8))
    page.get_by_role("button", name="Branch from here").click()
    assert "step 6" in page.locator(".branch").inner_text()
    page.locator("text='8'").click()
    page.wait_for_function(
        "() => document.querySelector('.recipe').textContent.includes('start=steps')"
    )
    done(page)
    model = unnoise.load("digits")
    asked = {"sampler": "ddim", "steps": 12}
    start = list(model.steps(range(4), **asked))[5]
    expected = list(model.steps(range(4), label=8, start=start, **asked))[-1]
    shown = wall(page, (8, 8))[:4, ..., 0]
    assert (shown == grey(unnoise.from_model(expected.x))).all()
    slider.fill("5")
    at(page, 6)
    assert (wall(page, (8, 8)) == before).all()
    page.get_by_role("button", name="Leave the branch").click()
    done(page)
    assert (wall(page, (8, 8))[:4, ..., 0] != shown).any()


def test_a_saved_picture_dropped_anywhere_restores_everything(tab, tmp_path):
    page = tab()
    choose(page, seed=40, num=5, classes=[2, 7], settings={"sampler": "heun", "steps": 6})
    pictures = wall(page, (8, 8))
    page.locator(".canvas").click(position={"x": 5, "y": 5})
    files = []
    for text in ("Save this as PNG", "Save all as PNG"):
        if text == "Save all as PNG":
            page.locator(".canvas").click(position={"x": 5, "y": 5})
        with page.expect_download() as download:
            page.locator(f"text={text}").click()
        files.append(tmp_path / download.value.suggested_filename)
        download.value.save_as(files[-1])
    assert [file.name for file in files] == ["seed-000040.png", "grid.png"]
    assert (read_png(files[0])[0].numpy() == pictures[0, ..., 0]).all()
    recipe = json.loads(read_png_text(files[0])["unnoise"])
    assert (recipe["seed"], recipe["label"], recipe["steps"]) == (40, 2, 6)
    for file, count in zip(files, (1, 5), strict=True):
        choose(page, model="cifar10-small", num=1)
        page.evaluate("location.hash = 'compare'")
        drop(page, file)
        page.wait_for_function(
            "words => document.querySelector('.recipe')?.textContent.includes(words)",
            arg="sampler='heun', steps=6",
        )
        done(page)
        restored = wall(page, (8, 8))[:count]
        assert (restored == pictures[:count]).all()


def test_a_reload_loses_nothing(tab):
    page = tab()
    choose(page, seed=11, num=3, classes=[4], settings={"steps": 7, "sampler": "ddim"})
    pictures = wall(page, (8, 8))
    page.reload()
    done(page)
    assert (wall(page, (8, 8)) == pictures).all()
    assert page.get_by_label("First seed").input_value() == "11"


def test_what_the_server_refuses_is_its_own_line(tab):
    page = tab()
    choose(page)
    page.locator("summary", has_text="More settings").click()
    page.get_by_label("Churn", exact=True).fill("3")
    alert = page.locator(".stage [role=alert]")
    alert.wait_for()
    assert alert.inner_text().startswith("sample.churn: sampler 'ipndm_edm' has none; expected")
    page.get_by_label("Churn", exact=True).fill("0")
    done(page)
    assert alert.count() == 0
    page.get_by_label("Guidance, number").fill("nonsense")
    assert "fast" in page.locator(".recipe").text_content()


def test_stop_ends_a_long_job(tab, studio):
    page = tab()
    choose(page, model="emoji", num=2)
    page.get_by_role("button", name="Choose steps").click()
    page.get_by_label("Steps, number").fill("900")
    page.wait_for_function("() => document.querySelector('.caption').innerText.includes('of 900')")
    page.get_by_role("button", name="Stop").click()
    page.wait_for_function("() => document.querySelector('.caption').innerText.endsWith('stopped')")
    until(lambda: studio.worker.running is None)


@pytest.mark.slow
def test_two_tabs_never_mix(tab):
    pages = [tab(), tab()]
    model = unnoise.load("digits")
    for label, page in enumerate(pages, 3):
        choose(page, classes=[label], num=4)
    for _ in range(3):
        for page in pages:
            page.get_by_role("button", name="Dice").click()
    for label, page in enumerate(pages, 3):
        seed = int(page.get_by_label("First seed").input_value())
        page.wait_for_function(
            f"() => document.querySelector('.recipe').textContent.includes('{seed}-{seed + 3} ')"
            f" || document.querySelector('.recipe').textContent.includes('{seed}-{seed + 3}')"
        )
        done(page)
        expected = grey(model.sample(4, seed, label=label, sampler="fast"))
        assert (wall(page, (8, 8))[..., 0] == expected).all()


def test_a_copy_is_told_by_its_nearest_training_pictures(tab):
    page = tab()
    choose(page)
    page.locator(".canvas").first.click(position={"x": 5, "y": 5})
    page.locator("summary", has_text="Is it a copy").click()
    page.locator(".nearest h3").wait_for(timeout=20_000)
    words = page.locator(".nearest figcaption").all_inner_texts()
    assert words[0] == "made" and len(words) == 6
    assert sorted(map(float, words[1:])) == list(map(float, words[1:]))


def test_two_models_are_compared_on_equal_seeds(tab):
    page = tab("/#compare")
    page.locator("select").first.select_option("digits")
    page.get_by_label("Pictures, number").fill("4")
    for side in ("A", "B"):
        done(page, f"section[aria-label={side}] .caption")
    model = unnoise.load("digits")
    for side, sampler in (("A", "best"), ("B", "fast")):
        shown = wall(page, (8, 8), f"section[aria-label={side}] canvas")
        assert (shown[..., 0] == grey(model.sample(4, sampler=sampler))).all()
    page.get_by_label("Step of both").fill("0.5")
    captions = page.locator(".side .caption").all_inner_texts()
    assert [caption.split(",")[0] for caption in captions] == ["step 10 of 20", "step 3 of 5"]


@pytest.mark.parametrize(
    ("path", "scheme"),
    [
        ("/", "dark"),
        pytest.param("/", "light", marks=pytest.mark.slow),
        pytest.param("/#compare", "light", marks=pytest.mark.slow),
        pytest.param("/#compare", "dark", marks=pytest.mark.slow),
    ],
)
def test_pages_are_accessible(tab, path, scheme):
    pytest.importorskip("axe_playwright_python", reason="needs axe-playwright-python")
    page = tab(path, scheme=scheme, width=390 if scheme == "dark" else 1280)
    done(page)
    assert accessible(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_page_asks_nobody_but_its_server(tab, studio):
    asked = []
    page = tab()
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    done(page)
    own = (studio.address, "data:", "blob:")
    assert [url for url in asked if not url.startswith(own)] == []


def test_the_files_of_the_page_are_small_and_those_of_others_unchanged():
    import hashlib
    import re

    static = Path(unnoise.__file__).parent / "studio" / "static"
    files = [path for path in static.rglob("*") if path.suffix in (".js", ".css", ".html")]
    assert sum(path.stat().st_size for path in files) < 264_000  # of which the lessons are 12,000
    table = (static / "vendor" / "README.md").read_text()
    named = dict(re.findall(r"^\| (\S+) \|.*\| ([0-9a-f]{64}) \|$", table, re.MULTILINE))
    there = {path.name for path in (static / "vendor").iterdir()} - {"README.md"}
    assert named.keys() == there
    for name, digest in named.items():
        assert hashlib.sha256((static / "vendor" / name).read_bytes()).hexdigest() == digest


def test_leaving_stops_the_work_and_coming_back_finds_what_was_made(tab, studio):
    page = tab()
    choose(page, num=5)
    pictures = wall(page, (8, 8))
    job = page.evaluate("sessionStorage.getItem('play.job')")
    page.evaluate("location.hash = 'runs'")
    page.evaluate("location.hash = 'play'")
    done(page)
    assert (wall(page, (8, 8)) == pictures).all()
    assert page.evaluate("sessionStorage.getItem('play.job')") == job  # not made again
    page.get_by_role("button", name="Choose steps").click()
    page.get_by_label("Steps, number").fill("1000")
    page.wait_for_function("() => document.querySelector('.caption').innerText.includes('of 1000')")
    page.evaluate("location.hash = 'runs'")
    until(lambda: studio.worker.running is None and not studio.worker.waiting)


def test_what_was_handed_over_is_taken_once(tab, tmp_path):
    page = tab()
    choose(page, seed=3, num=1)
    with page.expect_download() as download:
        page.locator("text=Save all as PNG").click()
    download.value.save_as(tmp_path / "one.png")
    choose(page, seed=9)
    drop(page, tmp_path / "one.png")
    page.wait_for_function("() => document.querySelector('[id^=number]').value === '3'")
    page.get_by_label("First seed").fill("777")
    page.evaluate("location.hash = 'runs'")
    page.evaluate("location.hash = 'play'")
    done(page)
    assert page.get_by_label("First seed").input_value() == "777"


def test_branches_of_branches_and_the_way_back(tab):
    page = tab()
    choose(page, settings={"sampler": "ddim", "steps": 12}, num=4)
    trunk = wall(page, (8, 8))
    slider = page.get_by_label("step", exact=True)
    walls = [trunk]
    for place, label, chips in (("3", 8, "8"), ("7", 2, "28")):  # 8 is chosen no more
        slider.fill(place)
        at(page, int(place) + 1)
        page.get_by_role("button", name="Branch from here").click()
        for chip in chips:
            page.get_by_role("button", name=chip, exact=True).click()
        page.wait_for_function(
            "label => document.querySelector('.recipe').textContent.includes(`label=${label},`)",
            arg=label,
        )
        done(page)
        walls.append(wall(page, (8, 8)))
    model, asked = unnoise.load("digits"), {"sampler": "ddim", "steps": 12}
    start = list(model.steps(range(4), **asked))[3]
    start = list(model.steps(range(4), label=8, start=start, **asked))[3]
    (*_, end) = model.steps(range(4), label=2, start=start, **asked)
    assert (walls[2][:4, ..., 0] == grey(unnoise.from_model(end.x))).all()
    page.reload()
    done(page)
    assert (wall(page, (8, 8)) == walls[2]).all()
    for before in (walls[1], trunk):
        page.get_by_role("button", name="Leave the branch").click()
        page.wait_for_timeout(400)
        done(page)
        assert (wall(page, (8, 8)) == before).all()
    assert page.locator(".branch").count() == 0


def test_keys_work_wherever_nothing_is_written(tab):
    page = tab()
    choose(page)
    page.get_by_label("step", exact=True).focus()
    page.keyboard.press("x")
    assert page.get_by_role("button", name="Noisy").get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="Make again").focus()
    page.keyboard.press("x")
    page.keyboard.press("ArrowLeft")
    assert (
        page.get_by_label("step", exact=True).get_attribute("aria-valuetext").startswith("step 4")
    )
    page.get_by_label("First seed").focus()
    page.keyboard.press("x")
    assert page.get_by_role("button", name="Noisy").get_attribute("aria-pressed") == "false"


def test_a_number_out_of_range_is_told(tab):
    page = tab()
    choose(page, num=6)
    field = page.get_by_label("Pictures, number")
    field.fill("9999")
    assert page.locator(".wrong").inner_text() == "expected a whole number, 1 to 64"
    field.blur()
    assert field.input_value() == "6" and page.locator(".wrong").count() == 0
    page.locator(".canvas").click(position={"x": 5, "y": 5})
    page.keyboard.press("ArrowRight")
    assert "seed 1" in page.locator(".caption").inner_text()
    field.fill("1")
    done(page)
    assert "seed" not in page.locator(".caption").inner_text()


def test_the_scrubber_ends_at_the_last_step_of_a_thinned_job(tab):
    page = tab()
    choose(page, num=1, settings={"sampler": "ddim", "steps": 151})
    slider = page.get_by_label("step", exact=True)
    assert slider.get_attribute("aria-valuetext").startswith("step 151,")
    assert slider.input_value() == slider.get_attribute("max") == "75"
    assert page.locator(".noise i").count() == 76


def test_a_job_that_was_stopped_before_its_first_step_says_so(tab):
    page, other = tab(), tab()
    choose(other)
    choose(page, model="emoji", num=16)
    page.get_by_role("button", name="Choose steps").click()
    page.get_by_label("Steps, number").fill("250")
    page.wait_for_function("() => document.querySelector('.caption').innerText.includes('of 250')")
    other.get_by_role("button", name="Dice").click()
    other.get_by_text("Waiting for the first step").wait_for()
    other.get_by_role("button", name="Stop").click()
    other.get_by_text("Stopped before the first step").wait_for()
    page.get_by_role("button", name="Stop").click()


def test_the_judgement_is_of_the_models_that_are_chosen_last(tab):
    page, late = tab(), []
    page.route("**/api/compare?a=digits&*", lambda route: late.append(route))
    page.evaluate(
        "() => localStorage.setItem('unnoise.compare', "
        "JSON.stringify({ a: 'digits', b: 'emoji', num: 1, seed: 0, own: {} }))"
    )
    page.goto(page.url + "#compare")
    page.locator("section[aria-label=A] select").first.select_option("cifar10-small")
    words = page.get_by_text("not evaluated here: cifar10-small, emoji")
    words.wait_for()
    late[0].fulfill(json={"judged": None, "evaluated": [True, False], "notes": []})
    page.wait_for_timeout(200)
    assert words.count() == 1
