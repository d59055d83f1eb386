"""SQL over obs, datasets and a release's splits, for anyone, with nothing else within reach.

DuckDB reads those Parquet tables in process: no other file, no network, no extension, no change of settings, one
SELECT at a time, within limits of memory, disk and time. `search` and `releases` use the same connection.
"""

from __future__ import annotations

import logging
import tempfile
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from atlas import StoreError, open_atlas

from .errors import QueryError
from .manifests import newest_release, read_manifest
from .tables import export_tables

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from atlas import Atlas

    from .tables import Tables

_LOG = logging.getLogger(__name__)
MEMORY_LIMIT = "2GB"  # measured: 35 M rows x 10 columns grouped within 0.9 GB
SPILL_LIMIT = "40GB"  # splits of 350 M cells joined to obs need about half of it
TIMEOUT_S = 120.0  # a full scan of 350 M rows takes about half of it on two cores
_READ_ONLY = ("SELECT", "EXPLAIN")
_CLOSED = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "allow_persistent_secrets": False,
    "python_enable_replacements": False,  # else a table name could reach the caller's Python variables
}


def sql(
    atlas: Atlas | str,
    query: str,
    *,
    release: str | None = None,
    timeout_s: float = TIMEOUT_S,
    memory_limit: str = MEMORY_LIMIT,
) -> pa.Table:
    """Run one SELECT over the views `obs` (a row per cell), `datasets` and `splits`, and return its rows.

    Parameters
    ----------
    atlas
        An opened atlas, or the folder of one.
    query
        One SELECT (or WITH, FROM, VALUES, DESCRIBE, SUMMARIZE, EXPLAIN) in DuckDB's dialect.
    release
        Read everything as this release froze it. None reads the atlas as it was opened; `splits` is then of its newest
        release, and there is no such view where it has none, or where its file is damaged.
    timeout_s
        Seconds after which it is stopped.
    memory_limit
        Most memory it may use, e.g. `2GB`; what needs more is spilled to a temporary folder of its own.

    Raises
    ------
    CatalogInputError
        If there is no such release.
    QueryError
        If it is not one SELECT, reaches for anything but the views, is wrong, or runs out of time or memory.
    StoreError
        If there is no atlas, or a file of the named release, or of the tables, cannot be read.
    """
    opened = open_atlas(atlas) if isinstance(atlas, str) else atlas
    if release is not None:
        opened = open_atlas(opened.uri, at=read_manifest(opened.root, release)["tiledb_timestamp_ms"])
    splits = release or newest_release(opened.root, opened.published_ms)
    file = opened.root / "releases" / splits / "splits.parquet" if splits else None
    if file and release is None and not _readable(file):  # a query that names no release may do without
        _LOG.warning("%s cannot be read: `splits` is left out; name another release to see its splits", file)
        file = None
    with connect(export_tables(opened), file, memory_limit=memory_limit) as connection:
        return run(connection, query, timeout_s=timeout_s)


@contextmanager
def connect(
    tables: Tables, splits: Path | None = None, *, memory_limit: str = MEMORY_LIMIT, scratch: Path | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an in-memory DuckDB that sees the tables as views and is then shut off from everything else.

    Parameters
    ----------
    tables
        What to show.
    splits
        A release's splits.parquet, shown as `splits`; None for none.
    memory_limit
        Most memory it may use; what needs more is spilled to disk.
    scratch
        A folder of our own in which results may be written and large sorts and joins spilled. None spills into a
        temporary folder that nobody else can read and that is removed afterwards.

    Raises
    ------
    StoreError
        If a file cannot be read.
    """
    settings = dict(_CLOSED) | {"memory_limit": memory_limit}
    with ExitStack() as stack:
        if scratch is not None:
            settings["temp_directory"] = str(scratch)
        else:
            settings["temp_directory"] = stack.enter_context(tempfile.TemporaryDirectory(prefix="panatlas-sql-"))
            settings["max_temp_directory_size"] = SPILL_LIMIT
        connection = stack.enter_context(duckdb.connect(":memory:", config=settings))
        shown = {"obs": tables.obs, "datasets": tables.datasets} | ({"splits": splits} if splits else {})
        for name, file in shown.items():
            _show(connection, name, file)
        paths = ", ".join(_quote(file) for file in shown.values())
        connection.execute(f"SET allowed_paths = [{paths}]")
        if scratch is not None:
            connection.execute(f"SET allowed_directories = [{_quote(scratch)}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        yield connection


def run(
    connection: duckdb.DuckDBPyConnection,
    query: str,
    values: Sequence[object] = (),
    *,
    timeout_s: float = TIMEOUT_S,
) -> pa.Table:
    """Run one SELECT on a connection of `connect`, and return its rows; `values` are bound to its `?` marks."""
    statement = _only_select(connection, query)
    clock = threading.Timer(timeout_s, connection.interrupt)
    clock.start()
    try:
        return connection.sql(statement, params=list(values)).to_arrow_table()
    except duckdb.InterruptException as exc:
        raise QueryError(query, f"stopped after {timeout_s:g} s", "narrow it, or pass a longer --timeout") from exc
    except duckdb.OutOfMemoryException as exc:
        raise QueryError(query, _first_line(exc), "narrow it, aggregate, or pass more --memory") from exc
    except duckdb.PermissionException as exc:
        raise QueryError(query, _first_line(exc), "only the views obs, datasets and splits can be read here") from exc
    except duckdb.Error as exc:
        remedy = "`describe obs` and `describe datasets` list the columns; `splits` is there once a whole release is"
        raise QueryError(query, _first_line(exc), remedy) from exc
    finally:
        clock.cancel()


def _show(connection: duckdb.DuckDBPyConnection, name: str, file: Path) -> None:
    """Make the view of a Parquet file, or say whose file is damaged."""
    try:
        connection.read_parquet(str(file)).create_view(name)
    except duckdb.Error as exc:
        remedy = f"delete {file.parent}, it comes back"
        if name == "splits":
            remedy = f"restore release {file.parent.name} from a copy of the atlas, or name another release"
        raise StoreError(str(file), "read", f"{_first_line(exc)}; {remedy}") from exc


def _readable(file: Path) -> bool:
    """Tell whether a Parquet file is there and whole enough to be opened."""
    try:
        pq.read_metadata(file)
    except (OSError, pa.ArrowException):
        return False
    return True


def _only_select(connection: duckdb.DuckDBPyConnection, query: str) -> Any:
    """Return the query's one statement, parsed by DuckDB itself, or refuse it."""
    try:
        statements = connection.extract_statements(query)
    except duckdb.Error as exc:
        raise QueryError(query, _first_line(exc), "it must be one SELECT in DuckDB's dialect") from exc
    kinds = [statement.type.name.removesuffix("_STATEMENT") for statement in statements]
    if len(kinds) != 1 or kinds[0] not in _READ_ONLY:
        raise QueryError(query, f"it is {' + '.join(kinds) or 'empty'}", "pass one SELECT; the tables are read-only")
    return statements[0]


def _quote(path: Path) -> str:
    """Return a path as an SQL string literal."""
    return "'" + str(path).replace("'", "''") + "'"


def _first_line(error: BaseException) -> str:
    """Return what an error says in its first line."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
