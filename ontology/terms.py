"""Ontologies as mappings from id to `Term`: `load_ontology("CL")["CL:0000084"].label`.

The pinned guide's `ancestors` mix is_a and part_of, and so do ours; ontologies read from files know the relation. Where
they come from is in ontologies.py and ontology_files.py, the arrays behind a mapping in term_table.py. match.py looks
author text up here, label_space.py makes classes of terms.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from .errors import UnknownTermError
from .term_table import TermTable, make_table

if TYPE_CHECKING:
    from .graph import Closure
    from .term_table import Fault

Derived = TypeVar("Derived")
Index = dict[str, tuple[str, ...]]
RELATIONS = ("is_a", "part_of")
"""Relations whose other end lies above a term, unless a reader is told otherwise; the guide knows no other choice."""


@dataclass(frozen=True)
class Term:
    """One term of an ontology.

    Examples
    --------
    >>> from ontology import load_ontology
    >>> load_ontology("CL")["CL:0000084"].label
    'T cell'
    """

    id: str
    """CURIE; Cellosaurus ids carry an underscore instead of a colon."""
    label: str
    """Preferred name; empty for some obsolete terms, and for ids that are used and defined elsewhere."""
    synonyms: tuple[str, ...]
    """Other names; the guide does not say whether exact, broad, narrow or related; from files the exact ones."""
    parents: tuple[str, ...]
    """Ids one step up, by is_a or part_of; may be empty for a term that has farther ancestors (see `Ontology`)."""
    obsolete: bool
    """True where the term must not be used any more."""
    replaced_by: str | None
    """Id to use instead, as the ontology gives it; may lie in another ontology."""
    consider: tuple[str, ...]
    """Ids a person should look at where no single replacement exists."""


class Ontology(Mapping[str, Term]):
    """A release of one ontology, read-only; lookups are built on first use.

    The guide leaves terms of other ontologies out but counts the steps through them: in EFO, `organism part` has the
    ancestor EFO:0000001 at distance 2 and no parent. So distances are true, and walking `parents` may stop too early.

    Examples
    --------
    >>> from ontology import load_ontology
    >>> cl = load_ontology("CL")
    >>> cl.by_label("t CELL"), cl.ancestors("CL:0000084")["CL:0000542"]
    (('CL:0000084',), 1)
    >>> cl.nearest_common_ancestor("CL:0000084", "CL:0000236"), cl.distance("CL:0000084", "CL:0000236")
    ('CL:0000542', 3)
    """

    def __init__(
        self,
        name: str,
        version: str,
        records: Mapping[str, Mapping[str, Any]] | TermTable,
        relations: tuple[str, ...] = RELATIONS,
    ) -> None:
        """Wrap `records`: per id its label, deprecated, ancestors (id to distance) or parents; see `make_table`."""
        self.name, self.version, self.relations = name, version, relations
        self._table = records if isinstance(records, TermTable) else make_table(records)
        self._ids = tuple(self._table.ids)
        self._index = {term_id: i for i, term_id in enumerate(self._ids)}
        self._derived: dict[Callable[[Ontology], Any], Any] = {}

    @property
    def release(self) -> str:
        """Return name and version, e.g. `CL v2026-03-26`."""
        return f"{self.name} {self.version}"

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Return what was odd in the source and how often: undefined ids, duplicates, cycles, malformed lines."""
        return self._table.faults

    def __len__(self) -> int:
        """Return the number of terms, obsolete and undefined ones included."""
        return len(self._ids)

    def __iter__(self) -> Iterator[str]:
        """Iterate over ids in the order of the release."""
        return iter(self._ids)

    def __contains__(self, term_id: object) -> bool:
        """Tell whether the id is a term, obsolete or not."""
        return isinstance(term_id, str) and term_id in self._index

    def __getitem__(self, term_id: str) -> Term:
        """Return a term.

        Raises
        ------
        UnknownTermError
            A KeyError, when the id is not a term here.
        """
        i = self._at(term_id)
        above, steps = self._table.closure.row(i)
        return Term(
            id=term_id,
            label=self._table.labels[i],
            synonyms=self._table.synonyms_of(i),
            parents=self._named(above[steps == 1]),
            obsolete=bool(self._table.obsolete[i]),
            replaced_by=self._table.replaced_by[i] or None,
            consider=self._table.consider_of(i),
        )

    def __repr__(self) -> str:
        """Return a one-line summary."""
        return f"Ontology({self.release}, {len(self)} terms)"

    def label(self, term_id: str) -> str:
        """Return a term's label; raises UnknownTermError."""
        return self._table.labels[self._at(term_id)]

    def closure(self) -> Closure:
        """Return all ancestors and distances as arrays over positions; position i is the i-th id of the iteration."""
        return self._table.closure

    def parents(self, term_id: str) -> tuple[str, ...]:
        """Return the ids one step up, in the order of the release."""
        return self[term_id].parents

    def children(self, term_id: str) -> tuple[str, ...]:
        """Return the ids one step down, in the order of the release."""
        return self._named(self._table.closure.children(self._at(term_id)))

    def ancestors(self, term_id: str, *, with_self: bool = False) -> dict[str, int]:
        """Return every ancestor with its distance in steps, the nearest first; the term itself at 0 where asked for."""
        above, steps = self._table.closure.row(self._at(term_id))
        found = dict(zip(self._named(above), steps.tolist(), strict=True))
        return {term_id: 0, **found} if with_self else found

    def descendants(self, term_id: str, *, with_self: bool = False) -> frozenset[str]:
        """Return every term that has this one among its ancestors."""
        found = frozenset(self._named(self._table.closure.below(self._at(term_id))))
        return found | {term_id} if with_self else found

    def depth(self, term_id: str) -> int:
        """Return the steps to the nearest root, by the shortest way; 0 for a root, and for what hangs nowhere.

        The longest way is left out on purpose: one odd link moves it by many steps.
        """
        return int(self._table.closure.depth[self._at(term_id)])

    def distance(self, one: str, other: str) -> int | None:
        """Return the steps from one term up to a common ancestor and down to the other, at least; None where none is.

        A term is its own ancestor here, so to an ancestor it is the distance upwards.
        """
        common = self._common(one, other)
        return min((a + b for a, b in common.values()), default=None)

    def nearest_common_ancestors(self, one: str, other: str) -> tuple[str, ...]:
        """Return the common ancestors that have no other common ancestor below them, the likeliest first.

        A term is its own ancestor here. Order: fewest steps from both together, then the deepest, then by id.
        """
        common = self._common(one, other)
        closure = self._table.closure
        higher = {int(above) for term in common for above in closure.row(term)[0]}
        lowest = [term for term in common if term not in higher]
        ranked = sorted(lowest, key=lambda t: (sum(common[t]), -int(closure.depth[t]), self._ids[t]))
        return self._named(ranked)

    def nearest_common_ancestor(self, one: str, other: str) -> str | None:
        """Return the first of `nearest_common_ancestors`; None where two terms share nothing."""
        return next(iter(self.nearest_common_ancestors(one, other)), None)

    def current(self, term_id: str) -> str | None:
        """Return the id to use today: itself, the end of its chain of replacements, or None where there is none.

        A replacement in another ontology is returned as it stands; the chain is not followed there.
        """
        seen: set[str] = set()
        here = term_id
        self._at(here)
        while here in self._index and self._table.obsolete[self._index[here]]:
            seen.add(here)
            following = self._table.replaced_by[self._index[here]]
            if not following or following in seen:
                return None
            here = following
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

    def derived(self, make: Callable[[Ontology], Derived]) -> Derived:
        """Return what `make` derives from this ontology, made on first use; it lives as long as the ontology does."""
        if make not in self._derived:
            self._derived[make] = make(self)
        return self._derived[make]

    def _at(self, term_id: str) -> int:
        try:
            return self._index[term_id]
        except (KeyError, TypeError):
            raise UnknownTermError(term_id, self.release) from None

    def _named(self, positions: Iterable[int]) -> tuple[str, ...]:
        return tuple(self._ids[i] for i in positions)

    def _common(self, one: str, other: str) -> dict[int, tuple[int, int]]:
        """Return the distance of both terms to each common ancestor, by position."""
        ours = self._table.closure.row_with_self(self._at(one))
        theirs = self._table.closure.row_with_self(self._at(other))
        return {term: (steps, theirs[term]) for term, steps in ours.items() if term in theirs}

    @cached_property
    def _labels(self) -> Index:
        return self._gather(lambda i: (self._table.labels[i],), fold_text)

    @cached_property
    def _synonyms(self) -> Index:
        return self._gather(self._table.synonyms_of, fold_text)

    @cached_property
    def _words(self) -> Index:
        found: dict[str, dict[str, None]] = {}
        for i in self._current():
            for word in words(" ".join((self._table.labels[i], *self._table.synonyms_of(i)))):
                found.setdefault(word, {})[self._ids[i]] = None
        return {word: tuple(ids) for word, ids in found.items()}

    def _current(self) -> list[int]:
        return np.flatnonzero(~self._table.obsolete).tolist()

    def _gather(self, names: Callable[[int], Iterable[str]], fold: Callable[[str], str]) -> Index:
        found: dict[str, dict[str, None]] = {}
        for i in self._current():
            for name in names(i):
                if key := fold(name):
                    found.setdefault(key, {})[self._ids[i]] = None
        return {key: tuple(ids) for key, ids in found.items()}


def fold_text(text: str) -> str:
    """Return text as it is compared: without case, underscores as blanks, blanks collapsed."""
    return " ".join(text.replace("_", " ").split()).casefold()


def words(text: str) -> tuple[str, ...]:
    """Return the distinct words of a text, without case and plural s."""
    found = re.findall(r"[a-z0-9]+", fold_text(text))
    return tuple(dict.fromkeys(word[:-1] if len(word) > 3 and word.endswith("s") else word for word in found))
