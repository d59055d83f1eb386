"""Conditions compared with donors as the replicates: `sum_samples`, then `compare_expression` or `compare_shares`.

Cells of a donor are alike. A test that takes them as independent samples finds thousands of genes between any two
groups of donors, diseased or not (Squair et al. 2021, doi:10.1038/s41467-021-25960-2). So counts are summed over the
cells of a donor and a population, and there are as many samples as donors. Needs no model: whoever names populations,
`annotate` or a person, compares them here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy import special, stats

from .errors import ModelInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from loaders import Cells

    Numbers = npt.NDArray[np.int64]
    Matrix = npt.NDArray[np.float64]

AT_ONCE = 4_096
"""Cells whose counts are in memory."""
LEAST = 10.0
"""Counts a gene has in a sample of median depth, in as many samples as the smaller condition has, to be tested."""
PRIOR = 0.5
"""Counts added before logarithms, and cells before log odds."""


@dataclass(frozen=True, eq=False)
class SampleCounts:
    """Counts summed over the cells of each sample."""

    samples: tuple[str, ...]
    """Names, sorted."""
    genes: tuple[str, ...]
    """Feature ids."""
    counts: Matrix
    """[samples, genes]."""
    cells: Numbers
    """Cells of each sample."""


def sum_samples(cells: Cells, numbers: Numbers, samples: Sequence[str]) -> SampleCounts:
    """Return the counts of cells of one organism, summed by sample.

    Parameters
    ----------
    cells
        A pack, a store or an AnnData.
    numbers
        Which cells, int64 [n].
    samples
        The sample of each, usually its donor.

    Raises
    ------
    ModelInputError
        When there are no cells, cells of several organisms, or not a sample for each.
    """
    numbers = np.asarray(numbers, dtype=np.int64)
    if not len(numbers) or len(samples) != len(numbers):
        raise ModelInputError(
            "samples", f"{len(samples)} for {len(numbers)} cells", "one for each cell, of at least one"
        )
    organisms = np.unique(cells.codes("organism", numbers))
    if len(organisms) > 1:
        raise ModelInputError("numbers", f"cells of {len(organisms)} organisms", "cells of one organism")
    table = cells.genes()
    ids = table.loc[table["organism"] == int(organisms[0]), "feature_id"].astype(str)
    names, which = np.unique(np.asarray(samples, dtype=object).astype(str), return_inverse=True)
    total = np.zeros((len(names), len(ids)))
    for start in range(0, len(numbers), AT_ONCE):
        rows = cells.read(numbers[start : start + AT_ONCE]).decode()
        some = which[start : start + AT_ONCE]
        counts = sp.csr_matrix((rows.counts.astype(np.float64), rows.indices, rows.indptr), (len(some), len(ids)))
        members = sp.csr_matrix((np.ones(len(some)), (some, np.arange(len(some)))), (len(names), len(some)))
        total += (members @ counts).toarray()
    return SampleCounts(tuple(names.tolist()), tuple(ids), total, np.bincount(which, minlength=len(names)))


def compare_expression(
    sums: SampleCounts, conditions: Sequence[str], against: str, blocks: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return the change of every gene between two conditions, tested over samples; the surest first.

    Parameters
    ----------
    sums
        A sample per donor, or per donor and condition.
    conditions
        Of each sample; two different ones.
    against
        The condition that changes are told from.
    blocks
        What samples of both conditions share, such as the donor; None where every sample is a donor of its own.

    Returns
    -------
    pandas.DataFrame
        By gene: `log2_change`, `low` and `high` (its 95% interval), `t`, `p`, `q` (Benjamini and Hochberg 1995) and
        `mean` (log2 counts per million). Genes with too few counts to be tested are left out.

    Raises
    ------
    ModelInputError
        When there are not two conditions, no sample is left to tell chance from, or counts are too few.

    Notes
    -----
    Linear models of log2 counts per million with moderated variances (limma: Smyth 2004, doi:10.2202/1544-6115.1027;
    on log counts: Law et al. 2014, doi:10.1186/gb-2014-15-2-r29): each gene's variance is drawn towards that of all,
    as few donors say little of one gene's.
    """
    design = _design(sums.samples, conditions, against, blocks)
    free = len(design) - np.linalg.matrix_rank(design)
    if np.linalg.matrix_rank(design) < design.shape[1] or free < 1:
        allowed = "at least two donors of one condition and one of the other, or two blocks with both"
        raise ModelInputError("conditions", f"{len(design)} samples", allowed)
    depth = sums.counts.sum(1, keepdims=True)
    if not depth.all():
        raise ModelInputError("sums", sums.samples[int(depth.argmin())], "samples with counts")
    smaller = int(min(design[:, 1].sum(), (1 - design[:, 1]).sum()))
    tested = ((sums.counts / depth * np.median(depth)) >= LEAST).sum(0) >= max(smaller, 1)
    if not tested.any():
        raise ModelInputError("sums", "no gene has enough counts", f"{LEAST:g} counts in a sample of median depth")
    values = np.log2((sums.counts[:, tested] + PRIOR) / (depth + 2 * PRIOR) * 1e6)
    inverse = np.linalg.inv(design.T @ design)
    fitted = inverse @ design.T @ values
    variances = np.square(values - design @ fitted).sum(0) / free
    prior_free, prior = moderate(variances, free)
    together = min(prior_free + free, free * tested.sum())  # all genes know no more than there is
    weight = 1.0 if np.isinf(prior_free) else prior_free / (prior_free + free)
    pooled = weight * prior + (1 - weight) * variances
    error = np.sqrt(np.maximum(pooled, 1e-12) * inverse[1, 1])
    half = stats.t.ppf(0.975, together) * error
    change, t = fitted[1], fitted[1] / error
    p = 2 * stats.t.sf(np.abs(t), together)
    q = stats.false_discovery_control(p)
    found = {"log2_change": change, "low": change - half, "high": change + half, "t": t, "p": p, "q": q}
    index = pd.Index(np.array(sums.genes, dtype=object)[tested], name="gene")
    table = pd.DataFrame({**found, "mean": values.mean(0)}, index=index)
    return table.iloc[np.lexsort((index.to_numpy(dtype=str), p))]


def compare_shares(
    populations: Sequence[str], donors: Sequence[str], conditions: Sequence[str], against: str, *, paired: bool = False
) -> pd.DataFrame:
    """Return how the share of each population among a donor's cells changes between two conditions, with intervals.

    Parameters
    ----------
    populations, donors, conditions
        Of each cell.
    against
        The condition that changes are told from.
    paired
        Donors have cells of both conditions, and are compared with themselves.

    Returns
    -------
    pandas.DataFrame
        By population: mean share of a donor's cells in both conditions, `log2_odds` (the change of the log2 odds, each
        donor counting the same), `low` and `high` (its 95% interval), and `p`. NaN where one donor says nothing of
        chance.

    Raises
    ------
    ModelInputError
        When there are not two conditions, not all three for each cell, or no donor to be paired.

    Notes
    -----
    Student's t over donors: of differences where they are paired, else Welch's (1947, doi:10.1093/biomet/34.1-2.28).
    Shares add up to 1: where one population grows others must shrink.
    """
    words = [np.asarray(one, dtype=object).astype(str) for one in (populations, donors, conditions)]
    if len({len(one) for one in words}) > 1:
        allowed = "a population, a donor and a condition for each cell"
        raise ModelInputError("populations", ", ".join(str(len(one)) for one in words), allowed)
    frame = pd.DataFrame(dict(zip(("population", "donor", "condition"), words, strict=True)))
    other = _other(words[2].tolist(), against)
    if paired and not set(words[1][words[2] == other]) & set(words[1][words[2] == against]):
        raise ModelInputError("paired", paired, "donors with cells of both conditions")
    cells = frame.groupby(["condition", "donor", "population"]).size().unstack(fill_value=0)
    total = cells.sum(axis=1)
    shares, odds = cells.div(total, axis=0), np.log2((cells + PRIOR) / (-cells).add(total + PRIOR, axis=0))
    rows = {}
    for population in cells:
        a, b = odds.loc[other, population], odds.loc[against, population]
        a, b = (a - b, None) if paired else (a, b)
        mean = {f"share {one}": shares.loc[one, population].mean() for one in (against, other)}
        rows[population] = {**mean, **_interval(a.dropna().to_numpy(), None if b is None else b.to_numpy())}
    return pd.DataFrame(rows).T.rename_axis("population").sort_values("p", kind="stable")


def moderate(variances: Matrix, free: float) -> tuple[float, float]:
    """Return what variances of many genes say of any gene's: degrees of freedom and value of a prior.

    Parameters
    ----------
    variances
        Of the residuals, [genes].
    free
        Degrees of freedom of each.

    Notes
    -----
    Smyth (2004), section 6.2: the moments of log variances. Infinite degrees where they differ no more than chance has
    it.
    """
    found = np.log(np.maximum(variances, max(1e-5 * float(np.median(variances)), 1e-300)))
    found = found - special.digamma(free / 2) + np.log(free / 2)
    beyond = float(found.var(ddof=1) - special.polygamma(1, free / 2)) if len(found) > 1 else 0.0
    if beyond <= 0:
        return np.inf, float(np.exp(found.mean()))
    prior = 2 * _inverse_trigamma(beyond)
    return prior, float(np.exp(found.mean() + special.digamma(prior / 2) - np.log(prior / 2)))


def _inverse_trigamma(value: float) -> float:
    """Return the y whose trigamma is a value, by Newton's method, which is monotone from here (Smyth 2004)."""
    y = 0.5 + 1 / value
    for _ in range(50):
        found = float(special.polygamma(1, y))
        step = found * (1 - found / value) / float(special.polygamma(2, y))
        y += step
        if abs(step) < 1e-10 * y:
            break
    return y


def _interval(a: Matrix, b: Matrix | None) -> dict[str, float]:
    """Return the mean of some values, or its difference to others, with its 95% interval and p; NaN for one value."""
    if b is None:
        change, variance, free = a.mean(), a.var(ddof=1) / len(a) if len(a) > 1 else np.nan, len(a) - 1
    elif min(len(a), len(b)) < 2:
        change, variance, free = a.mean() - b.mean(), np.nan, 1
    else:
        parts = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
        change, variance = a.mean() - b.mean(), sum(parts)
        below = parts[0] ** 2 / (len(a) - 1) + parts[1] ** 2 / (len(b) - 1)
        free = variance**2 / below if below else 1
    error = np.sqrt(variance)
    half = stats.t.ppf(0.975, free) * error
    p = 2 * stats.t.sf(abs(change) / error, free) if error > 0 else np.nan
    return {"log2_odds": change, "low": change - half, "high": change + half, "p": p}


def _other(conditions: Sequence[str], against: str) -> str:
    found = sorted(set(map(str, conditions)))
    if len(found) != 2 or against not in found:
        raise ModelInputError("conditions", ", ".join(found), f"two, one of which is {against!r}")
    return next(one for one in found if one != against)


def _design(samples: Sequence[str], conditions: Sequence[str], against: str, blocks: Sequence[str] | None) -> Matrix:
    """Return intercept, condition, and blocks but the first, [samples, columns]."""
    for field, given in (("conditions", conditions), ("blocks", blocks)):
        if given is not None and len(given) != len(samples):
            raise ModelInputError(field, len(given), f"one for each of the {len(samples)} samples")
    _other(conditions, against)
    columns = [np.ones(len(samples)), np.array([str(one) != against for one in conditions], dtype=np.float64)]
    if blocks is not None:
        columns += [np.array([str(one) == name for one in blocks], float) for name in sorted(set(map(str, blocks)))[1:]]
    return np.stack(columns, axis=1)
