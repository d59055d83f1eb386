"""Compiled loops of collation: records in, contexts out, a whole batch in one call and one thread.

collate.py imports this file, and numba with it, when the first batch is made. A kernel reads the bytes of a record
(records.py) where they lie: there is no sparse matrix in between, and nothing is as long as the gene axis but a few
reused arrays. Types are fixed, so that there is one compilation, kept on disk. device.py makes the same choices with
torch; both draw the words of counters.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numba
import numpy as np

from .choices import GENES
from .records import HIGH, LARGE

if TYPE_CHECKING:
    import numpy.typing as npt

    from .record_kernels import Views

    Array = npt.NDArray[Any]

# numba compiles anew for each plain number it knows, but once for a typed one.
START = np.int64(0)
RANDOM_EXPRESSED, MOST_EXPRESSED, LISTED = np.int64(0), np.int64(1), np.int64(2)
GENE, ZERO, HOW_MANY, WHICH = np.int64(0), np.int64(1), np.int64(2), np.int64(3)
"""Lanes of a cell's random numbers: a word per gene, per draw of a zero, of the neighbours' number, per neighbour."""

_GAMMA, _ONE = np.uint64(0x9E3779B97F4A7C15), np.uint64(1)
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S8, _S18, _S27, _S30, _S31, _S46, _S56 = (np.uint64(bits) for bits in (8, 18, 27, 30, 31, 46, 56))
_NONE, _BYTE, _LAST = np.uint64(0), np.uint64(0xFF), np.uint64(0xFFFFFFFFFFFFFFFF)
_jit = numba.njit(cache=True, nogil=True, error_model="numpy")


class Contexts(NamedTuple):
    """What is wanted of each cell; cell b is record b and gets offsets[b]:offsets[b + 1] of the output."""

    keys: Array
    """uint64 [B]: key of the cell's draws."""
    offsets: Array
    """int64 [B + 1]"""
    most: Array
    """int64 [B]: expressed genes at most, before others are drawn from all."""
    organisms: Array
    """int64 [B]: row of `Tables.tokens`."""
    first: Array
    """int64 [B]: where the cell's choice of genes begins in `Tables.pool`."""
    sizes: Array
    """int64 [B]: how many genes that are."""
    neighbours: Array
    """int64 [B, K]: record of each neighbour, -1 for none."""


class Tables(NamedTuple):
    """What stays from batch to batch."""

    tokens: Array
    """int32 [organisms, GENES]: token of each gene, -1 where the vocabulary has none."""
    pool: Array
    """int32: genes that may be drawn, set after set (choices.py)."""


class Scratch(NamedTuple):
    """Reused for every cell: as long as the gene axis, but a cell touches only what it has, and leaves it clean."""

    slots: Array
    """uint32: 1 + place of a gene in the context; 0 for all outside it, and for all between cells."""
    sums: Array
    """int32: a gene's counts over all neighbours; 0 between cells."""
    context: Array
    """int32: genes of the context, by place."""
    counts: Array
    """int32: counts of the context, by place."""
    words: Array
    """uint64: random words of candidates."""
    room: Array
    """uint64: words that are still in question."""
    bins: Array
    """int64 [1024]: how many words have a byte."""


class Output(NamedTuple):
    """Where the batch goes: fields of CellBatch, the counts flat and with one element ahead (`_place`)."""

    genes: Array
    counts: Array
    neighbour_counts: Array


def make_scratch() -> Scratch:
    """Return scratch for one thread; the system gives it memory where it is touched."""
    types = (np.uint32, np.int32, np.int32, np.int32, np.uint64, np.uint64)
    return Scratch(*(np.zeros(GENES + 1, dtype=t) for t in types), np.zeros(1024, dtype=np.int64))


@_jit
def _mix(word: np.uint64) -> np.uint64:
    """Return SplitMix64's finaliser, as counters.py has it."""
    word = (word ^ (word >> _S30)) * _M1
    word = (word ^ (word >> _S27)) * _M2
    return word ^ (word >> _S31)


@_jit
def seed_of(key: np.uint64, lane: int) -> np.uint64:
    """Return where the words of a lane begin."""
    return _mix(_mix(key + _GAMMA) ^ (np.uint64(lane) * _GAMMA))


@_jit
def word_of(seed: np.uint64, index: int) -> np.uint64:
    """Return word `index` of a lane: `counters.random_words(key, lane, index)`."""
    return _mix((np.uint64(index) + _ONE) * _GAMMA + seed)


@_jit
def words_of(keys: Array, lane: int, n: int) -> Array:
    """Return the first n words of a lane for each key, uint64 [keys, n]."""
    words = np.empty((len(keys), n), np.uint64)
    for i in range(len(keys)):
        seed = seed_of(keys[i], lane)
        for j in range(n):
            words[i, j] = word_of(seed, j)
    return words


@_jit
def find_damaged(records: Views) -> int:
    """Return the first record that is not whole, or -1: what the other kernels index by is proved here."""
    for record in range(len(records.nnz)):
        n, start, large = records.nnz[record], records.starts[record], records.large[record]
        if n < 0 or start < 0 or large < 0 or large > n or not 0 <= records.low[record] <= n:
            return record
        pair = (start + 3 * n + 3) >> 2
        if pair + 2 * large > len(records.pairs):
            return record
        found = START
        for count in records.data[start + 2 * n : start + 3 * n]:
            found += count == LARGE
        if found != large:
            return record
        for i in range(pair, pair + 2 * records.large[record], 2):
            if records.pairs[i] >= n:
                return record
    return -1


@_jit
def count_known(records: Views, organisms: Array, tokens: Array) -> Array:
    """Return how many genes of each of the first records the vocabulary knows, int64 [B]."""
    known = np.zeros(len(organisms), np.int64)
    for cell in range(len(organisms)):
        mine = tokens[organisms[cell]]
        base = records.starts[cell] >> 1
        for i in range(records.nnz[cell]):
            known[cell] += mine[records.words[base + i] + HIGH * (i >= records.low[cell])] >= 0
    return known


@_jit
def collate_records(
    records: Views, contexts: Contexts, tables: Tables, scratch: Scratch, out: Output, how: int, around: bool
) -> None:
    """Fill a batch.

    Parameters
    ----------
    records
        Of the cells, then of their neighbours.
    contexts, tables, out
        What is wanted; what is filled.
    scratch
        Of this thread, from `make_scratch`.
    how
        RANDOM_EXPRESSED, MOST_EXPRESSED or LISTED.
    around
        Fill up with the genes most expressed in the neighbours before drawing others.
    """
    slots, context = scratch.slots, scratch.context
    for cell in range(len(contexts.keys)):
        first = contexts.offsets[cell]
        size = contexts.offsets[cell + 1] - first
        tokens = tables.tokens[contexts.organisms[cell]]
        choice = tables.pool[contexts.first[cell] : contexts.first[cell] + contexts.sizes[cell]]
        key = contexts.keys[cell]
        if how == LISTED:
            for i in range(size):
                context[i] = choice[i]
            _enter(scratch, START, size)
        else:
            filled = _choose_expressed(records, cell, tokens, scratch, contexts.most[cell], how, seed_of(key, GENE))
            if around and filled < size:
                filled = _choose_around(records, contexts.neighbours[cell], tokens, scratch, filled, size, key)
            if filled < size:
                _choose_zeros(choice, scratch, filled, size, seed_of(key, ZERO))
        if how == LISTED or contexts.most[cell] < size:  # what was drawn from all may be expressed
            _place(records, cell, slots, out.counts, first, size)
        else:
            out.counts[first + 1 : first + 1 + size] = scratch.counts[:size]
        for i in range(size):
            out.genes[first + i] = tokens[context[i]]
        for k in range(contexts.neighbours.shape[1]):
            _place(records, contexts.neighbours[cell, k], slots, out.neighbour_counts, k * len(out.genes) + first, size)
        for i in range(size):
            slots[context[i]] = 0


@_jit
def _enter(scratch: Scratch, first: int, last: int) -> None:
    """Give the genes at these places of the context their slots."""
    for i in range(first, last):
        scratch.slots[scratch.context[i]] = i + 1


@_jit
def _place(records: Views, record: int, slots: Array, out: Array, first: int, size: int) -> None:
    """Lay a record's counts on the slots of a context, behind out[first]; record -1 has none.

    What is outside it goes to slot 0 without a question asked: the element ahead, which is put back.
    """
    row = out[first : first + size + 1]
    row[1:] = 0
    if record < 0:
        return
    kept = row[0]
    n, low, start = records.nnz[record], records.low[record], records.starts[record]
    genes = records.words[start >> 1 : (start >> 1) + n]
    counts = records.data[start + 2 * n : start + 3 * n]
    for i in range(low):
        row[slots[genes[i]]] = counts[i]
    for i in range(low, n):
        row[slots[genes[i] + HIGH]] = counts[i]
    pair = (start + 3 * n + 3) >> 2
    for i in range(pair, pair + 2 * records.large[record], 2):
        at = records.pairs[i]
        row[slots[genes[at] + HIGH * (at >= low)]] = records.pairs[i + 1]
    row[0] = kept


@_jit
def _read(records: Views, record: int, genes: Array, counts: Array) -> int:
    """Decode a record and return how many genes it has."""
    n, low, start = records.nnz[record], records.low[record], records.starts[record]
    words = records.words[start >> 1 : (start >> 1) + n]
    small = records.data[start + 2 * n : start + 3 * n]
    for i in range(n):
        genes[i] = words[i]
        counts[i] = small[i]
    for i in range(low, n):
        genes[i] += HIGH
    pair = (start + 3 * n + 3) >> 2
    for i in range(pair, pair + 2 * records.large[record], 2):
        counts[records.pairs[i]] = records.pairs[i + 1]
    return n


@_jit
def _choose_expressed(
    records: Views, cell: int, tokens: Array, scratch: Scratch, size: int, how: int, seed: np.uint64
) -> int:
    """Enter the cell's expressed genes, or `size` of them, and return how many there are."""
    genes, counts = scratch.context, scratch.counts
    found = START
    for i in range(_read(records, cell, genes, counts)):
        known = tokens[genes[i]] >= 0
        genes[found], counts[found] = genes[i], counts[i]
        found += known
    if found > size:
        found = _keep(genes, counts, found, size, how, seed, scratch)
    _enter(scratch, START, found)
    return found


@_jit
def _keep(genes: Array, counts: Array, n: int, size: int, how: int, seed: np.uint64, scratch: Scratch) -> int:
    """Leave `size` of n candidates, in their order: the smallest words, or the highest counts and then those."""
    words, level = scratch.words, START
    if how == MOST_EXPRESSED:
        level = _highest(counts, n, size, scratch)
    for i in range(n):
        words[i] = word_of(seed, np.int64(genes[i]))
    if how == MOST_EXPRESSED:
        for i in range(n):  # what ties at the level is left to its word
            words[i] = _NONE if counts[i] > level else (words[i] if counts[i] == level else _LAST)
    limit = _smallest(scratch, n, size)
    found = START
    for i in range(n):
        genes[found], counts[found] = genes[i], counts[i]
        found += words[i] <= limit
    return found if found < size else size


@_jit
def _smallest(scratch: Scratch, n: int, rank: int) -> np.uint64:
    """Return the word that `rank` of n do not exceed, byte by byte; the first leaves few of words that are random."""
    room, bins, shift = scratch.room, scratch.bins, _S56
    for i in range(n):
        room[i] = scratch.words[i]
    while n > 1:
        for i in range(256):
            bins[i] = 0
        for i in range(n):
            bins[(room[i] >> shift) & _BYTE] += 1
        bucket = START
        while bins[bucket] < rank:
            rank -= bins[bucket]
            bucket += 1
        found = START
        for i in range(n):
            room[found] = room[i]
            found += ((room[i] >> shift) & _BYTE) == np.uint64(bucket)
        n = found if shift else np.int64(1)  # after the last byte, what is left is alike
        shift -= _S8
    return room[0]


@_jit
def _highest(counts: Array, n: int, rank: int, scratch: Scratch) -> int:
    """Return the count that `rank` of n reach."""
    bins = scratch.bins
    for i in range(len(bins)):
        bins[i] = 0
    for i in range(n):  # every fourth to a bin of its own: most counts are 1, and would wait for each other
        bins[4 * (counts[i] if counts[i] < LARGE else LARGE) + (i & 3)] += 1
    for count in range(LARGE, 0, -1):
        here = bins[4 * count] + bins[4 * count + 1] + bins[4 * count + 2] + bins[4 * count + 3]
        if here >= rank and count < LARGE:
            return count
        if here >= rank:
            break
        rank -= here
    found = START
    for i in range(n):
        scratch.words[found] = _LAST - np.uint64(counts[i])
        found += counts[i] >= LARGE
    return np.int64(_LAST - _smallest(scratch, found, rank))


@_jit
def _choose_around(
    records: Views, neighbours: Array, tokens: Array, scratch: Scratch, filled: int, size: int, key: np.uint64
) -> int:
    """Enter genes that the neighbours express and the cell does not, the most expressed; return what is filled."""
    slots, sums, genes, counts = scratch.slots, scratch.sums, scratch.context[filled:], scratch.counts[filled:]
    found = START
    for record in neighbours:
        if record < 0:
            continue
        n, low, start = records.nnz[record], records.low[record], records.starts[record]
        at = (start + 3 * n + 3) >> 2
        for i in range(n):
            gene = records.words[(start >> 1) + i] + HIGH * (i >= low)
            count = np.int32(records.data[start + 2 * n + i])
            if count == LARGE:
                count = np.int32(records.pairs[at + 1])
                at += 2
            new = (tokens[gene] >= 0) & (slots[gene] == 0)  # branches here would be guessed wrong half the time
            genes[found] = gene
            found += new & (sums[gene] == 0)
            sums[gene] += count * new
    for i in range(found):
        counts[i] = sums[genes[i]]
        sums[genes[i]] = 0
    if found > size - filled:
        found = _keep(genes, counts, found, size - filled, MOST_EXPRESSED, seed_of(key, GENE), scratch)
    for i in range(found):
        counts[i] = 0
    _enter(scratch, filled, filled + found)
    return filled + found


@_jit
def _choose_zeros(choice: Array, scratch: Scratch, filled: int, size: int, seed: np.uint64) -> None:
    """Fill the context with genes of the choice that are not in it: all in their order, or drawn one by one."""
    slots, context = scratch.slots, scratch.context
    for i in range(filled, size):
        scratch.counts[i] = 0
    if len(choice) <= size:
        for gene in choice:
            if slots[gene] == 0 and filled < size:
                context[filled] = gene
                filled += 1
                slots[gene] = filled
        return
    genes, draw, room = np.uint64(len(choice)), START, scratch.room
    while filled < size:
        draws = size - filled  # side by side, and again for those that met a gene of the context
        for i in range(draws):
            room[i] = ((word_of(seed, draw + i) >> _S18) * genes) >> _S46
        for i in range(draws):
            gene = choice[room[i]]
            if slots[gene] == 0:
                context[filled] = gene
                filled += 1
                slots[gene] = filled
        draw += draws
