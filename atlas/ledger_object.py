"""The ledger of an atlas on object storage: the same SQLite file, kept as one object.

It is worked on in memory. Every transaction ends with one conditional write of the whole file, which is what makes it
real: a writer who is not the last one any more is refused by the server, whatever it believes.
"""

from __future__ import annotations

import sqlite3
import uuid
from typing import TYPE_CHECKING

from .errors import StoreError
from .lease import hold_on
from .object_store import ObjectChangedError

if TYPE_CHECKING:
    from .object_store import ObjectPlace

_JOURNAL = slice(18, 20)  # bytes of an SQLite file that say which journal it is written with: 1 plain, 2 WAL
_LOST = "another process wrote the ledger since; this one published nothing more, look with `panatlas info`"


class LedgerObject:
    """One object that holds a ledger, and which version of it this process has."""

    def __init__(self, place: ObjectPlace) -> None:
        self.place = place
        self._etag: str | None = None
        self._unsure: dict[bytes, None] = {}

    def load(self) -> sqlite3.Connection:
        """Return the ledger as a database in memory; an empty one where there is no object.

        Raises
        ------
        StoreError
            If the object cannot be read or is no database.
        """
        database = sqlite3.connect(":memory:", isolation_level=None)
        found = self.place.read()
        if found is None:
            return database
        self._etag = found.etag
        data = bytearray(found.data)
        data[_JOURNAL] = b"\1\1"  # one that was copied from a folder; a database in memory has no WAL
        try:
            database.deserialize(bytes(data))
            database.execute("SELECT count(*) FROM sqlite_master")
        except sqlite3.DatabaseError as exc:
            raise StoreError(str(self.place), "open ledger", f"{exc}; restore it from a copy of the atlas") from exc
        return database

    def save(self, database: sqlite3.Connection) -> None:
        """Put the database in place of the version it was made from: the step that makes a transaction real.

        Raises
        ------
        StoreError
            If the object is another's by now, or the server does not answer, which leaves unknown what is stored.
        """
        hold_on(self.place)
        database.execute("INSERT OR REPLACE INTO atlas VALUES ('version', ?)", [uuid.uuid4().hex])  # never two alike
        data = database.serialize()
        try:
            self._etag = self._replace(data)
        except StoreError:
            self._unsure[data] = None
            raise
        self._unsure.clear()

    def _replace(self, data: bytes) -> str:
        """Return the ETag of the stored bytes, be it that an earlier try stored them though its answer was lost."""
        try:
            return self.place.write(data, self._etag)
        except ObjectChangedError:
            now = self.place.read()
        if now is not None and now.data == data:
            return now.etag
        if now is not None and now.data in self._unsure:
            try:
                return self.place.write(data, now.etag)
            except ObjectChangedError as exc:
                raise StoreError(str(self.place), "publish", _LOST) from exc
        raise StoreError(str(self.place), "publish", _LOST)
