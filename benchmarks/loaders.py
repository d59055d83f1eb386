"""Cells out of an atlas in batches of 128: ours from packs and from the store, beside every peer, on the same cells.

Ten studies of resampled real pancreas cells (loader_cells.py); each loader in a process of its own, one thread
(loader_leg.py); legs and settings in loader_legs.py, peers in environments that are made and thrown away.
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
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.loader_legs import Leg

SEED = 11
READS = ("starter:human",)
SECONDS = 4.0  # a window, at least; buffers are waited for
LIMIT = 240  # seconds a leg may take in all
LONGEST = 1800  # seconds making the atlas may take
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS")
HERE = Path(__file__).resolve().parent
NOTES = (
    "Every loader hands out the counts and cell types of 128 cells at a time, in the cheapest form it has (`gives`). "
    "Shuffled: each cell once an epoch. Weighted: balanced over joint labels, with replacement, each loader by what it "
    "offers; where it offers nothing, its row says so.",
    "`cells_per_cpu_s` counts all threads and worker processes. The window opens after the first batch and holds whole "
    "buffers of loaders that have them. `peak_mib` is the sum of all processes' largest resident memory, mapped files "
    "included.",
    "How mixed a batch is: distinct datasets (of 10), donors (of 40) and blocks of 64 neighbouring cells, on average; "
    "`chi2_per_df` compares joint labels drawn with those asked for: about 1 for independent draws, less where no cell "
    "comes twice, more where cells come in lumps, repeat themselves or come at other weights.",
    "Cold: a loader's files are evicted from the page cache once it is open, which `cached_before` verifies; the first "
    "batches count, and the window ends after a quarter of the cells. `times_warm_tiledbsoma_ml` compares cells per "
    "second with tiledbsoma-ml's best on a warm cache. A virtual disk may have a cache of its own.",
    "`batches_equal_to_store`: batches of the timed window whose counts were compared with the store's, afterwards: "
    "some as they were handed out, all of them read again; of contexts, only those handed out.",
    "`copy_s`: seconds to write the copy of the cells that a loader needs beside the atlas (annbatch: two, the other "
    "for its class sampler); rows of the h5ad and of the store need none.",
    "Not run, because they cannot: tiledbsoma-ml weighted (it has no weighted sampler) and sparse with workers (it "
    "raises NotImplementedError; its rows with workers are dense), AnnLoader with workers (torch raises TypeError "
    "on what it hands out). Not run, because they would need more: annbatch with workers (torch for another Python), "
    "scDataLoader itself (a LaminDB instance; its way of reading, row by row, is measured instead). annbatch's rows of "
    "single cells at weights use a sampler of ours in its interface; its own mixes runs of one class.",
)
COLUMNS = (
    "loader", "workers", "gives", "cells_per_s", "cells_per_cpu_s", "times_tiledbsoma_ml", "times_annbatch",
    "times_warm_tiledbsoma_ml", "times_warm_annbatch", "first_batch_s", "peak_mib", "datasets", "donors", "blocks",
    "chi2_per_df", "batches_equal_to_store", "copy_s",
)  # fmt: skip


def prepare(what: str, folder: Path) -> None:
    """Make what legs read; called in a process of its own, in the environment of the side that reads it."""
    if what.startswith("atlas "):
        from benchmarks.loader_cells import make_atlas

        make_atlas(folder, int(what.split()[1]))
    elif what == "pack":
        from loaders import make_pack

        make_pack(str(folder / "atlas"), "bench", folder / "pack")
    elif what == "files":
        from benchmarks.loader_cells import make_files

        make_files(folder)
    elif what == "forget":  # the store's index stands in the user's cache
        from loaders import open_store_cells

        shutil.rmtree(open_store_cells(str(folder / "atlas"), "bench").path.parent)
    else:
        from benchmarks import loader_peers

        getattr(loader_peers, what)(folder)


def start(command: list[str], limit: float) -> subprocess.CompletedProcess[str]:
    """Run a child with one thread per library, this checkout on its path."""
    environment = {**os.environ, **dict.fromkeys(THREADS, "1"), "PYTHONPATH": str(HERE.parent)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=limit)


def make_cells(folder: Path, n_cells: int, environments: dict[str, str]) -> dict[str, float]:
    """Make all that is read, and return how many seconds each copy of the cells took, by the file it is in."""
    steps = [
        ("atlas", f"atlas {n_cells}", "own"),
        ("pack", "pack", "own"),
        ("x.h5ad", "files", "own"),
        ("shuffled.zarr", "write_annbatch", "annbatch"),
        ("scdl", "write_scdl", "peers"),
    ]
    took = {}
    for file, what, environment in steps:
        python = environments[environment]
        if python.startswith("not run"):
            continue
        began = time.monotonic()
        done = start([python, "-P", __file__, "--prepare", what, str(folder)], LONGEST)
        took[file] = round(time.monotonic() - began, 1)
        if done.returncode and environment == "own":
            raise RuntimeError(f"{file}: {done.stderr[-2000:]}")
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            environments[environment] = f"not run: its copy of the cells failed ({last[:160]})"
    return {file: took[file] for file in ("pack", "shuffled.zarr", "scdl") if file in took}


def run_leg(leg: Leg, folder: Path, environments: dict[str, str], *, seconds: float, cold: int) -> dict[str, Any]:
    """Return the row of one loader; a peer that fails says so in its row, ours ends the run."""
    table = "cold cache" if leg.cache == "cold" else "worker processes" if leg.workers else "warm cache, one process"
    if not leg.mixed:
        table = "decoding alone"
    row: dict[str, Any] = {"table": table, "loader": leg.loader, "gives": leg.gives}
    python = environments[leg.environment]
    if python.startswith("not run"):
        return row | {"note": python}
    asked = json.dumps(asdict(leg) | {"seconds": seconds, "cells": cold})
    try:
        done = start([python, "-P", str(HERE / "loader_leg.py"), asked, str(folder)], LIMIT)
    except subprocess.TimeoutExpired:
        if leg.prove:
            raise
        return row | {"note": f"not run: no end within {LIMIT} s"}
    if done.returncode:
        if leg.prove:
            raise RuntimeError(f"{leg.loader}: {done.stderr[-2000:]}")
        return row | {"note": "failed: " + (done.stderr.strip().splitlines() or ["no message"])[-1][:160]}
    if leg.workers:
        row["workers"] = leg.workers
    return row | json.loads(done.stdout.splitlines()[-1])


def add_ratios(rows: list[dict[str, Any]]) -> None:
    """Add to each row how many times the best rows of tiledbsoma-ml and annbatch it is, warm and without workers."""
    warm = [row for row in rows if row["table"].startswith("warm") and "cells_per_s" in row]
    for peer in ("tiledbsoma-ml", "annbatch"):
        mine = [row for row in warm if row["loader"].startswith(peer)]
        if not mine:
            continue
        best, name = max(row["cells_per_cpu_s"] for row in mine), peer.replace("-", "_")
        fastest = max(row["cells_per_s"] for row in mine)
        for row in rows:
            if "cells_per_s" in row and row["table"] == "cold cache":
                row[f"times_warm_{name}"] = round(row["cells_per_s"] / fastest, 1)
            elif "cells_per_s" in row and row["table"] != "decoding alone":
                row[f"times_{name}"] = round(row["cells_per_cpu_s"] / best, 1)


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    """Return one row per loader."""
    from benchmarks.loader_environments import make_environments
    from benchmarks.loader_legs import OUR_LEGS, PEER_LEGS

    n_cells, seconds = (10_000, 0.7) if quick else (100_000, SECONDS)
    rows = []
    with tempfile.TemporaryDirectory(dir=os.environ.get("PANATLAS_BENCH_DIR")) as tmp:
        folder = Path(tmp)
        environments = make_environments(folder)
        took = make_cells(folder, n_cells, environments)
        for leg in (*OUR_LEGS, *PEER_LEGS):
            if quick and leg.also:
                continue
            row = run_leg(leg, folder, environments, seconds=seconds, cold=n_cells // 4)
            copies = [took[file] for file in leg.files if file in took]
            rows.append(row | {"cells": n_cells} | ({"copy_s": copies[0]} if copies else {}))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        start([sys.executable, "-P", __file__, "--prepare", "forget", str(folder)], LIMIT)
    add_ratios(rows)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prepare", nargs=2, metavar=("WHAT", "FOLDER"), required=True)
    what, where = parser.parse_args().prepare
    prepare(what, Path(where))
