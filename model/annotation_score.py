"""How right an annotation is where labels are known: exact, along the ontology, and as far as anything was said.

`score_annotation` puts these side by side, as each alone can be had for nothing: whoever says only what is sure is
never wrong, and whoever says the root is always right. It also measures the risk that calibration.py promises, on cells
that had no part in it; donors are drawn anew for its interval, as cells of one donor are alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .annotation import UNKNOWN
from .donor_counts import donor_interval
from .errors import ModelInputError

if TYPE_CHECKING:
    import numpy.typing as npt

    from loaders import Cells
    from ontology import LabelSpace

    from .annotation import Annotation

    Codes = npt.NDArray[np.int32]


@dataclass(frozen=True)
class LabelScore:
    """How right one label is, over the cells that have a class."""

    cells: int
    """Cells with a class."""
    donors: int
    """Their donors."""
    told: float
    """Share of the cells that are told a term."""
    exact: float
    """Share of the cells that are told their class."""
    above: float
    """Share of the cells that are told a term above their class: right, but less."""
    hierarchical_f1: float
    """Harmonic mean of hierarchical precision and recall (Kiritchenko et al. 2005): of all terms said, with those above
    them, the share that is true, and of all that are true the share that is said."""
    wrong: float
    """Share of a donor's cells that are told a term neither theirs nor above theirs, mean over donors; a term below a
    coarse class cannot be checked and is wrong."""
    wrong_interval: tuple[float, float]
    """Where 95% of that mean lie when donors are drawn anew; as wide as it gets, (0, 1), with a single donor."""


def score_annotation(annotation: Annotation, cells: Cells, seed: int = 0) -> dict[str, LabelScore]:
    """Return how right an annotation is, by label; labels without a cell that has a class are left out.

    Parameters
    ----------
    annotation
        Of some of the cells.
    cells
        With the labels that are held to be true; one the model has no class for counts as none.
    seed
        Of the donors that are drawn anew.

    Raises
    ------
    ModelInputError
        When no cell has a class of any label.
    """
    out, donors = {}, cells.codes("donor", annotation.numbers)
    for label, one in annotation.labels.items():
        if label not in cells.columns:
            continue
        words = one.space.encode(cells.about["vocabulary"][label], strict=False)
        truth = np.append(words, UNKNOWN)[cells.codes(label, annotation.numbers)]
        known = truth >= 0
        if known.any():
            out[label] = score_terms(one.space, one.said[known], truth[known], donors[known], seed)
    if not out:
        raise ModelInputError(
            "cells", "no class of the model's labels", f"cells labelled with {', '.join(annotation.labels)}"
        )
    return out


def score_terms(space: LabelSpace, said: Codes, truth: Codes, donors: npt.NDArray, seed: int = 0) -> LabelScore:
    """Return how right terms are.

    Parameters
    ----------
    space
        The classes.
    said
        Code of the term that is said, -1 for unknown, [cells].
    truth
        Class of each cell, [cells], at least one.
    donors
        Of the cells, [cells].
    seed
        Of the donors that are drawn anew.
    """
    lines = np.concatenate([space.positive, np.zeros((1, len(space)), bool)])  # the last is that of -1
    told = said >= 0
    fit = told & lines[truth, np.maximum(said, 0)]
    exact = said == truth
    common = (lines[said] & lines[truth]).sum()
    f1 = 2 * common / (lines[said].sum() + lines[truth].sum())
    _, places = np.unique(donors, return_inverse=True)
    wrong = np.bincount(places, told & ~fit) / np.bincount(places)
    return LabelScore(
        len(truth), len(wrong), float(told.mean()), float(exact.mean()), float((fit & ~exact).mean()), float(f1),
        float(wrong.mean()), donor_interval(wrong, seed),
    )  # fmt: skip
