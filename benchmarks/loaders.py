"""Cells out of an atlas in batches of 128: our packs beside tiledbsoma-ml, AnnLoader and sparse rows in memory.

One atlas of resampled real pancreas cells (see ingest.py) is made, released and packed; every loader reads the same
cells in a process of its own, warm cache, one thread, after its first batch. Weighted means balanced over joint labels,
with replacement; peers that have no weighted sampler are asked for shuffled batches, which is less work. Every batch of
ours is compared with the store afterwards, outside the timed window.
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
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

SEED = 11
BATCH = 128
WINDOW = 64 * BATCH  # positions our loaders plan at once
SECONDS = 6.0


def prepare(folder: Path, n_cells: int) -> None:
    """Make the atlas, its release, the pack and an uncompressed h5ad of the same cells."""
    from atlas import IngestOptions, Source, ingest, open_atlas
    from benchmarks.ingest import make_source
    from catalog import make_release
    from loaders import make_pack

    make_source(folder / "source.h5ad", n_cells)
    source = Source(id="bench", organism="human", uri=str(folder / "source.h5ad"), format="h5ad")
    ingest(source, str(folder / "atlas"), IngestOptions(doublets=False))
    make_release(str(folder / "atlas"), "bench")
    make_pack(str(folder / "atlas"), "bench", folder / "pack")
    open_atlas(str(folder / "atlas")).query("human").to_anndata(obs_columns=["cell_type"]).write_h5ad(folder / "x.h5ad")


def ours(folder: Path, kind: str, decoded: bool) -> Iterator[Any]:
    """Yield batches from the pack."""
    from loaders import Pack, Sampler, SamplerConfig, build_groups

    pack = Pack(folder / "pack")
    labels = np.stack([pack.column(name) for name in ("cell_type", "sex", "donor")], axis=1)
    groups, codes = np.unique(labels, axis=0, return_inverse=True)
    config = SamplerConfig(kind=kind, seed=SEED)
    sampler = Sampler(build_groups([codes.ravel()], len(groups), len(pack)), config, release=pack.fingerprint)
    epoch = 0
    while True:
        for start in range(0, len(sampler), WINDOW):
            window = sampler.draw(epoch, start, WINDOW)
            for first in range(0, len(window), BATCH):
                cells = window[first : first + BATCH]
                packed = pack.read(cells)
                yield (packed.decode() if decoded else packed), pack.codes("cell_type", cells)
        epoch += 1


def tiledbsoma_ml(folder: Path) -> Iterator[Any]:
    """Yield the official loader's batches, at its fastest settings for this layout (STACK figures: io 65,536)."""
    import tiledbsoma as soma
    from tiledbsoma_ml import ExperimentDataset, experiment_dataloader

    passing = soma.AxisQuery(value_filter="qc_pass == True")
    human = str(folder / "atlas" / "census_data" / "homo_sapiens")
    with soma.Experiment.open(human) as experiment, experiment.axis_query("RNA", obs_query=passing) as query:
        while True:
            dataset = ExperimentDataset(
                query, layer_name="raw", obs_column_names=["cell_type"], batch_size=BATCH, seed=SEED,
                io_batch_size=65_536, return_sparse_X=True,
            )  # fmt: skip
            yield from experiment_dataloader(dataset)


def annloader(folder: Path, backed: bool) -> Iterator[Any]:
    """Yield anndata's own loader's batches, from memory or from the file."""
    import anndata as ad
    from anndata.experimental import AnnLoader

    warnings.simplefilter("ignore", FutureWarning)  # deprecated for annbatch, which needs Python 3.12
    adata = ad.read_h5ad(folder / "x.h5ad", backed="r" if backed else None)
    while True:
        for batch in AnnLoader(adata, batch_size=BATCH, shuffle=True):
            yield batch.X, batch.obs["cell_type"]  # a view until asked for


def in_memory(folder: Path) -> Iterator[Any]:
    """Yield rows of a scipy matrix in memory: the ceiling."""
    import anndata as ad

    counts = ad.read_h5ad(folder / "x.h5ad").X.tocsr()
    rng = np.random.default_rng(SEED)
    while True:
        yield counts[rng.integers(0, counts.shape[0], BATCH)]


LEGS = {
    "panatlas packs packed weighted": lambda folder: ours(folder, "balanced", False),
    "panatlas packs packed uniform": lambda folder: ours(folder, "uniform", False),
    "panatlas packs csr weighted": lambda folder: ours(folder, "balanced", True),
    "panatlas packs csr uniform": lambda folder: ours(folder, "uniform", True),
    "tiledbsoma-ml sparse shuffled": tiledbsoma_ml,
    "AnnLoader backed shuffled": lambda folder: annloader(folder, True),
    "AnnLoader in memory shuffled": lambda folder: annloader(folder, False),
    "scipy rows in memory uniform": in_memory,
}


def leg(name: str, folder: Path) -> dict[str, Any]:
    """Run one loader for a few seconds and return its row; called in a process of its own."""
    began = time.monotonic()
    batches = LEGS[name](folder)
    next(batches)
    first = time.monotonic() - began
    wall, cpu, n = time.monotonic(), time.process_time(), 0
    while time.monotonic() - wall < SECONDS:
        next(batches)
        n += BATCH
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    row = {"cells_per_s": round(n / wall), "cells_per_cpu_s": round(n / cpu), "first_batch_s": round(first, 2)}
    row["peak_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)  # before the comparison
    if name.startswith("panatlas"):
        row["batches_equal_to_store"] = compare(folder, name)
    return row


def compare(folder: Path, name: str) -> int:
    """Return how many of 50 batches equal the store's cells, read by anndata; fails unless all do."""
    import anndata as ad

    from loaders import Pack

    adata = ad.read_h5ad(folder / "x.h5ad")
    counts, pack = adata.X.tocsr(), Pack(folder / "pack")
    rows = np.random.default_rng(SEED).integers(0, len(pack), (50, BATCH))
    for cells in rows:
        found, expected = pack.read(cells).decode(), counts[cells]
        if not (np.array_equal(found.indices, expected.indices) and np.array_equal(found.counts, expected.data)):
            sys.exit(f"{name}: a batch differs from the store")
    return len(rows)


def run_leg(name: str, folder: Path) -> dict[str, Any]:
    """Return the row of one loader, run as a child with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    command = [sys.executable, "-P", __file__, "--leg", name, str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    return {"what": name, "loader": name, **json.loads(done.stdout.splitlines()[-1])}


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    """Return one row per loader, with its ratio to tiledbsoma-ml."""
    n_cells = 10_000 if quick else 100_000
    with tempfile.TemporaryDirectory(dir=os.environ.get("PANATLAS_BENCH_DIR")) as tmp:
        folder = Path(tmp)
        run_leg(f"prepare {n_cells}", folder)
        rows = [run_leg(name, folder) for name in LEGS]
    peer = next(row for row in rows if row["what"].startswith("tiledbsoma-ml"))
    for row in rows:
        row["times_tiledbsoma_ml"] = round(row["cells_per_cpu_s"] / peer["cells_per_cpu_s"], 1)
    return [row | {"cells": n_cells} for row in rows]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--leg", nargs=2, metavar=("NAME", "FOLDER"), required=True)
    name, folder = parser.parse_args().leg
    if name.startswith("prepare "):
        prepare(Path(folder), int(name.split()[1]))
        print("{}")
    else:
        print(json.dumps(leg(name, Path(folder))))
