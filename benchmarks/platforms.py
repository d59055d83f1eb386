"""Denoising on technologies that no training cell was measured by, at two depths: plates, other droplets, whole reads.

Each file is of one study that the model never saw. Methods are those of the tasks benchmark, on the same thinned cells.
"""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import task_baselines as simple
from benchmarks.bench_data import SHARED, scored_model
from benchmarks.task_cells import Held, read_counts
from benchmarks.task_denoising import denoising_methods, score_denoising

if TYPE_CHECKING:
    from model import TrainedModel

SEED, SEEDS, CELLS = 0, 3, 240
"""First seed; runs; cells drawn of a technology for each."""
DEPTHS = (0.4, 0.1)
"""Shares of the molecules that are seen."""
STUDIES: dict[str, tuple[str, str, str, str]] = {
    "MARS-seq": ("mouse", "mouse_bonemarrow_paul2015", "", ""),
    "Smart-seq, reads": ("mouse", "mouse_embryo_deng2014subset", "", ""),
    "10x 3' v3": ("human", "human_pbmc_3chemistries", "assay", "v3"),
    "10x 5'": ("human", "human_pbmc_3chemistries", "assay", "5'"),
}
"""Organism, file, and the column and part of a value by which a file's cells of the technology are told."""
READS = (*dict.fromkeys(f"data/{file}.h5ad" for _, file, _, _ in STUDIES.values()), "model")
COLUMNS = ("method", "cells", "nll", "nll mixed", "pearson", "failures", "seen by the model")
PLOTS = ({"table": "", "by": "method", "value": "nll mixed", "better": "less", "ours": ["the model"]},)
NOTES = (
    f"Each of {SEEDS} seeds draws up to {CELLS} cells; ± is half of the 95% t interval over the seeds, which share "
    "cells. Binomial thinning; scored are the molecules (of Smart-seq: reads) that no method saw, nats each. `nll "
    "mixed`: with the best part of the gene means added, chosen on other cells; less is better. Genes are those that "
    "the file measured and the model knows.",
    "Trained on: 10x 3' v1 and v2, inDrop, CEL-seq2 and Drop-seq of cell lines, single nuclei, osmFISH, Xenium.",
)


def main(*, quick: bool) -> list[dict[str, Any]]:
    """Return a row per technology, depth and method."""
    import torch

    from benchmarks.loader_environments import make_environment
    from benchmarks.tasks import with_intervals
    from model import load_model

    model, rows = load_model(scored_model()), []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            magic = "not run: quick" if quick else make_environment(folder / "magic", sys.executable, simple.MAGIC)
            for platform in list(STUDIES)[: 1 if quick else None]:
                for depth, table in _scored(model, platform, (magic, folder), quick=quick).items():
                    title = f"{platform}, {depth:.0%} of the molecules"
                    rows += [{"table": title, "method": name, **with_intervals(one)} for name, one in table.items()]
                print(f"{platform} done", flush=True)
    finally:
        torch.set_num_threads(threads)
    return rows


def _scored(model: TrainedModel, platform: str, magic: tuple[str, Path], *, quick: bool) -> dict[float, Any]:
    """Return the scores of a technology's cells by depth and method."""
    tables: dict[float, Any] = {depth: defaultdict(lambda: defaultdict(list)) for depth in DEPTHS}
    for seed in range(1 if quick else SEEDS):
        held, seen_before = _drawn(model, platform, seed, 40 if quick else CELLS)
        for depth, table in tables.items():
            thinned = simple.thinned(held.dense, depth, seed)
            for name, method in denoising_methods(model, depth, seed, magic).items():
                scores, _, failed = score_denoising(method, held, thinned, seed)
                table[name]["cells"].append(len(held.numbers))
                table[name]["failures"].append(failed)
                table[name]["seen by the model"].append(seen_before)
                for score, values in scores.items():
                    table[name][score].append(float(np.nanmean(values)))
    return tables


def _drawn(model: TrainedModel, platform: str, seed: int, most: int) -> tuple[Held, int]:
    """Return some cells of a technology, with the genes that the model knows, and how many of them it has seen."""
    import anndata as ad

    from loaders import SourceCells
    from model import seen_before

    organism, file, column, word = STUDIES[platform]
    path = SHARED / "data" / f"{file}.h5ad"
    if not path.exists():
        raise FileNotFoundError(f"{path}: cells that this benchmark reads")
    there = np.arange(ad.read_h5ad(path, backed="r").n_obs)
    if column:
        values = ad.read_h5ad(path, backed="r").obs[column].astype(str)
        there = np.flatnonzero(values.str.contains(word, regex=False))
    drawn = np.sort(np.random.default_rng((SEED, seed)).permutation(there)[:most])
    with closing(SourceCells(path, organism, columns={})) as cells:
        name = cells.about["organisms"][0]["organism"]
        ids = cells.genes()["feature_id"].to_numpy(dtype=object)
        known = model.vocabulary.gene_tokens(name, ids.tolist()) >= 0
        known &= np.asarray(cells.measured(0, 0), dtype=bool)[: len(known)]
        counts = read_counts(cells, drawn, len(known))[:, known]
        found = seen_before(model.ledger, cells, drawn)
    return Held(file, name, drawn, counts, ids[known], np.flatnonzero(known)), len(drawn) - found["not_found"]
