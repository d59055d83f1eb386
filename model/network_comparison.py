"""Two gene networks side by side: what they share, which edges differ, which hubs came and went.

From two networks alone, `compare_networks` tells how far an edge's rank moved beyond what edges usually do. Whether
two *populations* differ only cells can tell: `permuted_difference` infers again with the cells' labels shuffled. Both
compare genes that both networks have; nothing is said of a gene that one did not look at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import scipy.stats as st

from .errors import ModelInputError
from .network_topology import communities, hubs

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from .gene_network import GeneNetwork

FEWEST = 20
"""Shared edges below which no spread of ranks can be told."""
PER_LEVEL, MOST_LEVELS = 50, 50
"""Shared edges of each level of strength, whose spread is told apart; and levels at most."""
NORMAL_MAD = 1.4826
"""Standard deviation of a normal distribution in units of its median absolute deviation."""


@dataclass(frozen=True, eq=False)
class NetworkComparison:
    """What two networks, A and B, share and do not."""

    edges: pd.DataFrame
    """Edges of either: regulator, target, weight_a, weight_b (NaN where it has none), difference (of normal scores of
    ranks, A minus B), z, p_value, q_value (NaN where only one has it, or fewer than 20 are shared); smallest p first,
    then largest weight, ties by ids."""
    summary: dict[str, Any]
    """genes, edges of A, of B, shared; `jaccard`; `expected_shared` and `p_shared` if edges lay at random;
    `spearman` of shared weights; `community_rand`, the adjusted Rand index of the communities."""
    hubs: dict[str, tuple[str, ...]]
    """`shared`, `lost` (of A alone) and `gained` (of B alone)."""


def compare_networks(a: GeneNetwork, b: GeneNetwork, *, top: int = 20, seed: int = 0) -> NetworkComparison:
    """Compare two networks over the genes that both have.

    Parameters
    ----------
    a, b
        Networks of one organism; such as of two populations by one read-out, or of two read-outs.
    top
        How many hubs are looked at.
    seed
        Of the communities.

    Raises
    ------
    ModelInputError
        When they are of two organisms, or share fewer than two genes.

    Notes
    -----
    Edges that both have get, in each, the normal scores of their absolute weights' ranks (van der Waerden 1952).
    Differences are centred and scaled by their median and median absolute deviation over edges about as strong, at
    least 50, so that most edges are taken not to differ, as in tests of differential expression. `z` is compared with a
    normal distribution, `q_value` is Benjamini and Hochberg's. An edge that one network lacks was cut there: its weight
    is not known, and it has no z. A small q says that an edge moved unusually far between these networks; not that it
    would move in other cells.
    """
    if a.organism != b.organism:
        raise ModelInputError("b", b.organism, f"a network of {a.organism}, as the first one is")
    shared = sorted(set(a.genes) & set(b.genes))
    if len(shared) < 2:
        raise ModelInputError("b", f"{len(shared)} genes of the first network", "at least two")
    a, b = a.subset(shared), b.subset(shared)
    edges, summary = _differences(a, b), _overlap(a, b)
    in_a, in_b = hubs(a, top), hubs(b, top)
    found = {
        "shared": tuple(gene for gene in in_a if gene in in_b),
        "lost": tuple(gene for gene in in_a if gene not in in_b),
        "gained": tuple(gene for gene in in_b if gene not in in_a),
    }
    return NetworkComparison(edges, {**summary, "community_rand": _community_rand(a, b, seed)}, found)


def permuted_difference(
    score: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.floating]],
    first: npt.NDArray[np.int64],
    second: npt.NDArray[np.int64],
    *,
    permutations: int = 100,
    seed: int = 0,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return how much edges differ between two populations of cells, and how often shuffled labels do as much.

    Parameters
    ----------
    score
        Scores of edges from cells' numbers, always of the same edges; such as the values of `score_edges`.
    first, second
        The cells of each population, int64; none in both.
    permutations
        How often cells are dealt to the two anew, their sizes kept.
    seed
        Of the shuffling.

    Returns
    -------
    difference, p_value
        Both of the scores' shape. p is two-sided, over the permuted differences of all edges together, each in units
        of its own edge's spread, the true one counted in: never 0. NaN where a score is.

    Raises
    ------
    ModelInputError
        When a population is empty, cells are in both, or there are fewer than 10 permutations.

    Notes
    -----
    Keeps 8 bytes per edge and permutation: score the edges in question, not all pairs of a genome.
    """
    both = np.concatenate([first, second])
    if not len(first) or not len(second) or len(np.unique(both)) != len(both):
        raise ModelInputError("first, second", (len(first), len(second)), "cells of two populations, none in both")
    if permutations < 10:
        raise ModelInputError("permutations", permutations, "10 or more")
    rng = np.random.default_rng(seed)
    observed = np.asarray(score(first), dtype=np.float64) - score(second)
    null = np.empty((permutations, *observed.shape))
    for turn in range(permutations):
        dealt = rng.permutation(both)
        # Ascending numbers, as scores may depend on the order of cells through rounding.
        null[turn] = np.asarray(score(np.sort(dealt[: len(first)])), np.float64) - score(np.sort(dealt[len(first) :]))
    spread = np.sqrt(np.mean(np.square(np.concatenate([null, observed[None]])), axis=0))
    with np.errstate(invalid="ignore", divide="ignore"):
        size, sizes = np.abs(observed) / spread, np.abs(null) / spread
    drawn = np.sort(np.concatenate([sizes[np.isfinite(sizes)], size[np.isfinite(size)]]))
    p_values = (len(drawn) - np.searchsorted(drawn, size - 1e-12)) / max(len(drawn), 1)
    p_values = np.where(spread > 0, p_values, 1.0)
    return observed, np.where(np.isfinite(observed), p_values, np.nan)


def _differences(a: GeneNetwork, b: GeneNetwork) -> pd.DataFrame:
    marks = [_marks(one.weights) for one in (a, b)]
    either = (marks[0] + marks[1]).tocoo()
    rows, columns = either.row, either.col
    values = [_at(one.weights, rows, columns) for one in (a, b)]
    there = [_at(mark, rows, columns) > 0 for mark in marks]
    both = there[0] & there[1]
    difference, z = np.full((2, len(both)), np.nan)
    scores = [_normal_scores(np.abs(value[both])) for value in values]
    difference[both] = scores[0] - scores[1]
    z[both] = _unusual(difference[both], scores[0] + scores[1])
    p_values = 2 * st.norm.sf(np.abs(z))
    known = np.isfinite(p_values)
    q_values = np.full(len(z), np.nan)
    if known.any():
        q_values[known] = st.false_discovery_control(p_values[known])
    ids = np.array(a.genes, dtype=object)
    table = pd.DataFrame(
        {
            "regulator": ids[rows], "target": ids[columns],
            "weight_a": np.where(there[0], values[0], np.nan), "weight_b": np.where(there[1], values[1], np.nan),
            "difference": difference, "z": z, "p_value": p_values, "q_value": q_values,
            "far": -np.maximum(*np.abs(values)),
        }
    )  # fmt: skip
    table = table.sort_values(["p_value", "far", "regulator", "target"], kind="stable", ignore_index=True)
    return table.drop(columns="far")


def _unusual(difference: npt.NDArray[np.float64], level: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return differences in units of what is usual at their level; NaN where there are too few to tell."""
    z = np.full(len(difference), np.nan)
    if len(difference) < FEWEST:
        return z
    # Ranks of weak edges change more than those of strong ones, so each level has a spread of its own.
    bins = int(np.clip(len(difference) // PER_LEVEL, 1, MOST_LEVELS))
    of = np.searchsorted(np.quantile(level, np.linspace(0, 1, bins + 1)[1:-1]), level)
    for one in np.unique(of):
        here = of == one
        off = difference[here] - np.median(difference[here])
        spread = NORMAL_MAD * np.median(np.abs(off))
        # Networks that agree almost everywhere have no spread to measure by.
        z[here] = off / spread if spread > 0 else np.where(off == 0, 0.0, np.nan)
    return z


def _overlap(a: GeneNetwork, b: GeneNetwork) -> dict[str, Any]:
    both = _marks(a.weights).multiply(_marks(b.weights)).tocoo()
    pairs, shared = len(a.genes) * (len(a.genes) - 1), both.nnz
    weights = [_at(one.weights, both.row, both.col) for one in (a, b)]
    varied = shared > 2 and all(np.ptp(one) > 0 for one in weights)
    return {
        "genes": len(a.genes), "edges_a": len(a), "edges_b": len(b), "shared": shared,
        "jaccard": shared / max(len(a) + len(b) - shared, 1),
        "expected_shared": len(a) * len(b) / pairs,
        "p_shared": float(st.hypergeom.sf(shared - 1, pairs, len(a), len(b))),
        "spearman": float(st.spearmanr(*weights).statistic) if varied else None,
    }  # fmt: skip


def _community_rand(a: GeneNetwork, b: GeneNetwork, seed: int) -> float | None:
    from sklearn.metrics import adjusted_rand_score  # noqa: PLC0415 - half a second

    places = []
    for network in (a, b):
        groups = communities(network, seed=seed)
        places.append({gene: number for number, group in enumerate(groups) for gene in group})
    genes = sorted(places[0].keys() & places[1].keys())
    if not genes:
        return None
    return float(adjusted_rand_score(*([place[gene] for gene in genes] for place in places)))


def _normal_scores(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return st.norm.ppf(st.rankdata(values) / (len(values) + 1))


def _at(matrix: sp.csr_matrix, rows: npt.NDArray, columns: npt.NDArray) -> npt.NDArray[np.float64]:
    if not len(rows):
        return np.empty(0)  # scipy would give a matrix
    return np.asarray(matrix[rows, columns], dtype=np.float64).ravel()


def _marks(weights: sp.csr_matrix) -> sp.csr_matrix:
    return sp.csr_matrix((np.ones(weights.nnz, dtype=np.int8), weights.indices, weights.indptr), weights.shape)
