"""Labels that cannot be right: `audit_labels` finds cells whose label the model and their markers contradict.

A cell is in doubt where the model names it, surely enough, something that its label excludes: neither it, nor above it,
nor below it. A model errs too, so the input itself is asked: genes that tell the two kinds apart among the cells nobody
doubts place the cell nearer to one or the other. Cells in doubt come grouped by what they are labelled and what they
are told, with the genes by which they differ from the cells that keep the label.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .annotation import LIKELIER_THAN_NOT, annotate_blocks
from .errors import ModelInputError
from .marker_tests import compare_cells, marker_scale, read_expression, shared_genes

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from loaders import Cells
    from ontology import LabelSpace

    from .annotation import Annotation
    from .calibration import Calibration
    from .checkpoint import TrainedModel
    from .inference import InferenceOptions
    from .marker_tests import MarkerScale

    Numbers = npt.NDArray[np.int64]
    Flags = npt.NDArray[np.bool_]

VERDICTS = ("told", "given", "not known")
"""What the markers of a cell say: it is what the model tells, it is what it is labelled, or nobody knows."""

GENES = (
    "given", "told", "feature_id", "feature_name", "score", "log2_fold", "p", "q", "share_doubted", "share_kept",
)  # fmt: skip
"""Columns of the table of genes."""


@dataclass(frozen=True)
class AuditOptions:
    """How sure an audit has to be, and how much it shows."""

    threshold: float = LIKELIER_THAN_NOT
    """Least probability of a term that contradicts a label."""
    markers: int = 25
    """Genes of either side that place a cell, at most."""
    least_kept: int = 10
    """Undoubted cells of either kind without which markers say nothing."""
    most_kept: int = 500
    """Undoubted cells of either kind that are looked at, drawn by the seed; also doubted ones, for the genes."""
    genes: int = 20
    """Genes that are shown of each group, either way."""
    groups: int = 50
    """Groups whose markers and genes are looked at, the largest; a second or so each."""
    seed: int = 0
    """Of the draws."""


@dataclass(frozen=True, eq=False)
class LabelAudit:
    """Cells whose label is in doubt."""

    label: str
    """Which label."""
    audited: int
    """Cells whose label the model has a class for."""
    left_out: int
    """Cells without a label, or of one that the model has no class for."""
    cells: pd.DataFrame
    """A row per cell in doubt, in the cells' order: cell (number), given, given_name, given_probability, told,
    told_name, told_probability, margin (-1 as the cells that keep the label, +1 as those that have the told one, NaN
    where markers are not known), markers (see `VERDICTS`)."""
    groups: pd.DataFrame
    """A row per given and told term, the most cells first: given, given_name, told, told_name, cells, by_markers (those
    whose markers agree with the model), donors, kept (cells that keep the given label), given_markers, told_markers
    (names of genes, the strongest first)."""
    genes: pd.DataFrame
    """Genes by which a group's cells differ from those that keep the label, raised ones first: given, told, feature_id,
    feature_name, score, log2_fold, p, q, share_doubted, share_kept. The cells were chosen by expression, so p tells
    order and no probability."""

    @property
    def contradicted(self) -> int:
        """Return the number of cells that both model and markers contradict."""
        return int((self.cells["markers"] == "told").sum())


def audit_labels(
    model: TrainedModel,
    cells: Cells,
    label: str,
    numbers: Numbers | None = None,
    *,
    options: InferenceOptions | None = None,
    calibration: Calibration | None = None,
    audit: AuditOptions | None = None,
) -> LabelAudit:
    """Return the cells whose label the model contradicts, and what their markers say.

    Parameters
    ----------
    model
        The model, which should not have been trained on these cells: what was learnt by heart is not contradicted.
    cells
        A pack, a store or an AnnData of one organism with the label.
    label
        Which label.
    numbers
        Which cells, int64 [n], in any order; None for all.
    options
        What is shown of each; None for the defaults.
    calibration
        Of this model; its temperature is used.
    audit
        How sure it has to be; None for the defaults.

    Raises
    ------
    ModelInputError
        As `annotate`; when the model has no classes of the label, no cell is labelled with one of them, or cells are of
        several organisms.
    """
    audit = audit or AuditOptions()
    chosen = np.arange(len(cells)) if numbers is None else np.asarray(numbers, dtype=np.int64)
    if len(found := np.unique(cells.codes("organism", chosen))) > 1:
        raise ModelInputError("numbers", f"cells of {len(found)} organisms", "cells of one: audit them one by one")
    blocks = annotate_blocks(model, cells, chosen, options=options, calibration=calibration, threshold=audit.threshold)
    told = _told_of(cells, chosen, label, blocks)
    pairs, sizes = np.unique(np.stack([told.given, told.told])[:, told.doubted], axis=1, return_counts=True)
    margin = np.full(len(chosen), np.nan, dtype=np.float32)
    rows, genes, rng = [], [], np.random.default_rng(audit.seed)
    symbols = _symbols(cells, chosen)
    for place, column in enumerate(np.lexsort((pairs[1], pairs[0], -sizes)).tolist()):
        one, other = pairs[:, column].tolist()
        mine = np.flatnonzero(told.doubted & (told.given == one) & (told.told == other))
        kept = np.flatnonzero(told.kept & (told.given == one))
        # Cells of the told kind: labelled so, or as something below it, and told nothing against it.
        like = np.flatnonzero(told.kept & (told.given >= 0) & told.space.positive[told.given, other])
        scale = None
        if place < audit.groups:
            scale, shown = _evidence(cells, tuple(chosen[some] for some in (mine, kept, like)), audit, rng)
            if shown is not None:
                genes.append(_named(shown, symbols, told.space, one, other))
        if scale is not None:
            margin[mine] = scale.place(cells, chosen[mine])
        agreed = int((margin[mine] > 0).sum())
        donors = len(np.unique(cells.codes("donor", chosen[mine])))
        rows.append((one, other, len(mine), agreed, donors, len(kept), *_marker_ids(scale, symbols)))
    shown = pd.concat(genes, ignore_index=True) if genes else pd.DataFrame(columns=GENES)
    known = int((told.given >= 0).sum())
    return LabelAudit(
        label, known, len(chosen) - known, _cells_in_doubt(told, chosen, margin), _groups(told.space, rows), shown
    )


@dataclass(frozen=True, eq=False)
class _Told:
    """What cells are labelled, and what the model says."""

    space: LabelSpace
    """Classes of the label."""
    given: npt.NDArray[np.int32]
    """Class of each cell's label, -1 for none that the model has, [cells]."""
    told: npt.NDArray[np.int32]
    """Class the model says, -1 for unknown."""
    given_probability: npt.NDArray[np.float32]
    """Probability of the given class, NaN for none."""
    told_probability: npt.NDArray[np.float32]
    """Probability of the told class, NaN for unknown."""

    @cached_property
    def doubted(self) -> Flags:
        """Return whether the label excludes what is told: no leaf is of both."""
        return self._both & ~self._agree

    @cached_property
    def kept(self) -> Flags:
        """Return whether what is told goes with the label."""
        return self._both & self._agree

    @property
    def _both(self) -> Flags:
        return (self.given >= 0) & (self.told >= 0)

    @cached_property
    def _agree(self) -> Flags:
        leaves = self.space.below.astype(np.float32)
        return (leaves @ leaves.T > 0)[self.given, self.told]


def _told_of(cells: Cells, chosen: Numbers, label: str, blocks: Iterator[Annotation]) -> _Told:
    given, told, sure, own = [], [], [], []
    for block in blocks:
        one = block.of(label)
        words = one.space.encode(cells.about["vocabulary"][label], strict=False)
        codes = words[cells.codes(label, block.numbers)]
        chances = np.column_stack([one.class_probabilities, np.full(len(codes), np.nan)])  # the last is that of -1
        given.append(codes)
        told.append(one.said)
        sure.append(one.said_probability)
        own.append(chances[np.arange(len(codes)), codes].astype(np.float32))
    found = _Told(one.space, *(np.concatenate(some) for some in (given, told, own, sure)))
    if not (found.given >= 0).any():
        allowed = (
            f"cells with labels of the model's {len(found.space):,} classes, of {len(chosen):,} cells none has one"
        )
        raise ModelInputError("label", label, allowed)
    return found


def _evidence(
    cells: Cells, groups: tuple[Numbers, ...], audit: AuditOptions, rng: np.random.Generator
) -> tuple[MarkerScale | None, pd.DataFrame | None]:
    """Return the scale from cells that keep a label to those of the told one, and how doubted cells differ."""
    genes = shared_genes(cells, np.concatenate(groups))  # of all, as all that are doubted are placed by them
    mine, kept, like = (np.sort(rng.permutation(some)[: audit.most_kept]) for some in groups)
    if len(kept) < max(audit.least_kept, 2):
        return None, None
    here = read_expression(cells, kept, genes)
    scale = None
    if len(like) >= max(audit.least_kept, 2):
        scale = marker_scale(here, read_expression(cells, like, genes), audit.markers)
    if len(mine) < 2:
        return scale, None
    table = compare_cells(read_expression(cells, mine, genes), here)
    ends = [*range(min(audit.genes, len(table))), *range(max(len(table) - audit.genes, audit.genes), len(table))]
    return scale, table.iloc[ends]


def _named(table: pd.DataFrame, symbols: pd.DataFrame, space: LabelSpace, given: int, told: int) -> pd.DataFrame:
    """Return how genes differ with their names, and whose group it is."""
    names = symbols.iloc[table["gene"].to_numpy(dtype=np.int64)]
    renamed = table.rename(columns={"share_one": "share_doubted", "share_other": "share_kept"}).reset_index(drop=True)
    columns = {name: names[name].to_numpy(dtype=object) for name in ("feature_id", "feature_name")}
    return renamed.assign(given=space.classes[given], told=space.classes[told], **columns)[list(GENES)]


def _symbols(cells: Cells, chosen: Numbers) -> pd.DataFrame:
    table = cells.genes()
    return table[table["organism"] == int(cells.codes("organism", chosen[:1])[0])].reset_index(drop=True)


def _marker_ids(scale: MarkerScale | None, symbols: pd.DataFrame) -> tuple[str, str]:
    """Return the markers of either side as names, the strongest first; empty where there are none."""
    sides = ((), ()) if scale is None else (scale.low, scale.high)
    low, high = (" ".join(symbols["feature_name"].iloc[list(side)].astype(str)) for side in sides)
    return low, high


def _groups(space: LabelSpace, rows: list[tuple]) -> pd.DataFrame:
    names = ["given", "told", "cells", "by_markers", "donors", "kept", "given_markers", "told_markers"]
    found = pd.DataFrame(rows, columns=names)
    given, told = (found[name].to_numpy(dtype=np.int64) for name in ("given", "told"))
    classes, labels = np.array(space.classes, dtype=object), np.array(space.labels, dtype=object)
    found = found.assign(given=classes[given], given_name=labels[given], told=classes[told], told_name=labels[told])
    return found[["given", "given_name", "told", "told_name", *names[2:]]]


def _cells_in_doubt(told: _Told, chosen: Numbers, margin: npt.NDArray[np.float32]) -> pd.DataFrame:
    rows = np.flatnonzero(told.doubted)
    classes, labels = (np.array(some, dtype=object) for some in (told.space.classes, told.space.labels))
    given, said, far = told.given[rows], told.told[rows], margin[rows]
    return pd.DataFrame(
        {
            "cell": chosen[rows],
            "given": classes[given], "given_name": labels[given], "given_probability": told.given_probability[rows],
            "told": classes[said], "told_name": labels[said], "told_probability": told.told_probability[rows],
            "margin": far,
            "markers": np.array(VERDICTS, dtype=object)[np.where(np.isnan(far), 2, np.where(far > 0, 0, 1))],
        }
    )  # fmt: skip
