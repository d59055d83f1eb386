"""Gene networks in the store: a `GeneNetwork` becomes arrays of `atlas.stored_networks` under its key, and comes back.

The key is read-out, release, model and population; everything else a network says of itself lies beside its weights, so
that what comes back is the very network, or its part between some genes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from .errors import ModelInputError
from .gene_network import GeneNetwork

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atlas import Atlas, ResultKey, StoredNetwork


HASH_DIGITS = 12
"""Of a model's digest in a key."""


def network_key(network: GeneNetwork, release: str) -> ResultKey:
    """Return the key of a network: `grn-` and the read-out, the release, the digest of its model, its population.

    The digest is what the facts say under `model`, as `infer_grn` does; `none` where they say nothing.
    """
    from atlas import ResultKey, layout, result_keys  # noqa: PLC0415 - tiledbsoma takes a second

    kind = layout.NETWORK + re.sub(r"[^a-z0-9_-]", "-", network.readout.lower())
    said = network.facts.get("model") or result_keys.NO_MODEL
    model = said["digest"] if isinstance(said, dict) else said
    return ResultKey(kind, release, str(model)[:HASH_DIGITS], network.population)


def store_network(atlas: Atlas, network: GeneNetwork, release: str, *, force: bool = False) -> ResultKey:
    """Store a network beside the cells of its release, and return its key.

    Parameters
    ----------
    atlas
        Opened.
    network
        Of an organism of the atlas.
    release
        Name of the release whose cells it was read from.
    force
        Write in place of one that has the key.

    Raises
    ------
    ModelInputError
        When a gene is none of the atlas, or a layer has numbers that float32 cannot hold.
    AtlasInputError
        When a network has the key.
    StoreError
        When somebody is writing.
    """
    from atlas import stored_networks  # noqa: PLC0415 - as above

    ids = atlas.genes(network.organism)["feature_id"].to_numpy(dtype=object)
    place = {gene: number for number, gene in enumerate(ids)}
    if lost := [gene for gene in network.genes if gene not in place]:
        raise ModelInputError("genes", lost[0], "genes of the atlas")
    places = np.array([place[gene] for gene in network.genes], dtype=np.int64)

    def whole(name: str, matrix: sp.csr_matrix) -> sp.csr_matrix:
        part, values = matrix.tocoo(), matrix.data.astype(np.float32)
        if not np.array_equal(values.astype(matrix.dtype), matrix.data, equal_nan=True):
            raise ModelInputError(name, str(matrix.dtype), "numbers that float32 holds exactly")
        found = sp.coo_matrix((values, (places[part.row], places[part.col])), shape=(len(ids), len(ids))).tocsr()
        found.sort_indices()
        return found

    matrices = {"": network.weights, **network.layers}
    about = {
        "readout": network.readout, "cells": network.cells, "edges": len(network), "genes": places.tolist(),
        "layers": {name: str(one.dtype) for name, one in network.layers.items()},
        "facts": {name: one for name, one in network.facts.items() if name != "feature_names"},
    }  # fmt: skip
    key = network_key(network, release)
    stored_networks.write_network_arrays(
        atlas, network.organism, key, {name: whole(name, one) for name, one in matrices.items()}, about, force=force
    )
    return key


def load_stored_network(atlas: Atlas, stored: StoredNetwork, genes: Sequence[str] | None = None) -> GeneNetwork:
    """Return a stored network, or its part between some genes; only that is read.

    Parameters
    ----------
    atlas, stored
        Where it is, as `atlas.list_networks` gave it.
    genes
        Feature ids, in the order wanted; None for the genes it was made of, in their order.

    Returns
    -------
    GeneNetwork
        With the atlas' names of its genes among the facts, as `feature_names`.

    Raises
    ------
    ModelInputError
        When a gene is none of the network's.
    """
    from atlas import stored_networks  # noqa: PLC0415 - as above

    table, about = atlas.genes(stored.organism), stored.about
    ids, names = (table[column].to_numpy(dtype=object) for column in ("feature_id", "feature_name"))
    places = np.asarray(about["genes"], dtype=np.int64)
    if genes is not None:
        known = {ids[place]: place for place in places}
        if unknown := [gene for gene in genes if gene not in known]:
            raise ModelInputError("genes", unknown[0], "genes of the network")
        places = np.array([known[gene] for gene in genes], dtype=np.int64)
    matrices = stored_networks.read_network_arrays(atlas, stored, places.tolist())
    return GeneNetwork(
        tuple(ids[places]),
        matrices.pop(""),
        readout=about["readout"],
        organism=stored.organism,
        population=stored.key.population,
        cells=about["cells"],
        facts={**about["facts"], "feature_names": dict(zip(ids[places], names[places], strict=True))},
        layers={name: one.astype(about["layers"][name]) for name, one in matrices.items()},
    )
