"""Figures of an annotation: where the told labels lie, how sure they are, and how right where that is known.

A cell's own label is known where the input has its column, as ids or as names of the model's classes. A term above it
is right too, as everywhere (model/annotation_score.py). Made by task_figures.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import figure_charts as charts
from .figures import UNKNOWN, Plot, file_name, scatter, spaced

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import pandas as pd

    from model import TrainedModel
    from ontology import LabelSpace

    Codes = npt.NDArray[np.int32]
    Words = npt.NDArray[np.object_]

MOST_CLASSES = 20
"""Rows of a confusion matrix, and columns besides `unknown` and all others."""


def draw_told(
    model: TrainedModel, obs: pd.DataFrame, told: Sequence[str], places: npt.NDArray[np.float32], of: str
) -> list[Plot]:
    """Return the figures of an annotation.

    Parameters
    ----------
    model
        That made it.
    obs
        Of the cells that are drawn, as the result has it.
    told
        Labels that were told.
    places
        Of the cells in the plane, [cells, 2].
    of
        How many of how many cells they are.
    """
    spaces = {label: model.vocabulary.labels[label] for label in told}
    note = f"UMAP of the model's embedding, coloured by the term that is told. {of}"
    plots = []
    for label in told:
        words = told_words(obs, label)
        if label == told[0] or len(set(words.tolist())) > 1:
            title = f"Told {spaced(label)}"
            plots.append(scatter(f"umap-told-{file_name(label)}", (title, note), places, words))
    sure = {label: obs[f"panatlas_{label}_probability"].to_numpy(dtype=np.float64) for label in told}
    plots.append(
        charts.histograms(
            "probabilities", ("Probabilities", f"Of the terms that are told. {of}"),
            {spaced(label): some for label, some in sure.items()}, "probability",
        )
    )  # fmt: skip
    truths = {label: true_codes(obs, label, space) for label, space in spaces.items()}
    known = [label for label, truth in truths.items() if _is_question(obs, label, truth)]
    curves = {}
    for label in known:
        said = _encode(spaces[label], obs[f"panatlas_{label}_ontology_term_id"])
        there = (truths[label] >= 0) & (said >= 0)
        if there.any():
            right = spaces[label].positive[truths[label][there], said[there]]
            curves[spaced(label)] = sure[label][there], right
    if curves:
        why = (
            "Of cells whose label is known: how often a term told with some probability is theirs or above theirs. On "
            "the dashed line probabilities are what they say. Intervals take cells as independent, which those of one "
            f"donor are not: they are too narrow. {of}"
        )
        plots.append(charts.reliability("reliability", ("Reliability", why), curves))
    for label in known:
        said = _encode(spaces[label], obs[f"panatlas_{label}_ontology_term_id"])
        plots.append(draw_confusion(label, said, truths[label], spaces[label], _strange(obs, label, truths[label])))
    return plots


def _is_question(obs: pd.DataFrame, label: str, truth: Codes) -> bool:
    """Return whether some cells' own label is known, and there is more than one term to be told or true."""
    known = truth >= 0
    return known.any() and (len(np.unique(truth[known])) > 1 or len(set(told_words(obs, label)[known].tolist())) > 1)


def _strange(obs: pd.DataFrame, label: str, truth: Codes) -> int:
    """Return how many cells have a label that the model has no class for."""
    column = obs[f"{label}_ontology_term_id" if f"{label}_ontology_term_id" in obs else label].astype(object)
    return int((column.notna() & ~column.isin((UNKNOWN, "na", "")) & (truth < 0)).sum())


def told_words(obs: pd.DataFrame, label: str) -> Words:
    """Return the names of the terms that are told."""
    return obs[f"panatlas_{label}"].astype(str).to_numpy(dtype=object)


def true_codes(obs: pd.DataFrame, label: str, space: LabelSpace) -> Codes:
    """Return each cell's own class, -1 where the input has none or the model does not know it."""
    if (column := f"{label}_ontology_term_id") in obs:
        return _encode(space, obs[column])
    if label not in obs:
        return np.full(len(obs), -1, np.int32)
    of_name = dict(zip(space.labels[::-1], space.classes[::-1], strict=True))
    known = {**{one: one for one in space.classes}, **of_name}
    return _encode(space, obs[label].astype(object).map(lambda one: known.get(str(one))))


def draw_confusion(label: str, said: Codes, truth: Codes, space: LabelSpace, strange: int = 0) -> Plot:
    """Return the confusion matrix of a label: its most common classes, and the terms that are told of them.

    `strange` cells have a class that the model does not know.
    """
    all_known = int((truth >= 0).sum())
    rows = _commonest(truth[truth >= 0])[:MOST_CLASSES]
    shown = np.isin(truth, rows)
    said, truth = said[shown], truth[shown]
    terms = _commonest(said[said >= 0])[:MOST_CLASSES]
    columns = np.concatenate([rows[np.isin(rows, terms)], terms[~np.isin(terms, rows)]])
    n = len(columns)
    place = np.full(len(space) + 1, n)  # the last is that of -1
    place[columns], place[-1] = np.arange(n), n + 1
    line = np.zeros(len(space), np.int64)
    line[rows] = np.arange(len(rows))
    table = np.zeros((len(rows), n + 2), np.int64)
    np.add.at(table, (line[truth], place[said]), 1)
    right = np.zeros(table.shape, np.int8)
    right[:, :n] = space.positive[np.ix_(rows, columns)].astype(np.int8) + (rows[:, None] == columns[None])
    kept = np.array([True] * n + [table[:, n].any(), True])
    names = [*(space.labels[one] for one in columns), "other terms", UNKNOWN]
    rarer = f" {all_known - len(truth):,} cells of rarer classes are not shown." if all_known > len(truth) else ""
    note = f"{len(truth):,} cells whose label is known. Framed: their class; dashed: a term above it, right too.{rarer}"
    note += f" {strange:,} cells of classes that the model does not know are left out." if strange else ""
    words = [space.labels[one] for one in rows], [one for one, keep in zip(names, kept, strict=True) if keep]
    title = f"Confusion of {spaced(label)}"
    return charts.confusion(f"confusion-{file_name(label)}", (title, note), table[:, kept], words, right[:, kept])


def _commonest(codes: Codes) -> Codes:
    found, cells = np.unique(codes, return_counts=True)
    return found[np.lexsort((found, -cells))]


def _encode(space: LabelSpace, column: pd.Series) -> Codes:
    """Return codes of a column of ids; few ids, many cells."""
    words = column.astype(object)
    unique = words.unique().tolist()
    codes = space.encode([one if isinstance(one, str) else None for one in unique], strict=False)
    return words.map(dict(zip(unique, codes.tolist(), strict=True))).fillna(-1).to_numpy(dtype=np.int32)
