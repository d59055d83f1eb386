"""Who a cell is: its stable id, and hashes of its counts by which copies are found across sources.

Pure functions over arrays. A hash depends on gene *ids* and counts alone, never on column order, joinids, file
names or block size.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import scipy.sparse as sp

MIN_CORE_GENES = 24  # fewer non-zero core genes do not tell two cells apart
MIN_GENES = 24  # likewise for the whole vector: below it, equal counts are no proof of a copy


def cell_ids(dataset_id: str, names: Sequence[str]) -> np.ndarray:
    """Return the stable id of each cell: 128-bit BLAKE2b of dataset id and cell name, as 32 hex digits.

    Parameters
    ----------
    dataset_id
        Identity of the dataset; the same in every release.
    names
        Cell names, unique within the dataset.

    Returns
    -------
    Object array of str, aligned with `names`.

    Examples
    --------
    >>> cell_ids("a", ["AAAC-1"])[0] == cell_ids("a", ["AAAC-1", "GGGT-1"])[0]
    True
    """
    prefix = hashlib.blake2b(dataset_id.encode() + b"\0", digest_size=16)
    out = np.empty(len(names), dtype=object)
    for i, name in enumerate(names):
        digest = prefix.copy()
        digest.update(name.encode("utf-8", "surrogatepass"))
        out[i] = digest.hexdigest()
    return out


def gene_keys(gene_ids: Sequence[str]) -> np.ndarray:
    """Return a 64-bit key per gene id, shape (2, gene): one independent key per hash lane."""
    digests = b"".join(hashlib.blake2b(str(g).encode(), digest_size=16).digest() for g in gene_ids)
    return np.frombuffer(digests, dtype="<u8").reshape(-1, 2).T.copy()


def count_hashes(counts: sp.csr_matrix, keys: np.ndarray, core: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each cell's count hash and core hash.

    A hash is the sum, modulo 2**64 in each of two lanes, of a mixed (gene key, count) word over the cell's
    non-zero pairs, so it equals hashing the sorted pairs without sorting them (an additive multiset hash, Clarke
    et al. 2003). It finds copies; it does not resist somebody who builds collisions.

    Parameters
    ----------
    counts
        CSR, cell x gene, positive integers, no duplicate coordinates.
    keys
        From `gene_keys`, shape (2, gene).
    core
        Boolean per gene: the fixed core that gene filtering keeps.

    Returns
    -------
    Two object arrays of str, 32 hex digits a cell; the core hash is "" below `MIN_CORE_GENES` non-zero core genes.
    """
    from .count_kernels import hash_cells, rows_of  # noqa: PLC0415 - numba, when the first cells are hashed

    n = counts.shape[0]
    words, n_core = np.empty((n, 4), np.uint64), np.empty(n, np.int64)
    hash_cells(rows_of(counts), np.ascontiguousarray(keys.T), np.asarray(core, dtype=bool), words, n_core)
    inner = _hex(words[:, 2:])
    inner[n_core < MIN_CORE_GENES] = ""
    return _hex(words[:, :2]), inner


def mix(word: np.ndarray) -> np.ndarray:
    """Return the splitmix64 finaliser of each word (Steele et al. 2014): every input bit reaches every output bit."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


def _hex(lanes: np.ndarray) -> np.ndarray:
    """Return two 64-bit lanes, uint64 [n, 2], as 32 hex digits a row."""
    raw = lanes.astype(">u8").tobytes().hex()
    return np.array([raw[i : i + 32] for i in range(0, len(raw), 32)], dtype=object)
