"""Author text to ontology terms: `harmonise("cell_type", ["T cell", "B"], "human")`.

Tried in this order: exact id (an obsolete one moves to its replacement), exact label, exact synonym, curated override
(overrides.py). What matches nothing, or more than one term, stays unmapped with a reason and suggestions for a person;
nothing is ever guessed. `unknown` (the author said so) is kept apart from `missing` (the author said nothing). Rules
per label and organism are in allowed.py; atlas writes the term beside the author's own text, curate.py shows a curator
what mapped how.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from .ages import stage_label, stage_years
from .allowed import MULTIPLE, SEPARATOR, as_term_id, ontology_of, refusal, split_terms, text_ontologies
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
How = Literal["id", "replaced", "label", "override", "synonym", "unknown", "missing", "unmapped"]
CONFIDENCE: dict[How, float] = {
    "id": 1.0,  # the author chose the term
    "replaced": 0.95,  # the author chose it, and the ontology's makers say what it is called today
    "label": 0.9,  # the author's words are the term's own name, but the author may have meant something else by them
    "override": 0.8,  # a person decided what the words mean here, and says why
    "synonym": 0.7,  # one term lists the words; the source does not tell exact synonyms from broad or related ones
    "unknown": 0.0,  # no term, so nothing to be sure of
    "missing": 0.0,
    "unmapped": 0.0,
}
"""Confidence of each way of matching, 0-1. The order is the statement: it follows who decided and on what. The steps
between are a convention, measured on nothing: sampling may weigh by them, no probability follows from them."""
HOWS: tuple[How, ...] = tuple(CONFIDENCE)
"""Ways of matching, the most certain first."""

ALONE = frozenset({"PATO:0000461"})
"""Terms that never stand beside another: normal, among diseases (CELLxGENE schema 7.1.0)."""
MISSING = frozenset({"", "nan", "none", "null", "<na>", "nat", "missing"})
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

    @property
    def confidence(self) -> float:
        """Return how sure the match is, 0-1, by the rule that made it; see `CONFIDENCE`."""
        return CONFIDENCE[self.how]

    @property
    def years(self) -> tuple[float, float] | None:
        """Return the span of a stage in years, from and up to; None where the term is no stage of a stated age."""
        return stage_years(self.term_id) if self.mapped else None

    def contradicts(self, other: Match) -> bool:
        """Tell whether two matches of one label cannot both hold: no term of one is, or lies above, one of the other's.

        A narrower term beside a broader one is no contradiction; something unmapped contradicts nothing.
        """
        if not (self.mapped and other.mapped) or self.term_id == other.term_id:
            return False
        mine, theirs = split_terms(self.term_id), split_terms(other.term_id)
        return not any(_same_line(a, b) for a in mine for b in theirs)


class Matches(dict[Any, Match]):
    """Matches by the value that was asked for; None, NaN and NA all answer as None."""

    def __missing__(self, value: object) -> Match:
        """Find a missing value under None: NaN is not equal to itself."""
        if _is_missing(value) and None in self:
            return self[None]
        raise KeyError(value)


def harmonise(
    label: str,
    values: Sequence[str | None],
    organism: str | int | Organism,
    *,
    suggestions: int = SUGGESTION_LIMIT,
) -> Matches:
    """Map the distinct values of one label to terms.

    Parameters
    ----------
    label
        One of `LABELS`.
    values
        Author texts or ids, repeated or not; None and NaN are missing values.
    organism
        Whose cells they describe: it decides which ontologies may be used.
    suggestions
        How many unmapped texts get suggestions, the first ones.

    Returns
    -------
    Matches
        A dict with one `Match` per distinct value.

    Raises
    ------
    OntologyInputError
        When `label` is not one of the nine, or `values` is one text, whose letters would be taken for values.
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
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise OntologyInputError("values", values, "a list of texts")
    found = get_organism(organism)
    matches, budget = Matches(), suggestions
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
    if SEPARATOR.strip() in text:
        return _several(label, text, organism)
    return _single(label, text, organism)


def why_not_overridden(label: str, text: str, organism: Organism) -> str:
    """Return why an override of this text would never be asked for, or an empty string where it would be.

    What the author says by id, label or synonym comes before overrides, and so does saying that nothing is known.
    """
    match = _match(label, text, organism)
    if match.how not in ("unmapped", "override"):
        how = f"by {match.how} to {match.term_id}" if match.mapped else f"as {match.how}"
        return f"the text is taken {how} before overrides are looked at"
    if label == "organism" or (label == "self_reported_ethnicity" and not organism.labels[label]):
        return f"{label} of {organism.name} takes no overrides"
    if label != "cell_culture" and SEPARATOR.strip() in text:
        return "the text holds several values; override each of them by itself"
    if label != "cell_culture" and _spelled_id(label, text, organism):
        return "the text is an id, which means what its ontology says"
    return ""


def _single(label: str, text: str, organism: Organism) -> Match:
    stripped = text.strip()
    if term_id := _spelled_id(label, stripped, organism):
        return _by_id(label, text, term_id, organism)
    reasons: list[str] = []
    tried: tuple[tuple[How, tuple[str, ...]], ...] = (
        ("label", _labelled(label, stripped, organism)),
        ("synonym", _synonymous(label, stripped, organism)),
    )
    for how, candidates in tried:
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


def _spelled_id(label: str, text: str, organism: Organism) -> str | None:
    """Return the id that a text is, of an ontology we know or the label allows; "AB_1" is a text."""
    term_id = as_term_id(text.strip())
    known = term_id and (ontology_of(term_id) or term_id.split(":")[0] in organism.labels[label])
    return term_id if known else None


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
    parts = [_single(label, part, organism) for part in split_terms(text)]
    if lost := [part for part in parts if not part.mapped]:
        return _without_term(text, "unmapped", "; ".join(f"{part.text!r}: {part.reason}" for part in lost[:3]))
    # One term per part and each once, in the ascending order CELLxGENE asks for; as certain as its weakest part.
    terms = dict(sorted((part.term_id, part.label) for part in parts))
    if len(terms) > 1 and (lone := ALONE.intersection(terms)):
        return _without_term(text, "unmapped", f"{min(lone)} stands alone: a cell is normal or has diseases")
    how = max((part.how for part in parts), key=HOWS.index)
    return Match(text, SEPARATOR.join(terms), SEPARATOR.join(terms.values()), how)


def _culture(text: str, folded: str, organism: Organism) -> Match:
    if folded in CULTURES:
        return Match(text, folded, folded, "label")
    chosen = find_override("cell_culture", text, organism)
    if chosen in CULTURES:
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
    """Return a match; an override may name several terms."""
    return Match(text, term_id, SEPARATOR.join(_label_of(one) for one in split_terms(term_id)), how)


def _label_of(term_id: str) -> str:
    ontology = ontology_of(term_id)
    assert ontology is not None
    return ontology.label(term_id)


def _same_line(left: str, right: str) -> bool:
    """Tell whether one id is the other or an ancestor of it."""
    ontology = ontology_of(left)
    if left == right or ontology is None or left not in ontology or right not in ontology:
        return left == right
    return right in ontology.ancestors(left) or left in ontology.ancestors(right)


def _without_term(text: str, how: How, reason: str = "") -> Match:
    return Match(text, "unknown", "unknown", how, reason=reason)
