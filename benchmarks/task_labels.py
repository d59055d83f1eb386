"""Labels of test cells: a trained model beside simple methods and CellTypist, all taught by the same training cells.

What is fair is decided here: which cells are scored, what each method learnt from and chooses among. Used by tasks.py.
"""

from __future__ import annotations

import os
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks import task_cells as drawing
from benchmarks.task_baselines import PeerError

if TYPE_CHECKING:
    import scipy.sparse as sp

    from benchmarks.task_cells import Held
    from loaders import Cells
    from model import InferenceOptions, TrainedModel

    Numbers = npt.NDArray[np.int64]
    Table = dict[str, dict[str, list[float]]]

LABELS = ("cell_type", "tissue", "disease")
CELLTYPIST = ("celltypist==1.7.1", "scikit-learn==1.6.1", "scanpy==1.11.5", "anndata==0.12.19", "pandas==2.3.3")
"""CellTypist needs a scikit-learn from before 1.8, which took away an option that it names."""
SCRIPT = Path(__file__).with_name("task_celltypist.py")
NOTES = (
    "Labels: cells of test donors whose label is a leaf class of the model's that training cells of the organism have; "
    "`left out` are labelled otherwise (coarser, or with what nobody could learn); organisms whose training cells have "
    "one class only are not asked. `balanced`: share told right, mean "
    "over true classes; `macro-F1`: mean of F1 over classes that are true or told, as scikit-learn has it; "
    "`hierarchical F1`: of terms with all above them in the ontology (Kiritchenko et al. 2005).",
    f"Simple methods learn from up to {drawing.TRAINING:,} training cells of the organism with a leaf class of the "
    "label, so they choose among that organism's classes; `classes of the organism` is the model held to the same "
    "ones, `the model` chooses among all it knows. They see all genes, the model as many as it was chosen with. kNN "
    "and logistic regression: 50 principal components of 2,000 variable genes. CellTypist 1.7.1, in an environment of "
    "its own, for cell types, which it is for: all genes, its selection of features, else its defaults. A fit that "
    "fails tells nothing of its cells and is counted in `failures`.",
    "The interval of a label is of drawing cells and of fitting, from the same donors: it says nothing of others. "
    "Tissue and disease are alike in all cells of a donor, so they can be told by knowing the study.",
)


def score_labels(
    model: TrainedModel, cells: Cells, held: list[Held], seed: int, how: tuple[InferenceOptions, str, Path]
) -> dict[str, Table]:
    """Return the scores of every method, by table.

    Parameters
    ----------
    model
        The model.
    cells
        Test and training cells.
    held
        The test cells.
    seed
        Of draws and fits.
    how
        What is shown of cells, an interpreter with CellTypist or why there is none, and where matrices change hands.
    """
    told: dict[str, dict[str, list[Numbers]]] = {label: defaultdict(list) for label in LABELS}
    failures: dict[str, dict[str, int]] = {label: defaultdict(int) for label in LABELS}
    truth: dict[str, list[Numbers]] = {label: [] for label in LABELS}
    left = dict.fromkeys(LABELS, 0)
    for organism in sorted({one.organism for one in held}):
        numbers = np.concatenate([one.numbers for one in held if one.organism == organism])
        ours = leaf_logits(model, cells, numbers, how[0])
        for label in LABELS:
            labelled = drawing.leaves(model, cells, label, np.arange(len(cells))) >= 0
            drawn, train = drawing.training_cells(cells, organism, seed, labelled)
            learnt, asked = (drawing.leaves(model, cells, label, some) for some in (drawn, numbers))
            scored = np.isin(asked, learnt)
            classes = np.unique(learnt)
            if not scored.any() or len(classes) < 2 or label not in ours:
                continue
            left[label] += int((~scored).sum())
            truth[label].append(asked[scored])
            logits = ours[label][scored]
            told[label]["the model"].append(logits.argmax(1))
            told[label]["the model, classes of the organism"].append(classes[logits[:, classes].argmax(1)])
            rest = drawing.read_counts(cells, numbers[scored], train.shape[1])
            for name, guess in taught(label, (train, learnt), rest, seed, how[1:]).items():
                told[label][name].append(np.full(len(logits), -1) if guess is None else guess)
                failures[label][name] += guess is None
    out: dict[str, Table] = {}
    for label in (one for one in LABELS if truth[one]):
        right = np.concatenate(truth[label])
        table = out[f"labels: {label}"] = {}
        for name, found in told[label].items():
            scores = score_terms(label, model.vocabulary.labels[label].classes, right, np.concatenate(found))
            more = {"cells": len(right), "left out": left[label], "failures": failures[label][name]}
            table[name] = {key: [value] for key, value in (scores | more).items()}
    return out


def score_terms(label: str, classes: tuple[str, ...], right: Numbers, guess: Numbers) -> dict[str, float]:
    """Return how right classes are, -1 for none told: of the very class, and along the ontology."""
    from model import compare_terms

    terms = np.array([*classes, "unknown"], dtype=object)
    found = compare_terms(label, terms[right].tolist(), terms[guess].tolist())
    recall = [(guess[right == one] == one).mean() for one in np.unique(right)]
    return {
        "accuracy": found.accuracy, "balanced": float(np.mean(recall)), "macro-F1": found.macro_f1,
        "hierarchical F1": found.hierarchical_f1,
    }  # fmt: skip


def leaf_logits(
    model: TrainedModel, cells: Cells, numbers: Numbers, options: InferenceOptions
) -> dict[str, npt.NDArray[np.float32]]:
    """Return what the model says of the leaves of each label, [cells, leaves]."""
    from model.annotation import classify_cells

    found: dict[str, list[npt.NDArray[np.float32]]] = defaultdict(list)
    for block in classify_cells(model, cells, numbers, options):
        for label, logits in block.logits.items():
            found[label].append(logits)
    return {label: np.concatenate(parts) for label, parts in found.items()}


def taught(
    label: str, train: tuple[sp.csr_matrix, Numbers], asked: sp.csr_matrix, seed: int, peer: tuple[str, Path]
) -> dict[str, Numbers | None]:
    """Return the classes that methods tell of cells, by method, once taught counts and classes; None where one fails.

    CellTypist has no row where there is no environment with it.
    """
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    counts, classes = train
    places, others = drawing.components(counts, asked, seed)
    methods: dict[str, Any] = {
        "majority": DummyClassifier(strategy="most_frequent"),
        "nearest by PCA": KNeighborsClassifier(min(drawing.NEAREST, len(classes))),
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)),
    }
    found: dict[str, Numbers | None] = {
        name: method.fit(places, classes).predict(others) for name, method in methods.items()
    }
    if label == "cell_type" and not peer[0].startswith("not run"):
        try:
            found["CellTypist"] = celltypist(train, asked, peer, seed)
        except PeerError as error:
            print(f"CellTypist failed: {error}", flush=True)
            found["CellTypist"] = None
    return found


def celltypist(
    train: tuple[sp.csr_matrix, Numbers], asked: sp.csr_matrix, peer: tuple[str, Path], seed: int
) -> Numbers:
    """Return the classes that CellTypist (Dominguez Conde et al. 2022, doi:10.1126/science.abl5197) tells.

    Parameters
    ----------
    train
        Counts over all genes, [cells, genes], and classes of the cells it learns from.
    asked
        Counts of the cells it names.
    peer
        Interpreter of an environment that has it, and a folder where matrices change hands.
    seed
        Of its stochastic descent.
    """
    python, folder = peer
    given, made = folder / "cells.npz", folder / "classes.npy"
    parts = {
        f"{name}_{part}": getattr(counts, part)
        for name, counts in (("train", train[0]), ("asked", asked))
        for part in ("data", "indices", "indptr", "shape")
    }
    np.savez(given, classes=train[1], **parts)
    made.unlink(missing_ok=True)
    settings = {**os.environ, "CELLTYPIST_FOLDER": str(folder / "own")}
    # -P: the folder of this script has a coverage.py, which numba would take for the package of that name.
    command = [python, "-P", str(SCRIPT), str(given), str(made), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=settings)
    if done.returncode:
        raise PeerError((done.stderr.strip().splitlines() or ["no message"])[-1])
    return np.load(made, allow_pickle=False)
