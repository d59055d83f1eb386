"""Whether heads that were chosen on one population serve another: scored on genes that the choice never saw.

A selection may be good for having met a gene before, whose neighbours in attention are much the same in every cell. So
between two populations no gene is shared by what was learnt from and what is scored, neither as regulator nor as
target; what is left to be measured is whether these heads speak of regulation elsewhere, too. Heads are chosen by
head_selection.py; tests and the benchmark ask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .errors import ModelInputError
from .head_selection import select_heads, weighed

if TYPE_CHECKING:
    import numpy.typing as npt

    from .attention_maps import HeadMaps
    from .grn_truths import EdgeTruth
    from .head_selection import HeadSelection, Method

    Floats = npt.NDArray[np.float32]


def transferred_scores(
    chosen_on: HeadMaps,
    truth: EdgeTruth,
    scored_on: HeadMaps,
    *,
    method: Method = "logistic",
    top: int = 3,
    folds: int = 4,
    seed: int = 0,
) -> tuple[Floats, tuple[HeadSelection, ...]]:
    """Return scores of one population's edges by heads that were chosen on another one, and on other genes.

    All genes are dealt out to folds, and a pair is scored by a selection that learnt from neither of its genes, in
    neither part: what is measured is whether a choice of heads holds for another population, not what it remembers.

    Parameters
    ----------
    chosen_on, truth, method, top, seed
        As of `select_heads`: maps of one population, and the truth that chooses heads there.
    scored_on
        Maps of another population by the same model, maybe of other genes.
    folds
        Parts that genes are dealt out to. A selection learns from all but one or two of them.

    Returns
    -------
    tuple
        Shares [regulators, targets] of all pairs of `scored_on` that the pair's selection puts at or below it; one
        selection for each one or two folds. Shares, as weights of several selections are no one scale.

    Raises
    ------
    ModelInputError
        As `select_heads` and `weighed`; when there are fewer than 3 folds.
    """
    genes = sorted({*chosen_on.regulators, *chosen_on.targets, *scored_on.regulators, *scored_on.targets})
    if not 3 <= folds <= len(genes):
        raise ModelInputError("folds", folds, f"3 to {len(genes)}: one for each gene of a pair, and one to learn from")
    places = np.random.default_rng(seed).permutation(len(genes)) % folds
    fold_of = dict(zip(genes, places.tolist(), strict=True))
    rows, columns = (np.array([fold_of[gene] for gene in side]) for side in (scored_on.regulators, scored_on.targets))
    values, chosen = np.full(scored_on.values.shape[2:], np.nan, dtype=np.float32), []
    for one in range(folds):
        for other in range(one, folds):
            held_out = [gene for gene in genes if fold_of[gene] in (one, other)]
            selection = select_heads(chosen_on, truth, method=method, top=top, held_out=held_out, seed=seed)
            found = _shares(weighed(scored_on, selection))
            for at in {(one, other), (other, one)}:
                mine = np.ix_(rows == at[0], columns == at[1])
                values[mine] = found[mine]
            chosen.append(selection)
    return values, tuple(chosen)


def _shares(values: Floats) -> Floats:
    """Return the share of all values that is not above each; NaN stays."""
    from scipy.stats import rankdata  # noqa: PLC0415 - half a second, for those who want it

    out, there = np.full_like(values, np.nan), np.isfinite(values)
    out[there] = rankdata(values[there], method="max") / max(int(there.sum()), 1)
    return out


def fair_scores(maps: HeadMaps, selection: HeadSelection) -> Floats:
    """Return what selected heads say of genes that the selection did not learn from, [regulators, targets].

    NaN in rows and columns of all others, whichever part they had: what is left is fair to score, on any population.

    Raises
    ------
    ModelInputError
        As `weighed`.
    """
    values, learnt = weighed(maps, selection), {*selection.regulators, *selection.targets}
    values[[gene in learnt for gene in maps.regulators]] = np.nan
    values[:, [gene in learnt for gene in maps.targets]] = np.nan
    return values
