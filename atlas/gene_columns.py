"""Which column of a source's var holds the genes' stable ids, and which a second name.

A choice between columns, made on what their values look like; what a name means is decided in `ontology`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Sequence

ID_COLUMNS = ("gene_ids", "gene_id", "feature_id", "ensembl_id", "ensembl_gene_id", "ensembl", "ensembl_ids", "gene_ID",
              "EnsemblID", "Accession", "accession", "id")  # fmt: skip
SYMBOL_COLUMNS = ("feature_name", "gene_symbols", "gene_symbol", "gene_names", "gene_name", "gene_short_name",
                  "symbol", "symbols", "Gene", "name")  # fmt: skip
# stable gene ids of the references the gene tables come from: Ensembl (all animals), FlyBase, WormBase, TAIR, RAP-DB,
# maize, tomato; a trailing version is allowed
STABLE_ID = re.compile(
    r"(ENS[A-Z]{0,6}G\d{11}|FBgn\d{7}|WBGene\d{8}|AT[1-5MC]G\d{5}|Os\d\dg\d{7}|Zm\d{5}[a-z]{1,2}\d{6}"
    r"|Solyc\d\dg\d{6})(\.\d+)*",
    re.IGNORECASE,
)


def name_genes(var: pd.DataFrame) -> tuple[list[str], list[str | None] | None]:
    """Return the best name of every gene and a second one: stable ids first, then the index, then symbols.

    A column counts as ids where most of its values look like stable ids and more do than in the index.

    Examples
    --------
    >>> name_genes(pd.DataFrame({"gene_ids": ["ENSG00000141510"]}, index=["TP53"]))
    (['ENSG00000141510'], ['TP53'])
    >>> name_genes(pd.DataFrame(index=["TP53"]))
    (['TP53'], None)
    """
    index = [str(v) for v in var.index]
    share = {None: _id_share(index)}
    columns = {c: _texts(var[c]) for c in (*ID_COLUMNS, *SYMBOL_COLUMNS) if c in var.columns and var[c].ndim == 1}
    for name, values in columns.items():
        share[name] = _id_share(values)
    best = max(share, key=lambda name: (share[name], name is None))  # max keeps the first of equals: index, then ids
    if best is not None and share[best] > 0.5 and share[best] > share[None]:
        return [value or index[i] for i, value in enumerate(columns[best])], list(index)
    for name in SYMBOL_COLUMNS if share[None] > 0.5 else (*SYMBOL_COLUMNS, *ID_COLUMNS):
        if name in columns and columns[name] != index:
            return index, columns[name]
    return index, None


def _texts(column: pd.Series) -> list[str | None]:
    return [None if pd.isna(v) or str(v) == "" else str(v) for v in column]


def _id_share(values: Sequence[str | None]) -> float:
    return sum(bool(v and STABLE_ID.fullmatch(v)) for v in values) / max(1, len(values))
