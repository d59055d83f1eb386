"""Finished vectors on disk, so that a stopped embedding goes on where it was: `VectorCache(folder, dim)`.

A shard is one npy file of (key, vector) rows, written aside, synced, and renamed to the digest of its bytes: it is
whole or absent, and a damaged one is known by its name and left aside. Shards are only ever added, so that several
processes may share a folder; deleting it loses time only. protein_vectors.py decides what a key is.
"""

from __future__ import annotations

import hashlib
import io
import logging
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ontology import write_whole

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

log = logging.getLogger(__name__)


class VectorCache:
    """Vectors of one embedder by key.

    Parameters
    ----------
    folder
        Of this embedder alone; made when the first shard is written.
    dim
        Numbers of a vector.
    """

    def __init__(self, folder: Path, dim: int) -> None:
        self.folder, self.dim = folder, dim
        self._row = np.dtype([("key", "S64"), ("vector", "<f4", (dim,))])

    def read(self, keys: Collection[str]) -> dict[str, npt.NDArray[np.float32]]:
        """Return the vectors that are there among those asked for; of two for a key, that of the first shard by name.

        Parameters
        ----------
        keys
            Hexadecimal sha256 digests.
        """
        found: dict[str, npt.NDArray[np.float32]] = {}
        wanted = set(keys)
        for path in sorted(self.folder.glob("*.npy")):
            for row in self._rows(path):
                key = row["key"].decode("ascii", errors="replace")
                if key in wanted:
                    found.setdefault(key, row["vector"].copy())
        return found

    def add(self, keys: Sequence[str], vectors: npt.NDArray[np.float32]) -> None:
        """Write a shard; it is on disk when this returns.

        Parameters
        ----------
        keys
            Hexadecimal sha256 digests.
        vectors
            `[len(keys), dim]`.
        """
        rows = np.empty(len(keys), dtype=self._row)
        rows["key"], rows["vector"] = [key.encode() for key in keys], vectors
        buffer = io.BytesIO()
        np.save(buffer, rows, allow_pickle=False)
        data = buffer.getvalue()
        write_whole(self.folder / f"{hashlib.sha256(data).hexdigest()}.npy", data)

    def _rows(self, path: Path) -> npt.NDArray:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() == path.stem:
            rows = np.load(io.BytesIO(data), allow_pickle=False)
            if rows.dtype == self._row:
                return rows
        log.warning("%s is damaged and its vectors are made again", path)
        return np.empty(0, dtype=self._row)
