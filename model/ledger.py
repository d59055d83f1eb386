"""What a model has seen: `Ledger`, every cell by the hash of its counts and by its id, and how it was used.

Positions of an epoch are a pure function of the plan, so the cells that were drawn up to the last step are worked out
afterwards, not collected on the way. Kept in the checkpoint; `panatlas was-trained-on` asks it. Copies with fewer genes
or other counts are not found: their hash differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from loaders import SPLITS, organism_codes

from .errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from loaders import Cells, Sampler, SamplingPlan

ROLES = ("validation", "eligible", "trained")
"""How a cell was used, by code. validation: the stopping point was chosen on it. eligible: its split was trained on but
it was not drawn, though it may have been shown as a neighbour. trained: drawn at least once."""
ARRAYS = {"count_hash": np.dtype("<u8"), "cell_id": np.dtype("<u8"), "role": np.dtype("u1")}
BLOCK = 1 << 20


@dataclass(frozen=True, eq=False)
class Ledger:
    """Cells that a model was trained or chosen on, in rising order of `count_hash`; arrays may be mapped files."""

    count_hash: npt.NDArray[np.uint64]
    """First 64 bits of the hash of a cell's counts."""
    cell_id: npt.NDArray[np.uint64]
    """First 64 bits of its id."""
    role: npt.NDArray[np.uint8]
    """Position in `ROLES`."""

    def __len__(self) -> int:
        """Return the number of cells."""
        return len(self.role)

    @property
    def tally(self) -> dict[str, int]:
        """Return the number of cells by role."""
        return dict(zip(ROLES, np.bincount(self.role, minlength=len(ROLES)).tolist(), strict=True))

    def save(self, folder: Path) -> None:
        """Write the arrays into a folder."""
        folder.mkdir()
        for name, dtype in ARRAYS.items():
            np.save(folder / f"{name}.npy", getattr(self, name).astype(dtype), allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> Ledger:
        """Return the ledger of a folder, mapped.

        Raises
        ------
        CheckpointError
            When it cannot be read, or its arrays do not fit each other.
        """
        try:
            arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS}
        except (OSError, ValueError) as error:
            why = f"its ledger cannot be read ({error})"[:200]
            raise CheckpointError(str(folder), why, "take the folder that was saved whole") from error
        shapes = {(array.shape, array.ndim) for array in arrays.values()}
        if len(shapes) > 1 or any(arrays[name].dtype != dtype for name, dtype in ARRAYS.items()):
            raise CheckpointError(str(folder), "its ledger contradicts itself", "take the folder that was saved whole")
        hashes, roles = arrays["count_hash"], arrays["role"]
        if hashes.ndim != 1 or (hashes[1:] < hashes[:-1]).any() or roles.max(initial=0) >= len(ROLES):
            raise CheckpointError(str(folder), "its ledger is in no order", "take the folder that was saved whole")
        return cls(**arrays)

    def roles_of(self, hashes: npt.NDArray[np.uint64], ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Return how each of some cells was used, by counts or by id: a position in `ROLES`, -1 for not at all.

        A cell that is found several times has its strongest role.
        """
        out = np.full(len(hashes), -1, dtype=np.int64)
        order = np.argsort(self.cell_id, kind="stable")
        for known, roles, asked in (
            (self.count_hash, self.role, hashes),
            (self.cell_id[order], self.role[order], ids),
        ):
            first, last = (np.searchsorted(known, asked, side) for side in ("left", "right"))
            for more in range(int((last - first).max(initial=0))):  # as many as the most frequent hash has cells
                cells = np.flatnonzero(first + more < last)
                out[cells] = np.maximum(out[cells], roles[first[cells] + more])
        return out

    def joined(self, other: Ledger | None) -> Ledger:
        """Return both together: what a model knows that began with the weights of another."""
        if other is None:
            return self
        joined = (np.concatenate([getattr(self, name), getattr(other, name)]) for name in ARRAYS)
        return _sorted(*joined)


def make_ledger(
    cells: Cells, sampler: Sampler, drawn: Mapping[int, int], plan: SamplingPlan, *, chosen: bool = True
) -> Ledger:
    """Return the ledger of a run over some cells.

    Parameters
    ----------
    cells
        A pack, a store or an AnnData.
    sampler
        Of the training draws.
    drawn
        By epoch, how many of its positions, from the first, were drawn.
    plan
        What the sampler was made of.
    chosen
        The weights were chosen by their loss on the validation cells.
    """
    eligible = [SPLITS.index(split) for split in plan.splits]
    held = [SPLITS.index("validation")] if chosen and "validation" not in plan.splits else []
    organisms = organism_codes(cells, plan.organisms)
    trained = np.zeros(len(cells), dtype=bool)
    for epoch, position in drawn.items():
        end = min(position, len(sampler))
        for start in range(0, end, BLOCK):
            trained[sampler.cells_at(epoch, np.arange(start, min(start + BLOCK, end)))] = True
    parts = []
    for start in range(0, len(cells), BLOCK):
        some = np.arange(start, min(start + BLOCK, len(cells)))
        split = cells.codes("split", some)
        role = np.full(len(some), -1, dtype=np.int64)
        role[np.isin(split, held)] = ROLES.index("validation")
        role[np.isin(split, eligible)] = ROLES.index("eligible")
        role[~np.isin(cells.codes("organism", some), organisms)] = -1
        role[trained[some]] = ROLES.index("trained")
        kept = some[role >= 0]
        hashes = (cells.codes(f"{name}_high", kept) for name in ("count_hash", "cell_id"))
        parts.append((*hashes, role[role >= 0].astype(np.uint8)))
    return _sorted(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def seen_before(ledger: Ledger, cells: Cells, numbers: npt.NDArray[np.int64] | None = None) -> dict[str, Any]:
    """Return how many of some cells, all unless numbered, a model has seen, by role, and a few of their numbers."""
    asked = np.arange(len(cells)) if numbers is None else numbers
    counts, examples = np.zeros(len(ROLES) + 1, dtype=np.int64), {role: [] for role in ROLES}
    for start in range(0, len(asked), BLOCK):
        some = asked[start : start + BLOCK]
        roles = ledger.roles_of(*(cells.codes(f"{name}_high", some) for name in ("count_hash", "cell_id")))
        counts += np.bincount(roles + 1, minlength=len(counts))
        for code, role in enumerate(ROLES):
            examples[role] += some[roles == code][: max(0, 5 - len(examples[role]))].tolist()
    told = dict(zip(("not_found", *ROLES), counts.tolist(), strict=True))
    return {"cells": len(asked), "matched_by": "equal counts or id", **told, "examples": examples}


def _sorted(hashes: npt.NDArray, ids: npt.NDArray, roles: npt.NDArray) -> Ledger:
    order = np.lexsort((roles, ids, hashes))
    hashes, ids, roles = hashes[order], ids[order], roles[order]
    last = np.ones(len(order), dtype=bool)  # of its kind: a cell that is named twice has its strongest role
    last[:-1] = (hashes[1:] != hashes[:-1]) | (ids[1:] != ids[:-1])
    return Ledger(hashes[last].astype(np.uint64), ids[last].astype(np.uint64), roles[last].astype(np.uint8))
