"""`infer_grn`: the gene network of some cells, by any read-out, between genes of choice, with where it is from.

The cells are any population: a query, a cell type, a cluster, given by number. Genes are chosen by counts
(grn_genes.py), pairs are scored by the read-out (grn_scores.py), scores become edges (grn_postprocess.py). Significance
is the next step and has its own file. Called by the command `panatlas grn` and the benchmark.
"""

from __future__ import annotations

import hashlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import ModelInputError
from .grn_genes import GeneChoice, choose_genes
from .grn_postprocess import ADJUSTMENTS, prove_edges, to_network
from .grn_query import ReadoutOptions, one_organism
from .grn_scores import find_readout, score_edges

if TYPE_CHECKING:
    import numpy.typing as npt

    from loaders import Cells

    from .checkpoint import TrainedModel
    from .gene_network import GeneNetwork
    from .grn_scores import EdgeScores

    Numbers = npt.NDArray[np.int64]

LIBRARIES = ("panatlas", "numpy", "scipy", "scikit-learn", "torch")


def infer_grn(
    model: TrainedModel | None,
    cells: Cells,
    numbers: Numbers | None = None,
    *,
    readout: str,
    genes: GeneChoice | None = None,
    population: str = "all",
    options: ReadoutOptions | None = None,
) -> GeneNetwork:
    """Return the gene network of some cells.

    Parameters
    ----------
    model
        The model; None will do for a baseline. Where one is given, genes are chosen among those it knows, so that its
        networks and the baselines' are between the same genes.
    cells
        A pack, a store or an AnnData.
    numbers
        Which cells, int64 [n], of one organism; None for all.
    readout
        One of `READOUTS`.
    genes
        Which genes; None for the 2,000 that vary most.
    population
        What the cells are called in the network, such as `cell_type=CL:0000084`.
    options
        How; None for the defaults.

    Returns
    -------
    GeneNetwork
        Between regulators and targets, with a layer `sign` where the read-out tells. Its facts say what it was made of,
        and how many pairs had no score: genes that no cell's context showed together are no edge.

    Raises
    ------
    ModelInputError
        As `choose_genes` and `score_edges`; before anything is scored, when more than 2^27 edges would be kept.

    Notes
    -----
    One dense block of scores is held, 4 bytes for each regulator and target, and attention takes as much again to count
    cells: all against all of 16,000 genes are 1 GiB a block. Name `per_target`, or the network is as large.
    """
    options, genes = options or ReadoutOptions(), genes or GeneChoice()
    how = find_readout(readout)
    if how.needs_model and model is None:
        raise ModelInputError("model", None, f"a trained model, which {readout} reads")
    numbers = np.arange(len(cells)) if numbers is None else np.asarray(numbers)
    organism = one_organism(cells, numbers)
    regulators, targets = choose_genes(model, cells, numbers, genes)
    prove_edges(len(regulators), len(targets), options.per_target)
    scores = score_edges(readout, model, cells, numbers, regulators=regulators, targets=targets, options=options)
    for name in options.adjust:
        scores = ADJUSTMENTS[name](scores)
    facts = facts_of(model if how.needs_model else None, cells, numbers, scores)
    facts |= {"options": options.to_facts(), "genes": genes.to_facts()}
    return to_network(
        scores, per_target=options.per_target, readout=readout, organism=organism, population=population,
        cells=len(numbers), facts=facts,
    )  # fmt: skip


def facts_of(model: TrainedModel | None, cells: Cells, numbers: Numbers, scores: EdgeScores) -> dict[str, Any]:
    """Return where scores are from, as JSON values."""
    return {
        "model": None if model is None else _model_name(model),
        "release": cells.about.get("release"),
        "content_sha256": cells.about.get("content_sha256"),
        "cells_sha256": hashlib.sha256(np.asarray(numbers, dtype="<i8").tobytes()).hexdigest(),
        "regulators": len(scores.regulators),
        "targets": len(scores.targets),
        "pairs": len(scores.regulators) * len(scores.targets) - len(scores.own[0]),
        "pairs_without_score": int(np.isnan(scores.values).sum()) - len(scores.own[0]),
        "versions": {name: metadata.version(name) for name in LIBRARIES},
    }


def _model_name(model: TrainedModel) -> dict[str, str]:
    from .checkpoint import weights_digest  # noqa: PLC0415 - which reads networks

    return {"digest": model.digest, "weights": weights_digest(model)}
