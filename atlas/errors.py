"""Errors of the atlas floor: each names what was asked, what was found and who can act.

Every leaf inherits `AtlasError` and a builtin, so callers may catch either. Exit codes: docs/cli.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .findings import Finding


class AtlasError(Exception):
    """Root of everything this floor raises on purpose."""


class AtlasInputError(AtlasError, ValueError):
    """A call with an argument outside what is allowed; the caller acts (exit 2).

    Examples
    --------
    >>> raise AtlasInputError("rows", -1, "a positive integer")
    Traceback (most recent call last):
    atlas.errors.AtlasInputError: rows=-1 is not allowed; expected a positive integer
    """

    def __init__(self, field: str, got: object, allowed: str) -> None:
        super().__init__(f"{field}={got!r} is not allowed; expected {allowed}")
        self.field, self.got, self.allowed = field, got, allowed


class ContractError(AtlasError, ValueError):
    """A source that cannot be stored as it is; the curator acts (exit 3)."""

    def __init__(self, dataset: str, findings: list[Finding]) -> None:
        super().__init__(f"{dataset} was rejected: " + " | ".join(str(f) for f in findings))
        self.dataset, self.findings = dataset, tuple(findings)


class StoreError(AtlasError, RuntimeError):
    """An atlas that cannot be read or written as asked; the operator acts (exit 4).

    Examples
    --------
    >>> raise StoreError("./atlas", "open", "no atlas here; make one with panatlas ingest")
    Traceback (most recent call last):
    atlas.errors.StoreError: open of ./atlas failed: no atlas here; make one with panatlas ingest
    """

    def __init__(self, uri: str, step: str, detail: str) -> None:
        super().__init__(f"{step} of {uri} failed: {detail}")
        self.uri, self.step, self.detail = uri, step, detail


class SourceError(AtlasError, OSError):
    """A source that could not be fetched, or is not the one that was pinned; retry or repoint (exit 5).

    Examples
    --------
    >>> raise SourceError("a.h5ad", "a readable file", "nothing at that path")
    Traceback (most recent call last):
    atlas.errors.SourceError: cannot use a.h5ad: expected a readable file, got nothing at that path
    """

    def __init__(self, uri: str, expected: str, got: str) -> None:
        super().__init__(f"cannot use {uri}: expected {expected}, got {got}")
        self.uri, self.expected, self.got = uri, expected, got


class ClusterError(AtlasError, RuntimeError):
    """Workers that cannot be reached, were lost, or would work otherwise than this process; try again (exit 5).

    Examples
    --------
    >>> raise ClusterError("tcp://node1:8786", "nobody answers; start the scheduler")
    Traceback (most recent call last):
    atlas.errors.ClusterError: cannot work with tcp://node1:8786: nobody answers; start the scheduler
    """

    def __init__(self, what: str, detail: str) -> None:
        super().__init__(f"cannot work with {what}: {detail}")
        self.what, self.detail = what, detail
