"""AnnData on disk, in HDF5 (every layout since 2017) and in zarr: which element holds the counts, and the frames.

Only called on files that passed `preflight`. Frames are decoded by anndata; matrices are streamed by `matrices`.
The 10x formats are in `read_10x`; the checks all formats share are in `cells`.
"""

from __future__ import annotations

import warnings
from difflib import get_close_matches
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from .cells import Parts
from .findings import Finding
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
            Finding("columns-transposed", "info", name, "compressed columns", "compressed rows",
                    f"it was transposed with up to {size / 2**20:.0f} MiB, on disk above 256 MiB; store CSR to save that")
        )
    reader = open_matrix(store[names[name]], shape, dataset, name)
    others = {
        other: partial(open_matrix, store[path], (len(obs), None), dataset, other)
        for other, path in names.items() if other != name
    }
    return Parts(name, reader, obs, var, scalars(store), others, tuple(findings))


def elements(store: Any) -> dict[str, str]:
    """Return the elements that may hold counts, by name, with their path in the file."""
    found = {"X": "X"} if "X" in store else {}
    for name in ("raw/X", LEGACY["raw/X"]):
        if name in store:
            found["raw/X"] = name
    layers = store["layers"] if "layers" in store else ()
    found |= {f"layers/{layer}": f"layers/{layer}" for layer in layers}
    return found


def _check_root(store: Any, names: dict[str, str], dataset: str) -> None:
    missing = [part for part in ("obs", "var") if part not in store]
    if missing:
        raise refusal(dataset, "not-anndata", "the file", f"no {' and no '.join(missing)} among {sorted(store)[:8]}",
                      "an AnnData file with X, obs and var", "name its format, or export it with write_h5ad")
    if not names:
        raise refusal(dataset, "missing-matrix", "the file", "no X, raw/X or layers", "a matrix of counts",
                      "export the file with its counts")


def _choose(names: dict[str, str], dataset: str, wanted: str | None) -> str:
    if wanted is None:
        return next((n for n in ("raw/X", *COUNT_LAYERS, "X") if n in names), next(iter(names)))
    name = wanted.replace("raw.X", "raw/X")
    if name not in names:
        near = get_close_matches(name, names, 1, 0.4)
        raise refusal(dataset, "no-such-matrix", "matrix", wanted, f"one of {', '.join(sorted(names))}",
                      f"did you mean {near[0]}?" if near else "correct the manifest")
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
            raise refusal(dataset, "shape-mismatch", name, f"{len(element.shape)} axes", "cells x genes", "export again")
        return DenseRows(element, dataset, name)
    if kind not in ("csr", "csc") or any(part not in element for part in ("data", "indices", "indptr")):
        raise refusal(dataset, "broken-sparse", name, f"{kind or 'no encoding'} with {sorted(element)[:5]}",
                      "csr_matrix, csc_matrix or a dense array", "export the matrix again")
    with readable(dataset, name):
        said = element.attrs.get("shape", element.attrs.get("h5sparse_shape"))
        claimed = tuple(int(n) for n in np.asarray(said).reshape(-1))
    if len(claimed) != 2 or claimed[0] != shape[0] or (shape[1] is not None and claimed[1] != shape[1]):
        raise refusal(dataset, "shape-mismatch", name, f"a matrix of {claimed}", f"{shape[0]} cells x {shape[1]} genes",
                      "export matrix and names together")
    parts = (element["data"], element["indices"], element["indptr"])
    whole = (claimed[0], claimed[1])
    return (CompressedRows if kind == "csr" else transpose_columns)(parts, whole, dataset, name)


def read_frame(element: Any, dataset: str, where: str) -> pd.DataFrame:
    """Return obs or var: strings as objects with None for nulls, categories as their text, names as the index."""
    from anndata import ImplicitModificationWarning, OldFormatWarning
    from anndata.io import read_elem

    with readable(dataset, where):
        if hasattr(element, "shape"):  # anndata before 0.7 kept a frame as one compound array
            return _from_records(np.asarray(element[:]), dataset, where)
        _check_lengths(element, dataset, where)
        with warnings.catch_warnings():
            for kind in (OldFormatWarning, ImplicitModificationWarning, FutureWarning):
                warnings.simplefilter("ignore", kind)  # old files are welcome; the oldest ones are in the starter source
            frame = read_elem(element)
        if not isinstance(frame, pd.DataFrame):
            raise refusal(dataset, "not-anndata", where, type(frame).__name__, "a dataframe", "export it with write_h5ad")
        plain = {str(name): _plain(frame.iloc[:, i]) for i, name in enumerate(frame.columns)}
        return pd.DataFrame(plain, index=_names(frame.index), copy=False)


def _check_lengths(element: Any, dataset: str, where: str) -> None:
    """Refuse a frame whose columns differ in length, naming one, before any of it is decoded."""
    key = element.attrs.get("_index")
    key = key.decode() if isinstance(key, bytes) else key
    if key is None or key not in element:
        raise refusal(dataset, "not-anndata", where, f"no index {key!r}", "a dataframe with named rows",
                      "export it with write_h5ad")
    length = _length(element[key])
    for name in element:
        found = None if name == "__categories" else _length(element[name])
        if found is not None and found != length:
            raise refusal(dataset, f"{where}-length-mismatch", f"{where}, {name}", f"{found} values",
                          f"{length}, one per row", "export the frame again")


def _length(column: Any) -> int | None:
    if hasattr(column, "shape"):
        return int(column.shape[0]) if column.shape else None
    return next((int(column[part].shape[0]) for part in ("codes", "values") if part in column), None)


def _from_records(records: np.ndarray, dataset: str, where: str) -> pd.DataFrame:
    names = records.dtype.names
    if not names or records.ndim != 1:
        raise refusal(dataset, "not-anndata", where, records.dtype, "a dataframe", "export it with write_h5ad")
    key = next((n for n in ("index", "_index") if n in names), names[0])
    columns = {n: _plain(pd.Series(records[n].tolist())) for n in names if n != key}
    return pd.DataFrame(columns, copy=False).set_axis(_names(pd.Index(records[key].tolist())), axis=0) if columns else (
        pd.DataFrame(index=_names(pd.Index(records[key].tolist())))
    )


def _names(index: pd.Index) -> pd.Index:
    return pd.Index([_text(v) or "" for v in index], dtype=object)


def _text(value: object) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return None if value is None or (not isinstance(value, str) and pd.isna(value)) else str(value)


def _plain(column: pd.Series) -> np.ndarray:
    """Return a column as numbers, booleans, or text objects with None for nulls."""
    if column.dtype.kind in "iufb" and isinstance(column.dtype, np.dtype):
        return column.to_numpy()
    if not isinstance(column.dtype, pd.CategoricalDtype) and column.dtype.kind in "iuf":  # nullable numbers
        return column.to_numpy(dtype=np.float64 if column.isna().any() else column.dtype.numpy_dtype, na_value=np.nan) \
            if column.isna().any() else column.to_numpy(dtype=column.dtype.numpy_dtype)
    if column.dtype.kind == "b" and not column.isna().any() and not isinstance(column.dtype, pd.CategoricalDtype):
        return column.to_numpy(dtype=bool)
    if isinstance(column.dtype, pd.CategoricalDtype):
        texts = np.array([*(_text(v) for v in column.cat.categories), None], dtype=object)
        return texts[column.cat.codes.to_numpy()]  # code -1, no value, takes the last one
    out = np.empty(len(column), dtype=object)
    out[:] = [_text(v) for v in column.tolist()]
    return out


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
