"""Which figures a task's result gets, and their numbers: from the file that was written, the model, and the cells.

What is drawn follows from what a file holds: an embedding gives UMAPs coloured by what is known of the cells; labels
that were told give those of told_figures.py, a layer those of count_figures.py. At most `MOST_CELLS` cells are drawn,
the same ones every time, and the notes say of how many. figures.py and figure_charts.py draw; task_report.py keeps
what comes.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem
from threadpoolctl import threadpool_limits

from ontology import LABELS, SEPARATOR, OntologyError, load_ontology

from .count_figures import draw_denoised, draw_imputed, draw_markers, read_rows
from .figures import UNKNOWN, Plot, file_name, scatter, spaced
from .told_figures import draw_told, told_words

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from model import TrainedModel

    from .task_inputs import TaskInput

    Numbers = npt.NDArray[np.int64]
    Words = npt.NDArray[np.object_]

MOST_CELLS = 20_000
"""Cells of a UMAP: half a minute on one core, and more would lie over each other."""
MOST_COLOURINGS = 4
"""UMAPs of one embedding by what the input says of its cells."""
MOST_WORDS = 60
"""Different values of a column that colours are given for; more are names, not groups."""
BATCHES = ("donor_id", "sample_id", "sample", "batch", "dataset_id", "condition", "assay")
"""Columns that are shown before others that are no label."""
FEWEST = 20
"""Cells that neighbours are sought for."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """The cells that figures are of."""

    rows: Numbers
    """Their rows in the file, rising."""
    numbers: Numbers
    """What the input calls them."""
    obs: pd.DataFrame
    """What the file says of them."""
    note: str
    """How many of how many they are."""


def drawn_rows(n: int) -> Numbers:
    """Return which of so many cells are drawn, rising: the same ones every time."""
    return np.sort(np.random.default_rng(0).permutation(n)[:MOST_CELLS])


def draw_figures(
    file: Path, model: TrainedModel, asked: TaskInput, embedding: npt.NDArray[np.float32] | None = None
) -> list[Plot]:
    """Return the figures of a result.

    Parameters
    ----------
    file
        That a task wrote.
    model
        By which.
    asked
        The cells it is of.
    embedding
        Where the model puts the cells of `drawn_rows`, for a file that has labels of it but does not hold it.
    """
    plots: list[Plot] = []
    with h5py.File(file) as result:
        obs = read_elem(result["obs"])
        told = [label for label in model.vocabulary.labels if f"panatlas_{label}_ontology_term_id" in obs]
        inside = "X_panatlas" in result["obsm"]
        if inside or told:
            drawn = _draw_cells(obs, asked.numbers)
            places = umap_places(read_rows(result["obsm/X_panatlas"], drawn.rows) if inside else embedding)
            if told:
                plots += draw_told(model, drawn.obs, told, places, drawn.note)
                groups = told_words(drawn.obs, told[0])
                plots += draw_markers(asked, drawn.numbers, groups, f"told {told[0]}")
            else:
                plots += _embeddings(model, drawn, places)
                plots += [
                    plot
                    for label, groups in own_groups(drawn.obs, model).items()
                    if label == "cell_type"
                    for plot in draw_markers(asked, drawn.numbers, groups, label)
                ]
        if "panatlas_denoised" in result["layers"]:
            plots += draw_denoised(result, asked)
        if "panatlas_imputed" in result["layers"]:
            plots += draw_imputed(result, own_groups(obs, model))
    return plots


def umap_places(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return places of cells in the plane by UMAP, [cells, 2]: the same ones for the same values.

    Parameters
    ----------
    values
        Embedding, [cells, dimensions].

    Notes
    -----
    UMAP (McInnes, Healy and Melville 2018, arXiv:1802.03426) of 15 neighbours, begun at the first two principal
    components, which keeps more of the large structure than random places do (Kobak and Linderman 2021,
    doi:10.1038/s41587-020-00809-z). One thread and one seed. Fewer than `FEWEST` cells stay where they begin.
    """
    with threadpool_limits(1):
        centred = values - values.mean(0, dtype=np.float64)
        vectors = np.linalg.eigh(centred.T @ centred)[1][:, :-3:-1]
        vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), range(vectors.shape[1])])
        start = np.zeros((len(values), 2))
        start[:, : vectors.shape[1]] = centred @ vectors
    start /= start.std() or 1.0
    start += 1e-4 * np.random.default_rng(0).standard_normal(start.shape)  # copies of a cell come apart
    if len(values) < FEWEST:
        return start.astype(np.float32)
    import numba  # noqa: PLC0415 - some seconds, as the next

    threads = numba.get_num_threads()
    try:
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the library's own doings, its import among them
            from umap import UMAP  # noqa: PLC0415

            found = UMAP(n_neighbors=15, min_dist=0.3, init=start, random_state=0, n_jobs=1)
            return found.fit_transform(np.ascontiguousarray(values, dtype=np.float32))
    finally:
        numba.set_num_threads(threads)  # UMAP leaves it at one


def own_groups(obs: pd.DataFrame, model: TrainedModel) -> dict[str, Words]:
    """Return what the input says of its cells that groups them, as words by column: labels, then batches.

    Parameters
    ----------
    obs
        Of the result.
    model
        Whose classes name the ids of a release.
    """
    found: dict[str, Words] = {}
    for label in LABELS:
        if label in obs:
            found[label] = _words(obs[label])
        elif (column := f"{label}_ontology_term_id") in obs and label in model.vocabulary.labels:
            space = model.vocabulary.labels[label]
            words, names = _words(obs[column]), dict(zip(space.classes, space.labels, strict=True))
            names |= {one: term_name(one) for one in set(words.tolist()) - set(names)}
            found[label] = np.array([names[one] for one in words], dtype=object)
    others = [name for name in obs if not name.startswith("panatlas_") and not name.endswith("_ontology_term_id")]
    for name in sorted(others, key=lambda one: BATCHES.index(one) if one in BATCHES else len(BATCHES)):
        if name not in found and isinstance(obs[name].dtype, pd.CategoricalDtype):
            found[name] = _words(obs[name])
    most = min(MOST_WORDS, len(obs) // 2)
    return {name: words for name, words in found.items() if 2 <= len(set(words.tolist())) <= most}


def term_name(term: str) -> str:
    """Return the name of a term, or of several side by side; itself where no ontology at hand has it."""
    try:
        names = [load_ontology(re.split("[:_]", one, maxsplit=1)[0]).label(one) for one in term.split(SEPARATOR)]
        return SEPARATOR.join(names)
    except OntologyError:
        return term


def _words(column: pd.Series) -> Words:
    return column.astype(object).where(column.notna(), UNKNOWN).astype(str).to_numpy(dtype=object)


def _draw_cells(obs: pd.DataFrame, numbers: Numbers) -> Drawn:
    n = len(obs)
    rows = drawn_rows(n)
    note = f"All {n:,} cells." if len(rows) == n else f"{len(rows):,} cells, drawn at random from {n:,}."
    return Drawn(rows, numbers[rows], obs.iloc[rows], note)


def _embeddings(model: TrainedModel, drawn: Drawn, places: npt.NDArray[np.float32]) -> list[Plot]:
    """Return the embedding coloured by what is known of the cells, or by nothing."""
    groups = list(own_groups(drawn.obs, model).items())[:MOST_COLOURINGS]
    if not groups:
        words = np.full(len(drawn.rows), "cells", dtype=object)
        return [scatter("umap", ("Embedding", f"UMAP of X_panatlas. {drawn.note}"), places, words)]
    note = f"UMAP of X_panatlas, coloured by what the input says. {drawn.note}"
    plots = []
    for at, (one, words) in enumerate(groups, start=1):  # numbered, as columns may differ in what a file's name lacks
        name = f"umap-{at}-{file_name(one)}"
        plots.append(scatter(name, (f"Embedding by {spaced(one)}", note), places, words, on_data=one in LABELS))
    return plots
