"""Suggestions for a curator: terms whose names look like a text that matched nothing. Never used to map anything.

Every name of an ontology is a bag of words, rare words weigh more than common ones, and names are ranked by the weight
they share with the text against the weight of both. Abbreviations, beginnings of words, `+` after a marker and words
run together are read as what they may stand for; each such reading counts less than the word itself. Work per text is
bounded: texts are untrusted, and MONDO has 140,000 names.
"""

from __future__ import annotations

import bisect
import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .allowed import ID_ONLY, ontology_of, refusal, text_ontologies
from .terms import Ontology, Term, words

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .organisms import Organism

SUGGESTION_LIMIT = 200
"""Texts per call of `harmonise` that get suggestions: about a second's work at the worst."""
SHOWN = 5
"""Suggestions per text."""
NAMES = 200
"""Names per text and ontology that are looked at one by one, the best."""
SYNONYMS = 20
"""Synonyms per term that are read."""
READ = 12
"""Words of a text that are read."""
LIKENED = 400
"""Words an unknown word is compared with letter by letter."""

ABBREVIATIONS = {
    "nk": "natural killer", "dc": "dendritic", "mdc": "myeloid dendritic", "cdc": "conventional dendritic",
    "pdc": "plasmacytoid dendritic", "treg": "regulatory t", "tcm": "central memory t", "tem": "effector memory t",
    "temra": "effector memory t terminally differentiated", "tfh": "follicular helper t", "th": "helper t",
    "mait": "mucosal invariant t", "ilc": "innate lymphoid", "mk": "megakaryocyte", "rbc": "erythrocyte",
    "ery": "erythroid", "hsc": "hematopoietic stem", "mpp": "hematopoietic multipotent progenitor",
    "hspc": "hematopoietic precursor", "gmp": "granulocyte monocyte progenitor", "lmpp": "lymphoid progenitor",
    "cmp": "common myeloid progenitor", "clp": "common lymphoid progenitor", "msc": "mesenchymal stem",
    "mep": "megakaryocyte erythroid progenitor", "opc": "oligodendrocyte precursor", "neut": "neutrophil",
    "oligo": "oligodendrocyte", "rgc": "retinal ganglion", "ec": "endothelial", "smc": "smooth muscle",
    "vsmc": "vascular smooth muscle", "at1": "type 1 pneumocyte", "at2": "type 2 pneumocyte",
    "inhibitory": "gabaergic neuron", "excitatory": "glutamatergic neuron", "inh": "gabaergic neuron",
    "exc": "glutamatergic neuron", "fcgr3a": "cd16 positive", "ms4a1": "b",
    "pbmc": "blood", "pbmcs": "blood", "bm": "bone marrow", "ln": "lymph node", "cns": "central nervous system",
    "healthy": "normal", "control": "normal", "ctrl": "normal", "hc": "normal", "ad": "alzheimer disease",
    "t2d": "type 2 diabetes", "t1d": "type 1 diabetes", "luad": "lung adenocarcinoma", "sle": "systemic lupus",
    "crc": "colorectal carcinoma", "hcc": "hepatocellular carcinoma", "ms": "multiple sclerosis",
    "m": "male", "f": "female", "man": "male", "woman": "female", "boy": "male", "girl": "female",
}  # fmt: skip
"""What shorthand of cell annotation may stand for; a reading beside the word itself, for suggestions only."""
FILLER = frozenset(
    {
        *("cell", "other", "like", "unknown", "type", "cluster", "sample", "patient", "adult", "human", "mouse"),
        *("alpha", "beta", "positive", "and"),  # CL spells out "alpha-beta" and "positive", annotations do not
    }
)
"""Words that tell terms apart little, though an ontology may hold few of them."""
ABBREVIATED, BEGUN, ALIKE, SPLIT, FILLED = 0.9, 0.75, 0.6, 0.8, 0.2
"""Weight of a reading against the word itself: shorthand, beginning of a word, spelled alike, part of one, filler."""
UNREAD = 2.0
"""Weight in a text of a word the ontology does not know; a middling word of it weighs 7."""
LABEL_BONUS = 0.03
"""Added where the name is the term's label: of equals, the term that is called so."""
LEAST = 0.15
"""Score below which a name is no help: one common word shared among many."""


@dataclass(frozen=True)
class Names:
    """Every name of an ontology's current terms as a bag of words."""

    terms: tuple[str, ...]
    """Term id per name."""
    is_label: np.ndarray
    """Bool per name: the term's label, not a synonym."""
    weight: np.ndarray
    """Weight of all words of a name, float64."""
    holders: dict[str, np.ndarray]
    """Word to the names that hold it, int64 positions."""
    vocabulary: tuple[str, ...]
    """The words, sorted."""

    def idf(self, word: str) -> float:
        """Return the weight of a word: rare words tell more, filler little."""
        return float(np.log1p(len(self.terms) / len(self.holders[word]))) * (FILLED if word in FILLER else 1.0)


def suggest(label: str, text: str, organism: Organism) -> tuple[tuple[str, str], ...]:
    """Return up to five ids and labels that resemble a text and are allowed for the label, the likeliest first."""
    text = text[:120]
    scored: dict[str, tuple[float, Ontology]] = {}
    for ontology in text_ontologies(label, organism):
        for term_id, score in _ranked(ontology.derived(read_names), text):
            scored[term_id] = max(scored.get(term_id, (0.0, ontology)), (score, ontology), key=lambda pair: pair[0])
        for term_id in ontology.derived(squeeze_names).get(_squeeze(text), ()):  # Dropseq, CELseq2
            scored[term_id] = (1.0 + LABEL_BONUS, ontology)
    for prefix in ID_ONLY.get(label, ()):
        one_name = re.search(r"\d", text) and not re.search(r"\s", text)  # A549, but neither BM nor "layer 5"
        lined = ontology_of(f"{prefix}:") if one_name and prefix in organism.labels[label] else None
        if lined is not None:
            lines = lined.derived(squeeze_labels)  # 167,000, and Cellosaurus has no other names here
            for term_id in (*lines.get(_squeeze(text), ()), *lines.get(f"nci{_squeeze(text)}", ()))[:SHOWN]:
                if not lined[term_id].obsolete:
                    scored[term_id] = (1.0, lined)
    ranked = sorted(scored, key=lambda i: (-round(scored[i][0], 6), len(scored[i][1].label(i)), i))
    allowed = (term_id for term_id in ranked if not refusal(label, term_id, organism))
    return tuple(
        (term_id, scored[term_id][1].label(term_id)) for term_id, _ in zip(allowed, range(SHOWN), strict=False)
    )


def _ranked(names: Names, text: str) -> list[tuple[str, float]]:
    """Return terms and scores of the names most like a text, as written or with shorthand spelled out."""
    plain = [(word, 1.0) for word in _split(text)]
    if not plain or not names.terms:
        return []
    long = [reading for word in _split(text) for reading in _spelled_out(word)]
    score = np.maximum(_score(names, plain), _score(names, long) if long != plain else 0.0)
    top = np.argpartition(-score, min(NAMES, len(score) - 1))[:NAMES]
    found: dict[str, float] = {}
    for i in top[np.argsort(-score[top], kind="stable")]:
        if score[i] > LEAST:
            found.setdefault(names.terms[i], float(score[i]))
    return list(found.items())


def _score(names: Names, said: list[tuple[str, float]]) -> np.ndarray:
    """Return each name's likeness to words and how sure they are: twice the shared weight over both weights."""
    shared, asked = np.zeros(len(names.terms)), 0.0
    for word, sure in said:
        parts = [word] if word in names.holders else re.findall(r"[a-z]+|\d+", word)
        for part in parts:
            best, most = np.zeros(len(names.terms)), 0.0
            for reading, quality in _readings(names, part).items():
                weight, ids = names.idf(reading), names.holders[reading]
                best[ids] = np.maximum(best[ids], sure * quality * (SPLIT if len(parts) > 1 else 1.0) * weight)
                most = max(most, weight)
            shared += best
            asked += most or UNREAD / len(parts)
    return np.where(shared > 0, 2 * shared / (asked + names.weight) + LABEL_BONUS * names.is_label, 0.0)


def _split(text: str) -> list[str]:
    """Return the words of a text; TCell are two, `CD4+` is `cd4 positive`."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", text)
    spaced = re.sub(r"(?<=\w)\+", " positive ", spaced)
    spaced = re.sub(r"(?<=\w)-(?=[\s,/)]|$)", " negative ", spaced)
    return list(words(spaced)[:READ])


def _spelled_out(word: str) -> list[tuple[str, float]]:
    return [(long, ABBREVIATED) for long in words(ABBREVIATIONS[word])] if word in ABBREVIATIONS else [(word, 1.0)]


def _readings(names: Names, word: str) -> dict[str, float]:
    if word in names.holders:
        return {word: 1.0}
    if len(word) < 3:
        return {}
    start = bisect.bisect_left(names.vocabulary, word)
    begun = [w for w in names.vocabulary[start : start + 50] if w.startswith(word)]
    if begun:
        return dict.fromkeys(begun, BEGUN)
    if len(word) < 5:
        return {}
    near = bisect.bisect_left(names.vocabulary, word[:2])
    pool = [w for w in names.vocabulary[near : near + 4 * LIKENED] if abs(len(w) - len(word)) < 3][:LIKENED]
    return dict.fromkeys(difflib.get_close_matches(word, pool, n=3, cutoff=0.8), ALIKE)


def read_names(ontology: Ontology) -> Names:
    """Return an ontology's names as bags of words; ask for them by `ontology.derived`, which makes them once."""
    terms: list[str] = []
    is_label: list[bool] = []
    bags: list[tuple[str, ...]] = []
    for term_id, term in ontology.items():
        for name in _names_of(term):
            terms.append(term_id)
            is_label.append(name == term.label)
            bags.append(words(name)[: 2 * READ])
    holders: dict[str, list[int]] = {}
    for i, bag in enumerate(bags):
        for word in bag:
            holders.setdefault(word, []).append(i)
    arrays = {word: np.array(ids, dtype=np.int64) for word, ids in holders.items()}
    weight = np.zeros(len(terms))
    for word, ids in arrays.items():
        weight[ids] += np.log1p(len(terms) / len(ids)) * (FILLED if word in FILLER else 1)
    return Names(tuple(terms), np.array(is_label, dtype=bool), weight, arrays, tuple(sorted(arrays)))


def squeeze_names(ontology: Ontology) -> dict[str, tuple[str, ...]]:
    """Return current terms by what is left of their names without anything but letters and digits."""
    return _squeezed((name, term_id) for term_id, term in ontology.items() for name in _names_of(term))


def squeeze_labels(ontology: Ontology) -> dict[str, tuple[str, ...]]:
    """Return terms, obsolete ones too, by what is left of their labels alone."""
    return _squeezed((ontology.label(term_id), term_id) for term_id in ontology)


def _squeezed(names: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    index: dict[str, dict[str, None]] = {}
    for name, term_id in names:
        index.setdefault(_squeeze(name), {})[term_id] = None
    index.pop("", None)
    return {name: tuple(ids) for name, ids in index.items()}


def _names_of(term: Term) -> tuple[str, ...]:
    """Return the distinct names of a current term, the label first."""
    return () if term.obsolete else tuple(dict.fromkeys((term.label, *term.synonyms[:SYNONYMS])))


def _squeeze(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.casefold())
