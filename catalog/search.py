"""Finding cells: counts over the atlas' tables, by a text people type and by conditions of the query grammar.

What a text means is decided in `matching`; values no cell has are told, with the nearest one, instead of an unexplained
zero. Reads the tables of `tables`; writes nothing.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atlas import HasPart, OneOf, Where, open_atlas, passing
from ontology import SEPARATOR, get_organism

from .matching import match_text
from .tables import export_tables
from .views import connect, run

if TYPE_CHECKING:
    import duckdb

    from atlas import Atlas


@dataclass(frozen=True)
class Found:
    """The cells a search selects, counted."""

    cells: int
    """Cells in all."""
    groups: tuple[dict[str, Any], ...]
    """Cells per organism, dataset, tissue and cell type, most first."""
    matches: tuple[dict[str, str], ...]
    """Which labels of the atlas the text matched: label, value."""
    unknown: tuple[dict[str, str], ...]
    """Values of conditions that no cell of the atlas has, with the nearest one."""

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values, ready for JSON."""
        return {"cells": self.cells, "groups": list(self.groups), "matches": list(self.matches),
                "unknown": list(self.unknown)}  # fmt: skip


def search_cells(
    atlas: Atlas | str,
    text: str = "",
    where: Where | None = None,
    *,
    organism: str | None = None,
    every_cell: bool = False,
) -> Found:
    """Count the cells that match a text and conditions, by organism, dataset, tissue and cell type.

    Parameters
    ----------
    atlas
        An opened atlas, or the folder of one.
    text
        Words such as `lung fibroblast`: cells with one label that matches them all, or each in some label.
    where
        Conditions on obs.
    organism
        Only this organism, in any spelling.
    every_cell
        True also counts cells that failed QC.

    Raises
    ------
    AtlasInputError
        If the atlas has no cell of `organism`.
    StoreError
        If there is no atlas.
    """
    opened = open_atlas(atlas) if isinstance(atlas, str) else atlas
    query = passing(where, every_cell=every_cell)
    if organism is not None:
        query &= Where((OneOf("organism", (_organism_label(opened, organism),)),))
    with connect(export_tables(opened)) as connection:
        condition, values = query.to_sql()
        matched: tuple[tuple[str, str], ...] = ()
        if text.strip():
            by_text = match_text(connection, text)
            condition, values = f"({condition}) AND ({by_text.condition})", [*values, *by_text.values]
            matched = by_text.labels
        rows = run(
            connection,
            "SELECT organism, dataset_id, tissue, cell_type, count(*) AS cells FROM obs "  # noqa: S608 - bound values
            f"WHERE {condition} GROUP BY ALL ORDER BY cells DESC, organism, dataset_id, tissue, cell_type",
            values,
        ).to_pylist()
        unknown = _unknown_values(connection, where or Where())
    matches = tuple({"label": column, "value": value} for column, value in matched)
    return Found(sum(row["cells"] for row in rows), tuple(rows), matches, unknown)


def _organism_label(atlas: Atlas, organism: str) -> str:
    """Return the scientific name of an organism the atlas has cells of."""
    atlas.experiment(organism)
    return get_organism(organism).label


def _unknown_values(connection: duckdb.DuckDBPyConnection, where: Where) -> tuple[dict[str, str], ...]:
    """Return the text values of conditions that no cell has, each with the nearest value that one has."""
    unknown = []
    for condition in where.conditions:
        if not isinstance(condition, (OneOf, HasPart)) or not all(isinstance(v, str) for v in condition.values):
            continue
        if condition.column.removesuffix("_ontology_term_id") != condition.column:
            continue  # ids come from an ontology; that a cell has none of them is an answer, not a slip
        column = condition.column
        rows = run(connection, f'SELECT DISTINCT "{column}" AS v FROM obs')  # noqa: S608 - a name of the schema
        have = {part for row in rows.to_pylist() for part in {row["v"], *row["v"].split(SEPARATOR)}}
        for value in condition.values:
            if value not in have:
                near = difflib.get_close_matches(str(value), have, n=1, cutoff=0.0)
                unknown.append({"column": column, "value": str(value), "nearest": near[0] if near else ""})
    return tuple(unknown)
