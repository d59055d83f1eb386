"""SQL over the tables: right answers, and nothing but the tables within reach."""

from __future__ import annotations

import time

import pytest

from atlas import StoreError
from catalog import QueryError, export_tables, make_release, sql
from catalog.views import connect, run


def test_answers_equal_pandas(small):
    atlas, obs = small
    got = sql(atlas, "SELECT organism, cell_type, count(*) AS n, max(nnz) AS m FROM obs GROUP BY ALL ORDER BY ALL")
    expected = obs.groupby(["organism", "cell_type"])["nnz"].agg(["size", "max"]).reset_index()
    assert got.to_pydict() == {
        "organism": expected["organism"].tolist(),
        "cell_type": expected["cell_type"].tolist(),
        "n": expected["size"].tolist(),
        "m": expected["max"].tolist(),
    }


@pytest.mark.parametrize(
    "query",
    [
        "FROM datasets",
        "describe obs",
        "SUMMARIZE datasets",
        "EXPLAIN SELECT 1",
        "VALUES (1)",
        "WITH x AS (SELECT 1) FROM x",
        "SELECT o.dataset_id FROM obs o JOIN datasets d USING (dataset_id) LIMIT 1 -- ; DROP",
    ],
)
def test_every_form_of_reading_is_allowed(small, query):
    assert sql(small[0], query).num_rows > 0


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_csv('{secret}')",
        "SELECT * FROM read_text('{secret}')",
        "SELECT * FROM read_blob('{secret}')",
        "SELECT * FROM '{secret}'",
        "SELECT * FROM glob('{folder}/*')",
        "SELECT * FROM sniff_csv('{secret}')",
        "SELECT * FROM read_parquet('{folder}/*.parquet')",
        "SELECT * FROM query('COPY (SELECT 1) TO ''{folder}/x''')",
        "COPY obs TO '{folder}/x.csv'",
        "COPY (SELECT 1) TO '{tables}' (USE_TMP_FILE false)",
        "EXPORT DATABASE '{folder}/x'",
        "IMPORT DATABASE '{folder}'",
        "ATTACH '{folder}/x.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "FORCE INSTALL httpfs FROM 'http://127.0.0.1:1/'",
        "SELECT * FROM read_parquet('http://127.0.0.1:1/x.parquet')",
        "SET enable_external_access = true",
        "SET memory_limit = '900GB'",
        "RESET lock_configuration",
        "PRAGMA enable_profiling",
        "CREATE TABLE t (a INT)",
        "DROP VIEW obs",
        "INSERT INTO obs VALUES (1)",
        "DELETE FROM datasets",
        "UPDATE obs SET nnz = 0",
        "WITH x AS (INSERT INTO obs VALUES (1) RETURNING *) FROM x",
        "CREATE SECRET s (TYPE s3)",
        "CALL enable_logging(storage='file')",
        "SELECT 1; SELECT 2",
        "SELECT 1; DROP VIEW obs",
        "",
        "-- nothing",
        "SELEC 1",
        "SELECT nosuch FROM obs",
        "SELECT \0 FROM obs",
    ],
)
def test_everything_else_is_refused_and_changes_nothing(small, tmp_path, query):
    atlas, obs = small
    secret = tmp_path / "secret.csv"
    secret.write_text("password\nhunter2\n")
    tables = export_tables(atlas)
    before = tables.obs.read_bytes()
    with pytest.raises(QueryError) as refused:
        sql(atlas, query.format(secret=secret, folder=tmp_path, tables=tables.obs))
    assert "hunter2" not in str(refused.value)
    assert tables.obs.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["secret.csv"]
    assert sql(atlas, "SELECT count(*) AS n FROM obs")["n"].to_pylist() == [len(obs)]


def test_the_connection_itself_is_shut_off(small, tmp_path):
    """The second wall: even a statement that is no SELECT finds the files, settings and extensions out of reach."""
    import duckdb

    with connect(export_tables(small[0])) as connection:
        for statement in (
            f"COPY obs TO '{tmp_path}/x.csv'",
            f"ATTACH '{tmp_path}/x.db'",
            "INSTALL httpfs",
            "LOAD httpfs",
            "SET enable_external_access = true",
            "SET allowed_directories = ['/']",
            "SET memory_limit = '900GB'",
            "FROM read_text('/etc/passwd')",
        ):
            with pytest.raises(duckdb.Error):
                connection.execute(statement)
    assert list(tmp_path.iterdir()) == []


def test_the_callers_variables_are_no_tables(small):
    import pandas as pd

    mine = pd.DataFrame({"password": ["hunter2"]})
    assert len(mine) == 1
    with pytest.raises(QueryError, match="mine"):
        sql(small[0], "SELECT * FROM mine")


def test_a_runaway_query_is_stopped(small):
    began = time.monotonic()
    with pytest.raises(QueryError, match=r"stopped after 0\.5 s"):
        sql(small[0], "SELECT count(*) FROM range(1000000000) a, range(1000000) b", timeout_s=0.5)
    assert time.monotonic() - began < 20


def test_a_greedy_query_meets_the_memory_limit(small):
    with pytest.raises(QueryError, match="memory"):
        sql(small[0], "SELECT list(a.range) FROM range(100000000) a", memory_limit="50MB")


def test_values_are_bound_not_pasted(small):
    hostile = "x' OR 1=1 --"
    with connect(export_tables(small[0])) as connection:
        assert run(connection, "SELECT count(*) AS n FROM obs WHERE cell_type = ?", [hostile])["n"].to_pylist() == [0]


def test_no_atlas_says_how_to_make_one(tmp_path):
    with pytest.raises(StoreError, match="panatlas ingest"):
        sql(str(tmp_path / "none"), "SELECT 1")


@pytest.mark.parametrize("damage", ["removed", "cut"])
def test_a_damaged_release_stops_only_what_asks_for_it(tmp_path, grow, damage):
    grow(tmp_path / "atlas", "lungs", "human", 30)
    uri = str(tmp_path / "atlas")
    file = make_release(uri, "rk").folder / "splits.parquet"
    assert sql(uri, "SELECT count(*) AS n FROM splits")["n"].to_pylist() == [30]
    file.chmod(0o644)
    file.unlink() if damage == "removed" else file.write_bytes(file.read_bytes()[:200])
    assert sql(uri, "SELECT count(*) AS n FROM obs")["n"].to_pylist() == [30]
    with pytest.raises(QueryError, match="splits"):
        sql(uri, "SELECT * FROM splits")
    with pytest.raises(StoreError, match=r"rk/splits\.parquet.*restore release rk"):
        sql(uri, "SELECT count(*) FROM obs", release="rk")


def test_a_join_larger_than_memory_is_spilled_and_leaves_nothing(small, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    side = "(SELECT hash(range) AS k, range AS {} FROM range(2000000))"
    query = f"SELECT count(*) AS n FROM {side.format('v')} JOIN {side.format('w')} USING (k) WHERE v = w"
    assert sql(small[0], query, memory_limit="60MB")["n"].to_pylist() == [2000000]
    assert list(tmp_path.iterdir()) == []


def test_the_folder_for_spilling_opens_no_other(small, tmp_path, monkeypatch):
    """DuckDB lets a query read where it spills; that is a folder of its own, and nothing beside it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "secret.csv").write_text("password\nhunter2\n")
    with connect(export_tables(small[0])) as connection:
        (folder,) = connection.sql("SELECT current_setting('temp_directory')").fetchall()[0]
        assert [str(p) for p in tmp_path.iterdir() if p.is_dir()] == [folder]
        for path in (f"{tmp_path}/secret.csv", f"{folder}/../secret.csv"):
            with pytest.raises(QueryError, match="only the views"):
                run(connection, f"SELECT * FROM read_text('{path}')")
        with pytest.raises(QueryError, match="read-only"):
            run(connection, f"COPY obs TO '{folder}/x.csv'")
    assert [p.name for p in tmp_path.iterdir()] == ["secret.csv"]
