"""Which cells of an organism's obs a query selects: read in blocks, decided by DuckDB, never by TileDB's own filters.

TileDB-SOMA 2.3 corrupts memory now and then while it evaluates a `value_filter` (its issue 4437): the process dies, or
worse, does not. Conditions are rendered once, as SQL, for the tables of a release and for the store alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from .errors import AtlasInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import tiledbsoma as soma

    from .filters import Where


def select_rows(frame: soma.DataFrame, query: Where, last: int, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the rows of the cells that a query selects, by rising joinid.

    Parameters
    ----------
    frame
        The organism's obs.
    query
        The conditions.
    last
        Highest joinid that is published; -1 for none.
    columns
        Columns to return; None for all.

    Raises
    ------
    AtlasInputError
        If a column is not in obs.
    """
    names = [name for name in frame.schema.names if columns is None or name in columns]
    unknown = sorted(set(columns or ()) - set(frame.schema.names))
    if unknown:
        raise AtlasInputError("obs_columns", unknown, f"columns of obs: {', '.join(frame.schema.names)}")
    needed = [name for name in frame.schema.names if name in {"soma_joinid", *names, *query.columns}]
    whole = frame.read(coords=(slice(0, max(last, 0)),), column_names=needed, result_order="row-major")
    with duckdb.connect(":memory:") as engine:
        # Threads would deliver the rows of a block in any order.
        engine.execute("SET threads = 1")
        parts = [_keep(engine, block, query).select(names) for block in whole]
    return pa.concat_tables(parts) if last >= 0 else parts[0].slice(0, 0)


def _keep(engine: duckdb.DuckDBPyConnection, block: pa.Table, query: Where) -> pa.Table:
    """Return the rows of a block that satisfy the conditions."""
    if not query.conditions:
        return block
    text, values = query.to_sql()
    engine.register("block", block.select([*query.columns]))
    found = engine.execute(f"SELECT ({text}) IS TRUE AS fits FROM block", values).fetchnumpy()  # noqa: S608 - bound
    engine.unregister("block")
    return block.filter(pa.array(found["fits"]))
