"""`RawCells`: one opened source as names, author columns and row blocks, whatever its format.

Made by `read.open_source`; proved by `prove.prove_counts`; mapped by `standardise`. Nothing here knows file formats,
ontologies or the store. Rows keep the file's order; columns are the source's genes, other features left out.
"""

from __future__ import annotations

from collections import Counter
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix, vstack

from .findings import Finding
from .gene_columns import name_genes
from .refusal import refusal, shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    import pandas as pd

    from .matrices import RowReader

GENE_FEATURES = "Gene Expression"  # the feature type CellRanger gives to genes
NAME_LIMIT = 1_000  # characters of the longest cell or gene name; real ones stay below 100
RUN_GAP = 32  # rows skipped between two wanted rows before a second read is cheaper than reading through
RUN_ROWS = 4_096  # rows read at once by `rows`, which bounds its memory


@dataclass(frozen=True)
class Parts:
    """What a format's reader hands over: everything but the checks that all formats share."""

    matrix: str
    """Element the counts are read from, e.g. `raw/X`."""
    reader: RowReader
    """Rows of that element, all features."""
    obs: pd.DataFrame
    """Author columns; the index holds the cell names."""
    var: pd.DataFrame
    """Feature columns; the index holds the feature names."""
    uns: dict[str, Any] = field(default_factory=dict)
    """Scalars of uns, by path."""
    others: dict[str, Callable[[], RowReader]] = field(default_factory=dict)
    """Other elements that might hold counts, by name."""
    findings: tuple[Finding, ...] = ()
    """What the reader decided on the way."""
    close: Callable[[], None] = lambda: None
    """Releases the file."""


class RawCells:
    """Cells of one source as its authors named and counted them. Use it as a context manager.

    Attributes
    ----------
    dataset
        Name of the source in messages.
    obs
        Author columns: strings are objects with None for nulls; the index holds the cell names.
    var
        Gene columns; the index holds the names as stored.
    uns
        Scalars of the file's uns, by path.
    matrix
        Element the counts come from.
    findings
        What was decided while reading.
    gene_names
        Best name per gene: a stable id where the source has one.
    gene_fallback
        Second name per gene, None where there is none.
    others
        Other elements of the file that might hold counts.
    """

    def __init__(self, dataset: str, parts: Parts) -> None:
        self.dataset, self.matrix, self.uns, self.others = dataset, parts.matrix, parts.uns, parts.others
        self._reader, self._close = parts.reader, parts.close
        self.obs = parts.obs
        _check_shape(dataset, parts)
        _check_cell_names(dataset, parts.obs.index)
        self._keep, dropped = _genes_only(dataset, parts.var)
        self.var = parts.var if self._keep is None else parts.var.iloc[self._keep]
        if not len(self.var):
            raise refusal(
                dataset, "no-genes", "var", "no gene", "at least one gene", "export the genes with the counts"
            )
        _check_gene_names(dataset, self.var.index)
        self.gene_names, self.gene_fallback = name_genes(self.var)
        self.findings = parts.findings + dropped
        self.n_obs, self.n_vars = len(self.obs), len(self.var)

    def __enter__(self) -> RawCells:
        """Return the cells themselves."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the file."""
        self.close()

    def close(self) -> None:
        """Release the file; reading afterwards fails."""
        self._close()

    def with_obs(self, columns: Sequence[str]) -> RawCells:
        """Return the same cells as if their authors had said no more of them than these columns of obs."""
        bare = copy(self)
        bare.obs, bare.uns, bare.findings = self.obs[list(columns)].copy(), {}, ()
        return bare

    def blocks(self, rows: int = 4096) -> Iterator[tuple[int, csr_matrix]]:
        """Yield (first row, counts) over all cells in file order, `rows` cells at a time.

        Counts are float32 CSR blocks with sorted, unique coordinates and no stored zeros; float32 holds every count
        that `prove_counts` accepts exactly. The values do not depend on `rows`.
        """
        for start, block in self.stored_blocks(rows):
            yield start, _counts(block)

    def stored_blocks(self, rows: int = 4096) -> Iterator[tuple[int, csr_matrix]]:
        """Yield blocks like `blocks`, but with values as stored: own type, explicit zeros included."""
        if rows < 1:
            raise ValueError(f"rows={rows!r} is not allowed; expected a positive integer")
        for start in range(0, self.n_obs, rows):
            yield start, self._select(self._reader.read(start, min(start + rows, self.n_obs)))

    def rows(self, index: Sequence[int] | np.ndarray) -> csr_matrix:
        """Return the counts of some cells, in the order asked for; repeats are allowed.

        Raises
        ------
        IndexError
            If a row is outside [0, n_obs).
        """
        wanted = np.asarray(index, dtype=np.int64)
        if wanted.size == 0:
            return csr_matrix((0, self.n_vars), dtype=np.float32)
        if int(wanted.min()) < 0 or int(wanted.max()) >= self.n_obs:
            raise IndexError(f"rows outside 0 to {self.n_obs - 1}: {int(wanted.min())} to {int(wanted.max())}")
        unique, inverse = np.unique(wanted, return_inverse=True)
        found = []
        for run in np.split(unique, np.flatnonzero(np.diff(unique) > RUN_GAP) + 1):
            for low in range(0, len(run), RUN_ROWS):
                part = run[low : low + RUN_ROWS]
                first = int(part[0])
                block = self._reader.read(first, int(part[-1]) + 1, ahead=False)
                found.append(_counts(self._select(block[part - first])))
        stacked = vstack(found, format="csr")
        return stacked if len(unique) == len(wanted) and (np.diff(wanted) > 0).all() else stacked[inverse]

    def _select(self, block: csr_matrix) -> csr_matrix:
        return block if self._keep is None else block[:, self._keep]


def _counts(block: csr_matrix) -> csr_matrix:
    # copies: the block may be a view of what the reader keeps for its next read
    block = csr_matrix((block.data.astype(np.float32), block.indices.copy(), block.indptr.copy()), shape=block.shape)
    block.eliminate_zeros()
    block.has_canonical_format = True
    return block


def _check_shape(dataset: str, parts: Parts) -> None:
    cells, features = parts.reader.shape
    if cells == 0 or len(parts.obs) == 0:
        raise refusal(dataset, "no-cells", parts.matrix, "0 cells", "at least one cell", "export the cells again")
    if features == 0 or len(parts.var) == 0:
        raise refusal(dataset, "no-genes", parts.matrix, "0 genes", "at least one gene", "export the genes again")
    if (cells, features) != (len(parts.obs), len(parts.var)):
        raise refusal(
            dataset,
            "shape-mismatch",
            parts.matrix,
            f"{cells} x {features} values",
            f"{len(parts.obs)} cells x {len(parts.var)} genes, as obs and var say",
            "export matrix and names together",
        )


def _check_cell_names(dataset: str, names: pd.Index) -> None:
    _check_names(dataset, "obs names", names, "unsafe-cell-name")
    if (names == "").any():
        raise refusal(
            dataset,
            "missing-cell-name",
            "obs names",
            f"{int((names == '').sum())} empty names",
            "a name per cell",
            "name every cell, for example by its barcode",
        )
    if not names.is_unique:
        repeats = [(n, k) for n, k in Counter(names).most_common(3) if k > 1]
        shown = ", ".join(f"{shorten(n)!r} {k} times" for n, k in repeats)
        raise refusal(
            dataset,
            "duplicate-cell-names",
            "obs names",
            f"{int(names.duplicated().sum())} repeats, e.g. {shown}",
            "unique cell names",
            "prefix barcodes with their sample, or drop cells that are there twice",
        )


def _check_gene_names(dataset: str, names: pd.Index) -> None:
    _check_names(dataset, "var names", names, "unsafe-gene-name")


def _check_names(dataset: str, where: str, names: pd.Index, code: str) -> None:
    for name in names:
        if len(name) > NAME_LIMIT or not name.isprintable():
            raise refusal(
                dataset,
                code,
                where,
                repr(name[:80]),
                f"printable names of at most {NAME_LIMIT} characters",
                "rename it; control characters and line breaks do not belong in a name",
            )


def _genes_only(dataset: str, var: pd.DataFrame) -> tuple[np.ndarray | None, tuple[Finding, ...]]:
    """Return the positions of gene features, None for all, and a finding about the others."""
    column = next((c for c in ("feature_types", "feature_type") if c in var.columns), None)
    if column is None:
        return None, ()
    kinds = var[column].astype(str).to_numpy()
    genes = kinds == GENE_FEATURES
    if not genes.any() or genes.all():
        return None, ()
    other = ", ".join(f"{shorten(k)} {n}" for k, n in Counter(kinds[~genes]).most_common())
    finding = Finding(
        "other-features",
        "info",
        f"var, {column}",
        other,
        GENE_FEATURES,
        "they are left out; only genes are stored",
        int((~genes).sum()),
    )
    return np.flatnonzero(genes), (finding,)
