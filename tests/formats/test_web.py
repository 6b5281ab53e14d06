"""The web page of a model: what its file holds, and what it does in a real browser."""

from __future__ import annotations

import functools
import http.server
import os
import re
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.svm import SVC

import unnoise
from tests.formats.conftest import floats, tiny
from tests.studio.conftest import browser  # noqa: F401
from tests.studio.pages import accessible, canvas, wall
from unnoise import cli, editing
from unnoise.data.cache import root
from unnoise.data.config import DataConfig
from unnoise.data.images import from_model
from unnoise.errors import ConfigError, DataError
from unnoise.formats import onnx, web

CACHED = root(DataConfig()) / web.ARCHIVE
RUNTIME = os.environ.get(web.VARIABLE) or (CACHED if CACHED.is_file() else None)
FAKE = {name: f"/* {name} */".encode() for name in web.RUNTIME}


# ---------------------------------------------------------------- the runtime


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder like npm's, with files that compute nothing."""
    (tmp_path / "package" / "dist").mkdir(parents=True)
    for name, content in FAKE.items():
        (tmp_path / "package" / "dist" / name).write_bytes(content)
    return tmp_path / "package"


def test_the_runtime_comes_from_a_folder_an_archive_the_environment_or_the_cache(
    package, tmp_path, monkeypatch
):
    monkeypatch.delenv(web.VARIABLE, raising=False)
    with tarfile.open(tmp_path / "some.tgz", "w:gz") as archive:
        archive.add(package, "package")
    for place in (package, package / "dist", tmp_path / "some.tgz"):
        assert web.runtime(str(place)) == FAKE
    monkeypatch.setenv(web.VARIABLE, str(package))
    assert web.runtime(None) == FAKE
    monkeypatch.setenv(web.VARIABLE, "")
    monkeypatch.setenv("UNNOISE_CACHE", str(tmp_path))
    (tmp_path / "some.tgz").rename(tmp_path / web.ARCHIVE)
    assert web.runtime(None) == FAKE


@pytest.mark.parametrize("damage", ["absent", "empty folder", "other archive", "no archive"])
def test_what_is_no_runtime_is_said_in_one_line(damage, tmp_path):
    place = tmp_path / "place"
    if damage == "empty folder":
        place.mkdir()
    elif damage == "other archive":
        tarfile.open(place, "w:gz").close()
    elif damage == "no archive":
        place.write_bytes(b"hello")
    with pytest.raises(ConfigError, match=r"place cannot be used.*1\.30\.0.*--runtime"):
        web.runtime(str(place))


def test_a_download_is_checked_and_without_network_one_line_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv(web.VARIABLE, raising=False)
    monkeypatch.setenv("UNNOISE_CACHE", str(tmp_path))
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"onnxruntime-web-1\.30\.0\.tgz failed.*--runtime FILE"):
        web.runtime(None)
    served = tmp_path / "onnxruntime-web" / "-" / web.ARCHIVE
    served.parent.mkdir(parents=True)
    served.write_bytes(b"not what npm has")
    with serving(tmp_path) as address:
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", address)
        with pytest.raises(DataError, match=f"SHA-256 is not {web.SHA256}"):
            web.runtime(None)
    assert not (tmp_path / web.ARCHIVE).exists()


class serving:
    """A folder at an address of this machine."""

    def __init__(self, folder: Path) -> None:
        class Quiet(http.server.SimpleHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None: ...

        handler = functools.partial(Quiet, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)

    def __enter__(self) -> str:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()


# ---------------------------------------------------------------- the file


def test_the_file_asks_for_nothing_and_allows_its_own_scripts_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "network", lambda model, half: b"graph")
    web.export(tiny(), "</script>&<b>", tmp_path / "page.html", FAKE, {})
    source = (tmp_path / "page.html").read_text()
    assert source.startswith("<!doctype html>\n<html lang")  # files.claim knows it
    assert not re.search(r' src="|<link rel="stylesheet"|https?://|<!-- ', source)
    assert "Copyright (c) Microsoft Corporation" in source and "<b>" not in source
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', source)[1]
    assert policy.startswith("default-src 'none'; ") and "unsafe-" not in policy.replace(
        "'wasm-unsafe-eval'", ""
    )
    run = re.findall(r"<(?:script|style)>(.*?)</(?:script|style)>", source, re.DOTALL)
    assert sorted(set(re.findall(r"'sha256-[^']*'", policy))) == sorted(map(web._hash, run))
    assert len(run) == 3


def test_a_folder_holds_the_same_files_side_by_side(tmp_path, monkeypatch, package, capsys):
    monkeypatch.setattr(onnx, "network", lambda model, half: b"graph")
    words = ("export", "digits", "--to", "web", "--runtime", str(package), "--folder", "--out")
    assert cli.main([*words, str(tmp_path / "site")]) == 0
    assert {path.name for path in (tmp_path / "site").iterdir()} == set(web.FILES)
    assert cli.main([*words, str(tmp_path / "site")]) == 0
    (tmp_path / "site" / "mine.txt").write_text("mine")
    capsys.readouterr()
    assert cli.main([*words, str(tmp_path / "site")]) == 2
    assert "is a folder with mine.txt; expected a new folder" in capsys.readouterr().err
    assert cli.main([*words, str(tmp_path / "page.html")]) == 2
    assert "expected a folder's name" in capsys.readouterr().err
    assert cli.main([*words[:-2], "--out", str(tmp_path / "site")]) == 2
    assert "expected a file name that ends in .html" in capsys.readouterr().err


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """digits.html and the folder digits, from one export of the network."""
    if not RUNTIME:
        pytest.skip(f"needs the npm package onnxruntime-web {web.VERSION}: {web.VARIABLE}=FILE")
    pytest.importorskip("onnxscript", reason="needs the extra: pip install 'unnoise[onnx]'")
    folder = tmp_path_factory.mktemp("pages")
    words = ("export", "digits", "--to", "web", "--runtime", str(RUNTIME), "--out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx, "network", functools.cache(lambda *_: network(True)))
        network = functools.partial(onnx_network, unnoise.load("digits", "cpu"))
        assert cli.main([*words, str(folder / "digits.html")]) == 0
        assert cli.main([*words, str(folder / "digits"), "--folder"]) == 0
    yield folder


onnx_network = onnx.network


@pytest.fixture
def open_page(browser: Any, pages: Path) -> Iterator[Callable[..., Any]]:  # noqa: F811
    """Opens the page from the disk; afterwards nothing was asked of any place, nor complained."""
    wrong: list[str] = []
    contexts = []

    def opened(address: str | None = None, width: int = 1280, scheme: str = "light") -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        start = address or (pages / "digits.html").as_uri()
        own = (start, "blob:null/", "data:")
        page.on("request", lambda r: r.url.startswith(own) or wrong.append(r.url))
        page.goto(start)
        made(page, "seeds 0 to 19, unipc_2, 10 steps")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [text for text in wrong if not text.startswith("Canvas2D: ")] == []


def made(page: Any, text: str) -> None:
    """Wait until the page has made what its caption then says."""
    caption = page.locator("#caption", has_text=re.compile(rf"{text}, [0-9.]+ s"))
    caption.wait_for(timeout=60_000)


def pictures(page: Any) -> np.ndarray:
    """(n, 8, 8) as on the wall."""
    return wall(page, (8, 8), "#wall")[..., 0].astype(int)


@pytest.mark.long
def test_the_pictures_are_the_command_lines_and_can_be_saved(open_page, digits, tmp_path):
    page = open_page()
    assert np.abs(pictures(page) - digits.sample(20)[:, 0].numpy()).max() <= 1
    inside = page.evaluate(
        """async () => {
          const seeds = [0, 1, 2, 3];
          const plan = record.plans["best: ipndm, 20 steps"];
          let last;
          for await (const x of walk(plan, joined(seeds.map(noiseOf)), seeds)) last = x;
          return [...last];
        }"""
    )
    expected = floats(digits, 4, sampler="best").flatten().numpy()
    assert np.abs(np.array(inside) - expected).max() / 2 < 2e-3
    with page.expect_download() as download:
        page.get_by_role("button", name="Save PNG").click()
    assert download.value.suggested_filename == "digits-seed-0.png"
    download.value.save_as(tmp_path / "saved.png")
    shown, saved = canvas(page, "#wall"), np.array(Image.open(tmp_path / "saved.png"))
    scale = len(saved) // len(shown)
    assert scale >= 8 and (saved[::scale, ::scale] == shown).all()


@pytest.mark.long
def test_what_is_asked_for_is_made_by_keyboard_too(open_page, digits):
    page = open_page()
    page.get_by_label("Class", exact=True).focus()
    page.keyboard.type("3")
    made(page, "seeds 0 to 19, unipc_2, 10 steps")
    page.locator("#wall[aria-label$='class 3']").wait_for()
    assert np.abs(pictures(page) - digits.sample(20, label=3)[:, 0].numpy()).max() <= 1
    page.get_by_label("Sampler").select_option("fast: ipndm_edm, 5 steps")
    made(page, "fast: ipndm_edm, 5 steps")
    page.get_by_label("Class", exact=True).select_option("each seed's own")
    page.get_by_label("First seed", exact=True).fill("40")
    page.keyboard.press("Enter")
    made(page, "seeds 40 to 59, fast: ipndm_edm, 5 steps")
    assert np.abs(pictures(page) - digits.sample(20, 40, sampler="fast")[:, 0].numpy()).max() <= 1
    page.get_by_label("Class", exact=True).select_option("no class")
    page.locator("#count").fill("2")
    page.get_by_role("button", name="Make").click()
    made(page, "seeds 40 to 41, fast: ipndm_edm, 5 steps")
    expected = digits.sample(2, 40, label="none", sampler="fast")[:, 0].numpy()
    assert np.abs(pictures(page) - expected).max() <= 1


@pytest.mark.long
def test_other_seeds_have_the_pages_own_noise_and_read_as_their_class(open_page):
    page = open_page()
    page.locator("#count").fill("60")
    page.get_by_label("First seed", exact=True).fill("70000")
    page.get_by_role("button", name="Make").click()
    made(page, "seeds 70000 to 70059, unipc_2, 10 steps")
    assert "noise of this page's own" in page.locator("#caption").inner_text()
    data = unnoise.load_data(unnoise.preset("digits"))
    judge = SVC(gamma="scale", C=10).fit(
        np.asarray(data.images).reshape(len(data.images), -1) / 255, data.labels
    )
    read = judge.predict(pictures(page).reshape(60, -1) / 255)
    assert (read == np.arange(60) % 10).mean() > 0.9
    noise = np.array(page.evaluate("Array.from({length: 300}, (_, i) => [...noiseOf(1000 + i)])"))
    assert abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.03
    assert np.abs(np.corrcoef(noise) - np.eye(300)).max() < 0.6


@pytest.mark.long
def test_the_walk_is_the_interpolation_of_the_editor(open_page, digits):
    page = open_page()
    page.get_by_label("Class", exact=True).select_option("3")
    page.get_by_label("To seed", exact=True).fill("5")
    page.get_by_label("Share of the second").focus()
    for _ in range(25):
        page.keyboard.press("ArrowRight")
    page.locator("#between[aria-label='75 % of the way from seed 0 to 5']").wait_for(timeout=60_000)
    expected = editing.interpolate(digits, 0, 5, frames=5, label="3")[3, 0].numpy()
    shown = canvas(page, "#between")[..., 0].astype(int)
    assert np.abs(shown - expected).max() <= 1


@pytest.mark.long
@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_the_page_fits_a_phone_and_can_be_read(open_page, width, scheme):
    page = open_page(width=width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert len(pictures(page)) >= 20
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    page.set_default_timeout(60_000)
    assert accessible(page) == []


@pytest.mark.long
def test_a_folder_on_a_server_does_the_same(open_page, pages, digits):
    with serving(pages / "digits") as address:
        page = open_page(address)
        assert np.abs(pictures(page) - digits.sample(20)[:, 0].numpy()).max() <= 1


@pytest.mark.long
def test_emoji_are_shown_with_their_transparency(open_page):
    page = open_page()
    shown = page.evaluate(
        """() => {
          record.shape = { channels: 4, height: 1, width: 2, num_classes: 0 };
          const canvas = document.createElement("canvas");
          paint(canvas, [0, -1, -1, -1, 1, -1, 0, -1], 1);
          return [...canvas.getContext("2d").getImageData(0, 0, 2, 1).data];
        }"""
    )
    image = torch.tensor([[[0.0, -1]], [[-1, -1]], [[1, -1]], [[0, -1]]])[None]
    alpha = int(from_model(image)[0, 3, 0, 0])
    assert shown == [255, 0, 255, alpha, 0, 0, 0, 0]
