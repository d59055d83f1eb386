"""What a dataset's labels were given to, and how sure they are: the rows of census_info/label_provenance.

A disease is mostly said of a whole study or of its donors, a cell type of single cells; models that treat all three
alike learn the study. Scope is not declared by anybody, so it is computed from the cells, by the rules of
`label_provenance`. `standardise` makes the columns, `ingest` calls this, `write` stores the rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ontology import LABELS, Match

from .read import open_source
from .schema import LABEL_COLUMN
from .sources import Source

if TYPE_CHECKING:
    from pathlib import Path

COLUMNS = ("label", "scope", "how", "confidence", "n_cells")
"""Columns of the result."""


def label_provenance(obs: pd.DataFrame) -> pd.DataFrame:
    """Return, per label and way of matching, how many cells there are, how sure they are and what the label is said of.

    A label's value is what the author wrote together with the term it became; no value is a value of its own. Cells of
    one donor and one sample_id are a sample.

    - `none`: no cell has a value.
    - `cell`: the value differs between two cells of a sample; also where it differs between samples of one cell each,
      which cannot be told from it.
    - `sample`: the value is the same within each sample and differs between samples; also where it is the same
      throughout and there is one sample, which cannot be told from `study`: of scopes that fit alike the narrowest is
      given, so that nobody relies on more than was seen.
    - `study`: the value is the same throughout, over two samples or more.

    Parameters
    ----------
    obs
        One dataset's cells: per label `author_<label>`, its term (or, for cell_culture, its word) and `<label>_match`,
        and `donor_id` and `sample_id`; categorical or text.

    Returns
    -------
    One row per label (in the order of `LABELS`) and way of matching (in alphabetical order) that some cell has:
    `label`, `scope`, `how`, `confidence` (0-1, of that way; see docs/labels.md) and `n_cells`. Empty for no cells.
    """
    samples, _ = _joined(obs["donor_id"], obs["sample_id"])
    rows = []
    for label in LABELS if len(obs) else ():
        column = LABEL_COLUMN.get(label, label)
        term = column if label == "cell_culture" else f"{column}_ontology_term_id"
        how, names = _codes(obs[f"{label}_match"])
        counts = np.bincount(how, minlength=len(names))
        said = {str(name) for name, n in zip(names, counts, strict=True) if n} != {"missing"}
        scope = _scope(_joined(obs[f"author_{label}"], obs[term])[0], samples) if said else "none"
        rows += [
            (label, scope, str(names[i]), Match("", "", "", names[i]).confidence, int(counts[i]))
            for i in sorted(range(len(names)), key=lambda i: str(names[i]))
            if counts[i]
        ]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype({"confidence": np.float32, "n_cells": np.int64})


def _scope(values: np.ndarray, samples: np.ndarray) -> str:
    """Return the scope of a label from a value and a sample code per cell."""
    n_samples = int(samples.max()) + 1
    if (values == values[0]).all():
        return "study" if n_samples > 1 else "sample"
    one = np.empty(n_samples, dtype=values.dtype)
    one[samples] = values  # some cell's value per sample: equal to all of its cells' where it is constant there
    within = bool((one[samples] == values).all())
    return "sample" if within and n_samples < len(values) else "cell"


def _joined(left: pd.Series, right: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Return a dense code per row for the pairs of two columns, int64, and the distinct pairs behind the codes."""
    a, _ = _codes(left)
    b, names = _codes(right)
    return pd.factorize(a * (len(names) + 1) + b)


def _codes(column: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Return a code per row, int64 and never negative, and the values behind the codes."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        codes, names = column.cat.codes.to_numpy(np.int64), np.asarray(column.cat.categories, dtype=object)
    else:
        codes, names = pd.factorize(column)
        names = np.asarray(names, dtype=object)
    if len(codes) and codes.min() < 0:  # no value at all, which the standardiser never leaves
        codes, names = np.where(codes < 0, len(names), codes), np.append(names, "")
    return codes.astype(np.int64), names


def read_obs(path: Path) -> pd.DataFrame:
    """Return the obs of a file or folder of cells, whatever its matrix holds; for a curator who looks at labels.

    An organism that the file names once, in uns, becomes a column where obs has none.

    Raises
    ------
    ContractError
        If the file is hostile, damaged or of no known format.
    """
    source = Source(organism="human", uri=str(path))  # opening looks at the file, not at whose cells they are
    with open_source(source, path) as cells:
        obs = cells.obs.copy()
        for key in ("organism_ontology_term_id", "organism"):
            if key in cells.uns and not {"organism", key} & set(obs.columns):
                obs["organism"] = str(cells.uns[key])
    return obs
