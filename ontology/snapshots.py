"""Reference snapshots: tables and files that a user fetched or imported once, kept by digest under `references/`.

What the pinned wheels do not carry (a gene table of sheep, orthologs of chicken, the Plant Ontology) arrives here
from BioMart or from a file, and is read from here ever after. Each has a small JSON record that says where it came
from, of which release, under which licence, and its sha256; the record is written last, so that a snapshot is whole or
absent, and the file it replaces stays until the next one, for readers that still have it open. genes.py, orthologs.py,
ontologies.py and coverage_table.py read them; biomart_*.py, imports.py and gtf.py make them.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from .cached import locked, write_whole
from .errors import OntologyInputError, ReferenceMismatchError
from .places import home

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

log = logging.getLogger(__name__)

KINDS = ("genes", "orthologs", "proteins", "protein_vectors", "ontology")
"""What a snapshot can be of; a folder each."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
RECORD_LIMIT = 1 << 16
"""Bytes a record may have; one takes some 400."""


@dataclass(frozen=True)
class Snapshot:
    """One reference kept on this machine."""

    kind: str
    """One of `KINDS`."""
    name: str
    """Organism's short name, ontology prefix, or whatever tells snapshots of a kind apart."""
    file: str
    """Name of its file in the kind's folder; it holds the first digits of the digest."""
    sha256: str
    """Digest of the file."""
    source: str
    """Where it came from: an address, a file name, a dataset."""
    release: str
    """Release of the source, as its makers name it."""
    licence: str
    """Licence or terms of use; `unstated` where the user gave none."""
    made: str
    """Day it was made, ISO 8601; not part of the digest."""
    rows: int
    """Rows of a table, terms of an ontology, or bytes of any other file."""

    @property
    def path(self) -> Path:
        """Return where the file lies."""
        return references_dir() / self.kind / self.file


def references_dir() -> Path:
    """Return the folder of snapshots, `home() / "references"`; unlike a cache it holds what only the user can renew."""
    return home() / "references"


def save_table(kind: str, name: str, frame: pd.DataFrame, about: Mapping[str, str]) -> Snapshot:
    """Keep a table as Parquet; the same rows give the same bytes. A former snapshot of the name is replaced.

    One writer at a time; a reader that found the former snapshot can still read it, until the next one is kept.

    Parameters
    ----------
    kind, name
        What it is of; see `Snapshot`.
    frame
        The rows; its index is dropped.
    about
        `source`, `release` and `licence`.

    Raises
    ------
    OntologyInputError
        When the kind is unknown or the name is not one plain word.
    """
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return save_bytes(kind, name, buffer.getvalue(), ".parquet", {**about, "rows": str(len(frame))})


def save_bytes(kind: str, name: str, data: bytes, suffix: str, about: Mapping[str, str]) -> Snapshot:
    """Keep a file as it is; `about` as in `save_table`, with `rows` where they can be counted.

    Raises
    ------
    OntologyInputError
        As `save_table`.
    """
    folder = _folder(kind, name)
    digest = hashlib.sha256(data).hexdigest()
    snapshot = Snapshot(
        kind=kind,
        name=name,
        file=f"{name}-{digest[:12]}{suffix}",
        sha256=digest,
        source=about["source"],
        release=about["release"],
        licence=about.get("licence", "unstated"),
        made=datetime.now(UTC).date().isoformat(),
        rows=int(about.get("rows", len(data))),
    )
    with locked(folder):
        try:
            former = _record(kind, name)
        except ReferenceMismatchError:  # a spoilt record is what keeping it again mends
            former = None
        write_whole(folder / snapshot.file, data)
        write_whole(folder / f"{name}.json", json.dumps(asdict(snapshot), indent=1).encode())
        if former is None or former.file != snapshot.file:  # the same again replaces nothing
            _clear(folder, name, {snapshot.file, former.file if former else ""})
    return snapshot


def find_snapshot(kind: str, name: str) -> Snapshot | None:
    """Return the snapshot of that kind and name, or None; its bytes are proved by digest first.

    Raises
    ------
    ReferenceMismatchError
        When the file is gone or its bytes are not those that were kept: it cannot be made again unasked.
    """
    found = _record(kind, name)
    if found is None:
        return None
    try:
        return _proved(found)
    except ReferenceMismatchError:
        now = _record(kind, name)  # another process may have replaced it, twice, since the record was read
        if now is None or now == found:
            raise
        return _proved(now)


def _proved(found: Snapshot) -> Snapshot:
    what = f"the {found.kind} snapshot of {found.name} ({found.path})"
    try:
        with found.path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except (FileNotFoundError, IsADirectoryError) as error:
        gone = "no file; fetch or import it again"
        raise ReferenceMismatchError(what, f"sha256 {found.sha256}", gone) from error
    if digest != found.sha256:
        raise ReferenceMismatchError(what, f"sha256 {found.sha256}", f"sha256 {digest}; fetch or import it again")
    return found


def read_table(snapshot: Snapshot) -> pd.DataFrame:
    """Return the rows of a snapshot that is a table; of one that was replaced since it was found, its own rows.

    Raises
    ------
    ReferenceMismatchError
        When its file is gone: it was replaced twice, or removed.
    """
    import pandas as pd  # noqa: PLC0415 - looking for a snapshot, which most callers do, needs no table

    try:
        return pd.read_parquet(snapshot.path)
    except FileNotFoundError as error:
        what = f"the {snapshot.kind} snapshot of {snapshot.name} ({snapshot.path})"
        raise ReferenceMismatchError(what, f"sha256 {snapshot.sha256}", "no file; find it again") from error


def list_snapshots(kind: str | None = None) -> tuple[Snapshot, ...]:
    """Return the snapshots on this machine, by kind and name, without proving their bytes.

    Parameters
    ----------
    kind
        One of `KINDS`; all if None. A record that is none is left out with a warning: it spoils no other reference.

    Raises
    ------
    OntologyInputError
        When there is no such kind.
    """
    if kind is not None and kind not in KINDS:
        raise OntologyInputError("kind", kind, f"one of {', '.join(KINDS)}")
    found: list[Snapshot] = []
    for each in KINDS if kind is None else (kind,):
        for path in sorted((references_dir() / each).glob("[!.]*.json")):
            try:
                record = _record(each, path.stem)
            except (ReferenceMismatchError, OntologyInputError) as error:
                log.warning("%s is left out: %s", path, error)
                continue
            if record is not None:
                found.append(record)
    return tuple(found)


def _record(kind: str, name: str) -> Snapshot | None:
    path = _folder(kind, name) / f"{name}.json"
    if not path.is_file():
        return None
    try:
        with path.open("rb") as stream:
            record = Snapshot(**json.loads(stream.read(RECORD_LIMIT)))  # a longer one is cut, and so no JSON
        # The file lies beside its record: one that named a path could be read, or removed, anywhere.
        fault = "" if (record.kind, record.name, Path(record.file).name) == (kind, name, record.file) else "another's"
        if not all(isinstance(getattr(record, f.name), int if f.name == "rows" else str) for f in fields(record)):
            fault = "a value of another type"
    except (ValueError, TypeError, RecursionError, OSError) as error:
        fault = str(error)
    if fault:
        raise ReferenceMismatchError(str(path), "the record of a snapshot", f"{fault}; fetch or import it again")
    return record


def _folder(kind: str, name: str) -> Path:
    if kind not in KINDS:
        raise OntologyInputError("kind", kind, f"one of {', '.join(KINDS)}")
    if not NAME.fullmatch(name):
        raise OntologyInputError("name", name, "letters, digits, '.', '_' and '-', at most 64")
    return references_dir() / kind


def _clear(folder: Path, name: str, stay: set[str]) -> None:
    """Remove the files of a name that no record names any more, the last one's aside."""
    ours = re.compile(rf"{re.escape(name)}-[0-9a-f]{{12}}\.(?!json$)\w+", re.ASCII)
    for path in folder.iterdir():
        if ours.fullmatch(path.name) and path.name not in stay:
            path.unlink(missing_ok=True)
