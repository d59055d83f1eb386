"""Does the model's embedding bring batches together and keep cell types apart? scib-metrics, beside PCA, Harmony, scVI.

The model gets no batch labels and is not fitted to the cells; Harmony and scVI are. Peers and scores run in an
environment of their own (integration_peers.py). Model as in tasks.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.bench_data import SHARED, scored_model

if TYPE_CHECKING:
    import anndata as ad

    from model import TrainedModel

SEED, SEEDS, EPOCHS = 0, 3, 0
"""First seed; runs; epochs of scVI, 0 for its own choice."""
READS = (
    "data/human_pbmc_ifnb_kang_labelled2800.h5ad",
    "data/human_bal_covid_liao_C144C149_labelled.h5ad",
    "data/human_celllines_mixology_batches.h5ad",
    "model",
)
HERE = Path(__file__).resolve().parent
PINS = ("scib-metrics==0.5.10", "scvi-tools==1.4.2", "harmonypy==2.1.0", "scanpy>=1.11,<1.13", "anndata<0.13")
SETS = {
    "Kang PBMC": ("human_pbmc_ifnb_kang_labelled2800", "condition", "cell_type", "a study the model never saw"),
    "Liao lavage": ("human_bal_covid_liao_C144C149_labelled", "donor_id", "cell_type", "half of its cells trained on"),
    "cell line mixology": ("human_celllines_mixology_batches", "batch", "cell_line", "cells that were trained on"),
}
"""File, batches, types, and what the model knows of them."""
COLUMNS = ("method", "cells", "Total", "Bio conservation", "Batch correction", "seconds", "note")
PLOTS = ({"table": "", "by": "method", "value": "Total", "better": "more", "ours": ["the model"]},)
NOTES = (
    "scib-metrics 0.5.10 with default weights, not rescaled between methods; ± is half of the 95% t interval over "
    f"{SEEDS} seeds of the methods; the model is fixed, so its interval is of the scores alone.",
    "In Kang PBMC the batches are control and stimulated cells: what is taken away is partly biology.",
)


def main(*, quick: bool) -> list[dict[str, Any]]:
    """Return a row per set and method."""
    import torch

    from benchmarks.loader_environments import make_environment
    from model import load_model

    model = load_model(scored_model())
    rows: list[dict[str, Any]] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = make_environment(folder / "peers", sys.executable, PINS)
        if python.startswith("not run"):
            return [{"table": "integration", "method": "all", "note": python}]
        for title, (file, batch, label, known) in SETS.items():
            path = SHARED / "data" / f"{file}.h5ad"
            adata, numbers = _read(path, batch, label, 300 if quick else None)
            began = time.perf_counter()
            ours = _embed(model, path, numbers)
            found: dict[str, list[dict[str, float]]] = defaultdict(list)
            spent: dict[str, list[float]] = defaultdict(list, {"the model": [time.perf_counter() - began]})
            for seed in range(SEED, SEED + (1 if quick else SEEDS)):
                one = _run(adata, ours, python, folder, (seed, 5 if quick else EPOCHS))
                for method, scores in one["scores"].items():
                    found[method].append(scores)
                for method, seconds in one["seconds"].items():
                    spent[method].append(seconds)
            print(f"{title} done", flush=True)
            rows += [
                {"table": title, "method": method, "cells": adata.n_obs, **_told(scores),
                 "seconds": f"{np.mean(spent[method]):.3g}", "note": known if method == "the model" else ""}
                for method, scores in found.items()
            ]  # fmt: skip
    torch.set_num_threads(threads)
    return rows


def _read(path: Path, batch: str, label: str, most: int | None) -> tuple[ad.AnnData, np.ndarray]:
    """Return the cells of known batch and type, of which there are at least ten, and their places in the file."""
    import anndata as ad

    adata = ad.read_h5ad(path)
    known = (adata.obs[batch].notna() & adata.obs[label].notna()).to_numpy()
    common = adata.obs[label].astype(str).value_counts()
    known &= adata.obs[label].astype(str).isin(common[common >= 10].index).to_numpy()
    numbers = np.flatnonzero(known)
    if most is not None:
        numbers = np.sort(np.random.default_rng(SEED).permutation(numbers)[:most])
    adata = adata[numbers].copy()
    adata.obs["batch"], adata.obs["label"] = adata.obs[batch].astype(str), adata.obs[label].astype(str)
    return adata, numbers


def _embed(model: TrainedModel, path: Path, numbers: np.ndarray) -> np.ndarray:
    """Return the model's joint embedding of cells of a file, which is read as an ingest reads it."""
    from catalog.model_places import read_adata
    from model import InferenceOptions, embed

    return embed(model, read_adata(path, "human").cells, numbers, options=InferenceOptions(device="cpu")).values


def _run(adata: ad.AnnData, ours: np.ndarray, python: str, folder: Path, how: tuple[int, int]) -> dict[str, Any]:
    """Return scores and seconds by method from the peers' environment."""
    import scipy.sparse as sp

    counts = sp.csr_matrix(adata.X)
    np.savez(
        folder / "cells.npz", data=counts.data, indices=counts.indices, indptr=counts.indptr, shape=counts.shape,
        batch=adata.obs["batch"].to_numpy(str), label=adata.obs["label"].to_numpy(str), ours=ours,
    )  # fmt: skip
    # -P: the folder of benchmarks must not lie before the libraries, one of which is called coverage, too.
    command = [python, "-P", str(HERE / "integration_peers.py"), str(folder / "cells.npz"), str(folder / "scores.json")]
    done = subprocess.run([*command, *map(str, how)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError("\n".join(done.stderr.strip().splitlines()[-5:]))
    return json.loads((folder / "scores.json").read_text("utf-8"))


def _told(found: list[dict[str, float]]) -> dict[str, str]:
    """Return means with half of their intervals."""
    from scipy.stats import t

    out = {}
    for name in found[0]:
        values = [one[name] for one in found]
        half = (
            t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
        )
        out[name] = f"{np.mean(values):.3f}" + ("" if np.isnan(half) else f" ± {half:.3f}")
    return out
