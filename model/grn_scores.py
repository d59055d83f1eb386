"""`score_edges`: what any read-out says of any regulators and targets, the model's own and the baselines' alike.

Every read-out answers the same question with the same kind of answer, so that a figure can stand them side by side,
and so that what is done with scores afterwards (significance, head selection, metrics) does not ask where they are
from. **Row is regulator, column is target.** Values are strengths, above 0 as a rule, and larger is stronger; whether
an edge activates or represses is in the signs, where a read-out can tell. Used by grn_inference.py and the benchmark.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np

from .errors import ModelInputError
from .grn_query import ReadoutOptions, ask

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from loaders import Cells

    from .checkpoint import TrainedModel

    Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class EdgeScores:
    """What a read-out says of every pair of some regulators and targets.

    Raises
    ------
    ModelInputError
        When shapes do not fit.
    """

    regulators: tuple[str, ...]
    """Feature ids of the rows."""
    targets: tuple[str, ...]
    """Feature ids of the columns."""
    values: npt.NDArray[np.float32]
    """Strength, [regulators, targets]; NaN where a gene meets itself, and where the read-out has nothing to go by, such
    as two genes that no cell's context showed together."""
    signs: npt.NDArray[np.int8] | None
    """1 where more of the regulator goes with more of the target, -1 where with less, 0 where not told; None for a
    read-out without signs."""

    def __post_init__(self) -> None:
        shape = len(self.regulators), len(self.targets)
        for name in ("values", "signs"):
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise ModelInputError(name, array.shape, f"{shape}, regulators by targets")

    @property
    def own(self) -> tuple[Numbers, Numbers]:
        """Return rows and columns where a gene meets itself."""
        places = {gene: place for place, gene in enumerate(self.targets)}
        pairs = [(row, places[gene]) for row, gene in enumerate(self.regulators) if gene in places]
        rows, columns = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        return rows, columns


@dataclass(frozen=True)
class Readout:
    """One way to read a network."""

    home: str
    """File that has it."""
    function: str
    """Its name there; takes a GrnQuery, returns values and signs."""
    needs_model: bool
    """Whether it reads a trained model; the others are baselines of expression alone."""
    symmetric: bool
    """Whether both directions of a pair have the same score."""
    signed: bool
    """Whether it tells activation from repression."""
    about: str
    """What it is, for a table."""
    apart: bool = True
    """Whether the score of a pair is the same whatever other targets are asked about."""


BY_NAME = {
    "attention": Readout("attention_maps", "attention", True, False, False,
                         "mean over cells of the attention that the target pays the regulator"),
    "mean_cell_attention": Readout("mean_cell_attention", "mean_cell_attention", True, False, False,
                                   "attention between the mean queries and keys of the cells", apart=False),
    "criss_cross": Readout("attention_maps", "criss_cross", True, False, False,
                           "mean over cells of what the target reads of the regulator through the latents"),
    "token_similarity": Readout("grn_influence", "token_similarity", True, True, True,
                                "cosine of the genes' tokens, before any cell"),
    "gradient": Readout("grn_influence", "gradient", True, False, True,
                        "slope of the target's expected expression in the regulator's log count"),
    "perturbation": Readout("grn_influence", "perturbation", True, False, True,
                            "change of the target's expected expression when the regulator's count is changed"),
    "pearson": Readout("grn_baselines", "pearson", False, True, True, "correlation of expression"),
    "spearman": Readout("grn_baselines", "spearman", False, True, True, "correlation of ranks of expression"),
    "partial_correlation": Readout("grn_baselines", "partial_correlation", False, True, True,
                                   "correlation given all other genes, of a shrunk covariance", apart=False),
    "mean_product": Readout("grn_baselines", "mean_product", False, True, False,
                            "regulator's mean expression times the target's: no cell-to-cell variation at all"),
    "pidc": Readout("grn_pidc", "pidc", False, True, False, "proportional unique mutual information (PIDC)",
                    apart=False),
    "extra_trees": Readout("grn_trees", "extra_trees", False, False, False,
                           "importance in extremely randomised trees that predict the target (GENIE3)"),
    "grnboost2": Readout("grn_trees", "grnboost2", False, False, False,
                         "importance in boosted trees that predict the target (GRNBoost2)"),
}  # fmt: skip
"""Every read-out by name."""
READOUTS: tuple[str, ...] = tuple(BY_NAME)
"""Names that `score_edges` takes."""


def score_edges(
    readout: str,
    model: TrainedModel | None,
    cells: Cells,
    numbers: Numbers | None = None,
    *,
    regulators: Sequence[str],
    targets: Sequence[str],
    options: ReadoutOptions | None = None,
) -> EdgeScores:
    """Return what a read-out says of every regulator and target.

    Parameters
    ----------
    readout
        One of `READOUTS`.
    model
        The model; None will do for a baseline.
    cells
        A pack, a store or an AnnData.
    numbers
        Which cells, int64 [n], of one organism; None for all.
    regulators, targets
        Feature ids, each once in each; a gene may be in both.
    options
        How; None for the defaults.

    Returns
    -------
    EdgeScores
        One dense block, float32 [regulators, targets].

    Raises
    ------
    ModelInputError
        When there is no such read-out, it needs a model and there is none, a gene is unknown or was not measured in all
        of the cells, or the block would be larger than 2^29 pairs.
    """
    how = find_readout(readout)
    if how.needs_model and model is None:
        raise ModelInputError("model", None, f"a trained model, which {readout} reads")
    query = ask(model if how.needs_model else None, cells, numbers, regulators, targets, options)
    values, signs = getattr(import_module(f".{how.home}", __package__), how.function)(query)
    found = EdgeScores(query.regulators, query.targets, np.asarray(values, dtype=np.float32), signs)
    found.values[found.own] = np.nan
    if found.signs is not None:
        found.signs[found.own] = 0
    return found


def find_readout(name: str) -> Readout:
    """Return a read-out by its name.

    Raises
    ------
    ModelInputError
        When there is none of that name.
    """
    if name not in BY_NAME:
        raise ModelInputError("readout", name, f"one of {', '.join(READOUTS)}")
    return BY_NAME[name]
