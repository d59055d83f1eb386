"""Finding cells and saying what there is: counts over the atlas' tables, by label text, ontology and conditions.

A search text is looked up among the labels the atlas holds, the authors' own words, and the ontologies with their
synonyms; a term that matches brings everything below it. Reads the tables of `tables`; writes nothing.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atlas import AtlasInputError, Where, open_atlas, passing
from atlas.conditions import HasPart, OneOf
from atlas.filters import JOINED_LABELS
from ontology import LABELS, OntologyError, get_organism, list_organisms, load_ontology

from .sql import connect, run
from .tables import export_tables

if TYPE_CHECKING:
    import duckdb

    from atlas import Atlas
    from ontology import Ontology

_TERM_LABELS = tuple(label for label in LABELS if label not in ("organism", "cell_culture"))


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
    atlas: Atlas | str, text: str = "", where: Where | None = None, *, organism: str | None = None, every_cell: bool = False
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
        matched: dict[tuple[str, str], None] = {}
        if text.strip():
            by_text, found = _match_text(connection, text)
            condition, values = f"({condition}) AND ({by_text[0]})", [*values, *by_text[1]]
            matched = found
        rows = run(
            connection,
            "SELECT organism, dataset_id, tissue, cell_type, count(*) AS cells FROM obs "  # noqa: S608 - bound values
            f"WHERE {condition} GROUP BY ALL ORDER BY cells DESC, organism, dataset_id, tissue, cell_type",
            values,
        ).to_pylist()
        unknown = _unknown_values(connection, where or Where())
    matches = tuple({"label": column, "value": value} for column, value in sorted(matched))
    return Found(sum(row["cells"] for row in rows), tuple(rows), matches, unknown)


def describe_atlas(atlas: Atlas | str) -> dict[str, Any]:
    """Return what an atlas holds: organisms, datasets, cells, moment, versions; plain values, ready for JSON.

    Parameters
    ----------
    atlas
        An opened atlas, or the folder of one.
    """
    opened = open_atlas(atlas) if isinstance(atlas, str) else atlas
    summary = opened.table("summary").set_index("label")["value"]
    with connect(export_tables(opened)) as connection:
        organisms = run(
            connection,
            "SELECT organism, any_value(organism_ontology_term_id) AS term_id, count(DISTINCT dataset_id) AS datasets, "
            "count(*) AS cells, count(*) FILTER (qc_pass) AS passing, count(*) FILTER (is_primary_data) AS primary_cells, "
            "count(DISTINCT cell_type) AS cell_types FROM obs GROUP BY organism ORDER BY organism",
        ).to_pylist()
        datasets = run(
            connection,
            "SELECT o.organism, dataset_id, any_value(dataset_title) AS title, count(*) AS cells, "
            "count(*) FILTER (qc_pass) AS passing, any_value(licence) AS licence, min(d.soma_joinid) AS added "
            "FROM obs o JOIN datasets d USING (dataset_id) GROUP BY ALL ORDER BY added",
        ).to_pylist()
    moment = dt.datetime.fromtimestamp(opened.published_ms / 1000, dt.UTC)
    return {
        "uri": opened.uri,
        "published_ms": opened.published_ms,
        "published": moment.isoformat(timespec="milliseconds"),
        "cells": sum(row["cells"] for row in organisms),
        "passing": sum(row["passing"] for row in organisms),
        "organisms": organisms,
        "datasets": [{k: v for k, v in row.items() if k != "added"} for row in datasets],
        "versions": {str(k): str(v) for k, v in summary.items() if str(k).endswith("_version")},
    }


def _organism_label(atlas: Atlas, organism: str) -> str:
    """Return the scientific name of an organism the atlas has cells of."""
    atlas.experiment(organism)
    return get_organism(organism).label


def _match_text(
    connection: duckdb.DuckDBPyConnection, text: str
) -> tuple[tuple[str, list[object]], dict[tuple[str, str], None]]:
    """Return the SQL condition of a text, and the (label, value) pairs it matched."""
    vocabulary = _vocabulary(connection)
    whole, matched = _any_label(vocabulary, text)
    words = _words(text)
    if len(words) < 2:
        return whole, matched
    parts = [_any_label(vocabulary, word) for word in words]
    every = " AND ".join(f"({part[0]})" for (part, _) in parts)
    values = [value for part, _ in parts for value in part[1]]
    if all(found for _, found in parts):
        matched = matched | {pair: None for _, found in parts for pair in found}
    return (f"({whole[0]}) OR ({every})", [*whole[1], *values]), matched


def _any_label(
    vocabulary: dict[str, dict[str, str]], text: str
) -> tuple[tuple[str, list[object]], dict[tuple[str, str], None]]:
    """Return the condition that any one label matches a text, and what matched."""
    tests, values, matched = [], [], {}
    for label, present in vocabulary.items():
        wanted = _words(text)
        below = _terms_below(label, text, {i for ids in present.values() for i in ids.split(" || ")})
        found = [
            value
            for value, ids in present.items()
            if _holds(value, wanted) or (ids and not below.isdisjoint(ids.split(" || ")))
        ]
        if found:
            test, bound = OneOf(label, tuple(found)).to_sql()
            tests.append(test)
            values += bound
            matched |= {(label, value): None for value in found}
    return (" OR ".join(f"({test})" for test in tests) or "FALSE", values), matched


def _vocabulary(connection: duckdb.DuckDBPyConnection) -> dict[str, dict[str, str]]:
    """Return, per label column, every value the atlas has with its term ids; the authors' own words have none."""
    found: dict[str, dict[str, str]] = {}
    for label in _TERM_LABELS:
        pairs = run(connection, f'SELECT DISTINCT "{label}" AS v, "{label}_ontology_term_id" AS i FROM obs')  # noqa: S608
        found[label] = {row["v"]: row["i"] for row in pairs.to_pylist() if row["v"]}
        words = run(connection, f'SELECT DISTINCT "author_{label}" AS v FROM obs')  # noqa: S608 - our own names
        found[f"author_{label}"] = {row["v"]: "" for row in words.to_pylist() if row["v"]}
    words = run(connection, "SELECT DISTINCT tissue_general AS v FROM obs")
    return found | {"tissue_general": {row["v"]: "" for row in words.to_pylist() if row["v"]}}


def _terms_below(label: str, text: str, present: set[str]) -> set[str]:
    """Return which ids present in the atlas are, or lie below, a term whose label or synonym holds all the words."""
    if label not in _TERM_LABELS:
        return set()
    below: set[str] = set()
    for prefix in {re.split("[:_]", term_id, maxsplit=1)[0] for term_id in present}:
        try:
            ontology = load_ontology(prefix)
        except OntologyError:
            continue  # `unknown`, `na`, and prefixes no pinned ontology serves
        roots = set(_exact(ontology, text)) or set(_holding(ontology, _words(text)))
        below |= {i for i in present if i in ontology and not roots.isdisjoint(ontology.ancestors(i, with_self=True))}
    return below


def _exact(ontology: Ontology, text: str) -> tuple[str, ...]:
    """Return the terms that have the text as label or synonym."""
    return (*ontology.by_label(text), *ontology.by_synonym(text))


def _holding(ontology: Ontology, words: tuple[str, ...]) -> list[str]:
    """Return the terms one of whose names holds every word."""
    if not words:
        return []
    candidates = set.intersection(*(set(ontology.by_word(word)) for word in words))
    return [i for i in candidates if any(_holds(n, words) for n in (ontology[i].label, *ontology[i].synonyms))]


def _words(text: str) -> tuple[str, ...]:
    """Return the distinct words of a text without case and plural s, as `Ontology.by_word` compares them."""
    found = re.findall(r"[a-z0-9]+", text.casefold())
    return tuple(dict.fromkeys(word[:-1] if len(word) > 3 and word.endswith("s") else word for word in found))


def _holds(value: str, words: tuple[str, ...]) -> bool:
    """Return whether a label holds every word."""
    return bool(words) and set(words) <= set(_words(value))


def _unknown_values(connection: duckdb.DuckDBPyConnection, where: Where) -> tuple[dict[str, str], ...]:
    """Return the text values of conditions that no cell has, each with the nearest value that one has."""
    import difflib

    unknown = []
    for condition in where.conditions:
        if not isinstance(condition, (OneOf, HasPart)) or not all(isinstance(v, str) for v in condition.values):
            continue
        if condition.column.removesuffix("_ontology_term_id") != condition.column:
            continue  # ids come from an ontology; that a cell has none of them is an answer, not a slip
        column = condition.column
        rows = run(connection, f'SELECT DISTINCT "{column}" AS v FROM obs')  # noqa: S608 - a name of the schema
        have = {part for row in rows.to_pylist() for part in {row["v"], *row["v"].split(" || ")}}
        for value in condition.values:
            if value not in have:
                near = difflib.get_close_matches(str(value), have, n=1, cutoff=0.0)
                unknown.append({"column": column, "value": str(value), "nearest": near[0] if near else ""})
    return tuple(unknown)
