"""`infer_grn`: the gene network of some cells, by any read-out, between genes of choice, with where it is from.

The cells are any population: a query, a cell type, a cluster, given by number. Genes are chosen by counts
(grn_genes.py), pairs are scored by the read-out (grn_scores.py), scores become edges (grn_postprocess.py). Significance
is the next step and has its own file. Called by the command `panatlas grn` and the benchmark.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import ModelInputError
from .grn_genes import GeneChoice, choose_genes
from .grn_postprocess import ADJUSTMENTS, prove_choice, to_network
from .grn_query import ReadoutOptions, one_organism
from .grn_scores import EdgeScores, find_readout, score_edges

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from loaders import Cells

    from .checkpoint import TrainedModel
    from .gene_network import GeneNetwork

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
        As `choose_genes` and `score_edges`; before anything is scored, when more than 2^27 edges would be kept, no edge
        of a prior network is between the genes, or the options do not go together.

    Notes
    -----
    One dense block of scores is held, 4 bytes for each regulator and target, and attention takes as much again to count
    cells: all against all of 16,000 genes are 1 GiB a block. Name `per_target`, or the network is as large. With
    `targets_at_once` a block is of so many targets; a pair's score is the same, whatever else is asked in a block.
    """
    options, genes = options or ReadoutOptions(), genes or GeneChoice()
    how = find_readout(readout)
    if how.needs_model and model is None:
        raise ModelInputError("model", None, f"a trained model, which {readout} reads")
    numbers = np.arange(len(cells)) if numbers is None else np.asarray(numbers)
    organism = one_organism(cells, numbers)
    regulators, targets = choose_genes(model, cells, numbers, genes)
    prove_choice(regulators, targets, options)
    prove_blocks(readout, options, len(targets))
    pairs: Counter[str] = Counter()

    def blocks() -> Iterator[EdgeScores]:
        at_once = options.targets_at_once or len(targets)
        for start in range(0, len(targets), at_once):
            some = targets[start : start + at_once]
            scores = score_edges(readout, model, cells, numbers, regulators=regulators, targets=some, options=options)
            for name in options.adjust:
                scores = ADJUSTMENTS[name](scores)
            pairs.update(pairs_of(scores))
            yield scores

    network = to_network(
        blocks(), per_target=options.per_target, known=options.known, readout=readout, organism=organism,
        population=population, cells=len(numbers),
    )  # fmt: skip
    facts = facts_of(model if how.needs_model else None, cells, numbers, (regulators, targets))
    facts |= {**pairs, "options": options.to_facts(), "genes": genes.to_facts()}
    return replace(network, facts=facts)


def prove_blocks(readout: str, options: ReadoutOptions, targets: int) -> None:
    """Raise ModelInputError where a pair's score would be another one if fewer targets were asked about."""
    if not 0 < options.targets_at_once < targets:
        return
    how = find_readout(readout)
    apart = options.contexts == "trained" or readout == "token_similarity" if how.needs_model else True
    if not (how.apart and apart):
        allowed = "none for this read-out, whose scores of a pair depend on all genes that are asked about"
        if how.apart:
            allowed = "contexts as in training: chosen ones are of all genes that are asked about"
        raise ModelInputError("targets_at_once", options.targets_at_once, allowed)


def pairs_of(scores: EdgeScores) -> dict[str, int]:
    """Return how many pairs of two genes there are, and how many of them have no score."""
    own = len(scores.own[0])
    return {"pairs": scores.values.size - own, "pairs_without_score": int(np.isnan(scores.values).sum()) - own}


def facts_of(
    model: TrainedModel | None, cells: Cells, numbers: Numbers, genes: tuple[Sequence[str], Sequence[str]]
) -> dict[str, Any]:
    """Return where scores of some regulators and targets are from, as JSON values."""
    return {
        "model": None if model is None else _model_name(model),
        "release": cells.about.get("release"),
        "content_sha256": cells.about.get("content_sha256"),
        "cells_sha256": hashlib.sha256(np.asarray(numbers, dtype="<i8").tobytes()).hexdigest(),
        "regulators": len(genes[0]),
        "targets": len(genes[1]),
        "versions": {name: metadata.version(name) for name in LIBRARIES},
    }


def _model_name(model: TrainedModel) -> dict[str, str]:
    from .checkpoint import weights_digest  # noqa: PLC0415 - which reads networks

    return {"digest": model.digest, "weights": weights_digest(model)}
