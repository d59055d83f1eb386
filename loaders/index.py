"""What is known of cells besides their counts: numbers per cell, genes, which were measured, and who is near whom.

`CellIndex` is a folder of plain zarr v3 arrays, mapped: columns of 350 million cells take no memory. A pack is an index
with records beside it (pack.py); without records it stands in the cache, and the records come from the store
(store_cells.py). Its fingerprint covers content, never how that is cut into files, so both have the same one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .cells import NO_CELL, Numbers
from .errors import LoaderInputError, PackError
from .mapped import MappedArray, PlainWriter
from .verified import ROOT, digest_of, note_verified, read_facts, sha256_of, verify_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    import pandas as pd

FORMAT = 2
FORMATS = {"panatlas_pack": FORMAT}
NEIGHBOURS = 15
"""Neighbours kept per cell; as many as a store holds."""
GENES = "genes.parquet"
_NAMES = ["organism", "feature_id", "feature_name"]


class IndexWriter:
    """Writes an index; use it in a `with`, which gives the folder its name only when all went well.

    Parameters
    ----------
    path
        Folder of the index; must not exist.
    about
        What the cells are: JSON values, kept as they are.
    piece_mib
        Largest file; None for one file per array however long.

    Raises
    ------
    LoaderInputError
        When the folder exists.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], *, piece_mib: int | None = None) -> None:
        import zarr  # noqa: PLC0415 - readers need no zarr

        if path.exists():
            raise LoaderInputError("path", str(path), "a folder that does not exist yet")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.about = path, dict(about)
        """Folder to be, and what the cells are; may still be added to."""
        with _alone(path.parent):
            _clear_leftovers(path)
            self._part = Path(tempfile.mkdtemp(prefix=_part_prefix(path), dir=path.parent))
            self._group = zarr.open_group(self._part, mode="w", zarr_format=3)
            self._mark = os.open(self._part, os.O_RDONLY)
            _try_lock(self._mark)
        self._limit = None if piece_mib is None else piece_mib << 20
        self._arrays: dict[str, PlainWriter] = {}
        self._n_genes: list[int] = []
        self._genes_digest = ""

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Finish, or leave nothing behind."""
        try:
            if kind is None:
                self._finish()
        finally:
            for array in self._arrays.values():
                array.abandon()
            shutil.rmtree(self._part, ignore_errors=True)
            os.close(self._mark)

    @property
    def n_cells(self) -> int:
        """Return the cells added so far."""
        return max((array.size for name, array in self._arrays.items() if name.startswith("cells/")), default=0)

    def append(self, columns: Mapping[str, npt.NDArray]) -> None:
        """Add cells.

        Parameters
        ----------
        columns
            Numbers per cell by name; the same names in every call, the types of the first one.
        """
        known = {name.removeprefix("cells/") for name in self._arrays if name.startswith("cells/")}
        if known and set(columns) != known:
            raise LoaderInputError("columns", sorted(columns), f"the columns {sorted(known)}")
        if len({len(values) for values in columns.values()}) > 1:
            raise LoaderInputError("columns", {k: len(v) for k, v in columns.items()}, "columns of one length")
        for name, values in columns.items():
            self._array(f"cells/{name}", values.dtype).append(values)

    def write_genes(self, genes: pd.DataFrame) -> None:
        """Keep the genes: organism (code), feature_id, feature_name, in the order of gene numbers per organism."""
        genes = genes.reindex(columns=_NAMES).reset_index(drop=True)
        genes.to_parquet(self._part / GENES, index=False)
        # Not of the file: its bytes depend on the library that wrote it.
        text = genes.to_csv(index=False, lineterminator="\n")
        self._genes_digest = hashlib.sha256(text.encode()).hexdigest()
        self._n_genes = np.bincount(genes["organism"].to_numpy(np.int64)).tolist() if len(genes) else []

    def write_measured(self, masks: Sequence[tuple[int, npt.NDArray[np.bool_]]]) -> None:
        """Keep, per dataset in the order of codes, its organism's code and which of that organism's genes it measured.

        Eight genes to a byte, the first in the lowest bit.
        """
        bits = [np.packbits(mask, bitorder="little") for _, mask in masks]
        sizes = np.array([len(b) for b in bits], dtype=np.int64)
        self._array("measured/organism", np.int32).append(np.array([code for code, _ in masks], dtype=np.int32))
        self._array("measured/offset", np.uint64).append(np.cumsum(sizes) - sizes)
        self._array("measured/bits", np.uint8).append(np.concatenate([np.empty(0, np.uint8), *bits]))

    def append_neighbours(self, near: Numbers, distances: npt.NDArray[np.float32]) -> None:
        """Add the neighbours of the next cells, once all cells are there.

        Parameters
        ----------
        near
            Cell numbers [cells, `NEIGHBOURS`], nearest first, `NO_CELL` where there are fewer.
        distances
            Of the same shape.
        """
        width = np.dtype(np.uint32 if self.n_cells < np.iinfo(np.uint32).max else np.uint64)
        ids = np.where(near == NO_CELL, np.iinfo(width).max, near).astype(width)
        self._array("neighbours/cell", width, NEIGHBOURS).append(ids)
        self._array("neighbours/distance", np.float32, NEIGHBOURS).append(distances)

    def _array(self, name: str, dtype: npt.DTypeLike, width: int = 1) -> PlainWriter:
        if name not in self._arrays:
            hashed = not name.startswith("records/")  # the hashes of all counts stand for them
            self._arrays[name] = PlainWriter(self._part, name, dtype, width=width, limit=self._limit, hashed=hashed)
        return self._arrays[name]

    def _finish(self) -> None:
        for name, array in self._arrays.items():
            if array.size != self.n_cells and name.startswith(("cells/", "neighbours/")):
                raise LoaderInputError(name, f"{array.size} cells", f"{self.n_cells}, as in the other columns")
            array.close(self._group)
        files = {file: digest for array in self._arrays.values() for file, digest in array.files.items()}
        for file in sorted(self._part.rglob("*")):
            name = file.relative_to(self._part).as_posix()
            if file.is_file() and name not in files and name != ROOT:  # the root holds the digests of all others
                files[name] = sha256_of(file)
        facts = {
            **FORMATS, "cells": self.n_cells, "n_genes": self._n_genes, "about": self.about,
            "content": dict(sorted(self._digests().items())), "files": dict(sorted(files.items())),
        }  # fmt: skip
        self._group.attrs.update({**facts, "digest": digest_of(facts)})
        note_verified(self._part, files)
        self._part.chmod(0o755)
        self._part.rename(self.path)

    def _digests(self) -> dict[str, str]:
        """Return the digests that make the fingerprint."""
        content = {name: array.content for name, array in self._arrays.items() if array.content}
        return {**content, GENES: self._genes_digest}


class CellIndex:
    """An opened index.

    Parameters
    ----------
    path
        Its folder.
    verify
        True proves every file's digest once; files that have not changed since are not read again.

    Raises
    ------
    PackError
        When it is none, of another format, incomplete, or a file's bytes are not those that were written.
    """

    def __init__(self, path: Path, *, verify: bool = True) -> None:
        # Absolute: hints and other processes open files by name, whatever folder the process is in by then.
        self.path, self._verify = Path(path).absolute(), verify
        facts = read_facts(self.path, FORMATS)
        self.about: dict[str, Any] = facts["about"]
        """What the cells are."""
        # Two releases of one content under two names are the same cells.
        content = {name: value for name, value in self.about.items() if name != "release"}
        self.fingerprint = digest_of({"about": content, "content": facts["content"]})
        """Digest of the cells, their order and what is known of them."""
        self._size, self._n_genes = int(facts["cells"]), facts["n_genes"]
        self.files: dict[str, str] = facts["files"]
        """sha256 of every file but the root's."""
        if verify:
            verify_files(self.path, self.files)
        arrays = sorted(name.removesuffix(f"/{ROOT}") for name in self.files if name.endswith(f"/{ROOT}"))
        self._arrays = {name: self._map(name) for name in arrays if "/" in name}
        short = [name for name, array in self._arrays.items()
                 if name.startswith(("cells/", "neighbours/")) and len(array.values) != self._size]  # fmt: skip
        if short:
            raise PackError(str(self.path / short[0]), f"not {self._size} cells long", "make it again")

    def __reduce__(self) -> tuple[Any, ...]:
        """Reopen in another process, which maps the same files."""
        return _reopen, (type(self), self.path, self._verify)

    def __len__(self) -> int:
        """Return the number of cells."""
        return self._size

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Return the names of the numbers per cell."""
        return tuple(name.removeprefix("cells/") for name in self._arrays if name.startswith("cells/"))

    def genes(self) -> pd.DataFrame:
        """Return the genes in the order of their numbers, per organism."""
        from pandas import read_parquet  # noqa: PLC0415 - half a second, which a worker that knows the genes is spared

        return read_parquet(self.path / GENES)

    def column(self, name: str) -> npt.NDArray:
        """Return one column of all cells, mapped."""
        if f"cells/{name}" not in self._arrays:
            raise LoaderInputError("name", name, f"one of {', '.join(self.columns)}")
        return self._arrays[f"cells/{name}"].values

    def codes(self, name: str, cells: Numbers) -> npt.NDArray:
        """Return one column of some cells."""
        return self.column(name)[self._known(cells)]

    def measured(self, dataset: int, organism: int) -> npt.NDArray[np.bool_]:
        """Return, per gene of an organism, whether a dataset measured it; none where it has cells of another."""
        owners = self._arrays.get("measured/organism")
        n_datasets = 0 if owners is None else len(owners.values)
        if not (0 <= organism < len(self._n_genes) and 0 <= dataset < n_datasets):
            allowed = f"datasets 0 to {n_datasets - 1} and organisms 0 to {len(self._n_genes) - 1}"
            raise LoaderInputError("dataset, organism", (dataset, organism), allowed)
        n_genes = self._n_genes[organism]
        if owners is None or owners.values[dataset] != organism:
            return np.zeros(n_genes, dtype=np.bool_)
        first = int(self._arrays["measured/offset"].values[dataset])
        bits = self._arrays["measured/bits"].values[first : first + (n_genes + 7) // 8]
        return np.unpackbits(bits, count=n_genes, bitorder="little").view(np.bool_)

    def neighbours(self, cells: Numbers) -> tuple[Numbers, npt.NDArray[np.float32]]:
        """Return the nearest cells of the same split and their distances, both [cells, `NEIGHBOURS`], nearest first."""
        cells = self._known(cells)
        if "neighbours/cell" not in self._arrays:
            shape = (len(cells), NEIGHBOURS)
            return np.full(shape, NO_CELL, dtype=np.int64), np.full(shape, np.inf, dtype=np.float32)
        ids = self._arrays["neighbours/cell"].values[cells]
        nobody = ids == np.iinfo(ids.dtype).max
        near = ids.astype(np.int64)
        near[nobody] = NO_CELL
        return near, self._arrays["neighbours/distance"].values[cells]

    def _known(self, cells: Numbers) -> Numbers:
        cells = np.asarray(cells, dtype=np.int64)
        if len(cells) and not (cells.min() >= 0 and cells.max() < self._size):
            raise LoaderInputError("cells", f"{cells.min()}..{cells.max()}", f"cell numbers 0 to {self._size - 1}")
        return cells

    def _map(self, name: str) -> MappedArray:
        return MappedArray(self.path / name)


def _reopen(kind: type[CellIndex], path: Path, verify: bool) -> CellIndex:
    return kind(path, verify=verify)


def _part_prefix(path: Path) -> str:
    return f".part-{path.name}-"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other writers from beginning in a folder while the block runs, where its file system can lock a folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    """Lock a folder until it is closed or its process dies; False where another holds it or nobody can."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _clear_leftovers(path: Path) -> None:
    """Remove what writers of the same folder left when they were killed: parts that no process holds locked."""
    for left in path.parent.glob(f"{escape(_part_prefix(path))}*"):
        with suppress(OSError):
            handle = os.open(left, os.O_RDONLY)
            try:
                if _try_lock(handle):
                    shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(handle)
