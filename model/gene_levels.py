"""How much of each gene training cells have: what the linear path centres on, measured once, before the first step.

Over cells as training draws them. A gene's level is over the contexts it is shown in, its share over all cells that
measured it: contexts have more of the expressed genes, which would make rare ones common. Called by pretrain.py;
linear_path.py uses the figures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from loaders import Collator, make_sampler

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
        How cells and their genes will be drawn; the first draws are measured.
    """
    sampler, collator = make_sampler(cells, data.plan, vocabulary), Collator(vocabulary, cells, data.collate)
    size = len(path.level)
    levels, numbers, shares = np.zeros(size), np.zeros(size), _Shares(cells, vocabulary)
    for first in range(0, min(CELLS, len(sampler)), AT_ONCE):
        drawn = sampler.draw(0, first, min(AT_ONCE, len(sampler) - first))
        batch = collator.collate(drawn, np.arange(first, first + len(drawn)))
        genes, counts = batch.genes.numpy().astype(np.int64), batch.counts.double().numpy()
        own = np.repeat(np.arange(len(drawn)), batch.offsets.diff().numpy())
        depth = np.maximum(batch.depth.double().numpy(), 1)[own]
        levels += np.bincount(genes, np.log1p(PER * counts / depth), size)
        numbers += np.bincount(genes, minlength=size)
        shares.add(drawn)
    with torch.no_grad():
        for name, found, among in (("level", levels, numbers), ("share", shares.sums, shares.cells)):
            means = found / np.maximum(among, 1)
            values = torch.from_numpy(np.log(means + LEAST) if name == "share" else means).to(getattr(path, name))
            getattr(path, name).copy_(filled(values, torch.from_numpy(among > 0), path.place))


class _Shares:
    """Sums of each gene's share of the counts, over whole cells, and how many of them measured it."""

    def __init__(self, cells: Cells, vocabulary: Vocabulary) -> None:
        genes, self._read = cells.genes(), cells
        self._tokens = {
            code: vocabulary.gene_tokens(one["organism"], genes["feature_id"][genes["organism"] == code].tolist())
            for code, one in enumerate(cells.about["organisms"])
            if one["organism"] in vocabulary.organisms
        }
        self.sums, self.cells = np.zeros(vocabulary.n_genes), np.zeros(vocabulary.n_genes)

    def add(self, drawn: npt.NDArray[np.int64]) -> None:
        """Add cells; one that is drawn twice counts twice."""
        organisms, datasets = self._read.codes("organism", drawn), self._read.codes("dataset", drawn)
        for organism, dataset in sorted(set(zip(organisms.tolist(), datasets.tolist(), strict=True))):
            mine, tokens = drawn[(organisms == organism) & (datasets == dataset)], self._tokens[organism]
            rows = self._read.read(mine).decode()
            depth = np.maximum(self._read.codes("depth", mine), 1)
            owner = np.repeat(np.arange(len(mine)), np.diff(rows.indptr))
            found = tokens[rows.indices]
            known = found >= 0
            np.add.at(self.sums, found[known], (rows.counts / depth[owner])[known])
            there = tokens[self._read.measured(dataset, organism)]
            self.cells[there[there >= 0]] += len(mine)
