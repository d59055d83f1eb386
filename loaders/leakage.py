"""The guard between two selections of cells: `find_leaks(training, mine)` counts what both hold, and says whose it is.

Cells are compared by the hash of their counts, by id, and by donor; by name, never by code, so that the two may be of
different packs, stores or AnnData. A release proves its own splits when it is made; this asks the same of whatever a
trainer or a benchmark is about to use. Near-copies (re-aligned, re-counted, filtered to fewer genes) are not seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from atlas import identity

from .cells import SPLITS
from .errors import LeakageError, LoaderInputError
from .plan import organism_codes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .cells import Cells, Numbers

KINDS = {
    "counts": "leave them out of one side",
    "few counts": "equal by chance, mostly; look at them if they are many",
    "cell": "leave them out of one side",
    "donor": "split by donor, so that a donor's cells are all on one side",
    "unknown donor": "name the donors if you know them, such as columns={'donor': ...} of AnnDataCells",
}
"""What two selections may share, and what to do about it."""
BLOCK = 1 << 20
"""Cells whose numbers are looked at together."""
READ = 1 << 12
"""Records that are read together."""
AT_ONCE = 1 << 23
"""Hashes of the smaller side that are kept together, 16 bytes a cell; where it has more, the other is read again."""
TABLE = 1 << 26
"""Entries of the table that hashes fall through, one byte each; by low bits, as ranges are of high ones."""
MASK = np.uint64(TABLE - 1)
WHOLE = (0, 2**64)
COUNT_HASH, CELL_ID = "count_hash_high", "cell_id_high"
"""Columns with the first 64 bits of both: 10^8 cells on each side have one chance in 2,000 of a wrong match."""
_SHOWN = 3


@dataclass(frozen=True)
class Leak:
    """One kind of overlap of two selections of cells."""

    kind: str
    """counts: the same counts of the same genes. few counts: the same with too few genes to tell cells apart. cell: the
    same id. donor: cells of the same donor of the same dataset. unknown donor: cells of the same dataset whose donors
    nobody named, which may be the same."""
    cells: tuple[int, int]
    """Cells of the first and of the second selection that it concerns."""
    datasets: tuple[str, ...]
    """Datasets of those in the second selection, the commonest first."""
    donors: tuple[str, ...]
    """Donors of those in the second selection, the commonest first."""
    examples: tuple[tuple[int, int], ...]
    """The first few pairs: numbers of a cell of the first and of one of the second selection."""

    @property
    def refused(self) -> bool:
        """True where `refuse_leaks` raises for it; for equal cells of few genes and unknown donors it does not."""
        return self.kind not in ("few counts", "unknown donor")

    def __str__(self) -> str:
        """Say how many, whose, which, and what to do."""
        what = {
            "counts": "have the counts of cells of the first side",
            "few counts": f"with counts in fewer than {identity.MIN_GENES} genes equal cells of the first side",
            "cell": "are cells of the first side",
            "donor": f"are of {len(self.donors)} donors that the first side has too",
            "unknown donor": "are of unknown donors, as cells of the first side are",
        }[self.kind]
        pairs = ", ".join(f"{two} (there {one})" for one, two in self.examples)
        return (
            f"{self.cells[1]} cells of the second side {what} ({self.cells[0]} there): "
            f"of datasets {_some(self.datasets)}; donors {_some(self.donors)}; e.g. cells {pairs}; {KINDS[self.kind]}"
        )


def find_leaks(
    first: Cells,
    second: Cells,
    *,
    first_splits: Sequence[str] = (),
    second_splits: Sequence[str] = (),
    organisms: Sequence[str] = (),
) -> tuple[Leak, ...]:
    """Return what two selections of cells share.

    Parameters
    ----------
    first, second
        Cells, such as those a model was trained on and those it is to be judged by; may be the same object, then with
        splits that differ.
    first_splits, second_splits
        Only cells of these splits; empty for all.
    organisms
        Only cells of these organisms, in any spelling; empty for all.

    Returns
    -------
    One `Leak` per kind of overlap that there is, in the order of `KINDS`; empty where the two share nothing. Memory is
    under 1 GiB however many cells there are, but for 32 bytes per cell that is shared.

    Raises
    ------
    LoaderInputError
        When a split or an organism is none, or both selections are the same cells.
    """
    sides = (
        _Side(first, tuple(first_splits), tuple(organism_codes(first, organisms)) if organisms else ()),
        _Side(second, tuple(second_splits), tuple(organism_codes(second, organisms)) if organisms else ()),
    )
    if first is second and (not (first_splits and second_splits) or set(first_splits) & set(second_splits)):
        shared = sorted(set(first_splits or SPLITS) & set(second_splits or SPLITS))
        raise LoaderInputError("second_splits", shared, "splits of these cells that the first selection leaves out")
    leaks = []
    one, two = _equal(sides, COUNT_HASH)
    few_one, few_two = _few_genes(first, one), _few_genes(second, two)
    leaks += _leak(sides, "counts", one[~few_one], two[~few_two], COUNT_HASH)
    leaks += _leak(sides, "few counts", one[few_one], two[few_two], COUNT_HASH)
    leaks += _leak(sides, "cell", *_equal(sides, CELL_ID), CELL_ID)
    leaks += _donor_leaks(sides)
    return tuple(leaks)


def refuse_leaks(
    first: Cells,
    second: Cells,
    *,
    first_splits: Sequence[str] = (),
    second_splits: Sequence[str] = (),
    organisms: Sequence[str] = (),
) -> tuple[Leak, ...]:
    """Refuse two selections that share cells or donors; parameters as in `find_leaks`.

    Returns
    -------
    What they share that is no reason to refuse: equal cells with too few genes to tell them apart, unknown donors.

    Raises
    ------
    LeakageError
        Naming every overlap; its `leaks` are those of `find_leaks`.
    """
    leaks = find_leaks(first, second, first_splits=first_splits, second_splits=second_splits, organisms=organisms)
    if refused := [leak for leak in leaks if leak.refused]:
        raise LeakageError(refused)
    return leaks


@dataclass(frozen=True, eq=False)
class _Side:
    """A selection of cells."""

    cells: Cells
    """Where they are."""
    splits: tuple[str, ...]
    """Only of these; empty for all."""
    organisms: tuple[int, ...] = ()
    """Only of these, by code; empty for all."""

    def __post_init__(self) -> None:
        if unknown := [name for name in self.splits if name not in SPLITS]:
            raise LoaderInputError("splits", unknown, f"some of {', '.join(SPLITS)}")
        if missing := {COUNT_HASH, CELL_ID} - set(self.cells.columns):
            raise LoaderInputError("cells", f"without {', '.join(sorted(missing))}", "cells with both; pack again")

    def blocks(self) -> Iterator[Numbers]:
        """Yield the numbers of the selected cells, ascending."""
        wanted = [SPLITS.index(name) for name in self.splits]
        for start in range(0, len(self.cells), BLOCK):
            numbers = np.arange(start, min(start + BLOCK, len(self.cells)))
            if wanted:
                numbers = numbers[np.isin(self.cells.codes("split", numbers), wanted)]
            if self.organisms:
                numbers = numbers[np.isin(self.cells.codes("organism", numbers), self.organisms)]
            yield numbers

    def hashes(self, column: str, low: int, high: int) -> Iterator[tuple[npt.NDArray[np.uint64], Numbers]]:
        """Yield the hashes from low to below high, multiples of 2^32, and their cells, block by block."""
        for block in self.blocks():
            found = self.cells.codes(column, block)
            if (low, high) != WHOLE:
                # The top bits alone, because the end of the range is no 64-bit number.
                top = found >> np.uint64(32)
                inside = (top >= low >> 32) & (top < high >> 32)
                found, block = found[inside], block[inside]  # noqa: PLW2901
            yield found, block


def _equal(sides: tuple[_Side, _Side], column: str) -> tuple[Numbers, Numbers]:
    """Return the cells of each side whose hash the other side has too, each ascending."""
    sizes = [sum(len(block) for block in side.blocks()) for side in sides]
    little = int(sizes[1] <= sizes[0])
    parts = max(1, -(-sizes[little] // AT_ONCE))
    bounds = [2**64 * part // parts >> 32 << 32 for part in range(parts)] + [2**64]
    found: tuple[list[Numbers], list[Numbers]] = ([], [])
    for span in pairwise(bounds):
        few, many = _meet(sides[little], sides[1 - little], column, span)
        found[little].append(few)
        found[1 - little].append(many)
    return np.sort(np.concatenate(found[0])), np.sort(np.concatenate(found[1]))


def _meet(little: _Side, large: _Side, column: str, span: tuple[int, int]) -> tuple[Numbers, Numbers]:
    """Return the cells of each side whose hash is in a range and the other side has it too.

    The little side's hashes are kept and sorted. The large side's go by in blocks, and most fall through a table of
    bits before anything is searched.
    """
    parts = list(little.hashes(column, *span)) or [(np.zeros(0, np.uint64), np.zeros(0, np.int64))]
    kept, cells = (np.concatenate([part[place] for part in parts]) for place in range(2))
    del parts
    order = np.argsort(kept, kind="stable")
    kept, cells = kept[order], cells[order]
    there = np.zeros(TABLE, dtype=bool)
    there[kept & MASK] = True
    met, many = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for hashes, numbers in large.hashes(column, *span) if len(kept) else ():
        some = np.flatnonzero(there[hashes & MASK])
        at = np.minimum(np.searchsorted(kept, hashes[some]), len(kept) - 1)
        some = some[kept[at] == hashes[some]]
        met.append(hashes[some])
        many.append(numbers[some])
    shared = np.unique(np.concatenate(met))
    if not len(shared):
        return cells[:0], many[0]
    mine = shared[np.minimum(np.searchsorted(shared, kept), len(shared) - 1)] == kept
    return cells[mine], np.concatenate(many)


def _few_genes(cells: Cells, numbers: Numbers) -> npt.NDArray[np.bool_]:
    """Return which cells have counts in too few genes to be told apart."""
    parts = [cells.read(numbers[start : start + READ]).nnz for start in range(0, len(numbers), READ)]
    return np.concatenate([np.zeros(0, np.int64), *parts]) < identity.MIN_GENES


def _leak(sides: tuple[_Side, _Side], kind: str, one: Numbers, two: Numbers, column: str) -> list[Leak]:
    """Return the leak of cells whose hash is the same, if there are any."""
    if not len(two):
        return []
    first, second = (side.cells for side in sides)
    hashes = first.codes(column, one)
    order = np.argsort(hashes, kind="stable")
    shown = two[:_SHOWN]
    partners = one[order[np.searchsorted(hashes[order], second.codes(column, shown))]]
    examples = tuple(zip(partners.tolist(), shown.tolist(), strict=True))
    datasets, donors = (
        np.bincount(second.codes(name, two), minlength=len(second.about["vocabulary"][name]))
        for name in ("dataset", "donor")
    )
    names = _Tally(datasets, donors, int(two[0])).names(second)
    return [Leak(kind, (len(one), len(two)), *names, examples)]


def _donor_leaks(sides: tuple[_Side, _Side]) -> list[Leak]:
    """Return the leaks of donors of the same name; a name holds the dataset, so that no two donors share one."""
    names = [_names_of_donors(side) for side in sides]
    there = [set().union(*some.values()) for some in names]
    shared = there[0] & there[1]
    unknown = {word for word in shared if word.endswith("/unknown")}
    kinds = {"donor": shared - unknown, "unknown donor": unknown}
    return [_donor_leak(sides, kind, some, names) for kind, some in kinds.items() if some]


def _names_of_donors(side: _Side) -> dict[int, set[str]]:
    """Return what the donors of the selected cells are called, by code: within each dataset that has cells of them.

    A person in several datasets of a file is one donor there, and one of each dataset in a store.
    """
    words = side.cells.about["vocabulary"]
    n, pairs = max(len(words["dataset"]), 1), set()
    for block in side.blocks():
        owners = side.cells.codes("donor", block).astype(np.int64) * n + side.cells.codes("dataset", block)
        pairs.update(np.unique(owners).tolist())
    found: dict[int, set[str]] = {}
    for donor, dataset in (divmod(one, n) for one in pairs):
        word, own = words["donor"][donor], f"{words['dataset'][dataset]}/"
        names = found.setdefault(donor, {word})
        if not word.startswith(own):
            home = max((one for one in words["dataset"] if word.startswith(f"{one}/")), key=len, default="")
            names.add(own + (word[len(home) + 1 :] if home else word))
    return found


def _donor_leak(sides: tuple[_Side, _Side], kind: str, shared: set[str], names: Sequence[dict[int, set[str]]]) -> Leak:
    def called(place: int, wanted: set[str]) -> _Tally:
        fit = np.zeros(len(sides[place].cells.about["vocabulary"]["donor"]), dtype=bool)
        fit[[code for code, some in names[place].items() if some & wanted]] = True
        return _Tally.of(sides[place], fit)

    one, two = called(0, shared), called(1, shared)
    example = int(sides[1].cells.codes("donor", np.array([two.first]))[0])
    partner = called(0, names[1][example] & shared)
    cells = int(one.donors.sum()), int(two.donors.sum())
    return Leak(kind, cells, *two.names(sides[1].cells), ((partner.first, two.first),))


@dataclass(frozen=True, eq=False)
class _Tally:
    """How many cells each dataset and donor has among some."""

    datasets: Numbers
    """Cells by code."""
    donors: Numbers
    """Cells by code."""
    first: int
    """The first of the cells; -1 if there are none."""

    @classmethod
    def of(cls, side: _Side, wanted: npt.NDArray[np.bool_]) -> _Tally:
        """Count the selected cells whose donor is wanted."""
        words = side.cells.about["vocabulary"]
        datasets, donors = (np.zeros(len(words[name]), np.int64) for name in ("dataset", "donor"))
        first = -1
        for block in side.blocks():
            cells = block[wanted[side.cells.codes("donor", block)]]
            first = int(cells[0]) if first < 0 and len(cells) else first
            datasets += np.bincount(side.cells.codes("dataset", cells), minlength=len(datasets))
            donors += np.bincount(side.cells.codes("donor", cells), minlength=len(donors))
        return cls(datasets, donors, first)

    def names(self, cells: Cells) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the names of the datasets and of the donors, the commonest first."""
        words = cells.about["vocabulary"]
        sizes = {"dataset": self.datasets, "donor": self.donors}
        datasets, donors = (
            tuple(words[name][code] for code in np.argsort(-size, kind="stable") if size[code])
            for name, size in sizes.items()
        )
        return datasets, donors


def _some(names: Sequence[str]) -> str:
    """Return the first few names and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
