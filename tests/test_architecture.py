"""Who may import whom: the layers of docs/architecture.md, read from the source."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "unnoise"
LAYERS = [
    {"diffusion", "networks", "data"},
    {"config"},
    {"presets", "checkpoint", "build", "batching"},
    {"model", "environment"},
    {"training", "sampling", "editing", "tuning", "evaluation", "report"},
    {"api"},
    {"cli"},
    {"__main__"},
]
"""From the bottom up: a module imports lower layers, or its own package; siblings only as named here."""
SIBLINGS = {("presets", "build"), ("report", "evaluation"), ("training", "evaluation")}
HEAVY = {"torch", "numpy", "sklearn", "PIL", "safetensors"}


def part(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports outside `if TYPE_CHECKING`."""
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update(
                [node.module]
                if node.module != "unnoise"
                else [f"unnoise.{a.name}" for a in node.names]
            )
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return names


FILES = sorted(p for p in SOURCE.rglob("*.py") if p.relative_to(SOURCE).as_posix() != "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_import_directions(path):
    mine = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    rank = next(i for i, layer in enumerate(LAYERS) if mine in layer)
    for name in imports(path):
        if name == "unnoise.__version__":
            continue
        if name.startswith("unnoise."):
            other = part(name)
            lower = any(other in layer for layer in LAYERS[:rank])
            assert other == mine or lower or (mine, other) in SIBLINGS, f"{mine} imports {name}"
        if name.split(".")[0] == "PIL":
            assert mine == "data", f"{mine} imports {name}"


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

    root = SOURCE.parent.parent
    pictures = sorted((root / "docs" / "images").glob("*.png"))
    assert pictures
    for path in pictures:
        assert "unnoise" in read_png_text(path), f"{path} says nothing of how it was made"
    for page in (root / "README.md", *(root / "docs").glob("*.md")):
        for link in re.findall(r'(?:src="|\]\()((?!http)[^")#]+)', page.read_text()):
            assert (page.parent / link).exists(), f"{page} links to {link}, which is not there"
