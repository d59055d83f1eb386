"""A term and everything below it, for queries: "all lymphocytes" is several hundred ids.

The pinned ontologies of the ground floor say what lies below what; `filters` turns the ids into a condition.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ontology import OntologyInputError, ReferenceMissingError, list_organisms, load_ontology

from .errors import AtlasInputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ontology import Ontology

_ID = re.compile(r"([A-Za-z]+)[:_](\w{1,32})", re.ASCII)


def expand_terms(label: str, terms: Sequence[str]) -> tuple[str, ...]:
    """Return the ids of `terms` and of everything below them, sorted.

    Parameters
    ----------
    label
        One of the nine labels; says in which ontologies a term given by name is looked up.
    terms
        Ids (`CL:0000084`) or exact labels (`T cell`), ignoring case.

    Raises
    ------
    AtlasInputError
        If a name is no term's label, or several terms' (their ids are listed).
    OntologyInputError, UnknownTermError
        If an id is of no pinned ontology, or not a term of its ontology.

    Examples
    --------
    >>> "CL:0000625" in expand_terms("cell_type", ["T cell"])  # CD8-positive, alpha-beta T cell
    True
    """
    found: set[str] = set()
    for term in terms:
        spelled = _ID.fullmatch(term)
        term_id = term if spelled is None else _spell(*spelled.groups())
        if spelled is None:
            term_id, ontology = _named(label, term)
        else:
            ontology = load_ontology(spelled.group(1))
        found |= ontology.descendants(term_id, with_self=True)
    return tuple(sorted(found))


def _spell(prefix: str, rest: str) -> str:
    """Return an id with the separator its ontology uses."""
    return f"{prefix}{'_' if prefix == 'CVCL' else ':'}{rest}"


def _named(label: str, text: str) -> tuple[str, Ontology]:
    """Return the one term of a label's ontologies with this label, and its ontology."""
    for ontology in _ontologies(label):
        found = ontology.by_label(text)
        if len(found) == 1:
            return found[0], ontology
        if found:
            raise AtlasInputError(label, text, f"one term; several have this label, pass an id: {', '.join(found)}")
    raise AtlasInputError(label, text, f"a term's id or exact label; `panatlas search {text!r}` looks synonyms up too")


def _ontologies(label: str) -> Iterator[Ontology]:
    """Yield the pinned ontologies any organism uses for a label, human's first."""
    prefixes = dict.fromkeys(prefix for organism in list_organisms() for prefix in organism.labels.get(label, {}))
    for prefix in prefixes:
        try:
            yield load_ontology(prefix)
        except (OntologyInputError, ReferenceMissingError):
            continue  # a prefix that nothing serves, or whose file is not on this machine
