"""What an atlas holds, as one digest, and the pass over its cells that the digest and the validator share.

`content_hash` says whether two atlases hold the same, whatever order their sources came in: cells are known by their
stable ids, genes by theirs, and joinids, file names and moments are left out. Reads only; `validate` says whether what
is held is right.
"""

from __future__ import annotations

import hashlib
import tempfile
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import tiledbsoma as soma

from . import layout, schema
from .verify import ROWS_PER_READ

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy.typing as npt

    from .handle import Atlas
    from .ledger import DatasetRow

    Rows = npt.NDArray[np.uint8]

FORMAT = "panatlas atlas content 1"
"""First line of what is hashed; raised when anything below changes."""
LEFT_OUT = ("soma_joinid", "dataset_h5ad_path", "input_sha256")
"""Columns that say where something lies or how its file was packed."""
BUILD_DATE = "census_build_date"
"""The row of census_info/summary that is a moment."""
KEY, DIGEST = 16, 24
"""Bytes of a text's digest, and of a cell's: with its id as key a cell is 40 bytes."""
ROWS_PER_RUN = 1 << 20
"""Rows sorted in memory; beyond it runs go to a temporary file: 40 MB at 40 bytes a row."""
ROWS_PER_CHUNK = 65_536
"""Rows of obs read at once: one of its compressed chunks."""
_OF_DATASET = ("soma_joinid", "source_row", "qc_pass", "is_primary_data")
_BUFFERS = {"obs": 4 << 20, "matrix": 64 << 20}  # bytes a column and query; tiledbsoma would take 1 GiB each


class SortedRows:
    """Rows of bytes, all of one width, brought into ascending order however many they are."""

    def __init__(self, width: int, run: int = ROWS_PER_RUN) -> None:
        """Begin with no row.

        Parameters
        ----------
        width
            Bytes of a row. The first should be evenly spread, as those of a digest are: memory is 1/256 of all rows.
        run
            Rows kept in memory.
        """
        self.width, self._most = width, run
        self._held: list[Rows] = []
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the rows; it never had a name
        weakref.finalize(self, self._file.close)
        self._runs: list[tuple[int, np.ndarray]] = []
        self._written = 0

    def add(self, rows: Rows) -> None:
        """Add rows: uint8 [n, width]."""
        self._held.append(rows)
        if sum(map(len, self._held)) >= self._most:
            self._spill()

    def __iter__(self) -> Iterator[Rows]:
        """Yield the rows in order, in parts; rows that begin with the same byte are in one part."""
        self._spill()
        for byte in range(256):
            parts = [self._read(first + starts[byte], first + starts[byte + 1]) for first, starts in self._runs]
            rows = np.concatenate([np.empty((0, self.width), np.uint8), *parts])
            if len(rows):
                yield self._in_order(rows)

    def _in_order(self, rows: Rows) -> Rows:
        """Return rows in ascending order of their bytes."""
        texts = np.sort(np.ascontiguousarray(rows).view(f"S{self.width}").ravel())
        return texts.view(np.uint8).reshape(-1, self.width)

    def _spill(self) -> None:
        """Sort what is held and append it to the file."""
        if self._held:
            rows = self._in_order(np.concatenate(self._held))
            self._runs.append((self._written, np.searchsorted(rows[:, 0], np.arange(257))))
            self._file.seek(self._written * self.width)
            self._file.write(rows.data)
            self._written += len(rows)
            self._held = []

    def _read(self, first: int, stop: int) -> Rows:
        """Return some rows of the file."""
        self._file.seek(first * self.width)
        return np.frombuffer(self._file.read((stop - first) * self.width), np.uint8).reshape(-1, self.width)


def text_digests(values: pd.Series) -> Rows:
    """Return the 16-byte digest of each text, uint8 [n, 16]; zeros where there is none."""
    codes, distinct = pd.factorize(values)
    made = [hashlib.blake2b(str(v).encode("utf-8", "surrogatepass"), digest_size=KEY).digest() for v in distinct]
    return np.frombuffer(b"".join([*made, bytes(KEY)]), np.uint8).reshape(-1, KEY)[codes]  # code -1 is the last


def row_bytes(frame: pd.DataFrame, columns: Iterable[str]) -> Rows:
    """Return each row's values in the given columns as so many bytes: numbers as they are, texts as their digests."""
    parts = []
    for name in columns:
        values = frame[name]
        if values.dtype.kind in "iub":
            parts.append(values.to_numpy().astype("<i8")[:, None].view(np.uint8))
        elif values.dtype.kind == "f":
            numbers = values.to_numpy().astype("<f8")
            numbers[np.isnan(numbers)] = np.nan  # one bit pattern for every nan
            parts.append(numbers[:, None].view(np.uint8))
        else:
            parts.append(text_digests(values))
    return np.concatenate(parts, axis=1) if parts else np.empty((len(frame), 0), np.uint8)


def table_digest(frame: pd.DataFrame) -> str:
    """Return the sha256 of a table's rows in whatever order they are, but for the columns and the row left out."""
    if "label" in frame.columns and "value" in frame.columns:
        frame = frame[frame["label"] != BUILD_DATE]
    columns = sorted(set(frame.columns) - set(LEFT_OUT))
    rows = row_bytes(frame, columns)
    made = sorted(hashlib.blake2b(row.tobytes(), digest_size=DIGEST).digest() for row in rows)
    return hashlib.sha256("\n".join([*columns, ""]).encode() + b"".join(made)).hexdigest()


@dataclass(frozen=True, eq=False)
class CellBlock:
    """Some consecutive cells of one dataset, with everything the store says of them but their records."""

    dataset: DatasetRow
    """Whose cells they are."""
    first: int
    """Joinid of the first."""
    obs: pd.DataFrame
    """Their rows of obs, in order of joinids; texts are categorical where the store has them so."""
    counts: sp.csr_matrix
    """Their rows of X, float32 [cells, genes], genes ascending; zeros that are stored stay."""
    neighbours: sp.csr_matrix
    """Their rows of the graph, float32 [cells, as many as the graph has columns]; columns are joinids."""
    source_rows: np.ndarray
    """`source_row` of every cell of the dataset, by joinid less `first_joinid`: which cell a neighbour is, in terms
    that outlive joinids."""
    eligible: np.ndarray
    """Bool of every cell of the dataset: it passes QC and is no copy, so it may have neighbours and be one."""


def cell_blocks(atlas: Atlas, organism: str, rows: int = ROWS_PER_READ) -> Iterator[CellBlock]:
    """Yield every cell of an organism, dataset by dataset in joinid order.

    Parameters
    ----------
    atlas
        Where they are; its joinids must be dense.
    organism
        Name of an Experiment.
    rows
        Cells of a block, at most; memory is bounded by it, by a chunk of obs, and by 9 bytes a cell of a dataset.
    """
    uris = [atlas.array_uri(organism, member) for member in ("obs", layout.X_RAW, layout.NEIGHBOURS)]
    with (
        soma.DataFrame.open(uris[0], context=reading(atlas, "obs")) as frame,
        soma.SparseNDArray.open(uris[1], context=reading(atlas, "matrix")) as x,
        soma.SparseNDArray.open(uris[2], context=reading(atlas, "matrix")) as graph,
    ):
        for dataset in (d for d in atlas.datasets if d.organism == organism):
            stop = dataset.first_joinid + dataset.n_cells
            facts = _obs(frame, dataset.first_joinid, stop, _OF_DATASET)
            known = (facts["source_row"].to_numpy(), (facts["qc_pass"] & facts["is_primary_data"]).to_numpy())
            for start in range(dataset.first_joinid, stop, ROWS_PER_CHUNK):
                chunk = _obs(frame, start, min(start + ROWS_PER_CHUNK, stop))
                for first in range(start, start + len(chunk), rows):
                    end = min(first + rows, start + len(chunk))
                    obs = chunk.iloc[first - start : end - start]
                    yield CellBlock(dataset, first, obs, _matrix(x, first, end), _matrix(graph, first, end), *known)


def reading(atlas: Atlas, kind: str) -> soma.SOMATileDBContext:
    """Return a context that reads at the atlas' moment with buffers of bounded size: for `obs`, or for a `matrix`."""
    return atlas.context(_BUFFERS[kind])


def _obs(frame: soma.DataFrame, first: int, stop: int, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Return rows of obs in order of joinids."""
    names = list(columns or [field.name for field in schema.OBS])
    found = frame.read((slice(first, stop - 1),), column_names=names).concat().to_pandas()
    return found.sort_values("soma_joinid", ignore_index=True)


def _matrix(array: soma.SparseNDArray, first: int, stop: int) -> sp.csr_matrix:
    """Return rows of a matrix, columns ascending."""
    found = array.read((slice(first, min(stop, array.shape[0]) - 1),)).tables().concat()
    rows, columns = (found[f"soma_dim_{axis}"].to_numpy() for axis in (0, 1))
    shape = (stop - first, array.shape[1])
    matrix = sp.coo_matrix((found["soma_data"].to_numpy(), (rows - first, columns)), shape=shape).tocsr()
    matrix.sort_indices()
    return matrix


class CellDigests:
    """Digests of one organism's cells, and in the end of all of them together."""

    def __init__(self, gene_ids: np.ndarray) -> None:
        """Begin with no cell; `gene_ids` are those of the columns of X."""
        order = np.argsort(gene_ids)
        self._ranks = np.empty(len(order), np.int64)
        self._ranks[order] = np.arange(len(order))
        self._sorted = bool((np.diff(order) > 0).all())
        self._rows = SortedRows(KEY + DIGEST)
        self._columns = [f.name for f in schema.OBS if f.name not in LEFT_OUT]
        self.repeated = 0

    def add(self, block: CellBlock) -> None:
        """Add some cells: all of obs, the counts by gene, the neighbours by their rows in the source."""
        counts = block.counts
        if not self._sorted:
            counts = _renamed(counts, self._ranks[counts.indices])
        offsets = block.neighbours.indices.astype(np.int64) - block.dataset.first_joinid
        inside = (offsets >= 0) & (offsets < len(block.source_rows))
        near = _renamed(block.neighbours, np.where(inside, block.source_rows[np.where(inside, offsets, 0)], ~offsets))
        numbers = np.stack([np.diff(counts.indptr), np.diff(near.indptr)], axis=1).astype("<i8").view(np.uint8)
        fixed = np.concatenate([row_bytes(block.obs, self._columns), numbers], axis=1)
        parts = [(m.indptr, m.indices.astype("<i8"), m.data.astype("<f4")) for m in (counts, near)]
        made = bytearray()
        for i, row in enumerate(fixed):
            digest = hashlib.blake2b(row, digest_size=DIGEST)
            for starts, indices, data in parts:
                a, b = starts[i], starts[i + 1]
                digest.update(indices[a:b])
                digest.update(data[a:b])
            made += digest.digest()
        digests = np.frombuffer(bytes(made), np.uint8).reshape(-1, DIGEST)
        self._rows.add(np.concatenate([text_digests(block.obs["observation_joinid"]), digests], axis=1))

    def hexdigest(self) -> str:
        """Return the sha256 over all cells by id; `repeated` then says how many ids are another cell's too."""
        whole = hashlib.sha256()
        self.repeated = 0
        for rows in self._rows:
            whole.update(rows)
            self.repeated += int((rows[1:, :KEY] == rows[:-1, :KEY]).all(axis=1).sum())
        return whole.hexdigest()


def _renamed(matrix: sp.csr_matrix, columns: np.ndarray) -> sp.csr_matrix:
    """Return a matrix's rows with other column numbers, ascending; they may be any whole numbers."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((columns, rows))
    out = sp.csr_matrix(matrix.shape, dtype=np.float32)
    out.indptr, out.indices, out.data = matrix.indptr, columns[order], matrix.data[order]
    return out


def join_digests(atlas: Atlas, cells: dict[str, str]) -> str:
    """Return the digest of an atlas from those of its organisms' cells: genes, who measured them and tables join."""
    lines = [FORMAT, schema.SCHEMA_VERSION]
    with soma.Collection.open(str(atlas.place), context=reading(atlas, "obs")) as tree:
        info = tree[layout.INFO]
        lines += [f"table {name} {table_digest(info[name].read().concat().to_pandas())}" for name in sorted(info)]
        for organism in sorted(cells):
            experiment = tree[layout.DATA][organism]
            lines.append(f"organism {organism} {experiment.metadata['organism']}")
            var = experiment.ms["RNA"].var.read().concat().to_pandas().sort_values("soma_joinid", ignore_index=True)
            lines.append(f"genes {table_digest(var)}")
            lines += _presence_lines(atlas, organism, experiment, var["feature_id"].to_numpy())
            lines.append(f"cells {atlas.n_cells(organism)} {cells[organism]}")
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def _presence_lines(atlas: Atlas, organism: str, experiment: Any, gene_ids: np.ndarray) -> list[str]:
    """Return a line per dataset of an organism: its id, and the digest of the ids of the genes it measured."""
    array = experiment.ms["RNA"]["feature_dataset_presence_matrix"]
    lines = []
    for dataset in (d for d in atlas.datasets if d.organism == organism):
        columns = array.read((dataset.dataset_joinid,)).tables().concat()["soma_dim_1"].to_numpy()
        ids = "\n".join(sorted(gene_ids[columns].tolist()))
        lines.append(f"measured {dataset.dataset_id} {hashlib.sha256(ids.encode()).hexdigest()}")
    return sorted(lines)


def content_hash(atlas: Atlas, progress: Callable[[str, int, int], None] = lambda _stage, _done, _total: None) -> str:
    """Return the sha256 of what an atlas holds: the same for the same sources in any order, another for any change.

    Parameters
    ----------
    atlas
        An opened atlas; its moment is the one that is read.
    progress
        Called with an organism's name, cells done and cells in all.

    Notes
    -----
    Over each cell's row of obs, counts by gene id and neighbours; over var, the genes each dataset measured, and every
    table of census_info. Left out are joinids, the source's address, the digest of its file's bytes, and the build
    date. Records are not in it: they repeat X, and `validate` compares them. Of cells that several sources share the
    first one ingested keeps `is_primary_data`, so there the order of sources is content.
    """
    found = {}
    for organism in atlas.organisms:
        digests = CellDigests(atlas.genes(organism)["feature_id"].to_numpy(dtype=str))
        for block in cell_blocks(atlas, organism):
            digests.add(block)
            progress(organism, block.first + len(block.obs), atlas.n_cells(organism))
        found[organism] = digests.hexdigest()
    return join_digests(atlas, found)
