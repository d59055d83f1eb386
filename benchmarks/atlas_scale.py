"""Ingest of source after source into one atlas: 10^5 to 2·10^6 cells at full depth, 10^7 thinned, and what each costs.

Every source is 100,000 resampled real cells (ingest.py), written, ingested by a process of its own, and deleted. The
thinned ones begin from a pool of profiles of which binomial thinning has left so many genes that about 280 of them have
counts once they are redrawn. Doublets and neighbours are off: what they cost does not depend on what is there already.

A run takes hours. Where PANATLAS_BENCH_DIR names a folder it goes on from where one before it was stopped, and with
PANATLAS_BENCH_HOURS it stops by itself, with the rows of the sizes that were reached.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

SEED = 13
READS = ("starter:human",)
PART = 100_000  # cells of a source
MANY = 64  # datasets of FEW cells, for what a dataset costs whatever its size
FEW = 200
SPARE = 3 << 30  # bytes of disk left free
COUNTED = 1_000  # cells whose counts are asked for
NOTES = (
    "`cpu_s`, `wall_s` and `peak_mib` are of the last source's ingest alone, a process of its own; `cpu_s_first` is of "
    "the first. The store is consolidated before it is looked at, which `consolidate_cpu_s` is the cost of.",
    "`disk_gb` is the most that store, source and cache took together. `index_mib` is what this machine keeps of "
    "hashes to find copies by.",
    "Queries: `type_s` gives five columns of obs of one cell type over the whole atlas, `cells_s` the counts of 1,000 "
    "cells drawn at random from X, `records_s` the same from the records, `gene_s` one gene over one dataset, "
    "`labels_s` the table of counts by label. CPU seconds, everything read once before.",
    "Datasets of 200 cells, one after another in one process: mean CPU seconds of the last eight, not consolidated.",
)
COLUMNS = ("what", "cells", "datasets", "cpu_s", "wall_s", "peak_mib", "bytes_per_nonzero", "fragments", "open_s",
           "client_open_s", "type_s", "cells_s", "gene_s", "labels_s")  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """A store that is added to, and the sizes at which it is looked at."""

    name: str
    """`full` or `thin`."""
    sizes: tuple[int, ...]
    """Cells, growing."""
    done: bool
    """Whether the store is deleted after the last size."""


STAGES = (
    Stage("full", (100_000, 1_000_000), done=False),
    Stage("thin", (1_000_000, 10_000_000), done=True),
    Stage("full", (2_000_000,), done=True),
)


def add(folder: Path, uri: str, number: int) -> None:
    """Ingest the source."""
    from atlas import IngestOptions, Source, ingest

    source = Source(id=f"part{number:04d}", organism="human", uri=str(folder / "source.h5ad"), format="h5ad")
    receipt = ingest(source, uri, IngestOptions(doublets=False, neighbours=False))
    if receipt.status not in ("written", "unchanged"):  # unchanged: it was published just before a run was stopped
        sys.exit(f"{receipt.status}: {receipt.findings}")


@contextmanager
def timed(row: dict[str, Any], name: str) -> Iterator[None]:
    """Note the CPU seconds of a block."""
    began = time.process_time()
    yield
    row[name] = round(time.process_time() - began, 3)


def opening(uri: str) -> dict[str, Any]:
    """Return what it takes to open a store with its genes, and obs and X of it by the official client."""
    import cellxgene_census

    from atlas import open_atlas

    row: dict[str, Any] = {}
    for _ in range(2):
        with timed(row, "open_s"):
            open_atlas(uri).genes("human")
        with timed(row, "client_open_s"), cellxgene_census.open_soma(uri=uri) as census:
            human = census["census_data"]["homo_sapiens"]
            opened = [human.obs, human.ms["RNA"].X["raw"]]
            opened.clear()
    return row


def look(uri: str) -> dict[str, Any]:
    """Return what it takes to open a store and to ask it typical questions; each is asked once before it is timed."""
    from atlas import open_atlas, where

    row, atlas, rng = opening(uri), open_atlas(uri), np.random.default_rng(SEED)
    some = atlas.datasets[len(atlas.datasets) // 2]
    gene = str(atlas.genes("human").sort_values("nnz")["feature_id"].iloc[-1])
    joinids = np.sort(rng.choice(atlas.n_cells("human"), min(COUNTED, atlas.n_cells("human")), replace=False))
    columns = ["cell_type", "dataset_id", "donor_id", "tissue", "raw_sum"]
    for _ in range(2):
        with timed(row, "type_s"):
            found = atlas.query("human", where(cell_type="pancreatic A cell"), every_cell=True).obs(columns)
        row["type_cells"] = len(found)
        with timed(row, "cells_s"), atlas.open() as tree:
            x = tree["census_data"]["homo_sapiens"].ms["RNA"].X["raw"]
            row["cells_nonzeros"] = sum(len(table) for table in x.read((joinids,)).tables())
        with timed(row, "records_s"), atlas.records("human") as reader:
            reader.read(joinids)
        with timed(row, "gene_s"):
            query = atlas.query("human", where(dataset_id=some.dataset_id), every_cell=True)
            query.to_anndata(genes=[gene], obs_columns=["soma_joinid"])
        with timed(row, "labels_s"):
            atlas.table("summary_cell_counts")
    return row | {"query_peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}


def settle(uri: str) -> dict[str, Any]:
    """Consolidate a store."""
    from atlas import consolidate

    row: dict[str, Any] = {}
    with timed(row, "consolidate_cpu_s"):
        consolidate(uri)
    return row


def freeze(uri: str) -> dict[str, Any]:
    """Make a release of a store, and remove it and the tables it was made from."""
    from catalog import make_release

    row: dict[str, Any] = {}
    with timed(row, "release_cpu_s"):
        made = make_release(uri, "scale", allow_leaks=True)
    if made.status != "written":
        sys.exit(f"{made.status}: {made.findings}")
    row["release_peak_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    for name in ("releases", "tables"):
        row[f"{name}_bytes"] = weight(Path(uri) / name)
        shutil.rmtree(Path(uri) / name, ignore_errors=True)
    return row


def prove(uri: str) -> dict[str, Any]:
    """Validate a store, which computes its content hash."""
    from atlas import validate

    row: dict[str, Any] = {}
    with timed(row, "validate_cpu_s"):
        proven = validate(uri)
    return row | {
        "validated": proven.sound,
        "validate_peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def many(folder: Path, n_datasets: int) -> dict[str, Any]:
    """Ingest datasets of few cells in this process, and return what the last of every eight cost."""
    from benchmarks.scale_sources import make

    costs, rows = [], []
    step = min(8, n_datasets)
    for number in range(n_datasets):
        make("full", folder, 1_000_000 + number, FEW, SEED)
        began = time.process_time()
        add(folder, str(folder / "many"), number)
        costs.append(time.process_time() - began)
        if (number + 1) % step == 0:
            cpu = round(float(np.mean(costs[-step:])), 2)
            row = {"what": f"dataset {number + 1} of {FEW} cells", "datasets": number + 1, "cpu_s": cpu}
            rows.append(row | opening(str(folder / "many")))
    return {"rows": rows}


def child(step: str, folder: Path, *arguments: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run a step as a process, and return what it says and what it took."""
    from benchmarks.loaders import THREADS

    environment = {
        **os.environ,
        **dict.fromkeys(THREADS, "1"),
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
    }
    environment["PANATLAS_HOME"] = str(folder / "home")
    began = time.monotonic()
    command = [sys.executable, "-P", __file__, "--step", step, str(folder), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)  # this process' own usage, which subprocess does not tell
    if status:
        raise RuntimeError(f"{step} ended with status {status}")
    took = {
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "wall_s": round(time.monotonic() - began, 1),
        "peak_mib": round(usage.ru_maxrss / 1024),
    }
    return json.loads(said.splitlines()[-1]), took


def weight(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def describe(store: Path, folder: Path) -> dict[str, Any]:
    """Return files, fragments and bytes of a store."""
    files = [path for path in store.rglob("*") if path.is_file()]
    fragments = [path for path in store.rglob("__fragments/*") if path.is_dir()]
    experiment = store / "census_data" / "homo_sapiens"
    parts = {"x": "ms/RNA/X/raw", "records": "ms/RNA/records", "obs": "obs"}
    return {
        "files": len(files), "fragments": len(fragments),
        "fragments_x": sum(path.is_relative_to(experiment / parts["x"]) for path in fragments),
        "store_bytes": sum(path.stat().st_size for path in files),
        **{f"{name}_bytes": weight(experiment / part) for name, part in parts.items()},
        "ledger_bytes": weight(store / "ledger"),
        "index_mib": round(weight(folder / "home" / "cache" / "copies") / 2**20, 1),
    }  # fmt: skip


class Run:
    """What was done so far, kept in the scratch folder after every source."""

    def __init__(self, folder: Path, part: int) -> None:
        """Go on from what the folder holds."""
        self.folder, self.part, self.file = folder, part, folder / "state.json"
        self.kept: dict[str, Any] = {"parts": {}, "rows": {}, "disk": 0}
        if self.file.exists():
            self.kept = json.loads(self.file.read_text())
        hours = os.environ.get("PANATLAS_BENCH_HOURS")
        self.until = time.monotonic() + float(hours) * 3600 if hours else float("inf")

    def keep(self) -> None:
        """Write what was done, whole or not at all."""
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps(self.kept))
        part.replace(self.file)

    def grow(self, name: str, n_cells: int) -> bool:
        """Add sources to a store until it has so many cells; return False where time is up before."""
        parts = self.kept["parts"].setdefault(name, [])
        store = self.folder / name
        while len(parts) * self.part < n_cells:
            if time.monotonic() > self.until:
                return False
            if shutil.disk_usage(self.folder).free < SPARE:
                raise RuntimeError(
                    f"less than {SPARE >> 30} GiB are free at {self.folder}; make room and run this again"
                )
            made, _ = child("make", self.folder, name, len(parts), self.part)
            _, took = child("add", self.folder, str(store), len(parts))
            self.kept["disk"] = max(self.kept["disk"], weight(self.folder))
            (self.folder / "source.h5ad").unlink()
            parts.append(took | made)
            self.keep()
        return True

    def row(self, name: str, *, proven: bool) -> None:
        """Look at a store as it is now, once."""
        parts = self.kept["parts"][name]
        cells, store = len(parts) * self.part, self.folder / name
        key = f"{name} {cells}"
        if not parts or key in self.kept["rows"]:
            return
        held = describe(store, self.folder)
        settled, _ = child("settle", self.folder, str(store))
        seen, _ = child("look", self.folder, str(store))
        frozen, _ = child("freeze", self.folder, str(store))
        nonzeros = sum(part["nonzeros"] for part in parts)
        row = {
            "what": f"{cells:,} cells, {'full depth' if name == 'full' else 'thinned'}", "cells": cells,
            "datasets": len(parts), "nonzeros_per_cell": round(nonzeros / cells, 1),
            "cpu_s_first": parts[0]["cpu_s"], **{k: parts[-1][k] for k in ("cpu_s", "wall_s", "peak_mib")},
            "cpu_s_all": round(sum(part["cpu_s"] for part in parts), 1),
            "wall_s_all": round(sum(part["wall_s"] for part in parts), 1),
            **held, "bytes_per_nonzero": round(held["store_bytes"] / nonzeros, 3), **settled, **seen, **frozen,
            "disk_gb": round(self.kept["disk"] / 1e9, 1),
        }  # fmt: skip
        if proven:
            row |= child("prove", self.folder, str(store))[0]
        self.kept["rows"][key] = row
        self.keep()

    def stage(self, stage: Stage) -> bool:
        """Grow a store from size to size; return False where time is up."""
        for size in stage.sizes:
            if f"{stage.name} {size}" in self.kept["rows"]:
                continue
            whole = self.grow(stage.name, size)
            self.row(stage.name, proven=stage.name == "full" and size <= PART)
            if not whole:
                return False
        if stage.done:
            shutil.rmtree(self.folder / stage.name, ignore_errors=True)
        return True


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    """Return a row per store and size, and rows of what a dataset costs whatever its size."""
    stages = (Stage("full", (500,), done=False), Stage("thin", (500,), done=True)) if quick else STAGES
    n_datasets, part = (2, 500) if quick else (MANY, PART)
    given = os.environ.get("PANATLAS_BENCH_DIR")
    with tempfile.TemporaryDirectory(dir=given) as tmp:
        folder = Path(given) / "atlas_scale" if given and not quick else Path(tmp)
        (folder / "home").mkdir(parents=True, exist_ok=True)
        run = Run(folder, part)
        whole = run.stage(stages[0])
        if whole and "many" not in run.kept["rows"]:
            shutil.rmtree(folder / "many", ignore_errors=True)
            run.kept["rows"]["many"] = child("many", folder, n_datasets)[0]["rows"]
            shutil.rmtree(folder / "many")
            run.keep()
        if whole and all(run.stage(stage) for stage in stages[1:]) and not quick:
            shutil.rmtree(folder / "home")
        few = run.kept["rows"].get("many", [])
        return [row for name, row in run.kept["rows"].items() if name != "many"] + few


STEPS = {"settle": settle, "look": look, "freeze": freeze, "prove": prove}


def run_step(step: str, folder: Path, arguments: list[str]) -> dict[str, Any]:
    """Run one step, in its process."""
    if step == "make":
        from benchmarks.scale_sources import make

        return make(arguments[0], folder, int(arguments[1]), int(arguments[2]), SEED)
    if step == "many":
        return many(folder, int(arguments[0]))
    if step == "add":
        add(folder, arguments[0], int(arguments[1]))
        return {}
    return STEPS[step](arguments[0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step", nargs="+", metavar=("STEP", "FOLDER"), required=True)
    step, where_, *arguments = parser.parse_args().step
    print(json.dumps(run_step(step, Path(where_), arguments)))
