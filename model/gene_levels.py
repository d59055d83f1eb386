"""How much of each gene training cells have: what the linear path centres on, measured once, before the first step.

Over cells and contexts as training draws them, so that a gene's mean is over the contexts it is shown in. Called by
pretrain.py; linear_path.py uses the figures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from loaders import Collator, make_sampler

from .linear_path import PER, filled

if TYPE_CHECKING:
    from loaders import Cells, Vocabulary

    from .linear_path import LinearPath
    from .recipe import DataRecipe

CELLS, AT_ONCE = 4_096, 64
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
    levels, shares, numbers = np.zeros(size), np.zeros(size), np.zeros(size)
    for first in range(0, min(CELLS, len(sampler)), AT_ONCE):
        drawn = sampler.draw(0, first, min(AT_ONCE, len(sampler) - first))
        batch = collator.collate(drawn, np.arange(first, first + len(drawn)))
        genes, counts = batch.genes.numpy().astype(np.int64), batch.counts.double().numpy()
        own = np.repeat(np.arange(len(drawn)), batch.offsets.diff().numpy())
        depth = np.maximum(batch.depth.double().numpy(), 1)[own]
        levels += np.bincount(genes, np.log1p(PER * counts / depth), size)
        shares += np.bincount(genes, counts / depth, size)
        numbers += np.bincount(genes, minlength=size)
    known = torch.from_numpy(numbers > 0)
    among = np.maximum(numbers, 1)
    with torch.no_grad():
        for name, found in (("level", levels / among), ("share", np.log(shares / among + LEAST))):
            values = torch.from_numpy(found).to(getattr(path, name))
            getattr(path, name).copy_(filled(values, known, path.place))
