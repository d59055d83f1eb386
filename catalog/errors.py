"""Errors of the front desk, and the exit code of every error the floors raise on purpose (docs/cli.md).

Every leaf inherits `CatalogError` and a builtin, so callers may catch either. `exit_code` is the one place that knows
which error means what to a shell script.
"""

from __future__ import annotations

from typing import Final

DONE: Final = 0
BUG: Final = 1
USAGE: Final = 2
REJECTED: Final = 3
STORE: Final = 4
UPSTREAM: Final = 5
INTERRUPTED: Final = 130  # 128 + SIGINT, what shells expect of a program stopped by Ctrl-C


class CatalogError(Exception):
    """Root of everything this floor raises on purpose."""


class CatalogInputError(CatalogError, ValueError):
    """A call with an argument outside what is allowed; the caller acts (exit 2).

    Examples
    --------
    >>> raise CatalogInputError("split_by", "cell", "donor or dataset")
    Traceback (most recent call last):
    catalog.errors.CatalogInputError: split_by='cell' is not allowed; expected donor or dataset
    """

    def __init__(self, field: str, got: object, allowed: str) -> None:
        super().__init__(f"{field}={got!r} is not allowed; expected {allowed}")
        self.field, self.got, self.allowed = field, got, allowed


class QueryError(CatalogError, ValueError):
    """A statement that was refused, failed, or ran out of time or memory; the caller acts (exit 2).

    Examples
    --------
    >>> raise QueryError("DROP TABLE obs", "one SELECT only", "tables are read-only")
    Traceback (most recent call last):
    catalog.errors.QueryError: cannot run 'DROP TABLE obs': one SELECT only; tables are read-only
    """

    def __init__(self, query: str, reason: str, remedy: str) -> None:
        super().__init__(f"cannot run {query[:200]!r}: {reason}; {remedy}")
        self.query, self.reason, self.remedy = query, reason, remedy


class ReleaseExistsError(CatalogError, ValueError):
    """A release name that stands for other content already; the caller picks another (exit 2).

    Examples
    --------
    >>> raise ReleaseExistsError("human-1", "split")
    Traceback (most recent call last):
    catalog.errors.ReleaseExistsError: 'human-1' exists and differs in split; releases never change, name another
    """

    def __init__(self, name: str, differs: str) -> None:
        super().__init__(f"{name!r} exists and differs in {differs}; releases never change, name another")
        self.name, self.differs = name, differs


class InstallError(CatalogError, ImportError):
    """A floor that comes from somewhere else than this installation; the installer acts (exit 2).

    Examples
    --------
    >>> raise InstallError("model", "/home/ada/model.py")
    Traceback (most recent call last):
    catalog.errors.InstallError: /home/ada/model.py takes the name 'model' of panatlas; move it, or set PYTHONSAFEPATH=1
    """

    def __init__(self, floor: str, intruder: str) -> None:
        super().__init__(f"{intruder} takes the name {floor!r} of panatlas; move it, or set PYTHONSAFEPATH=1")
        self.floor, self.intruder = floor, intruder


_CODES: Final = {
    "CatalogInputError": USAGE,
    "QueryError": USAGE,
    "ReleaseExistsError": USAGE,
    "InstallError": USAGE,
    "AtlasInputError": USAGE,
    "OntologyInputError": USAGE,
    "UnknownOrganismError": USAGE,
    "UnknownTermError": USAGE,
    "ReferenceMissingError": USAGE,
    "LoaderInputError": USAGE,
    "StateMismatchError": USAGE,
    "VocabularyError": USAGE,
    "ModelInputError": USAGE,
    "CheckpointError": USAGE,
    "ContractError": REJECTED,
    "CellsError": REJECTED,
    "LeakageError": REJECTED,
    "TrainingDivergedError": REJECTED,
    "StoreError": STORE,
    "PackError": STORE,
    "SourceError": UPSTREAM,
    "ClusterError": UPSTREAM,
    "SourceUnavailableError": UPSTREAM,
    "WeightsUnavailableError": UPSTREAM,
    "ReferenceMismatchError": UPSTREAM,
}
_FLOORS: Final = ("ontology", "atlas", "loaders", "model", "catalog")


def exit_code(error: BaseException) -> int:
    """Return the exit code of an error: 1 for one nobody raised on purpose.

    Notes
    -----
    Errors are known by floor and class name, so that telling codes apart imports no floor.
    """
    kind = type(error)
    if kind.__module__.split(".")[0] in _FLOORS:
        return next((_CODES[base.__name__] for base in kind.__mro__ if base.__name__ in _CODES), BUG)
    if kind.__module__.split(".")[0] == "tiledbsoma" or isinstance(error, OSError):
        return STORE  # disk full, permission denied, an array that cannot be opened: the operator acts
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else BUG
