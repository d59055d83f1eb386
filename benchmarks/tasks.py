"""What a trained model is good for, beside what is simple: denoising, imputing, naming and embedding unseen donors.

The model and its cells are those of the pre-training benchmark (pretrain.py), or PANATLAS_BENCH_MODEL, a folder, and
PANATLAS_BENCH_PACK. Every method of a table sees the same cells and molecules. task_baselines.py has the other methods.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import scipy.sparse as sp

    from loaders import Cells
    from model import TrainedModel
    from model.inference import InferenceOptions

SEED = 0
FOLDER = Path(__file__).resolve().parent / "data"
SEEDS, CELLS, KEPT, HIDDEN, IMPUTED, TRAINING, GENES, NEAREST = 3, 1_000, 0.4, 300, 120, 10_000, 1_000, 15
"""Runs; cells in all; share of the molecules that is seen; genes that are hidden; cells whose genes are imputed;
training cells that simple methods learn from; genes of the smallest panel; neighbours that vote."""
LABELS = ("cell_type", "tissue", "disease")
COLUMNS = ("method", "cells", "nll", "nll mixed", "pearson", "scale", "accuracy", "balanced", "s per 1,000 cells")
NOTES = (
    f"Cells are of test donors, which nothing was trained or chosen on; each of {SEEDS} seeds draws cells, "
    "molecules and genes. ± is half of the 95% t interval over the seeds.",
    f"Denoising: {KEPT:.0%} of each cell's molecules are seen, the model is asked for the whole depth, and all methods "
    "are scored on the unseen ones, over all measured genes. `nll`: Poisson nats per molecule, less is better, of the "
    "shares told, of which 1% are the gene means so that no molecule is impossible; `nll mixed`: with the part of "
    "the gene means that is best on the other half of the cells; `pearson`: within a cell, of log(1 + 10^4 share).",
    f"Imputation: {HIDDEN} genes are taken off the panel. `nll` and `pearson` are of the hidden genes among "
    "each other, `scale` is the molecules told of them over those counted; gene means and neighbours are of training "
    "cells.",
    "Labels: share of cells told right, and the mean of it over classes; cells whose label is a leaf class of the "
    f"model's. Simple methods learn from up to {TRAINING:,} training cells of the organism.",
    "Embedding: per dataset, against its cell types; k-means with as many clusters as types; silhouettes from 0 to 1. "
    "No batch score: a dataset has one test donor.",
)
Table = dict[str, dict[str, list[float]]]
"""Mean of each score by method, seed by seed."""


@dataclass(frozen=True, eq=False)
class Held:
    """Held-out cells of one dataset."""

    dataset: str
    organism: str
    numbers: npt.NDArray[np.int64]
    counts: sp.csr_matrix
    """[cells, genes]: the measured genes that the model knows."""
    genes: npt.NDArray[np.object_]
    """Their feature ids."""
    columns: npt.NDArray[np.int64]
    """Their numbers among all genes of the organism."""

    @property
    def dense(self) -> npt.NDArray[np.float64]:
        """Return the counts as an array."""
        return self.counts.toarray().astype(np.float64)


def main(*, quick: bool) -> list[dict[str, Any]]:
    """Return a row per task and method."""
    import torch

    from benchmarks.training_cells import training_pack
    from loaders import open_cells
    from model import load_model

    model = load_model(os.environ.get("PANATLAS_BENCH_MODEL", FOLDER / "pretrain" / "model"))
    cells = open_cells(os.environ.get("PANATLAS_BENCH_PACK") or training_pack(FOLDER / "training"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one core, as the simple methods
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        python = _magic(Path(folder), quick=quick)
        tables: dict[str, Table] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
        for seed in range(1 if quick else SEEDS):
            held = list(_held(model, cells, 60 if quick else CELLS // SEEDS, seed))
            _denoising(model, held, seed, (python, Path(folder)), tables["denoising"])
            few = list(_held(model, cells, 12 if quick else IMPUTED // SEEDS, seed))
            _imputation(model, cells, few, seed, tables["imputation"])
            _labels(model, cells, held, seed, tables)
            _embedding(model, cells, held, seed, tables["embedding"])
            print(f"seed {seed} done", flush=True)
        for title, table in tables.items():
            rows += [{"table": title, "method": method, **_told(found)} for method, found in table.items()]
    if python.startswith("not run"):
        rows.append({"table": "denoising", "method": "MAGIC", "note": python})
    torch.set_num_threads(threads)
    return rows


def _magic(folder: Path, *, quick: bool) -> str:
    """Return an interpreter with MAGIC, or why there is none."""
    from benchmarks.loader_environments import make_environment
    from benchmarks.task_baselines import MAGIC

    return "not run: quick" if quick else make_environment(folder / "magic", sys.executable, MAGIC)


def _options(model: TrainedModel) -> InferenceOptions:
    """Return contexts as in the model's training."""
    from model.inference import InferenceOptions

    return InferenceOptions(device="cpu")


def _told(found: dict[str, list[float]]) -> dict[str, Any]:
    """Return means with half of their intervals."""
    from scipy.stats import t

    out: dict[str, Any] = {}
    for name, values in found.items():
        mean, n = float(np.mean(values)), len(values)
        if name == "cells":
            out[name] = int(sum(values))
        elif n < 2 or name.startswith("s per"):
            out[name] = f"{mean:.3g}"
        else:
            out[name] = f"{mean:.4f} ± {t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5:.4f}"
    return out


def _held(model: TrainedModel, cells: Cells, most: int, seed: int) -> Iterator[Held]:
    """Yield test cells by dataset, drawn from as evenly as there are cells."""
    from loaders import SPLITS

    test = np.flatnonzero(cells.column("split") == SPLITS.index("test"))
    names = [one["organism"] for one in cells.about["organisms"]]
    found = []
    for code in np.unique(cells.codes("organism", test)):
        if names[code] not in model.vocabulary.organisms:
            continue
        mine = test[cells.codes("organism", test) == code]
        datasets = cells.codes("dataset", mine)
        for dataset in np.unique(datasets):
            genes = _known_genes(model, cells, int(code), int(dataset))
            if genes.sum() >= GENES and (datasets == dataset).sum() >= NEAREST:
                found.append((int(code), int(dataset), mine[datasets == dataset], genes))
    for code, dataset, there, genes in found:
        drawn = np.sort(np.random.default_rng((SEED, seed, dataset)).permutation(there)[: most // len(found)])
        ids = cells.genes()
        ids = ids.loc[ids["organism"] == code, "feature_id"].to_numpy(dtype=object)
        counts = _counts(cells, drawn, len(genes))[:, genes]
        yield Held(
            cells.about["vocabulary"]["dataset"][dataset], names[code], drawn, counts, ids[genes], np.flatnonzero(genes)
        )


def _known_genes(model: TrainedModel, cells: Cells, organism: int, dataset: int) -> npt.NDArray[np.bool_]:
    """Return which genes of an organism a dataset measured and the model knows."""
    genes = cells.genes()
    ids = genes.loc[genes["organism"] == organism, "feature_id"]
    known = model.vocabulary.gene_tokens(cells.about["organisms"][organism]["organism"], ids.tolist()) >= 0
    return known & np.asarray(cells.measured(dataset, organism), dtype=bool)[: len(known)]


def _counts(cells: Cells, numbers: npt.NDArray[np.int64], n_genes: int) -> sp.csr_matrix:
    import scipy.sparse as sp

    rows = cells.read(numbers).decode()
    return sp.csr_matrix((rows.counts, rows.indices, rows.indptr), shape=(len(numbers), n_genes))


def _reread(held: Held, counts: npt.NDArray[np.float64], genes: npt.NDArray[np.object_]) -> Cells:
    """Return cells of these counts, as any AnnData would be read."""
    import anndata as ad
    import pandas as pd
    import scipy.sparse as sp

    from loaders import AnnDataCells

    obs = pd.DataFrame(index=[f"{held.dataset}-{number}" for number in held.numbers])
    var = pd.DataFrame(index=genes.astype(str))
    return AnnDataCells(ad.AnnData(sp.csr_matrix(counts.astype(np.float32)), obs, var), held.organism)


def _add(table: Table, method: str, found: list[dict[str, Any]], seconds: float = 0.0) -> None:
    """Note the means over all cells of a seed."""
    one = {name: np.concatenate([np.atleast_1d(part[name]) for part in found]) for name in found[0]}
    n = len(next(iter(one.values())))
    table[method]["cells"].append(n)
    for name, values in one.items():
        table[method][name].append(float(np.nanmean(values)))
    if seconds:
        table[method]["s per 1,000 cells"].append(1_000 * seconds / n)


def _denoising(model: TrainedModel, held: list[Held], seed: int, magic: tuple[str, Path], table: Table) -> None:
    from benchmarks import task_baselines as simple
    from model.denoising import denoise

    def ours(one: Held, seen: npt.NDArray[np.float64], told: Any = "genes") -> npt.NDArray[Any]:
        again, genes = _reread(one, seen, one.genes), one.genes.tolist()
        return denoise(model, again, genes=genes, depth=1 / KEPT, told=told, options=_options(model)).expected

    methods: dict[str, Callable[[Held, npt.NDArray[np.float64]], npt.NDArray[Any]]] = {
        "the model": ours,
        "the model, told from the cell": lambda one, seen: ours(one, seen, "cell"),
        "raw counts": lambda _, seen: seen,
        "gene means": lambda _, seen: np.repeat(simple.gene_means(seen), len(seen), axis=0),
        "kNN-smoothing": lambda _, seen: simple.knn_smoothing(seen, NEAREST, seed=seed),
        "ALRA": lambda _, seen: np.expm1(simple.alra(simple.log_normal(seen), seed=seed)),
    }
    if not magic[0].startswith("not run"):
        methods["MAGIC"] = lambda _, seen: simple.magic(seen, *magic, seed=seed)
    for name, method in methods.items():
        found, seconds = [], 0.0
        for one in held:
            seen, unseen = simple.thinned(one.dense, KEPT, seed)
            began = time.perf_counter()
            told = method(one, seen)
            seconds += time.perf_counter() - began
            found.append(simple.scores(unseen, told, simple.gene_means(seen), seed))
        _add(table, name, found, seconds)


def _training(cells: Cells, organism: str, seed: int) -> tuple[npt.NDArray[np.int64], sp.csr_matrix]:
    """Return training cells of an organism and their counts over all its genes."""
    from loaders import SPLITS

    code = [one["organism"] for one in cells.about["organisms"]].index(organism)
    fit = (cells.column("split") == SPLITS.index("train")) & (cells.column("organism") == code)
    drawn = np.random.default_rng((SEED, seed, 1)).permutation(np.flatnonzero(fit))[:TRAINING]
    drawn = np.sort(drawn).astype(np.int64)
    genes = cells.genes()
    return drawn, _counts(cells, drawn, int((genes["organism"] == code).sum()))


def _imputation(model: TrainedModel, cells: Cells, held: list[Held], seed: int, table: Table) -> None:
    from benchmarks import task_baselines as simple
    from model.imputation import impute

    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in held:
        hidden = np.zeros(len(one.genes), dtype=bool)
        hidden[np.random.default_rng((SEED, seed, 2)).permutation(len(hidden))[:HIDDEN]] = True
        counts = one.dense
        truth, shown = counts[:, hidden], counts[:, ~hidden]
        _, train = _training(cells, one.organism, seed)
        train = train[:, one.columns]
        usual = simple.gene_means(np.asarray(train.sum(0), dtype=np.float64))
        flat = usual[:, hidden] / usual[:, ~hidden].sum() * shown.sum(1, keepdims=True)
        near = _near(train[:, np.flatnonzero(~hidden)], shown, seed)
        pooled = np.stack([np.asarray(train[rows].sum(0), dtype=np.float64)[0] for rows in near])
        around = pooled[:, hidden] / np.maximum(pooled[:, ~hidden].sum(1, keepdims=True), 1)
        again, genes = _reread(one, shown, one.genes[~hidden]), one.genes[hidden].tolist()
        ours = impute(model, again, genes, options=_options(model)).expected
        for name, told in (
            ("the model", ours), ("gene means", flat), ("nearest training cells", around * shown.sum(1, keepdims=True))
        ):  # fmt: skip
            plain = simple.shares_of(usual[:, hidden])
            scale = {"scale": np.array([told.sum(dtype=np.float64) / truth.sum()])}
            found[name].append(simple.scores(truth, told, plain, seed) | scale)
    for name, parts in found.items():
        _add(table, name, parts)


def _near(train: sp.csr_matrix, asked: npt.NDArray[np.float64], seed: int) -> npt.NDArray[np.int64]:
    """Return the training cells nearest to each cell by principal components of variable genes, [cells, neighbours]."""
    from sklearn.neighbors import NearestNeighbors

    places, others = _components(train, asked, seed)
    return NearestNeighbors(n_neighbors=NEAREST).fit(places).kneighbors(others)[1]


def _components(
    train: sp.csr_matrix, asked: npt.NDArray[np.float64] | sp.csr_matrix, seed: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return 50 principal components, learnt from the first cells, of both: log shares of the 2,000 most variable."""
    import scipy.sparse as sp
    from sklearn.decomposition import PCA

    def normal(counts: sp.csr_matrix) -> sp.csr_matrix:
        depth = np.maximum(np.asarray(counts.sum(1), dtype=np.float64), 1)
        return sp.csr_matrix(counts.multiply(1e4 / depth)).log1p()

    one, other = normal(train), normal(sp.csr_matrix(asked))
    spread = np.asarray(one.multiply(one).mean(0) - np.square(one.mean(0)))[0]
    most = np.sort(np.argsort(-spread, kind="stable")[:2_000])
    learnt = PCA(min(50, len(most) - 1, one.shape[0] - 1), svd_solver="randomized", random_state=seed)
    places = learnt.fit_transform(one[:, most].toarray())
    return places, learnt.transform(other[:, most].toarray())


def _labels(model: TrainedModel, cells: Cells, held: list[Held], seed: int, tables: dict[str, Table]) -> None:
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    told = {label: defaultdict(list) for label in LABELS}
    truth = {label: [] for label in LABELS}
    for organism in sorted({one.organism for one in held}):
        mine = [one for one in held if one.organism == organism]
        numbers = np.concatenate([one.numbers for one in mine])
        drawn, train = _training(cells, organism, seed)
        places, others = _components(train, _counts(cells, numbers, train.shape[1]), seed)
        ours = _named(model, cells, numbers)
        for label in LABELS:
            asked, learnt = (_leaves(model, cells, label, some) for some in (numbers, drawn))
            known, scored = learnt >= 0, asked >= 0
            if not scored.any() or len(np.unique(learnt[known])) < 2 or label not in ours:
                continue
            truth[label].append(asked[scored])
            told[label]["the model"].append(ours[label][scored])
            for name, method in {
                "majority": DummyClassifier(strategy="most_frequent"),
                "nearest by PCA": KNeighborsClassifier(NEAREST),
                "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)),
            }.items():
                fit = method.fit(places[known], learnt[known])
                told[label][name].append(fit.predict(others[scored]))
    for label in LABELS:
        for name, found in told[label].items():
            right, guess = np.concatenate(truth[label]), np.concatenate(found)
            each = [(guess[right == one] == one).mean() for one in np.unique(right)]
            table = tables[f"labels: {label}"]
            table[name]["cells"].append(len(right))
            table[name]["accuracy"].append(float((guess == right).mean()))
            table[name]["balanced"].append(float(np.mean(each)))


def _leaves(model: TrainedModel, cells: Cells, label: str, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the leaf class of cells, -1 where it is unknown or no leaf."""
    space = model.vocabulary.labels[label]
    codes = np.append(model.vocabulary.encode(label, cells.about["vocabulary"][label]), -1)[cells.codes(label, numbers)]
    return np.where(codes < space.n_leaves, codes, -1).astype(np.int64)


def _named(model: TrainedModel, cells: Cells, numbers: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.int64]]:
    """Return the model's most likely leaf of each label."""
    import torch

    from model.inference import read_cells

    found: dict[str, list[npt.NDArray[np.int64]]] = defaultdict(list)
    for read in read_cells(model, cells, numbers, _options(model)):
        with torch.no_grad():
            for label, logits in model.network.classify(read.encoded).items():
                found[label].append(logits.argmax(1).cpu().numpy())
    return {label: np.concatenate(parts) for label, parts in found.items()}


def _embedding(model: TrainedModel, cells: Cells, held: list[Held], seed: int, table: Table) -> None:
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
        blocks = read_cells(model, cells, one.numbers, _options(model))
        ours = np.concatenate([read.encoded.embedding.cpu().numpy() for read in blocks])
        for name, places in (("the model", ours), ("PCA", _components(one.counts, one.counts[:1], seed)[0])):
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
    for name, parts in found.items():
        table[name]["cells"].append(int(sum(part.pop("cells")[0] for part in parts)))
        for score in parts[0]:
            table[name][score].append(float(np.mean([part[score] for part in parts])))
