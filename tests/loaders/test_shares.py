"""Rounds: every rank as many batches, every position one reader, from anywhere in an epoch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loaders import LoaderInputError
from loaders.shares import Shares

NUMBERS = st.tuples(st.integers(0, 90), st.integers(1, 9), st.integers(1, 6), st.integers(0, 30))


def spans(shares: Shares) -> list[tuple[int, int]]:
    return [shares.span(number, rank) for number in range(len(shares)) for rank in range(shares.ranks)]


@given(NUMBERS)
def test_training_reads_whole_rounds_and_nothing_twice(numbers: tuple[int, int, int, int]) -> None:
    positions, size, ranks, first = numbers
    shares = Shares(positions, size, ranks, first)
    whole = max(0, positions - first) // (size * ranks)
    assert spans(shares) == [(first + n * size, first + (n + 1) * size) for n in range(whole * ranks)]


@given(NUMBERS)
def test_evaluation_reads_every_position_once(numbers: tuple[int, int, int, int]) -> None:
    positions, size, ranks, first = numbers
    if 0 < positions - first < ranks:
        with pytest.raises(LoaderInputError, match="at most one per cell"):
            Shares(positions, size, ranks, first, whole=False)
        return
    found = spans(Shares(positions, size, ranks, first, whole=False))
    assert [p for span in found for p in range(*span)] == list(range(first, positions))
    assert all(0 < end - start <= size + 1 for start, end in found)
    in_full = (positions - first) // (size * ranks) * ranks
    assert all(end - start == size for start, end in found[: in_full - ranks]), "batches are what they are for one rank"


@given(NUMBERS, st.integers(0, 20), st.integers(1, 6), st.booleans())
def test_what_is_left_is_the_same_for_any_number_of_ranks(
    numbers: tuple[int, int, int, int], done: int, ranks: int, whole: bool
) -> None:
    positions, size, before, _ = numbers
    if not whole and positions < max(before, ranks):
        return
    one = Shares(positions, size, before, whole=whole)
    done = min(done, len(one))
    rest = Shares(positions, size, 1, one.after(done))
    expected = spans(one)[done * before :]
    again = spans(rest)
    common = min(len(again), len(expected))
    if whole:
        assert again[:common] == expected[:common]
    assert one.after(len(one)) == positions
    assert one.after(done) == (positions if done == len(one) else done * size * before)


@pytest.mark.parametrize(("field", "value"), [("size", 0), ("ranks", 0), ("first", -1)])
def test_what_cannot_be_shared_is_said(field: str, value: int) -> None:
    with pytest.raises(LoaderInputError, match=field):
        Shares(**{"positions": 10, "size": 2, field: value})
