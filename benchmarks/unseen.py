"""Studies that the shipped weights never saw: cell types at any depth and context, and what denoising does to the rare.

Every method learns from the cells the model was trained on, or from the asked cells alone, as its row says. Model and
training cells as in tasks.py; the studies are those of unseen_sources.toml. A run that was stopped goes on.
"""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks import task_baselines as simple
from benchmarks import task_cells as drawing
from benchmarks import tasks
from benchmarks.task_denoising import denoising_methods, score_denoising

if TYPE_CHECKING:
    import scipy.sparse as sp

    from loaders import Cells
    from model import TrainedModel

    Numbers = npt.NDArray[np.int64]
    Words = npt.NDArray[np.object_]

SEED, SEEDS, CELLS = 0, 3, 1_000
"""First seed; runs; cells of a study that are drawn for each."""
READS = ("training_sources.toml", "unseen_sources.toml", "model")
DEPTHS, LENGTHS, POPULATION = (1.0, 0.25, 0.0625), (200, 800, 2_200, 8_000), (10, 200)
"""Shares of the molecules that are seen; genes of a context; cells of a rare population."""
LEFT_OUT = {"liao-lavage": ("C144",)}
"""Donors whose cells are in training files, too."""
COLUMNS = ("method", "cells", "accuracy", "balanced", "macro-F1", "nll", "nll mixed", "pearson", "best in", "failures")
PLOTS = (
    {"table": "labels", "by": "method", "value": "macro-F1", "better": "more", "ours": ["the model"]},
    {"table": "denoising", "by": "method", "value": "nll mixed", "better": "less", "ours": ["the model"]},
)
NOTES = (
    f"Two human studies of which the model saw no cell, no donor; each of {SEEDS} seeds draws up to {CELLS:,} cells. "
    "± is half of the 95% t interval over the seeds; the donors are the same, so it says nothing of others.",
    "Labels: all methods learn from the same training cells (kNN and logistic regression from those with any cell "
    "type, of the genes that the study measured). A told class counts as the author's class that it is or lies nearest "
    "below; cells are asked whose author's class is, or lies above, a class of training cells. No method is told the "
    "study's classes.",
    "`at 6% of the molecules` and the like: binomial thinning before any method sees the cells. Contexts of other "
    "lengths than in training are the model's alone.",
    f"Rare populations: author's types of {POPULATION[0]} to {POPULATION[1]} cells among the drawn. All methods see "
    "40% of the molecules of all drawn cells and are scored on the unseen ones of the rare; nats per molecule, columns "
    "as in the tasks benchmark. `best in`: populations in which a method's `nll mixed` is the best of all.",
)


@dataclass(frozen=True, eq=False)
class Study:
    """Drawn cells of a study."""

    name: str
    counts: npt.NDArray[np.float64]
    """[cells, genes] of the genes that were measured and the model knows."""
    genes: Words
    """Their feature ids."""
    columns: Numbers
    """Their numbers among all genes of the organism."""
    types: Words
    """Author's type of each cell: a term."""


def main(*, quick: bool) -> list[dict[str, Any]]:
    """Return a row per study, condition and method."""
    import torch

    from benchmarks.bench_data import scored_cells, scored_model
    from benchmarks.training_cells import unseen_pack
    from loaders import open_cells
    from model import load_model

    model = load_model(scored_model())
    train = open_cells(scored_cells())
    unseen = open_cells(unseen_pack(tasks.FOLDER / "unseen"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    tables: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    try:
        with tempfile.TemporaryDirectory() as name:
            magic = "not run: quick" if quick else _magic(Path(name))
            for seed in range(SEED, SEED + (1 if quick else SEEDS)):
                for study in _studies(model, unseen, seed, 80 if quick else CELLS):
                    _labels(model, train, study, seed, tables)
                    _rare(model, study, seed, (magic, Path(name)), tables)
                    print(f"seed {seed}: {study.name} done", flush=True)
    finally:
        torch.set_num_threads(threads)
    rows = _seen(model, unseen)
    for title, table in tables.items():
        for method, found in table.items():
            rows.append({"table": title, "method": method, **tasks.with_intervals(found)})
    return rows


def _magic(folder: Path) -> str:
    from benchmarks.loader_environments import make_environment

    return make_environment(folder / "magic", sys.executable, simple.MAGIC)


def _seen(model: TrainedModel, unseen: Cells) -> list[dict[str, Any]]:
    """Return a row per study: its cells, and those that the model's ledger knows, of which there must be none."""
    from model import seen_before

    rows = []
    for code, name in enumerate(unseen.about["vocabulary"]["dataset"]):
        numbers = _of_study(unseen, code, name)
        found = seen_before(model.ledger, unseen, numbers)
        rows.append(
            {
                "table": "studies",
                "method": name,
                "cells": len(numbers),
                "seen by the model": len(numbers) - found["not_found"],
            }
        )
    return rows


def _of_study(unseen: Cells, code: int, name: str) -> Numbers:
    """Return the cells of a study with a cell type, less donors that were trained on."""
    donors = np.array(unseen.about["vocabulary"]["donor"], dtype=object)[unseen.column("donor")]
    left = np.array([donor.split("/")[-1] in LEFT_OUT.get(name, ()) for donor in donors])
    return np.flatnonzero((unseen.column("dataset") == code) & (_types(unseen) != "unknown") & ~left)


def _types(cells: Cells) -> Words:
    return np.array(cells.about["vocabulary"]["cell_type"], dtype=object)[cells.column("cell_type")]


def _studies(model: TrainedModel, unseen: Cells, seed: int, most: int) -> list[Study]:
    out = []
    ids = unseen.genes()["feature_id"].to_numpy(dtype=object)
    for code, name in enumerate(unseen.about["vocabulary"]["dataset"]):
        known = drawing.known_genes(model, unseen, 0, code)
        there = _of_study(unseen, code, name)
        drawn = np.sort(np.random.default_rng((seed, code)).permutation(there)[:most])
        counts = drawing.read_counts(unseen, drawn, len(known))[:, known].toarray().astype(np.float64)
        out.append(Study(name, counts, ids[known], np.flatnonzero(known), _types(unseen)[drawn]))
    return out


def _held(study: Study, cells: int) -> drawing.Held:
    """Return the study as benchmarks of held-out cells have it."""
    return drawing.Held(study.name, "homo_sapiens", np.arange(cells), None, study.genes, study.columns)


def _labels(model: TrainedModel, train: Cells, study: Study, seed: int, tables: dict[str, Any]) -> None:
    """Score cell types at every depth and length."""
    from benchmarks.task_labels import leaf_logits
    from model import InferenceOptions

    classes, learnt = _taught_by(train, study, seed)
    space = model.vocabulary.labels["cell_type"]
    higher = _nearest_above(sorted({*classes, *space.classes[: space.n_leaves]}), sorted(set(study.types)))
    asked = np.isin(study.types, [higher[one] for one in set(classes) if one in higher])
    shown = [study.counts if depth == 1 else simple.thinned(study.counts, depth, seed)[0] for depth in DEPTHS]
    shown = [counts[asked] for counts in shown]
    for depth, seen, found in zip(DEPTHS, shown, _simple_labels(learnt, classes, shown, seed), strict=True):
        cells = drawing.cells_of_counts(_held(study, len(seen)), seen, study.genes)
        for length in (None, *LENGTHS) if depth == 1 else (None,):
            told = leaf_logits(model, cells, None, InferenceOptions(device="cpu", length=length))["cell_type"]
            name = "the model" if length is None else f"the model, contexts of {length:,} genes"
            found[name] = np.array(space.classes, dtype=object)[told.argmax(1)]
        title = f"labels: {study.name}" + ("" if depth == 1 else f", at {depth:.0%} of the molecules")
        for method, terms in found.items():
            guess = np.array([higher.get(term, "other") for term in terms], dtype=object)
            for score, value in _scores(study.types[asked], guess).items():
                tables[title][method][score].append(value)


def _taught_by(train: Cells, study: Study, seed: int) -> tuple[Words, sp.csr_matrix]:
    """Return training cells with a cell type: their terms, and counts of the study's genes."""
    types = _types(train)
    drawn, counts = drawing.training_cells(train, "homo_sapiens", seed, types != "unknown")
    return types[drawn], counts[:, study.columns]


def _simple_labels(
    learnt: sp.csr_matrix, classes: Words, shown: list[npt.NDArray[np.float64]], seed: int
) -> list[dict[str, Words]]:
    """Return what methods tell that were taught by training cells, for each of some sets of cells."""
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    places, others = drawing.components(learnt, np.vstack(shown), seed)
    ends = np.cumsum([len(counts) for counts in shown])[:-1]
    methods: dict[str, Any] = {
        "majority": DummyClassifier(strategy="most_frequent"),
        "nearest by PCA": KNeighborsClassifier(drawing.NEAREST),
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)),
    }
    words, codes = np.unique(classes.astype(str), return_inverse=True)
    told = {name: np.split(words[one.fit(places, codes).predict(others)], ends) for name, one in methods.items()}
    return [{name: parts[at].astype(object) for name, parts in told.items()} for at in range(len(shown))]


def _nearest_above(told: list[str], authors: list[str]) -> dict[str, str]:
    """Return, by term, the author's term that it is or that lies above it with the fewest steps."""
    from ontology import load_ontology

    home = load_ontology("CL")
    out = {}
    for term in told:
        above = home.ancestors(term, with_self=True) if term in home else {}
        if found := [one for one in authors if one in above]:
            out[term] = min(found, key=lambda one: (above[one], one))
    return out


def _scores(right: Words, guess: Words) -> dict[str, float]:
    """Return accuracy, and its mean and that of F1 over the classes that are true."""
    kinds = sorted(set(right))
    f1, recall = [], []
    for kind in kinds:
        both = ((right == kind) & (guess == kind)).sum()
        f1.append(2 * both / ((right == kind).sum() + (guess == kind).sum()))
        recall.append(both / (right == kind).sum())
    values = {"accuracy": (right == guess).mean(), "balanced": np.mean(recall), "macro-F1": np.mean(f1)}
    return {"cells": len(right)} | {name: float(value) for name, value in values.items()}


def _rare(model: TrainedModel, study: Study, seed: int, magic: tuple[str, Path], tables: dict[str, Any]) -> None:
    """Score denoising of the rare types."""
    types = study.types.astype(str)
    kinds, numbers = np.unique(types, return_counts=True)
    rare = kinds[(numbers >= POPULATION[0]) & (numbers <= POPULATION[1])]
    rows = np.flatnonzero(np.isin(types, rare))
    thinned, held = simple.thinned(study.counts, tasks.KEPT, seed), _held(study, len(study.counts))
    table, by_kind = tables[f"denoising of rare populations: {study.name}"], {}
    for name, method in denoising_methods(model, tasks.KEPT, seed, magic).items():
        scores, _, failed = score_denoising(method, held, thinned, seed, rows)
        for score, values in scores.items():
            table[name][score].append(float(np.nanmean(values)))
        table[name]["failures"].append(failed)
        table[name]["cells"].append(len(rows))
        by_kind[name] = [float(np.nanmean(scores["nll mixed"][types[rows] == kind])) for kind in rare]
    best = np.argmin(list(by_kind.values()), axis=0)
    for at, name in enumerate(by_kind):
        table[name]["best in"].append(int((best == at).sum()))
