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


MITO_LIST = "mito_genes.tsv"
FAMILIES = 40
"""Half of the some 80 ribosomal proteins of a eukaryote: a genome that shows fewer by symbol does not tell."""
GENOME = 5_000
"""Genes from which a table counts as a whole genome; a smaller one is a panel and may hold any few of them."""


def mito_mask(
    organism: Organism, ids: npt.NDArray[np.str_], contigs: npt.NDArray[np.str_]
) -> npt.NDArray[np.bool_] | None:
    """Return which genes are mitochondrial, or None where neither a list nor a contig tells (not measurable).

    By listed id (data/mito_genes.tsv) and by the organism's mitochondrial contig; lists are there because the pinned
    tables of most organisms carry no contigs. A table without one gene on that contig, as the assemblies of naked
    mole-rat and marmoset have none, cannot tell.
    """
    listed = mito_list(organism)
    mask = np.isin(ids, list(listed))
    if organism.mito_contig:
        mask |= _on(contigs, organism.mito_contig, "mt", "m")
    return mask if listed or mask.any() else None


def mito_list(organism: Organism) -> dict[str, str]:
    """Return the listed mitochondrial genes of an organism, each with the release that says so; maybe none."""
    return {row["gene_id"]: row["release"] for row in _rows(MITO_LIST) if row["taxon"] == str(organism.taxon)}


def ribo_mask(
    organism: Organism,
    ids: npt.NDArray[np.str_],
    symbols: npt.NDArray[np.str_],
    biotypes: npt.NDArray[np.str_],
    contigs: npt.NDArray[np.str_],
) -> npt.NDArray[np.bool_] | None:
    """Return which genes are cytosolic ribosomal proteins, or None where symbols do not tell.

    Protein-coding genes only: most genomes carry hundreds of processed pseudogenes under the same names. A gene whose
    biotype the reference does not give counts as well. Genes of the chloroplast never do. A table without symbols, or
    a whole genome with symbols for fewer than `FAMILIES` of them, does not tell.
    """
    if organism.ribo_pattern is None or not (symbols != ids).any():
        return None
    matches = re.compile(organism.ribo_pattern, re.IGNORECASE).fullmatch
    mask = np.zeros(len(symbols), dtype=bool)
    for i in np.flatnonzero((biotypes == "protein_coding") | (biotypes == "")):
        mask[i] = matches(str(symbols[i])) is not None
    if organism.plastid_contig:
        mask &= ~_on(contigs, organism.plastid_contig, "pt", "c")
    return None if len(ids) >= GENOME and mask.sum() < FAMILIES else mask


def _on(contigs: npt.NDArray[np.str_], *names: str) -> npt.NDArray[np.bool_]:
    """Return which contigs go by one of the names, with or without `chr` before it; MT is chrM in GENCODE and UCSC."""
    names = tuple(name.lower() for name in names)
    return np.isin(np.char.lower(contigs), [*names, *(f"chr{name}" for name in names)])


def core_mask(
    organism: Organism,
    ids: npt.NDArray[np.str_],
    symbols: npt.NDArray[np.str_],
    biotypes: npt.NDArray[np.str_],
) -> npt.NDArray[np.bool_]:
    """Return which genes belong to the fixed core, `CORE_VERSION`; all False where none can be placed.

    Human and mouse by id. Elsewhere by upper-cased symbol among genes that code for proteins, or of which the reference
    does not say, where exactly one has it: Ensembl projects human symbols onto vertebrates. Fly, worm and plants end up
    with (almost) no core, and that is said by an empty mask rather than by chance hits: below half of the list the core
    is dropped.
    """
    rows = _rows("core_genes.tsv")
    column = {9606: "human_id", 10090: "mouse_id"}.get(organism.taxon)
    if column:
        return np.isin(ids, [row[column] for row in rows])
    wanted = {row["human_symbol"] for row in rows}
    hits: dict[str, list[int]] = {}
    for i in np.flatnonzero((biotypes == "protein_coding") | (biotypes == "")):
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
