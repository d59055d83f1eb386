"""What a curator sees of a set of author labels, and what is taken of the answers.

`curate_labels` maps texts and lists how, with suggestions where nothing mapped. `judge_answers` looks at the rows a
curator filled in and either turns them into overrides or says of each what is wrong; nothing is kept here: overrides.py
does, and only if every row is right. Files, spreadsheets and their traps are the catalog's (curation.py there).
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .allowed import MULTIPLE, SEPARATOR, as_term_id, ontology_of, refusal, split_terms
from .errors import UnknownOrganismError
from .match import CULTURES, LABELS, Match, harmonise, why_not_overridden
from .organisms import Organism, get_organism, list_organisms
from .overrides import Override, conflict, find_override, user_override, user_overrides_path
from .suggest import SHOWN, suggest
from .terms import fold_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SUGGESTED = 1000
"""Texts per call that get suggestions, the commonest first: some 10 s at the worst. The rest are counted."""
MAX_TEXT = 500
"""Longest text that may become an override, characters: beyond it, it is a paragraph and no label."""


@dataclass(frozen=True)
class Curated:
    """One author text of one label and organism, and what became of it."""

    label: str
    """One of the nine labels."""
    organism: str
    """Short name of the organism."""
    n: int
    """Cells, or lines of the input, that carry the text."""
    match: Match
    """How it mapped; where it did not, why, and what a curator might choose from."""


@dataclass(frozen=True)
class Answer:
    """One row that a curator filled in."""

    where: str
    """Where it stands, for messages, e.g. `line 7`."""
    label: str
    """One of the nine labels."""
    text: str
    """The author's text."""
    organism: str
    """Any name of an organism, or `*` for every organism the term is allowed for."""
    accept: str
    """Term id (several joined by ` || ` for disease and ethnicity), a cell_culture word, or a suggestion's number."""
    who: str
    """Curator; required."""
    when: str
    """Date, ISO 8601."""
    why: str
    """What the decision rests on; required."""
    suggestions: tuple[str, ...] = ()
    """Ids the curator was shown, in order."""


@dataclass(frozen=True)
class Judgement:
    """What may be kept of a curator's answers, and what is wrong with the others."""

    overrides: Mapping[str, tuple[Override, ...]]
    """Label to sound rows, without repeats, in the order given."""
    refused: tuple[tuple[Answer, str], ...]
    """Rows that cannot be kept, and why."""


def curate_labels(
    counts: Mapping[tuple[str, str, str], int], *, limit: int = SUGGESTED
) -> tuple[tuple[Curated, ...], int]:
    """Map author texts and list them as a curator wants them: what did not map first, the commonest first.

    Parameters
    ----------
    counts
        (label, organism, text) to how many cells or lines carry it.
    limit
        Unmapped texts that get suggestions.

    Returns
    -------
    tuple[tuple[Curated, ...], int]
        The texts, by label in the order of `LABELS` and by organism; and how many unmapped ones were left without
        suggestions because of the limit.

    Raises
    ------
    OntologyInputError
        When a label is not one of the nine.
    UnknownOrganismError
        When an organism is not known.
    """
    groups: dict[tuple[str, str], dict[str, int]] = {}
    for (label, organism, text), n in counts.items():
        group = groups.setdefault((label, get_organism(organism).name), {})
        group[text] = group.get(text, 0) + n
    rows: list[Curated] = []
    for (label, organism), texts in groups.items():
        ordered = sorted(texts, key=lambda text: (-texts[text], text))
        found = harmonise(label, ordered, organism, suggestions=0)
        rows += [Curated(label, organism, texts[text], found[text]) for text in ordered]
    rows.sort(key=lambda row: (row.match.how != "unmapped", -row.n, row.match.text))
    missed = [i for i, row in enumerate(rows) if row.match.how == "unmapped" and not row.match.suggestions]
    for i in missed[:limit]:
        rows[i] = _with_suggestions(rows[i])
    rows.sort(key=lambda row: (LABELS.index(row.label), row.organism))  # stable: within, as before
    return tuple(rows), len(missed[limit:])


def _with_suggestions(row: Curated) -> Curated:
    near = suggest(row.label, row.match.text, get_organism(row.organism))
    return replace(row, match=replace(row.match, suggestions=near))


def judge_answers(answers: Sequence[Answer], *, today: dt.date | None = None) -> Judgement:
    """Look at a curator's answers: which may become overrides, and what is wrong with the others.

    A row is refused where its id is unknown, obsolete, or not allowed for the label and organism; where a number is no
    suggestion's; where nobody or no reason is named; where an override would never be asked for; and where it
    contradicts another row or a former decision of this user's.

    Parameters
    ----------
    answers
        The filled rows.
    today
        Date of rows that state none; today's if None.
    """
    day = (today or dt.datetime.now(dt.UTC).date()).isoformat()
    kept: dict[str, dict[tuple[str, str], tuple[Answer, Override]]] = {}
    refused: list[tuple[Answer, str]] = []
    for answer in answers:
        outcome = _override(answer, day)
        if isinstance(outcome, str):
            refused.append((answer, outcome))
            continue
        here = kept.setdefault(answer.label, {})
        former = user_override(answer.label, outcome.key)
        if former is not None and former.term_id != outcome.term_id:
            refused.append((answer, f"your overrides have {conflict(former, user_overrides_path(answer.label))}"))
        elif outcome.key not in here:
            here[outcome.key] = (answer, outcome)
        elif here[outcome.key][1].term_id != outcome.term_id:
            other, chosen = here[outcome.key]
            refused.append((answer, f"{other.where} says {chosen.term_id} for the same text"))
    return Judgement({label: tuple(o for _, o in rows.values()) for label, rows in kept.items()}, tuple(refused))


def in_force(answer: Answer) -> bool:
    """Tell whether an answer says what the override in force says, so that nothing is left to accept of it."""
    term_id, named = _chosen(answer), answer.organism.strip()
    if term_id is None or answer.label not in LABELS:
        return False
    try:
        organism = None if named == "*" else get_organism(named)
    except UnknownOrganismError:
        return False
    if organism is not None:
        return find_override(answer.label, answer.text, organism) == term_id
    mine = user_override(answer.label, (fold_text(answer.text), "*"))
    return mine is not None and mine.term_id == term_id


def _override(answer: Answer, day: str) -> Override | str:
    """Return the override an answer amounts to, or what is wrong with it."""
    text = " ".join(answer.text.split())
    if answer.label not in LABELS:
        return f"{answer.label!r} is none of {', '.join(LABELS)}"
    if not text or len(text) > MAX_TEXT:
        return f"a text of 1 to {MAX_TEXT} characters is needed, not of {len(text)}"
    for field, value in (("who", answer.who), ("why", answer.why)):
        if not value.strip():
            return f"{field} is empty: every decision has a name and a reason"
    when = answer.when.strip() or day
    try:
        dt.date.fromisoformat(when)
    except ValueError:
        return f"when is {when[:40]!r}, not a date such as {day}"
    term_id = _chosen(answer)
    if term_id is None:
        return f"{answer.accept.strip()[:80]!r} is neither a term id nor the number of a suggestion of this row"
    try:
        organisms = list_organisms() if answer.organism.strip() == "*" else (get_organism(answer.organism.strip()),)
    except UnknownOrganismError as error:
        return str(error)
    if why := _why_not(answer.label, text, term_id, organisms):
        return why
    name = "*" if answer.organism.strip() == "*" else organisms[0].name
    return Override(text, term_id, name, " ".join(answer.who.split()), when, " ".join(answer.why.split()))


def _chosen(answer: Answer) -> str | None:
    """Return the ids, or the word, that an answer names by itself or by a suggestion's number."""
    said = " ".join(answer.accept.split())
    if said.isascii() and said.isdigit():
        number = int(said[:4])
        chosen = answer.suggestions[number - 1] if 1 <= number <= min(SHOWN, len(answer.suggestions)) else ""
        return chosen or None
    if answer.label == "cell_culture":
        return said.casefold()
    ids = [as_term_id(part) for part in split_terms(said)]
    return None if None in ids else SEPARATOR.join(sorted({str(i) for i in ids}))


def _why_not(label: str, text: str, term_id: str, organisms: Sequence[Organism]) -> str:
    """Return why a decision cannot be kept, or an empty string; for several organisms it must hold in one of them."""
    if label == "cell_culture":
        wrong = "" if term_id in CULTURES else f"{term_id!r} is none of {', '.join(CULTURES)}"
        return wrong or why_not_overridden(label, text, organisms[0])
    if SEPARATOR in term_id and label not in MULTIPLE:
        return f"{label} takes one term"
    reasons = [_why_not_in(label, text, term_id, organism) for organism in organisms]
    return "" if "" in reasons else reasons[0]


def _why_not_in(label: str, text: str, term_id: str, organism: Organism) -> str:
    for one in split_terms(term_id):
        ontology = ontology_of(one)
        if ontology is not None and one in ontology and ontology[one].obsolete:
            now = ontology.current(one)
            return f"{one} is obsolete; " + (f"use {now}" if now else "it has no replacement")
        if why := refusal(label, one, organism):
            return why
    return why_not_overridden(label, text, organism)
