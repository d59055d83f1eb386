"""Sources of any number of cells for atlas_scale.py, each made on its own: real profiles, whole or thinned, redrawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

POOL = 20_000  # thinned profiles that are redrawn
POOL_GENES = 420  # genes of one; about two thirds of them have counts in a cell that is redrawn from it


def pool_of(name: str, folder: Path, seed: int) -> tuple[Any, Any]:
    """Return profiles to redraw cells from, AnnData's obs and CSR counts, made once for a store."""
    import pandas as pd
    import scipy.sparse as sp

    from benchmarks.ingest import read_real

    if not (folder / f"{name}.obs.parquet").exists():
        real = read_real()
        counts, obs = real.X.tocsr(), real.obs.reset_index(drop=True)
        if name == "thin":
            rng = np.random.default_rng(seed)
            picks = rng.integers(0, real.n_obs, POOL)
            counts, obs = thin(counts[picks], rng), obs.iloc[picks].reset_index(drop=True)
        sp.save_npz(folder / f"{name}.npz", counts, compressed=False)
        real.var.to_parquet(folder / f"{name}.var.parquet")
        obs.to_parquet(folder / f"{name}.obs.parquet")
    return pd.read_parquet(folder / f"{name}.obs.parquet"), sp.load_npz(folder / f"{name}.npz")


def thin(counts: Any, rng: np.random.Generator) -> Any:
    """Return cells with each count thinned by chance, to `POOL_GENES` genes or fewer."""
    import scipy.sparse as sp

    rows = []
    for row in counts:
        share = min(1.0, POOL_GENES / row.nnz)
        while True:
            drawn = row.copy()
            drawn.data = rng.binomial(row.data.astype(np.int64), share).astype(np.float32)
            drawn.eliminate_zeros()
            if drawn.nnz <= POOL_GENES:
                break
            share *= 0.97
        rows.append(drawn)
    return sp.vstack(rows).tocsr()


def make(name: str, folder: Path, number: int, n_cells: int, seed: int) -> dict[str, float]:
    """Write one source and return its non-zero counts."""
    import anndata as ad
    import pandas as pd

    from benchmarks.ingest import resample

    obs, counts = pool_of(name, folder, seed)
    rng = np.random.default_rng([seed, number])
    picks = rng.integers(0, counts.shape[0], n_cells)
    cells = resample(counts, picks, rng)
    frame = obs.iloc[picks].reset_index(drop=True)
    frame.index = pd.Index([f"cell{i}" for i in range(n_cells)])
    frame["sample"] = [f"sample{number}-{i}" for i in np.arange(n_cells) // 5_000]
    var = pd.read_parquet(folder / f"{name}.var.parquet")
    ad.AnnData(cells, obs=frame, var=var).write_h5ad(folder / "source.h5ad")
    return {"nonzeros": int(cells.nnz)}
