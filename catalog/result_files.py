"""What a model made of cells, as an h5ad that scanpy and its kin open: `new_result` writes one, block by block.

Embeddings and layers go to disk as they are made, so that memory holds some cells however many there are. A file is
there whole or not at all, and equal results have equal bytes: nothing in it tells the time. task_commands.py fills it.
"""

from __future__ import annotations

import hashlib
import secrets
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .errors import CatalogInputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import h5py
    import numpy.typing as npt

PART = ".part-"
"""Begins the names of files that are being written."""
CHUNK_BYTES = 1 << 20
"""Of a matrix, before compression; whole cells, so that some of them are read without the others."""
GROUPS = ("obsm", "varm", "obsp", "varp", "layers")
"""Groups that an AnnData file has, filled or not."""


class ResultFile:
    """An h5ad that is being written; `new_result` makes one.

    Parameters
    ----------
    file
        Open and empty.
    n_obs
        Its cells.
    """

    def __init__(self, file: h5py.File, n_obs: int) -> None:
        from anndata.io import write_elem  # noqa: PLC0415 - half a second

        self.n_obs = n_obs
        self._file, self._write = file, write_elem
        self._done: dict[str, int] = {}
        file.attrs["encoding-type"], file.attrs["encoding-version"] = "anndata", "0.1.0"
        for name in GROUPS:
            write_elem(file, name, {})

    def append(self, element: str, rows: npt.NDArray, genes: Sequence[str] = ()) -> None:
        """Add the next cells of an element, such as `obsm/X_panatlas`; the first ones decide its width.

        Parameters
        ----------
        element
            Group and name.
        rows
            Numbers [cells, columns], written as float32.
        genes
            What the columns are, for a result that does not wait for var; not looked at here.

        Raises
        ------
        ValueError
            When there are more cells than the file has.
        """
        start = self._done.get(element, 0)
        if start == 0 and element not in self._file:
            self._create(element, rows.shape[1])
        if start + len(rows) > self.n_obs:
            raise ValueError(f"{element}: {start + len(rows)} rows for {self.n_obs} cells")
        self._file[element][start : start + len(rows)] = np.asarray(rows, dtype=np.float32)
        self._done[element] = start + len(rows)

    def finish(self, obs: pd.DataFrame, var: pd.DataFrame | None, uns: Mapping[str, Any]) -> None:
        """Write what is known of cells and genes, and of the result.

        Parameters
        ----------
        obs
            A row per cell; see `storable`.
        var
            A row per gene, as many as layers have columns; None for none.
        uns
            Texts, numbers, truth values, lists and mappings of them; what is None is left out.

        Raises
        ------
        ValueError
            When an element lacks cells.
        """
        if short := [name for name, done in self._done.items() if done != self.n_obs]:
            raise ValueError(f"{short[0]}: {self._done[short[0]]} rows for {self.n_obs} cells")
        self._write(self._file, "obs", storable(obs))
        self._write(self._file, "var", storable(pd.DataFrame(index=pd.Index([], dtype=object)) if var is None else var))
        self._write(self._file, "uns", _without_none(uns))

    def _create(self, element: str, width: int) -> None:
        # Level 1 with bytes shuffled: higher levels take many times as long for a few percent of float32.
        chunk = (max(1, min(self.n_obs, CHUNK_BYTES // (4 * max(width, 1)))), max(width, 1))
        made = self._file.create_dataset(
            element, (self.n_obs, width), np.float32, chunks=chunk, compression="gzip", compression_opts=1, shuffle=True
        )
        made.attrs["encoding-type"], made.attrs["encoding-version"] = "array", "0.2.0"


@contextmanager
def new_result(path: Path, n_obs: int, *, force: bool = False, key: str | None = None) -> Iterator[ResultFile]:
    """Give an h5ad to write in, which becomes `path` at the end, or vanishes where writing fails.

    Parameters
    ----------
    path
        File to be; its folder is made where there is none.
    n_obs
        Its cells.
    force
        Write over a file that is there.
    key
        Of a task that no other process is at: what a killed one left of the same task is written over. None for none.

    Raises
    ------
    CatalogInputError
        When the file exists and is not to be written over.
    """
    import h5py  # noqa: PLC0415 - commands that write no results do without

    check_output(path, force=force)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{PART}{(key or secrets.token_hex(4))[:16]}-{path.name}"[:200])
    try:
        # The cache holds some chunks, so that each is compressed once however few cells a block has.
        with h5py.File(part, "w" if key else "x", rdcc_nbytes=4 * CHUNK_BYTES) as file:
            yield ResultFile(file, n_obs)
        check_output(path, force=force)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def check_output(path: Path, *, force: bool) -> None:
    """Raise CatalogInputError where a result cannot go: a folder, another kind of name, or a file that is there."""
    if path.suffix != ".h5ad" or path.is_dir():
        raise CatalogInputError("output", str(path), "a file whose name ends in .h5ad")
    if path.exists() and not force:
        raise CatalogInputError("output", str(path), "a file that does not exist yet; --force writes over it")


def refuse_same_file(output: Path | None, *inputs: str | Path | None) -> None:
    """Raise CatalogInputError where a result would be written over what it is made of; inputs may be no files."""
    if output is None or not output.exists():
        return
    for one in inputs:
        if one is not None and (path := Path(one).expanduser()).exists() and output.samefile(path):
            raise CatalogInputError("output", str(output), "another file than the input")


def storable(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame as an h5ad can hold it: numbers and truth values as they are, all else as categories of text.

    Examples
    --------
    >>> found = storable(pd.DataFrame({"a/b": ["x", None], "n": [1, 2]}, index=["cell1", "cell2"]))
    >>> found.dtypes.astype(str).to_dict(), found["a_b"].tolist()
    ({'a_b': 'category', 'n': 'int64'}, ['x', nan])
    """
    columns = {
        str(name).replace("/", "_"): _storable_column(frame.iloc[:, place]) for place, name in enumerate(frame.columns)
    }
    return pd.DataFrame(columns, index=pd.Index(frame.index.astype(str), dtype=object))


def _storable_column(column: pd.Series) -> Any:
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "iufb":
        return column.to_numpy()
    if isinstance(column.dtype, pd.CategoricalDtype) and all(map(_plain, column.cat.categories)):
        return column.array
    values = column.astype(object).where(column.notna(), None)
    texts = [None if value is None else str(value).replace("\0", "\N{REPLACEMENT CHARACTER}") for value in values]
    words = sorted({text for text in texts if text is not None})
    return pd.Categorical(texts, categories=pd.Index(words, dtype=object))


def _plain(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value  # a NUL ends a text in HDF5


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    said = {name: _without_none(one) if hasattr(one, "items") else one for name, one in values.items()}
    said = {name: np.array(one) if isinstance(one, (list, tuple)) else one for name, one in said.items()}
    return {name: one for name, one in said.items() if one is not None}


def digest_of_file(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
