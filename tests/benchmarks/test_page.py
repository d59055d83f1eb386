"""The page of figures says what the stored results say."""

import json
from xml.etree import ElementTree as ET

import pytest

from benchmarks import page


def test_page_is_rendered_from_the_results():
    assert page.PAGE.read_text("utf-8") == page.render_page(), "run: python benchmarks/page.py"


def test_plots_are_drawn_from_the_results():
    kept = {path.name: path.read_text("utf-8") for path in page.PLOTS.glob("*.svg")}
    assert kept == page.render_plots(), "run: python -P benchmarks/page.py"


@pytest.fixture
def record():
    machine = {"processor": "p", "cores": 2, "memory_gib": 1, "python": "3.11", "libraries": {"numpy": "2", "x": None}}
    rows = [
        {"table": "warm", "loader": "ours", "b": 1, "a": 2},
        {"table": "not run", "loader": "theirs", "note": "cannot"},
    ]
    return {
        "benchmark": "toy", "about": "A toy.", "rows": rows, "notes": ["How to read it."], "columns": ["loader", "b"],
        "command": "just bench toy", "commit": None, "seed": 1, "date": "2026-01-01", "machine": machine,
    }  # fmt: skip


def test_rows_of_several_tables_have_their_own_columns_in_the_order_asked_for(record, tmp_path):
    (tmp_path / "toy.json").write_text(json.dumps(record, sort_keys=True))
    text = page.render_page(tmp_path)
    assert "### warm\n\n| loader | b | a |\n|---|---|---|\n| ours | 1 | 2 |\n" in text
    assert "### not run\n\n| loader | note |\n|---|---|\n| theirs | cannot |\n\nHow to read it.\n" in text


def test_plots_have_a_row_a_method_with_its_interval_the_best_first(record, tmp_path):
    record["plots"] = [{"table": "warm", "by": "loader", "value": "a", "better": "less", "ours": ["ours"]}]
    record["rows"] = [
        {"table": "warm, small", "loader": "theirs & others", "a": "3.0 ± 0.5"},
        {"table": "warm, small", "loader": "ours", "a": 1.5},
        {"table": "warm, small", "loader": "failed", "a": ""},
        {"table": "cold", "loader": "ours", "a": 2},
    ]
    (tmp_path / "toy.json").write_text(json.dumps(record))
    ((name, text),) = page.render_plots(tmp_path).items()
    assert f"![warm, small](_static/benchmarks/{name})" in page.render_page(tmp_path)
    drawn = ET.fromstring(text)
    tag = "{http://www.w3.org/2000/svg}"
    dots = [float(one.get("cx")) for one in drawn.iter(f"{tag}circle")]
    names = [one.text for one in drawn.iter(f"{tag}text") if one.get("text-anchor") == "end"][1:]
    assert names == ["ours", "theirs & others"], "the best first, and what has no number is not drawn"
    assert dots == sorted(dots)
    (interval,) = [one for one in drawn.iter(f"{tag}line") if one.get("stroke-width")]
    assert float(interval.get("x1")) < dots[1] < float(interval.get("x2"))


def test_pages_say_which_data_and_which_model(record, tmp_path):
    record["data"] = {"files": 3, "sha256": "ab" * 32, "missing": 1, "model": "cd" * 32}
    (tmp_path / "toy.json").write_text(json.dumps(record))
    assert "data abababababab (3 files), 1 files missing, model cdcdcdcdcdcd; p, 2 cores" in page.render_page(tmp_path)
