"""README and docs/ as their readers use them: every block runs on digits or says why not, and every
link leads somewhere.

A page's blocks run from top to bottom in one folder, which has what the pages speak of (RUN,
photos/, picture.png, ..). Training and measuring are made short. What would take long or needs what
tests lack is read by the command line and not run (LONG). A block that is not run at all has a
comment before it: `<!-- not run: needs SLURM -->`, or `<!-- run by tests/.. -->`.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import re
import shlex
import shutil
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from PIL import Image

import unnoise
from unnoise import api, cli, formats, model
from unnoise.cli import train
from unnoise.data import arrays
from unnoise.data.dataset import DATASETS
from unnoise.diffusion.grids import SPACINGS
from unnoise.diffusion.losses import LOSSES, WEIGHTINGS
from unnoise.diffusion.samplers import SAMPLERS
from unnoise.diffusion.schedules import SCHEDULES
from unnoise.evaluation.metrics import METRICS
from unnoise.networks.config import NETWORK_CONFIGS
from unnoise.networks.registry import NETWORKS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAMS = ("unnoise", "python", "pip", "make", "git", "cd", "torchrun", "tensorboard", "hf")
LANGUAGES = ("sh", "python")
SHORT = {
    "network.base_channels": 8, "network.norm_groups": 8, "train.batch_size": 16,
    "train.kimg": 0.064, "train.warmup_kimg": 0.0, "train.precision": "fp32", "train.time": None,
    "sample.steps": 2, "device": "cpu",
}  # fmt: skip
TRAIN = (
    "--network.base-channels 8 --network.norm-groups 8 --batch-size 16 --kimg 0.064"
    " --sample.steps 2 --device cpu"
)
FLAGS = {
    "train": TRAIN, "sample": "--num 4 --device cpu", "edit": "--device cpu",
    "evaluate": "--num 16 --no-likelihood",
}  # fmt: skip
"""What makes a command short; of a flag given twice the last counts."""
LONG = {
    "plan": "seconds of steps", "tune-sampler": "half a minute", "balanced": "is tuned first",
    "studio": "serves until Ctrl-C", "web": "downloads its runtime", "onnx": "tests/formats has it",
    **dict.fromkeys(("cifar10", "cifar10-small", "cifar10-speedrun", "iddpm", "ddpm"), "CIFAR-10"),
    **dict.fromkeys(("push", "pull"), "network"), "--features": "needs the FID network",
    "clean": "needs the FID network", "pytorch_ddpm": "lacks the network of digits",
}  # fmt: skip
"""A command with one of these words is only read."""
FOREIGN = (".pt", ".pkl")
"""Files of other packages, which tests/formats reads."""
REGISTRIES = (
    SPACINGS, LOSSES, WEIGHTINGS, SAMPLERS, SCHEDULES, METRICS, NETWORK_CONFIGS, NETWORKS, DATASETS,
)  # fmt: skip


@dataclass(frozen=True)
class Block:
    """Code of a page."""

    language: str
    text: str
    line: int
    """That of its first line in the page."""
    reason: str
    """Why it is not run, if a comment says so."""


def blocks(text: str) -> Iterator[Block]:
    """Fenced blocks, and indented ones of commands."""
    fenced = r"```(?P<language>\w*)\n(?P<fenced>[\s\S]*?)^```$"
    code = rf"^(?:{fenced}|(?P<indented>(?<=\n\n)    \S.*\n(?:(?:    .*)?\n)*))"
    for found in re.finditer(code, text, re.MULTILINE):
        before = text[: found.start()].rstrip()
        comment = re.search(r"<!-- ((?:not run:|run by) [^>]+) -->$", before)
        reason = comment[1] if comment else ""
        if found["indented"] is None:
            line = text.count("\n", 0, found.start("fenced")) + 1
            yield Block(found["language"], found["fenced"], line, reason)
            continue
        code = re.sub(r"^    ", "", found["indented"], flags=re.MULTILINE)
        is_shell = reason or any(line.split(" ")[0] in PROGRAMS for line in code.splitlines())
        yield Block("sh" if is_shell else "", code, text.count("\n", 0, found.start()) + 1, reason)


def commands(block: Block) -> Iterator[list[str]]:
    for line in re.sub(r"\\\n", " ", block.text).splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            yield words[:end]
            words = words[end + 1 :]


def test_blocks_are_found():
    text = "a\n\n    unnoise x \\\n        --y  # z\nb\n\n    c = 1\n\n```python\nd\n```\n    e\n"
    first, unknown, second = blocks(text)
    assert (first.language, first.line) == ("sh", 3)
    assert list(commands(first)) == [["unnoise", "x", "--y"]]
    assert (unknown.language, unknown.line) == ("", 7)
    assert (second.text, second.line) == ("d\n", 10)
    (marked,) = blocks("<!-- not run: f g -->\n\n    h\n")
    assert marked.reason == "not run: f g"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_known(page):
    for block in blocks(page.read_text()):
        known = block.reason or block.language in LANGUAGES
        formulas_or_tree = not block.language and page.name in ("maths.md", "architecture.md")
        assert known or formulas_or_tree, (
            f"{page}:{block.line}: a block of {block.language!r} is not run"
        )
        if block.reason.startswith("run by "):
            assert page.name in (ROOT / block.reason.removeprefix("run by ")).read_text()


# --- commands


class Read(Exception):
    """The arguments were read."""


def only_read(arguments: list[str]) -> None:
    """Let the command line read the arguments of a command, and stop it there."""

    def stop(real: Callable[..., Any]) -> Callable[..., Any]:
        def parse(*args: Any, **options: Any) -> None:
            real(*args, **options)
            raise Read

        return parse

    name = arguments[0]
    module = importlib.import_module(f"unnoise.cli.{cli.MODULES.get(name, name)}")
    module = module if hasattr(module, "parse") else train  # plan reads what train reads
    with mock.patch.object(module, "parse", stop(module.parse)), pytest.raises(Read):
        code = cli.main(arguments)
        raise AssertionError(f"exit code {code}: unnoise {shlex.join(arguments)}")


def run_command(words: list[str]) -> None:
    program, *rest = words
    if program == "torchrun":
        only_read(rest[rest.index("unnoise") + 1 :])
    elif program == "pip":
        check_pip(rest)
    elif program == "make":
        rules = (ROOT / "Makefile").read_text()
        assert all(re.search(rf"^{w}:", rules, re.MULTILINE) for w in rest if "=" not in w), words
    elif program == "python":
        check_module(*rest)
    elif program == "unnoise":
        only_read(rest)
        if not (LONG.keys() & set(rest) or any(word.endswith(FOREIGN) for word in rest)):
            run_short(rest)
    else:
        assert program in PROGRAMS, words


def run_short(rest: list[str]) -> None:
    extra = shlex.split(FLAGS.get(rest[0], ""))
    if rest[0] == "train":
        extra += ["--out", f"runs/{len(list(Path('runs').iterdir()))}"]
        extra += ["--image-size", "16"] if Path(rest[1]).is_dir() else []
    if rest[0] == "evaluate" and "--against" in rest:
        extra = []
    assert cli.main([*rest, *extra]) == 0, rest


def check_pip(words: list[str]) -> None:
    """The extras are pyproject's; other requirements are what an extra has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert words[0] == "install"
    for word in words[1:]:
        if not word.startswith("-"):
            asked = Requirement(word.replace(".[", "unnoise["))
            assert asked.extras <= extras.keys(), word
            assert asked.name == "unnoise" or word in [
                w for extra in extras.values() for w in extra
            ]


def check_module(dash: str, name: str, *words: str) -> None:
    """The module is there, and knows the flags."""
    spec = find_spec(name)
    assert dash == "-m" and spec and spec.origin, name
    source = "".join(path.read_text() for path in Path(spec.origin).parent.glob("*.py"))
    for flag in [word for word in words if word.startswith("--")]:
        assert f'"{flag}"' in source, f"{name}: {flag}"


# --- Python


def short_train(config: Any, *args: Any, network: Any = None, **options: Any) -> Any:
    given = config if isinstance(config, unnoise.RunConfig) else unnoise.preset(config)
    places = args[:1] or ("runs/python",)
    changes = {**(args[1] if len(args) > 1 else {}), **SHORT}
    if network is not None or given.network.kind != "unet":
        changes = {k: v for k, v in changes.items() if not k.startswith("network.")}
    options |= {} if network is None else {"network": network}
    return api.train(config, *places, changes=changes, **options)


def short_evaluate(*args: Any, num: int = 16, **options: Any) -> Any:
    quick = {
        "features": ("tiny",), "likelihood": False, "copying": False, "sampling": {"steps": 2},
    }  # fmt: skip
    return api.evaluate(*args, num=min(num, 16), **quick, **options)


def run_python(block: Block, page: Path, names: dict[str, Any]) -> None:
    before = dict(names)
    tree = ast.increment_lineno(ast.parse(block.text), block.line - 1)
    exec(compile(tree, str(page), "exec"), names)  # noqa: S102
    made = [value for name, value in names.items() if before.get(name) is not value]
    models = [value for value in made if isinstance(value, model.Model)]
    if not models:  # what a block registers and puts in a configuration, trains
        configs = [value for value in made if isinstance(value, unnoise.RunConfig)]
        models = [short_train(config, f"runs/{block.line}") for config in configs]
    for each in models:
        assert len(each.sample(2, steps=2)) == 2


# --- pages

MY_UNET = """
import torch

class UNet(torch.nn.Conv2d):
    def __init__(self):
        super().__init__(3, 3, 1)

    def forward(self, x, t):
        return super().forward(x)
"""


def fake_cifar10(config: unnoise.DataConfig) -> Any:
    images = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8)
    return arrays.source(images, None, None, "cifar10", config)


def given(page: str, folder: Path) -> dict[str, Any]:
    """What the page's blocks take as given."""
    names: dict[str, Any] = {"unnoise": unnoise}
    if page == "formats.md":
        from diffusers import UNet2DModel

        shutil.rmtree("RUN")  # of an objective that diffusers lacks
        digits = short_train("digits", "RUN")
        formats.write(digits, "diffusers", folder / "ddpm-cifar10-32")
        unet = UNet2DModel(
            32, layers_per_block=1, block_out_channels=(32, 32),
            down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
        )  # fmt: skip
        names |= {"torch": torch, "unet": unet}
        (folder / "my_unet.py").write_text(MY_UNET)
        exec(MY_UNET, own := {})  # noqa: S102
        torch.save(own["UNet"]().state_dict(), folder / "diffusion_model.pth")
    return names


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run and pictures, as the pages speak of them."""
    folder = tmp_path_factory.mktemp("desk")
    for name in ("RUN", "RUN/checkpoints/step-00000547", "runs/a", "runs/b"):
        shutil.copytree(ROOT / "tests" / "fixtures" / "run-0.1", folder / name)
    random = np.random.default_rng(0)
    names = [f"{kind}/{i}.png" for kind in ("cats", "dogs") for i in range(20)]
    for name in [
        *("picture.png", "mask.png", "a.png", "b.png"),
        *(f"{place}/{name}" for place in ("photos", "pictures", "samples") for name in names),
    ]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / name)
    with contextlib.chdir(folder):
        assert cli.main(["train", "photos/", *TRAIN.split()]) == 0
    return folder


@pytest.fixture
def at_the_desk(desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it as the current folder; what is registered is gone afterwards."""
    folder = shutil.copytree(desk, tmp_path / "desk")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(unnoise, "train", short_train)
    monkeypatch.setattr(unnoise, "evaluate", short_evaluate)
    with contextlib.ExitStack() as stack:
        for registry in REGISTRIES:
            stack.enter_context(mock.patch.dict(registry))
        DATASETS["cifar10"] = fake_cifar10
        yield folder


SLOW = ("recipes.md", "extending.md")


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.long] * (page.name in SLOW)) for page in PAGES],
    ids=lambda page: page.name,
)
def test_the_blocks_of_a_page_run(page, at_the_desk):
    names = given(page.name, at_the_desk)
    for block in blocks(page.read_text()):
        if block.language == "python" and not block.reason:
            run_python(block, page, names)
        elif block.language == "sh" and not block.reason:
            for words in commands(block):
                run_command(words)
    if page.name == "extending.md":  # what was registered is kept by its name
        assert unnoise.load("runs/huber").config.diffusion.loss == "Huber"
        assert unnoise.load("runs/plain").config.network == names["PlainConfig"](8)
        assert '"spread"' in Path("evaluated/evaluation.json").read_text()


# --- links


def words_of(page: Path) -> str:
    """The page without its code."""
    return re.sub(r"^```.*?^```|`[^`]*`", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Those of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *ROOT.glob("[A-Z]*.md")], ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page):
    for link in re.findall(r'(?:src="|href="|\]\()([^")\s]+)', words_of(page)):
        if "://" not in link:
            name, _, anchor = link.partition("#")
            there = page.parent / name if name else page
            assert there.exists() and there.resolve().is_relative_to(ROOT), f"{page}: {link}"
            assert not anchor or anchor in anchors(there), f"{page}: {link}"


def test_every_page_is_reached_from_readme():
    seen, left = set(), [ROOT / "README.md"]
    while left:
        page = left.pop()
        if page not in seen and page.suffix == ".md":
            seen.add(page)
            links = re.findall(r"\]\(([^):#]+)", words_of(page))
            left += [(page.parent / link).resolve() for link in links]
    assert set(PAGES) - seen == set()


def test_every_page_is_in_the_site():
    site = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]

    def pages(entries: list[dict[str, Any]]) -> Iterator[str]:
        for value in [value for entry in entries for value in entry.values()]:
            yield from pages(value) if isinstance(value, list) else [value]

    there = [page.relative_to(ROOT / "docs").as_posix() for page in PAGES[1:]]
    assert sorted(pages(site["nav"])) == sorted(there)
