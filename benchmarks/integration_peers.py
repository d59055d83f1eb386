"""What integration.py runs in the environment of the peers: PCA, Harmony, scVI, and scib-metrics over all embeddings.

A script by itself: nothing of panatlas is installed there. Reads one .npz, writes one .json.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import scanpy as sc
import scipy.sparse as sp

GENES, COMPONENTS = 2_000, 50


def main(given: str, made: str, seed: int, epochs: int) -> None:
    """Embed the cells by every method and write the scores of each."""
    warnings.filterwarnings("ignore")
    with np.load(given, allow_pickle=False) as file:
        counts = sp.csr_matrix((file["data"], file["indices"], file["indptr"]), shape=tuple(file["shape"]))
        batch, label, ours = file["batch"], file["label"], file["ours"]
    adata = ad.AnnData(counts.astype(np.float32))
    adata.obs["batch"], adata.obs["label"] = batch.astype(str), label.astype(str)
    for column in ("batch", "label"):
        adata.obs[column] = adata.obs[column].astype("category")
    adata.layers["counts"] = adata.X.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=min(GENES, adata.n_vars), batch_key="batch")
    adata = adata[:, adata.var["highly_variable"]].copy()
    seconds: dict[str, float] = {}
    adata.obsm["the model"] = ours
    for name, method in (("PCA", _pca), ("Harmony", _harmony), ("scVI", _scvi)):
        began = time.perf_counter()
        adata.obsm[name] = np.asarray(method(adata, seed, epochs), dtype=np.float32)
        seconds[name] = time.perf_counter() - began
    Path(made).write_text(json.dumps({"scores": _scores(adata), "seconds": seconds}), encoding="utf-8")


def _pca(adata: ad.AnnData, seed: int, _: int) -> np.ndarray:
    return sc.pp.pca(adata.X, n_comps=COMPONENTS, random_state=seed)


def _harmony(adata: ad.AnnData, seed: int, _: int) -> np.ndarray:
    import harmonypy

    found = np.asarray(harmonypy.run_harmony(adata.obsm["PCA"], adata.obs, "batch", random_state=seed).Z_corr)
    return found if found.shape[0] == adata.n_obs else found.T


def _scvi(adata: ad.AnnData, seed: int, epochs: int) -> np.ndarray:
    import scvi

    scvi.settings.seed = seed
    mine = adata.copy()
    scvi.model.SCVI.setup_anndata(mine, layer="counts", batch_key="batch")
    model = scvi.model.SCVI(mine)
    model.train(accelerator="cpu", enable_progress_bar=False, max_epochs=epochs or None)
    return model.get_latent_representation()


def _scores(adata: ad.AnnData) -> dict[str, dict[str, float]]:
    """Return scib-metrics' scores, unscaled, with its default weights; the uncorrected embedding is PCA's."""
    from scib_metrics.benchmark import Benchmarker

    methods = ["the model", "PCA", "Harmony", "scVI"]
    adata.obsm["X_pca"] = adata.obsm["PCA"]
    bench = Benchmarker(
        adata, batch_key="batch", label_key="label", embedding_obsm_keys=methods,
        pre_integrated_embedding_obsm_key="X_pca", n_jobs=1, progress_bar=False,
    )  # fmt: skip
    bench.benchmark()
    table = bench.get_results(min_max_scale=False)
    return {name: {str(column): float(table.loc[name, column]) for column in table.columns} for name in methods}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
