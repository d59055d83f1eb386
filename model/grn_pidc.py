"""PIDC: two genes are close where what they tell of each other is told by no third gene (Chan et al. 2017).

Mutual information also links genes that merely share a driver. PIDC takes, for each pair, the share of it that is
unique given each third gene, and asks how far that stands out among all pairs of either gene. Written as triples that
is cubic in the genes; since redundancy is a sum of smaller-of-two, sorting makes it quadratic. Called by grn_scores.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .errors import ModelInputError

if TYPE_CHECKING:
    import numpy.typing as npt

    from .grn_query import GrnQuery

    Floats = npt.NDArray[np.float32]
    Values = npt.NDArray[np.float64]
    Codes = npt.NDArray[np.int64]

BINS = 6
"""Bins of a gene: zero, and five of about equally many cells."""
MOST_GENES = 6_000
JOINT = 2**23
"""Joint probabilities at a time, 64 MiB of float64."""


def pidc(query: GrnQuery) -> tuple[Floats, None]:
    """Return PIDC's confidence of each pair, 0 to 2, among all genes that were asked about.

    Notes
    -----
    Chan, Stumpf and Babtie (2017, doi:10.1016/j.cels.2017.08.014): the proportional unique contribution u of a pair is
    the sum over third genes Z of Unique_Z(X; Y) / I(X; Y), in both directions, by Williams and Beer's partial
    information decomposition; the confidence is F_X(u) + F_Y(u), F being the gamma distribution fitted to all u of a
    gene. Two differences: bins are zero and five quantiles of the rest instead of Bayesian blocks, which take the many
    zeros of counts for one block, and the gamma is fitted by maximum likelihood for each gene (Newton's method).

    Raises
    ------
    ModelInputError
        When there are more than 6,000 genes or fewer than 3.
    """
    if not 3 <= len(query.genes) <= MOST_GENES:
        raise ModelInputError("genes", len(query.genes), f"3 to {MOST_GENES} regulators and targets together")
    share = unique_shares(discretised(query.expression()))
    share += share.T.copy()
    confidence = gamma_ranks(share)
    confidence = confidence + confidence.T
    return confidence[np.ix_(query.rows, query.columns)].astype(np.float32), None


def discretised(values: Floats, bins: int = BINS) -> Codes:
    """Return the bin of each value, int64 [cells, genes]: 0 for zeros, the others by quantiles of their gene."""
    out = np.zeros(values.shape, dtype=np.int64)
    for gene, column in enumerate(values.T):
        there = column != 0
        if there.any():
            edges = np.unique(np.quantile(column[there], np.linspace(0, 1, bins)[1:-1]))
            out[there, gene] = 1 + np.searchsorted(edges, column[there], side="right")
    return out


def unique_shares(codes: Codes) -> Values:
    """Return, summed over third genes, the share of what X tells of Y that is unique, float64 [X, Y].

    Parameters
    ----------
    codes
        Bins, int64 [cells, genes], from 0.
    """
    n, genes = codes.shape
    bins = int(codes.max(initial=0)) + 1
    shown = np.zeros((n, genes, bins), dtype=np.float32)
    np.put_along_axis(shown, codes[:, :, None], 1, axis=2)
    marginal = shown.mean(0, dtype=np.float64)  # [genes, bins]
    flat = shown.reshape(n, genes * bins)
    out = np.zeros((genes, genes))
    step = max(JOINT // (genes * bins * bins), 1)
    for start in range(0, genes, step):
        mine = slice(start, min(start + step, genes))
        joint = (flat[:, mine.start * bins : mine.stop * bins].T @ flat / n).reshape(-1, bins, genes, bins)
        expected = marginal[mine][:, :, None, None] * marginal
        ratio = np.divide(joint, expected, out=np.ones_like(joint, dtype=np.float64), where=joint > 0)
        # What X tells of each bin of Y, times how often Y is there: Y's bins add up to the mutual information.
        told = np.maximum((joint * np.log(ratio)).sum(3), 0.0)
        for place, of_bin in enumerate(told):
            out[:, mine.start + place] = _unique(of_bin, mine.start + place)
    return out


def gamma_ranks(scores: Values) -> Values:
    """Return each score's place in the gamma distribution of its row's, without the diagonal, [genes, genes]."""
    from scipy.special import digamma, gammainc, polygamma  # noqa: PLC0415

    n = len(scores)
    others = scores[~np.eye(n, dtype=bool)].reshape(n, n - 1).clip(1e-12)
    mean = others.mean(1)
    gap = np.maximum(np.log(mean) - np.log(others).mean(1), 1e-9)
    # Minka (2002): a close start, and Newton's steps on the likelihood of the shape.
    shape = (3 - gap + np.sqrt((gap - 3) ** 2 + 24 * gap)) / (12 * gap)
    for _ in range(8):
        step = (np.log(shape) - digamma(shape) - gap) / (1 / shape - polygamma(1, shape))
        shape = np.maximum(shape - step, shape / 10)
    return gammainc(shape[:, None], scores.clip(0) * (shape / mean)[:, None])


def _unique(told: Values, own: int) -> Values:
    """Return the unique share of what each gene tells of one, [genes], from what it tells of its bins [bins, genes]."""
    genes = told.shape[1]
    information = told.sum(0)
    others = np.delete(told, own, axis=1)
    order = np.argsort(others, axis=1, kind="stable")
    ranked = np.take_along_axis(others, order, axis=1)
    behind = np.arange(genes - 2, -1, -1)
    # Of the smaller of two, summed over all partners: all that are smaller, and itself for every larger one.
    smaller = np.empty_like(ranked)
    np.put_along_axis(smaller, order, ranked.cumsum(1) - ranked + ranked * behind, axis=1)
    redundant = np.insert(smaller.sum(0), own, 0.0)
    there = information > 1e-12
    share = np.zeros(genes)
    share[there] = (genes - 2) - redundant[there] / information[there]
    share[own] = 0
    return share.clip(0)
