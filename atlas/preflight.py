"""Structure of an HDF5 file, looked at before any of its data: what hostile files rely on is refused here.

HDF5 may point outside itself (links, external storage, virtual datasets), at itself (cycles), or declare terabytes in
a few kilobytes, and its readers follow. This walk opens objects by hard links only, visits each address once, reads no
data, and raises one `ContractError` whose finding says what was met. Folders (zarr, mtx) are in `preflight_folder`.
The low-level h5py calls are used on purpose: the high-level ones resolve links.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5o, h5r, h5s, h5t, h5z

from .errors import ContractError
from .refusal import refusal

if TYPE_CHECKING:
    from pathlib import Path

MAX_OBJECTS = 20_000  # groups and datasets; the widest real files hold a few hundred
MAX_DEPTH = 16  # nested groups; AnnData needs six
MAX_ATTRIBUTES = 256  # attributes of one object; AnnData writes about four
MAX_ATTRIBUTE_BYTES = 2**20  # declared size of one attribute; the column order of 10,000 columns takes 160 kB
BOMB_BYTES = 64 * 2**20  # a dataset declaring less than this is harmless whatever it compresses to
BOMB_RATIO = 1_000  # declared bytes per stored byte; gzip reaches 1,032 on constant data only, counts stay below 50
MAX_CHUNK_BYTES = 512 * 2**20  # a chunk is inflated whole, so its size bounds the memory of the smallest read
# what the low-level calls raise on damaged structures
BROKEN = (OSError, RuntimeError, KeyError, ValueError, TypeError, UnicodeError, OverflowError, MemoryError)


def open_hdf5(path: Path, dataset: str) -> h5py.File:
    """Return an HDF5 file, opened for reading, whose structure is safe to read.

    The walk uses the handle that is returned, so that no other file can be slipped in between.

    Raises
    ------
    ContractError
        With one of the codes `not-hdf5`, `truncated`, `damaged-hdf5`, `hdf5-external-link`, `hdf5-soft-link`,
        `hdf5-shared-object`, `hdf5-external-storage`, `hdf5-virtual-dataset`, `hdf5-size-bomb`, `hdf5-opaque-type`,
        `hdf5-large-attribute`, `hdf5-too-many-objects`, `hdf5-too-deep`, `hdf5-unknown-filter`, `hdf5-unknown-object`,
        `hdf5-hidden-object`, `not-a-file`.
    """
    if not path.is_file():
        raise refusal(dataset, "not-a-file", "the path", path.name, "a regular file", "point at the file itself")
    if not h5py.is_hdf5(path):
        with path.open("rb") as handle:
            head = handle.read(8)
        raise refusal(dataset, "not-hdf5", "the first bytes", head, "an HDF5 file", "check the download and the format")
    try:
        file = h5py.File(path, "r")
    except BROKEN as error:
        code = "truncated" if "truncated" in str(error) else "damaged-hdf5"
        raise refusal(dataset, code, "the file", error, "a whole HDF5 file", "fetch or copy the file again") from error
    try:
        walk = _Walk(dataset, path.stat().st_size)
        walk.group(h5g.open(file.id, b"/"), "", 0)
        walk.check_references()
    except ContractError:
        file.close()
        raise
    except BROKEN as error:
        file.close()
        raise refusal(
            dataset,
            "damaged-hdf5",
            "its structure",
            f"{type(error).__name__}: {error}",
            "a whole HDF5 file",
            "fetch or copy the file again",
        ) from error
    return file


class _Walk:
    """One pass over a file's objects, remembering addresses and what they declare."""

    def __init__(self, dataset: str, file_bytes: int) -> None:
        self.dataset, self.file_bytes = dataset, file_bytes
        self.seen: set[tuple[int, int]] = set()
        self.declared = 0
        self.pointers: list[tuple[str, tuple[int, int]]] = []  # addresses that attributes refer to

    def refuse(self, code: str, where: str, found: object, expected: str) -> ContractError:
        """Return the error for one thing that a count matrix never needs."""
        remedy = "open the file only if you trust it, and write it again with anndata's write_h5ad"
        return refusal(self.dataset, code, where or "/", found, expected, remedy)

    def group(self, group: h5g.GroupID, where: str, depth: int) -> None:
        """Visit a group, its attributes and everything below it."""
        if depth > MAX_DEPTH:
            raise self.refuse("hdf5-too-deep", where, f"{depth} nested groups", f"at most {MAX_DEPTH}")
        self.visit(group, where)
        for name in group:
            below = f"{where}/{name.decode('utf-8', errors='replace')}"
            kind = group.links.get_info(name).type
            if kind != h5py.h5l.TYPE_HARD:
                code, word = _LINKS.get(kind, ("hdf5-unknown-object", f"a link of type {kind}"))
                raise self.refuse(code, below, word, "objects stored in the file itself")
            item = h5o.open(group, name)
            if isinstance(item, h5g.GroupID):
                self.group(item, below, depth + 1)
            elif isinstance(item, h5d.DatasetID):
                self.visit(item, below)
                self.array(item, below)
            else:
                raise self.refuse("hdf5-unknown-object", below, type(item).__name__, "groups and datasets")

    def visit(self, item: h5g.GroupID | h5d.DatasetID, where: str) -> None:
        """Count an object, refuse one met before, and check its attributes."""
        info = h5o.get_info(item)
        address = (info.fileno, info.addr)
        if address in self.seen:
            raise self.refuse("hdf5-shared-object", where, "an object linked twice or a cycle", "a tree of objects")
        self.seen.add(address)
        if len(self.seen) > MAX_OBJECTS:
            raise self.refuse("hdf5-too-many-objects", where, f"over {MAX_OBJECTS} objects", f"at most {MAX_OBJECTS}")
        count = h5a.get_num_attrs(item)
        if count > MAX_ATTRIBUTES:
            raise self.refuse("hdf5-large-attribute", where, f"{count} attributes", f"at most {MAX_ATTRIBUTES}")
        for i in range(count):
            attribute = h5a.open(item, index=i)
            size = _points(attribute.get_space()) * attribute.get_type().get_size()
            if size > MAX_ATTRIBUTE_BYTES:
                raise self.refuse(
                    "hdf5-large-attribute", f"{where} attributes", f"{size:,} bytes", f"at most {MAX_ATTRIBUTE_BYTES:,}"
                )
            self.check_type(attribute.get_type(), f"{where} attributes", in_attribute=True)
            if isinstance(attribute.get_type(), h5t.TypeReferenceID):
                self.note_references(attribute, item, where)

    def note_references(self, attribute: h5a.AttrID, item: h5g.GroupID | h5d.DatasetID, where: str) -> None:
        """Remember what an attribute refers to: anndata before 0.8 named a column's categories that way."""
        references = np.empty(attribute.shape, dtype=h5py.ref_dtype)
        attribute.read(references)
        for reference in references.reshape(-1):
            target = h5o.get_info(h5r.dereference(reference, item)) if reference else None
            if target is not None:
                self.pointers.append((where, (target.fileno, target.addr)))

    def check_references(self) -> None:
        """Refuse references to objects no link leads to: those were never looked at."""
        for where, address in self.pointers:
            if address not in self.seen:
                raise self.refuse(
                    "hdf5-hidden-object", where, "a reference to an object outside the tree", "linked objects"
                )

    def array(self, array: h5d.DatasetID, where: str) -> None:
        """Check where a dataset's bytes are, what they are, and how many it declares; layout first, space last."""
        plist = array.get_create_plist()
        layout = plist.get_layout()
        if layout == h5d.VIRTUAL:
            raise self.refuse(
                "hdf5-virtual-dataset", where, "data mapped from other datasets", "data in the file itself"
            )
        if plist.get_external_count():
            name = plist.get_external(0)[0]
            raise self.refuse("hdf5-external-storage", where, f"data in {name!r}", "data in the file itself")
        self.check_type(array.get_type(), where)
        for i in range(plist.get_nfilters()):
            code = plist.get_filter(i)[0]
            if not h5z.filter_avail(code):
                raise self.refuse("hdf5-unknown-filter", where, f"compression filter {code}", "gzip, lzf or none")
        item = array.get_type().get_size()
        size = _points(array.get_space()) * item
        if layout == h5d.CHUNKED:
            chunk = item * int(np.prod([int(n) for n in plist.get_chunk()], dtype=object))
            if chunk > MAX_CHUNK_BYTES:
                raise self.refuse("hdf5-size-bomb", where, f"chunks of {chunk:,} bytes", f"at most {MAX_CHUNK_BYTES:,}")
        self.declared += size
        self.check_size(where, size, array.get_storage_size())
        self.check_size("all datasets", self.declared, self.file_bytes)

    def check_size(self, where: str, declared: int, stored: int) -> None:
        """Refuse data that would inflate out of all proportion."""
        if declared > BOMB_BYTES and declared > BOMB_RATIO * max(1, stored):
            raise self.refuse(
                "hdf5-size-bomb",
                where,
                f"{declared:,} bytes declared, {stored:,} stored",
                f"at most {BOMB_RATIO} times what is stored",
            )

    def check_type(self, kind: h5t.TypeID, where: str, *, in_attribute: bool = False) -> None:
        """Refuse types that can carry serialised objects or point elsewhere; numbers and text pass."""
        if isinstance(kind, h5t.TypeOpaqueID):
            raise self.refuse("hdf5-opaque-type", where, "opaque bytes", "numbers and text")
        if isinstance(kind, h5t.TypeReferenceID) and not (in_attribute and kind.equal(h5t.STD_REF_OBJ)):
            raise self.refuse("hdf5-opaque-type", where, "references", "numbers and text")
        if isinstance(kind, h5t.TypeVlenID):
            raise self.refuse("hdf5-opaque-type", where, "arrays of varying length", "numbers and text")
        if isinstance(kind, h5t.TypeCompoundID):
            for i in range(kind.get_nmembers()):
                self.check_type(kind.get_member_type(i), where)
        elif isinstance(kind, h5t.TypeArrayID):
            self.check_type(kind.get_super(), where)


_LINKS: dict[int, tuple[str, str]] = {
    h5py.h5l.TYPE_SOFT: ("hdf5-soft-link", "a soft link"),
    h5py.h5l.TYPE_EXTERNAL: ("hdf5-external-link", "a link into another file"),
}


def _points(space: h5s.SpaceID) -> int:
    """Return the number of elements as an exact integer: h5py's own product may overflow."""
    shape: tuple[Any, ...] = space.get_simple_extent_dims() if space.get_simple_extent_type() == h5s.SIMPLE else ()
    if space.get_simple_extent_type() == h5s.NULL:
        return 0
    return int(np.prod([int(n) for n in shape], dtype=object)) if shape else 1
