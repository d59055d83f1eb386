"""What a trained model is good for, beside what is simple: denoising, imputing, naming and embedding unseen donors.

The model is the shipped one, its cells those it was trained on, or others (bench_data.py). Every method of a table sees
the same cells and molecules. task_baselines.py has the other methods, task_labels.py the labels, task_cells.py draws. A
run that was stopped goes on where it stopped (kept_parts.py).
"""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import task_cells as drawing
from benchmarks import task_labels

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.kept_parts import KeptParts
    from benchmarks.task_cells import Held
    from loaders import Cells
    from model import InferenceOptions, TrainedModel

SEED = 0
READS = ("training_sources.toml", "model")
FOLDER = Path(__file__).resolve().parent / "data"
SEEDS, CELLS, KEPT, HIDDEN, IMPUTED, NEAREST = 3, 1_000, 0.4, 300, 120, drawing.NEAREST
"""Runs; cells in all; share of the molecules that is seen; genes that are hidden; cells whose genes are imputed;
neighbours of the simple methods."""
COLUMNS = (
    "method", "cells", "nll", "nll mixed", "pearson", "scale", "accuracy", "macro-F1", "hierarchical F1", "balanced",
    "left out", "failures", "s per 1,000 cells",
)  # fmt: skip
PLOTS = (
    {"table": "labels", "by": "method", "value": "macro-F1", "better": "more", "ours": ["the model"]},
    {"table": "embedding", "by": "method", "value": "silhouette", "better": "more", "ours": ["the model"]},
    {"table": "imputation", "by": "method", "value": "nll mixed", "better": "less", "ours": ["the model"]},
    {"table": "denoising", "by": "method", "value": "nll mixed", "better": "less", "ours": ["the model"]},
)
NOTES = (
    f"Cells are of test donors, which nothing was trained or chosen on; each of {SEEDS} seeds draws cells, "
    "molecules and genes. ± is half of the 95% t interval over the seeds.",
    f"Denoising: {KEPT:.0%} of each cell's molecules are seen, the model is asked for the whole depth, and all methods "
    "are scored on the unseen ones, over all measured genes. `nll`: Poisson nats per molecule, less is better, of the "
    "shares told, of which 1% are the gene means so that no molecule is impossible; `nll mixed`: with the part of "
    "the gene means that is best on the other half of the cells; `pearson`: within a cell, of log(1 + 10^4 share). "
    "Where a method fails all genes get the same share, and it is counted in `failures`.",
    f"Imputation: {HIDDEN} genes are taken off the panel. `nll` and `pearson` are of the hidden genes among "
    "each other, `scale` is the molecules told of them over those counted; gene means and neighbours are of training "
    "cells.",
    *task_labels.NOTES,
    "Embedding: per dataset, against its cell types; k-means with as many clusters as types; silhouettes from 0 to 1. "
    "No batch score: a dataset has one test donor. PCA is of the very cells that are clustered, without their types.",
)
COUNTED = ("cells", "left out", "failures", "best in", "seen by the model")
"""Scores that are added up over the seeds."""
Table = dict[str, dict[str, list[float]]]
"""Mean of each score by method, seed by seed."""


def main(*, quick: bool) -> list[dict[str, Any]]:
    """Return a row per task and method."""
    import torch

    from benchmarks.bench_data import scored_cells, scored_model
    from loaders import open_cells
    from model import load_model

    model = load_model(scored_model())
    cells = open_cells(scored_cells())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one core, as the simple methods
    rows, tables = drawing.describe_held(model, cells), defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            peers = _peers(folder, quick=quick)
            there = [peer for peer, why in peers.items() if not why.startswith("not run")]
            kept = kept_parts(model, cells, {"quick": quick, "peers": there})
            for seed in range(1 if quick else SEEDS):
                for part, make in _parts(model, cells, (seed, quick), peers, folder).items():
                    _join(tables, kept.of(f"{seed}-{part}", make))
                    print(f"seed {seed}: {part} done", flush=True)
    finally:
        torch.set_num_threads(threads)
    for title, table in tables.items():
        rows += [{"table": title, "method": method, **with_intervals(found)} for method, found in table.items()]
    missing = {"MAGIC": ("denoising", peers["magic"]), "CellTypist": ("labels: cell_type", peers["celltypist"])}
    for method, (title, why) in missing.items():
        if why.startswith("not run"):
            rows.append({"table": title, "method": method, "note": why})
    kept.clear()
    return rows


def kept_parts(model: TrainedModel, cells: Cells, how: dict[str, Any]) -> KeptParts:
    """Return what this very run has worked out before: by the same code, of the same model and cells."""
    from benchmarks.kept_parts import KeptParts

    here = Path(__file__).resolve().parent
    code = [
        *here.glob("task*.py"),
        *(file for floor in ("loaders", "model") for file in (here.parent / floor).glob("*.py")),
    ]
    decides = {"model": model.digest, "cells": cells.fingerprint, "seed": SEED, **how}
    return KeptParts(FOLDER / "tasks", decides, code)


def _parts(
    model: TrainedModel, cells: Cells, run: tuple[int, bool], peers: dict[str, str], folder: Path
) -> dict[str, Callable[[], dict[str, Table]]]:
    """Return what makes the tables of each part of a seed's run."""
    seed, quick = run
    held = list(drawing.held_cells(model, cells, 60 if quick else CELLS // SEEDS, seed))
    few = list(drawing.held_cells(model, cells, 12 if quick else IMPUTED // SEEDS, seed))
    how = (context_options(model), peers["celltypist"], folder)
    return {
        "labels": lambda: task_labels.score_labels(model, cells, held, seed, how),
        "embedding": lambda: {"embedding": _embedding(model, cells, held, seed)},
        "imputation": lambda: {"imputation": _imputation(model, cells, few, seed)},
        "denoising": lambda: {"denoising": _denoising(model, held, seed, (peers["magic"], folder))},
    }


def _join(tables: dict[str, Table], found: dict[str, Table]) -> None:
    """Add the scores of a seed to those of the seeds before it."""
    for title, table in found.items():
        for method, scores in table.items():
            for name, values in scores.items():
                tables[title][method][name] += values


def _peers(folder: Path, *, quick: bool) -> dict[str, str]:
    """Return an interpreter with each peer, or why there is none."""
    from benchmarks.loader_environments import make_environment
    from benchmarks.task_baselines import MAGIC

    pins = {"magic": MAGIC, "celltypist": task_labels.CELLTYPIST}
    return {
        name: "not run: quick" if quick else make_environment(folder / name, sys.executable, packages)
        for name, packages in pins.items()
    }


def context_options(model: TrainedModel) -> InferenceOptions:
    """Return contexts as in the model's training."""
    from model.inference import InferenceOptions

    return InferenceOptions(device="cpu")


def with_intervals(found: dict[str, list[float]]) -> dict[str, Any]:
    """Return means with half of their intervals."""
    from scipy.stats import t

    out: dict[str, Any] = {}
    for name, values in found.items():
        mean, n = float(np.mean(values)), len(values)
        if name in COUNTED:
            out[name] = int(sum(values))
        elif n < 2 or name.startswith("s per"):
            out[name] = f"{mean:.3g}"
        else:
            out[name] = f"{mean:.4f} ± {t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5:.4f}"
    return out


def _table() -> Table:
    return defaultdict(lambda: defaultdict(list))


def _add(table: Table, method: str, found: list[dict[str, Any]], seconds: float = 0.0) -> None:
    """Note the means over all cells of a seed."""
    one = {name: np.concatenate([np.atleast_1d(part[name]) for part in found]) for name in found[0]}
    n = len(next(iter(one.values())))
    table[method]["cells"].append(n)
    for name, values in one.items():
        table[method][name].append(float(np.nanmean(values)))
    if seconds:
        table[method]["s per 1,000 cells"].append(1_000 * seconds / n)


def _denoising(model: TrainedModel, held: list[Held], seed: int, magic: tuple[str, Path]) -> Table:
    from benchmarks import task_baselines as simple
    from benchmarks.task_denoising import denoising_methods, score_denoising

    table = _table()
    for name, method in denoising_methods(model, KEPT, seed, magic).items():
        found = [score_denoising(method, one, simple.thinned(one.dense, KEPT, seed), seed) for one in held]
        _add(table, name, [scores for scores, _, _ in found], sum(seconds for _, seconds, _ in found))
        table[name]["failures"].append(sum(failed for _, _, failed in found))
    return table


def _imputation(model: TrainedModel, cells: Cells, held: list[Held], seed: int) -> Table:
    from benchmarks import task_baselines as simple
    from model.imputation import impute

    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in held:
        hidden = np.zeros(len(one.genes), dtype=bool)
        hidden[np.random.default_rng((SEED, seed, 2)).permutation(len(hidden))[:HIDDEN]] = True
        counts = one.dense
        truth, shown = counts[:, hidden], counts[:, ~hidden]
        _, train = drawing.training_cells(cells, one.organism, seed)
        train = train[:, one.columns]
        usual = simple.gene_means(np.asarray(train.sum(0), dtype=np.float64))
        flat = usual[:, hidden] / usual[:, ~hidden].sum() * shown.sum(1, keepdims=True)
        near = drawing.nearest(train[:, np.flatnonzero(~hidden)], shown, seed)
        pooled = np.stack([np.asarray(train[rows].sum(0), dtype=np.float64)[0] for rows in near])
        around = pooled[:, hidden] / np.maximum(pooled[:, ~hidden].sum(1, keepdims=True), 1)
        again, genes = drawing.cells_of_counts(one, shown, one.genes[~hidden]), one.genes[hidden].tolist()
        ours = impute(model, again, genes, options=context_options(model)).expected
        for name, told in (
            ("the model", ours), ("gene means", flat), ("nearest training cells", around * shown.sum(1, keepdims=True))
        ):  # fmt: skip
            plain = simple.shares_of(usual[:, hidden])
            scale = {"scale": np.array([told.sum(dtype=np.float64) / truth.sum()])}
            found[name].append(simple.scores(truth, told, plain, seed) | scale)
    table = _table()
    for name, parts in found.items():
        _add(table, name, parts)
    return table


def _embedding(model: TrainedModel, cells: Cells, held: list[Held], seed: int) -> Table:
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score

    from model.inference import read_cells

    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in held:
        types = cells.codes("cell_type", one.numbers)
        words = np.array(cells.about["vocabulary"]["cell_type"])[types]
        common = [word for word, n in zip(*np.unique(words, return_counts=True), strict=True) if n >= 5]
        scored = np.isin(words, [word for word in common if word != "unknown"])
        kinds = np.unique(words[scored])
        if len(kinds) < 2:
            continue
        blocks = read_cells(model, cells, one.numbers, context_options(model))
        ours = np.concatenate([read.encoded.embedding.cpu().numpy() for read in blocks])
        for name, places in (("the model", ours), ("PCA", drawing.components(one.counts, one.counts[:1], seed)[0])):
            points, truth = places[scored], words[scored]
            groups = KMeans(len(kinds), n_init=10, random_state=seed).fit_predict(points)
            found[name].append(
                {
                    "cells": np.array([int(scored.sum())]),
                    "ARI": np.array([adjusted_rand_score(truth, groups)]),
                    "NMI": np.array([normalized_mutual_info_score(truth, groups)]),
                    "silhouette": np.array([(1 + silhouette_score(points, truth)) / 2]),
                }
            )
    table = _table()
    for name, parts in found.items():
        table[name]["cells"].append(int(sum(part.pop("cells")[0] for part in parts)))
        for score in parts[0]:
            table[name][score].append(float(np.mean([part[score] for part in parts])))
    return table
