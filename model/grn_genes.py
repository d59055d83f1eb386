"""Which genes a network is between: those that vary, within the cells or against others, a list, or all of them.

A choice is made of the cells alone, by counts, and never by the read-out: what is compared shares its genes. Regulators
are all of these genes, or a list, such as the transcription factors of the organism (no list is bundled: the ones in
use have licences of their own). Used by grn_inference.py and the benchmark.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from .errors import ModelInputError
from .gene_panels import named
from .grn_query import gene_counts, log_shares, one_organism, usable_genes

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt
    import scipy.sparse as sp

    from loaders import Cells

    from .checkpoint import TrainedModel

    Numbers = npt.NDArray[np.int64]

BLOCK = 8_192
"""Cells of others whose counts are held at a time."""
Kind = Literal["variable", "across", "given", "expressed"]


@dataclass(frozen=True, eq=False)
class GeneChoice:
    """Which genes; for example `GeneChoice("variable", 1000)` or `GeneChoice("expressed", regulators=factors)`."""

    kind: Kind = "variable"
    """`variable` among the cells; `across`, most unlike the cells `against`; `given`, those of `genes`; or every gene
    that is `expressed`: genome-wide."""
    number: int = 2_000
    """How many, for `variable` and `across`, as far as there are any."""
    genes: tuple[str, ...] = ()
    """Feature ids for `given`."""
    regulators: tuple[str, ...] = ()
    """Feature ids of the genes that may regulate, chosen or not; those that were not measured, or that too few cells
    express, are left out. Empty for all chosen genes."""
    against: Numbers | None = None
    """Cells to be unlike, int64 [n], by genes that these measured, too; None for all others of the organism. Where the
    cells were drawn from a population, name these: its other cells are not to be unlike."""
    least_cells: int = 3
    """Cells that a gene must be expressed in, unless it is `given`."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ModelInputError("kind", self.kind, f"one of {', '.join(get_args(Kind))}")
        if self.number < 1 or self.least_cells < 0:
            raise ModelInputError("number", (self.number, self.least_cells), "at least 1 gene, and 0 cells or more")
        if isinstance(self.genes, str) or (self.kind == "given") != bool(self.genes):
            raise ModelInputError("genes", self.genes, "feature ids for the kind given, none for others")
        if isinstance(self.regulators, str):
            raise ModelInputError("regulators", self.regulators, "a list of feature ids")
        if self.against is not None and self.kind != "across":
            raise ModelInputError("against", f"{len(self.against)} cells", "none, unless the kind is across")

    def to_facts(self) -> dict[str, Any]:
        """Return the choice as JSON values; lists as their lengths."""
        against = None if self.against is None else len(self.against)
        return {
            "kind": self.kind, "number": self.number, "genes": len(self.genes), "regulators": len(self.regulators),
            "against": against, "least_cells": self.least_cells,
        }  # fmt: skip


def choose_genes(
    model: TrainedModel | None, cells: Cells, numbers: Numbers, choice: GeneChoice
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return regulators and targets, both in the order of the cells' gene table, but for genes that were given.

    Parameters
    ----------
    model
        Whose genes they have to be as well; None for a baseline's.
    cells, numbers
        The cells, of one organism.
    choice
        What is wanted.

    Raises
    ------
    ModelInputError
        When a given gene was not measured in all of the cells, there are no other cells to be unlike, or those are of
        another organism, or nothing is left.
    """
    one_organism(cells, numbers)
    usable = usable_genes(model, cells, numbers)
    if choice.kind == "given":
        known = set(usable)
        if missing := [gene for gene in choice.genes if gene not in known]:
            whose = "measured in all of the cells" + ("" if model is None else " and known to the model")
            raise ModelInputError("genes", named(missing), f"feature ids of genes {whose}")
        targets, expressed = choice.genes, usable
    else:
        counts, depth = gene_counts(cells, numbers, usable)
        enough = counts.getnnz(axis=0) >= max(choice.least_cells, 1)
        expressed = tuple(np.array(usable, dtype=object)[enough])
        logs = log_shares(counts[:, enough], depth)
        if choice.kind == "variable":
            places = _variable(logs, choice.number)
        elif choice.kind == "across":
            places = _unlike(logs, cells, numbers, expressed, choice)
        else:
            places = np.arange(len(expressed))
        targets = tuple(expressed[place] for place in places)
    listed = set(choice.regulators)
    regulators = tuple(gene for gene in expressed if gene in listed) if listed else targets
    if not targets or not regulators:
        got = f"{len(regulators)} regulators, {len(targets)} targets"
        raise ModelInputError("genes", got, "expressed genes; lower least_cells, or take more cells")
    return regulators, targets


def _variable(logs: sp.csr_matrix, number: int) -> Numbers:
    """Return the places of the most variable genes, rising: dispersion among genes of like mean (`cell_ranger`)."""
    if logs.shape[1] <= number:
        return np.arange(logs.shape[1])
    import anndata as ad  # noqa: PLC0415
    import scanpy  # noqa: PLC0415 - a second and a half

    found = scanpy.pp.highly_variable_genes(
        ad.AnnData(logs), flavor="cell_ranger", n_top_genes=number, inplace=False, subset=False
    )
    order = np.argsort(-found["dispersions_norm"].fillna(-np.inf).to_numpy(), kind="stable")
    return np.sort(order[:number])  # scanpy takes all that tie


def _unlike(logs: sp.csr_matrix, cells: Cells, numbers: Numbers, genes: tuple[str, ...], choice: GeneChoice) -> Numbers:
    """Return the places of the genes whose mean differs most from other cells', by Welch's t, rising."""
    code, others = int(cells.codes("organism", numbers[:1])[0]), choice.against
    if others is None:
        others = np.setdiff1d(np.flatnonzero(cells.column("organism") == code), numbers)
    others = np.asarray(others, dtype=np.int64)
    if len(others) < 2 or len(numbers) < 2:
        raise ModelInputError("against", f"{len(others)} cells", "at least 2 cells on both sides")
    if one_organism(cells, others) != one_organism(cells, numbers):
        raise ModelInputError("against", one_organism(cells, others), "cells of the same organism")
    blocks = (others[start : start + BLOCK] for start in range(0, len(others), BLOCK))
    mean, error = _moments([logs])
    mean_there, error_there = _moments(log_shares(*gene_counts(cells, some, genes)) for some in blocks)
    score = np.abs(mean - mean_there) / np.sqrt(error + error_there).clip(1e-12)
    # A gene that the others did not measure is no 0 there, and not unlike.
    measured = np.flatnonzero(np.isin(genes, usable_genes(None, cells, others)))
    return np.sort(measured[np.argsort(-score[measured], kind="stable")[: choice.number]])


def _moments(blocks: Iterable[sp.csr_matrix]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the mean of each gene over all cells of some blocks, and the square of its standard error."""
    n, total, squares = 0, 0.0, 0.0
    for logs in blocks:
        n += logs.shape[0]
        total = total + np.asarray(logs.sum(0, dtype=np.float64)).ravel()
        squares = squares + np.asarray(logs.astype(np.float64).power(2).sum(0)).ravel()
    mean = np.asarray(total) / n
    return mean, (np.asarray(squares) / n - mean**2).clip(0) / (n - 1)
