"""Reference snapshots: tables and files that a user fetched or imported once, kept by digest under `references/`.

What the pinned wheels do not carry (a gene table of sheep, orthologs of chicken, the Plant Ontology) arrives here
from BioMart or from a file, and is read from here ever after. Each has a small JSON record that says where it came
from, of which release, under which licence, and its sha256; the record is written last, so that a snapshot is whole or
absent. genes.py, orthologs.py, terms.py and coverage_table.py read them; biomart_*.py, imports.py and gtf.py make them.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import OntologyInputError, ReferenceMismatchError
from .places import home

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

KINDS = ("genes", "orthologs", "proteins", "protein_vectors", "ontology")
"""What a snapshot can be of; a folder each."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


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
    folder.mkdir(parents=True, exist_ok=True)
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
    try:
        former = _record(kind, name)
    except ReferenceMismatchError:  # a spoilt record is what keeping it again mends
        former = None
    _place(folder / snapshot.file, data)
    _place(folder / f"{name}.json", json.dumps(asdict(snapshot), indent=1).encode())
    if former is not None and former.file != snapshot.file:
        former.path.unlink(missing_ok=True)
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
    what = f"the {kind} snapshot of {name} ({found.path})"
    if not found.path.is_file():
        raise ReferenceMismatchError(what, f"sha256 {found.sha256}", "no file; fetch or import it again")
    with found.path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != found.sha256:
        raise ReferenceMismatchError(what, f"sha256 {found.sha256}", f"sha256 {digest}; fetch or import it again")
    return found


def read_table(snapshot: Snapshot) -> pd.DataFrame:
    """Return the rows of a snapshot that is a table."""
    import pandas as pd  # noqa: PLC0415 - looking for a snapshot, which most callers do, needs no table

    return pd.read_parquet(snapshot.path)


def list_snapshots() -> tuple[Snapshot, ...]:
    """Return every snapshot on this machine, by kind and name, without proving their bytes."""
    records = (_record(kind, p.stem) for kind in KINDS for p in sorted((references_dir() / kind).glob("*.json")))
    return tuple(record for record in records if record is not None)


def _record(kind: str, name: str) -> Snapshot | None:
    path = _folder(kind, name) / f"{name}.json"
    if not path.is_file():
        return None
    try:
        record = Snapshot(**json.loads(path.read_text(encoding="utf-8")))
        # The file lies beside its record: one that named a path could be read, or removed, anywhere.
        fault = "" if (record.kind, record.name, Path(record.file).name) == (kind, name, record.file) else "another's"
    except (ValueError, TypeError) as error:
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


def _place(target: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".part-")
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
