"""What a read-out of a gene network is asked: which regulators and targets, in which cells, and how.

`ask` proves once that cells and genes fit each other and the model, so that no read-out has to; `GrnQuery.expression`
is what the baselines see. **Row is regulator, column is target**, here and in every read-out. Used by grn_scores.py,
which sends a query to its read-out.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import scipy.sparse as sp

from .errors import ModelInputError
from .head_selection import HeadSelection
from .inference import AHEAD, InferenceOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from loaders import Cells

    from .checkpoint import TrainedModel

    Numbers = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float32]

MOST_PAIRS = 2**29
"""Regulators times targets of one block of scores: 2 GiB, and room for 23,000 genes against each other."""
MOST_VALUES = 2**28
"""Cells times genes of expression in memory, 1 GiB."""
PER = 1e4
"""Molecules that a cell is scaled to before the logarithm."""
Contexts = Literal["chosen", "trained"]
OverCells = Literal["mean", "sum"]
Perturbation = Literal["zero", "double"]
Expression = Literal["log", "zscore", "counts"]
Adjustment = Literal["symmetrise", "apc", "sinkhorn"]


@dataclass(frozen=True)
class ReadoutOptions:
    """How a network is read; each read-out has use for some of it."""

    inference: InferenceOptions = field(default_factory=InferenceOptions)
    """How the model reads cells."""
    contexts: Contexts = "chosen"
    """What a cell shows the model: exactly the regulators and targets, so that every pair is seen in every cell; or a
    context as in training, where a pair has a score as far as some cell showed both."""
    heads: Literal["mean", "max"] | HeadSelection = "mean"
    """How attention heads are put together; `max` takes the memory of all heads' maps."""
    layers: tuple[int, ...] = ()
    """Blocks whose attention counts, from 0; none for all."""
    over_cells: OverCells = "mean"
    """Attention of a pair over the cells that showed both: its mean, or its sum, which also counts the cells."""
    perturbation: Perturbation = "zero"
    """What is done to a regulator: its counts set to 0, in the cells that express it, or doubled."""
    expression: Expression = "log"
    """What baselines see: log1p of counts per 10,000, the same with mean 0 and variance 1 in each gene, or counts."""
    trees: int | None = None
    """Trees of an ensemble; None for as many as its authors grow."""
    seed: int = 0
    """Of the ensembles' draws."""
    adjust: tuple[Adjustment, ...] = ()
    """What is done to all scores before edges are chosen, in this order."""
    known: frozenset[tuple[str, str]] = frozenset()
    """A prior network: only these edges, regulator and target, are kept, of which `per_target`; empty for any."""
    per_target: int = 0
    """Strongest edges that each target keeps; 0 keeps all."""
    targets_at_once: int = 0
    """Targets scored at a time, each time from the cells anew, so that memory is that of a part; 0 for all."""

    def __post_init__(self) -> None:
        for name, kind in (("contexts", Contexts), ("over_cells", OverCells), ("perturbation", Perturbation),
                           ("expression", Expression)):  # fmt: skip
            if getattr(self, name) not in get_args(kind):
                raise ModelInputError(name, getattr(self, name), " or ".join(get_args(kind)))
        if not isinstance(self.heads, HeadSelection) and self.heads not in ("mean", "max"):
            raise ModelInputError("heads", self.heads, "mean, max or a HeadSelection")
        if unknown := [one for one in self.adjust if one not in get_args(Adjustment)]:
            raise ModelInputError("adjust", unknown[0], f"some of {', '.join(get_args(Adjustment))}")
        if self.trees is not None and self.trees < 1:
            raise ModelInputError("trees", self.trees, "1 or more")
        for name in ("per_target", "targets_at_once"):
            if getattr(self, name) < 0:
                raise ModelInputError(name, getattr(self, name), "0 or more")

    def to_facts(self) -> dict[str, Any]:
        """Return the options as JSON values; heads that were selected and a prior network by their digests."""
        plain = replace(self, heads="mean", known=frozenset())
        said = {**asdict(plain), "inference": {**asdict(self.inference), "genes": len(self.inference.genes)}}
        if isinstance(self.heads, HeadSelection):
            said["heads"] = {"selection": self.heads.digest, "truth": self.heads.truth, "method": self.heads.method}
        else:
            said["heads"] = self.heads
        text = "".join(f"{one}\t{other}\n" for one, other in sorted(self.known))
        digest = hashlib.sha256(text.encode()).hexdigest()
        said["known"] = {"edges": len(self.known), "sha256": digest} if self.known else None
        return said | {"layers": list(self.layers), "adjust": list(self.adjust)}


@dataclass(frozen=True, eq=False)
class GrnQuery:
    """One question to a read-out, proven by `ask`."""

    model: TrainedModel | None
    """The model; None for a baseline."""
    cells: Cells
    """Where the cells are."""
    numbers: Numbers
    """Which of them, int64 [n], of one organism."""
    organism: str
    """Its name in the atlas."""
    regulators: tuple[str, ...]
    """Feature ids of the rows."""
    targets: tuple[str, ...]
    """Feature ids of the columns."""
    options: ReadoutOptions
    """How."""

    @cached_property
    def genes(self) -> tuple[str, ...]:
        """Return all genes asked about, regulators first, each once."""
        return tuple(dict.fromkeys([*self.regulators, *self.targets]))

    @cached_property
    def rows(self) -> Numbers:
        """Return the places of the regulators in `genes`: they stand first."""
        return np.arange(len(self.regulators))

    @cached_property
    def columns(self) -> Numbers:
        """Return the places of the targets in `genes`."""
        places = {gene: place for place, gene in enumerate(self.genes)}
        return np.array([places[gene] for gene in self.targets], dtype=np.int64)

    @property
    def trained(self) -> TrainedModel:
        """Return the model, where `ask` has proven that there is one."""
        assert self.model is not None
        return self.model

    def expression(self) -> Floats:
        """Return what the baselines see of `genes`, float32 [cells, genes].

        Raises
        ------
        ModelInputError
            When that would have more than 2^28 values.
        """
        if len(self.numbers) * len(self.genes) > MOST_VALUES:
            most = f"at most {MOST_VALUES // len(self.genes)} of {len(self.genes)} genes; draw some of the cells"
            raise ModelInputError("numbers", f"{len(self.numbers)} cells", most)
        counts, depth = gene_counts(self.cells, self.numbers, self.genes)
        if self.options.expression == "counts":
            return counts.toarray()
        found = log_shares(counts, depth).toarray()
        if self.options.expression == "zscore":
            found = standardised(found)
        return found


def ask(
    model: TrainedModel | None,
    cells: Cells,
    numbers: Numbers | None,
    regulators: Sequence[str],
    targets: Sequence[str],
    options: ReadoutOptions | None,
) -> GrnQuery:
    """Return the question after proving that it can be answered.

    Raises
    ------
    ModelInputError
        When there is no cell, cells are of several organisms, a gene is unknown, named twice or was not measured in
        all of the cells, or there are too many pairs.
    """
    numbers = np.arange(len(cells)) if numbers is None else np.asarray(numbers)
    organism = one_organism(cells, numbers)
    for name, genes in (("regulators", regulators), ("targets", targets)):
        if isinstance(genes, str) or not len(genes):
            raise ModelInputError(name, genes, "feature ids, at least one")
        if len(set(genes)) < len(genes):
            raise ModelInputError(name, next(one for one in genes if list(genes).count(one) > 1), "each gene once")
    if len(regulators) * len(targets) > MOST_PAIRS:
        got = f"{len(regulators)} regulators x {len(targets)} targets"
        raise ModelInputError("targets", got, f"at most {MOST_PAIRS} pairs; name regulators, such as known TFs")
    query = GrnQuery(
        model, cells, numbers.astype(np.int64), organism, tuple(regulators), tuple(targets), options or ReadoutOptions()
    )
    known = set(usable_genes(model, cells, query.numbers))
    if missing := [gene for gene in query.genes if gene not in known]:
        whose = "measured in all of the cells" + ("" if model is None else " and known to the model")
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise ModelInputError("genes", ", ".join(missing[:5]) + more, f"feature ids of genes {whose}")
    return query


def one_organism(cells: Cells, numbers: Numbers) -> str:
    """Return the name of the organism that all of the cells are of.

    Raises
    ------
    ModelInputError
        When there are several, no cell, or no such cell.
    """
    if numbers.ndim != 1 or not len(numbers) or numbers.dtype.kind not in "iu":
        raise ModelInputError("numbers", f"{numbers.dtype} {numbers.shape}", "at least one cell number")
    if not 0 <= numbers.min() <= numbers.max() < len(cells):
        raise ModelInputError("numbers", (int(numbers.min()), int(numbers.max())), f"cells 0 to {len(cells) - 1}")
    names = [str(one["organism"]) for one in cells.about["organisms"]]
    codes = np.unique(cells.codes("organism", numbers.astype(np.int64)))
    if len(codes) > 1:
        raise ModelInputError("numbers", [names[code] for code in codes], "cells of one organism at a time")
    return names[codes[0]]


def usable_genes(model: TrainedModel | None, cells: Cells, numbers: Numbers) -> tuple[str, ...]:
    """Return the genes that all of the cells' datasets measured, and the model knows, in the order of the cells."""
    code = int(cells.codes("organism", numbers[:1])[0])
    ids, found = _ids(cells, code), None
    for dataset in np.unique(cells.codes("dataset", numbers)).tolist():
        mine = np.asarray(cells.measured(dataset, code), dtype=bool)
        found = mine if found is None else found & mine
    assert found is not None
    found = found[: len(ids)].copy()
    if model is not None:
        found &= model.vocabulary.gene_tokens(one_organism(cells, numbers), ids.tolist()) >= 0
    return tuple(ids[found].tolist())


def gene_counts(cells: Cells, numbers: Numbers, genes: Sequence[str]) -> tuple[sp.csr_matrix, npt.NDArray[np.float64]]:
    """Return counts of some genes in some cells, float32 [cells, genes], and each cell's counts of all genes."""
    places = {gene: place for place, gene in enumerate(genes)}
    column = np.array([places.get(one, -1) for one in _ids(cells, int(cells.codes("organism", numbers[:1])[0]))])
    parts = []
    for start in range(0, len(numbers), AHEAD):
        some = cells.read(numbers[start : start + AHEAD]).decode()
        owners = np.repeat(np.arange(len(some.indptr) - 1), np.diff(some.indptr))
        wanted = column[some.indices] >= 0
        entries = some.counts[wanted], (owners[wanted], column[some.indices[wanted]])
        parts.append(sp.csr_matrix(entries, shape=(len(some.indptr) - 1, len(genes)), dtype=np.float32))
    return sp.vstack(parts, format="csr"), cells.codes("depth", numbers).astype(np.float64)


def log_shares(counts: sp.csr_matrix, depth: npt.NDArray[np.float64]) -> sp.csr_matrix:
    """Return log1p of counts per 10,000 of a cell's own, float32 [cells, genes]."""
    scale = np.repeat(PER / np.maximum(depth, 1.0), np.diff(counts.indptr))
    return sp.csr_matrix(
        (np.log1p(counts.data * scale).astype(np.float32), counts.indices, counts.indptr), counts.shape
    )


def standardised(values: Floats) -> Floats:
    """Return columns with mean 0 and variance 1; one that does not vary becomes 0, [cells, genes]."""
    centred = values - values.mean(0, dtype=np.float64).astype(np.float32)
    deviation = np.sqrt(np.square(centred).mean(0, dtype=np.float64))
    # What rounding leaves of a constant column is no variation.
    varies = deviation > 1e-6 * np.maximum(np.abs(values).max(0), 1e-30)
    return centred * np.where(varies, 1 / np.where(varies, deviation, 1.0), 0.0).astype(np.float32)


def _ids(cells: Cells, code: int) -> npt.NDArray[np.object_]:
    genes = cells.genes()
    return genes.loc[genes["organism"] == code, "feature_id"].to_numpy(dtype=object)
