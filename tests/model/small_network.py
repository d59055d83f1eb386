"""Made gene networks: random ones of any size, and one of two regulons."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from model import GeneNetwork


def random_network(genes: int = 30, edges: int = 120, seed: int = 0, **said: object) -> GeneNetwork:
    """Return a network with normal weights, layers q_value (float32) and sign (int8, some 0), and facts."""
    rng = np.random.default_rng(seed)
    pairs = [(row, column) for row in range(genes) for column in range(genes) if row != column]
    chosen = rng.choice(len(pairs), edges, replace=False)
    rows, columns = np.array([pairs[number] for number in chosen]).T

    def matrix(values: np.ndarray) -> sp.csr_matrix:
        return sp.coo_matrix((values, (rows, columns)), shape=(genes, genes)).tocsr()

    weights = rng.normal(size=edges).astype(np.float32)
    weights[0] = 0  # an edge all the same
    layers = {
        "q_value": matrix(rng.uniform(size=edges).astype(np.float32)),
        "sign": matrix(rng.integers(-1, 2, edges).astype(np.int8)),
    }
    options = {"readout": "pearson", "organism": "homo_sapiens", "population": "cell_type=CL:0000084", "cells": 12}
    options |= {"facts": {"seed": seed, "options": {"trees": None, "names": ["a", "ß"]}}, "layers": layers, **said}
    ids = tuple(f"ENSG{number:011d}" for number in rng.permutation(genes))
    return GeneNetwork(ids, matrix(weights), **options)  # type: ignore[arg-type]


def of_edges(edges: list[tuple[str, str, float]], genes: str = "", **said: object) -> GeneNetwork:
    """Return the network of a list of edges; genes are letters, sorted."""
    ids = tuple(sorted({*genes, *(end for edge in edges for end in edge[:2])}))
    place = {gene: number for number, gene in enumerate(ids)}
    rows, columns = ([place[edge[side]] for edge in edges] for side in (0, 1))
    weights = sp.coo_matrix(([edge[2] for edge in edges], (rows, columns)), shape=(len(ids),) * 2, dtype=np.float32)
    return GeneNetwork(ids, weights, **{"readout": "made", "organism": "homo_sapiens", **said})  # type: ignore[arg-type]


def same(one: GeneNetwork, other: GeneNetwork) -> bool:
    """Return whether two networks are equal in everything, types included."""
    pairs = [(one.weights, other.weights), *((one.layers[name], other.layers.get(name)) for name in one.layers)]
    said = ("genes", "readout", "organism", "population", "cells")
    return (
        all(getattr(one, name) == getattr(other, name) for name in said)
        and dict(one.facts) == dict(other.facts)
        and one.layers.keys() == other.layers.keys()
        and all(
            a.data.dtype == b.data.dtype and all(
                np.array_equal(getattr(a, part), getattr(b, part), equal_nan=part == "data")
                for part in ("indptr", "indices", "data")
            )
            for a, b in pairs
        )
    )  # fmt: skip
