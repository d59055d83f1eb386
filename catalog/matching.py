"""What a search text means: which labels of the atlas it names, by word, synonym, and everything below a term.

A text matches a cell if one of its labels holds all the words, or if each word matches some label: `lung fibroblast`
finds cells typed `fibroblast of lung`, and fibroblasts whose tissue is lung. `search` runs the condition.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from atlas import OneOf
from ontology import LABELS, SEPARATOR, OntologyError, load_ontology

from .views import run

if TYPE_CHECKING:
    import duckdb

    from ontology import Ontology

_TERM_LABELS = tuple(label for label in LABELS if label not in ("organism", "cell_culture"))
_SAYS_NOTHING = frozenset(
    ("a", "an", "and", "cell", "from", "in", "of", "or", "the", "with")
)  # alone, in an atlas of cells


@dataclass(frozen=True)
class TextMatch:
    """A text as a condition on obs."""

    condition: str
    """Boolean SQL with `?` marks."""
    values: tuple[object, ...]
    """What is bound to the marks, in order."""
    labels: tuple[tuple[str, str], ...]
    """The (column, value) pairs of the atlas it names, sorted; none where it names nothing."""


def match_text(connection: duckdb.DuckDBPyConnection, text: str) -> TextMatch:
    """Return which cells a text names.

    Parameters
    ----------
    connection
        A connection of `views.connect`.
    text
        One or more words; case, punctuation and plural s do not matter.
    """
    vocabulary = _vocabulary(connection)
    whole = _any_label(vocabulary, text)
    words = [word for word in _words(text) if word not in _SAYS_NOTHING]
    if len(words) < 2:
        return whole
    parts = [_any_label(vocabulary, word, exactly=True) for word in words]
    if not all(part.labels for part in parts):
        return whole
    every = " AND ".join(f"({part.condition})" for part in parts)
    values = (*whole.values, *(value for part in parts for value in part.values))
    labels = sorted({pair for part in (whole, *parts) for pair in part.labels})
    return TextMatch(f"({whole.condition}) OR ({every})", values, tuple(labels))


def _any_label(vocabulary: dict[str, dict[str, str]], text: str, *, exactly: bool = False) -> TextMatch:
    """Return the condition that any one label of a cell matches the text; `exactly` as in `_terms_below`."""
    words = _words(text)
    tests: list[str] = []
    values: list[object] = []
    labels: list[tuple[str, str]] = []
    for label, present in vocabulary.items():
        below = _terms_below(
            label, text, {i for ids in present.values() for i in ids.split(SEPARATOR)}, exactly=exactly
        )
        found = [v for v, ids in present.items() if _holds(v, words) or not below.isdisjoint(ids.split(SEPARATOR))]
        if found:
            test, bound = OneOf(label, tuple(found)).to_sql()
            tests.append(f"({test})")
            values += bound
            labels += [(label, value) for value in found]
    return TextMatch(" OR ".join(tests) or "FALSE", tuple(values), tuple(sorted(labels)))


def _vocabulary(connection: duckdb.DuckDBPyConnection) -> dict[str, dict[str, str]]:
    """Return, per label column, every value the atlas has with its term ids; the authors' own words have none."""
    found: dict[str, dict[str, str]] = {}
    for label in _TERM_LABELS:
        pairs = run(connection, f'SELECT DISTINCT "{label}" AS v, "{label}_ontology_term_id" AS i FROM obs')  # noqa: S608
        found[label] = {row["v"]: row["i"] for row in pairs.to_pylist() if row["v"]}
        words = run(connection, f'SELECT DISTINCT "author_{label}" AS v FROM obs')  # noqa: S608 - our own names
        found[f"author_{label}"] = {row["v"]: "" for row in words.to_pylist() if row["v"]}
    words = run(connection, "SELECT DISTINCT tissue_general AS v FROM obs")
    return found | {"tissue_general": {row["v"]: "" for row in words.to_pylist() if row["v"]}}


def _terms_below(label: str, text: str, present: set[str], *, exactly: bool) -> set[str]:
    """Return which ids present in the atlas are, or lie below, a term that has the text as label or synonym.

    Where no term has, and not `exactly`, those one of whose names holds all its words: a single word of a longer text
    must not do that, or `blood` would name every cell below `blood cell`.
    """
    if label not in _TERM_LABELS:
        return set()
    below: set[str] = set()
    for prefix in {re.split("[:_]", term_id, maxsplit=1)[0] for term_id in present}:
        try:
            ontology = load_ontology(prefix)
        except OntologyError:
            continue  # `unknown`, `na`, and prefixes no pinned ontology serves
        roots = set(_exact(ontology, text))
        if not roots and not exactly:
            roots = set(_holding(ontology, _words(text)))
        below |= {i for i in present if i in ontology and not roots.isdisjoint(ontology.ancestors(i, with_self=True))}
    return below


def _exact(ontology: Ontology, text: str) -> tuple[str, ...]:
    """Return the terms that have the text as label or synonym."""
    return (*ontology.by_label(text), *ontology.by_synonym(text))


def _holding(ontology: Ontology, words: tuple[str, ...]) -> list[str]:
    """Return the terms one of whose names holds every word."""
    if not words:
        return []
    candidates = set.intersection(*(set(ontology.by_word(word)) for word in words))
    return [i for i in candidates if any(_holds(n, words) for n in (ontology[i].label, *ontology[i].synonyms))]


def _words(text: str) -> tuple[str, ...]:
    """Return the distinct words of a text without case and plural s, as `Ontology.by_word` compares them."""
    found = re.findall(r"[a-z0-9]+", text.casefold())
    return tuple(dict.fromkeys(word[:-1] if len(word) > 3 and word.endswith("s") else word for word in found))


def _holds(value: str, words: tuple[str, ...]) -> bool:
    """Return whether a label holds every word."""
    return bool(words) and set(words) <= set(_words(value))
