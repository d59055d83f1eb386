"""Packs from 10^5 to 2·10^6 cells at full depth, warm and cold, and index, offsets and sampler of 10^7.

Cells are resampled real ones (ingest.py), a pool of which is packed again and again: every cell has bytes of its own on
the disk. Written, opened and drawn from as any pack; each row a process of its own, one thread (loader_leg.py).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from loaders import PackedCells

SEED = 11
READS = ("starter:human",)
BLOCK = 10_000  # cells packed at once
POOL = 5 * BLOCK
SIZES = (100_000, 500_000, 2_000_000)
INDEX = 10_000_000
SECONDS = 10.0  # in the first seconds, pages that are in memory are still being mapped
WINDOW = 8192
COLD = 100_000  # draws from a cold cache: a twentieth of the largest pack
NOTES = (
    "The packs hold 13 cell types in 2 sexes at their real, very unequal frequencies, and the draws are balanced over "
    "them, so most cells are drawn rarely and some often. Warm: read before, as a whole.",
    "Cold: the pack's files are evicted, verified by `cached_before`; `disk_mib` is what was fetched for the draws. "
    "A virtual disk may have a cache of its own.",
    "10^7 cells without counts have index, offsets, columns and groups of full size; what is read of each is empty.",
)
COLUMNS = ("what", "cells", "gives", "cells_per_s", "cells_per_cpu_s", "first_batch_s", "peak_mib")


def make_pool(folder: Path) -> None:
    """Write the pool: counts of resampled real cells, and their labels and donors as numbers."""
    import pandas as pd
    import scipy.sparse as sp

    from benchmarks.ingest import read_real, resample

    real, rng = read_real(), np.random.default_rng(SEED)
    picks = rng.integers(0, real.n_obs, POOL)
    sp.save_npz(folder / "counts.npz", resample(real.X, picks, rng), compressed=False)
    labels = {name: pd.factorize(real.obs[name])[0][picks] for name in ("cell_ontology_id", "donor")}
    np.savez(folder / "labels.npz", cell_type=labels["cell_ontology_id"], donor=labels["donor"])


def make_pack(folder: Path, pool: Path, n_cells: int, *, counts: bool) -> dict[str, float]:
    """Write a pack of so many cells, the pool over and over; without counts every record is empty."""
    import pandas as pd
    import scipy.sparse as sp

    from loaders import PackWriter, encode_cells

    labels = np.load(pool / "labels.npz")
    rows = sp.load_npz(pool / "counts.npz")
    if not counts:
        rows = sp.csr_matrix(rows.shape, dtype=np.float32)
    blocks = [encode_cells(rows[first : first + BLOCK]) for first in range(0, POOL, BLOCK)]
    words = {"dataset": [f"study{i}" for i in range(10)], "donor": [f"donor{i}" for i in range(4)]}
    words["cell_type"] = [f"type{i}" for i in range(labels["cell_type"].max() + 1)]
    words |= {"sex": ["male", "female"], "organism": ["NCBITaxon:9606"]}
    about = {"release": "scale", "organisms": [{"organism": "homo_sapiens", "genes_sha256": ""}], "vocabulary": words}
    began = time.monotonic()
    with PackWriter(folder / "pack", about) as writer:
        for first in range(0, n_cells, BLOCK):
            some = slice(first % POOL, first % POOL + BLOCK)
            write_block(writer, blocks[first % POOL // BLOCK], first, labels["cell_type"][some], labels["donor"][some])
        ids = [f"gene{i}" for i in range(rows.shape[1])]
        writer.write_genes(pd.DataFrame({"organism": 0, "feature_id": ids, "feature_name": ids}))
    spent = time.monotonic() - began
    size = sum(file.stat().st_size for file in (folder / "pack").rglob("*") if file.is_file())
    return {"write_s": round(spent, 1), "pack_mib": round(size / 2**20)}


def write_block(writer: Any, records: PackedCells, first: int, cell_type: np.ndarray, donor: np.ndarray) -> None:
    """Add one block of cells."""
    n = len(records)
    columns = {name: np.zeros(n, np.int32) for name in ("organism",)}
    columns |= {"split": np.zeros(n, np.uint8), "joinid": np.arange(first, first + n), "donor": donor.astype(np.int32)}
    columns |= {"dataset": np.full(n, first // BLOCK % 10, np.int32), "cell_type": cell_type.astype(np.int32)}
    columns["sex"] = (donor % 2).astype(np.int32)
    writer.append(columns)
    writer.append_records(records)


def open_pack(folder: Path) -> dict[str, float]:
    """Read a pack once, so that it is in memory, open it twice, and write what is known of its cells."""
    from benchmarks.loader_cells import describe
    from loaders import Pack

    for file in (folder / "pack").rglob("*"):
        if file.is_file():
            with file.open("rb") as stream:
                while stream.read(1 << 24):
                    pass
    times = []
    for _ in range(2):
        began = time.monotonic()
        pack = Pack(folder / "pack")
        times.append(round(time.monotonic() - began, 2))
    np.savez(folder / "cells.npz", **describe(pack))
    return {"open_s": times[0], "open_again_s": times[1]}


def index_row(folder: Path) -> dict[str, Any]:
    """Return what it takes to group the cells of an index, to draw from it and to look their records up."""
    from benchmarks.loader_ours import sampler_of
    from loaders import Pack

    pack = Pack(folder / "pack")
    began = time.monotonic()
    sampler = sampler_of(folder, pack, "weighted")
    sampler.draw(0, 0, 128)
    grouped = time.monotonic() - began
    row = {"group_s": round(grouped, 2), "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}
    for name, step in (("draws_per_cpu_s", lambda cells: cells), ("lookups_per_cpu_s", pack.read)):
        step(sampler.draw(0, 0, WINDOW))
        began, n = time.process_time(), 0
        while time.process_time() - began < 1:
            step(sampler.draw(0, n % (len(sampler) - WINDOW), WINDOW))
            n += WINDOW
        row[name] = round(n / (time.process_time() - began))
    return row


def prove_pool(folder: Path, kept: list[Any], seen: list[np.ndarray]) -> int:
    """Compare every batch of the window with the pool; return how many were equal."""
    import scipy.sparse as sp

    from benchmarks.loader_ours import decoded, differs
    from loaders import Pack

    counts, pack = sp.load_npz(folder.parent / "counts.npz"), Pack(folder / "pack")
    for batch, numbers in kept:
        if differs(decoded(batch), counts[numbers % POOL]):
            sys.exit("a batch differs from what was packed")
    for numbers in seen:
        if differs(pack.read(numbers).decode(), counts[numbers % POOL]):
            sys.exit("a batch that was read again differs from what was packed")
    return len(seen)


def child(step: str, folder: Path, *arguments: object) -> dict[str, Any]:
    """Run one step in a process of its own and return what it says."""
    from benchmarks.loaders import LONGEST, start

    done = start([sys.executable, "-P", __file__, "--step", step, str(folder), *map(str, arguments)], LONGEST)
    if done.returncode:
        raise RuntimeError(f"{step}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def legs() -> list[Any]:
    """Return the rows of a pack."""
    from benchmarks.loader_legs import OURS, Leg

    proof = "benchmarks.loaders_scale:prove_pool"
    more = {"draw": "weighted", "setting": {"where": "packs"}, "files": ("pack",), "prove": proof}
    return [
        Leg("packed weighted, warm", f"{OURS}records", gives="packed records", **more),
        Leg("csr weighted, warm", f"{OURS}rows", **more),
        Leg("packed weighted, cold", f"{OURS}records", gives="packed records", cache="cold", **more),
    ]


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    """Return rows per size of pack, and one of the index."""
    from benchmarks.loaders import run_leg

    rows = []
    sizes, index, seconds = ((BLOCK, POOL), 2 * POOL, 0.7) if quick else (SIZES, INDEX, SECONDS)
    with tempfile.TemporaryDirectory(dir=os.environ.get("PANATLAS_BENCH_DIR")) as tmp:
        pool = Path(tmp)
        child("pool", pool)
        for n_cells in (*sizes, index):
            folder = pool / "cells"
            folder.mkdir()
            whole = n_cells in sizes
            row = {"what": f"{n_cells:,} cells" + ("" if whole else ", no counts"), "cells": n_cells}
            row |= child("pack", folder, n_cells, "counts" if whole else "none") | child("open", folder)
            rows.append(row if whole else row | child("index", folder))
            for leg in legs() if whole else ():
                found = run_leg(leg, folder, {"own": sys.executable}, seconds=seconds, cold=min(COLD, n_cells // 4))
                del found["table"]
                rows.append({"what": f"{n_cells:,} cells, {found.pop('loader')}", "cells": n_cells} | found)
            shutil.rmtree(folder)
    return rows


def run_step(step: str, folder: Path, arguments: list[str]) -> dict[str, Any]:
    """Run one step, in its process."""
    if step == "pool":
        make_pool(folder)
        return {}
    if step == "pack":
        return make_pack(folder, folder.parent, int(arguments[0]), counts=arguments[1] == "counts")
    return {"open": open_pack, "index": index_row}[step](folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step", nargs="+", metavar=("STEP", "FOLDER"), required=True)
    step, where, *arguments = parser.parse_args().step
    print(json.dumps(run_step(step, Path(where), arguments)))
