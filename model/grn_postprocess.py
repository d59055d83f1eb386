"""From scores to edges: scores are put on one footing, and the edges that are kept are chosen. Pure functions.

`symmetrise`, `apc` and `sinkhorn` change the scores of all pairs; `to_network` makes a network of them; the others each
return a network with fewer edges. Each says what it does to a pair of genes that no score was found for: nothing, it is
no edge before and after. Used by grn_inference.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from .errors import ModelInputError
from .gene_network import GeneNetwork
from .grn_scores import EdgeScores

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    import numpy.typing as npt

    from .grn_query import ReadoutOptions

    Numbers = npt.NDArray[np.int64]

MOST_EDGES = 2**27
"""Edges of a network; some 1.6 GiB."""
COLUMNS = 512
"""Targets whose strongest edges are found at a time."""


def symmetrise(scores: EdgeScores) -> EdgeScores:
    """Return the mean of both directions of each pair; where only one has a score, that one. Signs that differ are 0.

    Raises
    ------
    ModelInputError
        When regulators and targets are not the same genes.
    """
    if set(scores.regulators) != set(scores.targets):
        raise ModelInputError("scores", "other targets than regulators", "scores of genes against themselves")
    place = {gene: row for row, gene in enumerate(scores.regulators)}
    order = np.array([place[gene] for gene in scores.targets])
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    other = scores.values[np.ix_(order, back)].T  # [regulator, target] of the score of target -> regulator
    both = (scores.values + other) / 2
    values = np.where(np.isnan(scores.values), other, np.where(np.isnan(other), scores.values, both))
    signs = scores.signs
    if signs is not None:
        there = signs[np.ix_(order, back)].T
        signs = np.where((signs == 0) | (signs == there), there, np.where(there == 0, signs, 0)).astype(np.int8)
    return replace(scores, values=values.astype(np.float32), signs=signs)


def apc(scores: EdgeScores) -> EdgeScores:
    """Return scores less their average product correction: row mean times column mean over the mean of all.

    Takes out what a gene has with everybody (Dunn et al. 2008, doi:10.1093/bioinformatics/btm604). What is left may be
    below 0: less than the two genes' habits lead to expect.
    """
    there = np.isfinite(scores.values)
    filled = np.where(there, scores.values, 0)
    rows = filled.sum(1, dtype=np.float64) / there.sum(1).clip(1)
    columns = filled.sum(0, dtype=np.float64) / there.sum(0).clip(1)
    mean = filled.sum(dtype=np.float64) / max(there.sum(), 1)
    if mean:
        return replace(scores, values=scores.values - np.multiply.outer(rows / mean, columns).astype(np.float32))
    return scores


def sinkhorn(scores: EdgeScores, iterations: int = 200, tolerance: float = 1e-6) -> EdgeScores:
    """Return scores scaled until every regulator gives as much as any other, and every target gets as much.

    Rows add up to one and columns to regulators over targets (Sinkhorn and Knopp 1967, doi:10.2140/pjm.1967.21.343). A
    gene without any score above 0 keeps zeros.

    Parameters
    ----------
    scores
        From 0.
    iterations
        Rounds at most.
    tolerance
        Of the rows' sums, at which it ends.

    Raises
    ------
    ModelInputError
        When a score is negative.
    """
    filled = np.nan_to_num(scores.values, nan=0.0)
    if filled.min(initial=0) < 0:
        raise ModelInputError("scores", float(filled.min()), "scores from 0; take sinkhorn before apc")
    filled /= max(float(filled.max(initial=0)), 1e-30)
    share = filled.shape[0] / max(filled.shape[1], 1)
    left, right = np.ones(filled.shape[0]), np.ones(filled.shape[1])
    for _ in range(iterations):
        right = _inverse(left @ filled) * share
        sums = (filled @ right) * left
        if np.abs(sums[sums > 0] - 1).max(initial=0) < tolerance:
            break
        left = _inverse(filled @ right)
    values = filled * left[:, None].astype(np.float32) * right.astype(np.float32)
    return replace(scores, values=np.where(np.isnan(scores.values), np.nan, values).astype(np.float32))


ADJUSTMENTS = {"symmetrise": symmetrise, "apc": apc, "sinkhorn": sinkhorn}
"""What `ReadoutOptions.adjust` names."""


def prove_choice(regulators: Sequence[str], targets: Sequence[str], options: ReadoutOptions) -> None:
    """Prove, before anything is scored, that scores of these genes can become the edges that are asked for.

    Raises
    ------
    ModelInputError
        When more than 2^27 edges would be kept, no edge of the prior network is between these genes, scores of other
        targets than regulators are to be symmetrised, sinkhorn is to see what apc left below 0, or scores are to be
        adjusted that are not all there at a time.
    """
    mine = _places_of(options.known, regulators, targets)[0] if options.known else None
    if mine is not None and not len(mine):
        one, other = min(options.known)
        allowed = f"edges between the {len(regulators)} regulators and {len(targets)} targets that are asked about"
        raise ModelInputError("known", f"{len(options.known)} edges, such as {one} to {other}", allowed)
    _prove_number(len(regulators), len(targets), options.per_target, len(options.known) if options.known else None)
    adjust = options.adjust
    if "symmetrise" in adjust and set(regulators) != set(targets):
        raise ModelInputError("adjust", "symmetrise of other targets than regulators", "genes against themselves")
    if "apc" in adjust and "sinkhorn" in adjust[adjust.index("apc") :]:
        raise ModelInputError("adjust", ", ".join(adjust), "sinkhorn before apc, which leaves scores below 0")
    if adjust and 0 < options.targets_at_once < len(targets):
        allowed = "none: what is done to all scores needs them at a time; or no adjust"
        raise ModelInputError("targets_at_once", options.targets_at_once, allowed)


def _prove_number(regulators: int, targets: int, per_target: int, known: int | None) -> None:
    most = min(per_target or regulators, regulators) * targets
    if min(most, most if known is None else known) > MOST_EDGES:
        remedy = f"at most {MOST_EDGES}; keep {max(MOST_EDGES // targets, 1)} or fewer per_target"
        raise ModelInputError("per_target", f"{most} edges", remedy)


def to_network(
    scores: EdgeScores | Iterable[EdgeScores],
    *,
    per_target: int = 0,
    known: Collection[tuple[str, str]] = (),
    **about: Any,
) -> GeneNetwork:
    """Return scores as a network between all of their genes, regulators first.

    Parameters
    ----------
    scores
        The scores, or blocks of them with the same regulators and other targets, of which one is held at a time. Pairs
        without a score, and pairs with a score of exactly 0, are no edges.
    per_target
        Strongest edges that each target keeps, the first regulators where scores tie; 0 keeps all.
    known
        A prior network, if any: only these edges (regulator, target) are kept.
    about
        The network's other fields: readout, organism, population, cells, facts.

    Raises
    ------
    ModelInputError
        When more than 2^27 edges would be kept.
    """
    regulators: tuple[str, ...] = ()
    targets: list[str] = []
    found: list[tuple[Numbers, Numbers, npt.NDArray, npt.NDArray | None]] = []
    for block in [scores] if isinstance(scores, EdgeScores) else scores:
        regulators = block.regulators
        _prove_number(len(regulators), len(targets) + len(block.targets), per_target, len(known) or None)
        rows, columns = _kept(block, per_target, known)
        found.append((
            rows, columns + len(targets), block.values[rows, columns],
            None if block.signs is None else block.signs[rows, columns],
        ))  # fmt: skip
        targets += block.targets
    genes = tuple(dict.fromkeys([*regulators, *targets]))
    place = {gene: number for number, gene in enumerate(genes)}
    column_of = np.array([place[gene] for gene in targets], dtype=np.int64)
    rows, columns, values = (np.concatenate([part[side] for part in found]) for side in range(3))
    at, shape = (rows, column_of[columns]), (len(genes), len(genes))
    layers = {}
    if all(part[3] is not None for part in found):
        layers["sign"] = sp.csr_matrix((np.concatenate([part[3] for part in found]), at), shape=shape, dtype=np.int8)
    return GeneNetwork(genes, sp.csr_matrix((values, at), shape=shape), layers=layers, **about)


def _kept(scores: EdgeScores, per_target: int, known: Collection[tuple[str, str]]) -> tuple[Numbers, Numbers]:
    """Return the rows and columns of the scores that become edges."""
    rows, columns = [], []
    prior = _places_of(known, scores.regulators, scores.targets) if len(known) else None
    for start in range(0, len(scores.targets), COLUMNS):
        block = scores.values[:, start : start + COLUMNS]
        kept = np.isfinite(block) & (block != 0)
        if prior is not None:
            there = np.zeros_like(kept)
            mine = (prior[1] >= start) & (prior[1] < start + COLUMNS)
            there[prior[0][mine], prior[1][mine] - start] = True
            kept &= there
        if 0 < per_target < len(block):
            kept &= _strongest(np.where(kept, block, -np.inf), per_target)
        row, column = np.nonzero(kept)
        rows.append(row)
        columns.append(column + start)
    return np.concatenate(rows), np.concatenate(columns)


def _places_of(
    known: Collection[tuple[str, str]], regulators: Sequence[str], targets: Sequence[str]
) -> tuple[Numbers, Numbers]:
    """Return the rows and columns of the edges of a prior network, as far as they are between these genes."""
    row, column = ({gene: number for number, gene in enumerate(genes)} for genes in (regulators, targets))
    pairs = [(row[one], column[other]) for one, other in known if one in row and other in column and one != other]
    rows, columns = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2).T
    return rows, columns


def top_per_target(network: GeneNetwork, number: int) -> GeneNetwork:
    """Return the strongest edges of each target, as many as that or fewer; the first regulators where weights tie."""
    _positive("number", number)
    rows, columns = _places(network)
    order = np.lexsort((rows, -network.weights.data, columns))
    ranked = columns[order]
    first = np.r_[True, ranked[1:] != ranked[:-1]]
    rank = np.arange(len(order)) - np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    keep = np.zeros(len(order), dtype=bool)
    keep[order[rank < number]] = True
    return network.kept(keep)


def top_edges(network: GeneNetwork, number: int) -> GeneNetwork:
    """Return the strongest edges of all, as many as that or fewer; the first genes where weights tie."""
    _positive("number", number)
    keep = np.zeros(len(network), dtype=bool)
    keep[np.argsort(-network.weights.data, kind="stable")[:number]] = True
    return network.kept(keep)


def edges_above(network: GeneNetwork, threshold: float) -> GeneNetwork:
    """Return the edges of a weight above a threshold."""
    return network.kept(network.weights.data > threshold)


def known_edges(network: GeneNetwork, known: Collection[tuple[str, str]]) -> GeneNetwork:
    """Return the edges (regulator, target) that are also in a prior network."""
    place = {gene: number for number, gene in enumerate(network.genes)}
    n = len(network.genes)
    keys = [place[a] * n + place[b] for a, b in known if a in place and b in place]
    rows, columns = _places(network)
    return network.kept(np.isin(rows * n + columns, np.array(keys, dtype=np.int64)))


def spanning_backbone(network: GeneNetwork) -> GeneNetwork:
    """Return the edges along the maximum spanning tree, or forest: each gene hangs on by its strongest path.

    The tree is of pairs, each as strong as its stronger direction (Mantegna 1999, doi:10.1007/s100510050929, of
    distances); of a pair in it, both directions are kept, as far as they are edges.
    """
    from scipy.sparse.csgraph import minimum_spanning_tree  # noqa: PLC0415

    rows, columns = _places(network)
    if not len(rows):
        return network
    n, data = len(network.genes), network.weights.data.astype(np.float64)
    pairs = np.minimum(rows, columns) * n + np.maximum(rows, columns)
    distinct, owner = np.unique(pairs, return_inverse=True)
    strength = np.full(len(distinct), -np.inf)
    np.maximum.at(strength, owner, data)
    # csgraph takes an entry of 0 for no edge at all, so costs are ranks from 1.
    cost = np.empty(len(distinct))
    cost[np.argsort(-strength, kind="stable")] = np.arange(1, len(distinct) + 1)
    tree = minimum_spanning_tree(sp.csr_matrix((cost, (distinct // n, distinct % n)), shape=(n, n))).tocoo()
    inside = np.minimum(tree.row, tree.col).astype(np.int64) * n + np.maximum(tree.row, tree.col)
    return network.kept(np.isin(pairs, inside))


def _strongest(block: npt.NDArray, number: int) -> npt.NDArray[np.bool_]:
    """Return which entries are among the strongest of their column; the first of those that tie at the border."""
    border = np.partition(block, len(block) - number, axis=0)[len(block) - number]
    over = block > border
    tied = block == border
    return over | (tied & (tied.cumsum(0) <= number - over.sum(0)))


def _places(network: GeneNetwork) -> tuple[Numbers, Numbers]:
    rows = np.repeat(np.arange(len(network.genes)), np.diff(network.weights.indptr))
    return rows, network.weights.indices.astype(np.int64)


def _inverse(values: npt.NDArray) -> npt.NDArray[np.float64]:
    return np.divide(1.0, values, out=np.zeros(len(values)), where=values > 0)


def _positive(name: str, number: int) -> None:
    if number < 1:
        raise ModelInputError(name, number, "1 or more")
