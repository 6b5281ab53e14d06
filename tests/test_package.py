"""What is published: the wheel is complete, small, and samples from an empty folder."""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

import unnoise

ROOT = Path(__file__).parent.parent
URL = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]


def built(kind: str, folder: Path) -> Path:
    if not (find_spec("hatchling") and find_spec("hatch_fancy_pypi_readme")):
        pytest.skip("needs hatchling and hatch-fancy-pypi-readme")
    build = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("wheel", tmp_path_factory.mktemp("dist"))


def test_the_wheel_has_what_the_source_has(wheel):
    tracked = subprocess.run(
        ["git", "ls-files", "src"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    assert {name.removeprefix("src/") for name in tracked} <= names
    info = f"unnoise-{unnoise.__version__}.dist-info"
    assert {f"{info}/licenses/LICENSE", f"{info}/licenses/NOTICE", "unnoise/py.typed"} <= names
    assert wheel.stat().st_size < 20e6


def test_its_page_has_no_relative_link(wheel):
    with zipfile.ZipFile(wheel) as file:
        text = file.read(f"unnoise-{unnoise.__version__}.dist-info/METADATA").decode()
    page = email.message_from_string(text).get_payload()
    links = re.findall(r'(?:src="|href="|\]\()([^")]+)', str(page))
    version = f"/v{unnoise.__version__}/"
    assert len([link for link in links if version in link]) > 20
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


def test_it_samples_from_an_empty_folder(wheel, tmp_path, monkeypatch):
    there = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--target", str(there), str(wheel)], check=True)
    monkeypatch.setenv("PYTHONPATH", str(there))
    code = "import unnoise; print(unnoise.__file__)"
    where = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout
    assert Path(where.strip()).is_relative_to(there)
    command = [there / "bin" / "unnoise", "sample", "digits", "--num", "4", "--device", "cpu"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert (tmp_path / "samples" / "digits" / "grid.png").stat().st_size > 0


@pytest.mark.slow
def test_an_empty_environment_needs_nothing_more(wheel, tmp_path):
    """With what the wheel asks for, and nothing of the tests' environment."""
    python = tmp_path / "empty" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
    pip = [python, "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, str(wheel)], check=True, cwd=tmp_path)
    alone = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [python.with_name("unnoise"), "sample", "digits", "--num", "4"]
    subprocess.run(command, cwd=tmp_path, check=True, env=alone)
    assert (tmp_path / "samples" / "digits" / "grid.png").stat().st_size > 0


def test_the_source_archive_has_the_source_alone(tmp_path):
    with tarfile.open(built("sdist", tmp_path)) as file:
        tops = {name.split("/")[1] for name in file.getnames()}
    extra = {"README.md", "CHANGELOG.md", "CITATION.cff", "LICENSE", "NOTICE", "PKG-INFO"}
    assert {"src", "pyproject.toml"} <= tops <= {"src", "pyproject.toml", ".gitignore", *extra}


def test_one_address_and_one_version():
    """A new owner is one search and replace; a new version is in three files."""
    words = ["README.md", "SECURITY.md", "CITATION.cff", "pyproject.toml"]
    files = [*(ROOT / name for name in words), *(ROOT / ".github").rglob("*.*")]
    for path in files:
        hosts = r"https://(?:raw\.githubusercontent|github)\.com/([\w.-]+/unnoise)\b"
        assert set(re.findall(hosts, path.read_text())) <= {URL.removeprefix("https://github.com/")}
    assert f"\nversion: {unnoise.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {unnoise.__version__} (" in (ROOT / "CHANGELOG.md").read_text()
