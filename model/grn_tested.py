"""A gene network whose edges were tested: `infer_tested_grn` reads cells and shuffled cells by one read-out.

It is `infer_grn` and `assess_edges` in one: genes are chosen once, by the real cells; what is said of each edge becomes
layers of the network, and the edges that are not told from chance at a false discovery rate are left out. Called by the
command `panatlas grn`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from .errors import ModelInputError
from .grn_genes import GeneChoice, choose_genes
from .grn_inference import facts_of, pairs_of
from .grn_postprocess import ADJUSTMENTS, prove_choice, to_network
from .grn_query import ReadoutOptions, one_organism
from .grn_scores import find_readout, score_edges
from .grn_significance import NullOptions, assess_edges, prove_room

if TYPE_CHECKING:
    import numpy.typing as npt

    from loaders import Cells

    from .checkpoint import TrainedModel
    from .gene_network import GeneNetwork
    from .grn_scores import EdgeScores

    Numbers = npt.NDArray[np.int64]


def infer_tested_grn(
    model: TrainedModel | None,
    cells: Cells,
    numbers: Numbers | None = None,
    *,
    readout: str,
    genes: GeneChoice | None = None,
    options: ReadoutOptions | None = None,
    null: NullOptions | None = None,
) -> GeneNetwork:
    """Return the gene network of some cells, each edge tested against shuffled cells.

    Parameters
    ----------
    model, cells, numbers, readout, genes, options
        As `infer_grn`; name the population with `dataclasses.replace`.
    null
        How edges are tested, and the false discovery rate of those that are kept; None for the defaults.

    Returns
    -------
    GeneNetwork
        Edges called at `null.fdr`, with the layers `z`, `p_value`, `q_value`, and `sign` and `stability` where there
        are such. Its facts also say how many pairs were tested, how many were called, and what was resampled.

    Raises
    ------
    ModelInputError
        As `infer_grn` and `assess_edges`.
    """
    options, null, genes = options or ReadoutOptions(), null or NullOptions(), genes or GeneChoice()
    how = find_readout(readout)
    if how.needs_model and model is None:
        raise ModelInputError("model", None, f"a trained model, which {readout} reads")
    numbers = np.arange(len(cells)) if numbers is None else np.asarray(numbers)
    organism = one_organism(cells, numbers)
    regulators, targets = choose_genes(model, cells, numbers, genes)
    if options.targets_at_once:
        raise ModelInputError("targets_at_once", options.targets_at_once, "none where edges are tested: all at a time")
    prove_choice(regulators, targets, options)
    prove_room(len(regulators) * len(targets), null)

    def read_out(some: Cells, which: Numbers) -> EdgeScores:
        scores = score_edges(readout, model, some, which, regulators=regulators, targets=targets, options=options)
        for name in options.adjust:
            scores = ADJUSTMENTS[name](scores)
        return scores

    found = assess_edges(read_out, cells, numbers, null)
    facts = facts_of(model if how.needs_model else None, cells, numbers, (regulators, targets))
    facts |= {**pairs_of(found.scores), "options": options.to_facts(), "genes": genes.to_facts(), "null": asdict(null)}
    facts |= {"pairs_tested": int(np.isfinite(found.q_values).sum()), "resampled": found.resampled}
    facts["pairs_called"] = int(found.called(null.fdr).sum())
    network = to_network(
        found.scores, per_target=options.per_target, known=options.known, readout=readout, organism=organism,
        cells=len(numbers), facts=facts,
    )  # fmt: skip
    place_of = [{gene: number for number, gene in enumerate(ids)} for ids in (regulators, targets)]
    row_of, column_of = (np.array([place.get(gene, -1) for gene in network.genes]) for place in place_of)
    rows = row_of[np.repeat(np.arange(len(network.genes)), np.diff(network.weights.indptr))]
    columns = column_of[network.weights.indices]
    for name, layer in found.layers().items():
        network = network.with_layer(name, layer[rows, columns])
    return network.kept(found.called(null.fdr)[rows, columns])
