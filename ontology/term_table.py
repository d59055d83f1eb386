"""All terms of one ontology in a few arrays: `TermTable`, made from records, kept in the cache as npz without pickle.

Names are one text with offsets instead of an object each, ancestors a `Closure`. What is odd in the records (an id that
is used and never defined, a cycle) is counted as a `Fault`. terms.py shows the table as a mapping of terms.
"""

from __future__ import annotations

import json
import logging
import zipfile
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from .cached import intact, keep
from .graph import Closure, closure_from_ancestors, closure_from_parents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

log = logging.getLogger(__name__)

FORM = 1
"""Version of the cached form; part of its file name."""
EXAMPLES = 5
"""Cases a fault shows."""


@dataclass(frozen=True)
class Fault:
    """One kind of oddity found while an ontology was read; the reading went on."""

    kind: str
    """E.g. `duplicate`, `undefined`, `cycle`, `malformed`, `import`."""
    count: int
    """How often it was met."""
    examples: tuple[str, ...]
    """The first few cases, with lines where the source has lines."""

    def __str__(self) -> str:
        """Return a one-line report."""
        return f"{self.count} {self.kind} (such as {'; '.join(self.examples)})"


def count_fault(kind: str, cases: Sequence[str]) -> tuple[Fault, ...]:
    """Return the fault of these cases, or nothing where there is none."""
    return (Fault(kind, len(cases), tuple(case[:120] for case in cases[:EXAMPLES])),) if cases else ()


@dataclass(frozen=True, eq=False)
class Texts:
    """Many short texts as one."""

    text: str
    """All of them, one after the other."""
    ends: np.ndarray
    """int64 [text + 1]: text i is `text[ends[i]:ends[i + 1]]`."""

    @classmethod
    def of(cls, parts: Iterable[str]) -> Texts:
        """Join texts."""
        listed = list(parts)
        return cls("".join(listed), np.concatenate(([0], np.cumsum([len(p) for p in listed], dtype=np.int64))))

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.ends) - 1

    def __getitem__(self, i: int) -> str:
        """Return one text."""
        return self.text[self.ends[i] : self.ends[i + 1]]

    def __iter__(self) -> Iterator[str]:
        """Iterate over all."""
        ends = self.ends.tolist()
        return (self.text[a:b] for a, b in pairwise(ends))


@dataclass(frozen=True, eq=False)
class TermTable:
    """The terms of a release by position."""

    ids: Texts
    """Term ids in the order of the release, those never defined last."""
    labels: Texts
    """Preferred names; empty where there is none."""
    synonyms: Texts
    """Other names of all terms in turn."""
    synonym_starts: np.ndarray
    """int64 [term + 1]: where a term's synonyms start."""
    consider: Texts
    """Ids to look at instead of obsolete terms, of all terms in turn."""
    consider_starts: np.ndarray
    """int64 [term + 1]: where a term's start."""
    replaced_by: Texts
    """Id to use instead, per term; empty where there is none."""
    obsolete: np.ndarray
    """bool [term]."""
    closure: Closure
    """What lies above what."""
    faults: tuple[Fault, ...] = ()
    """What was odd."""

    def synonyms_of(self, term: int) -> tuple[str, ...]:
        """Return a term's other names."""
        return tuple(self.synonyms[i] for i in range(self.synonym_starts[term], self.synonym_starts[term + 1]))

    def consider_of(self, term: int) -> tuple[str, ...]:
        """Return the ids to look at instead of an obsolete term."""
        return tuple(self.consider[i] for i in range(self.consider_starts[term], self.consider_starts[term + 1]))


def make_table(records: Mapping[str, Mapping[str, Any]], faults: tuple[Fault, ...] = ()) -> TermTable:
    """Return the table of records.

    Parameters
    ----------
    records
        Per id its `label` and `deprecated`, `ancestors` (id to distance) or `parents` (ids), and optionally `synonyms`,
        `replaced_by` and `consider`. Either every record states ancestors, or all are closed over their parents.
    faults
        What the reader has found so far.
    """
    index = {term_id: i for i, term_id in enumerate(records)}
    rows = list(records.values())
    stated = all("ancestors" in row for row in rows)
    named = [row["ancestors"] if stated else dict.fromkeys(row.get("parents", ()), 1) for row in rows]
    for row in named:
        for term_id in row:
            index.setdefault(term_id, len(index))
    missing = list(index)[len(rows) :]
    above = [{index[i]: steps for i, steps in row.items()} for row in named] + [{} for _ in missing]
    ids = list(index)
    faults += count_fault("undefined", missing)
    if stated:
        closure = closure_from_ancestors(above)
    else:
        closure, dropped = closure_from_parents([list(row) for row in above])
        faults += count_fault("cycle", [f"{ids[child]} -> {ids[parent]}" for child, parent in dropped])
    rows += [{"label": "", "deprecated": False}] * len(missing)
    synonyms = [tuple(row.get("synonyms") or ()) for row in rows]
    consider = [tuple(row.get("consider") or ()) for row in rows]
    return TermTable(
        ids=Texts.of(ids),
        labels=Texts.of(row["label"] or "" for row in rows),
        synonyms=Texts.of(name for names in synonyms for name in names),
        synonym_starts=np.concatenate(([0], np.cumsum([len(names) for names in synonyms], dtype=np.int64))),
        consider=Texts.of(name for names in consider for name in names),
        consider_starts=np.concatenate(([0], np.cumsum([len(names) for names in consider], dtype=np.int64))),
        replaced_by=Texts.of(str(row.get("replaced_by") or "") for row in rows),
        obsolete=np.array([bool(row["deprecated"]) for row in rows], dtype=bool),
        closure=closure,
        faults=faults,
    )


def cached_table(path: Path, make: Callable[[], TermTable]) -> TermTable:
    """Return the table kept at `path`, or make it and keep it; where nothing can be written it is only made."""
    if intact(path):
        try:
            return _load(path)
        except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
            log.warning("%s cannot be read and is made again: %s", path.name, error)
    table = make()
    try:
        with keep(path) as out:
            _save(table, out)
    except OSError as error:
        log.warning("%s cannot be kept, so it is made at every start: %s", path.name, error)
    return table


TEXTS = ("ids", "labels", "synonyms", "consider", "replaced_by")
ARRAYS = ("synonym_starts", "consider_starts", "obsolete")
PARTS = ("starts", "above", "steps")


def _save(table: TermTable, out: IO[bytes]) -> None:
    arrays = {name: getattr(table, name) for name in ARRAYS}
    arrays |= {name: getattr(table.closure, name) for name in PARTS}
    for name in TEXTS:
        texts: Texts = getattr(table, name)
        arrays[f"{name}_ends"] = texts.ends
        # Lone surrogates are legal in JSON strings and must survive.
        arrays[name] = np.frombuffer(texts.text.encode("utf-8", "surrogatepass"), np.uint8)
    arrays["faults"] = np.frombuffer(json.dumps([asdict(fault) for fault in table.faults]).encode(), np.uint8)
    np.savez(out, allow_pickle=False, **arrays)


def _load(path: Path) -> TermTable:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
        found = {name: kept[name] for name in kept.files}
    faults = json.loads(found["faults"].tobytes())
    texts = {n: Texts(found[n].tobytes().decode("utf-8", "surrogatepass"), found[f"{n}_ends"]) for n in TEXTS}
    return TermTable(
        **texts,
        **{name: found[name] for name in ARRAYS},
        closure=Closure(*(found[name] for name in PARTS)),
        faults=tuple(Fault(f["kind"], f["count"], tuple(f["examples"])) for f in faults),
    )
