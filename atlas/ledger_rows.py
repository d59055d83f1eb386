"""The tables of the ledger, and what a row of each says; `ledger` reads and writes them, others are handed rows.

`dataset` and `result` are what is held now. A row of `former` is what `dataset` said until `replaced_ms`: of a dataset
that was taken out, with the reason, or of one whose cells moved up when another was. So an earlier moment can be read
as it was. `upkeep` has the moments at which the same was written another way, by a consolidation.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from .contexts import MAKE_ROOM

TABLES = """
CREATE TABLE IF NOT EXISTS dataset (
    dataset_id TEXT PRIMARY KEY, dataset_joinid INTEGER NOT NULL UNIQUE, organism TEXT NOT NULL,
    first_joinid INTEGER NOT NULL, n_cells INTEGER NOT NULL,
    input_sha256 TEXT NOT NULL, content_sha256 TEXT NOT NULL, declaration TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('reserved', 'published')), published_ms INTEGER,
    CHECK ((state = 'published') = (published_ms IS NOT NULL))
) STRICT;
CREATE TABLE IF NOT EXISTS former (
    dataset_id TEXT NOT NULL, dataset_joinid INTEGER NOT NULL, organism TEXT NOT NULL,
    first_joinid INTEGER NOT NULL, n_cells INTEGER NOT NULL,
    input_sha256 TEXT NOT NULL, content_sha256 TEXT NOT NULL, declaration TEXT NOT NULL,
    state TEXT NOT NULL, published_ms INTEGER NOT NULL, replaced_ms INTEGER NOT NULL, reason TEXT,
    PRIMARY KEY (dataset_id, published_ms)
) STRICT;
CREATE TABLE IF NOT EXISTS receipt (
    id INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, source_id TEXT NOT NULL, organism TEXT NOT NULL,
    status TEXT NOT NULL, dataset_id TEXT, body TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS result (
    key TEXT NOT NULL, organism TEXT NOT NULL, member TEXT NOT NULL, cells INTEGER NOT NULL, sha256 TEXT NOT NULL,
    about TEXT NOT NULL, published_ms INTEGER NOT NULL, replaced_ms INTEGER,
    PRIMARY KEY (key, organism, published_ms)
) STRICT;
CREATE TABLE IF NOT EXISTS upkeep (published_ms INTEGER PRIMARY KEY) STRICT;
CREATE TABLE IF NOT EXISTS atlas (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
"""


@dataclass(frozen=True)
class DatasetRow:
    """What the ledger knows of one dataset."""

    dataset_id: str
    """Identity of the dataset."""
    dataset_joinid: int
    """Its row in census_info/datasets and in the presence matrices."""
    organism: str
    """Experiment name, e.g. `homo_sapiens`."""
    first_joinid: int
    """First soma_joinid of its cells."""
    n_cells: int
    """Cells; they own the joinids from `first_joinid` on."""
    input_sha256: str
    """Digest of the input's bytes."""
    content_sha256: str
    """Digest of the input's logical content."""
    declaration: str
    """Digest of what the manifest said about it: matrix, columns, constants."""
    state: str
    """`reserved` or `published`."""
    published_ms: int | None
    """Timestamp at which the store first holds it whole, and from this joinid on, in milliseconds since 1970."""


@dataclass(frozen=True)
class RetractedRow:
    """What the ledger knows of a dataset that was taken out; at an earlier moment it is there."""

    dataset_id: str
    """Identity of the dataset."""
    organism: str
    """Experiment name."""
    n_cells: int
    """Cells it had."""
    content_sha256: str
    """Digest of its logical content."""
    declaration: str
    """Digest of what the manifest said about it."""
    retracted_ms: int
    """First timestamp at which it is not there."""
    reason: str
    """Why, in the words of who did it."""


@dataclass(frozen=True)
class ResultRow:
    """What the ledger knows of one result of a model; `model_results` writes them."""

    key: str
    """`<kind>/<release>/<model hash>/<population>`."""
    organism: str
    """Experiment name."""
    member: str
    """Where it is in the Experiment, e.g. `ms/RNA/obsm/embedding~~human-v1~~0a1b2c3d4e5f~~all`."""
    cells: int
    """Cells it has rows of."""
    sha256: str
    """Digest of its rows."""
    about: str
    """Command, model, options and versions, as JSON."""
    published_ms: int
    """Timestamp at which the store first holds it whole."""
    replaced_ms: int | None = None
    """Timestamp from which on another of the same key is held in its place."""


def nothing_yet() -> sqlite3.Connection:
    """Return a ledger in memory in which nothing is."""
    database = sqlite3.connect(":memory:", isolation_level=None)
    database.executescript(TABLES)
    return database


def with_remedy(exc: sqlite3.OperationalError) -> str:
    """Return what SQLite says of a file that it cannot write, and what to do."""
    if exc.sqlite_errorcode == sqlite3.SQLITE_FULL:
        return f"{exc}; {MAKE_ROOM}"
    return f"{exc}; make the folder writable, or only read the atlas"
