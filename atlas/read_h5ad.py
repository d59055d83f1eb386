"""AnnData on disk, in HDF5 (every layout since 2017) and in zarr: which element holds the counts, and the frames.

Only called on files that passed `preflight`. Frames are decoded by anndata; matrices are streamed by `matrices`.
The 10x formats are in `read_10x`; the checks all formats share are in `cells`.
"""

from __future__ import annotations

from difflib import get_close_matches
from functools import partial
from typing import Any

import numpy as np

from .cells import Parts
from .findings import Finding
from .frames import read_frame
from .matrices import CompressedRows, DenseRows, RowReader, readable, transpose_columns
from .refusal import refusal

COUNT_LAYERS = ("layers/counts", "layers/raw_counts", "layers/raw")  # names the field uses for raw counts
LEGACY = {"raw/X": "raw.X", "raw/var": "raw.var"}  # anndata before 0.7 kept raw beside X
SCALAR_LIMIT = 10_000  # characters of a text in uns that is kept
CONVERT_NOTE = 12  # bytes per stored value a transposed matrix takes at most


def read_anndata(store: Any, dataset: str, wanted: str | None) -> Parts:
    """Return the parts of an opened AnnData store (an HDF5 file or a zarr group, already preflighted).

    Parameters
    ----------
    store
        The root group; it stays the caller's to close.
    dataset
        Name of the source in messages.
    wanted
        Element to read, e.g. `layers/counts`; None chooses `raw/X`, then a layer named for counts, then `X`.
    """
    names = elements(store)
    _check_root(store, names, dataset)
    name = _choose(names, dataset, wanted)
    obs = read_frame(store["obs"], dataset, "obs")
    var = read_frame(_var_of(store, name), dataset, "var")
    shape = (len(obs), len(var))
    findings = []
    if kind_of(store[names[name]]) == "csc":
        size = int(store[names[name]]["data"].shape[0]) * CONVERT_NOTE
        findings.append(
            Finding(
                "columns-transposed",
                "info",
                name,
                "compressed columns",
                "compressed rows",
                f"it was transposed with up to {size / 2**20:.0f} MiB, on disk above 256 MiB; store CSR to save that",
            )
        )
    uns = scalars(store)
    if "synthetic" in uns:
        findings.append(_synthetic(str(uns["synthetic"]), len(obs)))
    reader = open_matrix(store[names[name]], shape, dataset, name)
    others = {
        other: partial(open_matrix, store[path], (len(obs), None), dataset, other)
        for other, path in names.items()
        if other != name
    }
    return Parts(name, reader, obs, var, uns, others, tuple(findings))


def _synthetic(mark: str, n_cells: int) -> Finding:
    """Return the finding of a file that says its cells are made up; receipts and `panatlas info` go by it."""
    remedy = "they show that things work; leave their dataset out of whatever is to say something about biology"
    return Finding("synthetic-cells", "warning", "uns/synthetic", mark[:200], "sequenced cells", remedy, n_cells)


def elements(store: Any) -> dict[str, str]:
    """Return the elements that may hold counts, by name, with their path in the file."""
    found = {"X": "X"} if "X" in store else {}
    for name in ("raw/X", LEGACY["raw/X"]):
        if name in store:
            found["raw/X"] = name
    layers = store.get("layers", ())
    found |= {f"layers/{layer}": f"layers/{layer}" for layer in layers}
    return found


def _check_root(store: Any, names: dict[str, str], dataset: str) -> None:
    missing = [part for part in ("obs", "var") if part not in store]
    if missing:
        raise refusal(
            dataset,
            "not-anndata",
            "the file",
            f"no {' and no '.join(missing)} among {sorted(store)[:8]}",
            "an AnnData file with X, obs and var",
            "name its format, or export it with write_h5ad",
        )
    if not names:
        raise refusal(
            dataset,
            "missing-matrix",
            "the file",
            "no X, raw/X or layers",
            "a matrix of counts",
            "export the file with its counts",
        )


def _choose(names: dict[str, str], dataset: str, wanted: str | None) -> str:
    if wanted is None:
        return next((n for n in ("raw/X", *COUNT_LAYERS, "X") if n in names), next(iter(names)))
    name = wanted.replace("raw.X", "raw/X")
    if name not in names:
        near = get_close_matches(name, names, 1, 0.4)
        raise refusal(
            dataset,
            "no-such-matrix",
            "matrix",
            wanted,
            f"one of {', '.join(sorted(names))}",
            f"did you mean {near[0]}?" if near else "correct the manifest",
        )
    return name


def _var_of(store: Any, name: str) -> Any:
    if name == "raw/X":
        for path in ("raw/var", LEGACY["raw/var"]):
            if path in store:
                return store[path]
    return store["var"]


def kind_of(element: Any) -> str:
    """Return `csr`, `csc`, `dense`, or what the element claims to be."""
    if hasattr(element, "shape"):
        return "dense"
    claimed = element.attrs.get("encoding-type", element.attrs.get("h5sparse_format", ""))
    claimed = claimed.decode() if isinstance(claimed, bytes) else str(claimed)
    return claimed.removesuffix("_matrix")


def open_matrix(element: Any, shape: tuple[int, int | None], dataset: str, name: str) -> RowReader:
    """Return rows of a stored matrix; a None in `shape` takes the file's word for the number of features."""
    kind = kind_of(element)
    if kind == "dense":
        if len(element.shape) != 2:
            raise refusal(
                dataset, "shape-mismatch", name, f"{len(element.shape)} axes", "cells x genes", "export again"
            )
        return DenseRows(element, dataset, name)
    if kind not in ("csr", "csc") or any(part not in element for part in ("data", "indices", "indptr")):
        raise refusal(
            dataset,
            "broken-sparse",
            name,
            f"{kind or 'no encoding'} with {sorted(element)[:5]}",
            "csr_matrix, csc_matrix or a dense array",
            "export the matrix again",
        )
    with readable(dataset, name):
        said = element.attrs.get("shape", element.attrs.get("h5sparse_shape"))
        claimed = tuple(int(n) for n in np.asarray(said).reshape(-1))
    if len(claimed) != 2 or claimed[0] != shape[0] or (shape[1] is not None and claimed[1] != shape[1]):
        raise refusal(
            dataset,
            "shape-mismatch",
            name,
            f"a matrix of {claimed}",
            f"{shape[0]} cells x {shape[1]} genes",
            "export matrix and names together",
        )
    parts = (element["data"], element["indices"], element["indptr"])
    whole = (claimed[0], claimed[1])
    return (CompressedRows if kind == "csr" else transpose_columns)(parts, whole, dataset, name)


def scalars(store: Any) -> dict[str, Any]:
    """Return the numbers and short texts of uns by path, two levels deep; everything else is left alone."""
    found: dict[str, Any] = {}
    if "uns" not in store or hasattr(store["uns"], "shape"):
        return found
    groups = [("", store["uns"])]
    for prefix, group in groups:
        for name in group:
            item = group[name]
            if not hasattr(item, "shape"):
                if prefix.count("/") < 1:
                    groups.append((f"{prefix}{name}/", item))
            elif item.shape == () and item.dtype.kind in "biufOSUT":
                value = _scalar(item)
                if value is not None:
                    found[f"{prefix}{name}"] = value
    return found


def _scalar(item: Any) -> Any:
    try:
        value = item[()]
    except (OSError, ValueError, RuntimeError, TypeError):  # an unreadable remark is no reason to refuse the counts
        return None
    value = value.item() if hasattr(value, "item") else value
    value = value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value
    return value[:SCALAR_LIMIT] if isinstance(value, str) else value if isinstance(value, bool | int | float) else None
