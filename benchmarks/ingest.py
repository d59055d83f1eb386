"""Ingest of one large source beside `tiledbsoma.io` registration + `from_h5ad`, both as processes of one run.

The source is resampled from the starter source's real pancreas cells: a real cell's counts are redrawn gene by gene
(Poisson), so depth and sparsity are real and every cell is new. Both sides read the same gzip-free h5ad.

Ours does more in its time: proves every value, maps genes, harmonises labels, measures QC, hashes, looks for copies,
writes every cell a second time as a record, and reads everything back. Neighbours and doublets are rows of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SEED = 0
READS = ("starter:human",)
BLOCK = 5_000  # cells made at once
PEER = "tiledbsoma.io register + from_h5ad"
OURS = {
    "panatlas": (False, False),
    "panatlas with neighbours": (True, False),
    "panatlas with neighbours and doublets": (True, True),
}
"""Name of a row of ours to whether neighbours are found and doublets scored."""
NOTES = (
    "CPU-seconds are of all threads, user and system. Each row is a process of its own, imports and the loading of "
    "ontologies included; loops are compiled beforehand, once per installation.",
    "`x_bytes_per_nnz` and `record_bytes_per_nnz` are of all files of the array.",
)


def read_real() -> Any:
    """Return the starter source's real pancreas cells: AnnData, counts as CSR."""
    import anndata as ad
    import pandas as pd
    import scipy.sparse as sp

    from atlas import starter_sources
    from atlas.fetch import fetch_source
    from atlas.read import open_source

    source = starter_sources("human")[0]
    with open_source(source, fetch_source(source)) as cells:
        counts = sp.vstack([block for _, block in cells.blocks()]).tocsr()
        return ad.AnnData(counts, obs=cells.obs, var=pd.DataFrame(index=list(cells.gene_names)))


def resample(counts: Any, picks: np.ndarray, rng: np.random.Generator) -> Any:
    """Return a new cell (CSR row, float32) for each picked real one: its counts redrawn gene by gene."""
    import scipy.sparse as sp

    parts = []
    for start in range(0, len(picks), BLOCK):
        part = counts[picks[start : start + BLOCK]].astype(np.float32)
        part.data = rng.poisson(part.data).astype(np.float32)
        part.eliminate_zeros()
        parts.append(part)
    return sp.vstack(parts).tocsr()


def make_source(path: Path, n_cells: int) -> dict[str, float]:
    """Write `n_cells` resampled cells as h5ad, and return what they are."""
    import anndata as ad
    import pandas as pd

    real = read_real()
    rng = np.random.default_rng(SEED)
    picks = rng.integers(0, real.n_obs, n_cells)
    counts = resample(real.X, picks, rng)
    frame = real.obs.iloc[picks].reset_index(drop=True)
    frame.index = pd.Index([f"cell{i}" for i in range(n_cells)])
    frame["sample"] = [f"sample{i}" for i in np.arange(n_cells) // 5_000]
    ad.AnnData(counts, obs=frame, var=real.var).write_h5ad(path)
    return {
        "genes": real.n_vars,
        "nnz_per_cell": round(counts.nnz / n_cells, 1),
        "h5ad_mib": round(path.stat().st_size / 2**20, 1),
    }


def leg(name: str, source: Path, out: Path) -> None:
    """Run one side, or make the source; called in a process of its own."""
    if name == "make":
        print(json.dumps(make_source(source, int(out.name))))
        return
    if name.startswith("panatlas"):
        from atlas import IngestOptions, Source, ingest

        neighbours, doublets = OURS[name]
        receipt = ingest(
            Source(id="bench", organism="human", uri=str(source), format="h5ad"), str(out),
            IngestOptions(neighbours=neighbours, doublets=doublets),
        )  # fmt: skip
        if receipt.status != "written":
            sys.exit(f"{receipt.status}: {receipt.findings}")
        return
    import tiledbsoma.io

    names = {"obs_field_name": "obs_id", "var_field_name": "var_id"}
    mapping = tiledbsoma.io.register_h5ads(None, [str(source)], measurement_name="RNA", **names)
    tiledbsoma.io.from_h5ad(str(out), str(source), measurement_name="RNA", registration_mapping=mapping)


def measure(name: str, source: Path, out: Path, n_cells: int) -> dict[str, Any]:
    """Run one side as a process and return its row: wall, CPU, peak memory, bytes."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-P", __file__, "--leg", name, str(source), str(out)])
    _, status, usage = os.wait4(process.pid, 0)  # this process' own usage, which subprocess does not tell
    wall = time.monotonic() - began
    if status:
        raise RuntimeError(f"{name} ended with status {status}")
    cpu = usage.ru_utime + usage.ru_stime
    return {
        "what": name, "cells": n_cells, "wall_s": round(wall, 1), "cpu_s": round(cpu, 1),
        "cells_per_s": round(n_cells / wall, 1), "cells_per_cpu_s": round(n_cells / cpu, 1),
        "peak_mib": round(usage.ru_maxrss / 1024, 1), "store_mib": round(size_of(out) / 2**20, 1),
    }  # fmt: skip


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    """Return one row per side, ours with the ratio to the peer."""
    n_cells = 2_000 if quick else 200_000
    with tempfile.TemporaryDirectory(dir=os.environ.get("PANATLAS_BENCH_DIR")) as tmp:
        folder = Path(tmp)

        def make(cells: int) -> dict[str, float]:
            # In a process of its own: a child's peak memory starts from its parent's, which must therefore stay small.
            command = [sys.executable, "-P", __file__, "--leg", "make", str(folder / f"{cells}.h5ad"), str(cells)]
            return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

        make(300)
        measure("panatlas", folder / "300.h5ad", folder / "compiled", 300)
        made, rows = make(n_cells), []
        nnz = made["nnz_per_cell"] * n_cells
        for name in (*OURS, PEER):
            out = folder / "out"
            row = measure(name, folder / f"{n_cells}.h5ad", out, n_cells) | made
            ms = out / "census_data" / "homo_sapiens" / "ms" / "RNA" if name in OURS else out / "ms" / "RNA"
            row["x_bytes_per_nnz"] = round(size_of(ms / "X") / nnz, 3)
            if name in OURS:
                row["record_bytes_per_nnz"] = round(size_of(ms / "records") / nnz, 3)
            rows.append(row)
            shutil.rmtree(out)
    peer = rows[-1]
    for row in rows:
        row["times_peer_cells_per_cpu_s"] = round(row["cells_per_cpu_s"] / peer["cells_per_cpu_s"], 2)
        row["share_of_peer_memory"] = round(row["peak_mib"] / peer["peak_mib"], 2)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--leg", nargs=3, metavar=("NAME", "SOURCE", "OUT"), required=True)
    name, source, out = parser.parse_args().leg
    leg(name, Path(source), Path(out))
