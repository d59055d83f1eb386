"""A slice of the CELLxGENE Census, or of any store in its layout, as an h5ad in the cache.

Read through the official client, which parses filters itself (no text is ever evaluated). The slice is the first
`max_cells` cells, by soma_joinid, that pass the filter, so the same version gives the same cells. `fetch` decides when
this runs; the file then takes the same path as every other h5ad.
"""

from __future__ import annotations

import logging
import re
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import tiledbsoma as soma
from anndata import ImplicitModificationWarning

from ontology import get_organism

from .errors import SourceError
from .landing import arriving

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData

    from .sources import Location

_LOG = logging.getLogger(__name__)

DEFAULT_CELLS = 100_000  # cells of a slice that names no maximum: a few hundred megabytes
REVISION = 2  # raised whenever the same address would give another slice; 2 holds the genes that were measured
DATED = re.compile(r"\d{4}-\d{2}-\d{2}")  # versions that never change; `stable` and `latest` do
OFFLINE = "the Census cannot be reached from here; check the connection, or point at a copy with &uri=PATH"


def slice_census(location: Location, folder: Path) -> Path:
    """Return an h5ad with a slice of the Census.

    Parameters
    ----------
    location
        Organism and the options `filter` (an obs value filter), `max_cells` (default 100,000), `version`
        (default `stable`) and `uri` (another store in the Census layout; no network is used then).
    folder
        Where the slice is kept. It is read again unless a dated version names it.

    Raises
    ------
    SourceError
        If the Census cannot be reached, does not have the organism, refuses the filter, or no cell passes it.
    """
    import cellxgene_census  # noqa: PLC0415 - only those who slice the Census wait for its client

    options = dict(location.options)
    uri = f"census:{location.target}"
    version, store = options.get("version", "stable"), options.get("uri")
    target = folder / f"slice-{REVISION}.h5ad"
    if target.is_file() and store is None and DATED.fullmatch(version):
        return target
    opened: dict[str, Any] = {"uri": store} if store is not None else {"census_version": version}
    try:
        with cellxgene_census.open_soma(**opened) as census:
            found = _read(census, location.target, options, uri)
    except SourceError:
        raise
    except (soma.SOMAError, OSError, RuntimeError, ValueError) as error:
        raise SourceError(uri, "a Census to read", f"{error}; {OFFLINE}") from error
    found.obs.index = _cell_names(found.obs)
    found.var.index = found.var["feature_id"].astype(str).to_numpy()
    found.var.index.name = None
    with arriving(folder) as scratch:
        found.write_h5ad(scratch / target.name, compression="gzip")
    _LOG.info("sliced %d cells of %s", found.n_obs, uri)
    return target


def _read(census: Any, name: str, options: dict[str, str], uri: str) -> AnnData:
    """Return the slice from an opened Census."""
    organism = get_organism(name)
    if organism.experiment not in census["census_data"]:
        held = ", ".join(sorted(census["census_data"].keys()))
        raise SourceError(uri, f"cells of {organism.label}", f"only {held}")
    ids = _joinids(census["census_data"][organism.experiment], options, uri)
    import cellxgene_census  # noqa: PLC0415 - see slice_census

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImplicitModificationWarning)  # the client names rows by number; we rename them
        found = cellxgene_census.get_anndata(census, organism.label, obs_coords=ids)
    return found[:, _measured(census, organism.experiment, found)].copy()


def _measured(census: Any, experiment: str, found: AnnData) -> np.ndarray:
    """Return which genes a dataset of the slice measured; the others are no zeros, nobody looked for them."""
    datasets = census["census_info"]["datasets"].read(column_names=["soma_joinid", "dataset_id"]).concat().to_pandas()
    rows = datasets.loc[datasets["dataset_id"].isin(found.obs["dataset_id"].unique()), "soma_joinid"].to_numpy()
    presence = census["census_data"][experiment].ms["RNA"]["feature_dataset_presence_matrix"]
    genes = presence.read((rows,)).tables().concat()["soma_dim_1"].to_numpy()
    return np.isin(found.var["soma_joinid"].to_numpy(), genes)


def _joinids(experiment: Any, options: dict[str, str], uri: str) -> list[int]:
    """Return the joinids of the slice: the first cells, in order, that pass the filter."""
    limit = int(options.get("max_cells", DEFAULT_CELLS))
    try:
        table = experiment.obs.read(value_filter=options.get("filter") or None, column_names=["soma_joinid"]).concat()
    except (soma.SOMAError, RuntimeError, ValueError, SyntaxError, KeyError) as error:
        raise SourceError(uri, "a filter over obs columns", f"{options.get('filter')!r}: {error}") from error
    ids = sorted(table["soma_joinid"].to_pylist())[:limit]
    if not ids:
        raise SourceError(uri, "at least one cell", f"none passes {options.get('filter')!r}")
    return ids


def _cell_names(obs: pd.DataFrame) -> list[str]:
    """Return names that are the same in every slice: dataset and observation_joinid, or else the joinid."""
    if {"dataset_id", "observation_joinid"} <= set(obs.columns):
        names = [f"{d}:{o}" for d, o in zip(obs["dataset_id"], obs["observation_joinid"], strict=True)]
        if len(set(names)) == len(names):
            return names
    return [f"cell{j}" for j in obs["soma_joinid"]]
