"""The cells every loader reads: an atlas of ten studies, its release and pack, and the files that peers start from.

Cells are resampled from the starter source's real pancreas cells (see ingest.py) and stay in the real file's order,
so that neighbours in a file are of one donor, as in real studies. `cells.npz` holds what is known of them by cell
number: joinid, dataset, donor, joint label (`group`), the share of draws each joint label should have, each cell's
weight. Weighted means the sampler's default, s*n/(n+s) per joint label, worked out here from the formula.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks.ingest import read_real, resample

if TYPE_CHECKING:
    from pathlib import Path

    from loaders import Cells

SEED = 11
STUDIES, CELLS_EACH = 10, 2_500
"""Studies, and cells each has at least; of few cells fewer studies are made."""
LABELS = ("cell_type", "sex")
"""Their joint labels are balanced."""
SCALE = 500.0  # cells; the default of `Weighting`


def make_atlas(folder: Path, n_cells: int) -> None:
    """Make the atlas and its release; one study after the other, deleted once ingested."""
    import anndata as ad
    import pandas as pd

    from atlas import IngestOptions, Source, ingest
    from catalog import make_release

    real, rng = read_real(), np.random.default_rng(SEED)
    studies = min(STUDIES, n_cells // CELLS_EACH)
    for study in range(studies):
        picks = np.sort(rng.integers(0, real.n_obs, n_cells // studies))
        frame = real.obs.iloc[picks].reset_index(drop=True)
        frame.index = pd.Index([f"cell{i}" for i in range(len(picks))])
        frame["sample"] = frame["donor"]
        # Two donors of each sex; the file does not say, and a joint label wants more than one label.
        frame["sex"] = frame["donor"].isin(["human1", "human4"]).map({True: "male", False: "female"})
        path = folder / f"study{study}.h5ad"
        ad.AnnData(resample(real.X, picks, rng), obs=frame, var=real.var).write_h5ad(path)
        source = Source(id=f"study{study}", organism="human", uri=str(path), format="h5ad")
        receipt = ingest(source, str(folder / "atlas"), IngestOptions(doublets=False))
        assert receipt.status == "written", receipt.findings
        path.unlink()
    make_release(str(folder / "atlas"), "bench")


def make_files(folder: Path) -> None:
    """Write the cells of the pack as an uncompressed h5ad, and what is known of them."""
    from atlas import open_atlas
    from loaders import Pack

    known = describe(Pack(folder / "pack"))
    np.savez(folder / "cells.npz", **known)
    adata = open_atlas(str(folder / "atlas")).query("human").to_anndata(obs_columns=["soma_joinid", "cell_type"])
    assert np.array_equal(adata.obs["soma_joinid"], known["joinid"])
    adata.obs["cell_type"] = adata.obs["cell_type"].astype("category")
    adata.obs["cell"], adata.obs["group"] = known["cell"].astype(np.int32), known["group"].astype(np.int32)
    adata.write_h5ad(folder / "x.h5ad")


def describe(cells: Cells) -> dict[str, np.ndarray]:
    """Return what is known of cells, by number: labels, joint label, its share of the draws, weight of each cell."""
    columns = [np.asarray(cells.column(name)) for name in LABELS]
    _, group, sizes = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True, return_counts=True)
    group = group.ravel()
    shares = SCALE * sizes / (sizes + SCALE)
    shares /= shares.sum()
    known = {name: np.asarray(cells.column(name)) for name in ("joinid", "dataset", "donor", "cell_type")}
    return known | {"group": group, "shares": shares, "weight": (shares / sizes)[group], "cell": np.arange(len(group))}
