"""Naming what a stopped ingest, a lost file or somebody else's client left in an atlas, and undoing what can be undone.

Ingests mend after themselves: the next one rolls back what a killed one left. `find_leftovers` says what is there
without changing a byte, `repair_atlas` does now what the next ingest would do. Whether the published cells are right is
`validate`'s question.
"""

from __future__ import annotations

import fcntl
import sqlite3
from typing import TYPE_CHECKING

from . import store
from .errors import StoreError
from .findings import Finding
from .lease import LEASE, expired, who
from .ledger import Ledger, writer_lock
from .object_roll_back import unpublished, written_after
from .object_store import ObjectPlace

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
    `damaged-ledger`, `lost-store`, `unfinished-ingest`, `unpublished-writes`, and on object storage `expired-lease`.
    None where all is well.

    Raises
    ------
    StoreError
        If there is neither an atlas nor a ledger.
    """
    root = store.place_of(uri)
    path = root / store.LEDGER / "ledger.sqlite"
    if not path.exists():
        if not store.exists(root):
            raise StoreError(uri, "examine", "no atlas here; make one with `panatlas ingest human`")
        return _without_ledger(root)
    if holder := _holder(root / store.LEDGER):
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
    if store.exists(root) and (late := later_than(root, published)):
        said = f"{len(late)} files newer than the published moment, e.g. {late[0]}"
        remedy = "`panatlas doctor --repair` removes them"
        expected = "only what is published"
        findings.append(Finding("unpublished-writes", "error", str(root), said, expected, remedy, len(late)))
    if isinstance(root, ObjectPlace):
        findings += _of_objects(root)
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
    root = store.place_of(uri)
    mendable = {"unfinished-ingest", "unpublished-writes", "expired-lease"}
    found = {finding.code: finding for finding in find_leftovers(uri)}
    if not mendable & set(found):
        return ()
    folder = root / store.LEDGER
    done = []
    with writer_lock(folder), Ledger(folder / "ledger.sqlite") as ledger:
        if lease := found.get("expired-lease"):
            done.append(f"took the writer's place over and gave it back: {lease.found}")
        reserved = ledger.datasets(published=False)
        removed = store.roll_back(root, ledger.published_ms()) if store.exists(root) else 0
        if removed:
            done.append(f"removed {removed} files and folders that were never published")
        if ledger.in_flight or reserved:
            ledger.abandon()
            names = ", ".join(row.dataset_id for row in reserved)
            done.append(f"gave back what was reserved{names and ' for '}{names}; ingest it again to have it")
    return tuple(done)


def _without_ledger(root: Path | ObjectPlace) -> tuple[Finding, ...]:
    """Return the finding that the ledger says nothing of the store beside it."""
    found = "a SOMA collection that no ledger knows"
    return (Finding("no-ledger", "error", str(root), found, "the ledger beside the store", _RESTORE),)


def _of_objects(root: ObjectPlace) -> list[Finding]:
    """Return what only object storage keeps: the lease of a writer that died, and uploads nobody ends."""
    out = []
    if name := expired(root / store.LEDGER / LEASE):
        said, remedy = f"{name} was writing and did not give its place back", "the next writer takes the place over"
        out.append(Finding("expired-lease", "info", store.LEDGER, said, "a place that is given back", remedy))
    if uploads := root.unfinished():
        said = f"{len(uploads)} uploads that were never ended, e.g. of {uploads[0][0]}"
        out.append(Finding("unpublished-writes", "error", str(root), said, "none", _ROLL_BACK, len(uploads)))
    return out


def _holder(folder: Path | ObjectPlace) -> str:
    """Return who holds the writer's place, empty where nobody does; nothing is touched.

    The kernel drops the lock with its process, so a lock that is held is never a dead process' own.
    """
    if isinstance(folder, ObjectPlace):
        return who(folder / LEASE)
    path = folder / "writer.lock"
    if not path.exists():
        return ""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return f"{file.read().decode(errors='replace').strip() or 'another process'} is writing"
    return ""


def _damage(path: Path | ObjectPlace) -> str:
    """Return what is wrong with a ledger, empty where nothing is."""
    try:
        with Ledger.to_read(path) as ledger:
            published, newest, said = ledger.published_ms(), ledger.state()[0], ledger.faults()
    except (StoreError, sqlite3.Error, ValueError) as exc:
        return str(exc)
    if said:
        return said
    if published != newest:
        return f"its published moment is {published}, that of the newest thing in it {newest}"
    return ""


def later_than(root: Path | ObjectPlace, published_ms: int) -> list[str]:
    """Return what `store.roll_back` would remove, as names below the folder, sorted."""
    if isinstance(root, ObjectPlace):
        return sorted(unpublished(root, published_ms))
    late = [p for p in root.rglob("__*") if written_after(p.name, published_ms)]
    inside = set(late)  # a folder stands for what is in it
    return sorted(str(p.relative_to(root)) for p in late if not inside & set(p.parents))
