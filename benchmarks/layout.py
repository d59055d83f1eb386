"""Layouts of X and of the records, the same cells in each: bytes, writing, and reading as its readers do.

Resampled real cells over the organism's gene table, written in two halves. The Census builder's layout (its tiles,
capacity, filters and sorted writes) is what every ratio is to; the others are tiledbsoma's default, ours, and what ours
was chosen among. Reading: all cells in order, 64 blocks of 64 neighbouring cells, single cells, one gene over all.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

SEED = 0
READS = ("starter:human",)
CENSUS = "Census builder"
OURS = "ours"
RECORDS = "our records"
NOTES = (
    "Cells per CPU-second, all threads counted; `x_` columns are ratios to the Census builder's layout. Reads are warm "
    "and unsorted, into Arrow tables; records are not decoded, X is not made a matrix.",
    "A read of X hands over 20 bytes a count whatever the layout.",
)
BLOCKS, BLOCK, SINGLES, SCAN = 64, 64, 256, 2_048


def zstd(level: int, *before: Any) -> list[Any]:
    """Return filters that end in zstd."""
    return [*before, {"_type": "ZstdFilter", "level": level}]


def layouts(n_genes: int) -> dict[str, tuple[dict[str, Any], bool]]:
    """Return the creation options of X, by name, and whether it is written without sorting."""
    from atlas import layout

    def full_row(genes: list[Any], counts: list[Any], capacity: int = layout.X_CAPACITY) -> tuple[dict[str, Any], bool]:
        options = layout.x_options(n_genes)
        create = options["tiledb"]["create"] | {"capacity": capacity}
        rows = create["dims"]["soma_dim_0"]
        create["dims"] = {"soma_dim_0": rows, "soma_dim_1": create["dims"]["soma_dim_1"] | {"filters": genes}}
        return {"tiledb": {"create": create | {"attrs": {"soma_data": {"filters": counts}}}}}, True

    plain = zstd(1, "ByteShuffleFilter")
    whole = zstd(1, {"_type": "FloatScaleFilter", "factor": 1.0, "offset": 0.0, "bytewidth": 4}, "ByteShuffleFilter")
    delta = zstd(1, "DeltaFilter", "ByteShuffleFilter")
    census = {
        "capacity": 2**16, "cell_order": "row-major", "tile_order": "row-major", "allows_duplicates": True,
        "dims": {f"soma_dim_{axis}": {"tile": 2048, "filters": zstd(9, *first)}
                 for axis, first in ((0, ()), (1, ("ByteShuffleFilter",)))},
        "attrs": {"soma_data": {"filters": zstd(9, "ByteShuffleFilter")}},
    }  # fmt: skip
    return {
        CENSUS: ({"tiledb": {"create": census}}, False),
        "tiledbsoma default": ({}, False),
        OURS: (layout.x_options(n_genes), True),
        "full row, floats": full_row(plain, plain),
        "full row, whole numbers": full_row(plain, whole),
        "full row, floats, Delta": full_row(delta, plain),
        "full row, whole numbers, Delta": full_row(delta, whole),
        "full row, whole numbers, 4k": full_row(plain, whole, 4_096),
        "full row, whole numbers, 64k": full_row(plain, whole, 65_536),
    }


def make_counts(path: Path, n_cells: int) -> None:
    """Write resampled cells over the gene table, CSR."""
    import scipy.sparse as sp

    from atlas import starter_sources
    from atlas.fetch import fetch_source
    from atlas.read import open_source
    from atlas.standardise import map_genes
    from benchmarks.ingest import resample
    from ontology import get_organism, load_gene_table

    source, organism = starter_sources("human")[0], get_organism("human")
    rng = np.random.default_rng(SEED)
    with open_source(source, fetch_source(source)) as cells:
        genes = map_genes(cells, load_gene_table(organism), organism)
        real = sp.vstack([genes.project(block) for _, block in cells.blocks()]).tocsr()
    sp.save_npz(path, resample(real, rng.integers(0, real.shape[0], n_cells), rng), compressed=False)


def cpu_of(work: Callable[[], object]) -> float:
    """Return the CPU-seconds a piece of work takes, all threads counted."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def size_of(uri: Path) -> int:
    """Return the bytes of all files of an array."""
    return sum(p.stat().st_size for p in uri.rglob("*") if p.is_file())


def measured(kind: Any, uri: Path, counts: Any, write: Callable[[], None], context: Any, gene: int | None) -> dict:
    """Write, read every way, and return the row's figures."""
    n = counts.shape[0]
    rng = np.random.default_rng(SEED)
    firsts = np.sort(rng.choice(n // BLOCK, min(BLOCKS, n // BLOCK), replace=False)) * BLOCK
    blocks = (firsts[:, None] + np.arange(BLOCK)).ravel()
    singles = np.sort(rng.choice(n, SINGLES, replace=False))
    row: dict[str, float] = {"write": n / cpu_of(write), "bytes_per_nnz": size_of(uri) / counts.nnz}
    with kind.open(str(uri), context=context) as array:

        def read(*coordinates: Any) -> None:
            found = array.read(coordinates)
            (found if gene is None else found.tables()).concat()

        def scan() -> None:
            for first in range(0, n, SCAN):
                read(slice(first, min(first + SCAN, n) - 1))

        read(slice(0, 1))
        row["scan"] = n / cpu_of(scan)
        row["blocks"] = len(blocks) / cpu_of(lambda: read(blocks))
        row["singles"] = SINGLES / cpu_of(lambda: read(singles))
        if gene is not None:
            row["one_gene"] = n / cpu_of(lambda: read(slice(None), [gene]))
    return row


def leg(name: str, source: Path, out: Path) -> None:
    """Measure one layout and print its figures; called in a process of its own."""
    import pyarrow as pa
    import scipy.sparse as sp
    import tiledbsoma as soma

    if name == "make":
        make_counts(source, int(out.name))
        return
    from atlas import layout, schema
    from atlas.cell_records import encode_records
    from atlas.contexts import BULK, IN_ORDER
    from atlas.record_store import to_arrow
    from atlas.write import GLOBAL_ORDER, _coordinates

    counts = sp.load_npz(source)
    n, n_genes = counts.shape
    halves = ((0, n // 2), (n // 2, n))
    reading = soma.SOMATileDBContext(tiledb_config=BULK)
    if name == RECORDS:
        soma.DataFrame.create(
            str(out), schema=schema.arrow_schema(schema.RECORDS), index_column_names=["soma_joinid"],
            domain=[[0, n - 1]], platform_config=layout.record_options(),
        ).close()  # fmt: skip

        def write() -> None:
            for first, stop in halves:
                parts = [to_arrow(encode_records(counts[i : min(i + 256, stop)]), i) for i in range(first, stop, 256)]
                context = soma.SOMATileDBContext(tiledb_config=IN_ORDER)
                with soma.DataFrame.open(str(out), "w", context=context) as frame:
                    frame.write(pa.concat_tables(parts), platform_config=GLOBAL_ORDER)

        encode_records(counts[:2])  # compiled beforehand
        print(json.dumps(measured(soma.DataFrame, out, counts, write, reading, None)))
        return
    options, in_order = layouts(n_genes)[name]
    soma.SparseNDArray.create(str(out), type=pa.float32(), shape=(n, n_genes), platform_config=options).close()

    def write() -> None:
        for first, stop in halves:
            parts = []
            for i in range(first, stop, 256):
                block = counts[i : min(i + 256, stop)]
                into = tuple(np.empty(block.nnz, kind) for kind in (np.int64, np.int64, np.float32))
                parts.append(_coordinates(block, i, into))
            context = soma.SOMATileDBContext(tiledb_config=IN_ORDER if in_order else {})
            with soma.SparseNDArray.open(str(out), "w", context=context) as array:
                if in_order:
                    array.write(pa.concat_tables(parts), platform_config=GLOBAL_ORDER)
                else:  # as the builder does: TileDB sorts
                    array.write(pa.concat_tables(parts).combine_chunks())

    _coordinates(counts[:1], 0, tuple(np.empty(counts[:1].nnz, k) for k in (np.int64, np.int64, np.float32)))
    gene = int(np.argsort(np.bincount(counts.indices, minlength=n_genes))[-1000])  # common, not everywhere
    print(json.dumps(measured(soma.SparseNDArray, out, counts, write, reading, gene)))


def main(*, quick: bool = False) -> list[dict[str, Any]]:
    """Return one row per layout, with ratios to the Census builder's."""
    n_cells = 2_048 if quick else 40_960
    with tempfile.TemporaryDirectory(dir=os.environ.get("PANATLAS_BENCH_DIR")) as tmp:
        folder = Path(tmp)

        def run(name: str, out: str) -> str:
            command = [sys.executable, "-P", __file__, "--leg", name, str(folder / "counts.npz"), str(folder / out)]
            environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
            return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout

        run("make", str(n_cells))
        names = [CENSUS, OURS, RECORDS] if quick else [*layouts(1 << 16), RECORDS]
        found = {name: json.loads(run(name, f"out{i}")) for i, name in enumerate(names)}
    rows = []
    for name, row in found.items():
        ratios = {f"x_{key}": round(row[key] / found[CENSUS][key], 2) for key in row if key != "bytes_per_nnz"}
        figures = {key: round(value, 3 if key == "bytes_per_nnz" else 0) for key, value in row.items()}
        rows.append({"layout": name, "cells": n_cells} | figures | ratios)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--leg", nargs=3, metavar=("NAME", "SOURCE", "OUT"), required=True)
    name, source, out = parser.parse_args().leg
    leg(name, Path(source), Path(out))
