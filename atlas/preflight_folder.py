"""Sources that are folders, looked at before they are read: zarr groups and 10x mtx folders.

A folder can point outside itself (symbolic links), name decoders that run code (zarr object codecs), or inflate
without end (gzip); each is refused with its own code. HDF5 files are in `preflight`, the readers in `read_h5ad`
and `read_10x`.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from .preflight import BOMB_BYTES, BOMB_RATIO, MAX_CHUNK_BYTES, MAX_DEPTH
from .refusal import refusal

MAX_FILES = 2_000_000  # files of a zarr group: 350 million cells in chunks of a few thousand stay below
MAX_METADATA = 2**20  # bytes of one metadata file
MAX_NAMES = 512 * 2**20  # bytes of a barcode or feature list once inflated
MAX_MATRIX = 256 * 2**30  # bytes of a matrix.mtx once inflated: about 10 billion values
BLOCK = 2**20
METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
# decoders that only turn bytes into numbers or text; `pickle`, `json2`, `msgpack2` and unknown ones build objects
CODECS = {"bytes", "transpose", "blosc", "gzip", "zstd", "crc32c", "sharding_indexed", "vlen-utf8", "vlen-bytes",
          "zlib", "bz2", "lzma", "lz4", "shuffle", "delta", "fixedscaleoffset", "adler32", "crc32", "bitround",
          "numcodecs.zstd", "numcodecs.blosc", "numcodecs.zlib", "numcodecs.shuffle", "numcodecs.delta"}  # fmt: skip
TRUST = "open the folder only if you trust it, and write it again"


@dataclass(frozen=True)
class MtxFiles:
    """The three files of a 10x mtx folder and what the matrix declares."""

    matrix: Path
    """Coordinates and counts, features x cells."""
    barcodes: Path
    """Cell names, one a line."""
    features: Path
    """Feature id, name and type, tab-separated."""
    shape: tuple[int, int]
    """Features and cells the header declares."""
    values: int
    """Values the header declares; that many lines are there."""


def check_zarr(path: Path, dataset: str) -> Any:
    """Return a zarr group, opened for reading, whose files and metadata are safe to decode.

    Raises
    ------
    ContractError
        With one of the codes `folder-symlink`, `zarr-codec`, `zarr-object-type`, `zarr-size-bomb`,
        `zarr-metadata`, `zarr-missing-chunk`, `too-many-files`, `folder-too-deep`.
    """
    import zarr

    root = path.resolve()
    sizes: dict[Path, int] = {}
    documents: list[tuple[Path, Any]] = []
    for file, depth in _walk(root, dataset, allow_links=False):
        if depth > MAX_DEPTH:
            raise refusal(dataset, "folder-too-deep", file.name, f"{depth} levels", f"at most {MAX_DEPTH}", TRUST)
        if file.name in METADATA:
            documents.append((file, _read_json(file, dataset)))
        else:
            for parent in file.relative_to(root).parents:
                sizes[root / parent] = sizes.get(root / parent, 0) + file.stat().st_size
    for file, document in documents:
        where = str(file.parent.relative_to(root))
        for array in _arrays(file.name, document):
            _check_array(array, where, sizes.get(file.parent, 0), dataset)
    try:
        group = zarr.open_group(root, mode="r", use_consolidated=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise refusal(dataset, "zarr-metadata", "the root", error, "a zarr group", "write the group again") from error
    _check_chunks(group, dataset)
    return group


def _walk(root: Path, dataset: str, *, allow_links: bool) -> Iterator[tuple[Path, int]]:
    count = 0
    for folder, folders, files in os.walk(root, followlinks=False):
        here = Path(folder)
        for name in (*folders, *files):
            item = here / name
            count += 1
            if count > MAX_FILES:
                raise refusal(dataset, "too-many-files", "the folder", f"over {MAX_FILES:,}", f"at most {MAX_FILES:,}",
                              "rechunk the group")
            if item.is_symlink() and not (allow_links and item.resolve().is_relative_to(root)):
                raise refusal(dataset, "folder-symlink", str(item.relative_to(root)), f"a link to {os.readlink(item)}",
                              "files in the folder itself", "replace the link by the file if you trust it")
            if not item.is_symlink() and not item.is_dir() and not item.is_file():
                raise refusal(dataset, "folder-symlink", name, "a device or a pipe", "ordinary files", TRUST)
        for name in files:
            yield here / name, len(here.relative_to(root).parts)


def _read_json(path: Path, dataset: str) -> Any:
    limit = MAX_METADATA * (64 if path.name == ".zmetadata" else 1)  # consolidated metadata covers a whole group
    if path.name == "zarr.json":
        limit = MAX_METADATA * 64
    if path.stat().st_size > limit:
        raise refusal(dataset, "zarr-metadata", path.name, f"{path.stat().st_size:,} bytes", f"at most {limit:,}", TRUST)
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise refusal(dataset, "zarr-metadata", path.name, error, "JSON", "write the group again") from error


def _arrays(name: str, document: Any) -> Iterator[dict[str, Any]]:
    """Yield the array descriptions in a metadata file of zarr 2 or 3."""
    if not isinstance(document, dict):
        return
    if name == ".zarray" or (name == "zarr.json" and document.get("node_type") == "array"):
        yield document


def _check_array(array: dict[str, Any], where: str, stored: int, dataset: str) -> None:
    for codec in _codecs(array):
        if codec not in CODECS:
            raise refusal(dataset, "zarr-codec", where, f"codec {codec}", "codecs that decode numbers or text", TRUST)
    kind = str(array.get("data_type", array.get("dtype", "")))
    texts = {"vlen-utf8", "vlen-bytes"} & set(_codecs(array))
    if "O" in kind and kind != "O" and kind.lstrip("|<>=") == "O" and not texts:
        raise refusal(dataset, "zarr-object-type", where, f"type {kind}", "numbers or text", TRUST)
    if kind == "O" and not texts:
        raise refusal(dataset, "zarr-object-type", where, f"type {kind}", "numbers or text", TRUST)
    item = _item_bytes(kind)
    shape = [n for n in array.get("shape", ()) if isinstance(n, int) and n >= 0]
    grid = array.get("chunk_grid")
    chunks = array.get("chunks") or (grid.get("configuration", {}) if isinstance(grid, dict) else {}).get("chunk_shape")
    chunks = [n for n in chunks or () if isinstance(n, int) and n > 0]
    if len(shape) != len(array.get("shape", ())) or len(chunks) != len(shape):
        raise refusal(dataset, "zarr-metadata", where, f"shape {array.get('shape')}", "whole numbers", TRUST)
    declared = item * math.prod(shape)
    inner = item * math.prod(min(c, max(1, s)) for c, s in zip(chunks, shape, strict=True))
    whole = item * math.prod(chunks)
    if min(inner, whole) > MAX_CHUNK_BYTES * 4 or whole > MAX_CHUNK_BYTES * 64:
        raise refusal(dataset, "zarr-size-bomb", where, f"chunks of {whole:,} bytes", f"at most {MAX_CHUNK_BYTES:,}", TRUST)
    if declared > BOMB_BYTES and declared > BOMB_RATIO * max(1, stored):
        raise refusal(dataset, "zarr-size-bomb", where, f"{declared:,} bytes declared, {stored:,} stored",
                      f"at most {BOMB_RATIO} times what is stored", TRUST)


def _codecs(array: dict[str, Any]) -> list[str]:
    """Return the names of every codec of an array, nested ones included, in lower case."""
    found = []
    pending = [*(array.get("codecs") or ()), *(array.get("filters") or ()), array.get("compressor")]
    while pending:
        codec = pending.pop()
        if isinstance(codec, str):
            found.append(codec.lower())
        elif isinstance(codec, dict):
            found.append(str(codec.get("name", codec.get("id", "unnamed"))).lower())
            inner = codec.get("configuration")
            if isinstance(inner, dict):
                pending += [*(inner.get("codecs") or ()), *(inner.get("index_codecs") or ())]
    return found


def _item_bytes(kind: str) -> int:
    try:
        return max(1, np.dtype(kind).itemsize)
    except (TypeError, ValueError):
        return 8  # text and types numpy has no name for: the size of a pointer


def _check_chunks(group: Any, dataset: str) -> None:
    """Refuse compressed matrices with chunks that are not there: zarr would read them as zeros."""
    for name, array in _members(group):
        if name.rpartition("/")[2] == "data" and array.nchunks_initialized < array.nchunks:
            lost = array.nchunks - array.nchunks_initialized
            raise refusal(dataset, "zarr-missing-chunk", name, f"{lost} of {array.nchunks} chunks missing",
                          "every chunk of a sparse matrix", "copy the folder again")


def _members(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, item in group.members():
        if hasattr(item, "shape"):
            yield f"{prefix}{name}", item
        else:
            yield from _members(item, f"{prefix}{name}/")


def find_mtx(path: Path) -> list[Path]:
    """Return the files of a folder that are named like a 10x matrix; a prefix such as `GSM1_` is allowed."""
    return sorted(p for p in path.iterdir() if p.name.endswith(("matrix.mtx", "matrix.mtx.gz")))


def check_mtx(path: Path, dataset: str) -> MtxFiles:
    """Return the files of a 10x mtx folder after checking links, sizes and the matrix's header against its lines.

    Raises
    ------
    ContractError
        With one of the codes `mtx-files`, `folder-symlink`, `gzip-bomb`, `damaged-gzip`, `mtx-header`, `mtx-lines`.
    """
    root = path.resolve()
    for _ in _walk(root, dataset, allow_links=True):
        pass
    found = find_mtx(root)
    prefix = found[0].name.split("matrix.mtx")[0] if found else ""
    names = {
        part: [p for stem in stems for p in (root / f"{prefix}{stem}", root / f"{prefix}{stem}.gz") if p.is_file()]
        for part, stems in {"matrix": ("matrix.mtx",), "barcodes": ("barcodes.tsv",),
                            "features": ("features.tsv", "genes.tsv")}.items()
    }
    if len(found) != 1 or any(len(files) != 1 for files in names.values()):
        held = ", ".join(sorted(p.name for p in root.iterdir())[:10])
        raise refusal(dataset, "mtx-files", "the folder", held, "one matrix.mtx, barcodes.tsv and features.tsv (or .gz)",
                      "keep exactly one of each in the folder")
    matrix = names["matrix"][0]
    shape, values = _check_matrix_file(matrix, dataset)
    return MtxFiles(matrix, names["barcodes"][0], names["features"][0], shape, values)


def read_lines(path: Path, dataset: str) -> list[str]:
    """Return the lines of a small text file, gzipped or not, refusing one that inflates without end."""
    with _opened(path) as handle:
        whole = b"".join(_blocks(handle, path, MAX_NAMES, dataset))
    try:
        return whole.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise refusal(dataset, "mtx-header", path.name, error, "UTF-8 text", "export the folder again") from error


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _blocks(handle: IO[bytes], path: Path, limit: int, dataset: str) -> Iterator[bytes]:
    stored, size = path.stat().st_size, 0
    while True:
        try:
            block = handle.read(BLOCK)
        except (OSError, EOFError, zlib.error) as error:
            raise refusal(dataset, "damaged-gzip", path.name, error, "a whole file", "copy the file again") from error
        if not block:
            return
        size += len(block)
        if size > limit or (size > BOMB_BYTES and size > BOMB_RATIO * max(1, stored)):
            raise refusal(dataset, "gzip-bomb", path.name, f"over {size:,} bytes from {stored:,}",
                          f"at most {BOMB_RATIO} times and {limit:,} bytes", TRUST)
        yield block


def _check_matrix_file(path: Path, dataset: str) -> tuple[tuple[int, int], int]:
    """Return the shape and number of values of a Matrix Market file whose lines are as many as it declares."""
    with _opened(path) as handle:
        head, lines, last = b"", 0, b""
        for block in _blocks(handle, path, MAX_MATRIX, dataset):
            if len(head) < BLOCK:
                head += block
            lines += block.count(b"\n")
            last = block[-1:]
    lines += last not in (b"\n", b"")
    rows = head.split(b"\n")
    comments = next((i for i, line in enumerate(rows) if not line.startswith(b"%")), len(rows))
    banner = rows[0].decode("ascii", errors="replace").lower().split()
    sizes = rows[comments].split() if comments < len(rows) else []
    if banner[:3] != ["%%matrixmarket", "matrix", "coordinate"] or banner[3:] not in (
        ["integer", "general"], ["real", "general"]
    ):
        raise refusal(dataset, "mtx-header", path.name, rows[0][:80], "%%MatrixMarket matrix coordinate integer general",
                      "export the folder again")
    if len(sizes) != 3 or not all(s.isdigit() and len(s) < 16 for s in sizes):
        raise refusal(dataset, "mtx-header", path.name, b" ".join(sizes)[:80], "rows, columns and values",
                      "export the folder again")
    features, cells, values = (int(s) for s in sizes)
    held = lines - comments - 1
    if held != values:
        raise refusal(dataset, "mtx-lines", path.name, f"{held:,} lines", f"{values:,}, as the header declares",
                      "the file is cut short or edited; copy it again")
    return (features, cells), values
