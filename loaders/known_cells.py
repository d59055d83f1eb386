"""`KnownCells`: what AnnDataCells and SourceCells share, all that is known of cells but for their counts.

Made of what atlas/in_memory.py standardised: the numbers per cell, the genes, the words behind the codes.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ontology import LABELS

from .cells import SPLITS, Numbers
from .errors import LoaderInputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from atlas import in_memory


class KnownCells:
    """What is known of the cells of one organism that were not ingested.

    Parameters
    ----------
    found
        The cells in the atlas' terms.
    splits
        Code of each cell's split.

    Notes
    -----
    A donor's name is one person in all datasets, as within one file it is; a store has one of each dataset.
    """

    columns = ("split", "depth", "nnz", "cell_id_high", "count_hash_high", "dataset", "donor", *LABELS)
    """Names of the numbers per cell."""

    def __init__(self, found: in_memory.StandardCells, splits: npt.NDArray[np.uint8]) -> None:
        self.findings = found.findings
        """What was unmapped, summed or left out, counted."""
        self._measured = found.genes.measured
        self._genes = pd.DataFrame(
            {"organism": 0, "feature_id": found.table.ids.astype(object), "feature_name": found.table.symbols}
        ).astype({"feature_name": object})
        self._values, words = _coded(found)
        self._values["split"] = splits
        self.about: dict[str, Any] = {
            "release": None,
            "content_sha256": found.content_sha256,
            "organisms": [{"organism": found.table.organism.experiment, "genes_sha256": found.table.sha256}],
            "splits": list(SPLITS),
            "vocabulary": words,
        }

    def __len__(self) -> int:
        """Return the number of cells."""
        return len(self._values["split"])

    def column(self, name: str) -> npt.NDArray:
        """Return one number of all cells."""
        if name not in self._values:
            raise LoaderInputError("name", name, f"one of {', '.join(self.columns)}")
        return self._values[name]

    def codes(self, name: str, cells: Numbers) -> npt.NDArray:
        """Return one number of some cells."""
        return self.column(name)[self._known(cells)]

    def genes(self) -> pd.DataFrame:
        """Return organism (0), feature_id and feature_name of the organism's whole table, as in a store."""
        return self._genes

    def measured(self, dataset: int, organism: int) -> npt.NDArray[np.bool_]:
        """Return, per gene of the table, whether it was measured."""
        n = len(self.about["vocabulary"]["dataset"])
        if organism != 0 or not 0 <= dataset < n:
            raise LoaderInputError("dataset, organism", (dataset, organism), f"datasets 0 to {n - 1} of organism 0")
        return self._measured

    def _known(self, cells: Numbers) -> Numbers:
        cells = np.asarray(cells, dtype=np.int64)
        wrong = cells[(cells < 0) | (cells >= len(self))]
        if len(wrong):
            raise LoaderInputError("cells", int(wrong[0]), f"cell numbers from 0 to {len(self) - 1}")
        return cells

    def _digest(self, kind: str, before: Iterable[npt.NDArray] = (), after: Iterable[npt.NDArray] = ()) -> str:
        """Return the digest of a kind of cells, what is known of them, and arrays before and after that."""
        digest = hashlib.sha256(json.dumps([kind, self.about], sort_keys=True).encode())
        for array in (*before, self._measured, *(self._values[name] for name in self.columns), *after):
            digest.update(f"{array.dtype.str} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def _coded(found: in_memory.StandardCells) -> tuple[dict[str, npt.NDArray], dict[str, list[str]]]:
    """Return the numbers per cell, and the sorted values of every coded column."""
    obs = found.obs
    # Named as in a store, so that leakage.py can compare them; a person in several datasets is of the first by name.
    datasets, names = obs["dataset_id"].astype(str), obs["donor_id"].astype(str)
    first = datasets.groupby(names.to_numpy()).transform("min")
    donors = first.mask(names == "unknown", datasets) + "/" + names
    texts = {label: obs[label] for label in LABELS} | {"dataset": obs["dataset_id"], "donor": donors}
    words = {name: sorted(map(str, values.unique())) for name, values in texts.items()}
    values: dict[str, npt.NDArray] = {
        name: pd.Index(words[name]).get_indexer(texts[name].astype(str)).astype(np.int32) for name in words
    }
    values["depth"], values["nnz"] = found.depth, found.nnz
    for name, column in (("cell_id_high", "observation_joinid"), ("count_hash_high", "count_hash")):
        values[name] = np.array([int(text[:16], 16) for text in obs[column]], dtype=np.uint64)
    return values, words
