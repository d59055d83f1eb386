"""Builders of good, damaged and hostile folders: 10x mtx and zarr; see hostile.py for single files.

`FOLDERS` is the table the tests go through: finding code to builder.
"""

from __future__ import annotations

import gzip
import json
import shutil
import warnings
from typing import TYPE_CHECKING

import anndata as ad
import scipy.sparse as sp

from tests.hostile import SECRET, good

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def mtx_folder(folder: Path, *, packed: bool = True) -> Path:
    """Write the good counts as a 10x mtx folder (version 3, gzipped) and return it."""
    adata, place = good(), folder / "mtx"
    place.mkdir()
    rows = [f"{j + 1} {i + 1} {int(v)}" for i, j, v in zip(*sp.find(adata.X), strict=True)]
    text = {
        "matrix.mtx": "\n".join(["%%MatrixMarket matrix coordinate integer general", f"8 12 {len(rows)}", *rows])
        + "\n",
        "barcodes.tsv": "\n".join(adata.obs_names) + "\n",
        "features.tsv": "".join(f"id{n}\t{n}\tGene Expression\n" for n in adata.var_names),
    }
    for name, content in text.items():
        if packed:
            (place / f"{name}.gz").write_bytes(gzip.compress(content.encode(), mtime=0))
        else:
            (place / name).write_text(content)
    return place


def _mtx(folder: Path, edit: Callable[[str], str], name: str = "matrix.mtx") -> Path:
    place = mtx_folder(folder, packed=False)
    (place / name).write_text(edit((place / name).read_text()))
    return place


def _last_line(text: str, line: str) -> str:
    return "\n".join([*text.splitlines()[:-1], line]) + "\n"


def mtx_gzip_bomb(folder: Path) -> Path:
    place = mtx_folder(folder)
    with gzip.open(place / "matrix.mtx.gz", "wb") as out:
        out.write(b"%%MatrixMarket matrix coordinate integer general\n")
        for _ in range(120):
            out.write(bytes(2**20))
    return place


def mtx_symlink(folder: Path) -> Path:
    place = mtx_folder(folder)
    secret = folder / "secret.txt"
    secret.write_bytes(gzip.compress(SECRET))
    (place / "barcodes.tsv.gz").unlink()
    (place / "barcodes.tsv.gz").symlink_to(secret)
    return place


def mtx_cut(folder: Path) -> Path:
    place = mtx_folder(folder)
    file = place / "matrix.mtx.gz"
    file.write_bytes(file.read_bytes()[:-20])
    return place


def mtx_without_barcodes(folder: Path) -> Path:
    place = mtx_folder(folder)
    (place / "barcodes.tsv.gz").unlink()
    return place


def mtx_repeated(folder: Path) -> Path:
    def edit(text: str) -> str:
        lines = text.splitlines()
        lines[3] = lines[2]
        return "\n".join(lines) + "\n"

    return _mtx(folder, edit)


def zarr_folder(folder: Path, version: int = 3, *, shards: bool = False) -> Path:
    """Write the good AnnData as a zarr group and return it."""
    with ad.settings.override(zarr_write_format=version, auto_shard_zarr_v3=shards), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # writers warn about their next release; the reader is under test
        good().write_zarr(folder / "cells.zarr")
    return folder / "cells.zarr"


def _zarr(folder: Path, edit: Callable[[dict], None], where: str = "X/data", version: int = 2) -> Path:
    place = zarr_folder(folder, version)
    file = place / where / (".zarray" if version == 2 else "zarr.json")
    document = json.loads(file.read_text())
    edit(document)
    file.write_text(json.dumps(document))
    return place


def zarr_symlink(folder: Path) -> Path:
    place = zarr_folder(folder)
    shutil.move(place / "obs", folder / "obs")
    (place / "obs").symlink_to(folder / "obs")
    return place


def zarr_lost_chunk(folder: Path) -> Path:
    place = zarr_folder(folder)
    (place / "X/data/c/0").unlink()
    return place


def zarr_pickle(folder: Path) -> Path:
    return _zarr(folder, lambda d: d.update(dtype="|O", filters=[{"id": "pickle", "protocol": 5}]))


def zarr_objects(folder: Path) -> Path:
    return _zarr(folder, lambda d: d.update(dtype="|O", filters=None))


FOLDERS: dict[str, Callable[[Path], Path]] = {
    "gzip-bomb": mtx_gzip_bomb,
    "folder-symlink mtx": mtx_symlink,
    "damaged-gzip": mtx_cut,
    "mtx-files": mtx_without_barcodes,
    "mtx-header": lambda folder: _mtx(
        folder, lambda t: t.replace("coordinate integer general", "array complex general")
    ),
    "mtx-header sizes": lambda folder: _mtx(folder, lambda t: t.replace("\n8 12 ", "\n-8 12 ")),
    "mtx-lines more": lambda folder: _mtx(folder, lambda t: t + "1 1 1\n"),
    "mtx-lines declared": lambda folder: _mtx(folder, lambda t: t.replace("\n8 12 ", "\n8 12 999999999")),
    "mtx-cut": lambda folder: _mtx(folder, lambda t: t.rstrip()),
    "shape-mismatch": lambda folder: _mtx(folder, lambda t: t + "cell12\n", "barcodes.tsv"),
    "duplicate-coordinates": mtx_repeated,
    "unreadable-data": lambda folder: _mtx(folder, lambda t: _last_line(t, "99 1 1")),
    "fractional-count": lambda folder: _mtx(folder, lambda t: _last_line(t.replace(" integer ", " real "), "8 12 1.5")),
    "folder-symlink zarr": zarr_symlink,
    "zarr-missing-chunk": zarr_lost_chunk,
    "zarr-codec": zarr_pickle,
    "zarr-object-type": zarr_objects,
    "zarr-size-bomb": lambda folder: _zarr(folder, lambda d: d.update(shape=[2**34], chunks=[2**20])),
    "zarr-size-bomb chunk": lambda folder: _zarr(folder, lambda d: d.update(shape=[2**30], chunks=[2**30])),
    "zarr-metadata": lambda folder: _zarr(folder, lambda d: d.update(shape=[-1])),
}
"""Code of the finding, with a word where several folders give the same one, to the builder of the folder."""
