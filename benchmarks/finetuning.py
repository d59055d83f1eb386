"""What fine-tuning and label transfer are worth: types of unseen donors and of another organism, beside simple methods.

The base is the shipped model, or another in PANATLAS_BENCH_MODEL. Its ledger says
how many of the cells it had seen; every method of a table gets the same cells.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from loaders import Cells
    from model import InferenceOptions, TrainedModel

    Numbers = npt.NDArray[np.int64]
    Texts = npt.NDArray[np.object_]

SEED = 0
READS = (
    "data/human_bal_covid_liao_C144C149_labelled.h5ad",
    "data/human_pancreas_baron_cxg7.h5ad",
    "data/mouse_pancreas_baron_ens_cxg7.h5ad",
    "model",
)
FOLDER = Path(__file__).resolve().parent / "data"
STEPS, BATCH, LENGTH, SCORED, NEAREST = 150, 32, 400, 400, 15
"""Steps and cells per step of a tuning; genes of a context; cells scored at most; neighbours that vote."""
KIND = "cell_type"
COLUMNS = ("table", "method", "cells", "accuracy", "balanced", "weights", "seen by base", "seconds")
PLOTS = (
    {
        "table": "",
        "by": "method",
        "value": "balanced",
        "better": "more",
        "ours": ["base", "cell parts", "all tuned", "nearest in the base", "nearest by cell_type"],
    },
)
NOTES = (
    "Fine-tuning: COVID-19 lavage cells of two donors (Liao et al. 2020), labels the base never had; it had 42 "
    "cells of C144 at most, unlabelled, and none of C149. Learnt on one donor, scored on the other: "
    f"{STEPS} steps of {BATCH} cells, the last weights (one donor leaves none to stop by). `seen by base`: scored "
    f"cells that its ledger has, drawn or not. All models are shown {LENGTH} genes of a cell.",
    "Simple methods learn from the same donor: 50 principal components of 2,000 variable genes; `nearest in the base` "
    f"votes among the {NEAREST} nearest training cells in the untuned embedding.",
    "Transfer: pancreas of human donor human2 (unseen by the base) to mouse1 and human4 (its validation donors). The "
    "base was trained on labelled cells of both organisms, which flatters it; orthologs had no such help. Only cells "
    "whose type human2 has are scored.",
    "`balanced`: mean over types of the share told right. One run per row: differences of a few percent mean nothing.",
)


def main(*, quick: bool) -> list[dict[str, Any]]:
    """Return a row per table and method."""
    import torch

    from benchmarks.bench_data import scored_model
    from model import load_model

    model = load_model(scored_model())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = [*_transferred(model, quick=quick), *_tuned(model, quick=quick)]
    finally:
        torch.set_num_threads(threads)
    return rows


def _read(name: str, organism: str) -> Cells:
    """Return the cells of a shared file with their labels."""
    import anndata as ad

    from benchmarks.bench_data import SHARED
    from loaders import AnnDataCells

    return AnnDataCells(ad.read_h5ad(SHARED / "data" / f"{name}.h5ad"), organism)


def _donor(cells: Cells, name: str) -> npt.NDArray[np.bool_]:
    """Return which cells are a donor's."""
    words = [word.rsplit("/", 1)[-1] for word in cells.about["vocabulary"]["donor"]]
    return np.asarray(cells.column("donor")) == words.index(name)


def _types(cells: Cells, numbers: Numbers) -> Texts:
    words = np.array(cells.about["vocabulary"]["cell_type"], dtype=object)
    return words[np.asarray(cells.codes("cell_type", numbers))]


def _drawn(fit: npt.NDArray[np.bool_], most: int) -> Numbers:
    """Return some of the cells, drawn alike, in rising order."""
    found = np.flatnonzero(fit)
    return np.sort(np.random.default_rng(SEED).permutation(found)[:most]).astype(np.int64)


def _score(truth: Texts, told: Texts) -> dict[str, Any]:
    each = [(told[truth == one] == one).mean() for one in np.unique(truth.astype(str))]
    return {"cells": len(truth), "accuracy": round(float((told == truth).mean()), 3),
            "balanced": round(float(np.mean(each)), 3)}  # fmt: skip


def _tuned(base: TrainedModel, *, quick: bool) -> list[dict[str, Any]]:
    """Return how well labels of the other donor are told, tuned or not."""
    from loaders import RelabelledCells
    from model import seen_before

    cells, rows = _read("human_bal_covid_liao_C144C149_labelled", "human"), []
    for learnt, asked in (("C144", "C149"),) if quick else (("C144", "C149"), ("C149", "C144")):
        train = _donor(cells, learnt)
        split = RelabelledCells(cells, {"split": np.where(train, "train", "test").tolist()})
        test = _drawn(_donor(cells, asked), 40 if quick else SCORED)
        truth, seen = _types(cells, test), seen_before(base.ledger, cells, test)
        table = f"labels of donor {asked}, learnt on {learnt}"
        for name, method in _methods(base, split, np.flatnonzero(train), test, quick=quick).items():
            began = time.perf_counter()
            told, weights = method()
            rows.append(
                {
                    "table": table, "method": name, **_score(truth, told), "weights": weights,
                    "seen by base": len(test) - seen["not_found"], "seconds": round(time.perf_counter() - began, 1),
                }
            )  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def _methods(
    base: TrainedModel, cells: Cells, train: Numbers, test: Numbers, *, quick: bool
) -> dict[str, Callable[[], tuple[Texts, int]]]:
    """Return by name what tells the types of the test cells, and how many weights it learnt."""
    from model import labelled_cells, transfer_labels

    reference = labelled_cells(cells, "cell_type", train)
    known = _types(cells, train)
    names, counts = np.unique(known.astype(str), return_counts=True)

    def linear() -> tuple[Texts, int]:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        from benchmarks.task_cells import components, read_counts

        n_genes = len(cells.genes())
        places = components(read_counts(cells, train, n_genes), read_counts(cells, test, n_genes), SEED)
        fit = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(places[0], known)
        return fit.predict(places[1]), int(fit[-1].coef_.size)

    return {
        "majority": lambda: (np.full(len(test), names[counts.argmax()], dtype=object), 0),
        "logistic regression": linear,
        "nearest in the base": lambda: (
            transfer_labels(base, reference, cells, test, neighbours=NEAREST, options=_shown()).values,
            0,
        ),
        "base as it is": lambda: (_told(base, cells, test), 0),
        "cell parts tuned": lambda: _tuning(base, cells, test, "cells", quick=quick),
        "all tuned": lambda: _tuning(base, cells, test, "all", quick=quick),
    }


def _tuning(base: TrainedModel, cells: Cells, test: Numbers, parts: str, *, quick: bool) -> tuple[Texts, int]:
    """Return what a tuned model says, and how many weights were tuned."""
    from model import Machine, Tuning, TuningPlan, finetune

    plan = TuningPlan(steps=4 if quick else STEPS, batch_size=8 if quick else BATCH, looks=0, length=LENGTH, seed=SEED)
    with tempfile.TemporaryDirectory() as folder:
        how = {"tuning": Tuning(parts, ("cell_type",)), "plan": plan, "machine": Machine(device="cpu")}
        run = finetune(base, cells, Path(folder) / "run", **how)
        return _told(run.model, cells, test), run.facts["trained_parameters"]


def _told(model: TrainedModel, cells: Cells, numbers: Numbers) -> Texts:
    """Return the most likely leaf type of cells."""
    from model import annotate

    return annotate(model, cells, numbers, options=_shown()).of("cell_type").leaf_terms


def _shown() -> InferenceOptions:
    from model import InferenceOptions

    return InferenceOptions(length=LENGTH, device="cpu")


def _transferred(model: TrainedModel, *, quick: bool) -> list[dict[str, Any]]:
    """Return how well types of human cells are moved to cells of a mouse, and of another human."""
    from model import labelled_cells, seen_before, transfer_by_orthologs, transfer_labels

    human = _read("human_pancreas_baron_cxg7", "human")
    mouse = _read("mouse_pancreas_baron_ens_cxg7", "mouse")
    reference = labelled_cells(human, "cell_type", _drawn(_donor(human, "human2"), 60 if quick else len(human)))
    there, counts = np.unique(reference.values.astype(str), return_counts=True)
    rows = []
    for table, cells, donor in (
        ("human to mouse pancreas", mouse, "mouse1"),
        ("human to human pancreas", human, "human4"),
    ):
        asked = _drawn(_donor(cells, donor), 40 if quick else len(cells))
        asked = asked[np.isin(_types(cells, asked).astype(str), there)]
        truth, seen = _types(cells, asked), seen_before(model.ledger, cells, asked)
        most = np.full(len(asked), there[counts.argmax()], dtype=object)
        pair = (reference, cells, asked)
        found = {
            "majority": partial(most.copy),
            "nearest by orthologs": partial(transfer_by_orthologs, *pair, neighbours=NEAREST),
            "nearest in the base": partial(transfer_labels, model, *pair, neighbours=NEAREST, options=_shown()),
            "nearest by cell_type part": partial(
                transfer_labels, model, *pair, token=KIND, neighbours=NEAREST, options=_shown()
            ),
        }
        for name, method in found.items():
            began = time.perf_counter()
            told = method()
            told = told if isinstance(told, np.ndarray) else told.values
            rows.append(
                {
                    "table": table, "method": name, **_score(truth, told),
                    "seen by base": len(asked) - seen["not_found"], "seconds": round(time.perf_counter() - began, 1),
                }
            )  # fmt: skip
            print(rows[-1], flush=True)
    return rows
