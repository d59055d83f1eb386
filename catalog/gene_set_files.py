"""Gene sets in a user's file, .gmt or a table of markers, as gene ids: for `panatlas counterfactual --gene-sets`.

The file is untrusted: read as text or Parquet within bounds, names only ever looked up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from model import read_gene_sets
from ontology import OntologyError, load_gene_table, resolve_genes, table_files, text_files

from .errors import CatalogInputError

if TYPE_CHECKING:
    from pathlib import Path

COLUMNS = ("set", "gene")
"""Of a table."""


def open_gene_sets(path: Path, organism: str) -> dict[str, frozenset[str]]:
    """Return the gene ids of each set; names that the organism has no gene of are left out.

    Parameters
    ----------
    path
        .gmt, gzip or not, or a CSV, TSV or Parquet table with the columns set and gene; genes as ids or symbols.
    organism
        Whose genes they are.

    Raises
    ------
    CatalogInputError
        When it cannot be read, is neither, or names no gene of the organism.
    ModelInputError
        When it is a .gmt with a line that is no set.
    """
    try:
        if ".gmt" in path.suffixes:
            return read_gene_sets(path, organism)
        tally = text_files.Tally()
        _, rows = table_files.read_rows(path, list(COLUMNS), {}, tally)
    except (OntologyError, OSError) as error:
        raise CatalogInputError("gene_sets", str(path), f".gmt, or a table of set and gene ({error})"[:300]) from error
    if tally.counts:
        raise CatalogInputError("gene_sets", str(path), f"a whole table: {tally.report(len(rows), len(rows))}")
    table, names = load_gene_table(organism), rows["gene"].astype(str).tolist()
    index = resolve_genes(names, table).index
    if not (index >= 0).any():
        raise CatalogInputError("gene_sets", str(path), f"ids or symbols of {organism}; {names[:1]!r:.60} is none")
    rows = rows[index >= 0].assign(gene=table.ids[index[index >= 0]].astype(object))
    return {str(name): frozenset(genes) for name, genes in rows.groupby("set", sort=False)["gene"]}
