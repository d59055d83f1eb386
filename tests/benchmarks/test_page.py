"""The page of figures says what the stored results say."""

import json

import pytest

from benchmarks import page


def test_page_is_rendered_from_the_results():
    assert page.PAGE.read_text("utf-8") == page.render_page(), "run: python benchmarks/page.py"


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
