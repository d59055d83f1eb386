"""The tables of census_info that add up what is there: summary, organisms and summary_cell_counts.

An ingest adds its cells to what the tables say, so that its cost does not depend on what the atlas holds already; a
retraction counts all cells anew. Both give the same rows in the same order, and `validate` counts them once more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import tiledbsoma as soma

from . import schema
from .contexts import opened
from .store import array_uri, info_uri, replace_frame, write_frame

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .ledger import DatasetRow

_PLAIN = ("suspension_type",)  # summarised labels whose words are no terms
_KEYS = ["category", "label", "ontology_term_id"]
_SUMS = ["total_cell_count", "unique_cell_count"]
_ORDER = {name: i for i, name in enumerate(("all", *schema.CELL_COUNT_CATEGORIES))}
_ROWS = 1 << 20  # rows of obs counted at once


def add_to_summaries(root: Path, row: DatasetRow, obs: pd.DataFrame, built_on: str) -> None:
    """Add a dataset's cells to the tables.

    Parameters
    ----------
    root
        Folder of the atlas.
    row
        The dataset, which is not published yet.
    obs
        Its rows of obs.
    built_on
        ISO date of the ingest, for `census_build_date`.
    """
    first = obs.iloc[0]
    named = (str(first["organism_ontology_term_id"]), str(first["organism"]), row.organism)
    counts = [_table(root, "summary_cell_counts", schema.SUMMARY_CELL_COUNTS), count_cells(obs)]
    _store(root, [counts[0], counts[1].assign(organism=named[1])], {*_names(root), named}, built_on)


def recount_summaries(root: Path, datasets: list[DatasetRow], built_on: str) -> None:
    """Write the tables from the cells of these datasets, which are all there are from now on."""
    counts: list[pd.DataFrame] = []
    names: set[tuple[str, str, str]] = set()
    for experiment in sorted({row.organism for row in datasets}):
        n_cells = sum(row.n_cells for row in datasets if row.organism == experiment)
        for obs in _obs(array_uri(root, experiment, "obs"), n_cells):
            first = obs.iloc[0]
            names.add((str(first["organism_ontology_term_id"]), str(first["organism"]), experiment))
            counts.append(count_cells(obs).assign(organism=str(first["organism"])))
    _store(root, counts, names, built_on)


def count_cells(obs: pd.DataFrame) -> pd.DataFrame:
    """Return cells, and primary cells, in all and by value of each summarised label: one row each."""
    primary = obs["is_primary_data"].to_numpy(dtype=bool)
    rows = [pd.DataFrame([["all", "na", "na", len(obs), int(primary.sum())]], columns=[*_KEYS, *_SUMS])]
    for category in schema.CELL_COUNT_CATEGORIES:
        keys = [category] if category in _PLAIN else [category, f"{category}_ontology_term_id"]
        table = obs.groupby(keys, observed=True)["is_primary_data"].agg(["size", "sum"]).reset_index()
        table = table.rename(columns={category: "label", "size": _SUMS[0], "sum": _SUMS[1]})
        table["ontology_term_id"] = "na" if category in _PLAIN else table[keys[1]].astype(str)
        rows.append(table.assign(category=category, label=table["label"].astype(str))[[*_KEYS, *_SUMS]])
    return pd.concat(rows, ignore_index=True).astype(dict.fromkeys(_SUMS, np.int64))


def _store(root: Path, counts: list[pd.DataFrame], names: set[tuple[str, str, str]], built_on: str) -> None:
    """Write the three tables from counts, which may be of any parts of the cells, and the organisms' names."""
    table = pd.concat(counts).groupby(["organism", *_KEYS], as_index=False)[_SUMS].sum()
    table["place"] = table["category"].map(_ORDER)
    table = table.sort_values(["organism", "place", "label", "ontology_term_id"], ignore_index=True)
    table["soma_joinid"] = np.arange(len(table))
    whole = table.loc[table["category"] == "all", _SUMS].sum()
    facts = {
        "census_schema_version": schema.CENSUS_SCHEMA_VERSION,
        "census_build_date": built_on,
        "dataset_schema_version": schema.DATASET_SCHEMA_VERSION,
        "total_cell_count": str(whole[_SUMS[0]]),
        "unique_cell_count": str(whole[_SUMS[1]]),
    }
    write_frame(info_uri(root, "summary"), schema.SUMMARY, [range(len(facts)), list(facts), list(facts.values())])
    ordered = sorted(names, key=lambda name: name[2])
    columns = [list(column) for column in zip(*ordered, strict=True)]
    if ordered != _names(root):
        replace_frame(info_uri(root, "organisms"), schema.ORGANISMS, [range(len(ordered)), *columns])
    fields = schema.SUMMARY_CELL_COUNTS
    replace_frame(info_uri(root, "summary_cell_counts"), fields, [table[field.name].to_numpy() for field in fields])


def _names(root: Path) -> list[tuple[str, str, str]]:
    """Return the rows of the table of organisms: id, label and Experiment name of each."""
    rows = _table(root, "organisms", schema.ORGANISMS)
    return list(rows.drop(columns="soma_joinid").itertuples(index=False, name=None))


def _table(root: Path, name: str, fields: tuple[schema.Field, ...]) -> pd.DataFrame:
    """Return a table as it is now, in order of its rows."""
    with opened(soma.DataFrame, info_uri(root, name)) as frame:
        rows = frame.read(column_names=[field.name for field in fields]).concat().to_pandas()
    return rows.sort_values("soma_joinid", ignore_index=True)[[field.name for field in fields]]


def _obs(uri: str, n_cells: int) -> Iterator[pd.DataFrame]:
    """Yield what is summarised of an organism's cells, some of them at a time."""
    ids = [f"{name}_ontology_term_id" for name in schema.CELL_COUNT_CATEGORIES if name not in _PLAIN]
    columns = [*schema.CELL_COUNT_CATEGORIES, *ids, "is_primary_data", "organism", "organism_ontology_term_id"]
    with opened(soma.DataFrame, uri) as frame:
        for first in range(0, n_cells, _ROWS):
            last = min(first + _ROWS, n_cells) - 1
            yield frame.read((slice(first, last),), column_names=columns).concat().to_pandas()
