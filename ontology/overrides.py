"""Curated overrides: author texts that a person has mapped, one row each; shipped ones and this user's own.

Shipped rows lie in data/overrides/<label>.tsv, the user's in `home() / "overrides"`, in the same form: text, term_id,
organism (`*` for any), who, when, why. The user's beat the shipped ones, and among either a row for the organism beats
one for any. Rows are believed only where their id is still a current, allowed term; the tests hold every shipped row to
that. curate.py judges what a curator accepts and `add_overrides` keeps it, behind what the file has already: comments
and rows of the user's are never written anew.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import astuple, dataclass, fields
from functools import cache, lru_cache
from importlib import resources
from typing import TYPE_CHECKING

from .allowed import SEPARATOR, ontology_of, refusal, split_terms
from .cached import locked, write_together
from .errors import OntologyInputError
from .organisms import get_organism
from .places import home
from .terms import fold_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

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
        When the file is no table of overrides, or has two rows for one text and organism; the message names the line.
    """
    return tuple(_user_rows(label).values())


def user_override(label: str, key: tuple[str, str]) -> Override | None:
    """Return this user's own row with that `Override.key`, or None; raises as `load_user_overrides`."""
    return _user_rows(label).get(key)


def user_overrides_path(label: str) -> Path:
    """Return where this user's overrides of a label lie; the file need not exist."""
    return home() / "overrides" / f"{label}.tsv"


def find_override(label: str, text: str, organism: Organism) -> str | None:
    """Return the id a curator chose for a text, or None; an id that may not be used any more counts as none."""
    folded = fold_text(text)
    for rows in (_user_rows(label), _shipped_index(label)):
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


def add_overrides(added: Mapping[str, Sequence[Override]]) -> dict[str, int]:
    """Add rows to this user's overrides, those of all labels or none, and return per label how many were new.

    A row that is there already, whoever added it, is left as it was, and so is every other line of the files. Files are
    replaced in one step, under a lock, when all of them are ready on disk.

    Parameters
    ----------
    added
        Label to rows.

    Raises
    ------
    OntologyInputError
        When a row contradicts one that is there, or lacks a value; nothing is written then.
    """
    for row in (row for rows in added.values() for row in rows):
        if not all(value.strip() for value in astuple(row)):
            raise OntologyInputError("override", row, "a value in every field")
    if not any(added.values()):
        return dict.fromkeys(added, 0)
    with locked(home() / "overrides"):
        fresh = {label: _new_among(label, rows) for label, rows in added.items()}
        write_together({user_overrides_path(label): _appended(label, rows) for label, rows in fresh.items() if rows})
    return {label: len(rows) for label, rows in fresh.items()}


def _new_among(label: str, rows: Sequence[Override]) -> list[Override]:
    fresh: dict[tuple[str, str], Override] = {}
    for row in rows:
        former = user_override(label, row.key) or fresh.get(row.key)
        if former is None:
            fresh[row.key] = row
        elif former.term_id != row.term_id:
            raise OntologyInputError("term_id", row.term_id, conflict(former, user_overrides_path(label)))
    return list(fresh.values())


def _appended(label: str, rows: Sequence[Override]) -> bytes:
    """Return a user's file as it stands with rows behind it; runs of blanks become one, as texts are compared."""
    path = user_overrides_path(label)
    there = path.read_bytes() if path.is_file() else b""
    lines = ["\t".join(" ".join(value.split()) for value in astuple(row)) for row in rows]
    if not _has_header(there.decode("utf-8")):  # comments at most, or rows would have been refused
        lines.insert(0, "\t".join(HEADER))
    between = b"" if not there or there.endswith(b"\n") else b"\n"
    data = there + between + ("\n".join(lines) + "\n").encode()
    if len(data) > MAX_BYTES:
        raise OntologyInputError(str(path), f"{len(data)} bytes", f"at most {MAX_BYTES} bytes of overrides")
    return data


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


def _user_rows(label: str) -> Mapping[tuple[str, str], Override]:
    path = user_overrides_path(label)
    stamp = _stamp(path)
    return _user_index(path, stamp) if stamp else {}


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


def _has_header(text: str) -> bool:
    return any(_cells(line) == HEADER for line in text.split("\n"))


def _cells(line: str) -> tuple[str, ...]:
    return tuple(line.removesuffix("\r").split("\t"))


def _parse(text: str, where: str) -> tuple[Override, ...]:
    """Return the rows of a file: a header, then one row a line, tabs between, nothing quoted; comments begin with #."""
    rows: list[Override] = []
    lines: dict[tuple[str, str], int] = {}
    header = False
    for number, line in enumerate(text.split("\n"), start=1):
        cells = _cells(line)
        if not header:
            header = cells == HEADER
            if not header and line.strip() and not line.startswith("#"):
                expected = f"the columns {', '.join(HEADER)}, with tabs between"
                raise OntologyInputError(f"{where}, line {number}", line[:80], expected)
        elif len(cells) == len(HEADER) and all(cells):
            rows.append(Override(*cells))
            # Of two decisions about one text nobody can tell which holds; the first must not give way in silence.
            if (first := lines.setdefault(rows[-1].key, number)) != number:
                expected = f"another text or organism than line {first} has; take one of the two out"
                raise OntologyInputError(f"{where}, line {number}", line[:80], expected)
        elif line.strip() and not (line.startswith("#") and len(cells) == 1):
            expected = f"{len(HEADER)} values, none empty, with tabs between"
            raise OntologyInputError(f"{where}, line {number}", line[:80], expected)
    return tuple(rows)
