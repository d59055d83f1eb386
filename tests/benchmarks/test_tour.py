"""The tour's page is a program: its fences parse, make the tables that are told, and are run in order in one place."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import tour
from benchmarks.run import REGISTRY


def test_every_fence_of_the_page_is_run_and_parses() -> None:
    parts = tour.fences()
    text = tour.PAGE.read_text(encoding="utf-8")
    assert len(parts) * 2 == sum(line.startswith("```") for line in text.splitlines())
    assert {language for language, _ in parts} == {"bash", "python"}
    for language, code in parts:
        if language == "python":
            ast.parse(code)
            assert code.startswith("# no-run: needs a trained model"), "the documentation's test has none"
    assert REGISTRY["tour"] == "tour.py"


def test_every_table_is_made_by_the_page() -> None:
    made = {
        target.id
        for language, code in tour.fences()
        if language == "python"
        for node in ast.parse(code).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    assert set(tour.TABLES) <= made


def test_fences_run_in_order_and_leave_the_process_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PANATLAS_HOME", str(tmp_path / "mine"))
    before, place = dict(os.environ), Path.cwd()
    desk = tmp_path / "desk"
    desk.mkdir()
    parts = [
        ("bash", 'cat > said.txt <<END\n$DATA "$PANATLAS_HOME"\nEND\n'),
        ("python", "from pathlib import Path\nfound = Path('said.txt').read_text().split()\n"),
        ("python", "control = found[0]\n"),
    ]
    names: dict = {}
    done = tour.run_page(parts, desk, {"DATA": "here"}, names)
    assert names["found"] == ["here", f'"{desk / "home"}"']
    assert [what for what, _ in done] == ["the cells are read", "the cells are read", "control"]
    assert (dict(os.environ), Path.cwd()) == (before, place)
    with pytest.raises(Exception, match="exit status 3"):
        tour.run_page([("bash", "exit 3\n")], _made(tmp_path / "other"), {}, {})
    assert Path.cwd() == place


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_rows_are_values_that_json_has() -> None:
    table = pd.DataFrame({"a": [0.123456, float("nan")], "b": [None, "x"], "n": [3, 4], "of": [12_345, None]})
    assert tour._plain(table) == [{"a": 0.123, "n": 3, "of": 12_345}, {"b": "x", "n": 4}]


def test_a_quick_run_says_that_it_did_not_run() -> None:
    assert "not run" in tour.main(quick=True)[0]["note"]
