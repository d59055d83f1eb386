"""The datasets of a Census, or of any store in its layout, as sources: one slice per dataset of an organism.

`corpora` calls this for the recipe whose layout is `census`; `census` does the slicing when a source is fetched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

import numpy as np
import tiledbsoma as soma

from .errors import AtlasInputError, SourceError
from .sources import Source

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from ontology import Organism


def census_sources(
    organism: Organism, root: str, about: Mapping[str, str], columns: Mapping[str, str], constants: Mapping[str, str]
) -> tuple[tuple[Source, ...], int]:
    """Return a source per dataset that has cells of an organism, and their cells in all.

    Parameters
    ----------
    organism
        Whose cells.
    root
        A store in the Census layout; "" for the official one of the recipe's version.
    about
        The recipe's `version` and `licence`.
    columns, constants
        As a source has them.

    Raises
    ------
    SourceError
        If the store cannot be read.
    AtlasInputError
        If it has no dataset of the organism.
    """
    import cellxgene_census  # noqa: PLC0415 - only those who slice the Census wait for its client

    opened = {"uri": root} if root else {"census_version": about["version"]}
    try:
        with cellxgene_census.open_soma(**opened) as census:
            datasets = _datasets_of(census, organism.experiment)
    except (soma.SOMAError, OSError, RuntimeError, ValueError, KeyError) as error:
        raise SourceError(root or "census", "a store in the Census layout", str(error)) from error
    if not len(datasets):
        raise AtlasInputError("organism", organism.name, f"one that {root or 'the Census'} has datasets of")
    found = []
    for row in datasets.sort_values("dataset_id").to_dict("records"):
        options = {
            "filter": f"dataset_id == '{row['dataset_id']}'",
            "max_cells": str(max(1, int(row["dataset_total_cell_count"]))),
            **({"uri": root} if root else {"version": about["version"]}),
        }
        found.append(
            Source(
                organism.name,
                f"census:{organism.name}?{urlencode(options)}",
                id=f"census-{row['dataset_id']}",
                columns=dict(columns),
                constants=dict(constants),
                title=row["dataset_title"] or None,
                citation=row["citation"] or None,
                doi=row["collection_doi"] or None,
                licence=about["licence"],
            )
        )
    return tuple(found), int(datasets["dataset_total_cell_count"].sum())


def _datasets_of(census: soma.Collection, experiment: str) -> pd.DataFrame:
    """Return the rows of the datasets that measured genes of an organism, told by its presence matrix."""
    frame: pd.DataFrame = census["census_info"]["datasets"].read().concat().to_pandas()
    if experiment not in census["census_data"]:
        return frame.iloc[:0]
    presence = census["census_data"][experiment].ms["RNA"]["feature_dataset_presence_matrix"]
    rows = np.unique(presence.read().tables().concat()["soma_dim_0"].to_numpy())
    frame = frame[frame["soma_joinid"].isin(rows)]
    safe = frame["dataset_id"].str.fullmatch(r"[A-Za-z0-9._-]{1,100}")  # goes into a filter and an id of ours
    return frame[safe.fillna(False).astype(bool)]
