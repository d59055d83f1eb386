"""What is to be seen of an embedding: how many directions it uses, and cell by cell how far labels and batches agree.

Every score is a number per cell, NaN where it does not apply, so that one bootstrap (`compare_scores`) compares any two
embeddings of the same cells, classes alike, over donors or cells. verdict.py puts the scores into words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from scipy.sparse import csgraph

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    Values = npt.NDArray[np.floating]
    Codes = npt.NDArray[np.int64]
    Scores = npt.NDArray[np.float64]

LEAST_UNITS = 5
"""Donors from which on they are what is drawn anew, not their cells."""
LEAST_CELLS = 40
"""Cells of a class in which mixing is looked at."""
REJECTED = 0.05
"""Level of the test of batches among neighbours (kBET)."""
INSIDE = (2.5, 97.5)
"""Percentiles between which an interval lies."""


def describe_shape(values: Values) -> dict[str, float]:
    """Return how many directions an embedding uses.

    Parameters
    ----------
    values
        [cells, dimensions], two cells or more.

    Returns
    -------
    dict
        `effective_rank` (exp of the entropy of the singular values, Roy and Vetterli 2007), `participation_ratio`
        ((sum l)^2 / sum l^2 of the variances l of the components), `first_component` (its share of the variance),
        `mean_cosine` (over all pairs of cells, not centred), `distinct` (share of the cells that are no copies of
        another). A constant embedding has ranks of 0.
    """
    x = np.asarray(values, dtype=np.float64)
    n = len(x)
    variances = np.linalg.eigvalsh(np.cov(x, rowvar=False).reshape(x.shape[1], -1)).clip(min=0)[::-1]
    lengths = np.linalg.norm(x, axis=1)
    towards = x[lengths > 0] / lengths[lengths > 0, None]
    m = len(towards)
    cosine = (float((towards.sum(0) ** 2).sum()) - m) / (m * (m - 1)) if m > 1 else 1.0
    found = {"effective_rank": 0.0, "participation_ratio": 0.0, "first_component": 1.0}
    if np.ptp(x, axis=0).max() > 0:
        shares = np.sqrt(variances) / np.sqrt(variances).sum()
        shares = shares[shares > 0]
        found = {
            "effective_rank": float(np.exp(-(shares * np.log(shares)).sum())),
            "participation_ratio": float(variances.sum() ** 2 / (variances**2).sum()),
            "first_component": float(variances[0] / variances.sum()),
        }
    return found | {"mean_cosine": cosine, "distinct": len(np.unique(np.asarray(values), axis=0)) / n}


def name_by_neighbours(values: Values, classes: Codes, batches: Codes | None, k: int) -> tuple[Scores, Scores]:
    """Return, per cell, whether its nearest cells vote for its class, and the share of them that have it.

    Neighbours are cells of other batches, so that a cell is never named by its own donor; without batches all others.

    Parameters
    ----------
    values
        [cells, dimensions], compared by Euclidean distance.
    classes
        Class of each cell, from 0.
    batches
        Batch of each, from 0; None for none.
    k
        Neighbours; where votes are even the nearer ones count more.

    Returns
    -------
    named, purity
        NaN for cells whose class no other batch has.
    """
    n, n_classes = len(values), int(classes.max()) + 1
    named, purity = np.full(n, np.nan), np.full(n, np.nan)
    for mine, near in _neighbours(values, batches, k):
        if not near.shape[1]:
            continue
        weights = 1 + np.arange(near.shape[1], 0, -1) / (2 * near.shape[1] ** 2 + 1)  # together below one vote
        votes = np.zeros((len(mine), n_classes))
        np.add.at(votes, (np.arange(len(mine))[:, None], classes[near]), weights)
        others = np.setdiff1d(np.arange(n), mine) if batches is not None else np.arange(n)
        there = np.bincount(classes[others], minlength=n_classes) > (0 if batches is not None else 1)
        fit = there[classes[mine]]
        named[mine[fit]] = (votes.argmax(1) == classes[mine])[fit]
        purity[mine[fit]] = (classes[near] == classes[mine][:, None]).mean(1)[fit]
    return named, purity


def silhouettes(values: Values, classes: Codes) -> Scores:
    """Return the silhouette of each cell among the classes (Rousseeuw 1987); NaN with one class, or all alone."""
    from sklearn.metrics import silhouette_samples  # noqa: PLC0415 - half a second

    n_classes = len(np.unique(classes))
    if not 1 < n_classes < len(classes):
        return np.full(len(classes), np.nan)
    return silhouette_samples(np.asarray(values, dtype=np.float64), classes)


def connected(values: Values, classes: Codes, k: int) -> Scores:
    """Return whether each cell is in the largest connected part of its class (graph connectivity, Luecken et al. 2022).

    The graph joins each cell with its k nearest, of which those of its class count; the mean over cells of a class is
    the share of it that hangs together.
    """
    ((_, near),) = _neighbours(values, None, k)
    rows = np.repeat(np.arange(len(values)), near.shape[1])
    same = classes[rows] == classes[near.ravel()]
    ones = np.ones(int(same.sum()))
    graph = sp.csr_matrix((ones, (rows[same], near.ravel()[same])), shape=(len(values), len(values)))
    parts = csgraph.connected_components(graph, directed=False)[1]
    sizes = np.bincount(parts)
    out = np.zeros(len(values))
    for one in np.unique(classes):
        mine = classes == one
        out[mine] = parts[mine] == parts[mine][sizes[parts[mine]].argmax()]
    return out


def mixing(values: Values, batches: Codes, classes: Codes, k: int) -> tuple[Scores, Scores]:
    """Return, per cell, how well batches are mixed around it among cells of its class, by two scores.

    Parameters
    ----------
    values
        [cells, dimensions].
    batches, classes
        Of each cell, from 0.
    k
        Neighbours, at most a quarter of a class.

    Returns
    -------
    lisi, kbet
        Inverse Simpson's index of the neighbours' batches, less 1, over that of the class as a whole, less 1: 0 for one
        batch, 1 for as many as can be (after Korsunsky et al. 2019, unweighted neighbours); and 1 where a chi-squared
        test does not tell the neighbours from a draw of the class, else 0 (Büttner et al. 2019). NaN for classes of one
        batch or of fewer than 40 cells; of a small class the neighbours are a quarter.
    """
    from scipy.stats import chi2  # noqa: PLC0415 - a second

    lisi, kbet = np.full(len(values), np.nan), np.full(len(values), np.nan)
    for one in np.unique(classes):
        mine = np.flatnonzero(classes == one)
        _, own = np.unique(batches[mine], return_inverse=True)
        share = np.bincount(own) / len(mine)
        if len(mine) < LEAST_CELLS or len(share) < 2:
            continue
        ((_, near),) = _neighbours(values[mine], None, n := min(k, len(mine) // 4))
        seen = np.stack([(own[near] == batch).sum(1) for batch in range(len(share))], axis=1)
        lisi[mine] = (1 / ((seen / n) ** 2).sum(1) - 1) / (1 / (share**2).sum() - 1)
        statistic = ((seen - n * share) ** 2 / (n * share)).sum(1)
        kbet[mine] = chi2.sf(statistic, len(share) - 1) >= REJECTED
    return lisi, kbet


def told_variance(values: Values, codes: Codes) -> float:
    """Return the share of an embedding's variance that a grouping tells, adjusted for what any grouping tells.

    R^2 of one-way analyses of variance of the principal components, weighted by their variance (Büttner et al. 2019),
    which is the sum of squares between the groups over that of all, whichever the axes; and 1 - (1 - R^2) (n - 1) /
    (n - groups), around 0 for a grouping that has nothing to do with it. NaN where there is no variance.
    """
    x = np.asarray(values, dtype=np.float64)
    x = x - x.mean(0)
    total = float((x**2).sum())
    _, places = np.unique(codes, return_inverse=True)
    sizes = np.bincount(places)
    if total <= 0 or len(sizes) >= len(x):
        return float("nan")
    member = sp.csr_matrix((np.ones(len(x)), (places, np.arange(len(x)))))
    between = float((np.asarray(member @ x) ** 2 / sizes[:, None]).sum())
    return 1 - (1 - between / total) * (len(x) - 1) / (len(x) - len(sizes))


def compare_scores(
    scores: Scores, others: Scores | None, classes: Codes, units: Codes, draws: int, seed: int = 0
) -> dict[str, float]:
    """Return the mean of scores over classes, of two embeddings, and the 95% interval of their difference.

    Parameters
    ----------
    scores, others
        Of each cell, NaN where there is none; None for no other embedding.
    classes
        Of each cell, from 0: every class weighs alike, however many cells it has.
    units
        What is drawn anew, such as donors, from 0.
    draws
        Times that they are.
    seed
        Of the draws.

    Returns
    -------
    dict
        `embedding`, `baseline`, `difference`, `low`, `high` (of the difference; of `embedding` without a baseline) and
        `cells`; NaN where there is nothing to tell.
    """
    known = np.isfinite(scores) if others is None else np.isfinite(scores) & np.isfinite(others)
    out = dict.fromkeys(("embedding", "baseline", "difference", "low", "high"), float("nan"))
    out["cells"] = int(known.sum())
    if not known.any():
        return out
    _, unit = np.unique(units[known], return_inverse=True)
    _, kind = np.unique(classes[known], return_inverse=True)
    shape = (unit.max() + 1, kind.max() + 1)
    values = [one[known] for one in (scores, others) if one is not None]
    sums = [sp.csr_matrix((one, (unit, kind)), shape=shape) for one in (*values, np.ones(len(unit)))]
    drawn = np.random.default_rng(seed).multinomial(shape[0], np.full(shape[0], 1 / shape[0]), draws)
    times = np.concatenate([np.ones((1, shape[0])), drawn])
    with np.errstate(invalid="ignore", divide="ignore"):
        means = [np.nanmean((times @ one) / (times @ sums[-1]), axis=1) for one in sums[:-1]]
    out["embedding"] = float(means[0][0])
    said = means[0]
    if others is not None:
        said = means[0] - means[1]
        out |= {"baseline": float(means[1][0]), "difference": float(said[0])}
    low, high = np.percentile(said[1:], INSIDE)
    return out | {"low": float(low), "high": float(high)}


def _neighbours(values: Values, batches: Codes | None, k: int) -> Iterator[tuple[Codes, Codes]]:
    """Yield cells, and the nearest to each that are of other batches, or but itself, [cells, at most k]."""
    from sklearn.neighbors import NearestNeighbors  # noqa: PLC0415 - half a second

    everything = np.arange(len(values))
    if batches is None:
        k = min(k, len(values) - 1)
        near = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(values).kneighbors(return_distance=False)
        yield everything, near
        return
    for batch in np.unique(batches):
        mine, others = np.flatnonzero(batches == batch), np.flatnonzero(batches != batch)
        if not len(others):
            yield mine, np.zeros((len(mine), 0), dtype=np.int64)
            continue
        search = NearestNeighbors(n_neighbors=min(k, len(others)), algorithm="brute").fit(values[others])
        yield mine, others[search.kneighbors(values[mine], return_distance=False)]
