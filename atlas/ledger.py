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
from dataclasses import astuple, fields
from typing import TYPE_CHECKING, Any

from .contexts import faults_told
from .errors import StoreError
from .lease import writer_lease
from .ledger_object import LedgerObject
from .ledger_rows import TABLES, DatasetRow, ResultRow, RetractedRow, nothing_yet, with_remedy
from .object_store import ObjectPlace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from .findings import Receipt


class Ledger:
    """The ledger of one atlas; open it with `Ledger(path)` and close it, or use it as a context manager.

    `Ledger.to_read(path)` opens it without writing a byte, also where the folder is read-only.
    """

    def __init__(self, path: Path | ObjectPlace) -> None:
        self.path, self._object = path, None
        if isinstance(path, ObjectPlace):
            self._object = LedgerObject(path)
            self._db = self._object.load()
            self._db.executescript(TABLES)
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=30.0, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(f"BEGIN IMMEDIATE; {TABLES} COMMIT")  # all or none
        except sqlite3.OperationalError as exc:
            raise StoreError(str(path), "open ledger", with_remedy(exc)) from exc
        except sqlite3.DatabaseError as exc:
            raise StoreError(str(path), "open ledger", f"{exc}; restore it from a copy of the atlas") from exc

    @classmethod
    def to_read(cls, path: Path | ObjectPlace) -> Ledger:
        """Return the ledger opened for reading only.

        Raises
        ------
        StoreError
            If it is no ledger.
        """
        ledger = cls.__new__(cls)
        ledger.path, ledger._object = path, None
        if isinstance(path, ObjectPlace):
            ledger._db = LedgerObject(path).load()
            if not ledger._has("dataset"):
                raise StoreError(str(path), "open ledger", "it is not there; restore it from a copy of the atlas")
            return ledger
        # A WAL file needs its index beside it; where that cannot be made the folder is still, so `immutable` is true.
        for options in ("mode=ro", "mode=ro&immutable=1"):
            ledger._db = sqlite3.connect(f"{path.resolve().as_uri()}?{options}", uri=True, isolation_level=None)
            try:
                if not ledger._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    ledger._db.close()  # whoever made the file was stopped right then
                    ledger._db = nothing_yet()
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

    def state(self, at: int | None = None) -> tuple[int, list[DatasetRow], list[ResultRow]]:
        """Return the newest published moment up to `at`, None for now, and the datasets and results that it holds.

        One reading transaction, so that what another process publishes meanwhile is in all three or in none.
        """
        now = 1 << 62 if at is None else at
        self._db.execute("BEGIN")
        try:
            moments = "SELECT published_ms AS at FROM dataset UNION ALL SELECT published_ms FROM result"
            columns = ", ".join(field.name for field in fields(DatasetRow))
            held = f"SELECT {columns} FROM dataset WHERE published_ms <= :at"  # noqa: S608 - names of the class
            if self._has("former"):
                moments += " UNION ALL SELECT published_ms FROM former UNION ALL SELECT replaced_ms FROM former"
                held += f" UNION ALL SELECT {columns} FROM former WHERE published_ms <= :at AND replaced_ms > :at"  # noqa: S608
            if self._has("upkeep"):
                moments += " UNION ALL SELECT published_ms FROM upkeep"
            if not self._has("result"):
                moments = moments.replace(" UNION ALL SELECT published_ms FROM result", "")
            newest = self._db.execute(f"SELECT max(at) FROM ({moments}) WHERE at <= ?", [now]).fetchone()[0]  # noqa: S608
            rows = self._db.execute(f"{held} ORDER BY dataset_joinid", {"at": now})
            return int(newest or 0), [DatasetRow(*row) for row in rows], self.results(at)
        finally:
            self._db.execute("COMMIT")

    def _has(self, table: str) -> bool:
        """Return whether there is a table; one opened for reading may be older than it."""
        return self._db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", [table]).fetchone() is not None

    def retracted(self) -> list[RetractedRow]:
        """Return the datasets that were taken out, oldest first; one that came back and went again is there twice."""
        if not self._has("former"):
            return []
        columns = "dataset_id, organism, n_cells, content_sha256, declaration, replaced_ms, reason"
        rows = self._db.execute(f"SELECT {columns} FROM former WHERE reason IS NOT NULL ORDER BY replaced_ms")  # noqa: S608
        return [RetractedRow(*row) for row in rows]

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
        if not self._has("result"):
            return []
        held = "published_ms <= :at AND coalesce(replaced_ms, :at + 1) > :at"
        moment = {"at": 1 << 62 if at is None else at}  # a reader's clock, which may be behind, has no say
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
            # A number that was given is not given again: at an earlier moment it is that dataset's.
            given = "SELECT dataset_joinid AS n FROM dataset UNION ALL SELECT dataset_joinid FROM former"
            joinid = self._db.execute(f"SELECT coalesce(max(n) + 1, 0) FROM ({given})").fetchone()[0]  # noqa: S608
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
            self._end_at(published_ms)
            self._keep(receipt)

    def publish_retraction(
        self,
        gone: DatasetRow,
        moved: Sequence[DatasetRow],
        results: tuple[Sequence[ResultRow], Sequence[ResultRow]],
        moment: int,
        told: tuple[str, Receipt],
    ) -> None:
        """Take a dataset out, in one commit; up to `moment` all stays as it was.

        Parameters
        ----------
        gone
            The dataset.
        moved
            Others, with the joinids they have from now on.
        results
            Results of the organism as they are from now on, and those that there are no more.
        moment
            Timestamp at which the store first is without it.
        told
            The reason, and the receipt.
        """
        if moment <= self.published_ms():
            raise StoreError(str(self.path), "publish", behind(moment, self.published_ms()))
        reason, receipt = told
        kept = "INSERT INTO former SELECT *, ?, ? FROM dataset WHERE dataset_id = ?"
        with self._transaction():
            for row in (gone, *moved):
                self._db.execute(kept, [moment, reason if row is gone else None, row.dataset_id])
            self._db.execute("DELETE FROM dataset WHERE dataset_id = ?", [gone.dataset_id])
            for row in moved:
                self._db.execute(
                    "UPDATE dataset SET first_joinid = ?, published_ms = ? WHERE dataset_id = ?",
                    [row.first_joinid, moment, row.dataset_id],
                )
            self._hold(*results, moment)
            self._end_at(moment)
            self._keep(receipt)

    def publish_upkeep(self, moment: int) -> None:
        """Make a moment the published one at which the store holds the same, written another way: one commit."""
        if moment <= self.published_ms():
            raise StoreError(str(self.path), "publish", behind(moment, self.published_ms()))
        with self._transaction():
            self._db.execute("INSERT INTO upkeep VALUES (?)", [moment])
            self._end_at(moment)

    def publish_results(self, rows: Sequence[ResultRow], retired: Sequence[ResultRow] = ()) -> None:
        """Make results real, all of one moment, in place of those of the same keys and of retired ones: one commit."""
        moment = rows[0].published_ms
        if moment <= self.published_ms():
            raise StoreError(str(self.path), "publish", behind(moment, self.published_ms()))
        with self._transaction():
            self._hold(rows, retired, moment)
            self._end_at(moment)

    def _hold(self, rows: Sequence[ResultRow], retired: Sequence[ResultRow], moment: int) -> None:
        """Hold results in place of those of the same keys and of retired ones; part of the caller's transaction."""
        for row in (*rows, *retired):
            self._db.execute(
                "UPDATE result SET replaced_ms = ? WHERE key = ? AND organism = ? AND replaced_ms IS NULL",
                [moment, row.key, row.organism],
            )
        for row in rows:
            self._db.execute("INSERT INTO result VALUES (?, ?, ?, ?, ?, ?, ?, ?)", list(astuple(row)))

    def _end_at(self, moment: int) -> None:
        """Make a moment the published one, nothing being in flight; part of the caller's transaction."""
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

    def written(self, row: DatasetRow) -> dict[str, Any] | None:
        """Return the receipt that wrote a dataset, None where none says so.

        A dataset may have come back after it was taken out, with other labels: then each has a receipt, and the one
        meant is the last that was kept before the retraction that ended this row, if one did.
        """
        until = None
        if self._has("former"):
            ended = (
                "SELECT min(replaced_ms) FROM former WHERE dataset_id = ? AND reason IS NOT NULL AND replaced_ms > ?"
            )
            until = self._db.execute(ended, [row.dataset_id, row.published_ms]).fetchone()[0]
        query = "SELECT body FROM receipt WHERE status = 'written' AND dataset_id = ? AND at_ms < ? ORDER BY id DESC"
        found = self._db.execute(f"{query} LIMIT 1", [row.dataset_id, until or 1 << 62]).fetchone()
        return None if found is None else json.loads(found[0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Run a block as one durable transaction.

        Raises
        ------
        StoreError
            If it cannot be written, most often because the disk is full; then nothing of it is.
        """
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # of some faults SQLite rolls back itself
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode == sqlite3.SQLITE_ERROR:  # a wrong statement, which is ours
                raise
            raise StoreError(str(self.path), "write ledger", with_remedy(exc)) from exc
        if self._object:
            self._object.save(self._db)

    def faults(self) -> str:
        """Return what SQLite says of the file, empty where all is well."""
        said = "; ".join(str(line) for (line,) in self._db.execute("PRAGMA integrity_check(5)"))
        return "" if said == "ok" else said


def now_ms() -> int:
    """Return the wall clock in milliseconds since 1970, the unit of TileDB timestamps."""
    return time.time_ns() // 1_000_000


def behind(now: int, published: int) -> str:
    """Return what is wrong, and what to do, where the clock is not past the last published moment."""
    late = (published - now) / 1000
    return f"the clock is {late:.1f} s behind the last ingest, and moments must grow; set the clock, or wait"


@contextmanager
def writer_lock(folder: Path | ObjectPlace) -> Iterator[None]:
    """Hold the atlas' only writer's place; a second writer is told who holds it.

    The kernel drops the lock with the process, so a crash leaves none behind; on object storage a lease runs out.

    Raises
    ------
    StoreError
        If another process is writing.
    """
    if isinstance(folder, ObjectPlace):
        with writer_lease(folder), faults_told(folder.parent, "write"):
            yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "writer.lock").open("a+") as file, faults_told(folder.parent, "write"):
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
