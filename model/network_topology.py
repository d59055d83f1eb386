"""How a gene network is built: degree and centrality of its genes, its hubs, communities, and the surroundings of one.

Edges count whatever their sign; strengths are sums of absolute weights. Communities and PageRank are networkx'. Used by
network_comparison.py, and by whoever draws a network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.stats import false_discovery_control

from .enrichment import enrich
from .errors import ModelInputError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import numpy.typing as npt

    from .gene_network import GeneNetwork


def degrees(network: GeneNetwork) -> pd.DataFrame:
    """Return degrees and strengths of the genes as `centrality` does, most targets first."""
    strengths = _absolute(network)
    there = _present(strengths)

    def total(matrix: sp.csr_matrix, axis: int) -> npt.NDArray:
        return np.asarray(matrix.sum(axis=axis)).ravel()

    table = pd.DataFrame(
        {
            "out_degree": total(there, 1), "in_degree": total(there, 0),
            "out_strength": total(strengths, 1), "in_strength": total(strengths, 0), "gene": network.genes,
        },
        index=pd.Index(network.genes, dtype=object),
    )  # fmt: skip
    table = table.sort_values(["out_degree", "out_strength", "gene"], ascending=[False, False, True], kind="stable")
    return table.drop(columns="gene")


def centrality(network: GeneNetwork) -> pd.DataFrame:
    """Return what each gene is in the network, most targets first.

    Returns
    -------
    A row per gene, ids as index: `out_degree` and `in_degree` (targets and regulators), `out_strength` and
    `in_strength` (sums of absolute weights), and `influence`: PageRank on edges turned round and weighted by their
    absolute weight, so that a gene ranks high that regulates genes which regulate much. It sums to 1.

    Notes
    -----
    Page, Brin, Motwani and Winograd, The PageRank citation ranking, 1999, with damping 0.85.
    """
    import networkx as nx  # noqa: PLC0415 - a third of a second

    table = degrees(network)
    graph = nx.from_scipy_sparse_array(_absolute(network).T.tocsr(), create_using=nx.DiGraph)
    ranks = nx.pagerank(graph) if len(network.genes) else {}
    ranked = pd.Series({network.genes[number]: rank for number, rank in ranks.items()}, dtype=np.float64)
    return table.assign(influence=ranked.reindex(table.index).to_numpy())


def hubs(network: GeneNetwork, top: int = 20) -> tuple[str, ...]:
    """Return the genes with most targets, ties by strength, then by id; none that has no target."""
    if top < 1:
        raise ModelInputError("top", top, "1 or more")
    table = degrees(network)
    return tuple(table.index[: min(top, int((table["out_degree"] > 0).sum()))])


def communities(network: GeneNetwork, *, resolution: float = 1.0, seed: int = 0) -> tuple[tuple[str, ...], ...]:
    """Return groups of genes with more edges among them than to others, largest first; genes without edges in none.

    Parameters
    ----------
    network
        Its edges count without direction; those of a pair add up.
    resolution
        Above 1 more and smaller groups, below 1 fewer.
    seed
        Of the order in which genes are tried.

    Notes
    -----
    Blondel, Guillaume, Lambiotte and Lefebvre, Fast unfolding of communities in large networks, 2008,
    doi:10.1088/1742-5468/2008/10/P10008, as networkx has it.
    """
    import networkx as nx  # noqa: PLC0415 - as above

    strengths = _absolute(network)
    both = (strengths + strengths.T).tocoo()
    upper = (both.row < both.col) & (both.data > 0)
    graph = nx.Graph()
    graph.add_weighted_edges_from(
        zip(both.row[upper].tolist(), both.col[upper].tolist(), both.data[upper].tolist(), strict=True)
    )
    if not len(graph):
        return ()
    found = nx.community.louvain_communities(graph, resolution=resolution, seed=seed)
    named = [tuple(sorted(network.genes[number] for number in group)) for group in found]
    return tuple(sorted(named, key=lambda group: (-len(group), group)))


def ego_network(network: GeneNetwork, gene: str, most: int = 30) -> GeneNetwork:
    """Return a gene, its strongest regulators and targets, and all edges among them.

    Parameters
    ----------
    network
        Whole.
    gene
        In the middle; the first gene of what is returned.
    most
        Genes around it, those with the largest absolute weights; a gene that is both is counted once.

    Raises
    ------
    ModelInputError
        When the gene is not in the network, or has no edge.
    """
    if gene not in network.genes:
        raise ModelInputError("gene", gene, f"a gene of the network, such as {', '.join(network.genes[:3])}")
    if most < 1:
        raise ModelInputError("most", most, "1 or more")
    place = network.genes.index(gene)
    strengths = _absolute(network)
    there = _present(strengths)
    around = np.maximum(strengths[place].toarray().ravel(), strengths[:, [place]].toarray().ravel())
    linked = (there[place].toarray().ravel() + there[:, [place]].toarray().ravel()) > 0
    near = sorted(np.flatnonzero(linked), key=lambda other: (-around[other], network.genes[other]))[:most]
    if not near:
        raise ModelInputError("gene", gene, "a gene with an edge")
    return network.subset([gene, *(network.genes[other] for other in near)])


def network_enrichment(
    network: GeneNetwork, sets: Mapping[str, Collection[str]], *, top: int = 50, least: int = 5, seed: int = 0
) -> pd.DataFrame:
    """Return which gene sets are met among the hubs of a network, and in each of its communities.

    Parameters
    ----------
    network
        Its genes are the background: only they could have been a hub.
    sets
        Genes by name of the set, ids as the network has them.
    top
        Hubs that are looked at.
    least
        Genes of the network that a set must have; also of a community that is looked at.
    seed
        Of the communities.

    Returns
    -------
    A row per set and group, groups in order, smallest p first: `group` (`hubs`, `community 1`, the largest, and so
    on), `group_genes`, `set`, `genes` (of the set, in the network), `overlap`, `expected`, `p_overlap` (hypergeometric,
    one-sided) and `q_overlap` (Benjamini and Hochberg, over everything here).
    """
    table = degrees(network)
    groups = {"hubs": hubs(network, top)}
    groups |= {f"community {number}": group for number, group in enumerate(communities(network, seed=seed), 1)}
    found = []
    for name, members in groups.items():
        if name != "hubs" and len(members) < least:
            continue
        inside = np.isin(np.array(table.index, dtype=object), members).astype(np.float64)
        tested = enrich(table.index, inside, sets, top=max(len(members), 1), least=least)
        found.append(tested.assign(group=name, group_genes=len(members)))
    columns = ["group", "group_genes", "set", "genes", "overlap", "expected", "p_overlap"]
    whole = pd.concat(found, ignore_index=True)[columns]
    whole = whole.sort_values("p_overlap", kind="stable").sort_values(
        "group", key=lambda column: column.map({name: place for place, name in enumerate(groups)}), kind="stable"
    )
    q_values = false_discovery_control(whole["p_overlap"].to_numpy(np.float64)) if len(whole) else []
    return whole.assign(q_overlap=q_values).reset_index(drop=True)


def _absolute(network: GeneNetwork) -> sp.csr_matrix:
    weights = network.weights
    return sp.csr_matrix((np.abs(weights.data.astype(np.float64)), weights.indices, weights.indptr), weights.shape)


def _present(matrix: sp.csr_matrix) -> sp.csr_matrix:
    return sp.csr_matrix((np.ones(matrix.nnz, dtype=np.int64), matrix.indices, matrix.indptr), matrix.shape)
