"""What was taken for what: terms that were told beside terms that are true, counted pair by pair and scored.

`compare_terms` needs neither a model nor cells, so that any tool's annotation can be put beside ours. Exact scores,
scores along the ontology and the share that was told anything stand together, as each alone can be had for nothing
(annotation_score.py). On labels without a hierarchy they are those of scikit-learn.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ontology import LABELS, SEPARATOR, OntologyError, UnknownTermError, load_ontology

from .donor_counts import donor_interval
from .errors import ModelInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ontology import Ontology

NOTHING = frozenset({"unknown", "na", ""})
"""What stands where no term is known or told."""
RELATIONS = ("exact", "above", "below", "elsewhere", "unknown")
"""How a told term lies to the true one. above: right, but less; below: cannot be checked; unknown: nothing was told."""


@dataclass(frozen=True, eq=False)
class ConfusionReport:
    """How right terms are, over the cells whose true term is known."""

    label: str
    """The label."""
    cells: int
    """Cells with a true term."""
    unlabelled: int
    """Cells without one, which are left out."""
    donors: int
    """Donors of the cells; 0 where nobody said whose they are."""
    relations: dict[str, float]
    """Share of the cells by how what they are told lies to what is true, see `RELATIONS`; they add up to 1."""
    macro_f1: float
    """Mean over the terms that are true or told of the harmonic mean of precision and recall; `unknown` is no term."""
    hierarchical_precision: float
    """Of all terms told, with those above them, the share that is true (Kiritchenko et al. 2005)."""
    hierarchical_recall: float
    """Of all that are true, with those above them, the share that is told."""
    exact_interval: tuple[float, float]
    """Where 95% of `exact` as a mean over donors lie when donors are drawn anew; (0, 1) without donors."""
    table: pd.DataFrame
    """The confusion matrix, a row per pair that occurs, the most frequent first: true, true_name, told, told_name,
    relation, cells, and share of the cells of that true term."""
    classes: pd.DataFrame
    """A row per term that is true or told, by id: term, name, cells (true), told, precision, recall, f1."""

    @property
    def accuracy(self) -> float:
        """Return the share of the cells that are told their very term."""
        return self.relations["exact"]

    @property
    def coverage(self) -> float:
        """Return the share of the cells that are told any term."""
        return 1.0 - self.relations["unknown"]

    @property
    def hierarchical_f1(self) -> float:
        """Return the harmonic mean of hierarchical precision and recall."""
        return _harmonic(self.hierarchical_precision, self.hierarchical_recall)

    @property
    def scores(self) -> dict[str, float]:
        """Return the scores side by side."""
        names = ("accuracy", "macro_f1", "hierarchical_precision", "hierarchical_recall", "hierarchical_f1", "coverage")
        return {name: getattr(self, name) for name in names}


def compare_terms(
    label: str, truth: Sequence[str], told: Sequence[str], donors: Sequence[str] | None = None, seed: int = 0
) -> ConfusionReport:
    """Return how right terms are.

    Parameters
    ----------
    label
        One of the nine.
    truth, told
        Term ids of the cells, several joined by ` || `, or words of cell_culture; `unknown`, `na` and empty ones are
        no term.
    donors
        Whose the cells are; None where nobody knows.
    seed
        Of the donors that are drawn anew.

    Raises
    ------
    ModelInputError
        When there is no such label, lengths differ, no cell has a true term, or a term is in no ontology.
    """
    if label not in LABELS:
        raise ModelInputError("label", label, f"one of {', '.join(LABELS)}")
    if len(truth) != len(told) or (donors is not None and len(donors) != len(truth)):
        raise ModelInputError("told", f"{len(told)} terms", f"one for each of {len(truth)} cells")
    true, said = (np.array([_term(one) for one in some], dtype=object) for some in (truth, told))
    known = true != ""
    if not known.any():
        raise ModelInputError("truth", "no cell with a term", f"ids of {label}")
    pairs = Counter(zip(true[known].tolist(), said[known].tolist(), strict=True))
    terms = _Terms(label, {*true[known], *said[known]})
    cells = int(known.sum())
    relations = dict.fromkeys(RELATIONS, 0)
    for (a, b), count in pairs.items():
        relations[terms.relation(a, b)] += count
    lines = terms.lines
    common = sum(count * len(lines[a] & lines[b]) for (a, b), count in pairs.items())
    of_told, of_true = (sum(count * len(lines[pair[i]]) for pair, count in pairs.items()) for i in (1, 0))
    classes = _per_class(pairs, terms)
    interval, people = (0.0, 1.0), 0
    if donors is not None:
        _, places = np.unique(np.array(donors, dtype=str)[known], return_inverse=True)
        shares = np.bincount(places, true[known] == said[known]) / np.bincount(places)
        interval, people = donor_interval(shares, seed), len(shares)
    return ConfusionReport(
        label, cells, int((~known).sum()), people, {name: count / cells for name, count in relations.items()},
        float(classes["f1"].mean()), common / of_told if of_told else 0.0, common / of_true if of_true else 0.0,
        interval, _matrix(pairs, terms), classes,
    )  # fmt: skip


class _Terms:
    """The terms of one label: their names, and all that lies above each."""

    def __init__(self, label: str, terms: set[str]) -> None:
        self.names = {"": "unknown"}
        self._whole: dict[str, frozenset[str]] = {"": frozenset()}
        self.lines: dict[str, frozenset[str]] = {"": frozenset()}
        """Term and all above it but the roots of an ontology, which everything lies under."""
        for term in terms - {""}:
            homes = {} if label == "cell_culture" else {one: _home(label, one) for one in term.split(SEPARATOR)}
            higher = {one for part, home in homes.items() for one in home.ancestors(part)}
            self._whole[term] = frozenset({term, *homes, *higher})
            roots = {one for home in homes.values() for one in (*homes, *higher) if _is_root(home, one)}
            self.lines[term] = self._whole[term] - roots
            self.names[term] = SEPARATOR.join(home.label(part) for part, home in homes.items()) or term

    def relation(self, true: str, told: str) -> str:
        """Return how a told term lies to the true one, see `RELATIONS`."""
        if not told:
            return "unknown"
        if told == true:
            return "exact"
        return "above" if told in self._whole[true] else "below" if true in self._whole[told] else "elsewhere"


def _home(label: str, term: str) -> Ontology:
    """Return the ontology of a term."""
    try:
        found = load_ontology(re.split("[:_]", term, maxsplit=1)[0])
        found.label(term)
    except (UnknownTermError, OntologyError) as error:
        allowed = f"ids of {label} in an ontology at hand ({error})"[:300]
        raise ModelInputError("term", term, allowed) from error
    return found


def _is_root(home: Ontology, term: str) -> bool:
    return term in home and not home.parents(term) and bool(home.children(term))


def _term(value: object) -> str:
    """Return a term as text, empty for none."""
    return value if isinstance(value, str) and value not in NOTHING else ""


def _per_class(pairs: Counter[tuple[str, str]], terms: _Terms) -> pd.DataFrame:
    """Return precision, recall and F1 of each term that is true or told."""
    true, told, hits = Counter(), Counter(), Counter()
    for (a, b), count in pairs.items():
        true[a] += count
        told[b] += count
        hits[a] += count * (a == b)
    rows = []
    for term in sorted({*true, *told} - {""}):
        precision = hits[term] / told[term] if told[term] else 0.0
        recall = hits[term] / true[term] if true[term] else 0.0
        rows.append((term, terms.names[term], true[term], told[term], precision, recall, _harmonic(precision, recall)))
    return pd.DataFrame(rows, columns=["term", "name", "cells", "told", "precision", "recall", "f1"])


def _matrix(pairs: Counter[tuple[str, str]], terms: _Terms) -> pd.DataFrame:
    sizes = Counter()
    for (a, _), count in pairs.items():
        sizes[a] += count
    rows = [
        (a, terms.names[a], b or "unknown", terms.names[b], terms.relation(a, b), count, count / sizes[a])
        for (a, b), count in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
    ]
    return pd.DataFrame(rows, columns=["true", "true_name", "told", "told_name", "relation", "cells", "share"])


def _harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b else 0.0
