"""Memory is kept inside the block where the C library can be told so; elsewhere the block runs all the same."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from atlas.allocation import reusing_memory


class Library:
    """A C library that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int]] = []

    def mallopt(self, what: int, value: int) -> int:
        self.told.append((what, value))
        return 1

    def malloc_trim(self, pad: int) -> int:
        self.told.append((0, pad))
        return 1


def test_what_is_kept_is_given_back_also_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    kept: dict[int, int] = {}

    def stopped() -> None:
        with reusing_memory():
            kept.update(library.told)
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        stopped()
    after = dict(library.told[len(kept) :])
    assert set(kept) == {-1, -3}, "how much may stay unused, and what is mapped"
    assert all(after[what] < kept[what] for what in kept)
    assert library.told[-1] == (0, 0), "the system gets all that is free"


def test_another_c_library_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    with reusing_memory():
        assert np.ones(1 << 20).sum() == 1 << 20
