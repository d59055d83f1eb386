"""Naming what a stopped ingest, a lost file or somebody else's client left in an atlas, and undoing what can be undone.

Ingests mend after themselves: the next one rolls back what a killed one left. `find_leftovers` says what is there
without changing a byte, `repair_atlas` does now what the next ingest would do. Whether the published cells are right is
`validate`'s question.
"""

from __future__ import annotations

import fcntl
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from . import layout, store
from .errors import StoreError
from .findings import Finding
from .ledger import Ledger, writer_lock

if TYPE_CHECKING:
    from pathlib import Path

_RESTORE = "restore the ledger/ folder from a copy of the atlas; without one, ingest the sources into a new atlas"
_ROLL_BACK = "`panatlas doctor --repair` removes it, and so does the next ingest"


def find_leftovers(uri: str) -> tuple[Finding, ...]:
    """Return what in an atlas' folder is no part of a published state; nothing is changed.

    Parameters
    ----------
    uri
        Folder of the atlas.

    Returns
    -------
    Findings: `writer-at-work` alone where an ingest is running, whose traces are none to mend; else `no-ledger`,
    `damaged-ledger`, `lost-store`, `unfinished-ingest`, `unpublished-writes`. None where all is well.

    Raises
    ------
    StoreError
        If there is neither an atlas nor a ledger.
    """
    root = store.local_root(uri)
    path = root / store.LEDGER / "ledger.sqlite"
    if not path.exists():
        if not store.exists(root):
            raise StoreError(uri, "examine", "no atlas here; make one with `panatlas ingest human`")
        return _without_ledger(root)
    holder = _holder(root / store.LEDGER / "writer.lock")
    if holder:
        remedy = "wait for it, then ask again"
        return (Finding("writer-at-work", "info", store.LEDGER, holder, "no writer, to tell leftovers", remedy),)
    if fault := _damage(path):
        return (Finding("damaged-ledger", "error", str(path), fault, "a ledger that agrees with itself", _RESTORE),)
    with Ledger.to_read(path) as ledger:
        published, stopped = ledger.published_ms(), ledger.in_flight
        reserved, datasets = ledger.datasets(published=False), ledger.datasets()
    if not published and not stopped and store.exists(root):  # not ours to roll back: it may be a copy of the Census
        return _without_ledger(root)
    if published and not store.exists(root):
        said = f"{len(datasets)} datasets in the ledger, no SOMA collection"
        remedy = "restore the folder from a copy, or ingest the sources into a new atlas"
        return (Finding("lost-store", "error", str(root), said, "the store the ledger is of", remedy),)
    findings = []
    if stopped or reserved:
        said = ", ".join(f"{r.dataset_id}, {r.n_cells} cells of {r.organism} from {r.first_joinid}" for r in reserved)
        said = f"an ingest that was stopped{said and ': '}{said}"
        findings.append(Finding("unfinished-ingest", "error", store.LEDGER, said, "none", _ROLL_BACK))
    if store.exists(root) and (late := _later_than(root, published)):
        said = f"{len(late)} files newer than the published moment, e.g. {late[0].relative_to(root)}"
        remedy = "`panatlas doctor --repair` removes them"
        expected = "only what is published"
        findings.append(Finding("unpublished-writes", "error", str(root), said, expected, remedy, len(late)))
    return tuple(findings)


def repair_atlas(uri: str) -> tuple[str, ...]:
    """Take an atlas back to its last published moment, and return what was done, in words.

    Parameters
    ----------
    uri
        Folder of the atlas.

    Returns
    -------
    One sentence per thing done; empty where nothing was to do. A damaged or lost ledger or store is left as it is, and
    nothing is done while an ingest is running.

    Raises
    ------
    StoreError
        If there is no atlas, or somebody begins to write at this very moment.
    """
    root = store.local_root(uri)
    mendable = {"unfinished-ingest", "unpublished-writes"}
    if not mendable & {finding.code for finding in find_leftovers(uri)}:
        return ()
    folder = root / store.LEDGER
    done = []
    with writer_lock(folder), Ledger(folder / "ledger.sqlite") as ledger:
        reserved = ledger.datasets(published=False)
        removed = store.roll_back(root, ledger.published_ms()) if store.exists(root) else 0
        if removed:
            done.append(f"removed {removed} files and folders that were never published")
        if ledger.in_flight or reserved:
            ledger.abandon()
            names = ", ".join(row.dataset_id for row in reserved)
            done.append(f"gave back what was reserved{names and ' for '}{names}; ingest it again to have it")
    return tuple(done)


def _without_ledger(root: Path) -> tuple[Finding, ...]:
    """Return the finding that the ledger says nothing of the store beside it."""
    found = "a SOMA collection that no ledger knows"
    return (Finding("no-ledger", "error", str(root), found, "the ledger beside the store", _RESTORE),)


def _holder(path: Path) -> str:
    """Return who holds the writer's lock, empty where nobody does; the file is not touched.

    The kernel drops the lock with its process, so a lock that is held is never a dead process' own.
    """
    if not path.exists():
        return ""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return f"{file.read().decode(errors='replace').strip() or 'another process'} is writing"
    return ""


def _damage(path: Path) -> str:
    """Return what is wrong with a ledger, empty where nothing is."""
    try:
        with Ledger.to_read(path) as ledger:
            moments = [row.published_ms or 0 for row in (*ledger.datasets(), *ledger.results())]
            published = ledger.published_ms()
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
            said = "; ".join(str(line) for (line,) in db.execute("PRAGMA integrity_check(5)"))
    except (StoreError, sqlite3.Error, ValueError) as exc:
        return str(exc)
    if said != "ok":
        return said
    if published != max(moments, default=0):
        return f"its published moment is {published}, that of the newest thing in it {max(moments, default=0)}"
    return ""


def _later_than(root: Path, published_ms: int) -> list[Path]:
    """Return what `store.roll_back` would remove, sorted."""
    late = [p for p in root.rglob("__*") if store._written_after(p, published_ms)]
    inside = set(late)
    late = [p for p in late if not inside & set(p.parents)]  # a folder stands for what is in it
    if published_ms:
        known = store.experiments(root)
        late += [
            p for p in (root / layout.DATA).iterdir()
            if p.is_dir() and not p.name.startswith("__") and p.name not in known
        ]  # fmt: skip
    return sorted(late)
