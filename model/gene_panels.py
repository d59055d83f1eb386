"""Genes of a request as tokens: which of them the cells' datasets measured, and in which fixed pieces they are decoded.

Genes that are decoded together attend to each other, so their company must not depend on who asks for what: pieces are
dealt out by a hash of the feature ids. Used by denoising.py and imputation.py.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
import torch

from .errors import ModelInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from torch import Tensor

    from loaders import Cells, Vocabulary

    Numbers = npt.NDArray[np.int64]


class Panels:
    """Which genes of one organism the datasets of some cells measured, as tokens of a model."""

    def __init__(self, vocabulary: Vocabulary, cells: Cells, numbers: Numbers | None) -> None:
        some = np.arange(len(cells)) if numbers is None else np.asarray(numbers, dtype=np.int64)
        codes, names = np.unique(cells.codes("organism", some)), [one["organism"] for one in cells.about["organisms"]]
        if len(codes) > 1:
            raise ModelInputError("numbers", [names[code] for code in codes], "cells of one organism at a time")
        genes = cells.genes()
        self.organism = str(names[codes[0]])
        self.ids = genes.loc[genes["organism"] == codes[0], "feature_id"].to_numpy(dtype=object)
        """All genes of the organism that the cells' source numbers."""
        self.datasets = np.unique(cells.codes("dataset", some)).tolist()
        self._cells, self._code, self._size = cells, int(codes[0]), vocabulary.n_genes
        self._tokens = vocabulary.gene_tokens(self.organism, self.ids.tolist())

    def measured(self, dataset: int) -> npt.NDArray[np.bool_]:
        """Return whether a dataset measured each token, bool [tokens of the vocabulary]."""
        out = np.zeros(self._size, dtype=bool)
        tokens = self._tokens[np.asarray(self._cells.measured(dataset, self._code), dtype=bool)[: len(self._tokens)]]
        out[tokens[tokens >= 0]] = True
        return out

    def counts(self, numbers: Numbers) -> Tensor:
        """Return the molecules of each token in some cells, float32 [cells, tokens of the vocabulary]."""
        rows = self._cells.read(numbers).decode()
        tokens = self._tokens[rows.indices]
        owners = np.repeat(np.arange(len(numbers)), np.diff(rows.indptr))
        out = np.zeros((len(numbers), self._size), dtype=np.float32)
        out[owners[tokens >= 0], tokens[tokens >= 0]] = rows.counts[tokens >= 0]
        return torch.from_numpy(out)

    def measured_ids(self) -> list[str]:
        """Return the genes that any of the datasets measured and the vocabulary has."""
        anywhere = np.zeros(self._size, dtype=bool)
        for dataset in self.datasets:
            anywhere |= self.measured(dataset)
        return self.ids[(self._tokens >= 0) & anywhere[self._tokens]].tolist()


def find_columns(vocabulary: Vocabulary, organism: str, genes: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the place among the asked genes of each token, int64 [tokens], -1 for all others.

    Raises
    ------
    ModelInputError
        When the vocabulary has not a gene, one is named twice, or none is.
    """
    if isinstance(genes, str) or not len(genes):
        raise ModelInputError("genes", genes, "a list of feature ids, at least one")
    tokens = vocabulary.gene_tokens(organism, list(genes))
    if (tokens < 0).any():
        unknown = [gene for gene, token in zip(genes, tokens, strict=True) if token < 0]
        size = len(vocabulary.organism_tokens(organism))
        raise ModelInputError("genes", named(unknown), f"feature ids among the model's {size} genes of {organism}")
    if len(set(genes)) < len(genes):
        raise ModelInputError("genes", next(gene for gene in genes if list(genes).count(gene) > 1), "each gene once")
    columns = np.full(vocabulary.n_genes, -1, dtype=np.int64)
    columns[tokens] = np.arange(len(genes))
    return columns


def hashed_order(vocabulary: Vocabulary, organism: str) -> npt.NDArray[np.int64]:
    """Return an organism's tokens in the order of a hash of their feature ids: fixed, and like no other order."""
    ids = vocabulary.genes[vocabulary.organisms.index(organism)]
    keys = [blake2b(one.encode(), digest_size=8).digest() for one in ids]
    order = sorted(range(len(ids)), key=keys.__getitem__)
    return vocabulary.organism_tokens(organism).astype(np.int64)[order]


def split_genes(tokens: npt.NDArray[np.int64], most: int) -> list[npt.NDArray[np.int64]]:
    """Return tokens dealt out to as few pieces of at most so many as there can be, all nearly as large."""
    n = -(-len(tokens) // most)
    return [tokens[first::n] for first in range(n)]


def named(genes: Sequence[str]) -> str:
    """Return the first genes of a list for a message."""
    return ", ".join(genes[:5]) + (f" and {len(genes) - 5} more" if len(genes) > 5 else "")
