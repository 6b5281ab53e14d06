"""The tables of benchmarks/speed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.speed import tables
from benchmarks.speed.subjects import OURS

RESULT = {
    "what": "startup", "machine": "a machine", "device": "cpu", "threads": 2, "torch": "2", "date": "2026-01-01",
    "commit": "abc", "command": "python -m benchmarks.speed startup",
    "rows": [{"command": "import unnoise", "sec": {"median": 0.02, "low": 0.01, "high": 0.03}}],
}  # fmt: skip
PAGE = "# Results\n\n<!-- speed:startup -->\nold\n<!-- /speed:startup -->\n\nafter\n"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    (tmp_path / "speed-startup-cpu.json").write_text(json.dumps(RESULT))
    (tmp_path / "other.json").write_text("{}")
    return tmp_path


def test_tables_are_rendered_between_their_marks_and_again(results):
    page = results / "results.md"
    page.write_text(PAGE)
    assert tables.render(results, page) == ["startup"]
    once = page.read_text()
    assert "| `import unnoise` | 0.02 (0.01 to 0.03) |" in once
    assert once.startswith("# Results\n\n<!-- speed:startup -->\na machine, 2 threads, torch 2")
    assert once.endswith("<!-- /speed:startup -->\n\nafter\n")
    assert "old" not in once
    tables.render(results, page)
    assert page.read_text() == once


def test_missing_marks_are_one_clear_error(results):
    page = results / "results.md"
    page.write_text("# Results\n")
    with pytest.raises(
        tables.MarkerError, match=r"results.md: no mark <!-- speed:startup -->; put it and .* where"
    ):
        tables.render(results, page)
    assert page.read_text() == "# Results\n"


def test_every_table_has_a_cell_for_every_column():
    row = {
        "subject": "edm", "way": "best", "batch": 8, "precision": "bf16", "format": "nhwc", "compiled": "", "version": "1",
        "parameters": 39_390_339, "gflop_per_image": 13.995, "images_per_sec": 5.32, "utilisation": 0.49,
        "roofline_share": 0.6, "peak_bytes": 2**30, "calls": 20, "sec_per_flop_to_ours": 1.1,
        "sec_to_ours": {"median": 1.2, "low": 1.1, "high": 1.3},
    }  # fmt: skip
    for what in ("training", "sampling", "memory"):
        head, rows = tables.COLUMNS[what]({"rows": [row]})
        assert [len(cells) for cells in rows] == [len(head)]
    profile = {
        "subject": OURS,
        "work": "training",
        "batch": 8,
        "precision": "bf16",
        "convolution_share_of_peak": 0.7,
    }
    head, rows = tables.COLUMNS["profile"](
        {"rows": [profile | {"sec": {"optimizer": 1.0, "rest": 3.0}}]}
    )
    assert (head[1:], rows[0]) == (["training, batch 8, bf16"], ["rest", "75 %"])


def test_remarks():
    row = {"subject": "edm", "note": "another network", "redone": 2, "disturbed": 1}
    text = tables._remarks({"rows": [row, row]})
    assert text.startswith("edm: another network. 4 samples were taken again because")
    assert "2 kept although they did" in text
    assert tables._remarks({"rows": [{"subject": "x", "note": ""}]}) == ""
