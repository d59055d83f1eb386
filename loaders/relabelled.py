"""`RelabelledCells`: cells with further columns, or other values of some: a user's own labels, batches, splits.

A source of cells knows the nine labels of the atlas. Fine-tuning has labels that only one study has, and splits of its
own; both are laid over the cells here, and nothing is copied. Neighbours across new splits are no neighbours.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from .cells import NO_CELL, SPLITS, Numbers
from .errors import LoaderInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .cells import Cells
    from .records import PackedCells

FORMAT = "panatlas relabelled cells 1"
COUNTED = frozenset({"depth", "nnz", "cell_id_high", "count_hash_high", "joinid", "dataset"})
"""Columns that follow from the counts, or say where a cell is and which genes were measured."""


class RelabelledCells:
    """Some cells with columns of text laid over them; for example `RelabelledCells(cells, {"state": states})`.

    Parameters
    ----------
    cells
        A pack, a store or an AnnData.
    values
        Text of each cell by column: labels, `donor`, `split` (train, validation, test), or a name of one's own.

    Raises
    ------
    LoaderInputError
        When a column cannot be changed, has not one value a cell, or has a split that is none.
    """

    def __init__(self, cells: Cells, values: Mapping[str, Sequence[str]]) -> None:
        if wrong := sorted(COUNTED.intersection(values)):
            raise LoaderInputError("values", wrong, "labels, donor, split, or names of your own")
        self.cells, self._codes = cells, {}
        words = dict(cells.about["vocabulary"])
        for name, texts in values.items():
            if len(texts) != len(cells):
                raise LoaderInputError("values", f"{len(texts)} of {name}", f"one for each of {len(cells)} cells")
            coded, found = pd.factorize(np.asarray(texts, dtype=object).astype(str), sort=True)
            if name == "split":
                codes = pd.Index(SPLITS).get_indexer(found)
                if (codes < 0).any():
                    raise LoaderInputError("values", f"{found[codes.argmin()]!r} as split", ", ".join(SPLITS))
                self._codes[name] = codes[coded].astype(np.uint8)
            else:
                self._codes[name], words[name] = coded.astype(np.int32), [str(word) for word in found]
        self.about: dict[str, Any] = {**cells.about, "vocabulary": words}
        if scopes := cells.about.get("label_scopes"):  # who gave a label that was replaced is not known
            self.about["label_scopes"] = {name: one for name, one in scopes.items() if name not in values}
        self.columns = (*cells.columns, *(name for name in values if name not in cells.columns))
        self.fingerprint = self._digest()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle to what makes it again from cells that reopen themselves."""
        texts = {name: self._texts(name) for name in self._codes}
        return RelabelledCells, (self.cells, texts)

    def __len__(self) -> int:
        """Return the number of cells."""
        return len(self.cells)

    def column(self, name: str) -> npt.NDArray:
        """Return one number of all cells."""
        return self._codes[name] if name in self._codes else self.cells.column(name)

    def codes(self, name: str, cells: Numbers) -> npt.NDArray:
        """Return one number of some cells."""
        if name not in self._codes:
            return self.cells.codes(name, cells)
        asked = np.asarray(cells, dtype=np.int64)
        if len(wrong := asked[(asked < 0) | (asked >= len(self))]):
            raise LoaderInputError("cells", int(wrong[0]), f"cell numbers from 0 to {len(self) - 1}")
        return self._codes[name][asked]

    def genes(self) -> pd.DataFrame:
        """Return organism (code), feature_id and feature_name."""
        return self.cells.genes()

    def measured(self, dataset: int, organism: int) -> npt.NDArray[np.bool_]:
        """Return, per gene of an organism, whether a dataset (by code) measured it."""
        return self.cells.measured(dataset, organism)

    def read(self, cells: Numbers) -> PackedCells:
        """Return the records of these cells, in this order."""
        return self.cells.read(cells)

    def will_need(self, cells: Numbers, stream: int = 0) -> None:
        """Say which cells a stream reads soon."""
        self.cells.will_need(cells, stream)

    def neighbours(self, cells: Numbers) -> tuple[Numbers, npt.NDArray[np.float32]]:
        """Return the nearest cells of the same split and their distances, both [cells, k]."""
        near, far = self.cells.neighbours(cells)
        if "split" not in self._codes or not near.size:
            return near, far
        splits = self._codes["split"]
        same = (near != NO_CELL) & (splits[near] == splits[np.asarray(cells, dtype=np.int64)][:, None])
        return np.where(same, near, NO_CELL), np.where(same, far, np.float32(np.inf))

    def _texts(self, name: str) -> npt.NDArray[np.object_]:
        words = SPLITS if name == "split" else self.about["vocabulary"][name]
        return np.array(words, dtype=object)[self._codes[name]]

    def _digest(self) -> str:
        named = {name: self.about["vocabulary"].get(name, SPLITS) for name in sorted(self._codes)}
        digest = hashlib.sha256(json.dumps([FORMAT, self.cells.fingerprint, named], sort_keys=True).encode())
        for name in sorted(self._codes):
            digest.update(self._codes[name].tobytes())
        return digest.hexdigest()
