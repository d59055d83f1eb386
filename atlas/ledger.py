"""The atlas' own memory: which dataset owns which joinids, what was published when, every receipt and model result.

A SQLite file beside the store (WAL, synchronous=FULL), touched by the one process that holds the writer lock.
A range is reserved here *before* anything is written and published here *after* everything is verified; the
publishing commit is the single step that makes an ingest real. `store.roll_back` undoes whatever is newer.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sqlite3
import time
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from .errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from .findings import Receipt

_TABLES = """
CREATE TABLE IF NOT EXISTS dataset (
    dataset_id TEXT PRIMARY KEY, dataset_joinid INTEGER NOT NULL UNIQUE, organism TEXT NOT NULL,
    first_joinid INTEGER NOT NULL, n_cells INTEGER NOT NULL,
    input_sha256 TEXT NOT NULL, content_sha256 TEXT NOT NULL, declaration TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('reserved', 'published')), published_ms INTEGER,
    CHECK ((state = 'published') = (published_ms IS NOT NULL))
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
    """Timestamp at which the store first holds it whole, in milliseconds since 1970."""


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


class Ledger:
    """The ledger of one atlas; open it with `Ledger(path)` and close it, or use it as a context manager.

    `Ledger.to_read(path)` opens it without writing a byte, also where the folder is read-only.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=30.0, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_TABLES)
        except sqlite3.OperationalError as exc:
            raise StoreError(
                str(path), "open ledger", f"{exc}; make the folder writable, or only read the atlas"
            ) from exc
        except sqlite3.DatabaseError as exc:
            raise StoreError(str(path), "open ledger", f"{exc}; restore it from a copy of the atlas") from exc

    @classmethod
    def to_read(cls, path: Path) -> Ledger:
        """Return the ledger opened for reading only.

        Raises
        ------
        StoreError
            If it is no ledger.
        """
        ledger = cls.__new__(cls)
        ledger.path = path
        # A WAL file needs its index beside it; where that cannot be made the folder is still, so `immutable` is true.
        for options in ("mode=ro", "mode=ro&immutable=1"):
            ledger._db = sqlite3.connect(f"{path.resolve().as_uri()}?{options}", uri=True, isolation_level=None)
            try:
                ledger._db.execute("SELECT count(*) FROM dataset")
            except sqlite3.OperationalError as exc:
                failed = exc
            except sqlite3.DatabaseError as exc:
                raise StoreError(str(path), "open ledger", f"{exc}; restore it from a copy of the atlas") from exc
            else:
                return ledger
        raise StoreError(str(path), "open ledger", f"{failed}; restore it from a copy of the atlas") from failed

    def __enter__(self) -> Ledger:
        """Return the ledger itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection; the file is safe at any moment."""
        self._db.close()

    def datasets(self, *, published: bool = True) -> list[DatasetRow]:
        """Return published (or reserved) datasets in joinid order."""
        rows = self._db.execute(
            "SELECT * FROM dataset WHERE state = ? ORDER BY dataset_joinid", ["published" if published else "reserved"]
        )
        return [DatasetRow(*row) for row in rows]

    def find(self, **identity: str) -> DatasetRow | None:
        """Return the first published dataset with all the given columns, e.g. `content_sha256=...`, or None."""
        known = {"dataset_id", "organism", "input_sha256", "content_sha256", "declaration"}
        assert identity
        assert set(identity) <= known
        where = " AND ".join(f"{column} = ?" for column in identity)
        row = self._db.execute(
            f"SELECT * FROM dataset WHERE state = 'published' AND {where} ORDER BY dataset_joinid LIMIT 1",  # noqa: S608 - columns are from the set above
            list(identity.values()),
        ).fetchone()
        return None if row is None else DatasetRow(*row)

    def results(self, at: int | None = None) -> list[ResultRow]:
        """Return the results of models that are held at a moment, None for now, by organism and key."""
        if self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'result'").fetchone() is None:
            return []  # opened for reading, and older than results
        held = "published_ms <= :at AND coalesce(replaced_ms, :at + 1) > :at"
        moment = {"at": now_ms() if at is None else at}
        rows = self._db.execute(f"SELECT * FROM result WHERE {held} ORDER BY organism, key", moment)  # noqa: S608 - a constant
        return [ResultRow(*row) for row in rows]

    def published_ms(self) -> int:
        """Return the timestamp of the newest published state, 0 for an empty atlas."""
        row = self._db.execute("SELECT value FROM atlas WHERE key = 'published_ms'").fetchone()
        return 0 if row is None else int(row[0])

    def n_cells(self, organism: str) -> int:
        """Return the published cells of `organism`, which is also its next free joinid."""
        return self._db.execute(
            "SELECT coalesce(sum(n_cells), 0) FROM dataset WHERE state = 'published' AND organism = ?", [organism]
        ).fetchone()[0]

    def reserve(
        self, dataset_id: str, organism: str, n_cells: int, *, input_sha256: str, content_sha256: str, declaration: str
    ) -> DatasetRow:
        """Reserve the next `n_cells` joinids of `organism`; durable before it returns.

        Published joinids are dense from 0, so an earlier reservation that was never published gives its range back.
        """
        with self._transaction():
            self._db.execute("DELETE FROM dataset WHERE state = 'reserved'")
            first = self.n_cells(organism)
            joinid = self._db.execute("SELECT count(*) FROM dataset").fetchone()[0]
            self._db.execute(
                "INSERT INTO dataset VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'reserved', NULL)",
                [dataset_id, joinid, organism, first, n_cells, input_sha256, content_sha256, declaration],
            )
        return next(row for row in self.datasets(published=False) if row.dataset_id == dataset_id)

    def publish(self, dataset_id: str, published_ms: int, receipt: Receipt) -> None:
        """Make the reserved dataset real and keep its receipt: one commit, after which every reader sees it whole."""
        if published_ms <= self.published_ms():
            raise StoreError(str(self.path), "publish", behind(published_ms, self.published_ms()))
        with self._transaction():
            changed = self._db.execute(
                "UPDATE dataset SET state = 'published', published_ms = ? WHERE dataset_id = ? AND state = 'reserved'",
                [published_ms, dataset_id],
            ).rowcount
            if changed != 1:
                raise StoreError(str(self.path), "publish", f"no reservation for {dataset_id}; run the ingest again")
            self._db.execute("INSERT OR REPLACE INTO atlas VALUES ('published_ms', ?)", [str(published_ms)])
            self._db.execute("DELETE FROM atlas WHERE key = 'in_flight'")
            self._keep(receipt)

    def publish_results(self, rows: Sequence[ResultRow], retired: Sequence[ResultRow] = ()) -> None:
        """Make results real, all of one moment, in place of those of the same keys and of retired ones: one commit."""
        moment = rows[0].published_ms
        if moment <= self.published_ms():
            raise StoreError(str(self.path), "publish", behind(moment, self.published_ms()))
        with self._transaction():
            for row in (*rows, *retired):
                self._db.execute(
                    "UPDATE result SET replaced_ms = ? WHERE key = ? AND organism = ? AND replaced_ms IS NULL",
                    [moment, row.key, row.organism],
                )
            for row in rows:
                self._db.execute("INSERT INTO result VALUES (?, ?, ?, ?, ?, ?, ?, ?)", list(astuple(row)))
            self._db.execute("INSERT OR REPLACE INTO atlas VALUES ('published_ms', ?)", [str(moment)])
            self._db.execute("DELETE FROM atlas WHERE key = 'in_flight'")

    @property
    def in_flight(self) -> bool:
        """True from the first write of an ingest until it is published or rolled back."""
        return self._db.execute("SELECT 1 FROM atlas WHERE key = 'in_flight'").fetchone() is not None

    def begin(self) -> None:
        """Note that the store is about to hold things that are not published; durable before it returns."""
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO atlas VALUES ('in_flight', ?)", [str(now_ms())])

    def abandon(self) -> None:
        """Note that everything unpublished is gone from the store, and give reserved joinids back."""
        with self._transaction():
            self._db.execute("DELETE FROM dataset WHERE state = 'reserved'")
            self._db.execute("DELETE FROM atlas WHERE key = 'in_flight'")

    def record(self, receipt: Receipt) -> None:
        """Keep the receipt of a source that was not written."""
        with self._transaction():
            self._keep(receipt)

    def _keep(self, receipt: Receipt) -> None:
        """Insert a receipt; part of the caller's transaction."""
        body = json.dumps(receipt.to_dict(), sort_keys=True)
        self._db.execute(
            "INSERT INTO receipt (at_ms, source_id, organism, status, dataset_id, body) VALUES (?, ?, ?, ?, ?, ?)",
            [now_ms(), receipt.source_id, receipt.organism, receipt.status, receipt.dataset_id, body],
        )

    def receipts(self) -> list[dict[str, object]]:
        """Return every receipt kept, oldest first, as plain values."""
        return [json.loads(body) for (body,) in self._db.execute("SELECT body FROM receipt ORDER BY id")]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Run a block as one durable transaction."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def now_ms() -> int:
    """Return the wall clock in milliseconds since 1970, the unit of TileDB timestamps."""
    return time.time_ns() // 1_000_000


def behind(now: int, published: int) -> str:
    """Return what is wrong, and what to do, where the clock is not past the last published moment."""
    late = (published - now) / 1000
    return f"the clock is {late:.1f} s behind the last ingest, and moments must grow; set the clock, or wait"


@contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """Hold the atlas' only writer's place; a second writer is told who holds it.

    The kernel drops the lock with the process, so a crash leaves none behind.

    Raises
    ------
    StoreError
        If another process is writing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "writer.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise StoreError(str(folder), "lock", f"{holder} is writing; wait for it and run this again") from exc
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
