"""Gene networks beside the cells they were read from: sparse gene x gene arrays in `varp` of an organism's measurement.

A network is an array per layer, named by result_keys.py: its weights `grn-<read-out>`, a layer `grn-<read-out>.<name>`.
They are results like any other (model_results.py): written, read back, and published together. Row is regulator, column
is target, both by joinid, so that official clients read them with `to_anndata(varp_layers=...)`. What a network says
besides its numbers is told by the model floor (network_store.py) and kept as it is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import tiledbsoma as soma

from . import layout
from .contexts import opened
from .errors import AtlasInputError
from .model_results import write_results
from .result_keys import ResultKey

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .handle import Atlas


@dataclass(frozen=True)
class StoredNetwork:
    """A network that an atlas holds."""

    organism: str
    """Experiment name."""
    key: ResultKey
    """Its name."""
    layers: tuple[str, ...]
    """Names of its layers, sorted; the weights are not one of them."""
    about: Mapping[str, Any]
    """What was told of it when it was written."""

    @property
    def members(self) -> tuple[str, ...]:
        """Return its names in `varp`, the weights first: what `to_anndata(varp_layers=...)` takes."""
        return tuple(layer_key(self.key, layer).member for layer in ("", *self.layers))


def layer_key(key: ResultKey, layer: str) -> ResultKey:
    """Return the key of a network's layer; of its weights where the name is empty."""
    return ResultKey(f"{key.kind}.{layer}" if layer else key.kind, key.release, key.model, key.population)


def list_networks(atlas: Atlas, organism: str | None = None) -> list[StoredNetwork]:
    """Return the networks that an atlas holds at its moment, by organism and key.

    Parameters
    ----------
    atlas
        Opened.
    organism
        Any spelling; None for all.
    """
    name = None if organism is None else atlas.experiment(organism)
    found: dict[tuple[str, ResultKey], dict[str, str]] = {}
    for row in atlas.results:
        key = ResultKey.parse(row.key)
        if key.kind.startswith(layout.NETWORK) and name in (None, row.organism):
            kind, _, layer = key.kind.partition(".")
            whole = ResultKey(kind, key.release, key.model, key.population)
            found.setdefault((row.organism, whole), {})[layer] = row.about
    return [
        StoredNetwork(organism, key, tuple(sorted(filter(None, layers))), json.loads(layers[""]))
        for (organism, key), layers in sorted(found.items())
        if "" in layers
    ]


def write_network_arrays(
    atlas: Atlas,
    organism: str,
    key: ResultKey,
    matrices: Mapping[str, sp.csr_matrix],
    about: Mapping[str, Any],
    *,
    force: bool = False,
) -> None:
    """Store a network: all of its arrays or none.

    Parameters
    ----------
    atlas
        Opened.
    organism
        Any spelling.
    key
        Its kind is `grn-` and a read-out, without a dot.
    matrices
        Weights under `""`, layers by name; float32 [genes, genes] of the organism's gene table, columns rising.
    about
        What is to be told of it, as JSON values.
    force
        Write in place of what has the key.

    Raises
    ------
    AtlasInputError
        When the key is none of a network or is taken, or shapes are not the gene table's.
    StoreError
        When somebody is writing, or the store reads back differently.
    """
    name, n_genes = atlas.experiment(organism), len(atlas.genes(organism))
    if not key.kind.startswith(layout.NETWORK) or "." in key.kind:
        raise AtlasInputError("kind", key.kind, f"{layout.NETWORK} and the name of a read-out without a dot")
    if wrong := [one.shape for one in matrices.values() if one.shape != (n_genes, n_genes)]:
        raise AtlasInputError("matrices", wrong[0], f"the shape {(n_genes, n_genes)} of the gene table")
    keys = {layer: layer_key(key, layer) for layer in matrices}
    with write_results(atlas.uri, [(one, name) for one in keys.values()], force=force) as writer:
        for layer, matrix in matrices.items():
            array = writer.matrix(keys[layer], name, matrix.shape, {"layer": layer} if layer else about)
            array.append_sparse(matrix)
            array.cells = int(about.get("cells", 0))  # those it was read from, not rows


def read_network_arrays(
    atlas: Atlas, network: StoredNetwork, joinids: Sequence[int] | None = None
) -> dict[str, sp.csr_matrix]:
    """Return the weights under `""` and the layers of a stored network, float32, rows regulators.

    Parameters
    ----------
    atlas, network
        Where it is, as `list_networks` gave it.
    joinids
        Genes by their place in the gene table, each once: only these are read, in this order; None for all.

    Returns
    -------
    Matrices [genes asked for, genes asked for].
    """
    n_genes = len(atlas.genes(network.organism))
    wanted = np.arange(n_genes) if joinids is None else np.asarray(joinids, dtype=np.int64)
    if len(np.unique(wanted)) != len(wanted) or ((wanted < 0) | (wanted >= n_genes)).any():
        raise AtlasInputError("joinids", list(wanted[:5]), f"places from 0 to {n_genes - 1}, each once")
    coords = () if joinids is None else (np.sort(wanted).tolist(),) * 2
    found = {}
    with opened(soma.Collection, atlas.array_uri(network.organism, layout.VARP), at=atlas.published_ms) as collection:
        for layer, member in zip(("", *network.layers), network.members, strict=True):
            table = collection[member].read(coords).tables().concat()
            places = tuple(table[f"soma_dim_{axis}"].to_numpy() for axis in (0, 1))
            matrix = sp.coo_matrix((table["soma_data"].to_numpy(), places), shape=(n_genes, n_genes)).tocsr()
            found[layer] = matrix[wanted][:, wanted]
    return found
