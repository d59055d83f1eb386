"""obs and var of an AnnData file as plain tables, whichever of its layouts wrote them.

Texts come back as objects with None for nulls, categories as their text, numbers and booleans as numpy arrays, names
as the index. anndata decodes; what the columns mean is decided in `standardise`.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
from anndata import ImplicitModificationWarning, OldFormatWarning
from anndata.io import read_elem

from .matrices import readable
from .refusal import refusal


def read_frame(element: Any, dataset: str, where: str) -> pd.DataFrame:
    """Return obs or var: strings as objects with None for nulls, categories as their text, names as the index."""
    with readable(dataset, where):
        if hasattr(element, "shape"):  # anndata before 0.7 kept a frame as one compound array
            return _from_records(np.asarray(element[:]), dataset, where)
        _check_lengths(element, dataset, where)
        with warnings.catch_warnings():
            for kind in (OldFormatWarning, ImplicitModificationWarning, FutureWarning):
                warnings.simplefilter(
                    "ignore", kind
                )  # old files are welcome; the oldest ones are in the starter source
            frame = read_elem(element)
        if not isinstance(frame, pd.DataFrame):
            raise refusal(
                dataset, "not-anndata", where, type(frame).__name__, "a dataframe", "export it with write_h5ad"
            )
        plain = {str(name): _plain(frame.iloc[:, i]) for i, name in enumerate(frame.columns)}
        return pd.DataFrame(plain, index=_names(frame.index), copy=False)


def _check_lengths(element: Any, dataset: str, where: str) -> None:
    """Refuse a frame whose columns differ in length, naming one, before any of it is decoded."""
    key = element.attrs.get("_index")
    key = key.decode() if isinstance(key, bytes) else key
    if key is None or key not in element:
        raise refusal(
            dataset,
            "not-anndata",
            where,
            f"no index {key!r}",
            "a dataframe with named rows",
            "export it with write_h5ad",
        )
    length = _length(element[key])
    for name in element:
        found = None if name == "__categories" else _length(element[name])
        if found is not None and found != length:
            raise refusal(
                dataset,
                "length-mismatch",
                f"{where}, {name}",
                f"{found} values",
                f"{length}, one per row",
                "export the frame again",
            )


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
    return (
        pd.DataFrame(columns, copy=False).set_axis(_names(pd.Index(records[key].tolist())), axis=0)
        if columns
        else (pd.DataFrame(index=_names(pd.Index(records[key].tolist()))))
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
        return (
            column.to_numpy(dtype=np.float64 if column.isna().any() else column.dtype.numpy_dtype, na_value=np.nan)
            if column.isna().any()
            else column.to_numpy(dtype=column.dtype.numpy_dtype)
        )
    if column.dtype.kind == "b" and not column.isna().any() and not isinstance(column.dtype, pd.CategoricalDtype):
        return column.to_numpy(dtype=bool)
    if isinstance(column.dtype, pd.CategoricalDtype):
        texts = np.array([*(_text(v) for v in column.cat.categories), None], dtype=object)
        return texts[column.cat.codes.to_numpy()]  # code -1, no value, takes the last one
    out = np.empty(len(column), dtype=object)
    out[:] = [_text(v) for v in column.tolist()]
    return out
