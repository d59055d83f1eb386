"""Which genes a cell's context may take: those that its dataset measured and the vocabulary knows.

collate.py asks here for the choice of each cell of a batch. A choice is a list of gene numbers, made when a dataset is
first met and shared by all datasets that measured the same genes; kernels.py and device.py draw from it. Beside it lie
the tokens of all genes. Memory is bounded: when the lists have grown beyond POOL, they are forgotten and made again.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .errors import LoaderInputError
from .records import HIGH

if TYPE_CHECKING:
    from .cells import Cells
    from .vocabulary import Vocabulary

Numbers = npt.NDArray[np.int64]
GENES = 2 * HIGH
"""Gene numbers a record can name, per organism; tables of this width need no check of a gene number."""
POOL = 1 << 24
"""Genes in all lists before they are made anew, 64 MiB: some 400 different sets of 40,000."""


class GeneChoices:
    """Choices by organism and dataset.

    Parameters
    ----------
    cells
        Whose genes and datasets they are.
    vocabulary
        Which genes are known, and their tokens.
    given
        Feature ids of a context that is a list; empty where contexts are drawn from all that was measured.

    Raises
    ------
    LoaderInputError
        When the vocabulary lacks a given gene, or one is given twice.
    """

    def __init__(self, cells: Cells, vocabulary: Vocabulary, given: tuple[str, ...] = ()) -> None:
        self._cells, self._listed = cells, bool(given)
        names = [str(organism["organism"]) for organism in cells.about["organisms"]]
        places = {name: place for place, name in enumerate(vocabulary.organisms)}
        self.organisms = np.array([places.get(name, -1) for name in names], dtype=np.int64)
        """Position in the vocabulary's organisms, by the cells' organism code; -1 where it has none."""
        self.tokens = np.full((len(places), GENES), -1, dtype=np.int32)
        """Token of each gene number, by position in the vocabulary's organisms; -1 where it has none."""
        self._code = {int(place): code for code, place in enumerate(self.organisms)}
        self._given: dict[int, Numbers] = {}
        self.version = 0
        """Changes with `pool`, for whoever keeps a copy."""
        _check_given(vocabulary, given)
        genes = cells.genes()
        for code, place in enumerate(self.organisms.tolist()):
            if place < 0:
                continue
            ids = genes.loc[genes["organism"] == code, "feature_id"].to_numpy()
            self.tokens[place, : len(ids)] = vocabulary.gene_tokens(names[code], ids)
            numbers = {gene: number for number, gene in enumerate(ids.tolist())} if given else {}
            self._given[place] = np.array([numbers[gene] for gene in given if gene in numbers], dtype=np.int64)
        self._forget()

    def _forget(self) -> None:
        self.pool = np.empty(1 << 16, dtype=np.int32)
        """All lists, one after another."""
        self._used = 0
        self._spans: dict[tuple[int, int], tuple[int, int]] = {}
        self._same: dict[bytes, tuple[int, int]] = {}

    def find(self, organisms: Numbers, datasets: Numbers) -> tuple[Numbers, Numbers]:
        """Return where in `pool` each cell's choice begins, and how many genes it has.

        Parameters
        ----------
        organisms
            Positions in the vocabulary's organisms, int64 [B].
        datasets
            The cells' codes of their datasets, int64 [B].
        """
        if self._used > POOL:
            self._forget()
        spans = self._spans
        pairs = list(zip(organisms.tolist(), datasets.tolist(), strict=True))
        for pair in set(pairs).difference(spans):
            spans[pair] = self._add(*pair)
        found = np.array([spans[pair] for pair in pairs], dtype=np.int64).reshape(-1, 2)
        return np.ascontiguousarray(found[:, 0]), np.ascontiguousarray(found[:, 1])

    def _add(self, organism: int, dataset: int) -> tuple[int, int]:
        measured = np.asarray(self._cells.measured(dataset, self._code[organism]), dtype=bool)
        usable = measured & (self.tokens[organism, : len(measured)] >= 0)
        given = self._given[organism]
        genes = (given[usable[given]] if self._listed else np.flatnonzero(usable)).astype(np.int32)
        digest = hashlib.sha256(genes.tobytes()).digest()
        if digest not in self._same:
            first, self._used = self._used, self._used + len(genes)
            if self._used > len(self.pool):
                self.pool = np.concatenate([self.pool, np.empty(max(len(self.pool), len(genes)), dtype=np.int32)])
            self.pool[first : self._used] = genes
            self.version += 1
            self._same[digest] = (first, len(genes))
        return self._same[digest]


def _check_given(vocabulary: Vocabulary, given: tuple[str, ...]) -> None:
    """Raise unless every given gene is some organism's, and given once."""
    known = np.zeros(len(given), dtype=bool)
    for name in vocabulary.organisms if given else ():
        known |= vocabulary.gene_tokens(name, list(given)) >= 0
    if unknown := [gene for gene, here in zip(given, known.tolist(), strict=True) if not here]:
        shown = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        raise LoaderInputError("genes", shown, f"feature ids of the vocabulary's {vocabulary.n_genes} genes")
    if len(set(given)) < len(given):
        twice = next(gene for gene in given if given.count(gene) > 1)
        raise LoaderInputError("genes", twice, "each gene once")
