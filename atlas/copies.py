"""Finding copies: cells whose counts the atlas, or an earlier row of the same source, already holds.

Two hashes say so: of all counts, and of the fixed core genes, which survives the gene filtering of a re-published
copy. A copy is stored, but is not primary data. Which cells are excluded from what is the query's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from .copy_index import KINDS, find_hashes, hash_lanes
from .findings import Finding
from .identity import MIN_GENES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np

    from .ledger import DatasetRow


@dataclass(frozen=True)
class Copies:
    """Which cells of a source are copies, and of what kind."""

    exact: np.ndarray
    """Bool per cell: the same counts of the same genes are in the atlas or earlier in the source."""
    core: np.ndarray
    """Bool per cell: not exact, but the core genes' counts are: a re-filtered or re-annotated copy."""

    @property
    def any(self) -> np.ndarray:
        """Bool per cell: a copy of either kind."""
        return self.exact | self.core

    def findings(self) -> list[Finding]:
        """Return one finding per kind that occurs."""
        said = (
            ("duplicate-cells", self.exact, "identical counts of identical genes"),
            ("duplicate-core", self.core, "identical counts of the core genes"),
        )
        remedy = "stored with is_primary_data = False, which queries can ask for"
        return [
            Finding(code, "warning", "cells", f"{mask.sum()} cells with {what} are in the atlas already", "new cells",
                    remedy, int(mask.sum()))
            for code, mask, what in said if mask.any()
        ]  # fmt: skip


def find_copies(
    root: Path,
    organism: str,
    n_stored: int,
    hashes: tuple[np.ndarray, np.ndarray],
    nnz: np.ndarray,
    rows: Sequence[DatasetRow] = (),
) -> Copies:
    """Compare a source's hashes with the atlas' cells and with its own earlier rows.

    Parameters
    ----------
    root, organism, n_stored
        Where the stored cells are and how many of them are published.
    hashes
        Count hash and core hash per cell; "" never matches.
    nnz
        Genes with counts per cell: below `identity.MIN_GENES` equal counts are no proof of a copy.
    rows
        The organism's published datasets in joinid order, by which stored cells are found without reading them all.
    """
    told = nnz >= MIN_GENES
    usable = {kind: told & (values != "") for kind, values in zip(KINDS, hashes, strict=True)}
    asked = {kind: hash_lanes(values[usable[kind]]) for kind, values in zip(KINDS, hashes, strict=True)}
    stored = find_hashes(root, organism, n_stored, asked, rows)
    masks = []
    for kind, values in zip(KINDS, hashes, strict=True):
        mask = usable[kind] & pd.Series(values).duplicated().to_numpy()
        mask[usable[kind]] |= stored[kind]
        masks.append(mask)
    return Copies(masks[0], masks[1] & ~masks[0])
