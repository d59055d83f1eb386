"""Errors of the loaders: each names what was asked, what was found and who can act."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class LoaderError(Exception):
    """Root of everything this floor raises on purpose."""


class LoaderInputError(LoaderError, ValueError):
    """A call with an argument outside what is allowed; the caller acts.

    Examples
    --------
    >>> raise LoaderInputError("kind", "random", "sequential, uniform or balanced")
    Traceback (most recent call last):
    loaders.errors.LoaderInputError: kind='random' is not allowed; expected sequential, uniform or balanced
    """

    def __init__(self, field: str, got: object, allowed: str) -> None:
        super().__init__(f"{field}={got!r} is not allowed; expected {allowed}")
        self.field, self.got, self.allowed = field, got, allowed


class StateMismatchError(LoaderError, ValueError):
    """A saved position that belongs to another stream; the caller starts anew or restores the configuration.

    Examples
    --------
    >>> raise StateMismatchError("12ab", "34cd")
    Traceback (most recent call last):
    loaders.errors.StateMismatchError: the saved position is of stream 12ab, and this one is 34cd; restore the \
release, seed and sampler configuration it was saved with, or start a new stream
    """

    def __init__(self, saved: str, here: str, what: str = "stream", remedy: str = "") -> None:
        remedy = remedy or "restore the release, seed and sampler configuration it was saved with"
        super().__init__(
            f"the saved position is of {what} {saved}, and this one is {here}; {remedy}, or start a new stream"
        )
        self.saved, self.here = saved, here


class PackError(LoaderError, ValueError):
    """A pack that is damaged, incomplete or of another format; the operator copies or makes it again.

    Examples
    --------
    >>> raise PackError("pack/records/c/3", "other bytes than were packed", "copy it again, or pack again")
    Traceback (most recent call last):
    loaders.errors.PackError: pack/records/c/3: other bytes than were packed; copy it again, or pack again
    """

    def __init__(self, where: str, found: str, remedy: str) -> None:
        super().__init__(f"{where}: {found}; {remedy}")
        self.where, self.found, self.remedy = where, found, remedy


class BatchError(LoaderError, ValueError):
    """A batch whose parts contradict each other or the vocabulary; whoever made it acts.

    Examples
    --------
    >>> raise BatchError("labels", "3 columns", "one column for each of the vocabulary's 9 labels")
    Traceback (most recent call last):
    loaders.errors.BatchError: labels: 3 columns; expected one column for each of the vocabulary's 9 labels
    >>> raise BatchError("genes", "token 70000", "tokens from 0 to 61496; collate with this vocabulary", cell=2)
    Traceback (most recent call last):
    loaders.errors.BatchError: genes of cell 2 of the batch: token 70000; expected tokens from 0 to 61496; collate \
with this vocabulary
    """

    def __init__(self, field: str, found: str, expected: str, *, cell: int | None = None) -> None:
        place = field if cell is None else f"{field} of cell {cell} of the batch"
        super().__init__(f"{place}: {found}; expected {expected}")
        self.field, self.found, self.expected, self.cell = field, found, expected, cell


class VocabularyError(LoaderError, ValueError):
    """A vocabulary that is damaged, contradicts itself or cannot take what it is given; the caller acts.

    Examples
    --------
    >>> raise VocabularyError("genes of mus_musculus", "ENSMUSG00000000001 twice", "name every gene once")
    Traceback (most recent call last):
    loaders.errors.VocabularyError: vocabulary, genes of mus_musculus: ENSMUSG00000000001 twice; name every gene once
    """

    def __init__(self, where: str, found: str, remedy: str) -> None:
        super().__init__(f"vocabulary, {where}: {found}; {remedy}")
        self.where, self.found, self.remedy = where, found, remedy


class CellsError(LoaderError, ValueError):
    """Cells that cannot be loaded as they are, such as values that are no counts; their owner acts.

    Examples
    --------
    >>> raise CellsError("X", "1.386 for cell c1 and gene ACTB", "pass raw counts, such as layer='counts'")
    Traceback (most recent call last):
    loaders.errors.CellsError: X: 1.386 for cell c1 and gene ACTB; pass raw counts, such as layer='counts'
    """

    def __init__(self, where: str, found: str, remedy: str, others: Sequence[str] = ()) -> None:
        super().__init__(f"{where}: {found}; {remedy}")
        self.where, self.found, self.remedy = where, found, remedy
        self.others = tuple(others)
        """Elements of the file that might hold counts instead."""


class LeakageError(LoaderError, ValueError):
    """The same cells or donors on both sides of a split; whoever chose the sides acts.

    Examples
    --------
    >>> raise LeakageError(["2 cells have the counts of cells on the other side; take them out"])
    Traceback (most recent call last):
    loaders.errors.LeakageError: the two selections of cells overlap:
    - 2 cells have the counts of cells on the other side; take them out
    """

    def __init__(self, leaks: Sequence[object]) -> None:
        super().__init__("\n- ".join(["the two selections of cells overlap:", *map(str, leaks)]))
        self.leaks = tuple(leaks)


class WorkerError(LoaderError, RuntimeError):
    """A worker process that failed or died; its own message, or how it ended, is in here.

    Examples
    --------
    >>> raise WorkerError("worker 4711 was killed by SIGKILL; mostly because memory ran out: use fewer workers")
    Traceback (most recent call last):
    loaders.errors.WorkerError: worker 4711 was killed by SIGKILL; mostly because memory ran out: use fewer workers
    """
