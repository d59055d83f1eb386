"""Labels moved from labelled cells to others by nearest neighbours, also between organisms: `transfer_labels`.

A model that reads genes by their proteins puts cells of two organisms into one space, so that the nearest labelled
cells of one vote for a cell of the other. `transfer_by_orthologs` is what that has to beat: the same vote of the same
cells, with neighbours by the counts of one-to-one orthologs. Both answer with the same `TransferredLabels`. A cell that
is in the reference too has no vote on itself, nor has a copy of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loaders import NO_CLASS
from ontology import LABELS, one_to_one_orthologs

from .embedding import embed
from .errors import ModelInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    import scipy.sparse as sp

    from loaders import Cells

    from .checkpoint import TrainedModel
    from .inference import InferenceOptions

    Numbers = npt.NDArray[np.int64]
    Points = npt.NDArray[np.float32] | sp.csr_matrix

NEIGHBOURS = 15
"""Labelled cells that vote."""
SCALE = 1e4
"""Molecules that counts of a cell are scaled to before their logarithm."""
NO_COUNTS = np.uint64(0)
"""Hash of cells that are copies of none."""
READ = 4_096
"""Cells whose counts are read at a time."""


@dataclass(frozen=True, eq=False)
class TransferredLabels:
    """What neighbours say of cells."""

    numbers: Numbers
    """Which cells, int64 [cells]."""
    label: str
    """What was transferred."""
    values: npt.NDArray[np.object_]
    """The value with the largest share of the votes, [cells]; of two alike the first by name."""
    probability: npt.NDArray[np.float32]
    """Its share of the votes, nearer neighbours counting more, [cells]; not calibrated."""
    agreement: npt.NDArray[np.float32]
    """Share of the neighbours that have the value, each alike, [cells]."""
    distance: npt.NDArray[np.float32]
    """Mean distance to the neighbours, [cells]: large where nothing like the cell is labelled."""
    facts: Mapping[str, object]
    """How: method, neighbours, reference cells, genes; JSON values."""

    def __len__(self) -> int:
        """Return the number of cells."""
        return len(self.numbers)


@dataclass(frozen=True, eq=False)
class LabelledCells:
    """Labelled cells that others get labels from; `labelled_cells` makes one."""

    cells: Cells
    """Where they are."""
    numbers: Numbers
    """Which, those with a value."""
    label: str
    """Of what."""
    values: npt.NDArray[np.object_]
    """Their values, [cells]."""


def labelled_cells(cells: Cells, label: str, numbers: Numbers | None = None) -> LabelledCells:
    """Return the cells that have a value of a label.

    Parameters
    ----------
    cells
        A pack, a store or an AnnData.
    label
        One of their columns.
    numbers
        Which of them, int64; None for all.

    Raises
    ------
    ModelInputError
        When they have no such column, or none has a value.
    """
    if label not in cells.columns or label not in cells.about["vocabulary"]:
        known = sorted(name for name in cells.about["vocabulary"] if name in cells.columns)
        raise ModelInputError("label", label, f"a column of the cells: {', '.join(known)}")
    some = np.arange(len(cells)) if numbers is None else np.asarray(numbers, dtype=np.int64)
    words = np.array([*cells.about["vocabulary"][label], ""], dtype=object)
    values = words[np.asarray(cells.codes(label, some))]
    known = ~np.isin(values.astype(str), sorted(NO_CLASS))
    if not known.any():
        where = "ids" if label in LABELS else "values"
        raise ModelInputError("label", label, f"one that reference cells have {where} of; all {len(some)} are unknown")
    return LabelledCells(cells, some[known], label, values[known])


def transfer_labels(
    model: TrainedModel,
    reference: LabelledCells,
    cells: Cells,
    numbers: Numbers | None = None,
    *,
    token: str | None = None,
    neighbours: int = NEIGHBOURS,
    options: InferenceOptions | None = None,
) -> TransferredLabels:
    """Return what the labelled cells nearest in a model's embedding say of others, of the same organism or another.

    Parameters
    ----------
    model
        Knows both organisms; `with_organism` adds one.
    reference
        The labelled cells.
    cells, numbers
        The others, and which of them; None for all.
    token
        Part of the embedding whose neighbours vote, such as cell_type or base; None for the joint embedding.
    neighbours
        How many vote; no more than there are reference cells.
    options
        What the model is shown; None for the defaults.

    Raises
    ------
    ModelInputError
        As `embed`; when there is no such token, or no neighbour is asked for.
    """
    known = embed(model, reference.cells, reference.numbers, options=options)
    asked = embed(model, cells, numbers, options=options)
    points = [one.values if token is None else one.part(token) for one in (known, asked)]
    facts = {"method": "embedding", "token": token or "all", "metric": "euclidean"}
    return vote((points[0], points[1]), reference, asked.numbers, neighbours, facts, cells)


def transfer_by_orthologs(
    reference: LabelledCells, cells: Cells, numbers: Numbers | None = None, *, neighbours: int = NEIGHBOURS
) -> TransferredLabels:
    """Return what the labelled cells nearest by expression of one-to-one orthologs say of others.

    Counts of the orthologs that every dataset of both sides measured, scaled to 10^4 a cell, log(1 + x), cosine
    distance. Within an organism, of all genes both measured.

    Parameters
    ----------
    reference, cells, numbers, neighbours
        As of `transfer_labels`.

    Raises
    ------
    ModelInputError
        When a side has cells of several organisms, or the two have no measured ortholog in common.
    ReferenceMissingError
        When an organism has no table of orthologs; the message says what to run.
    """
    some = np.arange(len(cells)) if numbers is None else np.asarray(numbers, dtype=np.int64)
    sides = [_Side.of(reference.cells, reference.numbers), _Side.of(cells, some)]
    pairs = one_to_one_orthologs(sides[0].organism, sides[1].organism)
    places = [side.places(pairs[name].tolist()) for side, name in zip(sides, ("first", "second"), strict=True)]
    shared = (places[0] >= 0) & (places[1] >= 0)
    if not shared.any():
        allowed = f"{sides[0].organism} and {sides[1].organism} with measured one-to-one orthologs"
        raise ModelInputError("cells", f"none of {len(pairs)} pairs of orthologs is measured on both sides", allowed)
    points = [side.log_shares(where[shared]) for side, where in zip(sides, places, strict=True)]
    facts = {"method": "orthologs", "genes": int(shared.sum()), "metric": "cosine"}
    return vote((points[0], points[1]), reference, some, neighbours, facts, cells)


def vote(
    points: tuple[Points, Points],
    reference: LabelledCells,
    numbers: Numbers,
    neighbours: int,
    facts: Mapping[str, object],
    cells: Cells | None = None,
) -> TransferredLabels:
    """Return the values that neighbours vote for.

    A neighbour at distance d votes with exp(-(d / m)^2), m being the mean distance of the cell's neighbours: the scale
    follows from each cell's own surroundings, so that distances of two methods need no common unit.

    Parameters
    ----------
    points
        Of the reference cells and of the others, [cells, d], rows or sparse rows.
    reference, numbers
        Whose they are.
    neighbours
        How many vote.
    facts
        How points were made; its `metric` is that of the distance.
    cells
        Where the others are, of which copies in the reference do not vote; None where there can be none.

    Raises
    ------
    ModelInputError
        When no neighbour is asked for, or some cell has none but copies of itself.
    """
    from sklearn.neighbors import NearestNeighbors  # noqa: PLC0415 - takes a second to import

    if neighbours < 1:
        raise ModelInputError("neighbours", neighbours, "1 or more")
    known, asked = _hashes(reference.cells, reference.numbers), _hashes(cells, numbers)
    shared, copies = np.unique(known[np.isin(known, asked) & (known != NO_COUNTS)], return_counts=True)
    most = int(copies.max(initial=0))
    near = min(neighbours, len(known) - most)
    if near < 1:
        raise ModelInputError("reference", f"{len(known)} cells, all copies of one", "labelled cells that are others")
    search = NearestNeighbors(n_neighbors=near + most, algorithm="brute", metric=str(facts["metric"])).fit(points[0])
    distances, places = search.kneighbors(points[1])
    if most:
        own = (known[places] == asked[:, None]) & (asked != NO_COUNTS)[:, None]
        others = np.argsort(own, axis=1, kind="stable")[:, :near]  # the nearest of those that are no copies
        distances, places = (np.take_along_axis(one, others, axis=1) for one in (distances, places))
    distances = distances.astype(np.float64)
    classes, codes = np.unique(reference.values.astype(str), return_inverse=True)
    mean = distances.mean(1, keepdims=True)
    weights = np.exp(-np.square(distances / np.maximum(mean, 1e-12)))
    rows = np.repeat(np.arange(len(distances)), near)
    shares = np.zeros((len(distances), len(classes)))
    np.add.at(shares, (rows, codes[places].ravel()), (weights / weights.sum(1, keepdims=True)).ravel())
    best = shares.argmax(1)
    told = {"neighbours": near, "reference": len(reference.numbers), "classes": len(classes)}
    told["copies"] = int(np.isin(asked, shared).sum())
    return TransferredLabels(
        numbers,
        reference.label,
        classes.astype(object)[best],
        np.minimum(shares.max(1), 1.0).astype(np.float32),
        (codes[places] == best[:, None]).mean(1).astype(np.float32),
        mean[:, 0].astype(np.float32),
        {**facts, **told},
    )


def _hashes(cells: Cells | None, numbers: Numbers) -> npt.NDArray[np.uint64]:
    """Return what tells counts of cells apart; `NO_COUNTS` for cells without any, or that are nowhere."""
    if cells is None:
        return np.full(len(numbers), NO_COUNTS, dtype=np.uint64)
    hashes = np.array(cells.codes("count_hash_high", numbers), dtype=np.uint64)
    hashes[np.asarray(cells.codes("depth", numbers)) == 0] = NO_COUNTS
    return hashes


@dataclass(frozen=True, eq=False)
class _Side:
    """Cells of one organism."""

    cells: Cells
    """Where they are."""
    numbers: Numbers
    """Which."""
    code: int
    """Of their organism."""

    @classmethod
    def of(cls, cells: Cells, numbers: Numbers) -> _Side:
        codes = np.unique(cells.codes("organism", numbers))
        if len(codes) != 1:
            names = ", ".join(str(cells.about["organisms"][int(code)]["organism"]) for code in codes)
            raise ModelInputError("cells", names or "no cell", "cells of one organism; choose one of them")
        return cls(cells, numbers, int(codes[0]))

    @property
    def organism(self) -> str:
        return str(self.cells.about["organisms"][self.code]["organism"])

    def places(self, ids: list[str]) -> npt.NDArray[np.int64]:
        """Return the number of each gene, -1 where some dataset of the cells did not measure it."""
        import pandas as pd  # noqa: PLC0415 - a verb of few users

        genes = self.cells.genes()
        index = pd.Index(genes.loc[genes["organism"] == self.code, "feature_id"])
        found = index.get_indexer(pd.Index(ids, dtype=object)).astype(np.int64)
        for dataset in np.unique(self.cells.codes("dataset", self.numbers)).tolist():
            measured = np.append(self.cells.measured(int(dataset), self.code), False)
            found = np.where(measured[found], found, -1)
        return found

    def log_shares(self, genes: Numbers) -> sp.csr_matrix:
        """Return log(1 + 10^4 share) of some genes, float32 [cells, genes]; shares are among these genes."""
        import scipy.sparse as sp  # noqa: PLC0415 - as above

        all_genes = int((self.cells.genes()["organism"] == self.code).sum())
        parts = []
        for start in range(0, len(self.numbers), READ):
            rows = self.cells.read(self.numbers[start : start + READ]).decode()
            counts = sp.csr_matrix((rows.counts, rows.indices, rows.indptr), shape=(len(rows.indptr) - 1, all_genes))
            parts.append(counts[:, genes].astype(np.float32))
        found = sp.vstack(parts, format="csr")
        depth = np.asarray(found.sum(1, dtype=np.float64)).ravel()
        found.data *= np.repeat(SCALE / np.maximum(depth, 1), np.diff(found.indptr)).astype(np.float32)
        return found.log1p()
