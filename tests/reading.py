"""Open a file as a source, put its blocks together, compare: what every test of the read side does."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from atlas.read import open_source
from atlas.sources import Source
from tests import hostile


def opened(path, **fields):
    """Return the cells of a path as a human source."""
    return open_source(Source(organism="human", uri=str(path), **fields), path)


def whole(cells, rows=4096):
    """Return all counts, checking on the way that blocks come in order and are canonical."""
    blocks = list(cells.blocks(rows))
    assert [start for start, _ in blocks] == list(range(0, cells.n_obs, rows))
    assert all(block.has_canonical_format and block.data.dtype == np.float32 for _, block in blocks)
    return sp.vstack([block for _, block in blocks], format="csr")


def same(found, expected):
    """Return whether two matrices hold the same values."""
    expected = sp.csr_matrix(expected)
    return found.shape == expected.shape and (found != expected).nnz == 0


def written(folder, adata, name="cells.h5ad", **options):
    """Write an AnnData and return its path."""
    adata.write_h5ad(folder / name, **options)
    return folder / name


def layouts():
    """Return (AnnData, options of write_h5ad) by name: one set of counts in every layout h5ad files have."""
    base = hostile.good(60, 17, seed=3)

    def changed(x, **kind):
        adata = base.copy()
        adata.X = x
        return adata, kind

    csr = base.X
    unsorted = csr.copy()
    for i in range(60):
        part = slice(*unsorted.indptr[i : i + 2])
        unsorted.indices[part], unsorted.data[part] = unsorted.indices[part][::-1], unsorted.data[part][::-1].copy()
    unsorted.has_sorted_indices = False
    zeros = csr.copy()
    zeros.data[::7] = 0
    return {
        "csr": changed(csr),
        "csr gzip": changed(csr, compression="gzip"),
        "csr lzf": changed(csr, compression="lzf"),
        "csc": changed(sp.csc_matrix(csr)),
        "csc unsorted": changed(sp.csc_matrix(unsorted)),
        "dense": changed(csr.toarray()),
        "dense gzip": changed(csr.toarray().astype(np.int32), compression="gzip"),
        "unsorted rows": changed(unsorted),
        "explicit zeros": changed(zeros),
        "int64": changed(csr.astype(np.int64)),
        "uint8": changed(csr.astype(np.uint8)),
        "uint16": changed(csr.astype(np.uint16)),
        "float64": changed(csr.astype(np.float64)),
    }
