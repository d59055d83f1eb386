"""An analyst's morning on the starter atlas: look, search, ask in SQL, take cells home; three routes, one answer."""

from __future__ import annotations

import numpy as np
import pytest

from atlas import descendants, open_atlas, where

pytestmark = pytest.mark.index


@pytest.fixture
def ask(desk, starter_home, monkeypatch):
    """Run a command on the starter atlas, as the default one."""
    monkeypatch.setenv("PANATLAS_HOME", str(starter_home))
    return desk


def test_search_sql_and_python_give_the_same_cells(ask, starter_home):
    info = ask("info", "--json").json
    assert info["cells"] > 1000
    assert 0 < info["passing"] <= info["cells"]

    by_words = ask("search", "beta cells", "--json").json
    condition = ("search", "--where", "cell_type~CL:0000169", "--json")  # type B pancreatic cell, and what is below
    by_term = ask(*condition).json
    assert by_words["cells"] == by_term["cells"] > 100

    query = "SELECT count(*) AS n FROM obs WHERE qc_pass AND cell_type = 'type B pancreatic cell'"
    assert ask("sql", query, "--json").json == [{"n": by_term["cells"]}]

    atlas = open_atlas(str(starter_home / "atlas"))
    cells = atlas.query("human", where(cell_type=descendants("type B pancreatic cell"))).to_anndata()
    assert cells.n_obs == by_term["cells"]
    assert cells.obs["qc_pass"].all()
    assert set(cells.obs["cell_type"]) == {"type B pancreatic cell"}
    assert np.asarray(cells.X.sum(axis=1)).min() > 0
    every = ask(*condition, "--all-cells").json["cells"]
    assert every >= by_term["cells"]


def test_tables_go_through_a_pipe(panatlas, starter_home):
    done = panatlas("sql", "SELECT dataset_id, count(*) AS cells FROM obs GROUP BY 1 ORDER BY 1", home=starter_home)
    assert done.code == 0
    assert done.err == ""
    assert "10x-pbmc3k" in done.out


def test_a_slip_is_answered_with_the_nearest_value(ask):
    done = ask("search", "--where", "cell_type=type B pancreatic cel")
    assert done.code == 0
    assert "nearest: type B pancreatic cell" in done.err
    assert done.out == ""


def test_sql_reaches_nothing_but_the_atlas(ask, tmp_path, monkeypatch):
    (tmp_path / "secret.csv").write_text("password\nhunter2\n")
    monkeypatch.chdir(tmp_path)
    done = ask("sql", "SELECT * FROM 'secret.csv'")
    assert done.code == 2
    assert "hunter2" not in done.out + done.err
    done = ask("sql", f"SELECT * FROM read_csv('{tmp_path}/secret.csv')")
    assert done.code == 2
    assert "hunter2" not in done.out + done.err
