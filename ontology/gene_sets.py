"""Fixed sets of genes that quality control and cell identity rest on: mitochondrial, ribosomal, core.

Mitochondrial and core genes are lists of ids in data/*.tsv, because prefixes fail (`MT-` matches nothing in worm,
rhesus or pig). Ribosomal proteins are found by the organism's own symbol pattern. `None` means "cannot be told", which
is not "none". Used by genes.py when a table is loaded.
"""

from __future__ import annotations

import csv
import re
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from .organisms import Organism

CORE_VERSION = "core-1"
"""Name of the frozen core list; a changed list gets a new name, since core hashes of cells depend on it."""


def mito_mask(organism: Organism, ids: npt.NDArray[np.str_]) -> npt.NDArray[np.bool_] | None:
    """Return which genes lie on the mitochondrial contig, or None where no list exists (not measurable)."""
    listed = [row["gene_id"] for row in _rows("mito_genes.tsv") if row["taxon"] == str(organism.taxon)]
    return np.isin(ids, listed) if listed else None


def ribo_mask(
    organism: Organism, symbols: npt.NDArray[np.str_], biotypes: npt.NDArray[np.str_]
) -> npt.NDArray[np.bool_] | None:
    """Return which genes are cytosolic ribosomal proteins, or None where symbols do not tell.

    Protein-coding genes only: most genomes carry hundreds of processed pseudogenes under the same names.
    """
    if organism.ribo_pattern is None:
        return None
    matches = re.compile(organism.ribo_pattern, re.IGNORECASE).fullmatch
    mask = np.zeros(len(symbols), dtype=bool)
    for i in np.flatnonzero(biotypes == "protein_coding"):
        mask[i] = matches(str(symbols[i])) is not None
    return mask


def core_mask(
    organism: Organism,
    ids: npt.NDArray[np.str_],
    symbols: npt.NDArray[np.str_],
    biotypes: npt.NDArray[np.str_],
) -> npt.NDArray[np.bool_]:
    """Return which genes belong to the fixed core, `CORE_VERSION`; all False where none can be placed.

    Human and mouse by id. Elsewhere by upper-cased symbol among protein-coding genes, where exactly one has it:
    Ensembl projects human symbols onto vertebrates. Fly, worm and plants end up with (almost) no core, and that is
    said by an empty mask rather than by chance hits: below half of the list the core is dropped.
    """
    rows = _rows("core_genes.tsv")
    column = {9606: "human_id", 10090: "mouse_id"}.get(organism.taxon)
    if column:
        return np.isin(ids, [row[column] for row in rows])
    wanted = {row["human_symbol"] for row in rows}
    hits: dict[str, list[int]] = {}
    for i in np.flatnonzero(biotypes == "protein_coding"):
        if (symbol := str(symbols[i]).upper()) in wanted:
            hits.setdefault(symbol, []).append(int(i))
    mask = np.zeros(len(ids), dtype=bool)
    single = [found[0] for found in hits.values() if len(found) == 1]
    if 2 * len(single) >= len(wanted):
        mask[single] = True
    return mask


@cache
def _rows(name: str) -> tuple[dict[str, str], ...]:
    text = resources.files(__package__).joinpath(f"data/{name}").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return tuple(csv.DictReader(lines, delimiter="\t"))
