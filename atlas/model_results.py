"""What a trained model said of cells, beside the cells: embeddings in obsm, layers in X, labels as tables.

`write_results` is a transaction as an ingest is one: under the writer's lock, written, read back, then published by
one commit of the ledger; what a killed writer left is rolled back. An array joins its collection when it is whole, so
that even a client that opens the newest state sees no half of it. Results are no content of an atlas (`content_hash`
leaves them out): they follow from cells and a model. catalog/write_back.py fills them, `validate` reads them again.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import tiledbsoma as soma

from . import layout, store
from .contexts import context_of, opened, settings_of
from .errors import AtlasInputError, StoreError
from .ingest import recover
from .ledger import Ledger, ResultRow, behind, now_ms, writer_lock

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt
    import pandas as pd
    import scipy.sparse as sp

    from .handle import Atlas
    from .result_keys import ResultKey

    Numbers = npt.NDArray[np.int64]

KINDS = {
    "embedding": layout.OBSM,
    "labels": layout.LABELS,
    "denoised": layout.X,
    "denoised_variance": layout.X,
    "imputed": layout.X,
    "imputed_variance": layout.X,
}
"""Collection of an Experiment by kind of result; see `collection_of` for those of gene networks."""
ROWS_PER_READ = 1_024
BUFFER_BYTES = 16 << 20
_TRIPLE = np.dtype([("row", "<i8"), ("column", "<i8"), ("value", "<f4")])


def collection_of(kind: str) -> str:
    """Return the collection of an Experiment that holds a kind of result; networks of genes are `grn-` and more.

    Raises
    ------
    AtlasInputError
        When it is of no kind that is written here.
    """
    if kind.startswith(layout.NETWORK):
        return layout.VARP
    if kind not in KINDS:
        raise AtlasInputError("kind", kind, f"one of {', '.join(KINDS)}, or {layout.NETWORK} and a read-out")
    return KINDS[kind]


class MatrixWriter:
    """One matrix that is being written, rows in rising order; `ResultWriter.matrix` makes one."""

    def __init__(self, uri: str, shape: tuple[int, int]) -> None:
        options = layout.result_options(shape[1])
        where = context_of(uri)
        soma.SparseNDArray.create(uri, type=pa.float32(), shape=shape, platform_config=options, context=where).close()
        store.tick()
        self.uri, self.shape, self.cells, self._last = uri, shape, 0, -1
        self._digest = hashlib.sha256()

    def append(self, joinids: Numbers, values: npt.NDArray, columns: Numbers | None = None) -> None:
        """Add rows.

        Parameters
        ----------
        joinids
            Of the cells, rising, above all before them.
        values
            [cells, columns]; NaN is no value.
        columns
            Number of each column; None for all in order.
        """
        columns = np.arange(self.shape[1]) if columns is None else columns
        rising = np.diff(np.concatenate([[self._last], joinids])) > 0
        if not rising.all() or (len(joinids) and int(joinids[-1]) >= self.shape[0]):
            raise AtlasInputError("joinids", joinids[:3].tolist(), f"rising ones below {self.shape[0]}")
        order = np.argsort(columns)
        values, columns = np.asarray(values, dtype=np.float32)[:, order], np.asarray(columns)[order]
        there = ~np.isnan(values)
        rows, places = np.nonzero(there)
        self.append_entries(joinids[rows].astype(np.int64), columns[places].astype(np.int64), values[there])
        self.cells, self._last = self.cells + len(joinids), int(joinids[-1]) if len(joinids) else self._last

    def append_sparse(self, matrix: sp.csr_matrix) -> None:
        """Add all rows of a sparse matrix, every entry as it is, zeros and NaN included.

        Parameters
        ----------
        matrix
            float32 [cells, columns], columns rising.
        """
        if matrix.shape != self.shape or self._last >= 0:
            raise AtlasInputError("matrix", matrix.shape, f"the shape {self.shape}, and nothing before it")
        rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))
        self.append_entries(rows, matrix.indices.astype(np.int64), matrix.data)
        self.cells, self._last = matrix.shape[0], matrix.shape[0] - 1

    def append_entries(self, rows: Numbers, columns: Numbers, values: npt.NDArray) -> None:
        """Add single entries, by row and then by column, all after those before them; cells are the caller's to count.

        Parameters
        ----------
        rows, columns, values
            Of each entry; float32.
        """
        for first in range(0, len(rows), layout.NNZ_PER_FRAGMENT):
            part = slice(first, first + layout.NNZ_PER_FRAGMENT)
            entries = {"soma_dim_0": rows[part], "soma_dim_1": columns[part], "soma_data": values[part]}
            with opened(soma.SparseNDArray, self.uri, "w") as array:
                array.write(pa.table(entries))
            store.tick()
            self._digest.update(_triples(rows[part], columns[part], values[part]))

    def sha256(self) -> str:
        """Return the digest of what was written."""
        return self._digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Made:
    """One result that was written and is no member yet."""

    key: ResultKey
    """Its name."""
    organism: str
    """Experiment name."""
    uri: str
    """Where it lies."""
    rows: MatrixWriter | tuple[int, str]
    """What wrote it; of a table its cells and digest."""
    about: Mapping[str, Any]
    """What it is."""


class ResultWriter:
    """What is being written into an atlas; `write_results` makes one.

    Parameters
    ----------
    root
        Folder of the atlas.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._made: list[Made] = []

    def matrix(self, key: ResultKey, organism: str, shape: tuple[int, int], about: Mapping[str, Any]) -> MatrixWriter:
        """Return an empty matrix to be filled.

        Parameters
        ----------
        key
            Its name.
        organism
            Experiment name.
        shape
            Cells of the organism, columns.
        about
            What it is, as JSON values.
        """
        uri = self._free_uri(key, organism)
        writer = MatrixWriter(uri, shape)
        self._made.append(Made(key, organism, uri, writer, about))
        return writer

    def table(self, key: ResultKey, organism: str, frame: pd.DataFrame, about: Mapping[str, Any]) -> None:
        """Write a table of cells.

        Parameters
        ----------
        key, organism, about
            As `matrix`.
        frame
            `soma_joinid`, and columns of texts, float32 numbers or truth values.
        """
        uri = self._free_uri(key, organism)
        arrays = {name: _arrow(name, frame[name]) for name in frame.columns}
        table = pa.table(arrays)
        last = int(frame["soma_joinid"].max())
        options = layout.frame_options()
        soma.DataFrame.create(
            uri,
            schema=table.schema,
            index_column_names=["soma_joinid"],
            domain=[[0, last]],
            platform_config=options,
            context=context_of(uri),
        ).close()
        store.tick()
        with opened(soma.DataFrame, uri, "w") as out:
            out.write(table)
        store.tick()
        self._made.append(Made(key, organism, uri, (len(frame), frame_digest(frame)), about))

    def _free_uri(self, key: ResultKey, organism: str) -> str:
        """Return where an array of this name may lie; those it replaces stay, for who reads an earlier moment."""
        parent, name = collection_of(key.kind), key.member
        self._collection(organism, parent)
        folder = store.place_of(store.array_uri(self.root, organism, parent))
        names = (name if n == 1 else f"{name}~{n}" for n in range(1, 1 << 30))
        return str(next(folder / one for one in names if not (folder / one).exists()))

    def _collection(self, organism: str, member: str) -> None:
        """Make the collection of a kind of results where there is none."""
        uri, name = store.array_uri(self.root, organism, layout.MEASUREMENT), member.rsplit("/", 1)[1]
        with opened(soma.Measurement, uri) as found:
            there = name in found
        if not there:
            with opened(soma.Measurement, uri, "w") as parent:
                parent.add_new_collection(name).close()
            store.tick()

    def retire(self, rows: Sequence[ResultRow]) -> None:
        """Take results out of their collections; who reads an earlier moment still has them."""
        for row in rows:
            parent, name = row.member.rsplit("/", 1)
            with opened(soma.Collection, store.array_uri(self.root, row.organism, parent), "d") as out:
                del out[name]
            store.tick()

    def join(self) -> list[ResultRow]:
        """Prove what was written, make it members of its collections, and return what the ledger is to say of it."""
        rows = []
        for made in self._made:
            key, organism, uri = made.key, made.organism, made.uri
            wrote = made.rows
            cells, digest = (wrote.cells, wrote.sha256()) if isinstance(wrote, MatrixWriter) else wrote
            if digest_of(uri, key.kind) != digest:
                raise StoreError(uri, "verify", "it reads back differently; check the disk, and run the command again")
            parent, name = collection_of(key.kind), key.member
            collection = store.array_uri(self.root, organism, parent)
            with opened(soma.Collection, collection) as found:
                there = name in found
            if there:
                with opened(soma.Collection, collection, "d") as out:
                    del out[name]
                store.tick()
            opener = soma.DataFrame if key.kind == "labels" else soma.SparseNDArray
            with opened(soma.Collection, collection, "w") as out, opened(opener, uri) as member:
                out.set(name, member, use_relative_uri=True)
            store.tick()
            said = json.dumps(made.about, sort_keys=True)
            rows.append(ResultRow(str(key), organism, f"{parent}/{name}", cells, digest, said, 0))
        return rows


@contextmanager
def write_results(uri: str, keys: Sequence[tuple[ResultKey, str]], *, force: bool = False) -> Iterator[ResultWriter]:
    """Give a writer of results, which are published together at the end, or vanish where anything fails.

    Parameters
    ----------
    uri
        Folder of the atlas.
    keys
        What is going to be written: name and organism (experiment name).
    force
        Write in place of those that are there. Where anything is written, one that is named and not written goes.

    Raises
    ------
    AtlasInputError
        When one is there already, or of a kind that is not written here.
    StoreError
        When somebody else is writing, the store reads back differently, or the clock is behind.
    """
    root = store.place_of(uri)
    folder = root / store.LEDGER
    with writer_lock(folder), Ledger(folder / "ledger.sqlite") as ledger:
        recover(root, ledger)
        store.check_schema(root, "write")
        refuse_present(ledger.results(), keys, force=force)
        if (published := ledger.published_ms()) >= (now := now_ms()):
            raise StoreError(str(root), "write", behind(now, published))
        ledger.begin()
        try:
            writer = ResultWriter(root)
            yield writer
            rows = writer.join()
            made, named = ({(row.key, row.organism) for row in rows}, {(str(key), one) for key, one in keys})
            stale = [row for row in ledger.results() if (row.key, row.organism) in named - made] if rows else []
            writer.retire(stale)
            store.tick()
            moment = now_ms()
            if rows:
                ledger.publish_results([replace(row, published_ms=moment) for row in rows], stale)
            else:
                recover(root, ledger)
        except BaseException:
            recover(root, ledger)
            raise


def refuse_present(results: Sequence[ResultRow], keys: Sequence[tuple[ResultKey, str]], *, force: bool) -> None:
    """Raise AtlasInputError where a result is there that is not to be replaced, or is of no kind that is written."""
    for key, _ in keys:
        collection_of(key.kind)
    there = {(row.key, row.organism) for row in results}
    if not force and (twice := [str(key) for key, organism in keys if (str(key), organism) in there]):
        raise AtlasInputError("key", twice[0], "a result that the atlas does not hold yet; --force replaces it")


def digest_of(uri: str, kind: str, at: int | None = None) -> str:
    """Return the digest of a result as it is stored, read at a moment, None for now."""
    if kind == "labels":
        with soma.DataFrame.open(uri, context=result_reading(at, uri)) as frame:
            return frame_digest(frame.read().concat().to_pandas())
    digest = hashlib.sha256()
    with soma.SparseNDArray.open(uri, context=result_reading(at, uri)) as array:
        step = ROWS_PER_READ * (8 if kind.startswith(layout.NETWORK) else 1)  # rows of genes hold little
        for first in range(0, array.shape[0], step):
            stop = min(first + step, array.shape[0])
            found = array.read((slice(first, stop - 1),)).tables().concat()
            rows, columns, values = (found[name].to_numpy() for name in ("soma_dim_0", "soma_dim_1", "soma_data"))
            order = np.lexsort((columns, rows))
            digest.update(_triples(rows[order], columns[order], values[order]))
    return digest.hexdigest()


def frame_digest(frame: pd.DataFrame) -> str:
    """Return the digest of a table of cells, whatever the order of its rows and columns."""
    frame = frame.sort_values("soma_joinid", ignore_index=True)
    digest = hashlib.sha256()
    for name in sorted(frame.columns):
        digest.update(f"{name}\0".encode())
        values = frame[name]
        if values.dtype.kind in "if":
            digest.update(values.to_numpy().astype("<f4" if values.dtype.kind == "f" else "<i8").tobytes())
        else:
            digest.update("\0".join(values.astype(str)).encode())
    return digest.hexdigest()


def faults_of(atlas: Atlas) -> Iterator[tuple[str, str]]:
    """Yield place and fault of each result of an atlas that is not what the ledger says."""
    for row in atlas.results:
        where, name = f"{layout.DATA}/{row.organism}/{row.member}", row.member.rsplit("/", 1)[1]
        parent = atlas.array_uri(row.organism, row.member.rsplit("/", 1)[0])
        try:
            with opened(soma.Collection, parent, at=atlas.published_ms) as collection:
                uri = collection[name].uri
            found = digest_of(uri, row.key.partition("/")[0], atlas.published_ms)
        except (soma.SOMAError, pa.ArrowException, KeyError, OSError) as error:
            yield where, f"it cannot be read: {error}"[:300]
        else:
            if found != row.sha256:
                yield where, f"rows with sha256 {found}, the ledger says {row.sha256}"


def result_reading(at: int | None, uri: str) -> soma.SOMATileDBContext:
    """Return a context that reads what is at `uri` with buffers of bounded size; tiledbsoma takes 1 GiB a column."""
    settings = {"soma.init_buffer_bytes": str(BUFFER_BYTES), **settings_of(uri)}
    return soma.SOMATileDBContext(tiledb_config=settings, timestamp=at)


def _triples(rows: Numbers, columns: Numbers, values: npt.NDArray) -> bytes:
    """Return coordinates and values, entry after entry, so that a digest does not depend on portions."""
    out = np.empty(len(rows), dtype=_TRIPLE)
    out["row"], out["column"], out["value"] = rows, columns, values
    return out.tobytes()


def _arrow(name: str, values: pd.Series) -> pa.Array:
    if name == "soma_joinid":
        return pa.array(values.to_numpy(dtype=np.int64))
    if values.dtype.kind in "fb":
        return pa.array(values.to_numpy(dtype=np.float32 if values.dtype.kind == "f" else bool), from_pandas=False)
    return pa.array(values.astype(str).to_numpy(dtype=object), pa.large_string())
