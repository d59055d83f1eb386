"""What task_labels.py runs in CellTypist's own environment: train it on some cells, and name others by it.

A script by itself: nothing of panatlas is installed there. Reads one .npz of counts and classes, writes the classes of
the other cells as .npy. No file of CellTypist's own is read: its models hold pickles, so none is ever stored.
"""

from __future__ import annotations

import sys
import warnings

import anndata as ad
import celltypist
import numpy as np
import scanpy as sc
import scipy.sparse as sp


def main(given: str, made: str, seed: int) -> None:
    """Write the class that CellTypist tells of each cell asked for."""
    warnings.filterwarnings("ignore")
    with np.load(given, allow_pickle=False) as file:
        train, asked = (_normal(file, name) for name in ("train", "asked"))
        classes = file["classes"]
    # Its defaults, in two passes: the first finds the 300 genes of each class, the second learns from these alone.
    model = celltypist.train(
        train, labels=classes.astype(str), feature_selection=True, n_jobs=1, random_state=seed,
        check_expression=False,
    )  # fmt: skip
    told = celltypist.annotate(asked, model=model, mode="best match").predicted_labels["predicted_labels"]
    np.save(made, told.astype(str).astype(np.int64).to_numpy(), allow_pickle=False)


def _normal(file: np.lib.npyio.NpzFile, name: str) -> ad.AnnData:
    """Return cells as it wants them: log(1 + 10^4 share) of all genes."""
    parts = (file[f"{name}_data"].astype(np.float32), file[f"{name}_indices"], file[f"{name}_indptr"])
    adata = ad.AnnData(sp.csr_matrix(parts, shape=tuple(file[f"{name}_shape"])))
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    return adata


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
