"""Cells that tasks.py scores methods on, and cells that simple methods learn from: drawn, read, and as components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterator

    import scipy.sparse as sp

    from loaders import Cells
    from model import TrainedModel

    Numbers = npt.NDArray[np.int64]

SEED = 0
TRAINING, GENES, NEAREST = 10_000, 1_000, 15
"""Training cells that simple methods learn from; genes of the smallest panel; neighbours that vote."""


@dataclass(frozen=True, eq=False)
class Held:
    """Held-out cells of one dataset."""

    dataset: str
    organism: str
    numbers: Numbers
    counts: sp.csr_matrix
    """[cells, genes]: the measured genes that the model knows."""
    genes: npt.NDArray[np.object_]
    """Their feature ids."""
    columns: Numbers
    """Their numbers among all genes of the organism."""

    @property
    def dense(self) -> npt.NDArray[np.float64]:
        """Return the counts as an array."""
        return self.counts.toarray().astype(np.float64)


def held_cells(model: TrainedModel, cells: Cells, most: int, seed: int) -> Iterator[Held]:
    """Yield test cells by dataset, drawn from as evenly as there are cells."""
    found = list(_datasets(model, cells))
    for code, dataset, there, genes in found:
        drawn = np.sort(np.random.default_rng((SEED, seed, dataset)).permutation(there)[: most // len(found)])
        ids = cells.genes()
        ids = ids.loc[ids["organism"] == code, "feature_id"].to_numpy(dtype=object)
        counts = read_counts(cells, drawn, len(genes))[:, genes]
        words, name = cells.about["vocabulary"]["dataset"], cells.about["organisms"][code]["organism"]
        yield Held(words[dataset], name, drawn, counts, ids[genes], np.flatnonzero(genes))


def describe_held(model: TrainedModel, cells: Cells) -> list[dict[str, Any]]:
    """Return a row per dataset whose test cells are drawn from: how many there are, of whom, and which were seen."""
    from model import seen_before

    rows = []
    for code, dataset, there, _ in _datasets(model, cells):
        seen = seen_before(model.ledger, cells, there)
        rows.append(
            {
                "table": "test cells", "what": cells.about["vocabulary"]["dataset"][dataset],
                "organism": cells.about["organisms"][code]["organism"], "cells": len(there),
                "donors": len(np.unique(cells.codes("donor", there))),
                "with a leaf cell type": int((leaves(model, cells, "cell_type", there) >= 0).sum()),
                "seen by the model": int(len(there) - seen["not_found"]),
            }
        )  # fmt: skip
    return rows


def _datasets(model: TrainedModel, cells: Cells) -> Iterator[tuple[int, int, Numbers, npt.NDArray[np.bool_]]]:
    """Yield organism, dataset, test cells and known genes of the datasets that have enough of both."""
    from loaders import SPLITS

    test = np.flatnonzero(cells.column("split") == SPLITS.index("test"))
    names = [one["organism"] for one in cells.about["organisms"]]
    for code in np.unique(cells.codes("organism", test)).tolist():
        if names[code] not in model.vocabulary.organisms:
            continue
        mine = test[cells.codes("organism", test) == code]
        datasets = cells.codes("dataset", mine)
        for dataset in np.unique(datasets).tolist():
            genes = known_genes(model, cells, code, dataset)
            there = mine[datasets == dataset]
            if genes.sum() >= GENES and len(there) >= NEAREST:
                yield code, dataset, there, genes


def known_genes(model: TrainedModel, cells: Cells, organism: int, dataset: int) -> npt.NDArray[np.bool_]:
    """Return which genes of an organism a dataset measured and the model knows."""
    genes = cells.genes()
    ids = genes.loc[genes["organism"] == organism, "feature_id"]
    known = model.vocabulary.gene_tokens(cells.about["organisms"][organism]["organism"], ids.tolist()) >= 0
    return known & np.asarray(cells.measured(dataset, organism), dtype=bool)[: len(known)]


def leaves(model: TrainedModel, cells: Cells, label: str, numbers: Numbers) -> Numbers:
    """Return the leaf class of cells, -1 where it is unknown or no leaf of the model's."""
    space = model.vocabulary.labels[label]
    words = cells.about["vocabulary"][label]
    codes = np.append(space.encode(words, strict=False), -1)[cells.codes(label, numbers)]
    return np.where(codes < space.n_leaves, codes, -1).astype(np.int64)


def read_counts(cells: Cells, numbers: Numbers, n_genes: int) -> sp.csr_matrix:
    """Return the counts of cells, [cells, genes]."""
    import scipy.sparse as sp

    rows = cells.read(numbers).decode()
    return sp.csr_matrix((rows.counts, rows.indices, rows.indptr), shape=(len(numbers), n_genes))


def cells_of_counts(held: Held, counts: npt.NDArray[np.float64], genes: npt.NDArray[np.object_]) -> Cells:
    """Return cells of these counts, as any AnnData would be read."""
    import anndata as ad
    import pandas as pd
    import scipy.sparse as sp

    from loaders import AnnDataCells

    obs = pd.DataFrame(index=[f"{held.dataset}-{number}" for number in held.numbers])
    var = pd.DataFrame(index=genes.astype(str))
    return AnnDataCells(ad.AnnData(sp.csr_matrix(counts.astype(np.float32)), obs, var), held.organism)


def training_cells(
    cells: Cells, organism: str, seed: int, among: npt.NDArray[np.bool_] | None = None
) -> tuple[Numbers, sp.csr_matrix]:
    """Return training cells of an organism, of some of all cells if asked, and their counts over all its genes."""
    from loaders import SPLITS

    code = [one["organism"] for one in cells.about["organisms"]].index(organism)
    fit = (cells.column("split") == SPLITS.index("train")) & (cells.column("organism") == code)
    fit = fit if among is None else fit & among
    drawn = np.random.default_rng((SEED, seed, 1)).permutation(np.flatnonzero(fit))[:TRAINING]
    drawn = np.sort(drawn).astype(np.int64)
    return drawn, read_counts(cells, drawn, int((cells.genes()["organism"] == code).sum()))


def nearest(train: sp.csr_matrix, asked: npt.NDArray[np.float64], seed: int) -> Numbers:
    """Return the training cells nearest to each cell by principal components of variable genes, [cells, neighbours]."""
    from sklearn.neighbors import NearestNeighbors

    places, others = components(train, asked, seed)
    return NearestNeighbors(n_neighbors=NEAREST).fit(places).kneighbors(others)[1]


def components(
    train: sp.csr_matrix, asked: npt.NDArray[np.float64] | sp.csr_matrix, seed: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return 50 principal components, learnt from the first cells, of both: log shares of the 2,000 most variable."""
    import scipy.sparse as sp
    from sklearn.decomposition import PCA

    def normal(counts: sp.csr_matrix) -> sp.csr_matrix:
        depth = np.maximum(np.asarray(counts.sum(1), dtype=np.float64), 1)
        return sp.csr_matrix(counts.multiply(1e4 / depth)).log1p()

    one, other = normal(train), normal(sp.csr_matrix(asked))
    spread = np.asarray(one.multiply(one).mean(0) - np.square(one.mean(0)))[0]
    most = np.sort(np.argsort(-spread, kind="stable")[:2_000])
    learnt = PCA(min(50, len(most) - 1, one.shape[0] - 1), svd_solver="randomized", random_state=seed)
    places = learnt.fit_transform(one[:, most].toarray())
    return places, learnt.transform(other[:, most].toarray())
