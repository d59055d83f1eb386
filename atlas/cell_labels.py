"""Labels that lie in a table beside the cells: gathered from a corpus' own table, joined to a file by cell name.

A manifest's `labels` names such a table, CSV or Parquet, whose first column (or `cell`) holds cell names; its other
columns are used like columns of obs, and win over those of the same name. `corpora` makes one where a corpus keeps
types and stages apart from its counts; anybody can make one for a file whose labels came by mail.
"""

from __future__ import annotations

import functools
import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from .errors import AtlasInputError
from .findings import Finding

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

MAX_BYTES = 8 << 30  # of a table; the one of 11 million mouse nuclei has 1 to 2 GB


def gather_labels(
    table: Path, columns: Mapping[str, str], values: Mapping[str, Mapping[str, str]], target: Path
) -> None:
    """Write a corpus' table of cells in the atlas' own fields, words already turned into what they mean.

    Parameters
    ----------
    table
        The corpus' table: CSV or Parquet, cell names in `cell_id`, `cell` or the first column.
    columns
        Field of the atlas to the table's column.
    values
        Field of the atlas to what a word means; `*` is every other word.
    target
        Parquet file to write, with `cell` and a column a field; one that is there is replaced in one step.

    Raises
    ------
    AtlasInputError
        If the table cannot be read, or lacks a column.
    """
    frame = read_labels(table, columns.values())
    missing = sorted(set(columns.values()) - set(frame.columns))
    if missing:
        raise AtlasInputError("labels", str(table), f"a table with the columns {', '.join(missing)}")
    out = pd.DataFrame({"cell": frame.index})
    for name, column in columns.items():
        meant = values.get(name, {})
        words = frame[column].astype("category")
        new = [meant.get(word, meant.get("*", word)) for word in words.cat.categories]
        texts = pd.Series([*new, ""], dtype=object).to_numpy()[words.cat.codes.to_numpy()]
        out[name] = pd.Categorical(texts)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=target.parent) as part:
        out.to_parquet(Path(part) / target.name, index=False)
        (Path(part) / target.name).replace(target)


def read_labels(table: Path, columns: Collection[str] | None = None) -> pd.DataFrame:
    """Return a table of labels as text, cell names as index.

    Parameters
    ----------
    table
        CSV or Parquet.
    columns
        Those wanted, beside the cell names; None for all. One that is not there is left out.

    Raises
    ------
    AtlasInputError
        If it is no table, too large to be one of labels, or names a cell twice.
    """
    try:
        if table.stat().st_size > MAX_BYTES:
            raise AtlasInputError("labels", str(table), f"a table of at most {MAX_BYTES >> 30} GiB")
        frame = _read_table(table, columns)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise AtlasInputError("labels", str(table), f"a CSV or Parquet file ({str(error)[:200]})") from error
    if isinstance(frame.index, pd.RangeIndex):
        if not len(frame.columns):
            raise AtlasInputError("labels", str(table), "a column of cell names")
        frame = frame.set_index(_cell_column(list(frame.columns)))
    frame.index = frame.index.astype(str)
    if frame.index.has_duplicates:
        twice = frame.index[frame.index.duplicated()][0]
        raise AtlasInputError("labels", str(table), f"one row a cell; {twice!r} has several")
    return frame


def _read_table(table: Path, columns: Collection[str] | None) -> pd.DataFrame:
    """Return a file's cell names and some other columns, or all; a column of a CSV holds each of its words once."""
    if table.suffix == ".parquet":
        names = pq.ParquetFile(table).schema_arrow.names
        wanted = None if columns is None or not names else [_cell_column(names), *(set(columns) & set(names))]
        return pd.read_parquet(table, columns=None if wanted is None else list(dict.fromkeys(wanted)))
    names = list(pd.read_csv(table, dtype=str, nrows=0).columns)
    cell = _cell_column(names)
    wanted = names if columns is None else [name for name in names if name in columns or name == cell]
    kinds = {name: str if name == cell else "category" for name in wanted}
    return pd.read_csv(table, usecols=wanted, dtype=kinds, keep_default_na=False)


def _cell_column(names: Sequence[str]) -> str:
    """Return which column holds cell names."""
    return next((name for name in ("cell_id", "cell") if name in names), names[0])


def labels_digest(table: str) -> str:
    """Return the sha256 of a table's bytes.

    Raises
    ------
    AtlasInputError
        If there is no such file.
    """
    try:
        path = Path(table).expanduser().resolve()
        facts = path.stat()
        return _digest(path, (facts.st_ino, facts.st_size, facts.st_mtime_ns))
    except OSError as error:
        raise AtlasInputError("labels", table, f"a CSV or Parquet file ({error})") from error


@functools.lru_cache(maxsize=16)
def _digest(path: Path, _version: tuple[int, int, int]) -> str:
    """Return the sha256 of a file; every source of a corpus asks for that of one table of gigabytes, several times."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


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
    some = frame.iloc[rows]  # of a cell that is not there the last row, for now
    for column in frame.columns:
        texts = some[column].astype(object)
        joined[column] = texts.where(texts.notna() & (rows >= 0), None).to_numpy()
    if not lost:
        return joined, []
    remedy = "their labels stay unknown; add them to the table"
    return joined, [Finding("cells-without-labels", "warning", "labels", f"{lost} cells", "a row a cell", remedy, lost)]
