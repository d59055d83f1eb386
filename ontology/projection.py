"""Counts of one organism as counts of another: `project(counts, "human", "mouse", "one2one")`.

A projection is a sparse matrix from the genes of one table to those of another, made once and applied to any number of
row blocks, so cells are streamed and never all in memory. Where one gene has several orthologs nothing is right and a
policy says what happens; each policy's conservation is stated in `POLICIES` and in docs/orthologs.md. Two organisms
other than human are linked through human.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from .errors import OntologyInputError
from .genes import load_gene_table
from .organisms import Organism, get_organism
from .orthologs import TYPES, load_orthologs, pair_types

if TYPE_CHECKING:
    from collections.abc import Mapping

    import scipy.sparse as sp

EXACT = 1 << 53
"""Largest count: float64 is exact up to here."""
POLICIES: Mapping[str, str] = MappingProxyType(
    {
        "one2one": "genes with one ortholog that has no other: their counts move unchanged, integers stay integers",
        "sum": "genes with one ortholog, shared or not: genes of one ortholog are added up, integers stay integers",
        "best": "every gene with an ortholog gives all its counts to the best one; integers stay integers",
        "split": "every gene with orthologs shares its counts equally among them; sums are kept, counts are fractions",
    }
)
"""What is done where one gene has several orthologs. Under each, the counts of a cell over the genes that are carried
are the same before and after; the other genes' counts are lost, and reported with the reason."""
OUTCOMES = ("carried", "no ortholog", "several orthologs", "shared ortholog", "not one2one by its source")
"""What can happen to a gene: the last three only under a policy that refuses it. The last is of a gene whose pair is
the only one here and yet of another type: its source counts partners that are in no gene table or in no pair."""


@dataclass(frozen=True, eq=False)
class Projector:
    """How counts go from one organism's gene table to another's; made by `make_projector`, used by block."""

    source: Organism
    """Whose counts go in."""
    target: Organism
    """Whose counts come out."""
    policy: str
    """One of `POLICIES`."""
    weights: sp.csr_matrix
    """Source genes x target genes, float64: the share of a gene's counts that goes to each ortholog."""
    source_genes: npt.NDArray[np.str_]
    """Ids of the columns that go in: the source's gene table."""
    genes: npt.NDArray[np.str_]
    """Ids of the columns that come out: the target's gene table."""
    outcome: npt.NDArray[np.object_]
    """Per source gene, one of `OUTCOMES`."""
    links: str
    """Where the orthologs come from, with releases."""

    def apply(self, counts: sp.spmatrix | sp.sparray | npt.NDArray) -> Projection:
        """Project a block of cells.

        Parameters
        ----------
        counts
            Cells x `source_genes`, non-negative; CSR is best, anything else is converted.

        Returns
        -------
        The block over `genes` and what became of every source gene's counts. The dtype is that of `counts`, unless
        a sum does not fit it (then int64 or float64), or the policy makes fractions (then float64).

        Raises
        ------
        OntologyInputError
            When the block has another number of genes than the source's table, is not numeric, or holds what is no
            count.
        """
        from scipy.sparse import csr_matrix, issparse  # noqa: PLC0415 - most uses of this floor project nothing

        given = counts if issparse(counts) else np.atleast_2d(counts)
        if given.ndim != 2 or given.shape[1] != len(self.source_genes) or given.dtype.kind not in "biuf":
            said = f"{self.source.name}'s {len(self.source_genes)} genes as numbers, in the order of its gene table"
            raise OntologyInputError("counts", f"{given.dtype} of shape {given.shape}", said)
        block = csr_matrix(given.astype(np.float32) if given.dtype == np.float16 else given)
        if not ((block.data >= 0) & (block.data <= EXACT)).all():
            raise OntologyInputError("counts", "negative, infinite, NaN or huge numbers", f"counts of 0 to {EXACT}")
        whole = self.policy != "split" and block.dtype.kind != "f"
        wide = np.dtype(np.int64) if whole else np.dtype(np.float64)
        # Around the caller's own indices: scipy's astype would sort and merge them in place.
        widened = csr_matrix((block.data.astype(wide), block.indices, block.indptr), shape=block.shape, copy=False)
        moved = csr_matrix(widened @ self.weights.astype(wide))
        moved.sort_indices()
        moved.eliminate_zeros()
        if self.policy != "split":
            moved.data = _narrow(moved.data, block.dtype)
        used = slice(0, int(block.indptr[-1]))  # arrays may be longer than what is in use
        sums = np.bincount(block.indices[used], widened.data[used].astype(np.float64), len(self.source_genes))
        return Projection(moved, self.genes, _report(self, sums))


@dataclass(frozen=True, eq=False)
class ProjectionReport:
    """Where the counts of a block went."""

    policy: str
    """The policy, one of `POLICIES`."""
    links: str
    """Where the orthologs come from, with releases."""
    total: float
    """Counts that went in."""
    by_outcome: Mapping[str, float]
    """Counts by outcome, over `OUTCOMES`; they add up to `total`."""
    genes: pd.DataFrame
    """Source genes that had counts: gene, outcome, counts."""

    @property
    def carried(self) -> float:
        """Return the counts that came out."""
        return self.by_outcome["carried"]

    @property
    def lost(self) -> pd.DataFrame:
        """Return the genes whose counts did not come out, most counts first."""
        left = self.genes[self.genes["outcome"] != "carried"]
        return left.sort_values(["counts", "gene"], ascending=[False, True], ignore_index=True)


@dataclass(frozen=True, eq=False)
class Projection:
    """Counts over another organism's genes."""

    counts: sp.csr_matrix
    """Cells x `genes`; sorted, without zeros."""
    genes: npt.NDArray[np.str_]
    """Ids of the columns: the target's whole gene table. A gene without an ortholog is an empty column, not a zero."""
    report: ProjectionReport
    """What was carried and what was lost."""


def project(
    counts: sp.spmatrix | sp.sparray | npt.NDArray, from_: str | int | Organism, to: str | int | Organism,
    policy: str = "one2one",
) -> Projection:  # fmt: skip
    """Return counts of one organism as counts over the genes of another.

    Parameters
    ----------
    counts
        Cells x the genes of `load_gene_table(from_)`, in its order.
    from_, to
        Two different organisms with gene tables.
    policy
        What to do where a gene has several orthologs; one of `POLICIES`.

    Returns
    -------
    The counts, their genes, and a report. For cells in blocks call `make_projector` once and `apply` for each.

    Raises
    ------
    OntologyInputError
        When the policy is unknown, the organisms are one, or `counts` does not have one column per gene.
    ReferenceMissingError
        When a gene table or an ortholog table is not at hand; the message says what to run.
    SourceUnavailableError
        When the package index is needed and cannot be reached.

    Examples
    --------
    >>> import numpy as np
    >>> from ontology import load_gene_table
    >>> human = load_gene_table("human")
    >>> cell = (human.symbols == "TP53").astype(int)
    >>> there = project(cell, "human", "mouse")
    >>> load_gene_table("mouse").symbols[there.counts.indices].tolist()
    ['Trp53']
    """
    return make_projector(from_, to, policy).apply(counts)


def make_projector(from_: str | int | Organism, to: str | int | Organism, policy: str = "one2one") -> Projector:
    """Return the projection between two organisms; see `project` for parameters and errors."""
    if policy not in POLICIES:
        raise OntologyInputError("policy", policy, f"one of {', '.join(POLICIES)}")
    source, target = get_organism(from_), get_organism(to)
    links, told = ortholog_links(source, target)
    tables = load_gene_table(source), load_gene_table(target)
    weights, outcome = projection_weights(links, tables[0].id_index, tables[1].id_index, policy)
    return Projector(source, target, policy, weights, tables[0].ids, tables[1].ids, outcome, told)


def ortholog_links(source: Organism, target: Organism) -> tuple[pd.DataFrame, str]:
    """Return the pairs between two organisms, composed through human where neither is human, and where they come from.

    Returns
    -------
    Columns gene (of the source), target, type and confidence, sorted by both ids. Of a composed pair the type is read
    off the composed pairs, and the confidence is the product of the two, the best of all ways through human.

    Raises
    ------
    OntologyInputError
        When the organisms are one.
    ReferenceMissingError
        When an ortholog table is not at hand.
    """
    if source.name == target.name:
        raise OntologyInputError("to", target.name, f"an organism other than {source.name}")
    others = [organism for organism in (source, target) if organism.name != "human"]
    tables = [load_orthologs(organism) for organism in others]
    told = "; ".join(f"{table.organism.name}: {table.source}, {table.release}" for table in tables)
    columns = ["gene", "target", "type", "confidence"]
    first = tables[0].linked()
    if len(tables) == 2:
        return _compose(first, tables[1].linked()), told
    names = {"gene": "target", "human_gene": "gene"} if source.name == "human" else {"human_gene": "target"}
    pairs = first.rename(columns=names)[columns]
    return pairs.sort_values(["gene", "target"], kind="stable", ignore_index=True), told


def projection_weights(
    links: pd.DataFrame, source_ids: pd.Index, target_ids: pd.Index, policy: str
) -> tuple[sp.csr_matrix, npt.NDArray[np.object_]]:
    """Return the matrix of a policy, and per source gene what becomes of it.

    Parameters
    ----------
    links
        Pairs without repeats, with columns gene, target, type and confidence; those outside either table are left out.
    source_ids, target_ids
        Genes of the two tables.
    policy
        One of `POLICIES`.
    """
    from scipy.sparse import csr_matrix  # noqa: PLC0415

    gene, target = source_ids.get_indexer(links["gene"]), target_ids.get_indexer(links["target"])
    inside = (gene >= 0) & (target >= 0)
    pairs = links.loc[inside, ["type", "confidence"]].assign(gene=gene[inside], target=target[inside])
    n_targets = pairs.groupby("gene")["target"].transform("size")
    used = _used(pairs, n_targets, policy)
    share = 1.0 / n_targets[used] if policy == "split" else np.ones(int(used.sum()))
    where = (pairs.loc[used, "gene"].to_numpy(), pairs.loc[used, "target"].to_numpy())
    weights = csr_matrix((np.asarray(share, np.float64), where), shape=(len(source_ids), len(target_ids)))
    outcome = np.full(len(source_ids), "no ortholog", dtype=object)
    outcome[pairs["gene"].to_numpy()] = "not one2one by its source"
    n_sources = pairs.groupby("target")["gene"].transform("size")
    outcome[pairs.loc[n_sources > 1, "gene"].to_numpy()] = "shared ortholog"
    outcome[pairs.loc[n_targets > 1, "gene"].to_numpy()] = "several orthologs"
    outcome[where[0]] = "carried"
    return weights, outcome


def _used(pairs: pd.DataFrame, n_targets: pd.Series, policy: str) -> pd.Series:
    """Return which pairs a policy uses."""
    if policy == "one2one":
        return pairs["type"] == "one2one"
    if policy == "sum":
        return n_targets == 1
    if policy == "split":
        return pd.Series(data=True, index=pairs.index)
    rank = pairs.assign(
        doubt=-pairs["confidence"].fillna(0.0), distance=pairs["type"].map({name: i for i, name in enumerate(TYPES)})
    )
    first = rank.sort_values(["gene", "doubt", "distance", "target"], kind="stable").drop_duplicates("gene")
    return pd.Series(pairs.index.isin(first.index), index=pairs.index)


def _compose(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Return the pairs that two tables against human make together."""
    ways = first.merge(second, on="human_gene", suffixes=("", "_second"))
    ways["confidence"] = ways["confidence"] * ways["confidence_second"]
    pairs = ways.groupby(["gene", "gene_second"], as_index=False, sort=True)["confidence"].max()
    pairs = pairs.rename(columns={"gene_second": "target"})
    pairs["type"] = pair_types(pairs["gene"], pairs["target"])
    return pairs[["gene", "target", "type", "confidence"]]


def _narrow(values: npt.NDArray, dtype: np.dtype) -> npt.NDArray:
    """Return values as `dtype` where it holds every one of them exactly, else as they are."""
    if dtype.kind == "b":
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = values.astype(dtype)
    return narrow if np.array_equal(narrow.astype(values.dtype), values, equal_nan=True) else values


def _report(projector: Projector, sums: npt.NDArray[np.float64]) -> ProjectionReport:
    """Return what became of the counts, from their sum per source gene."""
    by_outcome = {name: float(sums[projector.outcome == name].sum()) for name in OUTCOMES}
    some = np.flatnonzero(sums)
    genes = pd.DataFrame(
        {"gene": projector.source_genes[some], "outcome": projector.outcome[some], "counts": sums[some]}
    )
    return ProjectionReport(projector.policy, projector.links, float(sums.sum()), MappingProxyType(by_outcome), genes)
