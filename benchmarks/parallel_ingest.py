"""The same sources one after another and with worker processes: one content hash, and what it costs in CPU seconds.

Four sources of resampled real cells (ingest.py), one half of each two in the other as well, so that what is a copy
depends on the order. Ingested by the command line, each way as a process, its workers counted with it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SEED = 17
READS = ("starter:human",)
SOURCES = 4
CELLS = 10_000  # of each source
NOTES = (
    "CPU seconds are of the process and all its children. Both ways run on the same cores, which other work may share: "
    "`cpu_ratio` says what workers cost more, `wall_ratio` what they save where there are free cores.",
    "Doublets and neighbours are on: these are what workers do. `writer_cpu_s` is what is left to the one process that "
    "writes, whatever the number of workers.",
)
COLUMNS = ("what", "datasets", "cells", "copies", "wall_s", "cpu_s", "writer_cpu_s", "wall_ratio", "cpu_ratio",
           "same_content")  # fmt: skip


def make(folder: Path, n_cells: int) -> None:
    """Write the sources and their manifest."""
    import anndata as ad
    import pandas as pd
    import scipy.sparse as sp

    from benchmarks.ingest import read_real, resample

    real, rng = read_real(), np.random.default_rng(SEED)
    before: Any = None
    lines = []
    for number in range(SOURCES):
        picks = rng.integers(0, real.n_obs, n_cells)
        counts = resample(real.X, picks, rng)
        if before is not None:
            counts = sp.vstack([before[: n_cells // 2], counts[n_cells // 2 :]]).tocsr()
        before = counts if number % 2 == 0 else None
        frame = real.obs.iloc[picks].reset_index(drop=True)
        frame.index = pd.Index([f"cell{i}" for i in range(n_cells)])
        frame["sample"] = [f"sample{number}-{i}" for i in np.arange(n_cells) // 5_000]
        path = folder / f"source{number}.h5ad"
        ad.AnnData(counts, obs=frame, var=real.var).write_h5ad(path)
        lines += ["[[source]]", f'id = "part{number}"', 'organism = "human"', f'uri = "{path}"', 'format = "h5ad"', ""]
    (folder / "sources.toml").write_text("\n".join(lines))


def way(folder: Path, workers: int) -> None:
    """Ingest the manifest, and say what the atlas holds."""
    from atlas import IngestOptions, Workers, ingest, ingest_with, load_manifest

    sources, options, uri = load_manifest(folder / "sources.toml"), IngestOptions(), str(folder / f"atlas{workers}")
    began = time.monotonic()
    if workers:
        with ingest_with(Workers(count=workers), sources, uri, options) as one:
            receipts = [one(source) for source in sources]
    else:
        receipts = [ingest(source, uri, options) for source in sources]
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    own, theirs = (round(one.ru_utime + one.ru_stime, 1) for one in used)
    told = {"wall_s": round(time.monotonic() - began, 1), "cpu_s": round(own + theirs, 1), "writer_cpu_s": own}
    if any(receipt.status != "written" for receipt in receipts):
        sys.exit(f"not all were written: {receipts}")
    print(json.dumps(told | seen(uri)))


def seen(uri: str) -> dict[str, Any]:
    """Return what an atlas holds."""
    from atlas import content_hash, open_atlas

    atlas = open_atlas(uri)
    obs = atlas.query("human", every_cell=True).obs(["is_primary_data"])
    copies = int((~obs["is_primary_data"]).sum())
    return {"datasets": len(atlas.datasets), "cells": len(obs), "copies": copies, "hash": content_hash(atlas)}


def child(folder: Path, *arguments: object) -> str:
    """Run a step as a process and return what it printed."""
    command = [sys.executable, "-P", __file__, "--step", str(folder), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    """Return a row per way."""
    rows = []
    with tempfile.TemporaryDirectory(dir=os.environ.get("PANATLAS_BENCH_DIR")) as tmp:
        folder = Path(tmp)
        child(folder, "make", 300 if quick else CELLS)
        for workers, what in ((0, "one after another"), (2, "two workers")):
            rows.append({"what": what} | json.loads(child(folder, "way", workers).splitlines()[-1]))
    for row in rows:
        row["wall_ratio"] = round(row["wall_s"] / rows[0]["wall_s"], 2)
        row["cpu_ratio"] = round(row["cpu_s"] / rows[0]["cpu_s"], 2)
        row["same_content"] = row["hash"] == rows[0]["hash"]
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step", nargs=3, metavar=("FOLDER", "STEP", "NUMBER"), required=True)
    where_, step, number_ = parser.parse_args().step
    {"make": make, "way": way}[step](Path(where_), int(number_))
