"""Ortholog groups: the pairs of all organisms with human, folded so that every gene is in at most one group.

Anchored in human and kept from percolating: two human genes share a group only where some organism has one gene for
both and no organism has a gene of its own for either; every other gene goes with its best human partner. So TP53 and
TP63 stay apart, which the mouse has both of, although the fly has one gene for the two. A gene without a human ortholog
is in no group; plants, which Ensembl does not compare with human, have none.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from .errors import ReferenceMissingError
from .organisms import get_organism, list_organisms
from .orthologs import TYPES, OrthologTable, load_orthologs, table_key

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .organisms import Organism

MAX_HUMAN = 10
"""Human genes a group may hold, against chains: over twelve organisms 8 of 20,509 families are larger, up to 18 human
genes. Such a family falls apart into one group per human gene."""
COLUMNS = ("group", "organism", "gene")
BUILD = "groups-1"
"""Version of the folding; part of `orthologs_key`."""


def ortholog_groups(organisms: Iterable[str | int | Organism] | None = None) -> pd.DataFrame:
    """Return which genes of which organisms belong together.

    Parameters
    ----------
    organisms
        Organisms to fold in; human is always among them. None takes every organism whose pairs are at hand.

    Returns
    -------
    One row per gene, with columns group, organism (short name) and gene, sorted. A group is named `OG_` and its
    smallest human gene id, so that the name changes only if that gene moves.

    Raises
    ------
    ReferenceMissingError
        When an organism that was asked for has no ortholog table.
    SourceUnavailableError
        When the package index is needed and cannot be reached.
    """
    if organisms is None:
        return fold_groups(available_orthologs())
    asked = {found.name: found for found in map(get_organism, organisms)}
    return fold_groups([load_orthologs(found) for name, found in asked.items() if name != "human"])


def orthologs_key(organisms: Iterable[str | int | Organism]) -> str:
    """Return a digest of all that the tables and groups of some organisms depend on, without making them.

    Whoever keeps them elsewhere compares it to know whether they are still those; a table that is absent counts too.
    """
    digest = hashlib.sha256(f"{BUILD}\n".encode())
    for organism in sorted(map(get_organism, organisms), key=lambda each: each.name):
        if organism.name != "human":
            digest.update(f"{organism.name} {table_key(organism)}\n".encode())
    return digest.hexdigest()


def available_orthologs() -> list[OrthologTable]:
    """Return the table of every organism that has one, in the order of `list_organisms()`."""
    tables = []
    for organism in list_organisms():
        if organism.name == "human":
            continue
        try:
            tables.append(load_orthologs(organism))
        except ReferenceMissingError:
            continue
    return tables


def fold_groups(tables: Iterable[OrthologTable]) -> pd.DataFrame:
    """Return the groups that some tables make; see `ortholog_groups`.

    Human genes are joined first: those connected through one2many pairs, where neither has a one2one partner in any
    table; a family of more than `MAX_HUMAN` is taken apart again. Then each gene joins the group of its best human
    partner: the highest confidence (unknown counts as 0), then the closest type, then the smallest id.
    """
    pairs = [table.linked().assign(organism=table.organism.name) for table in tables]
    columns = ["organism", "gene", "human_gene", "type", "confidence"]
    rows = pd.concat(pairs, ignore_index=True)[columns] if pairs else pd.DataFrame(columns=columns)
    if rows.empty:
        return pd.DataFrame({name: pd.Series(dtype=object) for name in COLUMNS})
    gene, names = pd.MultiIndex.from_frame(rows[["organism", "gene"]]).factorize()
    # Sorted, so that the smallest position in a family is also its smallest id.
    human, anchors = pd.factorize(rows["human_gene"], sort=True)
    apart = rows["human_gene"].isin(rows.loc[rows["type"] == "one2one", "human_gene"])
    joins = ((rows["type"] == "one2many") & ~apart).to_numpy()
    anchor_of = _families(gene[joins], human[joins], len(names), len(anchors))
    best = _best_partners(rows, gene, human)
    labels = np.asarray(anchors, dtype=object)
    made = pd.DataFrame(
        {
            "group": "OG_" + np.concatenate([labels[anchor_of], labels[anchor_of[best]]]),
            "organism": np.concatenate([np.full(len(anchors), "human", dtype=object), names.get_level_values(0)]),
            "gene": np.concatenate([labels, names.get_level_values(1)]),
        }
    )
    return made.sort_values(list(COLUMNS), kind="stable", ignore_index=True)


def _families(
    gene: npt.NDArray[np.intp], human: npt.NDArray[np.intp], n_genes: int, n_human: int
) -> npt.NDArray[np.intp]:
    """Return for each human gene the position of the one that names its group.

    Parameters
    ----------
    gene, human
        Positions of the two genes of each pair that joins human genes.
    n_genes, n_human
        Numbers of genes and of human genes in all.
    """
    from scipy.sparse import coo_matrix  # noqa: PLC0415 - most uses of this floor fold no groups
    from scipy.sparse.csgraph import connected_components  # noqa: PLC0415

    edges = (np.ones(len(gene), dtype=np.int8), (human, n_human + gene))
    graph = coo_matrix(edges, shape=(n_human + n_genes,) * 2)
    labels = connected_components(graph, directed=False)[1][:n_human]
    _, family, size = np.unique(labels, return_inverse=True, return_counts=True)
    smallest = np.full(len(size), n_human, dtype=np.intp)
    np.minimum.at(smallest, family, np.arange(n_human))
    return np.where(size[family] > MAX_HUMAN, np.arange(n_human), smallest[family])


def _best_partners(rows: pd.DataFrame, gene: npt.NDArray[np.intp], human: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Return for each gene the position of its best human partner."""
    ranked = pd.DataFrame(
        {
            "gene": gene,
            "human": human,
            "doubt": -rows["confidence"].fillna(0.0).to_numpy(),
            "distance": rows["type"].map({name: i for i, name in enumerate(TYPES)}).to_numpy(),
        }
    )
    ranked = ranked.sort_values(["gene", "doubt", "distance", "human"], kind="stable")
    return ranked.drop_duplicates("gene")["human"].to_numpy(dtype=np.intp)
