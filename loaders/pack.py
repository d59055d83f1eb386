"""Packs: a release's cells as records in memory-mapped files, for draws that cost one small read each.

A pack is a zarr v3 group: `records` (bytes), `index/*` (where each record lies), `cells/*` (one number per cell and
label), and `genes.parquet`. Its fingerprint covers every chunk. It is a cache: made from a release by packing.py,
verified when opened, thrown away at will, and moved to machines that have neither the atlas nor tiledbsoma. records.py
says what a record holds.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from .errors import LoaderInputError, PackError
from .mapped import MappedArray, PlainWriter
from .records import PackedCells, encode_cells, record_sizes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    import scipy.sparse as sp

log = logging.getLogger(__name__)

FORMAT = 1
PIECE_MIB = 256
"""Size of a chunk of records; packs that travel use 30."""
INDEX_CHUNK = 1 << 20
"""Elements per chunk of the arrays with one number per cell."""
INDEX = {"offset": "<u8", "nnz": "<u4", "low": "<u4", "large": "<u4"}
VERIFIED = "verified.json"
"""Note of which files were found sound here; a copy of the pack does not believe it."""


class PackWriter:
    """Writes a pack; use it in a `with`, which gives the folder its name only when all went well.

    Parameters
    ----------
    path
        Folder of the pack; must not exist.
    about
        What the pack was made from: JSON values, kept as they are.
    piece_mib
        Largest file.

    Raises
    ------
    LoaderInputError
        When the folder exists.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], *, piece_mib: int = PIECE_MIB) -> None:
        import zarr  # noqa: PLC0415 - readers of other loaders need no zarr

        if path.exists():
            raise LoaderInputError("path", str(path), "a folder that does not exist yet")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._about = path, dict(about)
        self._part = Path(tempfile.mkdtemp(prefix=".part-", dir=path.parent))
        self._group = zarr.open_group(self._part, mode="w", zarr_format=3)
        self._piece = piece_mib << 20
        self._records = self._array("records", "<u1", self._piece)
        self._index = {name: self._array(f"index/{name}", t, INDEX_CHUNK) for name, t in INDEX.items()}
        self._cells: dict[str, PlainWriter] = {}

    def _array(self, name: str, dtype: npt.DTypeLike, chunk: int) -> PlainWriter:
        return PlainWriter(self._group, self._part, name, dtype, chunk)

    def __enter__(self) -> PackWriter:
        """Return itself."""
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Finish, or leave nothing behind."""
        try:
            if kind is None:
                self._finish()
        finally:
            shutil.rmtree(self._part, ignore_errors=True)

    def append(self, rows: sp.csr_matrix, codes: Mapping[str, npt.NDArray]) -> None:
        """Add cells.

        Parameters
        ----------
        rows
            CSR matrix of counts over the organism's genes.
        codes
            Numbers per cell by name; the same names and types in every call.
        """
        packed = encode_cells(rows)
        ends = np.append(packed.starts[1:], len(packed.data))
        offsets = np.empty(len(packed), dtype=np.int64)
        for cell, (start, end) in enumerate(zip(packed.starts.tolist(), ends.tolist(), strict=True)):
            room = -self._records.size % self._piece
            if end - start > self._piece:
                raise LoaderInputError("piece_mib", self._piece >> 20, f"room for a record of {end - start} bytes")
            if room and end - start > room:  # no record crosses two files
                self._records.append(np.zeros(room, np.uint8))
            offsets[cell] = self._records.size
            self._records.append(packed.data[start:end])
        values = {"offset": offsets, "nnz": packed.nnz, "low": packed.low, "large": packed.large}
        for name, array in self._index.items():
            array.append(values[name])
        if self._cells and set(codes) != set(self._cells):
            raise LoaderInputError("codes", sorted(codes), f"the columns {sorted(self._cells)}")
        for name, column in codes.items():
            if name not in self._cells:
                self._cells[name] = self._array(f"cells/{name}", column.dtype, INDEX_CHUNK)
            self._cells[name].append(column)

    def write_genes(self, genes: pd.DataFrame) -> None:
        """Keep the genes: organism (code), feature_id, feature_name, in the order of gene numbers."""
        genes.to_parquet(self._part / "genes.parquet", index=False)

    def _finish(self) -> None:
        count = self._index["nnz"].size
        for array in (self._records, *self._index.values(), *self._cells.values()):
            array.close()
        root = self._part / "zarr.json"  # it holds the digests of all others
        files = {p.relative_to(self._part).as_posix(): p for p in sorted(self._part.rglob("*")) if p.is_file()}
        digests = {name: _sha256(file) for name, file in files.items() if file != root}
        about = {"panatlas_pack": FORMAT, "cells": count, "about": self._about, "files": digests}
        self._group.attrs.update({**about, "fingerprint": _fingerprint(about)})
        self._part.chmod(0o755)
        self._part.rename(self.path)


class Pack:
    """An opened pack: records by cell number, and numbers per cell.

    Parameters
    ----------
    path
        Its folder.
    verify
        True proves every file's digest once; files that have not changed since are not read again.

    Raises
    ------
    PackError
        When it is no pack, of another format, incomplete, or a file's bytes are not those that were packed.
    """

    def __init__(self, path: Path, *, verify: bool = True) -> None:
        import zarr  # noqa: PLC0415

        self.path = path
        try:
            group = zarr.open_group(path, mode="r", zarr_format=3)
            attributes = dict(group.attrs)
        except (OSError, ValueError, KeyError) as error:
            raise PackError(str(path), f"no pack ({error})", "name the folder that `panatlas pack` made") from error
        if attributes.get("panatlas_pack") != FORMAT:
            raise PackError(str(path), f"format {attributes.get('panatlas_pack')}", f"pack again; this reads {FORMAT}")
        self.fingerprint = str(attributes.pop("fingerprint", ""))
        if self.fingerprint != _fingerprint(attributes):
            raise PackError(str(path / "zarr.json"), "changed since it was packed", "copy it again, or pack again")
        self.about: dict[str, Any] = attributes["about"]
        self._size = int(attributes["cells"])
        if verify:
            verify_files(path, attributes["files"])
        self._records = MappedArray(path / "records", group["records"])
        self._index = {name: MappedArray(path / "index" / name, group[f"index/{name}"]) for name in INDEX}
        names = sorted(group["cells"].array_keys()) if "cells" in group else []
        self._cells = {name: MappedArray(path / "cells" / name, group[f"cells/{name}"]) for name in names}

    def __len__(self) -> int:
        """Return the number of cells."""
        return self._size

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the names of the numbers per cell."""
        return tuple(self._cells)

    def genes(self) -> pd.DataFrame:
        """Return the genes in the order of their numbers, per organism."""
        return pd.read_parquet(self.path / "genes.parquet")

    def column(self, name: str) -> npt.NDArray:
        """Return one column of all cells, mapped where possible."""
        return self._cells[name].whole()

    def codes(self, name: str, cells: npt.NDArray[np.int64]) -> npt.NDArray:
        """Return one column of some cells."""
        return self._cells[name].take(cells)

    def read(self, cells: npt.NDArray[np.int64]) -> PackedCells:
        """Return the records of these cells, in this order, cells repeated or not."""
        offset, nnz, low, large = (self._index[name].take(cells).astype(np.int64) for name in INDEX)
        sizes = record_sizes(nnz, large)
        pieces, within = np.divmod(offset, self._records.chunk)
        get = self._records.chunk_of
        spans = zip(pieces.tolist(), within.tolist(), (within + sizes).tolist(), strict=True)
        # A cell without counts has no bytes, and may stand where no file begins any more.
        parts = [get(piece)[first:last] for piece, first, last in spans if last > first]
        data = np.concatenate(parts) if parts else np.empty(0, np.uint8)
        return PackedCells(data, np.cumsum(sizes) - sizes, nnz, low, large)

    def will_need(self, cells: npt.NDArray[np.int64]) -> None:
        """Tell the system which records are read next, so that a cold disk fetches them side by side."""
        offset, nnz, large = (self._index[name].take(cells).astype(np.int64) for name in ("offset", "nnz", "large"))
        for first, size in zip(offset.tolist(), record_sizes(nnz, large).tolist(), strict=True):
            piece, start = divmod(first, self._records.chunk)
            if size:
                self._records.will_need(piece, start, start + size)


def verify_files(path: Path, files: Mapping[str, str]) -> None:
    """Prove the digest of each file of a pack that changed since it was last proved.

    Raises
    ------
    PackError
        Naming the first file that is missing or has other bytes.
    """
    note = path / VERIFIED
    try:
        known = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    fresh: dict[str, list[int]] = {}
    for name, digest in files.items():
        file = path / name
        if path.resolve() not in file.resolve().parents or not file.is_file():
            raise PackError(str(file), "missing", "copy it again, or pack again")
        stat = file.stat()
        # Device and inode too: a copy keeps size and time of change, and has not been proved.
        fresh[name] = [stat.st_size, stat.st_mtime_ns, stat.st_dev, stat.st_ino]
        if known.get(name) != fresh[name] and _sha256(file) != digest:
            raise PackError(str(file), "other bytes than were packed", "copy it again, or pack again")
    if fresh != known:
        try:
            note.write_text(json.dumps(fresh), encoding="utf-8")
        except OSError as error:  # a read-only place is fine: it is proved again next time
            log.info("no note of the verification was kept: %s", error)


def _fingerprint(about: Mapping[str, Any]) -> str:
    """Return the digest of all that a pack says of itself, its files' digests among it."""
    return hashlib.sha256(json.dumps(dict(about), sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
