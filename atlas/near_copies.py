"""Near-copies: cells of two datasets whose counts are almost the same, named pair by pair, with which one to keep.

Exact copies are marked at ingest (`copies`). The same cell quantified again, with other genes or other filters, is not
exact; this audit finds it by sketches and proves it by counts. It tells and changes nothing: which pairs are one cell
is for a person to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from . import layout
from .copy_sketch import BANDS, band_keys, candidate_pairs, element_hashes
from .errors import AtlasInputError
from .identity import gene_keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from .handle import Atlas
    from .record_store import RecordReader

    Progress = Callable[[str, int, int], None]

MIN_SHARED = (
    0.85  # share of molecules; different cells of real datasets stay below 0.77, copies with 5 % moved above 0.92
)
MIN_GENES = 100  # genes with counts; cells with fewer can look alike by chance
CELLS = 2_048  # cells sketched, and pairs compared, at once: 4 MB of minima
OBS = (
    "dataset_id", "observation_joinid", "cell_name", "count_hash", "core_hash", "is_primary_data", "qc_pass",
    "cell_type_ontology_term_id", "n_measured_vars", "raw_sum", "nnz",
)  # fmt: skip
KEEP_RULE = (
    ("is_primary_data", "primary data"),
    ("qc_pass", "passes QC"),
    ("labelled", "has a cell type"),
    ("n_measured_vars", "more genes measured"),
    ("raw_sum", "more counts"),
)
"""What decides which of two cells to keep, first difference first; if there is none, the one ingested first."""


@dataclass(frozen=True)
class NearCopies:
    """What an audit found."""

    pairs: pd.DataFrame
    """One row a pair: `kind` (`exact`, `core`, `near`), `shared` molecules (0 to 1), dataset, cell id, name and joinid
    of both, `keep` (`a` or `b`) and `why`. Sorted by joinids."""
    cells: int
    """Cells that were compared."""
    shallow: int
    """Cells left out, having too few genes to tell."""
    candidates: int
    """Pairs whose counts were compared."""
    untested: int
    """At most so many pairs of cells of different datasets were not, being alike by the hundreds: of each key that two
    share and were not compared for; they may share another, for which they were."""

    def by_datasets(self) -> pd.DataFrame:
        """Return, per two datasets and kind, how many pairs there are."""
        groups = self.pairs.groupby(["dataset_a", "dataset_b", "kind"], observed=True, sort=True)
        return groups.agg(pairs=("shared", "size"), shared=("shared", "median")).reset_index()


def find_near_copies(
    atlas: Atlas,
    organism: str,
    *,
    min_shared: float = MIN_SHARED,
    min_genes: int = MIN_GENES,
    progress: Progress = lambda _stage, _done, _total: None,
) -> NearCopies:
    """Find cells of different datasets that are copies or nearly so.

    Parameters
    ----------
    atlas
        Where the cells are.
    organism
        Any spelling of it.
    min_shared
        Least share of molecules that two cells have in common, of the larger of the two, in (0, 1]. Below 0.8 some
        pairs are missed by the sketch.
    min_genes
        Least genes with counts.
    progress
        Called with a stage's name, cells or pairs done, and all of them.

    Returns
    -------
    Pairs at or above `min_shared` that the sketch brings together: all of those with 0.95 of their molecules in common,
    fewer below, fewest where the rest is in genes the other cell has none of (docs/duplicates.md).
    Memory is 160 bytes a cell for the sketches, and some 40 for what else is asked of all.

    Raises
    ------
    AtlasInputError
        If `min_shared` or `min_genes` is out of range, or the atlas has no cell of the organism.
    """
    if not 0 < min_shared <= 1:
        raise AtlasInputError("min_shared", min_shared, "a share above 0, at most 1")
    if min_genes < 1:
        raise AtlasInputError("min_genes", min_genes, "at least 1")
    obs = atlas.query(organism, every_cell=True).obs(["soma_joinid", "dataset_id", "nnz"])
    cells = np.flatnonzero(obs["nnz"].to_numpy() >= min_genes)
    genes = atlas.genes(organism)
    hashes = element_hashes(gene_keys(genes["feature_id"].tolist())[0])
    joinids = obs["soma_joinid"].to_numpy()[cells]
    group = pd.factorize(obs["dataset_id"].to_numpy()[cells])[0]
    with atlas.records(organism) as records:
        keys = np.empty((len(cells), BANDS), np.uint32)
        for start in range(0, len(cells), CELLS):
            some = slice(start, start + CELLS)
            keys[some] = band_keys(records.read(joinids[some]).decode(len(genes)), hashes)
            progress("sketch", min(start + CELLS, len(cells)), len(cells))
        pairs, untested = candidate_pairs(keys, group)
        shared = _shared_molecules(records, joinids, pairs, len(genes), progress)
    near = shared >= min_shared
    wanted, at = np.unique(joinids[pairs[near]], return_inverse=True)
    table = _table(_rows(atlas, organism, wanted), at.reshape(-1, 2), shared[near])
    return NearCopies(table, len(cells), len(obs) - len(cells), len(pairs), untested)


def _shared_molecules(
    records: RecordReader, joinids: np.ndarray, pairs: np.ndarray, n_genes: int, progress: Progress
) -> np.ndarray:
    """Return the share of molecules that the two cells of each pair have in common, of the larger of the two."""
    shared = np.empty(len(pairs))
    for start in range(0, len(pairs), CELLS):
        some = pairs[start : start + CELLS]
        wanted, at = np.unique(some, return_inverse=True)
        counts = records.read(joinids[wanted]).decode(n_genes).astype(np.float64)
        at = at.reshape(some.shape)
        one, other = counts[at[:, 0]], counts[at[:, 1]]
        most = np.maximum(one.sum(axis=1), other.sum(axis=1))
        shared[start : start + CELLS] = np.asarray(one.minimum(other).sum(axis=1) / most).ravel()
        progress("compare", min(start + CELLS, len(pairs)), len(pairs))
    return shared


def _rows(atlas: Atlas, organism: str, joinids: np.ndarray) -> pd.DataFrame:
    """Return what the table says of some cells, given by rising joinids."""
    names = [*OBS, "soma_joinid"]
    with atlas.open() as tree:
        frame = tree[layout.DATA][atlas.experiment(organism)].obs
        coords = (joinids,) if len(joinids) else (slice(0, 0),)
        found = frame.read(coords=coords, column_names=names).concat().to_pandas().sort_values("soma_joinid")
    return found[: len(joinids)]


def _table(obs: pd.DataFrame, pairs: np.ndarray, shared: np.ndarray) -> pd.DataFrame:
    """Return the audit table of pairs, given as rows of obs."""
    one, other = (obs.iloc[pairs[:, side]].reset_index(drop=True) for side in (0, 1))
    exact = one["count_hash"].to_numpy(dtype=object) == other["count_hash"].to_numpy(dtype=object)
    core = one["core_hash"].to_numpy(dtype=object) == other["core_hash"].to_numpy(dtype=object)
    core &= one["core_hash"].to_numpy(dtype=object) != ""
    keep_other, why = _keep(one, other)
    columns: dict[str, object] = {"kind": np.where(exact, "exact", np.where(core, "core", "near")), "shared": shared}
    for side, frame in (("a", one), ("b", other)):
        columns[f"dataset_{side}"] = frame["dataset_id"].astype(str)
        columns[f"cell_{side}"] = frame["observation_joinid"].astype(str)
        columns[f"name_{side}"] = frame["cell_name"].astype(str)
        columns[f"joinid_{side}"] = frame["soma_joinid"].to_numpy()
    table = pd.DataFrame(columns | {"keep": np.where(keep_other, "b", "a"), "why": why})
    return table.sort_values(["joinid_a", "joinid_b"], ignore_index=True)


def _keep(one: pd.DataFrame, other: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return whether the second of each pair is to be kept, and what decided."""
    chosen = np.zeros(len(one), dtype=bool)
    why = np.full(len(one), "ingested first", dtype=object)
    open_yet = np.ones(len(one), dtype=bool)
    for name, words in KEEP_RULE:
        a, b = (_rank(frame, name) for frame in (one, other))
        decides = open_yet & (a != b)
        chosen[decides] = (b > a)[decides]
        why[decides] = words
        open_yet &= ~decides
    return chosen, why


def _rank(frame: pd.DataFrame, name: str) -> np.ndarray:
    """Return what a rule compares, more being better."""
    if name == "labelled":
        return ~frame["cell_type_ontology_term_id"].astype(str).isin(["unknown", "na", ""]).to_numpy()
    return frame[name].to_numpy()
