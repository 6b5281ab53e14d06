"""Edit in a real browser, used as a person would."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import unnoise
from tests.studio.pages import accessible, drop, state_of, wall
from unnoise import editing
from unnoise.data.images import read_png, read_png_text
from unnoise.errors import DataError
from unnoise.reading import from_dict

FAST: dict[str, Any] = {"sampler": "fast"}
CANVAS = ".edit-canvas"


def coded(picture: torch.Tensor) -> str:
    return base64.b64encode(picture.numpy().tobytes()).decode()


def file_of(image: np.ndarray) -> str:
    """A picture (h, w, c) or (h, w) as base64 of a PNG."""
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


def in_file(picture: torch.Tensor) -> torch.Tensor:
    """What a PNG holds of RGBA whose colours are premultiplied."""
    return picture.minimum(picture[3:])


def given(tab, picture: torch.Tensor, path: str = "/#edit", model: str = "digits", **asked):
    """Edit with a picture in it, as a page that was used before."""
    page = tab(path, width=asked.pop("width", 1280), scheme=asked.pop("scheme", "light"))
    _, h, w = picture.shape
    made = page.evaluate(
        """async ([model, pixels]) => (await fetch("/api/fit", {method: "POST",
            headers: {"Content-Type": "application/json"},
            body: JSON.stringify({model, pixels})})).json()""",
        [model, coded(picture)],
    )
    first = {"model": model, "picture": made, "mask": None, "mode": "inpaint", "num": 3, "seed": 4,
             "strength": 0.6, "resample": 1, "classes": None, "settings": FAST}  # fmt: skip
    stored = json.dumps({**first, **asked})
    page.evaluate("text => localStorage.setItem('unnoise.edit', text)", stored)
    page.jobs = []
    page.on("request", lambda sent: sent.url.endswith("/api/jobs") and page.jobs.append(sent))
    page.reload()
    page.locator(CANVAS).wait_for()
    page.size = (h, w)
    return page


def mask_of(page) -> np.ndarray:
    """The mask that the page keeps, bool (h, w)."""
    stored = page.evaluate("JSON.parse(localStorage.getItem('unnoise.edit')).mask")
    if stored is None:
        return np.zeros(page.size, bool)
    return np.frombuffer(base64.b64decode(stored), np.uint8).reshape(page.size).astype(bool)


def stroke(page, *points: tuple[float, float]) -> None:
    """Paint along points x, y in pixels of the picture, when all of it is seen."""
    box = page.locator(CANVAS).bounding_box()
    inner = (box["width"] - 2) / page.size[1]
    for i, (x, y) in enumerate(points):
        page.mouse.move(box["x"] + 1 + x * inner, box["y"] + 1 + y * inner, steps=1 + 4 * (i > 0))
        if i == 0:
            page.mouse.down()
    page.mouse.up()


def brush(page, size: int) -> None:
    page.get_by_label("Size of the brush", exact=True).fill(str(size))


def made(page, name: str = "Paint it anew") -> None:
    """Press the button, and wait until all versions are made."""
    page.get_by_role("button", name=name).click()
    page.get_by_role("button", name="Use as picture").wait_for(timeout=30_000)


def save(page, name: str, folder: Path) -> Path:
    with page.expect_download() as download:
        page.get_by_text(name, exact=True).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


@pytest.fixture(scope="module")
def digits():
    return unnoise.load("digits")


@pytest.fixture(scope="module")
def eight(digits) -> torch.Tensor:
    """A picture of an 8, uint8 (1, 8, 8)."""
    return digits.sample(1, 3, label=8, **FAST)[0]


# ---------------------------------------------------------------- painting


@pytest.mark.slow
def test_the_tools_paint_where_one_points(tab, eight):
    page = given(tab, eight)
    button = page.get_by_role("button", name="Paint it anew")
    assert button.is_disabled() and "First paint" in page.locator(".stage").inner_text()
    brush(page, 1)
    stroke(page, (1.5, 2.5), (6.5, 2.5))
    expected = np.zeros((8, 8), bool)
    expected[2, 1:7] = True
    assert (mask_of(page) == expected).all() and button.is_enabled()
    page.get_by_role("button", name="Eraser").click()
    stroke(page, (3.5, 2.5), (4.5, 2.5))
    erased = expected.copy()
    erased[2, 3:5] = False
    assert (mask_of(page) == erased).all()
    for name, wanted in (
        ("Undo", expected), ("Redo", erased), ("Invert", ~erased), ("Undo", erased),
        ("Clear", erased & False), ("Undo", erased), ("Undo", expected),
    ):  # fmt: skip
        page.get_by_role("button", name=name).click()
        assert (mask_of(page) == wanted).all(), name
    page.locator(CANVAS).press("b")
    brush(page, 3)
    stroke(page, (6.5, 6.5))
    expected[5:8, 5:8] = [[1, 1, 1], [1, 1, 1], [1, 1, 1]]
    assert (mask_of(page) == expected).all()


def test_the_keyboard_paints(tab, eight):
    page = given(tab, eight)
    brush(page, 1)
    page.locator(CANVAS).focus()
    for key in ("ArrowLeft", "ArrowUp", " "):  # from the middle, which is 4, 4
        page.keyboard.press(key)
    expected = np.zeros((8, 8), bool)
    expected[3, 3] = True
    assert (mask_of(page) == expected).all()
    page.keyboard.down(" ")
    for _ in range(9):
        page.keyboard.press("ArrowRight")
    page.keyboard.up(" ")
    expected[3, 3:] = True
    assert (mask_of(page) == expected).all()
    page.keyboard.press("e")
    page.keyboard.press(" ")
    assert not mask_of(page)[3, 7]
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+Shift+Z")
    assert not mask_of(page)[3, 7]
    page.keyboard.press("Control+z")
    assert (mask_of(page) == expected).all()


@pytest.mark.slow
def test_a_zoomed_picture_is_painted_under_the_pointer(tab, eight):
    page = given(tab, eight)
    brush(page, 1)
    box = page.locator(CANVAS).bounding_box()
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.3 * box["height"])
    page.mouse.wheel(0, -300)
    page.mouse.down()
    page.mouse.up()
    expected = np.zeros((8, 8), bool)
    expected[2, 5] = True
    assert (mask_of(page) == expected).all()
    page.get_by_role("button", name="Whole picture").click()
    page.get_by_role("button", name="zoom in").click()  # to 1.5 around the middle
    page.mouse.click(box["x"] + 3, box["y"] + 3)
    expected[1, 1] = True
    assert (mask_of(page) == expected).all()
    page.keyboard.down("Shift")
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 300, box["y"] + 300)
    page.mouse.up()
    page.keyboard.up("Shift")
    page.mouse.click(box["x"] + 3, box["y"] + 3)
    expected[0, 0] = True
    assert (mask_of(page) == expected).all()


# ---------------------------------------------------------------- inpainting


def test_known_pixels_stay_and_all_comes_back_from_the_png(tab, tmp_path):
    emoji = unnoise.load("emoji")
    picture = in_file(emoji.sample(1, 12, label="smileys-emotion", **FAST)[0])
    label = emoji.class_names.index("people-body")
    page = given(tab, picture, model="emoji", classes=[label])
    stroke(page, (8, 8), (20, 20))
    painted = mask_of(page)
    made(page)
    assert page.locator(".stage").inner_text().count("step 5 of 5") == 1
    expected = editing.inpaint(
        emoji, picture, torch.from_numpy(painted), range(4, 7), label="people-body", **FAST
    )
    page.locator(".wall .canvas").press("ArrowRight")
    saved = save(page, "Save this as PNG", tmp_path)
    assert saved.name == "seed-000005.png"
    version = read_png(saved)
    assert (version == in_file(expected[1])).all()
    assert (version[:, ~painted] == picture[:, ~painted]).all()
    assert (version[:, painted] != picture[:, painted]).any()

    page.locator("summary", has_text="How this is made").click()
    code = page.locator(".recipe code").all_inner_texts()
    assert code[0].startswith("unnoise edit inpaint emoji picture.png --mask mask.png")
    own, mask = save(page, "picture.png", tmp_path), save(page, "mask.png", tmp_path)
    assert (editing.read_picture(emoji, own) == picture).all()
    assert (editing.read_mask(emoji, mask).numpy() == painted).all()

    other = tab("/#explore")
    other.locator(".explore-plot").wait_for()
    drop(other, saved)
    other.locator(CANVAS).wait_for()
    other.size = (32, 32)
    other.wait_for_function("() => JSON.parse(localStorage.getItem('unnoise.edit')).mask !== null")
    assert (mask_of(other) == painted).all()
    stored = other.evaluate("JSON.parse(localStorage.getItem('unnoise.edit'))")
    assert stored["picture"]["pixels"] == coded(picture)
    assert [stored[key] for key in ("model", "seed", "num", "classes")] == ["emoji", 5, 1, [label]]
    other.get_by_role("button", name="Use as picture").wait_for()  # it is made again by itself
    assert (read_png(save(other, "Save this as PNG", tmp_path)) == version).all()
    sheet = save(other, "Save all as a sheet", tmp_path)
    recipe = json.loads(read_png_text(sheet)["unnoise"])
    assert recipe["edit"] == "inpaint" and recipe["seeds"] == [5]


def test_inpainting_waits_for_the_button_and_survives_a_reload(tab, eight):
    page = given(tab, eight)
    brush(page, 4)
    stroke(page, (4, 4))
    page.get_by_role("button", name="0", exact=True).click()
    page.wait_for_timeout(400)
    assert page.jobs == []
    made(page)
    versions = wall(page, (8, 8))
    page.reload()
    page.get_by_role("button", name="Use as picture").wait_for()
    assert (wall(page, (8, 8)) == versions).all() and len(page.jobs) == 1
    assert mask_of(page).sum() == 12
    page.get_by_role("button", name="Use as picture").click()
    page.wait_for_function("() => JSON.parse(localStorage.getItem('unnoise.edit')).mask === null")
    pixels = page.evaluate("JSON.parse(localStorage.getItem('unnoise.edit')).picture.pixels")
    assert pixels == coded(torch.from_numpy(versions[0][None, ..., 0].copy()))


@pytest.mark.slow
def test_versions_stand_beside_their_own_picture_alone(tab, eight):
    page = given(tab, eight)
    brush(page, 4)
    stroke(page, (4, 4))
    made(page)
    use, wall_seen = page.get_by_role("button", name="Use as picture"), page.locator(".wall")
    page.get_by_role("button", name="Clear").click()  # another mask, the same picture
    assert use.count() == wall_seen.count() == 1
    page.get_by_role("button", name="Use a sample of digits").click()
    use.wait_for(state="detached")
    assert page.locator(".edit-divider, .wall, .recipe").count() == 0
    assert "step" not in page.locator(".stage").inner_text()
    page.reload()
    page.locator(CANVAS).wait_for()
    page.wait_for_timeout(500)
    assert wall_seen.count() == 0

    stroke(page, (4, 4))
    made(page)
    page.get_by_label("Model").select_option("cifar10-small")
    use.wait_for(state="detached")
    page.get_by_label("Model").select_option("digits")
    page.locator(".controls", has_text="Use a sample of digits").wait_for()
    stroke(page, (4, 4))
    made(page)
    page.get_by_role("button", name="Image to image").click()
    use.wait_for()
    page.get_by_role("button", name="Inpaint").click()
    use.wait_for(state="detached")


def test_another_picture_stops_what_is_made_of_the_old_one(tab, studio, eight):
    page = given(tab, eight, settings={"sampler": "ddim", "steps": 900})
    stroke(page, (4, 4))
    page.get_by_role("button", name="Paint it anew").click()
    page.locator(".stage", has_text=re.compile("step [0-9]+ of 900")).wait_for()
    job = studio.worker.running
    page.locator("input[type=file]").set_input_files(
        {"name": "a.png", "mimeType": "image/png",
         "buffer": base64.b64decode(file_of(255 - eight[0].numpy()))})  # fmt: skip
    page.get_by_role("button", name="Paint it anew").wait_for()
    assert state_of(job) == "stopped"


@pytest.mark.slow
def test_a_dropped_inpainting_is_made_once(tab, tmp_path, eight):
    page = given(tab, eight)
    brush(page, 4)
    stroke(page, (4, 4))
    made(page)
    version = read_png(save(page, "Save this as PNG", tmp_path))
    other = given(tab, 255 - eight, seed=40)
    stroke(other, (2, 2))
    made(other)
    drop(other, tmp_path / "seed-000004.png")
    restored = "() => JSON.parse(localStorage.getItem('unnoise.edit')).seed === 4"
    other.wait_for_function(restored)
    other.get_by_role("button", name="Use as picture").wait_for()
    assert (wall(other, (8, 8))[0, ..., 0] == version[0].numpy()).all()
    other.get_by_role("button", name="Clear").click()
    other.get_by_role("button", name="Invert").click()
    other.wait_for_timeout(500)
    assert len(other.jobs) == 2  # its own, and the dropped one


def test_a_refusal_stands_alone(tab, eight):
    page = given(tab, eight)
    stroke(page, (4, 4))
    made(page)
    gone = "model: no 'digits' here"
    page.route("**/api/jobs", lambda route: route.fulfill(status=404, json={"error": gone}))
    page.get_by_role("button", name="Paint it anew").click()
    page.get_by_role("alert").wait_for()
    assert page.get_by_role("alert").inner_text() == gone
    assert page.locator(".edit-divider, .wall, .recipe").count() == 0
    assert "step" not in page.locator(".stage").inner_text()
    page.unroute("**/api/jobs")
    made(page)
    assert page.get_by_role("alert").count() == 0


# ---------------------------------------------------------------- image to image


@pytest.mark.slow
def test_image_to_image_follows_its_settings(tab, digits, eight):
    page = given(tab, eight)
    page.get_by_role("button", name="Image to image").click()
    step = "step {} of {}, .* s"
    page.locator(".stage", has_text=re.compile(step.format(3, 3))).wait_for()
    page.get_by_label("Strength", exact=True).fill("1")
    page.locator(".stage", has_text=re.compile(step.format(5, 5))).wait_for()
    expected = editing.image_to_image(digits, eight, 1.0, range(4, 7), **FAST)
    assert (wall(page, (8, 8))[:3, ..., 0] == expected[:, 0].numpy()).all()
    assert len(page.jobs) == 2
    line = page.get_by_label("line between before and after")
    line.focus()
    for _ in range(50):
        page.keyboard.press("ArrowRight")
    assert line.get_attribute("aria-valuetext") == "100 percent before"
    before = page.locator(".edit-divider [aria-label=before]")
    assert before.evaluate("one => one.style.clipPath") in ("inset(0px)", "inset(0px 0% 0px 0px)")


# ---------------------------------------------------------------- pictures in


def test_pictures_come_from_a_sample_a_file_and_play(tab, tmp_path):
    page = tab("/#edit")
    page.get_by_label("Model").select_option("digits")
    page.get_by_role("button", name="Use a sample of digits").click()
    page.locator(CANVAS).wait_for()
    (tmp_path / "bad.png").write_bytes(b"no picture")
    before = page.evaluate("localStorage.getItem('unnoise.edit')")
    page.locator("input[type=file]").set_input_files(tmp_path / "bad.png")
    assert page.get_by_role("alert").inner_text().startswith("picture: ")
    assert page.evaluate("localStorage.getItem('unnoise.edit')") == before
    image = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))
    Image.fromarray(image).save(tmp_path / "good.png")
    page.locator("input[type=file]").set_input_files(tmp_path / "good.png")
    page.get_by_role("alert").wait_for(state="detached")
    page.wait_for_function("old => localStorage.getItem('unnoise.edit') !== old", arg=before)
    stored = page.evaluate("JSON.parse(localStorage.getItem('unnoise.edit')).picture")
    fitted = editing.read_picture(unnoise.load("digits"), tmp_path / "good.png")
    assert stored["pixels"] == coded(fitted)

    page.get_by_label("Model").select_option("cifar10-small")  # fitted anew, from the file
    page.wait_for_function(
        "() => JSON.parse(localStorage.getItem('unnoise.edit')).picture.shape[0] === 3"
    )
    stored = page.evaluate("JSON.parse(localStorage.getItem('unnoise.edit')).picture")
    fitted = editing.read_picture(unnoise.load("cifar10-small"), tmp_path / "good.png")
    assert stored["pixels"] == coded(fitted)


@pytest.mark.slow
def test_a_picture_is_handed_over_from_play(tab):
    page = tab("/#play")
    asked = {"model": "digits", "num": 1, "seed": 0, "locked": False, "classes": [5],
             "settings": FAST}  # fmt: skip
    page.evaluate("t => localStorage.setItem('unnoise.play', t)", json.dumps(asked))
    page.reload()
    page.get_by_role("button", name="Edit this").click()
    page.locator(CANVAS).wait_for()
    stored = page.evaluate("JSON.parse(localStorage.getItem('unnoise.edit'))")
    expected = unnoise.load("digits").sample(1, 0, label=5, **FAST)[0]
    assert (stored["model"], stored["picture"]["pixels"]) == ("digits", coded(expected))
    page.get_by_role("button", name="Invert").click()
    page.locator("nav a[href='#play']").click()
    page.locator("nav a[href='#edit']").click()
    page.size = (8, 8)
    page.wait_for_timeout(400)
    assert mask_of(page).all()  # not taken a second time


# ---------------------------------------------------------------- without a browser


@pytest.mark.parametrize(
    ("kind", "asked", "steps"),
    [
        ("image", {"strength": 0.9}, 101),
        ("image", {"strength": 0.001}, 1),
        ("inpaint", {"settings": {"steps": 20}}, 20),
        ("inpaint", {"resample": 3, "settings": {"steps": 20}}, 96),
    ],
)
def test_an_edit_counts_its_own_steps(digits, eight, kind, asked, steps):
    from unnoise.studio.jobs import FRAME, Job
    from unnoise.studio.works import KINDS, checked

    mask = np.zeros((8, 8), np.uint8)
    mask[2:4] = 255
    asked = {**asked, **({"mask": file_of(mask)} if kind == "inpaint" else {})}
    asked = {"settings": {"steps": 112}, **asked}
    work = from_dict(KINDS[kind], {"model": "digits", "picture": file_of(eight[0].numpy()),
                                   "num": 1, **asked})  # fmt: skip
    plan = checked(work, digits)
    job = Job(digits, plan, {"shape": [1, 1, 8, 8]})
    job.run()
    assert job.state == "done" and plan.steps == steps
    frames = [record[8:] for record in job.records if record[4] == FRAME]
    assert int.from_bytes(frames[-1][:4], "little") == steps
    assert frames[-1].endswith(job.pictures.numpy().tobytes())  # what one sees is what one saves


def test_what_the_model_sees_is_a_file_too(digits):
    from unnoise.studio.pictures import fitted

    emoji = unnoise.load("emoji")
    colours = torch.randint(0, 256, (3, 32, 32), generator=torch.Generator().manual_seed(0))
    alpha = torch.arange(1024).reshape(1, 32, 32) % 256
    picture = torch.cat([colours, alpha]).to(torch.uint8)
    found = fitted(emoji, None, coded(picture))
    assert found["shape"] == [4, 32, 32] and found["pixels"] == coded(in_file(picture))
    assert fitted(emoji, found["file"]) == found
    for wrong in ("", "AAAA", "no base64", 7, [1]):
        with pytest.raises(DataError, match=r"pixels: expected base64 of 64 bytes"):
            fitted(digits, None, wrong)


# ---------------------------------------------------------------- looks


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_edit_is_accessible_and_fits(tab, eight, width, scheme):
    page = tab("/#edit", width, scheme)
    page.locator(".edit-empty").wait_for()
    assert accessible(page) == []
    page = given(tab, eight, width=width, scheme=scheme)
    page.get_by_role("button", name="Invert").click()
    stroke(page, (1, 1))
    page.get_by_role("button", name="Eraser").click()
    stroke(page, (4, 4))
    made(page)
    page.locator("summary", has_text="How this is made").click()
    assert accessible(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.slow
def test_two_fingers_zoom_and_one_paints(browser, studio, tab, eight):
    page = given(tab, eight)
    brush(page, 1)
    box = page.locator(CANVAS).bounding_box()
    middle = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    tools = page.context.new_cdp_session(page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        at = [
            {"x": middle["x"] + x, "y": middle["y"] + y, "id": i} for i, (x, y) in enumerate(points)
        ]
        tools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})

    touch("touchStart", (-50, 0))
    touch("touchStart", (-50, 0), (50, 0))  # the stroke that began is taken back
    for far in (70, 90, 110, 130, 150, 170, 190):
        touch("touchMove", (-far, 0), (far, 0))
    touch("touchEnd")
    assert not mask_of(page).any()
    touch("touchStart", (-100, -100))  # 1 pixel away, at a zoom of about 3.8
    touch("touchEnd")
    expected = np.zeros((8, 8), bool)
    expected[3, 3] = True
    assert (mask_of(page) == expected).all()


@pytest.mark.slow
def test_a_mask_of_everything_is_refused_in_one_line(tab, eight):
    page = given(tab, eight)
    page.get_by_role("button", name="Invert").click()
    page.get_by_role("button", name="Paint it anew").click()
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert alert.inner_text() == "mask: the mask is all white; expected white where to paint"
