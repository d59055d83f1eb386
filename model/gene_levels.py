"""How much of each gene training cells have: what the linear path centres on, measured once, before the first step.

Over cells as training draws them, and of each all genes that its dataset measured: means over contexts, which have more
of the expressed genes, would make rare ones common. Called by pretrain.py; linear_path.py uses the figures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from loaders import make_sampler

from .linear_path import PER, filled

if TYPE_CHECKING:
    import numpy.typing as npt

    from loaders import Cells, Vocabulary

    from .linear_path import LinearPath
    from .recipe import DataRecipe

CELLS, AT_ONCE = 16_384, 64
"""Cells that are drawn, and how many at a time."""
LEAST = 1e-7
"""Share of a gene that no cell has; a logarithm needs one."""


def measure_levels(path: LinearPath, cells: Cells, vocabulary: Vocabulary, data: DataRecipe) -> None:
    """Write mean level and log mean share of each gene into the path.

    Parameters
    ----------
    path
        Of a network that was not trained yet.
    cells, vocabulary
        Those it will be trained on, and its genes.
    data
        How cells will be drawn; the first draws are measured, and one that is drawn twice counts twice.
    """
    sampler, sums = make_sampler(cells, data.plan, vocabulary), _Sums(cells, vocabulary)
    for first in range(0, min(CELLS, len(sampler)), AT_ONCE):
        sums.add(sampler.draw(0, first, min(AT_ONCE, len(sampler) - first)))
    known, among = torch.from_numpy(sums.cells > 0), np.maximum(sums.cells, 1)
    with torch.no_grad():
        for name, found in (("level", sums.levels / among), ("share", np.log(sums.shares / among + LEAST))):
            values = torch.from_numpy(found).to(getattr(path, name))
            getattr(path, name).copy_(filled(values, known, path.place))


class _Sums:
    """Sums over cells of each gene's level and share, and how many cells measured it, [tokens]."""

    def __init__(self, cells: Cells, vocabulary: Vocabulary) -> None:
        genes, self._from = cells.genes(), cells
        self._tokens = {
            code: vocabulary.gene_tokens(one["organism"], genes["feature_id"][genes["organism"] == code].tolist())
            for code, one in enumerate(cells.about["organisms"])
            if one["organism"] in vocabulary.organisms
        }
        self.levels, self.shares, self.cells = (np.zeros(vocabulary.n_genes) for _ in range(3))

    def add(self, drawn: npt.NDArray[np.int64]) -> None:
        organisms, datasets = self._from.codes("organism", drawn), self._from.codes("dataset", drawn)
        for organism, dataset in sorted(set(zip(organisms.tolist(), datasets.tolist(), strict=True))):
            mine, tokens = drawn[(organisms == organism) & (datasets == dataset)], self._tokens[organism]
            rows = self._from.read(mine).decode()
            owner = np.repeat(np.arange(len(mine)), np.diff(rows.indptr))
            share = rows.counts / np.maximum(self._from.codes("depth", mine), 1)[owner]
            found = tokens[rows.indices]
            known = found >= 0
            np.add.at(self.shares, found[known], share[known])
            np.add.at(self.levels, found[known], np.log1p(PER * share[known]))
            there = tokens[self._from.measured(dataset, organism)]
            self.cells[there[there >= 0]] += len(mine)
