"""Ontologies as mappings from id to `Term`: `load_ontology("CL")["CL:0000084"].label`.

The terms come from compressed assets inside the installed cellxgene-ontology-guide, opened by pinned name and digest;
its Python code is not imported and its NCBITaxon never touched. Its `ancestors` mix is_a and part_of, and so do ours.
match.py looks author text up here.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from .errors import OntologyInputError, ReferenceMismatchError, SourceUnavailableError, UnknownTermError
from .references import OntologyPin, guide_requirement, ontology_pins

Index = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Term:
    """One term of an ontology.

    Examples
    --------
    >>> load_ontology("CL")["CL:0000084"].label
    'T cell'
    """

    id: str
    """CURIE; Cellosaurus ids carry an underscore instead of a colon."""
    label: str
    """Preferred name; empty for some obsolete terms."""
    synonyms: tuple[str, ...]
    """Other names; the source does not say whether exact, broad, narrow or related."""
    parents: tuple[str, ...]
    """Ids one step up, by is_a or part_of."""
    obsolete: bool
    """True where the term must not be used any more."""
    replaced_by: str | None
    """Id to use instead, as the ontology gives it; may lie in another ontology."""
    consider: tuple[str, ...]
    """Ids a person should look at where no single replacement exists."""


class Ontology(Mapping[str, Term]):
    """A pinned release of one ontology, read-only; lookups are built on first use.

    Examples
    --------
    >>> cl = load_ontology("CL")
    >>> cl.by_label("t CELL"), cl.ancestors("CL:0000084")["CL:0000542"]
    (('CL:0000084',), 1)
    """

    def __init__(self, name: str, version: str, records: Mapping[str, Mapping[str, Any]]) -> None:
        """Wrap `records`: per id its label, ancestors (id to distance), and optionally synonyms, deprecated, ..."""
        self.name, self.version = name, version
        self._records = records

    @property
    def release(self) -> str:
        """Return name and version, e.g. `CL v2026-03-26`."""
        return f"{self.name} {self.version}"

    def __len__(self) -> int:
        """Return the number of terms, obsolete ones included."""
        return len(self._records)

    def __iter__(self) -> Iterator[str]:
        """Iterate over ids in the order of the release."""
        return iter(self._records)

    def __contains__(self, term_id: object) -> bool:
        """Tell whether the id is a term, obsolete or not."""
        return isinstance(term_id, str) and term_id in self._records

    def __getitem__(self, term_id: str) -> Term:
        """Return a term.

        Raises
        ------
        UnknownTermError
            A KeyError, when the id is not a term here.
        """
        record = self._record(term_id)
        return Term(
            id=term_id,
            label=record["label"],
            synonyms=tuple(record.get("synonyms", ())),
            parents=tuple(i for i, distance in record["ancestors"].items() if distance == 1),
            obsolete=bool(record["deprecated"]),
            replaced_by=record.get("replaced_by"),
            consider=tuple(record.get("consider", ())),
        )

    def __repr__(self) -> str:
        """Return a one-line summary."""
        return f"Ontology({self.release}, {len(self)} terms)"

    def label(self, term_id: str) -> str:
        """Return a term's label; raises UnknownTermError."""
        return str(self._record(term_id)["label"])

    def ancestors(self, term_id: str, *, with_self: bool = False) -> dict[str, int]:
        """Return every ancestor with its distance in steps; the term itself at 0 where asked for."""
        found = dict(self._record(term_id)["ancestors"])
        return {term_id: 0, **found} if with_self else found

    def descendants(self, term_id: str, *, with_self: bool = False) -> frozenset[str]:
        """Return every term that has this one among its ancestors."""
        self._record(term_id)
        found = self._children.get(term_id, frozenset())
        return found | {term_id} if with_self else found

    def current(self, term_id: str) -> str | None:
        """Return the id to use today: itself, the end of its chain of replacements, or None where there is none.

        A replacement in another ontology is returned as it stands; the chain is not followed there.
        """
        seen: set[str] = set()
        here = term_id
        self._record(here)
        while here in self._records and self._records[here]["deprecated"]:
            seen.add(here)
            following = self._records[here].get("replaced_by")
            if not following or following in seen:
                return None
            here = str(following)
        return here

    def by_label(self, text: str) -> tuple[str, ...]:
        """Return current terms with this label, ignoring case, underscores and runs of blanks."""
        return self._labels.get(fold_text(text), ())

    def by_synonym(self, text: str) -> tuple[str, ...]:
        """Return current terms that list this text among their synonyms, compared as in `by_label`."""
        return self._synonyms.get(fold_text(text), ())

    def by_word(self, word: str) -> tuple[str, ...]:
        """Return current terms whose label or synonyms hold a word, compared without case and plural s."""
        return self._words.get(word, ())

    def _record(self, term_id: str) -> Mapping[str, Any]:
        try:
            return self._records[term_id]
        except (KeyError, TypeError):
            raise UnknownTermError(term_id, self.release) from None

    @cached_property
    def _children(self) -> dict[str, frozenset[str]]:
        below: dict[str, set[str]] = {}
        for term_id, record in self._records.items():
            for ancestor in record["ancestors"]:
                below.setdefault(ancestor, set()).add(term_id)
        return {term_id: frozenset(found) for term_id, found in below.items()}

    @cached_property
    def _labels(self) -> Index:
        return self._index(lambda record: (record["label"],), fold_text)

    @cached_property
    def _synonyms(self) -> Index:
        return self._index(lambda record: record.get("synonyms", ()), fold_text)

    @cached_property
    def _words(self) -> Index:
        found: dict[str, dict[str, None]] = {}
        for term_id, record in self._current():
            for word in words(" ".join((record["label"], *record.get("synonyms", ())))):
                found.setdefault(word, {})[term_id] = None
        return {word: tuple(ids) for word, ids in found.items()}

    def _current(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        return ((i, record) for i, record in self._records.items() if not record["deprecated"])

    def _index(self, names: Any, fold: Any) -> Index:
        found: dict[str, dict[str, None]] = {}
        for term_id, record in self._current():
            for name in names(record):
                if key := fold(name):
                    found.setdefault(key, {})[term_id] = None
        return {key: tuple(ids) for key, ids in found.items()}


def fold_text(text: str) -> str:
    """Return text as it is compared: without case, underscores as blanks, blanks collapsed."""
    return " ".join(text.replace("_", " ").split()).casefold()


def words(text: str) -> tuple[str, ...]:
    """Return the distinct words of a text, without case and plural s."""
    found = re.findall(r"[a-z0-9]+", fold_text(text))
    return tuple(dict.fromkeys(word[:-1] if len(word) > 3 and word.endswith("s") else word for word in found))


def load_ontology(prefix: str) -> Ontology:
    """Return the pinned ontology that serves a CURIE prefix; read once per process.

    Parameters
    ----------
    prefix
        Name or prefix, such as `CL`, `UBERON`, or `ZFS` (whose terms live in ZFA).

    Raises
    ------
    OntologyInputError
        When no ontology of that prefix is pinned.
    SourceUnavailableError
        When the installed guide does not carry the pinned release.
    ReferenceMismatchError
        When its bytes are not the pinned ones.
    """
    pin = ontology_pins().get(prefix)
    if pin is None:
        raise OntologyInputError("prefix", prefix, f"one of {', '.join(ontology_pins())}")
    return _load(pin)


@cache
def _load(pin: OntologyPin) -> Ontology:
    import zstandard  # noqa: PLC0415 - 20 ms that callers without an ontology need not pay

    data = _asset(pin).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != pin.sha256:
        raise ReferenceMismatchError(f"{pin.file} of {guide_requirement()}", f"sha256 {pin.sha256}", f"sha256 {digest}")
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)) as stream:
        return Ontology(pin.name, pin.version, json.load(io.TextIOWrapper(stream, encoding="utf-8")))


def _asset(pin: OntologyPin) -> Path:
    try:
        guide = metadata.distribution("cellxgene-ontology-guide")
    except metadata.PackageNotFoundError as error:
        raise SourceUnavailableError(pin.file, "cellxgene-ontology-guide is not installed", _remedy()) from error
    path = Path(str(guide.locate_file(f"cellxgene_ontology_guide/data/{pin.file}")))
    if not path.is_file():
        raise SourceUnavailableError(pin.file, f"cellxgene-ontology-guide {guide.version} lacks it", _remedy())
    return path


def _remedy() -> str:
    return f"install {guide_requirement()}"
