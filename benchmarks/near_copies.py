"""Near-copies on real cells: how many planted copies are found, and how many different cells are taken for copies.

Planted: a share of each cell's molecules is moved to genes drawn from the dataset's mean profile. Different: every two
cells of one dataset, each taken to be of a dataset of its own, which is the hardest case: cells of one type, of one
donor, in one batch. The second table audits an atlas of real files that share cells. Skips files that are not there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SEED = 0
READS = ("data/*.h5ad",)
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
FILES = {
    "Baron, human pancreas, inDrop": "human_pancreas_baron_cxg7.h5ad",
    "PBMC 3k, 10x": "human_pbmc3k_10x.h5ad",
    "Kang, PBMC, 10x": "human_pbmc_ifnb_kang_unlabelled11k.h5ad",
    "heart, single nuclei": "human_heart_SAN_cxg.h5ad",
    "Paul, mouse bone marrow, 3,004 genes": "mouse_bonemarrow_paul2015.h5ad",
    "Packer, worm embryo": "celegans_embryo_packer2019_cxg7.h5ad",
    "thale cress, 7,000 genes": "arabidopsis_scplant.h5ad",
    "Xenium, mouse brain, 248 genes": "raw/mouse_brain_xenium36k.cell_feature_matrix.10x.h5",
}
AUDITED = {
    "kang-labelled": "human_pbmc_ifnb_kang_labelled2800.h5ad",
    "kang-unlabelled": "human_pbmc_ifnb_kang_unlabelled11k.h5ad",
    "pbmc3k-10x": "human_pbmc3k_10x.h5ad",
    "pbmc3k-labelled": "human_pbmc3k_labelled.h5ad",
    "liao-labelled": "human_bal_covid_liao_C144C149_labelled.h5ad",
    "liao-raw": "raw/human_bal_covid_liao_C144.10x.h5",
}
SHARES = (0.01, 0.02, 0.05, 0.10)
MOST = 4_000  # cells of a file, drawn at random
NOTES = (
    "`found` is the share of copies whose pair the audit names, at that share of moved molecules. `taken for copies` "
    "counts pairs of different cells with at least 85 % of their molecules in common among those that share a key; "
    "`closest` is the largest such share. Cells with fewer than 100 genes are left out.",
)


def read_counts(path: Path, rng: np.random.Generator) -> tuple[Any, list[str]]:
    """Return at most `MOST` cells with 100 genes or more, CSR, and their genes."""
    import scipy.sparse as sp

    from atlas import source_from_uri
    from atlas.read import open_source

    with open_source(source_from_uri(str(path), "human"), path) as cells:
        counts = sp.vstack([block for _, block in cells.blocks()]).tocsr()
        genes = [str(name) for name in cells.gene_names]
    rows = np.flatnonzero(np.diff(counts.indptr) >= 100)
    return counts[np.sort(rng.permutation(rows)[:MOST])], genes


def move(counts: Any, share: float, rng: np.random.Generator) -> Any:
    """Return the cells with a share of their molecules moved to genes drawn from the mean profile."""
    import scipy.sparse as sp

    mean = np.asarray(counts.sum(axis=0), dtype=float).ravel()
    edges = np.cumsum(mean / mean.sum())
    kept = counts.copy()
    kept.data = rng.binomial(counts.data.astype(np.int64), 1 - share).astype(np.float32)
    lost = np.asarray(counts.sum(axis=1) - kept.sum(axis=1)).ravel().astype(int)
    rows = np.repeat(np.arange(counts.shape[0]), lost)
    genes = np.searchsorted(edges, rng.random(lost.sum())).clip(0, counts.shape[1] - 1)
    moved = (kept + sp.csr_matrix((np.ones(len(rows), np.float32), (rows, genes)), shape=counts.shape)).tocsr()
    moved.eliminate_zeros()
    moved.sort_indices()
    return moved


def shared_molecules(one: Any, other: Any) -> np.ndarray:
    """Return the share of molecules that cells have in common, row by row."""
    both = np.asarray(one.minimum(other).sum(axis=1)).ravel()
    return both / np.maximum(np.asarray(one.sum(axis=1)), np.asarray(other.sum(axis=1))).ravel()


def planted(name: str, path: Path) -> dict[str, Any]:
    """Return one dataset's row."""
    from atlas.copy_sketch import band_keys, candidate_pairs, element_hashes
    from atlas.identity import gene_keys
    from atlas.near_copies import CELLS, MIN_SHARED

    rng = np.random.default_rng(SEED)
    counts, genes = read_counts(path, rng)
    hashes = element_hashes(gene_keys(genes)[0])

    def sketch(cells: Any) -> np.ndarray:
        return np.concatenate([band_keys(cells[i : i + CELLS], hashes) for i in range(0, cells.shape[0], CELLS)])

    began = time.process_time()
    keys = sketch(counts)
    spent = time.process_time() - began
    pairs, untested = candidate_pairs(keys, np.arange(len(keys)))
    shares = [
        shared_molecules(counts[p[:, 0]], counts[p[:, 1]]) for p in np.array_split(pairs, len(pairs) // CELLS + 1)
    ]
    shared = np.concatenate(shares) if len(pairs) else np.zeros(1)
    row: dict[str, Any] = {
        "table": "planted copies and different cells",
        "what": name,
        "cells": len(keys),
        "genes a cell": int(np.median(np.diff(counts.indptr))),
        "molecules a cell": int(np.median(np.asarray(counts.sum(axis=1)))),
    }
    for share in SHARES:
        moved = move(counts, share, rng)
        hit = (sketch(moved) == keys).any(axis=1) & (shared_molecules(counts, moved) >= MIN_SHARED)
        row[f"found at {share:.0%}"] = round(float(hit.mean()), 4)
    return row | {
        "pairs of different cells": len(keys) * (len(keys) - 1) // 2,
        "compared": len(pairs),
        "untested": untested,
        "taken for copies": int((shared >= MIN_SHARED).sum()),
        "closest": round(float(shared.max()), 2),
        "sketched_per_cpu_s": round(len(keys) / spent),
    }


def audited(files: dict[str, Path]) -> list[dict[str, Any]]:
    """Return what the audit says of an atlas of files that share cells."""
    from atlas import IngestOptions, Source, find_near_copies, ingest, open_atlas

    with tempfile.TemporaryDirectory() as folder:
        for name, path in files.items():
            source = Source("human", str(path), id=name)
            receipt = ingest(source, folder + "/atlas", IngestOptions(doublets=False, neighbours=False))
            assert receipt.status == "written", receipt.findings
        began = time.process_time()
        found = find_near_copies(open_atlas(folder + "/atlas"), "human")
        spent = time.process_time() - began
        rows = [
            {
                "table": "an atlas of files that share cells",
                "what": f"{one.dataset_a} and {one.dataset_b}, {one.kind}",
                "pairs": one.pairs,
                "median share": round(float(one.shared), 3),
            }
            for one in found.by_datasets().itertuples()
        ]
        what = f"all: {found.cells:,} cells, {found.candidates:,} pairs compared, {spent:.0f} CPU seconds"
        return [*rows, {"table": "an atlas of files that share cells", "what": what, "pairs": len(found.pairs)}]


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    """Return the rows; `quick` takes the first file only."""
    there = {name: DATA / file for name, file in FILES.items() if (DATA / file).exists()}
    rows = [planted(name, path) for name, path in list(there.items())[: 1 if quick else None]]
    both = {name: DATA / file for name, file in AUDITED.items() if (DATA / file).exists()}
    return rows if quick or not both else rows + audited(both)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    print(json.dumps(main(quick=parser.parse_args().quick), indent=1))
