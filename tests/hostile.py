"""Builders of damaged and hostile files: each writes one fault and nothing else, from a good file where it can.

`HDF5` is the table the read tests go through: finding code to builder; folders are in hostile_folders.py. A builder
gets an empty folder and returns the path to open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECRET = b"root:x:0:0 a secret that no source may read\n"


def good(n_cells: int = 12, n_genes: int = 8, seed: int = 0) -> ad.AnnData:
    """Return a small AnnData with raw counts, an empty gene and text, category and number columns."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.8, size=(n_cells, n_genes)).astype(np.float32)
    counts[:, 0] = 0
    counts[np.arange(n_cells), 1 + np.arange(n_cells) % (n_genes - 1)] += 1
    obs = pd.DataFrame(
        {
            "kind": pd.Categorical([f"kind{i % 3}" for i in range(n_cells)]),
            "donor": [f"d{i % 2}" for i in range(n_cells)],
            "age": np.arange(n_cells, dtype=np.int64),
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    return ad.AnnData(sp.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=[f"gene{i}" for i in range(n_genes)]))


def good_file(folder: Path) -> Path:
    """Write the good AnnData and return its path."""
    path = folder / "cells.h5ad"
    good().write_h5ad(path)
    return path


def _edited(folder: Path, edit: Callable[[h5py.File], None]) -> Path:
    path = good_file(folder)
    with h5py.File(path, "r+") as file:
        edit(file)
    return path


def external_link(folder: Path) -> Path:
    other = folder / "other.h5"
    good().write_h5ad(other)

    def edit(file: h5py.File) -> None:
        del file["X"]
        file["X"] = h5py.ExternalLink(str(other), "/X")

    return _edited(folder, edit)


def external_storage(folder: Path) -> Path:
    secret = folder / "secret.txt"
    secret.write_bytes(SECRET)

    def edit(file: h5py.File) -> None:
        del file["X"]
        file.create_dataset("X", (12, 8), "u1", external=[(str(secret), 0, 96)])

    return _edited(folder, edit)


def virtual_dataset(folder: Path) -> Path:
    other = folder / "other.h5"
    with h5py.File(other, "w") as file:
        file["X"] = np.ones((12, 8), np.float32)

    def edit(file: h5py.File) -> None:
        del file["X"]
        layout = h5py.VirtualLayout((12, 8), np.float32)
        layout[:] = h5py.VirtualSource(str(other), "X", (12, 8))
        file.create_virtual_dataset("X", layout)

    return _edited(folder, edit)


def soft_link(folder: Path) -> Path:
    return _edited(folder, lambda file: file["uns"].__setitem__("alias", h5py.SoftLink("/X")))


def cycle(folder: Path) -> Path:
    return _edited(folder, lambda file: file["uns"].__setitem__("again", file["/"]))


def shared_dataset(folder: Path) -> Path:
    return _edited(folder, lambda file: file["layers"].__setitem__("counts", file["X"]))


def size_bomb(folder: Path) -> Path:
    def edit(file: h5py.File) -> None:
        del file["X"]
        file.create_dataset("X", (2**17, 2**15), "f4", chunks=(64, 2**15), compression="gzip")

    return _edited(folder, edit)


def many_small_bombs(folder: Path) -> Path:
    def edit(file: h5py.File) -> None:
        for i in range(4_000):
            file["uns"].create_dataset(f"z{i}", (2**19,), "u1", chunks=(2**19,), compression="gzip")

    return _edited(folder, edit)


def huge_chunk(folder: Path) -> Path:
    def edit(file: h5py.File) -> None:
        file["uns"].create_dataset("z", (2**28,), "f4", chunks=(2**28,), compression="gzip")

    return _edited(folder, edit)


def pickled_column(folder: Path) -> Path:
    """Put bytes that look like a pickle into an obs column of opaque type."""

    def edit(file: h5py.File) -> None:
        column = np.array([b"\x80\x04K\x01."] * 12, dtype="V5")
        data = file["obs"].create_dataset("payload", data=column)
        data.attrs["encoding-type"], data.attrs["encoding-version"] = "array", "0.2.0"

    return _edited(folder, edit)


def ragged_column(folder: Path) -> Path:
    def edit(file: h5py.File) -> None:
        file["obs"].create_dataset("payload", (12,), h5py.vlen_dtype(np.uint8))

    return _edited(folder, edit)


def reference_column(folder: Path) -> Path:
    return _edited(folder, lambda file: file["uns"].create_dataset("refs", (3,), h5py.ref_dtype) and None)


def large_attribute(folder: Path) -> Path:
    path = folder / "cells.h5ad"
    with h5py.File(path, "w", libver="latest") as file:
        file.attrs.create("payload", np.zeros(2**18 + 1))
    return path


def many_attributes(folder: Path) -> Path:
    def edit(file: h5py.File) -> None:
        for i in range(300):
            file["uns"].attrs[f"a{i}"] = i

    return _edited(folder, edit)


def deep(folder: Path) -> Path:
    return _edited(folder, lambda file: file["uns"].create_group("/".join("abcdefghijklmnopqrst")) and None)


def named_type(folder: Path) -> Path:
    return _edited(folder, lambda file: file["uns"].__setitem__("kind", np.dtype("f4")))


def hidden_object(folder: Path) -> Path:
    """Refer to a dataset in another file's bytes that no link leads to: a group that holds itself keeps it alive."""
    secret = folder / "secret.txt"
    secret.write_bytes(SECRET)

    def edit(file: h5py.File) -> None:
        group = file.create_group("hidden")
        data = group.create_dataset("categories", (3,), "S8", external=[(str(secret), 0, 24)])
        group["self"] = group
        file["obs/age"].attrs.create("categories", data.ref, dtype=h5py.ref_dtype)
        del file["hidden"]

    return _edited(folder, edit)


def truncated(folder: Path) -> Path:
    path = good_file(folder)
    path.write_bytes(path.read_bytes()[:-100])
    return path


def not_hdf5(folder: Path) -> Path:
    path = folder / "cells.h5ad"
    path.write_bytes(SECRET)
    return path


def _changed(folder: Path, **changes: object) -> Path:
    """Write the good AnnData with other values of X."""
    adata = good()
    matrix = adata.X.astype(changes.get("dtype", np.float64))
    matrix.data[5] = changes["value"]
    adata.X = matrix
    path = folder / "cells.h5ad"
    adata.write_h5ad(path)
    return path


def log_normalised(folder: Path) -> Path:
    adata = good()
    dense = adata.X.toarray()
    adata.X = sp.csr_matrix(np.log1p(dense / dense.sum(1, keepdims=True) * 1e4).astype(np.float32))
    adata.write_h5ad(folder / "cells.h5ad")
    return folder / "cells.h5ad"


def depth_normalised(folder: Path) -> Path:
    adata = good()
    dense = adata.X.toarray()
    adata.X = sp.csr_matrix((dense / dense.sum(1, keepdims=True) * 1e6).astype(np.float32))
    adata.write_h5ad(folder / "cells.h5ad")
    return folder / "cells.h5ad"


def scaled(folder: Path) -> Path:
    adata = good()
    dense = adata.X.toarray()
    adata.X = ((dense - dense.mean(0)) / (dense.std(0) + 0.1)).astype(np.float32)
    adata.write_h5ad(folder / "cells.h5ad")
    return folder / "cells.h5ad"


def duplicate_cells(folder: Path) -> Path:
    def edit(file: h5py.File) -> None:
        names = file["obs/_index"]
        names[3] = names[2]

    return _edited(folder, edit)


def nameless_cell(folder: Path) -> Path:
    return _edited(folder, lambda file: file["obs/_index"].__setitem__(3, ""))


def control_name(folder: Path) -> Path:
    return _edited(folder, lambda file: file["obs/_index"].__setitem__(3, "cell\x1b[31m"))


def control_gene(folder: Path) -> Path:
    return _edited(folder, lambda file: file["var/_index"].__setitem__(3, "gene\nX"))


def no_cells(folder: Path) -> Path:
    good()[:0].copy().write_h5ad(folder / "cells.h5ad")
    return folder / "cells.h5ad"


def no_genes(folder: Path) -> Path:
    good()[:, :0].copy().write_h5ad(folder / "cells.h5ad")
    return folder / "cells.h5ad"


def only_zeros(folder: Path) -> Path:
    adata = good()
    adata.X = sp.csr_matrix(adata.shape, dtype=np.float32)
    adata.write_h5ad(folder / "cells.h5ad")
    return folder / "cells.h5ad"


def no_matrix(folder: Path) -> Path:
    def edit(file: h5py.File) -> None:
        del file["X"]

    return _edited(folder, edit)


def no_obs(folder: Path) -> Path:
    def edit(file: h5py.File) -> None:
        del file["obs"]

    return _edited(folder, edit)


def short_obs(folder: Path) -> Path:
    adata = good()
    path = folder / "cells.h5ad"
    adata.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        ages = file["obs/age"][:-1]
        del file["obs/age"]
        file["obs/age"] = ages
        file["obs/age"].attrs["encoding-type"] = "array"
        file["obs/age"].attrs["encoding-version"] = "0.2.0"
    return path


def wide_matrix(folder: Path) -> Path:
    return _edited(folder, lambda file: file["X"].attrs.__setitem__("shape", np.array([12, 9])))


def bad_index(folder: Path) -> Path:
    return _edited(folder, lambda file: file["X/indices"].__setitem__(4, 8))


def negative_index(folder: Path) -> Path:
    return _edited(folder, lambda file: file["X/indices"].__setitem__(4, -1))


def bad_pointers(folder: Path) -> Path:
    return _edited(folder, lambda file: file["X/indptr"].__setitem__(3, 10_000))


def repeated_coordinate(folder: Path) -> Path:
    def edit(file: h5py.File) -> None:
        low, high = file["X/indptr"][:2]
        assert high - low > 1
        file["X/indices"][low + 1] = file["X/indices"][low]

    return _edited(folder, edit)


def text_matrix(folder: Path) -> Path:
    def edit(file: h5py.File) -> None:
        del file["X"]
        file["X"] = np.full((12, 8), b"1")

    return _edited(folder, edit)


def bad_codes(folder: Path) -> Path:
    return _edited(folder, lambda file: file["obs/kind/codes"].__setitem__(3, 99))


def damaged_chunk(folder: Path) -> Path:
    path = folder / "cells.h5ad"
    adata = good(400, 50)
    adata.write_h5ad(path, compression="gzip")
    with h5py.File(path, "r") as file:
        chunk = file["X/data"].id.get_chunk_info(0)
    raw = bytearray(path.read_bytes())
    for i in range(chunk.byte_offset + chunk.size // 2, chunk.byte_offset + chunk.size // 2 + 20):
        raw[i] ^= 0xFF
    path.write_bytes(bytes(raw))
    return path


HDF5: dict[str, Callable[[Path], Path]] = {
    "hdf5-external-link": external_link,
    "hdf5-external-storage": external_storage,
    "hdf5-virtual-dataset": virtual_dataset,
    "hdf5-soft-link": soft_link,
    "hdf5-shared-object cycle": cycle,
    "hdf5-shared-object dataset": shared_dataset,
    "hdf5-size-bomb": size_bomb,
    "hdf5-size-bomb in pieces": many_small_bombs,
    "hdf5-size-bomb chunk": huge_chunk,
    "hdf5-opaque-type pickle": pickled_column,
    "hdf5-opaque-type ragged": ragged_column,
    "hdf5-opaque-type references": reference_column,
    "hdf5-large-attribute": large_attribute,
    "hdf5-large-attribute many": many_attributes,
    "hdf5-too-deep": deep,
    "hdf5-unknown-object": named_type,
    "hdf5-hidden-object": hidden_object,
    "truncated": truncated,
    "not-hdf5": not_hdf5,
    "log-normalised": log_normalised,
    "depth-normalised": depth_normalised,
    "negative-count scaled": scaled,
    "negative-count": lambda folder: _changed(folder, value=-1),
    "fractional-count": lambda folder: _changed(folder, value=1.5),
    "non-finite-count nan": lambda folder: _changed(folder, value=np.nan),
    "non-finite-count inf": lambda folder: _changed(folder, value=np.inf),
    "count-too-large": lambda folder: _changed(folder, value=2**24 + 1),
    "count-too-large int": lambda folder: _changed(folder, value=2**40, dtype=np.int64),
    "negative-count int": lambda folder: _changed(folder, value=-3, dtype=np.int16),
    "duplicate-cell-names": duplicate_cells,
    "missing-cell-name": nameless_cell,
    "unsafe-cell-name": control_name,
    "unsafe-gene-name": control_gene,
    "no-cells": no_cells,
    "no-genes": no_genes,
    "no-counts": only_zeros,
    "missing-matrix": no_matrix,
    "not-anndata": no_obs,
    "length-mismatch": short_obs,
    "shape-mismatch": wide_matrix,
    "index-out-of-range": bad_index,
    "index-out-of-range negative": negative_index,
    "broken-sparse": bad_pointers,
    "duplicate-coordinates": repeated_coordinate,
    "not-numeric": text_matrix,
    "unreadable-data codes": bad_codes,
    "unreadable-data chunk": damaged_chunk,
}
"""Code of the finding, with a word where several files give the same one, to the builder of the file."""
