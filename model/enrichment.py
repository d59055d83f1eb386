"""Gene sets in a ranking of genes: `enrich` says which pathways a change is in, by two tests beside each other.

The one asks whether a set's genes rank apart from the others, with no threshold; the other whether a set has more of
the genes that change most than it would by chance. Sets come from a user's file (`panatlas counterfactual
--gene-sets`); ranks are those of a counterfactual or an observed change (counterfactual_report.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .errors import ModelInputError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import numpy.typing as npt

TOP, LEAST = 100, 5
"""Genes that change most; genes a set must have among those that are ranked."""


def enrich(
    genes: Sequence[str],
    values: npt.NDArray[np.float64],
    sets: Mapping[str, Collection[str]],
    *,
    top: int = TOP,
    least: int = LEAST,
) -> pd.DataFrame:
    """Return how far each set's genes rank apart from the other genes that are ranked.

    Parameters
    ----------
    genes
        Ids of the genes that are ranked, each once: the universe; a set's other genes do not count.
    values
        By which they are ranked, [genes], such as log changes.
    sets
        Genes by name of the set.
    top
        Genes of the largest absolute values, of which overlap is told.
    least
        Ranked genes a set must have, and must not have; other sets are left out.

    Returns
    -------
    pandas.DataFrame
        A row per set, smallest p first: `set`, `genes` (ranked ones), `auc` (chance that a gene of the set has a larger
        value than another: above 0.5 up, below down), `p_rank` (two-sided Mann-Whitney; its genes are taken to be
        independent, which those of a pathway are not: order sets by it, do not believe it), `overlap` with the top,
        `expected` overlap, `p_overlap` (hypergeometric, one-sided), and `q_` of both (Benjamini and Hochberg 1995).

    Raises
    ------
    ModelInputError
        When genes repeat, do not fit the values, a value is not finite, or `top` or `least` are below 1.
    """
    from scipy.stats import false_discovery_control, hypergeom, mannwhitneyu  # noqa: PLC0415 - a second

    names, values = pd.Index(list(genes), dtype=object), np.asarray(values, dtype=np.float64)
    if not names.is_unique or values.shape != (len(names),) or not np.isfinite(values).all():
        raise ModelInputError("values", f"{values.shape} of {len(names)} genes", "a finite number for each gene, once")
    for field, number in (("top", top), ("least", least)):
        if number < 1:
            raise ModelInputError(field, number, "1 or more")
    n, top = len(names), min(top, len(names))
    changed = np.zeros(n, dtype=bool)
    changed[np.argsort(-np.abs(values), kind="stable")[:top]] = True
    rows = []
    for name, members in sets.items():
        mine = names.isin(list(members))
        size = int(mine.sum())
        if size < least or n - size < least:
            continue
        test = mannwhitneyu(values[mine], values[~mine], method="asymptotic")
        overlap = int((mine & changed).sum())
        rows.append(
            {
                "set": name,
                "genes": size,
                "auc": float(test.statistic / (size * (n - size))),
                "p_rank": float(np.nan_to_num(test.pvalue, nan=1.0)),
                "overlap": overlap,
                "expected": size * top / n,
                "p_overlap": float(hypergeom.sf(overlap - 1, n, size, top)),
            }
        )
    columns = ["set", "genes", "auc", "p_rank", "q_rank", "overlap", "expected", "p_overlap", "q_overlap"]
    found = pd.DataFrame(rows, columns=[one for one in columns if not one.startswith("q_")])
    for test_name in ("rank", "overlap") if len(found) else ():
        found[f"q_{test_name}"] = false_discovery_control(np.minimum(found[f"p_{test_name}"].to_numpy(np.float64), 1))
    found = found.reindex(columns=columns)
    return found.sort_values(["p_rank", "set"], ignore_index=True)
