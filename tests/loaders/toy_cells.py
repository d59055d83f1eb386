"""Cells that are made up on the spot, by number: a source that every loader test can open in any process."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from loaders import LoaderInputError, PackedCells, Vocabulary
from loaders.records import encode_cells
from ontology import LABELS

CELL_TYPES = ["CL:0000084", "CL:0000236", "CL:0000624", "CL:0000625", "unknown"]
"""T cell, B cell, CD4 T cell, CD8 T cell."""
N_GENES = 60
WORDS = Vocabulary(
    ("mus_musculus", "homo_sapiens"), tuple(tuple(f"{organism}{i}" for i in range(N_GENES)) for organism in "MH")
)
"""All genes, and no label."""


@dataclass(frozen=True)
class ToyCells:
    """n cells of two organisms, three datasets and three splits; counts follow from the seed."""

    n: int = 3000
    seed: int = 0
    n_genes: int = N_GENES

    @cached_property
    def _values(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(self.seed)
        sizes = dict.fromkeys(LABELS, 1) | {"tissue": 3, "sex": 2, "dataset": 3, "donor": 12, "organism": 2}
        values = {name: rng.integers(0, size, self.n).astype(np.int32) for name, size in sizes.items()}
        values["cell_type"] = rng.choice(5, self.n, p=[0.1, 0.2, 0.6, 0.05, 0.05]).astype(np.int32)
        for name in ("cell_id_high", "count_hash_high"):
            values[name] = rng.permutation(self.n).astype(np.uint64) << np.uint64(40)
        values["split"] = rng.choice(3, self.n, p=[0.7, 0.2, 0.1]).astype(np.uint8)
        values["donor"] = (values["split"] * 4 + rng.integers(0, 4, self.n)).astype(np.int32)  # none on two sides
        counts = sp.random(self.n, self.n_genes, 0.3, "csr", np.float32, rng, lambda k: rng.geometric(0.3, k))
        counts.sort_indices()
        values["nnz"] = np.diff(counts.indptr).astype(np.int32)
        values["depth"] = np.asarray(counts.sum(axis=1)).ravel().astype(np.float32)
        return {**values, "": counts}

    @property
    def fingerprint(self) -> str:
        return f"toy {self.n} {self.seed} {self.n_genes}"

    @property
    def about(self) -> dict[str, Any]:
        words = {label: ["unknown"] for label in LABELS}
        words |= {"cell_type": CELL_TYPES, "tissue": ["UBERON:0000178", "UBERON:0002048", "UBERON:0002106"]}
        words |= {"sex": ["PATO:0000383", "PATO:0000384"], "organism": ["NCBITaxon:10090", "NCBITaxon:9606"]}
        words |= {"dataset": ["a", "b", "c"], "donor": [f"d{i}" for i in range(12)]}
        organisms = [{"organism": name, "genes_sha256": "0"} for name in ("mus_musculus", "homo_sapiens")]
        return {"release": "toy", "organisms": organisms, "vocabulary": words}

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(name for name in self._values if name)

    def __len__(self) -> int:
        return self.n

    def column(self, name: str) -> np.ndarray:
        return self._values[name]

    def codes(self, name: str, cells: np.ndarray) -> np.ndarray:
        return self._values[name][cells]

    def genes(self) -> pd.DataFrame:
        ids = [f"{organism}{i}" for organism in "MH" for i in range(self.n_genes)]
        return pd.DataFrame({"organism": np.repeat([0, 1], self.n_genes), "feature_id": ids})

    def measured(self, dataset: int, organism: int) -> np.ndarray:
        return np.ones(self.n_genes, dtype=bool)

    def read(self, cells: np.ndarray) -> PackedCells:
        return encode_cells(self._values[""][cells])

    def will_need(self, cells: np.ndarray, stream: int = 0) -> None:
        pass

    def neighbours(self, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.full((len(cells), 1), -1), np.full((len(cells), 1), np.inf, np.float32)


@dataclass(frozen=True)
class Fragile:
    """A collator that fails at a position, or ends its process."""

    at: int
    dies: bool = False

    def __call__(self, cells: np.ndarray, positions: np.ndarray, epoch: int, key: int) -> np.ndarray:
        if self.at in positions and epoch == 0:
            if self.dies:
                os.kill(os.getpid(), signal.SIGKILL)
            raise LoaderInputError("record", 4711, "another one")
        return positions
