"""Author text to ontology terms: `harmonise("cell_type", ["T cell", "B"], "human")`.

Tried in this order: exact id (an obsolete one moves to its replacement), exact label, exact synonym, curated override
(overrides.py). What matches nothing, or more than one term, stays unmapped with a reason and suggestions for a person;
nothing is ever guessed. `unknown` (the author said so) is kept apart from `missing` (the author said nothing). Rules
per label and organism are in allowed.py; atlas writes the term beside the author's own text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from .ages import stage_label
from .allowed import as_term_id, ontology_of, refusal, text_ontologies
from .errors import OntologyInputError, UnknownOrganismError
from .organisms import Organism, get_organism
from .overrides import find_override
from .suggest import SUGGESTION_LIMIT, suggest
from .terms import fold_text

if TYPE_CHECKING:
    from collections.abc import Sequence

LABELS = (
    "cell_type",
    "disease",
    "development_stage",
    "tissue",
    "assay",
    "self_reported_ethnicity",
    "sex",
    "cell_culture",
    "organism",
)
"""The nine labels of a cell."""
CULTURES = ("tissue", "organoid", "primary cell culture", "cell line")
"""Values of cell_culture: the CELLxGENE tissue_type vocabulary, which has no ids."""
How = Literal["id", "replaced", "label", "synonym", "override", "unknown", "missing", "unmapped"]
HOWS: tuple[How, ...] = ("id", "replaced", "label", "synonym", "override", "unknown", "missing", "unmapped")
"""Ways of matching, the most certain first."""

MULTIPLE = ("disease", "self_reported_ethnicity")
"""Labels that may carry several terms per cell, joined by ` || ` in ascending order."""
MISSING = frozenset({"", "nan", "none", "null", "<na>", "nat"})
"""Texts that stand for no value: what tables turn an empty cell into."""
UNKNOWN = frozenset(
    {
        *("unknown", "na", "n/a", "n.a.", "not available", "not applicable", "not reported", "not provided"),
        *("not determined", "not specified", "unspecified", "undetermined", "undefined", "unannotated", "unassigned"),
        *("unlabelled", "unlabeled", "unclassified", "?", "-", "--"),
    }
)
"""Texts by which authors say that they do not know or did not annotate."""
SHORT_SYNONYM = 3
"""Synonyms below this length are not believed: "LC" is a Langerhans cell to CL and a luminal cell to others."""


@dataclass(frozen=True)
class Match:
    """What one author text became."""

    text: str
    """The author's text as given; empty where there was none."""
    term_id: str
    """Term id (several joined by ` || `), a cell_culture word, `unknown` where not mapped, or `na`."""
    label: str
    """Label of the term; equals `term_id` where that is `unknown`, `na` or a cell_culture word."""
    how: How
    """Which rule matched, or why none did."""
    suggestions: tuple[tuple[str, str], ...] = ()
    """Ids and labels a curator might choose from, the likeliest first; only where unmapped."""
    reason: str = ""
    """Why the text was not mapped, or what replaced what."""

    @property
    def mapped(self) -> bool:
        """True where the text became a term."""
        return self.how in ("id", "replaced", "label", "synonym", "override")


class Matches(dict[Any, Match]):
    """Matches by the value that was asked for; None, NaN and NA all answer as None."""

    def __missing__(self, value: object) -> Match:
        """Find a missing value under None: NaN is not equal to itself."""
        if _is_missing(value) and None in self:
            return self[None]
        raise KeyError(value)


def harmonise(label: str, values: Sequence[str | None], organism: str | int | Organism) -> Matches:
    """Map the distinct values of one label to terms.

    Parameters
    ----------
    label
        One of `LABELS`.
    values
        Author texts or ids, repeated or not; None and NaN are missing values.
    organism
        Whose cells they describe: it decides which ontologies may be used.

    Returns
    -------
    Matches
        A dict with one `Match` per distinct value.

    Raises
    ------
    OntologyInputError
        When `label` is not one of the nine.
    UnknownOrganismError
        When the organism is not known.

    Examples
    --------
    >>> found = harmonise("cell_type", ["t cell", "CL_0000236", "blob"], "human")
    >>> [(m.term_id, m.how) for m in found.values()]
    [('CL:0000084', 'label'), ('CL:0000236', 'id'), ('unknown', 'unmapped')]
    """
    if label not in LABELS:
        raise OntologyInputError("label", label, f"one of {', '.join(LABELS)}")
    found = get_organism(organism)
    matches, budget = Matches(), SUGGESTION_LIMIT
    for value in values:
        key = None if _is_missing(value) else value
        if key in matches:
            continue
        match = _match(label, "" if key is None else str(key), found)
        if match.how == "unmapped" and budget > 0 and not match.suggestions:
            budget -= 1
            match = replace(match, suggestions=suggest(label, match.text, found))
        matches[key] = match
    return matches


def _is_missing(value: object) -> bool:
    if value is None or isinstance(value, str):
        return value is None
    try:
        return bool(value != value)  # noqa: PLR0124 - NaN and NaT are the scalars that do not equal themselves
    except TypeError:  # and NA is the one that will not say
        return True


def _match(label: str, text: str, organism: Organism) -> Match:
    """Return the match of one text, without suggestions."""
    folded = fold_text(text)
    if label == "self_reported_ethnicity" and not organism.labels[label]:
        return _ethnicity_of_animal(text, folded)
    if folded in MISSING:
        return _without_term(text, "missing")
    if folded in UNKNOWN:
        return _without_term(text, "unknown")
    if label == "cell_culture":
        return _culture(text, folded, organism)
    if label == "organism":
        return _organism(text, organism)
    if "||" in text:
        return _several(label, text, organism)
    return _single(label, text, organism)


def _single(label: str, text: str, organism: Organism) -> Match:
    stripped = text.strip()
    term_id = as_term_id(stripped)
    if term_id and (ontology_of(term_id) or term_id.split(":")[0] in organism.labels[label]):
        return _by_id(label, text, term_id, organism)
    reasons: list[str] = []
    for how, candidates in (
        ("label", _labelled(label, stripped, organism)),
        ("synonym", _synonymous(label, stripped, organism)),
    ):
        allowed = [i for i in candidates if not refusal(label, i, organism)]
        if len(allowed) == 1:
            return _with_term(text, allowed[0], how)
        if len(allowed) > 1:
            reasons.append(f"{how} of several terms: {', '.join(allowed[:5])}")
        elif candidates:
            reasons.append(refusal(label, candidates[0], organism))
    if chosen := find_override(label, stripped, organism):
        return _with_term(text, chosen, "override")
    return _without_term(text, "unmapped", "; ".join(reasons) or f"no term of {label} has this name")


def _labelled(label: str, text: str, organism: Organism) -> tuple[str, ...]:
    """Return the terms with this label, from the first ontology that has any; ages are spelled as stages."""
    spellings = [text]
    if label == "development_stage" and (stage := stage_label(text)):
        spellings.append(stage)
    for spelling in spellings:
        for ontology in text_ontologies(label, organism):
            if found := ontology.by_label(spelling):
                return found
    return ()


def _synonymous(label: str, text: str, organism: Organism) -> tuple[str, ...]:
    if len(text) < SHORT_SYNONYM:
        return ()
    for ontology in text_ontologies(label, organism):
        if found := ontology.by_synonym(text):
            return found
    return ()


def _by_id(label: str, text: str, term_id: str, organism: Organism) -> Match:
    ontology = ontology_of(term_id)
    if ontology is None or term_id not in ontology:
        return _without_term(text, "unmapped", refusal(label, term_id, organism))
    current = ontology.current(term_id)
    if current is None:
        consider = tuple((i, ontology.label(i)) for i in ontology[term_id].consider if i in ontology)
        reason = f"{term_id} is obsolete and has no replacement"
        return replace(_without_term(text, "unmapped", reason), suggestions=consider)
    if why := refusal(label, current, organism):
        return _without_term(text, "unmapped", why)
    if current == term_id:
        return _with_term(text, term_id, "id")
    return replace(_with_term(text, current, "replaced"), reason=f"{term_id} is obsolete")


def _several(label: str, text: str, organism: Organism) -> Match:
    if label not in MULTIPLE:
        return _without_term(text, "unmapped", f"{label} takes one value per cell")
    parts = [_single(label, part.strip(), organism) for part in text.split("||")]
    if lost := [part for part in parts if not part.mapped]:
        return _without_term(text, "unmapped", "; ".join(f"{part.text!r}: {part.reason}" for part in lost[:3]))
    # One term per part and each once, in the ascending order CELLxGENE asks for; as certain as its weakest part.
    terms = dict(sorted((part.term_id, part.label) for part in parts))
    how = max((part.how for part in parts), key=HOWS.index)
    return Match(text, " || ".join(terms), " || ".join(terms.values()), how)


def _culture(text: str, folded: str, organism: Organism) -> Match:
    if folded in CULTURES:
        return Match(text, folded, folded, "label")
    if chosen := find_override("cell_culture", text, organism):
        return Match(text, chosen, chosen, "override")
    reason = f"not one of {', '.join(CULTURES)}"
    return replace(_without_term(text, "unmapped", reason), suggestions=tuple((word, word) for word in CULTURES))


def _organism(text: str, organism: Organism) -> Match:
    try:
        named = get_organism(text.strip())
    except UnknownOrganismError as error:
        near = tuple((o.term_id, o.label) for o in map(get_organism, error.nearest))
        return replace(_without_term(text, "unmapped", str(error)), suggestions=near)
    if named != organism:
        reason = f"{text.strip()!r} is {named.name}, and these cells are taken as {organism.name}"
        return replace(_without_term(text, "unmapped", reason), suggestions=((named.term_id, named.label),))
    how: How = "id" if as_term_id(text.strip()) == named.term_id else "label"
    return Match(text, named.term_id, named.label, how)


def _ethnicity_of_animal(text: str, folded: str) -> Match:
    """Return `na`: the schema gives ethnicity to people only. An author's word for it is still reported."""
    if folded in MISSING:
        return Match(text, "na", "na", "missing")
    if folded in UNKNOWN:
        return Match(text, "na", "na", "id" if folded == "na" else "unknown")
    return Match(text, "na", "na", "unmapped", reason="self_reported_ethnicity is for human cells only")


def _with_term(text: str, term_id: str, how: How) -> Match:
    ontology = ontology_of(term_id)
    assert ontology is not None
    return Match(text, term_id, ontology.label(term_id), how)


def _without_term(text: str, how: How, reason: str = "") -> Match:
    return Match(text, "unknown", "unknown", how, reason=reason)
