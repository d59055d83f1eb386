"""The classes of a label made of the values cells carry: `make_classes("disease", values)`.

What is one id per cell is the ontology floor's business (`LabelSpace`); here is what it leaves open: which ontologies a
set of values draws on, values of several ids, and words without an ontology. vocabulary.py builds on this.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from ontology import (
    LABELS,
    SEPARATOR,
    LabelSpace,
    OntologyInputError,
    UnknownTermError,
    load_ontology,
    make_label_space,
)

from .errors import VocabularyError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ontology import Ontology

WORDS = ("cell_culture",)
"""Labels whose values are words of a closed list, none above another."""
NO_CLASS = frozenset({"unknown", "na", ""})
"""Values that say nothing."""
_CURIE = re.compile(r"([A-Za-z][A-Za-z0-9]*)[:_]\S+")


def make_classes(label: str, values: Iterable[str], apart: Iterable[str] = ()) -> LabelSpace:
    """Return the classes of a label.

    Parameters
    ----------
    label
        One of the nine, or a user's own.
    values
        Values in use, in any order, repeated or not: ids, several joined by ` || `, or words for cell_culture and for a
        label of one's own.
        `unknown`, `na` and empty ones are left out.
    apart
        Ids that are leaves whatever lies below them, from `apart_values` or a vocabulary.

    Returns
    -------
    LabelSpace
        A value of several ids is a leaf of its own: to have two diseases is another thing than to have either. What
        lies above any of its ids lies above it, and so does an id that is coarse anyway.

    Raises
    ------
    VocabularyError
        When a value is no id, or not in its ontology.
    OntologyError
        When the ontology is not at hand.
    """
    used = sorted({value for value in values if value not in NO_CLASS})
    if label in WORDS or label not in LABELS:
        nothing = np.zeros((len(used), len(used)), dtype=bool)
        return LabelSpace(tuple(used), tuple(used), len(used), nothing, "words")
    joint = {value: _parts(value) for value in used if SEPARATOR.strip() in value}
    single = [value for value in used if value not in joint]
    try:
        ontologies = _ontologies(label, [*single, *(part for parts in joint.values() for part in parts)])
        # Two prefixes may be of one ontology.
        space = make_label_space(tuple({one.name: one for one in ontologies.values()}.values()), single, apart)
        return _with_joint(space, joint, ontologies, set(apart)) if joint else space
    except (UnknownTermError, OntologyInputError) as error:
        remedy = "take the release of the ontology that the cells were labelled with, or harmonise the label again"
        raise VocabularyError(f"label {label}", str(error), remedy) from error


def apart_values(label: str, beside: Iterable[set[str]]) -> set[str]:
    """Return the values that mean what is left beside their kinds.

    A study that names CD14-positive and CD14-low, CD16-positive monocytes means two kinds of cell, though the second
    lies below the first. Taken as the ontology has it, a cell of the first may be of any leaf below, which is the
    second alone: the one would be taught as the other. A value each of whose leaves stands beside it in some study is
    therefore a leaf of its own. One that has further leaves may be one of those, and stays what it is.

    Parameters
    ----------
    label
        As of `make_classes`.
    beside
        Values in use, per study.
    """
    studies = [study - NO_CLASS for study in beside]
    space = make_classes(label, set().union(*studies))
    found = set()
    for code in range(space.n_leaves, len(space)):
        value, mine = space.classes[code], {space.leaves[leaf] for leaf in np.flatnonzero(space.below[code])}
        if mine <= set().union(*(study for study in studies if value in study)):
            found.add(value)
    return found


def _ontologies(label: str, ids: Iterable[str]) -> dict[str, Ontology]:
    """Return the ontologies that ids draw on, by prefix, in the order of the prefixes."""
    prefixes: set[str] = set()
    for term_id in ids:
        match = _CURIE.fullmatch(term_id)
        if match is None:
            remedy = "label cells with term ids; ontology.harmonise finds them"
            raise VocabularyError(f"label {label}", f"{term_id!r}, which is no term id", remedy)
        prefixes.add(match[1])
    return {prefix: load_ontology(prefix) for prefix in sorted(prefixes)}


def _with_joint(
    space: LabelSpace, joint: Mapping[str, tuple[str, ...]], ontologies: Mapping[str, Ontology], apart: set[str]
) -> LabelSpace:
    """Return the classes of single ids with values of several ids among them."""
    above: dict[str, set[str]] = {
        one: {space.classes[code] for code in np.flatnonzero(row)}
        for one, row in zip(space.classes, space.above, strict=True)
    }
    names = dict(zip(space.classes, space.labels, strict=True))
    for value, parts in joint.items():
        homes = {part: _home(part, ontologies) for part in parts}
        higher = {term for part, home in homes.items() for term in home.ancestors(part)}
        above[value] = higher.intersection(names) - apart
        names[value] = SEPARATOR.join(home.label(part) for part, home in homes.items())
    coarse = set().union(*above.values())
    for value, parts in joint.items():
        above[value] |= coarse.intersection(parts)
    classes = (*sorted(set(above) - coarse), *sorted(coarse))
    codes = {one: code for code, one in enumerate(classes)}
    matrix = np.zeros((len(classes), len(classes)), dtype=bool)
    for one, higher in above.items():
        matrix[codes[one], [codes[other] for other in higher]] = True
    release = "; ".join(dict.fromkeys(one.release for one in ontologies.values()))
    return LabelSpace(classes, tuple(names[one] for one in classes), len(classes) - len(coarse), matrix, release)


def check_classes(label: str, space: LabelSpace) -> None:
    """Prove that classes are distinct and in order, and that what lies above what can be: a space may come from a file.

    Raises
    ------
    VocabularyError
        When a class stands twice, lies above itself, or what lies above a class does not lie above those below it.
    """
    above = sp.csr_matrix(space.above)
    leaf = np.asarray(above.sum(axis=0)).ravel() == 0
    faults = {
        "a class twice": len(set(space.classes)) != len(space.classes),
        "a class without a name": not all(space.classes) or len(space.labels) != len(space.classes),
        "a class above itself": bool(space.above.diagonal().any()),
        "a circle, or a class above another but not above those below it": bool(((above @ above) > above).nnz),
        "leaves that are not the first classes": space.n_leaves != leaf.sum() or not leaf[: leaf.sum()].all(),
    }
    if found := [fault for fault, there in faults.items() if there]:
        raise VocabularyError(f"label {label}", found[0], "make the label space again from its ontology")


def _home(term_id: str, ontologies: Mapping[str, Ontology]) -> Ontology:
    return ontologies[_CURIE.fullmatch(term_id)[1]]


def _parts(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(SEPARATOR.strip()))
