"""Curated overrides: author texts that a person has mapped, one row each; shipped ones and this user's own.

Shipped rows lie in data/overrides/<label>.tsv, the user's in `home() / "overrides"`, in the same form: text, term_id,
organism (`*` for any), who, when, why. The user's beat the shipped ones, and among either a row for the organism beats
one for any. Rows are believed only where their id is still a current, allowed term; the tests hold every shipped row to
that. curate.py judges what a curator accepts and `add_overrides` keeps it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from dataclasses import astuple, dataclass, fields
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from .allowed import SEPARATOR, ontology_of, refusal, split_terms
from .errors import OntologyInputError
from .organisms import get_organism
from .places import home
from .terms import fold_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .organisms import Organism

MAX_BYTES = 16 << 20
"""Largest file of a user's overrides that is read: some hundred thousand rows."""


@dataclass(frozen=True)
class Override:
    """One curated decision."""

    text: str
    """The author's text; compared without case, underscores as blanks."""
    term_id: str
    """Term it means; several joined by ` || ` for disease and ethnicity."""
    organism: str
    """Short name of the organism it holds for, or `*`."""
    who: str
    """Curator."""
    when: str
    """Date, ISO 8601."""
    why: str
    """What the decision rests on."""

    @property
    def key(self) -> tuple[str, str]:
        """Return what the decision is about: text as it is compared, and organism."""
        return fold_text(self.text), self.organism


HEADER = tuple(f.name for f in fields(Override))


@cache
def load_overrides(label: str) -> tuple[Override, ...]:
    """Return the shipped rows of a label; none where the label has no file."""
    file = resources.files(__package__).joinpath(f"data/overrides/{label}.tsv")
    return _parse(file.read_text(encoding="utf-8"), f"{label}.tsv") if file.is_file() else ()


def load_user_overrides(label: str) -> tuple[Override, ...]:
    """Return this user's own rows of a label, as the file is now.

    Raises
    ------
    OntologyInputError
        When the file is no table of overrides; the message names the line.
    """
    path = user_overrides_path(label)
    stamp = _stamp(path)
    return tuple(_user_index(path, stamp).values()) if stamp else ()


def user_overrides_path(label: str) -> Path:
    """Return where this user's overrides of a label lie; the file need not exist."""
    return home() / "overrides" / f"{label}.tsv"


def find_override(label: str, text: str, organism: Organism) -> str | None:
    """Return the id a curator chose for a text, or None; an id that may not be used any more counts as none."""
    folded, path = fold_text(text), user_overrides_path(label)
    stamp = _stamp(path)
    for rows in (_user_index(path, stamp) if stamp else {}, _shipped_index(label)):
        for named in (organism.name, "*"):
            row = rows.get((folded, named))
            if row and (usable := _usable(label, row.term_id, organism)):
                return usable
    return None


def overrides_digest() -> str:
    """Return a sha256 over every override in force, shipped and the user's own, for receipts.

    It covers text, term, organism and curator's grounds of each row, not the order or place of the rows.
    """
    rows = []
    for label in sorted(get_organism("human").labels):
        mine = {row.key for row in load_user_overrides(label)}
        shipped = [row for row in load_overrides(label) if row.key not in mine]
        rows += sorted([label, *astuple(row)] for row in (*load_user_overrides(label), *shipped))
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def add_overrides(label: str, rows: Sequence[Override]) -> int:
    """Add rows to this user's overrides of a label, all or none, and return how many were new.

    A row that is there already, whoever added it, is left as it was. The file is replaced in one step, under a lock.

    Raises
    ------
    OntologyInputError
        When a row contradicts one that is there, or lacks a value; nothing is written then.
    """
    path = user_overrides_path(label)
    for row in rows:
        if not all(value.strip() for value in astuple(row)):
            raise OntologyInputError("override", row, "a value in every field")
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        there = {row.key: row for row in load_user_overrides(label)}
        fresh: dict[tuple[str, str], Override] = {}
        for row in rows:
            former = there.get(row.key) or fresh.get(row.key)
            if former is None:
                fresh[row.key] = row
            elif former.term_id != row.term_id:
                raise OntologyInputError("term_id", row.term_id, conflict(former, path))
        if fresh:
            _replace(path, (*there.values(), *fresh.values()))
    return len(fresh)


def conflict(former: Override, path: Path) -> str:
    """Return in words what stands in the way of another decision about the same text."""
    said = f"{former.term_id} for {former.text!r}, as {former.who} decided on {former.when}"
    return f"{said}; to change that take the row out of {path} first"


def _usable(label: str, chosen: str, organism: Organism) -> str | None:
    """Return the current form of what a row says, or None where one of its ids may not stand there (any more)."""
    if label == "cell_culture":
        return chosen
    found = []
    for term_id in split_terms(chosen):
        ontology = ontology_of(term_id)
        current = ontology.current(term_id) if ontology is not None and term_id in ontology else None
        if current is None or refusal(label, current, organism):
            return None
        found.append(current)
    return SEPARATOR.join(sorted(set(found)))


@cache
def _shipped_index(label: str) -> dict[tuple[str, str], Override]:
    return {row.key: row for row in load_overrides(label)}


@lru_cache(maxsize=64)
def _user_index(path: Path, stamp: tuple[int, int, int]) -> dict[tuple[str, str], Override]:
    """Read a user's file; the stamp is part of the call so that a changed file is read again."""
    if stamp[1] > MAX_BYTES:
        raise OntologyInputError(str(path), f"{stamp[1]} bytes", f"at most {MAX_BYTES} bytes of overrides")
    try:
        return {row.key: row for row in _parse(path.read_text(encoding="utf-8"), str(path))}
    except UnicodeDecodeError as error:
        raise OntologyInputError(str(path), str(error), "a UTF-8 table of overrides") from error


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _parse(text: str, where: str) -> tuple[Override, ...]:
    """Return the rows of a file: comments above the header, then one row a line, tabs between, nothing quoted."""
    rows: list[Override] = []
    header = False
    for number, line in enumerate(text.split("\n"), start=1):
        cells = line.removesuffix("\r").split("\t")
        if not header:
            header = tuple(cells) == HEADER
            if not header and line and not line.startswith("#"):
                expected = f"the columns {', '.join(HEADER)}, with tabs between"
                raise OntologyInputError(f"{where}, line {number}", line[:80], expected)
        elif len(cells) == len(HEADER) and all(cells):
            rows.append(Override(*cells))
        elif line.strip():
            expected = f"{len(HEADER)} values, none empty, with tabs between"
            raise OntologyInputError(f"{where}, line {number}", line[:80], expected)
    return tuple(rows)


def _replace(path: Path, rows: Sequence[Override]) -> None:
    """Write a file whole or not at all. Blanks of any kind become single ones: texts are compared so."""
    lines = ["\t".join(HEADER), *("\t".join(" ".join(value.split()) for value in astuple(row)) for row in rows)]
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as out:
            out.write("\n".join(lines) + "\n")
            out.flush()
            os.fsync(out.fileno())
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
