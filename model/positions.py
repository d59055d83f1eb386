"""Where genes lie on their genomes, as numbers a network can take: position bins, and a sinusoid of them.

Genes are sorted by contig and start; the bin goes up by one where a start is more than `STEP` beyond the one before,
and by 100 where a contig ends (scPRINT-2's rule). So neighbours on the genome share a bin or have near ones, and genes
of two chromosomes never do. Genes without a known position have none, and no sinusoid.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

STEP = 10_000
"""Base pairs between starts that open a new bin."""
DENSE_STEP = 2_000
"""The same in small genomes, where genes lie closer."""
DENSE = frozenset({"fly", "worm", "arabidopsis"})
BETWEEN_CONTIGS = 100
"""Bins left free at the end of a contig."""
NOWHERE = -1
"""Bin of a gene whose position is not known."""
BASE = 10_000.0
"""Of the sinusoid's wavelengths, as in Vaswani et al. 2017 (arXiv:1706.03762)."""


def position_bins(contigs: npt.NDArray[np.str_], starts: npt.NDArray[np.int64], step: int = STEP) -> npt.NDArray:
    """Return the bin of each gene of one organism, int32; `NOWHERE` where contig or start is unknown.

    Parameters
    ----------
    contigs
        Contig of each gene, empty where unknown.
    starts
        Start on it in base pairs, negative where unknown.
    step
        Base pairs between starts that open a new bin.

    Examples
    --------
    >>> position_bins(np.array(["1", "1", "1", "2", ""]), np.array([50_000, 0, 3_000, 7, -1]))
    array([  1,   0,   0, 101,  -1], dtype=int32)
    """
    out = np.full(len(starts), NOWHERE, dtype=np.int32)
    known = np.flatnonzero((starts >= 0) & (contigs != ""))
    order = known[np.lexsort((starts[known], contigs[known]))]
    if not len(order):
        return out
    ends = contigs[order][1:] != contigs[order][:-1]
    opens = ends | (np.diff(starts[order]) > step)
    out[order] = np.concatenate([[0], np.cumsum(np.where(ends, BETWEEN_CONTIGS, opens))])
    return out


def sinusoid(bins: Tensor, width: int) -> Tensor:
    """Return sines and cosines of bins, float32 [rows, width]; zeros for `NOWHERE`.

    Column 2i is sin(b / BASE^(2i / width)), column 2i + 1 the cosine of the same.
    """
    rates = BASE ** (-torch.arange(0, width, 2, device=bins.device, dtype=torch.float64) / width)
    angles = bins.double()[:, None] * rates
    waves = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :width]
    return (waves * (bins != NOWHERE)[:, None]).float()
