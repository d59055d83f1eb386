"""CellRanger's own formats: the HDF5 matrix (versions 2 and 3) and the mtx folder.

Both store features x cells by column, which is cells x features by row. Only called on what passed `preflight`;
feature types other than genes are left out by `cells`. AnnData is in `read_h5ad`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.io import mmread

from .cells import Parts
from .findings import Finding
from .matrices import CompressedRows, readable, rows_from_coordinates
from .preflight_mtx import MtxFiles, read_lines
from .refusal import refusal

WANTED = "only its one matrix"


def read_10x_h5(store: Any, dataset: str, wanted: str | None) -> Parts:
    """Return the parts of an opened CellRanger HDF5 file (already preflighted).

    Parameters
    ----------
    store
        The opened file; it stays the caller's to close.
    dataset
        Name of the source in messages.
    wanted
        Genome group of a version 2 file with several; otherwise None or `matrix`.
    """
    group, name = _group(store, dataset, wanted)
    with readable(dataset, name):
        shape = tuple(int(n) for n in group["shape"][:])
        barcodes = _texts(group["barcodes"])
        var = _features(group) if "features" in group else _genes(group)
    if len(shape) != 2:
        raise refusal(dataset, "shape-mismatch", name, f"{len(shape)} axes", "features and cells", "export it again")
    parts = (group["data"], group["indices"], group["indptr"])
    reader = CompressedRows(parts, (shape[1], shape[0]), dataset, name)
    var, findings = _without_prefix(var)
    obs = pd.DataFrame(index=pd.Index(barcodes, dtype=object))
    return Parts(name, reader, obs, var, {}, {}, findings)


def _group(store: Any, dataset: str, wanted: str | None) -> tuple[Any, str]:
    needed = ("barcodes", "data", "indices", "indptr", "shape")
    groups = [n for n in store if not hasattr(store[n], "shape") and all(part in store[n] for part in needed)]
    groups = [n for n in groups if "features" in store[n] or ("genes" in store[n] and "gene_names" in store[n])]
    if not groups:
        raise refusal(
            dataset,
            "unknown-format",
            "the file",
            f"{sorted(store)[:8]}",
            "AnnData or a CellRanger matrix",
            "export the counts with write_h5ad",
        )
    if wanted is not None and wanted not in groups:
        raise refusal(
            dataset, "no-such-matrix", "matrix", wanted, f"one of {', '.join(groups)}", "correct the manifest"
        )
    if wanted is None and len(groups) > 1:
        raise refusal(
            dataset,
            "several-genomes",
            "the file",
            ", ".join(groups),
            "one genome",
            "name the genome as `matrix` in the manifest",
        )
    return store[wanted or groups[0]], wanted or groups[0]


def _texts(array: Any) -> list[str]:
    return [v.decode("utf-8", errors="replace") if isinstance(v, bytes) else str(v) for v in array[:].tolist()]


def _features(group: Any) -> pd.DataFrame:
    features = group["features"]
    columns = {"gene_ids": _texts(features["id"]), "gene_symbols": _texts(features["name"])}
    for column, part in (("feature_types", "feature_type"), ("genome", "genome")):
        if part in features:
            columns[column] = _texts(features[part])
    return pd.DataFrame(columns, index=pd.Index(columns["gene_ids"], dtype=object))


def _genes(group: Any) -> pd.DataFrame:
    ids = _texts(group["genes"])
    return pd.DataFrame(
        {"gene_ids": ids, "gene_symbols": _texts(group["gene_names"])}, index=pd.Index(ids, dtype=object)
    )


def _without_prefix(var: pd.DataFrame) -> tuple[pd.DataFrame, tuple[Finding, ...]]:
    """Return features without the `GRCh38_` that mixed-genome references put before ids and names."""
    if "genome" not in var.columns:
        return var, ()
    genomes = sorted(set(var["genome"]) - {""})
    columns = dict(var)
    for column in ("gene_ids", "gene_symbols"):
        pairs = zip(var[column], var["genome"], strict=True)
        columns[column] = [v.removeprefix(g).lstrip("_") if g and v.startswith(f"{g}_") else v for v, g in pairs]
    plain = pd.DataFrame({c: list(v) for c, v in columns.items()}, index=pd.Index(columns["gene_ids"], dtype=object))
    if len(genomes) < 2:
        return plain, ()
    return plain, (
        Finding(
            "several-genomes",
            "warning",
            "features, genome",
            ", ".join(genomes),
            "one genome",
            "genes the organism's table does not know are left out and counted",
        ),
    )


def read_10x_mtx(files: MtxFiles, dataset: str, wanted: str | None) -> Parts:
    """Return the parts of a 10x mtx folder (already preflighted). The whole matrix is held in memory.

    Parameters
    ----------
    files
        What `preflight_mtx.check_mtx` found.
    dataset
        Name of the source in messages.
    wanted
        Must be None: the folder has one matrix.
    """
    name = files.matrix.name
    if wanted is not None:
        raise refusal(dataset, "no-such-matrix", "matrix", wanted, WANTED, "remove `matrix` from the manifest")
    barcodes = read_lines(files.barcodes, dataset)
    var = _feature_lines(read_lines(files.features, dataset), files.features.name, dataset)
    if files.shape != (len(var), len(barcodes)):
        turned = " (it looks transposed)" if files.shape == (len(barcodes), len(var)) else ""
        raise refusal(
            dataset,
            "shape-mismatch",
            name,
            f"{files.shape[0]} x {files.shape[1]} values{turned}",
            f"{len(var)} features x {len(barcodes)} cells",
            "export the three files together",
        )
    with readable(dataset, name):
        matrix = mmread(files.matrix)  # features x cells, as coordinates
        matrix = matrix.tocoo() if not hasattr(matrix, "row") else matrix
        row, column, data = np.asarray(matrix.col), np.asarray(matrix.row), np.asarray(matrix.data)
    if len(data) != files.values:
        raise refusal(dataset, "mtx-lines", name, f"{len(data)} values", f"{files.values}", "copy the file again")
    reader = rows_from_coordinates(row, column, data, (len(barcodes), len(var)), (dataset, name))
    obs = pd.DataFrame(index=pd.Index([b.split("\t")[0] for b in barcodes], dtype=object))
    return Parts(name, reader, obs, var)


def _feature_lines(lines: list[str], where: str, dataset: str) -> pd.DataFrame:
    rows = [line.split("\t") for line in lines]
    width = min((len(row) for row in rows), default=0)
    if any(not row[0] for row in rows):
        raise refusal(
            dataset,
            "mtx-header",
            where,
            "a line without an id",
            "id, name and type per line",
            "export the folder again",
        )
    columns = {"gene_ids": [row[0] for row in rows]}
    if width > 1:
        columns["gene_symbols"] = [row[1] for row in rows]
    if width > 2:
        columns["feature_types"] = [row[2] for row in rows]
    return pd.DataFrame(columns, index=pd.Index(columns["gene_ids"], dtype=object))
