"""Random numbers by position: word k of a stream is a pure function of (key, lane, k), so nothing is ever skipped.

The generator is SplitMix64 (Steele, Lea, Flood 2014, doi:10.1145/2660193.2660195): a Weyl sequence through a mixing
function, hence counter-based by construction. `permute` is a keyed bijection of 0..n-1 in constant memory. sampler.py
draws with these; nothing here knows a cell.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
GAMMA = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd
ROUNDS = 6
"""Feistel rounds of `permute`; with four, neighbours of small domains still show."""


def make_key(*parts: object) -> int:
    """Return a 64-bit key from texts and numbers, the same on every machine.

    Examples
    --------
    >>> make_key("release", 1) == make_key("release", 1) != make_key("release", 2)
    True
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _mix(words: Words) -> Words:
    """Return SplitMix64's finaliser of each word; changes its argument."""
    words ^= words >> np.uint64(30)
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words


def random_words(key: int, lane: int, positions: Words) -> Words:
    """Return one 64-bit word per position.

    Parameters
    ----------
    key
        Stream, from `make_key`.
    lane
        Which of the independent words of a position, from 0.
    positions
        uint64, any order, repeated or not.
    """
    # Arrays of one, not scalars: numpy warns of overflow, which is meant here, for scalars only.
    seed = _mix(np.array([key], dtype=np.uint64) + GAMMA)
    seed = _mix(seed ^ (np.array([lane], dtype=np.uint64) * GAMMA))
    return _mix((positions + np.uint64(1)) * GAMMA + seed)


def random_units(key: int, lane: int, positions: Words) -> npt.NDArray[np.float64]:
    """Return one number in [0, 1) per position, a multiple of 2^-53."""
    return (random_words(key, lane, positions) >> np.uint64(11)) * 2.0**-53


def permute(key: int, index: Words, sizes: Words, tweak: Words | None = None) -> Words:
    """Return where a keyed permutation of 0..size-1 sends each index; every size has its own.

    A Feistel network over the rectangle a x b that just holds `size` points, walked until it lands inside.

    Parameters
    ----------
    key
        Of the permutations.
    index
        uint64, each below its size.
    sizes
        uint64 sizes, one per index.
    tweak
        uint64 per index; different tweaks give different permutations of the same size.

    Returns
    -------
    uint64 array.
    """
    columns = np.ceil(np.sqrt(sizes.astype(np.float64))).astype(np.uint64)
    rows = (sizes + columns - np.uint64(1)) // columns
    salt = np.zeros_like(index) if tweak is None else _mix(tweak * GAMMA)
    out = index.copy()
    open_ = np.arange(len(index))
    while len(open_):
        a, b, salts = rows[open_], columns[open_], salt[open_]
        high, low = np.divmod(out[open_], b)
        for turn in range(0, ROUNDS, 2):
            high = (high + (random_words(key, turn, low ^ salts) >> np.uint64(20))) % a
            low = (low + (random_words(key, turn + 1, high ^ salts) >> np.uint64(20))) % b
        out[open_] = high * b + low
        open_ = open_[out[open_] >= sizes[open_]]
    return out
