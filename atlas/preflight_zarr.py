"""A zarr group, looked at before it is decoded: links, decoders, object types, declared sizes, lost chunks.

Metadata is read as JSON; zarr itself opens the group only when everything in it is known to decode to numbers or text,
and without the consolidated copy, which could say something else. The reader is `read_h5ad`.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from .preflight import BOMB_BYTES, BOMB_RATIO, MAX_CHUNK_BYTES, MAX_DEPTH
from .preflight_folder import TRUST, walk_folder
from .refusal import refusal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_METADATA = 2**20  # bytes of one metadata file
METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
# decoders that only turn bytes into numbers or text; `pickle`, `json2`, `msgpack2` and unknown ones build objects
CODECS = {"bytes", "transpose", "blosc", "gzip", "zstd", "crc32c", "sharding_indexed", "vlen-utf8", "vlen-bytes",
          "zlib", "bz2", "lzma", "lz4", "shuffle", "delta", "fixedscaleoffset", "adler32", "crc32", "bitround",
          "numcodecs.zstd", "numcodecs.blosc", "numcodecs.zlib", "numcodecs.shuffle", "numcodecs.delta"}  # fmt: skip


def check_zarr(path: Path, dataset: str) -> Any:
    """Return a zarr group, opened for reading, whose files and metadata are safe to decode.

    Raises
    ------
    ContractError
        With one of the codes `folder-symlink`, `zarr-codec`, `zarr-object-type`, `zarr-size-bomb`,
        `zarr-metadata`, `zarr-missing-chunk`, `too-many-files`, `folder-too-deep`.
    """
    root = path.resolve()
    sizes: dict[Path, int] = {}
    documents: list[tuple[Path, Any]] = []
    for file, depth in walk_folder(root, dataset, allow_links=False):
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


def _read_json(path: Path, dataset: str) -> Any:
    limit = MAX_METADATA * (64 if path.name == ".zmetadata" else 1)  # consolidated metadata covers a whole group
    if path.name == "zarr.json":
        limit = MAX_METADATA * 64
    if path.stat().st_size > limit:
        raise refusal(
            dataset, "zarr-metadata", path.name, f"{path.stat().st_size:,} bytes", f"at most {limit:,}", TRUST
        )
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
    kinds = _types(array.get("data_type", array.get("dtype", "")))
    if any(kind.lstrip("|<>=") == "O" for kind, _ in kinds) and not {"vlen-utf8", "vlen-bytes"} & set(_codecs(array)):
        raise refusal(dataset, "zarr-object-type", where, "Python objects", "numbers or text", TRUST)
    item = sum(size for _, size in kinds)
    shape, chunks = _lengths(array.get("shape")), _lengths(_chunk_shape(array))
    if shape is None or chunks is None or len(chunks) != len(shape):
        raise refusal(dataset, "zarr-metadata", where, f"shape {array.get('shape')}", "whole numbers", TRUST)
    declared, chunk = item * math.prod(shape), item * math.prod(chunks)
    if chunk > MAX_CHUNK_BYTES:
        allowed = f"at most {MAX_CHUNK_BYTES:,}"
        raise refusal(dataset, "zarr-size-bomb", where, f"chunks of {chunk:,} bytes", allowed, TRUST)
    if declared > BOMB_BYTES and declared > BOMB_RATIO * max(1, stored):
        found, allowed = f"{declared:,} bytes declared, {stored:,} stored", f"at most {BOMB_RATIO} times what is stored"
        raise refusal(dataset, "zarr-size-bomb", where, found, allowed, TRUST)


def _lengths(value: Any) -> list[int] | None:
    whole = isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)
    return value if whole else None


def _chunk_shape(array: dict[str, Any]) -> Any:
    """Return what is decoded at once: the inner chunk of a shard, else the chunk."""
    for codec in array.get("codecs") or ():
        if isinstance(codec, dict) and codec.get("name") == "sharding_indexed":
            inner = codec.get("configuration")
            return inner.get("chunk_shape") if isinstance(inner, dict) else None
    grid = array.get("chunk_grid")
    settings = grid.get("configuration") if isinstance(grid, dict) else None
    return settings.get("chunk_shape") if isinstance(settings, dict) else array.get("chunks")


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


def _types(kind: Any) -> list[tuple[str, int]]:
    """Return (name, bytes per value) of an array's type or, for records, of every field."""
    if isinstance(kind, list):
        return [found for part in kind if isinstance(part, list) and len(part) > 1 for found in _types(part[1])]
    if isinstance(kind, dict):
        settings = kind.get("configuration")
        size = settings.get("length_bytes") if isinstance(settings, dict) else None
        return [(str(kind.get("name", "")), size if isinstance(size, int) else 8)]
    try:
        return [(str(kind), max(1, np.dtype(str(kind)).itemsize))]
    except (TypeError, ValueError, SyntaxError):
        return [(str(kind), 8)]  # text and types numpy has no name for: the size of a pointer


def _check_chunks(group: Any, dataset: str) -> None:
    """Refuse sparse matrices with chunks that are not there: zarr would read them as zeros, counts and genes alike."""
    for name, array in _members(group):
        parent, _, part = name.rpartition("/")
        if part not in ("data", "indices") or not parent or array.nchunks_initialized >= array.nchunks:
            continue
        shape = group[parent].attrs.get("shape", ())
        if part == "indices" and list(shape)[1:] == [1]:
            continue  # every index of a one-gene matrix is zero, and zarr does not write chunks of zeros
        lost = array.nchunks - array.nchunks_initialized
        found = f"{lost} of {array.nchunks} chunks missing"
        raise refusal(
            dataset, "zarr-missing-chunk", name, found, "every chunk of a sparse matrix", "copy the folder again"
        )


def _members(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, item in group.members():
        if hasattr(item, "shape"):
            yield f"{prefix}{name}", item
        else:
            yield from _members(item, f"{prefix}{name}/")
