"""Denoising methods side by side: the model's two ways and what it has to beat, on the very same thinned cells.

Used by tasks.py (donors never seen), unseen.py (rare populations) and platforms.py (other technologies).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks import task_baselines as simple
from benchmarks.task_cells import NEAREST, Held, cells_of_counts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from model import TrainedModel

Matrix = npt.NDArray[np.float64]
OURS = "the model"
"""How names of the model's rows begin."""


def denoising_methods(
    model: TrainedModel, kept: float, seed: int, magic: tuple[str, Path]
) -> dict[str, Callable[[Held, Matrix], Matrix]]:
    """Return what makes expected counts of all cells of thinned ones, by name.

    Parameters
    ----------
    model
        The model that is scored.
    kept
        Share of the molecules that is seen.
    seed
        Of methods that draw.
    magic
        Interpreter with MAGIC, or `not run` and why; a folder for its files.
    """
    from model import InferenceOptions
    from model.denoising import denoise

    def ours(held: Held, seen: Matrix, told: Any) -> Matrix:
        cells, how = cells_of_counts(held, seen, held.genes), InferenceOptions(device="cpu")
        return denoise(model, cells, genes=held.genes.tolist(), depth=1 / kept, told=told, options=how).expected

    methods: dict[str, Callable[[Held, Matrix], Matrix]] = {
        OURS: lambda held, seen: ours(held, seen, "genes"),
        f"{OURS}, told from the cell": lambda held, seen: ours(held, seen, "cell"),
        "raw counts": lambda _, seen: seen,
        "gene means": lambda _, seen: np.repeat(simple.gene_means(seen), len(seen), axis=0),
        "kNN-smoothing": lambda _, seen: simple.knn_smoothing(seen, NEAREST, seed=seed),
        "ALRA": lambda _, seen: np.expm1(simple.alra(simple.log_normal(seen), seed=seed)),
    }
    if not magic[0].startswith("not run"):
        methods["MAGIC"] = lambda _, seen: simple.magic(seen, *magic, seed=seed)
    return methods


def score_denoising(
    method: Callable[[Held, Matrix], Matrix], held: Held, thinned: tuple[Matrix, Matrix], seed: int, rows: Any = None
) -> tuple[dict[str, Matrix], float, int]:
    """Return a method's scores on the unseen molecules, its seconds, and whether it failed, which scores as zeros.

    Parameters
    ----------
    method
        One of `denoising_methods`.
    held
        The cells.
    thinned
        Seen and unseen molecules, [cells, genes] each.
    seed
        Of the halves that a mixture with gene means is chosen on.
    rows
        Cells that are scored; all of them unless given. The method sees all.
    """
    seen, unseen = thinned
    rows = slice(None) if rows is None else rows
    began, failed = time.perf_counter(), 0
    try:
        told = method(held, seen)
    except simple.PeerError as error:
        print(f"failed: {error}", flush=True)
        told, failed = np.zeros_like(seen), 1
    seconds = time.perf_counter() - began
    return simple.scores(unseen[rows], told[rows], simple.gene_means(seen), seed), seconds, failed
