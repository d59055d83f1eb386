"""`make_vocabulary`: the genes and classes of some cells, as numbers; what pre-training and fine-tuning start from.

Classes are the values in use. Who uses which beside which matters too: see `label_classes.apart_values`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ontology import LABELS

from .errors import LoaderInputError
from .label_classes import apart_values, make_classes
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ontology import LabelSpace

    from .cells import Cells

CELLS_AT_ONCE = 1_000_000
"""Columns of cells may be mapped files larger than memory."""


def make_vocabulary(cells: Cells | Sequence[Cells], labels: Sequence[str] = LABELS) -> Vocabulary:
    """Return the vocabulary of some cells: all genes of their organisms, and the labels' values in use.

    Parameters
    ----------
    cells
        A pack, a store, an AnnData, or several; organisms and genes of the first come first.
    labels
        Which of the nine labels, in the order of a batch's columns.

    Raises
    ------
    LoaderInputError
        When a label is none of the nine, or there are no cells.
    VocabularyError
        When values of a label are no ids, or not in their ontology.
    OntologyError
        When an ontology is not at hand.
    """
    sources = list(cells) if isinstance(cells, list | tuple) else [cells]
    if not sources:
        raise LoaderInputError("cells", "none", "at least one source of cells")
    if not set(labels) <= set(LABELS) or len(set(labels)) != len(labels):
        raise LoaderInputError("labels", tuple(labels), f"some of {', '.join(LABELS)}, each once")
    whole = Vocabulary((), ())
    studies: dict[str, list[set[str]]] = {label: [] for label in labels}
    for source in sources:
        genes = source.genes()
        for code, organism in enumerate(source.about["organisms"]):
            ids = genes.loc[genes["organism"] == code, "feature_id"]
            whole = whole.with_organism(organism["organism"], tuple(ids))
        for label in labels:
            studies[label].extend(_values_by_dataset(source, label))
    return replace(whole, labels={label: _classes(label, found) for label, found in studies.items()})


def _classes(label: str, studies: list[set[str]]) -> LabelSpace:
    """Return the classes of values in use, per study."""
    return make_classes(label, set().union(*studies), apart_values(label, studies))


def _values_by_dataset(cells: Cells, label: str) -> list[set[str]]:
    """Return the values of a label that each dataset of some cells uses, the unknown among them."""
    words = np.array(cells.about["vocabulary"][label], dtype=object)
    datasets, codes = cells.column("dataset"), cells.column(label)
    used = np.zeros((len(cells.about["vocabulary"]["dataset"]), len(words) + 1), dtype=bool)
    for start in range(0, len(cells), CELLS_AT_ONCE):
        part = slice(start, start + CELLS_AT_ONCE)
        used[datasets[part], codes[part]] = True  # a code of -1 falls into the last column
    return [set(words[row[:-1]]) for row in used]
