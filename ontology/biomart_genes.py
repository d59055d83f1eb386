"""Gene tables from BioMart: `fetch_genes("sheep")` keeps one as a snapshot, read by genes.py ever after.

Three queries, because transcripts times synonyms would multiply: one row per gene; one per transcript, whose median
length is the gene's, as genes.py documents; one per synonym. What a dataset lacks stays empty and is logged.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

import pandas as pd

from .biomart import BioMart, dataset_name
from .biomart_pages import CONTIG, GENE, PagedDataset
from .errors import OntologyInputError, ReferenceMismatchError, ReferenceMissingError
from .organisms import get_organism
from .snapshots import save_table

if TYPE_CHECKING:
    from .organisms import Organism
    from .snapshots import Snapshot

log = logging.getLogger(__name__)

LICENCE = "Ensembl: no restriction beyond the EMBL-EBI terms of use"
PLAIN = ("external_gene_name", "gene_biotype", "strand")
"""Attributes of a gene that a dataset may lack."""
TRANSCRIPT, LENGTH, SYNONYM = "ensembl_transcript_id", "transcript_length", "external_synonym"


def fetch_genes(
    organism: str | int | Organism, client: BioMart | None = None, host: str | None = None, release: int | None = None
) -> Snapshot:
    """Fetch an organism's gene table from its division's mart and keep it as the snapshot `genes/<organism>`.

    Parameters
    ----------
    organism
        Any name `get_organism` knows; its row names division and dataset.
    client
        Another client than the pinned archive of the division; `host` and `release` are then not looked at.
    host, release
        As in `BioMart`.

    Returns
    -------
    Snapshot
        Columns id, symbol, biotype, length (median over transcripts, bp, rounded down; 0 unknown), contig, start
        (0-based, bp), strand (1, -1, 0 unknown) and synonyms (joined by `|`), ascending by id.

    Raises
    ------
    UnknownOrganismError
        When nothing is called so.
    SourceUnavailableError
        When the mart fails; finished pages are kept, so the same call goes on after them.
    ReferenceMissingError
        When the organism's row names no dataset, or the mart has none of that name.
    ReferenceMismatchError
        When the answers contradict each other, the release or the organism.
    OntologyInputError
        When the client is of a division that does not hold the organism.
    """
    found = get_organism(organism)
    if not found.dataset:
        raise ReferenceMissingError(
            "BioMart dataset", found.name, f"import a file: panatlas references import genes {found.name} FILE"
        )
    client = client or BioMart(host, found.division, release)
    if client.division != found.division and (client.division, found.division) != ("vertebrates", "metazoa"):
        raise OntologyInputError("client", repr(client), f"a client of the {found.division} mart, for {found.name}")
    dataset = dataset_name(found, client.division)
    title = client.dataset(dataset).display_name
    if found.assembly not in title:
        log.warning("%s: the mart's assembly is %r, the table of organisms says %s", found.name, title, found.assembly)
    source = PagedDataset(client, dataset, f"genes-{found.name}")
    index = source.index()
    _prove_ids(found, index["gene"], source.what(GENE))
    frame = _genes(source, index)
    frame["length"] = _lengths(source, index).reindex(frame["id"]).fillna(0).astype("int64").to_numpy()
    frame["synonyms"] = _synonyms(source, index, frame).reindex(frame["id"]).fillna("").to_numpy()
    order = ["id", "symbol", "biotype", "length", "contig", "start", "strand", "synonyms"]
    about = {"source": f"{client.host} {dataset} ({title})", "release": client.release, "licence": LICENCE}
    snapshot = save_table("genes", found.name, frame[order], about)
    source.drop_pages()
    return snapshot


def _genes(source: PagedDataset, index: pd.DataFrame) -> pd.DataFrame:
    """Return one row per gene; ids, contigs and starts are needed, names, biotypes and strands may be absent."""
    there = [name for name in PLAIN if source.has(name)]
    rows = source.columns(index, [CONTIG, "start_position", *there])
    rows = rows.reindex(columns=[GENE, CONTIG, "start_position", *PLAIN], fill_value="")
    if rows[GENE].duplicated().any():
        twice = rows.loc[rows[GENE].duplicated(), GENE].iloc[0]
        raise ReferenceMismatchError(source.what(f"{CONTIG}, start_position"), "one row per gene", f"two for {twice}")
    starts = _whole_numbers(rows["start_position"], source.what("start_position"))
    strands = rows["strand"].map({"1": 1, "-1": -1, "": 0})
    if strands.isna().any():
        raise ReferenceMismatchError(
            source.what("strand"), "1, -1 or nothing", f"{rows.loc[strands.isna(), 'strand'].iloc[0]!r}; import a file"
        )
    return pd.DataFrame(
        {
            "id": rows[GENE],
            "symbol": rows["external_gene_name"],
            "biotype": rows["gene_biotype"],
            "contig": rows[CONTIG],
            "start": starts - 1,  # BioMart counts from 1, the atlas from 0
            "strand": strands.astype("int64"),
        }
    )


def _lengths(source: PagedDataset, index: pd.DataFrame) -> pd.Series:
    """Return the median transcript length by gene, in bp, rounded down."""
    if not (source.has(LENGTH) and source.has(TRANSCRIPT)):
        return pd.Series(dtype="int64")
    # The transcript id is asked for so that two transcripts of one length stay two rows.
    rows = source.columns(index, [TRANSCRIPT, LENGTH], partial=True)
    rows = rows.loc[(rows[TRANSCRIPT] != "") & (rows[LENGTH] != "")]
    what = source.what(LENGTH)
    if rows[TRANSCRIPT].duplicated().any():
        twice = rows.loc[rows[TRANSCRIPT].duplicated(), TRANSCRIPT].iloc[0]
        raise ReferenceMismatchError(what, "one length per transcript", f"two for {twice}; fetch it again")
    return _whole_numbers(rows[LENGTH], what).groupby(rows[GENE]).median().astype("int64")


def _synonyms(source: PagedDataset, index: pd.DataFrame, genes: pd.DataFrame) -> pd.Series:
    """Return other names by gene, ascending and joined by `|`; neither the symbol nor what holds a `|` itself."""
    if not source.has(SYNONYM):
        return pd.Series(dtype=object)
    rows = source.columns(index, [SYNONYM], partial=True)
    symbols = rows[GENE].map(genes.set_index("id")["symbol"])
    fit = (rows[SYNONYM] != "") & (rows[SYNONYM] != symbols) & ~rows[SYNONYM].str.contains("|", regex=False)
    return rows.loc[fit].groupby(GENE)[SYNONYM].agg("|".join)


def _whole_numbers(values: pd.Series, what: str) -> pd.Series:
    """Return positive whole numbers from text."""
    bad = ~values.str.fullmatch(r"[1-9][0-9]{0,11}")
    if bad.any():
        raise ReferenceMismatchError(what, "whole numbers of bp from 1", f"{values[bad].iloc[0]!r}; import a file")
    return values.astype("int64")


def _prove_ids(organism: Organism, ids: pd.Series, what: str) -> None:
    """Refuse a dataset of another organism; non-coding genes of plants and flies do carry ids of other forms."""
    if not organism.id_pattern:
        return  # a row that a user added may state no form
    fit = ids.map(lambda name: re.fullmatch(organism.id_pattern, name) is not None)
    if fit.mean() < 0.5:
        raise ReferenceMismatchError(
            what, f"ids like {organism.id_pattern}", f"mostly ids like {ids[~fit].iloc[0]}; check the row's dataset"
        )
