"""Gene networks from trees: each target is predicted from all regulators, which count as much as they helped.

GENIE3's extremely randomised trees and GRNBoost2's boosted ones, with the settings their authors use, on scikit-learn:
the package that ships them does not run on today's Dask. Targets are independent of each other, so a few of them say
what all would cost. Called by grn_scores.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from .grn_query import GrnQuery

    Floats = npt.NDArray[np.float32]

EXTRA_TREES = {"n_estimators": 1_000, "max_features": "sqrt"}
"""Huynh-Thu et al. 2010, doi:10.1371/journal.pone.0012776: GENIE3, extremely randomised variant."""
BOOSTED = {"n_estimators": 5_000, "learning_rate": 0.01, "max_features": 0.1, "subsample": 0.9}
"""Moerman et al. 2019, doi:10.1093/bioinformatics/bty916: GRNBoost2; trees of depth 3, scikit-learn's default."""
WINDOW = 25
"""Trees over whose out-of-bag improvement boosting asks whether to stop."""


def extra_trees(query: GrnQuery) -> tuple[Floats, None]:
    """Return the variance of each standardised target that trees take from a regulator, GENIE3's importance.

    1,000 trees that try the square root of the regulators at each split; `options.trees` for another number.
    """
    from sklearn.ensemble import ExtraTreesRegressor  # noqa: PLC0415

    trees = query.options.trees or EXTRA_TREES["n_estimators"]

    def importance(known: Floats, wanted: Floats, seed: int) -> npt.NDArray:
        forest = ExtraTreesRegressor(**{**EXTRA_TREES, "n_estimators": trees}, random_state=seed, n_jobs=1)
        forest.fit(known, wanted / wanted.std())
        return np.mean([one.tree_.compute_feature_importances(normalize=False) for one in forest.estimators_], axis=0)

    return _each_target(query, importance), None


def grnboost2(query: GrnQuery) -> tuple[Floats, None]:
    """Return the importance of each regulator in boosted trees, times the number of trees, as GRNBoost2 does.

    At most 5,000 trees of depth 3, learning rate 0.01, a tenth of the regulators at each split, 90 % of the cells for
    each tree; boosting stops when the last 25 trees did not improve the cells left out, on average. Targets that are
    worth more trees so get higher scores. `options.trees` for another limit.
    """
    from sklearn.ensemble import GradientBoostingRegressor  # noqa: PLC0415

    trees = query.options.trees or BOOSTED["n_estimators"]

    def importance(known: Floats, wanted: Floats, seed: int) -> npt.NDArray:
        boosted = GradientBoostingRegressor(**{**BOOSTED, "n_estimators": trees}, random_state=seed)
        boosted.fit(known, wanted, monitor=_no_longer_better)
        return boosted.feature_importances_ * len(boosted.estimators_)

    return _each_target(query, importance), None


def _no_longer_better(tree: int, boosted: object, _: object) -> bool:
    """Return whether boosting stops after a tree, counted from 0."""
    improved = boosted.oob_improvement_  # type: ignore[attr-defined]
    return tree >= WINDOW - 1 and float(np.mean(improved[max(tree - WINDOW + 1, 0) : tree + 1])) < 0


def _each_target(query: GrnQuery, importance: Callable[[Floats, Floats, int], npt.NDArray]) -> Floats:
    """Return importances [regulators, targets]; NaN for a target that does not vary, or has no other gene to go by."""
    values = query.expression()
    known = np.ascontiguousarray(values[:, query.rows])
    out = np.full((len(query.regulators), len(query.targets)), np.nan, dtype=np.float32)
    for column, (gene, place) in enumerate(zip(query.targets, query.columns, strict=True)):
        others = query.rows != place
        wanted = values[:, place].astype(np.float64)
        if others.any() and np.ptp(wanted) > 0:
            # A draw of its own, so that which other targets are asked for changes nothing.
            seed = crc32(f"{query.options.seed} {gene}".encode())
            out[others, column] = importance(known[:, others], wanted, seed)
    return out
