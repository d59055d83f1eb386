"""What lies above what in an ontology, as numbers: `Closure`, three arrays instead of a dictionary per term.

Terms are positions 0, 1, ... in their release. Closures come from stated ancestors (the guide's assets) or from parents
(files); a cycle cannot be entered, its closing steps are dropped and named. terms.py puts ids in the place of
positions, term_table.py keeps the arrays in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from .errors import OntologyInputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

PAIR_LIMIT = 30_000_000
"""Most (term, ancestor) pairs of one ontology: 38 times the largest pinned one (FBbt), 180 MB."""


@dataclass(frozen=True, eq=False)
class Closure:
    """Every ancestor of every term with its distance, compressed by rows.

    Examples
    --------
    >>> made, dropped = closure_from_parents([[], [0], [1], [0, 2]])
    >>> made.row(3)
    (array([0, 2, 1], dtype=int32), array([1, 1, 2], dtype=uint16))
    >>> made.depth.tolist()
    [0, 1, 2, 1]
    """

    starts: np.ndarray
    """int64 [term + 1]: row i is `above[starts[i]:starts[i + 1]]`."""
    above: np.ndarray
    """int32 [pair]: positions of ancestors, the nearest first, then by position."""
    steps: np.ndarray
    """uint16 [pair]: distance of each in steps, 1 or more."""

    def row(self, term: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a term's ancestors and their distances."""
        here = slice(int(self.starts[term]), int(self.starts[term + 1]))
        return self.above[here], self.steps[here]

    def row_with_self(self, term: int) -> dict[int, int]:
        """Return the distance of each ancestor by position, the term itself at 0 and first."""
        above, steps = self.row(term)
        return {term: 0, **dict(zip(above.tolist(), steps.tolist(), strict=True))}

    def below(self, term: int) -> np.ndarray:
        """Return the positions of a term's descendants, ascending."""
        starts, terms, _ = self._transposed
        return terms[starts[term] : starts[term + 1]]

    def children(self, term: int) -> np.ndarray:
        """Return the positions of the descendants at distance 1, ascending."""
        starts, terms, steps = self._transposed
        here = slice(int(starts[term]), int(starts[term + 1]))
        return terms[here][steps[here] == 1]

    @cached_property
    def depth(self) -> np.ndarray:
        """Return per term the steps to its nearest root, int32; 0 for what has no ancestor."""
        is_root = np.diff(self.starts) == 0
        depth = np.where(is_root, 0, np.iinfo(np.int32).max).astype(np.int32)
        to_root = is_root[self.above]
        np.minimum.at(depth, self._rows[to_root], self.steps[to_root].astype(np.int32))
        return depth

    @property
    def nbytes(self) -> int:
        """Return the bytes of the three arrays."""
        return int(self.starts.nbytes + self.above.nbytes + self.steps.nbytes)

    @property
    def _rows(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.starts) - 1, dtype=np.int32), np.diff(self.starts))

    @cached_property
    def _transposed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        order = np.argsort(self.above, kind="stable")
        counts = np.bincount(self.above, minlength=len(self.starts) - 1)
        return np.concatenate(([0], np.cumsum(counts))), self._rows[order], self.steps[order]


def closure_from_ancestors(rows: Iterable[Mapping[int, int]]) -> Closure:
    """Return the closure of stated ancestors: per term a mapping from position to distance.

    A term that is named as its own ancestor loses that pair: nothing lies above itself.
    """
    found = []
    for term, row in enumerate(rows):
        ranked = sorted((steps, above) for above, steps in row.items() if above != term)
        found.append((np.array([a for _, a in ranked], np.int32), np.array([s for s, _ in ranked], np.uint16)))
    return _packed(found)


def closure_from_parents(parents: Sequence[Sequence[int]]) -> tuple[Closure, tuple[tuple[int, int], ...]]:
    """Return the closure of parents, and the (child, parent) steps dropped because they close a cycle.

    Distances are shortest. Which step of a cycle is dropped depends on the order of terms and parents alone.

    Raises
    ------
    OntologyInputError
        When there are more than `PAIR_LIMIT` pairs: a chain of thousands of terms, which no real ontology has.
    """
    order, dropped = _sorted_upwards(parents)
    barred = frozenset(dropped)
    rows: list[tuple[np.ndarray, np.ndarray]] = [(np.empty(0, np.int32), np.empty(0, np.uint16))] * len(parents)
    pairs = 0
    for term in order:
        found: dict[int, int] = {}
        for parent in parents[term]:
            if (term, parent) in barred:
                continue
            found[parent] = 1
            for above, steps in zip(rows[parent][0].tolist(), rows[parent][1].tolist(), strict=True):
                found[above] = min(steps + 1, found.get(above, steps + 1))
        pairs += len(found)
        if pairs > PAIR_LIMIT:
            raise OntologyInputError("ontology", "this depth", f"at most {PAIR_LIMIT:,} ancestors in all; read a part")
        ranked = sorted((steps, above) for above, steps in found.items())
        rows[term] = (np.array([a for _, a in ranked], np.int32), np.array([s for s, _ in ranked], np.uint16))
    return _packed(rows), dropped


def _packed(rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> Closure:
    starts = np.concatenate(([0], np.cumsum([len(above) for above, _ in rows], dtype=np.int64))).astype(np.int64)
    above = np.concatenate([a for a, _ in rows]) if rows else np.empty(0, np.int32)
    steps = np.concatenate([s for _, s in rows]) if rows else np.empty(0, np.uint16)
    return Closure(starts, above, steps)


def _sorted_upwards(parents: Sequence[Sequence[int]]) -> tuple[list[int], tuple[tuple[int, int], ...]]:
    """Return the terms with every parent before its children, and the steps that close a cycle.

    Depth first without recursion, so that a chain of any length fits: a step to a term still on the path is dropped.
    """
    new, open_, done = 0, 1, 2
    state = bytearray(len(parents))
    order: list[int] = []
    dropped: list[tuple[int, int]] = []
    for root in range(len(parents)):
        if state[root] != new:
            continue
        state[root] = open_
        path = [(root, iter(parents[root]))]
        while path:
            term, rest = path[-1]
            parent = next(rest, None)
            if parent is None:
                state[term] = done
                order.append(term)
                path.pop()
            elif state[parent] == open_:
                dropped.append((term, parent))
            elif state[parent] == new:
                state[parent] = open_
                path.append((parent, iter(parents[parent])))
    return order, tuple(dropped)
