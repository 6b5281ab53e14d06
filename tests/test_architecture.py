"""The house's rules, read from the source: who may import whom, how large things may be, what the
docs say of it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "unnoise"
LAYERS = [
    {"errors", "ranges"},
    {"files", "reading", "units", "events", "ranks", "extensions"},
    {"diffusion", "networks", "data"},
    {"config"},
    {"records"},
    {"presets", "checkpoint", "build", "memory", "parallel", "precision"},
    {"settings", "model", "environment", "terminal"},
    {"training", "evaluation", "sampling", "editing", "tuning", "formats"},
    {"studio", "api", "hub"},
    {"cli"},
    {"__main__"},
]
"""From the bottom up: a module imports lower layers, its own package, or what NEIGHBOURS names."""
NEIGHBOURS = {("model", "settings")}
HEAVY = {"torch", "numpy", "sklearn", "PIL", "safetensors"}
CORE = [
    *(
        "diffusion/" + name
        for name in (
            "levels.py",
            "schedules.py",
            "parameterizations.py",
            "gaussian.py",
            "denoiser.py",
            "losses.py",
            "grids.py",
            "samplers/__init__.py",
            "samplers/step.py",
            "samplers/first_order.py",
            "samplers/heun.py",
            "samplers/ipndm.py",
            "samplers/frames.py",
            "samplers/exponential.py",
        )
    ),
    "networks/unet.py",
    "networks/layers.py",
    "data/batches.py",
    "training/step.py",
    "training/loop.py",
    "training/state.py",
    "training/ema.py",
]
"""What a newcomer reads in an hour."""
MOST_LINES, MOST_CORE_LINES = 22_500, 2_500  # see docs/architecture.md
MOST_FILE_LINES, MOST_FUNCTION_LINES, MOST_LOOP_LINES, MOST_PARAMETERS = 350, 60, 100, 6
DOORS = {"train", "bits_per_dim"}
"""Public functions whose arguments are as many as the things that a user may bring."""


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


FILES = sorted(SOURCE.rglob("*.py"))


@cache
def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


@cache
def modules() -> dict[str, Path]:
    """Dotted name -> file."""
    dotted = {}
    for path in FILES:
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        dotted[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return dotted


@cache
def imports(path: Path) -> frozenset[str]:
    """Dotted names that a file imports anywhere, under TYPE_CHECKING and in functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                names.add(full if full in modules() else node.module)
    return frozenset(names)


@pytest.mark.parametrize("path", [p for p in FILES if p != SOURCE / "__init__.py"], ids=name_of)
def test_import_directions(path):
    mine = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    rank = next(i for i, layer in enumerate(LAYERS) if mine in layer)
    for name in imports(path):
        if name.split(".")[0] == "PIL":
            assert mine == "data", f"{mine} imports {name}"
        if name.startswith("unnoise."):
            other = name.split(".")[1]
            lower = any(other in layer for layer in LAYERS[:rank])
            assert other == mine or lower or (mine, other) in NEIGHBOURS, f"{mine} imports {name}"


def test_no_circle_of_imports():
    """Nor one between files of a package, nor one that only a type checker walks."""
    inner = {
        module: {name for name in imports(path) if name in modules() and name != module}
        for module, path in modules().items()
        if module != "unnoise"  # the lazy public names
    }
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module not in done:
            for other in inner.get(module, ()):
                # a package's __init__ may name its own files, and they may not name it
                visit(other, (*way, module))
            done.add(module)

    for module in inner:
        visit(module, ())


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_sizes(path):
    assert lines(path) <= MOST_FILE_LINES
    for function in functions(path):
        what = f"{name_of(path)}:{function.lineno} {function.name}"
        size = (function.end_lineno or 0) - function.lineno + 1
        loop = name_of(path) == "training/loop.py"
        assert size <= (MOST_LOOP_LINES if loop else MOST_FUNCTION_LINES), f"{what}: {size} lines"
        names = [a.arg for a in [*function.args.args, *function.args.kwonlyargs]]
        count = len([name for name in names if name not in ("self", "cls")])
        free = function.name in DOORS and count <= 8
        assert count <= MOST_PARAMETERS or free, f"{what}: {count} parameters"


def test_the_house_and_its_core_stay_small():
    assert sum(lines(path) for path in FILES) <= MOST_LINES
    assert sum(lines(SOURCE / name) for name in CORE) <= MOST_CORE_LINES


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks"])
def test_code_has_at_most_100_columns(folder):
    wide = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(re.sub(r"  # (pyright|noqa).*", "", line)) > 100
    ]
    assert not wide, f"{len(wide)} lines: {wide[:20]}"


def test_markdown_has_at_most_100_columns():
    wide = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > 100 and not line.lstrip().startswith(("|", "<", "!["))
    ]
    assert not wide, f"{len(wide)} lines: {wide[:20]}"


def long_paragraphs(text: str, most: int = 5) -> Iterator[tuple[int, int]]:
    """(first line, lines) of paragraphs and list items, but not of code, tables, headings, HTML."""
    first = size = 0
    fenced = False
    for number, line in enumerate([*text.splitlines(), ""], 1):
        words = line.strip()
        fence, item = words.startswith("```"), re.match(r"(?:[-*]|\d+\.) ", words)
        indented = line.startswith("    ") and not size
        other = fenced or fence or indented or not words or words.startswith(("#", "|", "<", "!["))
        if other or item:
            if size > most:
                yield first, size
            size = 0
        if not other:
            first, size = first if size else number, size + 1
        fenced ^= fence


def test_long_paragraphs_are_found():
    lines = "a\n" * 6
    assert list(long_paragraphs("\n- b\n" + lines)) == [(2, 7)]
    assert list(long_paragraphs(f"# A\n{lines}\n| a |\n{lines}")) == [(2, 6), (10, 6)]
    code = "    c\n" * 6
    assert not list(long_paragraphs(f"```\n{lines}```\n\n{code}\n" + "- b\n" * 6 + "| c |\n" * 6))


def test_markdown_paragraphs_have_at_most_5_lines():
    long = [
        f"{path.relative_to(ROOT)}:{first}: {size} lines"
        for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
        for first, size in long_paragraphs(path.read_text())
    ]
    assert not long, f"{len(long)} paragraphs: {long[:20]}"


def test_the_docs_show_the_tree_that_there_is():
    text = (ROOT / "docs" / "architecture.md").read_text()
    tree = text[text.index("src/unnoise/\n") : text.index("tests/ ")]
    shown = set(re.findall(r"[\w-]+\.(?:py|js|css|html)\b", tree)) - {"my.py"}
    there = {
        path.name for path in SOURCE.rglob("*") if path.suffix in (".py", ".js", ".css", ".html")
    }
    assert shown - there == set(), "it names files that are gone"
    assert there - shown - {"__init__.py", "__main__.py"} == set(), "it lacks files"


@pytest.mark.parametrize("module", ["unnoise", "unnoise.config", "unnoise.presets", "unnoise.cli"])
def test_light_modules_import_nothing_heavy(module):
    code = f"import sys, {module}; print(*({HEAVY!r} & set(sys.modules)))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert out.strip() == ""


def test_every_public_name_resolves():
    import unnoise

    for name in unnoise.__all__:
        assert getattr(unnoise, name) is not None


def test_pictures_in_the_docs_are_made_by_the_program():
    from unnoise.data.images import read_png_text

    pictures = sorted((ROOT / "docs" / "images").glob("*.png"))
    assert pictures
    for path in pictures:
        assert "unnoise" in read_png_text(path), f"{path} says nothing of how it was made"
