"""Suggestions for a curator: terms whose names look like a text that matched nothing. Never used to map anything.

Words shared with labels and synonyms pick the candidates, difflib ranks them; both are bounded, since texts are
untrusted and ontologies hold up to 32,000 terms.
"""

from __future__ import annotations

import difflib
from collections import Counter
from typing import TYPE_CHECKING

from .allowed import refusal, text_ontologies
from .terms import Ontology, fold_text, words

if TYPE_CHECKING:
    from .organisms import Organism

SUGGESTION_LIMIT = 200
"""Texts per call that get suggestions: about a second's work at the worst."""
CANDIDATES = 120
"""Terms per text and ontology that are compared letter by letter."""
SHOWN = 5
"""Suggestions per text."""


def suggest(label: str, text: str, organism: Organism) -> tuple[tuple[str, str], ...]:
    """Return up to five ids and labels that resemble a text and are allowed for the label, the likeliest first."""
    folded = fold_text(text[:120])
    scored: dict[str, tuple[float, str]] = {}
    for ontology in text_ontologies(label, organism):
        for term_id in _candidates(ontology, folded):
            term = ontology[term_id]
            score = max(_likeness(folded, fold_text(name)) for name in (term.label, *term.synonyms[:20]))
            scored[term_id] = (score, term.label)
    ranked = sorted(scored, key=lambda term_id: (-scored[term_id][0], term_id))
    allowed = (term_id for term_id in ranked[: 4 * SHOWN] if not refusal(label, term_id, organism))
    return tuple((term_id, scored[term_id][1]) for term_id, _ in zip(allowed, range(SHOWN), strict=False))


def _candidates(ontology: Ontology, folded: str) -> list[str]:
    """Return terms that share words with the text, those with the most and the rarest first."""
    weight: Counter[str] = Counter()
    for word in words(folded)[:12]:
        holders = ontology.by_word(word)
        for term_id in holders[:5000]:
            weight[term_id] += 1 / len(holders)  # type: ignore[assignment]
    return [term_id for term_id, _ in weight.most_common(CANDIDATES)]


def _likeness(left: str, right: str) -> float:
    return difflib.SequenceMatcher(None, left, right[:120], autojunk=False).ratio()
