"""Labels that lie in a table beside the cells: gathered from a corpus' own table, joined to a file by cell name.

A manifest's `labels` names such a table, CSV or Parquet, whose first column (or `cell`) holds cell names; its other
columns are used like columns of obs, and win over those of the same name. `corpora` makes one where a corpus keeps
types and stages apart from its counts; anybody can make one for a file whose labels came by mail.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa

from .errors import AtlasInputError
from .findings import Finding

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_BYTES = 8 << 30  # of a table; the one of 11 million mouse nuclei has 1 to 2 GB


def gather_labels(table: Path, columns: Mapping[str, str], values: Mapping[str, Mapping[str, str]], work: Path) -> Path:
    """Write a corpus' table of cells in the atlas' own fields, words already turned into what they mean.

    Parameters
    ----------
    table
        The corpus' table: CSV or Parquet, cell names in `cell_id`, `cell` or the first column.
    columns
        Field of the atlas to the table's column.
    values
        Field of the atlas to what a word means; `*` is every other word.
    work
        Folder to write to.

    Returns
    -------
    A Parquet file with `cell` and a column a field.

    Raises
    ------
    AtlasInputError
        If the table cannot be read, or lacks a column.
    """
    frame = read_labels(table)
    missing = sorted(set(columns.values()) - set(frame.columns))
    if missing:
        raise AtlasInputError("labels", str(table), f"a table with the columns {', '.join(missing)}")
    out = pd.DataFrame({"cell": frame.index})
    for target, column in columns.items():
        meant = values.get(target, {})
        words = frame[column].astype("category")
        new = [meant.get(word, meant.get("*", word)) for word in words.cat.categories]
        texts = pd.Series([*new, ""], dtype=object).to_numpy()[words.cat.codes.to_numpy()]
        out[target] = pd.Categorical(texts)
    work.mkdir(parents=True, exist_ok=True)
    target_path = work / f"{table.stem}.labels.parquet"
    out.to_parquet(target_path, index=False)
    return target_path


def read_labels(table: Path) -> pd.DataFrame:
    """Return a table of labels as text, cell names as index.

    Raises
    ------
    AtlasInputError
        If it is no table, too large to be one of labels, or names a cell twice.
    """
    try:
        if table.stat().st_size > MAX_BYTES:
            raise AtlasInputError("labels", str(table), f"a table of at most {MAX_BYTES >> 30} GiB")
        parquet = table.suffix == ".parquet"
        frame = pd.read_parquet(table) if parquet else pd.read_csv(table, dtype=str, keep_default_na=False)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise AtlasInputError("labels", str(table), f"a CSV or Parquet file ({str(error)[:200]})") from error
    if isinstance(frame.index, pd.RangeIndex):
        if not len(frame.columns):
            raise AtlasInputError("labels", str(table), "a column of cell names")
        name = next((c for c in ("cell_id", "cell") if c in frame.columns), frame.columns[0])
        frame = frame.set_index(name)
    frame.index = frame.index.astype(str)
    if frame.index.has_duplicates:
        twice = frame.index[frame.index.duplicated()][0]
        raise AtlasInputError("labels", str(table), f"one row a cell; {twice!r} has several")
    return frame


def labels_digest(table: str) -> str:
    """Return the sha256 of a table's bytes.

    Raises
    ------
    AtlasInputError
        If there is no such file.
    """
    try:
        with Path(table).expanduser().open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise AtlasInputError("labels", table, f"a CSV or Parquet file ({error})") from error


def join_labels(obs: pd.DataFrame, table: Path) -> tuple[pd.DataFrame, list[Finding]]:
    """Return obs with a table's columns joined by cell name, and a finding where cells are not in it.

    Parameters
    ----------
    obs
        Author columns; the index holds the cell names.
    table
        As `read_labels` takes it.

    Raises
    ------
    AtlasInputError
        If the table names none of the cells.
    """
    frame = read_labels(table)
    rows = frame.index.get_indexer(obs.index)
    lost = int((rows < 0).sum())
    if lost == len(obs):
        shown = f"{obs.index[0]!r}; the table has {frame.index[0]!r}" if len(obs) and len(frame) else "none"
        raise AtlasInputError("labels", str(table), f"a table of these cells, e.g. {shown}")
    joined = obs.copy()
    for column in frame.columns:
        texts = frame[column].astype(object).where(frame[column].notna(), None)
        joined[column] = pd.Series([*texts, None], dtype=object).to_numpy()[rows]
    if not lost:
        return joined, []
    remedy = "their labels stay unknown; add them to the table"
    return joined, [Finding("cells-without-labels", "warning", "labels", f"{lost} cells", "a row a cell", remedy, lost)]
