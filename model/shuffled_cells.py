"""Cells whose counts are shuffled, behind the interface of any cells: `ShuffledCells`, what a null is read from.

Any read-out of a gene network, the model's own included, runs on them without knowing. What they keep says what a
null means. Shuffled by `genes`, a cell keeps its depth and its counts, and a gene about its mean: in each cell, counts
change places among genes of about the same mean expression. Shuffled by `cells`, a gene keeps its counts exactly: each
gene's counts change places among the cells of a dataset, each gene on its own. grn_significance.py takes p-values from
both.

A shuffle is a function of the seed and of a cell's counts, or of a gene: counter-based generators have no state, so a
cell is shuffled alike alone, in any batch and in any order, and so are its copies.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import scipy.sparse as sp

from loaders import NO_CELL, encode_cells

from .errors import ModelInputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt
    import pandas as pd

    from loaders import CellRows, Cells, PackedCells

    Numbers = npt.NDArray[np.int64]

Shuffle = Literal["genes", "cells"]
BLOCK = 1_024
"""Cells that are decoded at a time."""


class ShuffledCells:
    """Cells with counts shuffled; numbers, labels, datasets, donors and measured genes are those of the cells given.

    Parameters
    ----------
    cells
        The real cells.
    numbers
        Which of them, int64 [n], are shuffled among each other, and give the mean expression of genes; None for all.
        The others are not to be read, but for the neighbours of a cell, which are shuffled too.
    kind
        `genes`: within each cell, among genes of one bin of mean expression. `cells`: each gene, among the cells of a
        dataset; the counts of these cells are then held in memory, 3 bytes for each that is not 0.
    bins
        Bins of equally many genes that the dataset expresses (25 as in Tirosh et al. 2016, doi:10.1126/science.aad0501,
        who draw control genes so).
    seed
        Another seed is another shuffle.

    Raises
    ------
    ModelInputError
        When there is no such kind, no such cell, or a number of bins below 1.
    """

    def __init__(
        self, cells: Cells, numbers: Numbers | None = None, *, kind: Shuffle = "genes", bins: int = 25, seed: int = 0
    ) -> None:
        found = np.arange(len(cells)) if numbers is None else np.unique(np.asarray(numbers))
        if kind not in get_args(Shuffle):
            raise ModelInputError("kind", kind, " or ".join(get_args(Shuffle)))
        if bins < 1:
            raise ModelInputError("bins", bins, "1 or more")
        if not len(found) or found.dtype.kind not in "iu" or not 0 <= found[0] <= found[-1] < len(cells):
            raise ModelInputError("numbers", f"{len(found)} cells", f"at least one of the cells 0 to {len(cells) - 1}")
        self.columns = cells.columns
        self.about: dict[str, Any] = {**cells.about, "shuffled": {"kind": kind, "bins": bins, "seed": seed}}
        self._cells, self._kind, self._seed = cells, kind, _word("seed", kind, seed)
        self._numbers = found.astype(np.int64)
        self._place = np.full(len(cells), NO_CELL, dtype=np.int64)
        self._place[self._numbers] = np.arange(len(self._numbers))
        said = json.dumps([cells.fingerprint, self.about["shuffled"]], sort_keys=True).encode()
        self.fingerprint = hashlib.sha256(said + self._numbers.tobytes()).hexdigest()
        sizes = np.bincount(cells.genes()["organism"].to_numpy(dtype=np.int64))
        self._width = int(sizes.max())
        self._bins: dict[tuple[int, int], tuple[npt.NDArray[np.int32], list[npt.NDArray[np.int32]]]] = {}
        if kind == "genes":
            self._bins = {group: _bins_of(total, bins) for group, total in gene_totals(cells, self._numbers).items()}
        else:
            self._records, self._depth, self._nnz = self._shuffled_columns()

    def __len__(self) -> int:
        """Return the number of cells, shuffled ones and others."""
        return len(self._cells)

    def column(self, name: str) -> npt.NDArray:
        """Return one number of all cells."""
        return self.codes(name, np.arange(len(self), dtype=np.int64))

    def codes(self, name: str, cells: Numbers) -> npt.NDArray:
        """Return one number of some cells; depth, genes and the hash of the counts are those after the shuffle."""
        found = self._cells.codes(name, cells)
        if name == "count_hash_high":
            return found ^ np.uint64(self._seed)
        if self._kind == "cells" and name in ("depth", "nnz"):
            place, mine = self._place[cells], self._depth if name == "depth" else self._nnz
            return np.where(place == NO_CELL, found, mine[place]).astype(found.dtype)
        return found

    def genes(self) -> pd.DataFrame:
        """Return organism (code), feature_id and feature_name, in the order of gene numbers per organism."""
        return self._cells.genes()

    def measured(self, dataset: int, organism: int) -> npt.NDArray[np.bool_]:
        """Return, per gene of an organism, whether a dataset measured it."""
        return self._cells.measured(dataset, organism)

    def read(self, cells: Numbers) -> PackedCells:
        """Return the shuffled records of these cells, in this order, cells repeated or not.

        Raises
        ------
        ModelInputError
            When a cell is not among those that were shuffled, nor of their datasets.
        """
        cells = np.asarray(cells, dtype=np.int64)
        if self._kind == "cells":
            place = self._place[cells]
            if (place == NO_CELL).any():
                raise ModelInputError("cells", int(cells[place.argmin()]), "cells that were shuffled: name them all")
            return self._records.take(place)
        rows, groups, lanes = self._cells.read(cells).decode(), _groups(self._cells, cells), self._lanes(cells)
        genes, counts = rows.indices.copy(), rows.counts.copy()
        for cell, (group, one) in enumerate(zip(groups, lanes.tolist(), strict=True)):
            if group not in self._bins:
                raise ModelInputError("cells", int(cells[cell]), "cells of the datasets that were shuffled")
            part = slice(int(rows.indptr[cell]), int(rows.indptr[cell + 1]))
            moved = _moved(genes[part], *self._bins[group], _generator(self._seed, one))
            order = np.argsort(moved)
            genes[part], counts[part] = moved[order], counts[part][order]
        return encode_cells(sp.csr_matrix((counts, genes, rows.indptr), shape=(len(cells), self._width)))

    def will_need(self, cells: Numbers, stream: int = 0) -> None:
        """Say which cells are read soon; a hint only."""
        if self._kind == "genes":
            self._cells.will_need(cells, stream)

    def neighbours(self, cells: Numbers) -> tuple[Numbers, npt.NDArray[np.float32]]:
        """Return the neighbours that the real cells have, as far as they can be read, and their distances."""
        near, far = self._cells.neighbours(cells)
        if self._kind == "genes":
            return near, far
        known = (near != NO_CELL) & (self._place[near] != NO_CELL)
        return np.where(known, near, NO_CELL), np.where(known, far, np.inf).astype(np.float32)

    def _lanes(self, cells: Numbers) -> npt.NDArray[np.uint64]:
        return self._cells.codes("count_hash_high", cells).astype(np.uint64)

    def _shuffled_columns(self) -> tuple[PackedCells, npt.NDArray, npt.NDArray]:
        """Return records, depths and numbers of genes of the cells after each gene has been dealt out anew."""
        rows = list(_blocks(self._cells, self._numbers))
        nnz = np.concatenate([np.diff(part.indptr) for _, part in rows])
        genes, counts = (np.concatenate([getattr(part, name) for _, part in rows]) for name in ("indices", "counts"))
        owners = np.repeat(np.arange(len(nnz)), nnz)
        groups = _groups(self._cells, self._numbers)
        for organism, dataset in sorted(set(groups)):
            members = np.flatnonzero([one == (organism, dataset) for one in groups])
            mine = np.flatnonzero(np.isin(owners, members))
            mine = mine[np.argsort(genes[mine], kind="stable")]
            borders = np.flatnonzero(np.diff(genes[mine], prepend=-1, append=-1))
            word = _word("group", self._seed, organism, dataset)
            for first, last in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True):
                draw = _generator(word, int(genes[mine[first]]))
                owners[mine[first:last]] = members[draw.choice(len(members), last - first, replace=False)]
        dealt = sp.csr_matrix((counts, (owners, genes)), shape=(len(nnz), self._width), dtype=np.float32)
        dealt.sort_indices()
        depth = np.asarray(dealt.sum(axis=1, dtype=np.float64)).ravel()
        return encode_cells(dealt), depth.astype(np.float32), np.diff(dealt.indptr).astype(np.uint32)


def gene_totals(cells: Cells, numbers: Numbers) -> dict[tuple[int, int], npt.NDArray[np.float64]]:
    """Return the counts of each gene over some cells, [genes], by organism and dataset (codes)."""
    width = int(np.bincount(cells.genes()["organism"].to_numpy(dtype=np.int64)).max())
    out: dict[tuple[int, int], npt.NDArray[np.float64]] = {}
    for some, rows in _blocks(cells, numbers):
        groups = _groups(cells, some)
        for group in sorted(set(groups)):
            mine = np.repeat([one == group for one in groups], np.diff(rows.indptr))
            total = np.bincount(rows.indices[mine], rows.counts[mine].astype(np.float64), width)
            out[group] = out[group] + total if group in out else total
    return out


def _groups(cells: Cells, numbers: Numbers) -> list[tuple[int, int]]:
    """Return organism and dataset of each cell: what is shuffled stays inside of both."""
    codes = (cells.codes(name, numbers).tolist() for name in ("organism", "dataset"))
    return list(zip(*codes, strict=True))


def _blocks(cells: Cells, numbers: Numbers) -> Iterator[tuple[Numbers, CellRows]]:
    for start in range(0, len(numbers), BLOCK):
        some = numbers[start : start + BLOCK]
        yield some, cells.read(some).decode()


def _word(*parts: object) -> int:
    """Return a 64-bit key, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def _generator(key: int, lane: int) -> np.random.Generator:
    """Return the generator of one cell or gene: Philox is counter-based, so nothing has been drawn before."""
    return np.random.Generator(np.random.Philox(key=np.array([key, lane], dtype=np.uint64)))


def _bins_of(totals: npt.NDArray[np.float64], bins: int) -> tuple[npt.NDArray[np.int32], list[npt.NDArray[np.int32]]]:
    """Return the bin of each gene, -1 for one that no cell expresses, and the genes of each bin."""
    expressed = np.flatnonzero(totals > 0)
    ordered = expressed[np.argsort(totals[expressed], kind="stable")].astype(np.int32)
    members = [part for part in np.array_split(ordered, bins) if len(part)]
    of = np.full(len(totals), -1, dtype=np.int32)
    for place, part in enumerate(members):
        of[part] = place
    return of, members


def _moved(
    genes: npt.NDArray[np.int32],
    of: npt.NDArray[np.int32],
    members: list[npt.NDArray[np.int32]],
    draw: np.random.Generator,
) -> npt.NDArray[np.int32]:
    """Return where the counts of a cell's expressed genes go: other places of the same bins, each taken once."""
    out, mine = genes.copy(), of[genes]
    order = np.argsort(mine, kind="stable")
    borders = np.flatnonzero(np.diff(mine[order], prepend=-2, append=-2))
    for first, last in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True):
        some = order[first:last]
        if (place := int(mine[some[0]])) >= 0:
            out[some] = draw.choice(members[place], last - first, replace=False)
    return out
