"""A network of genes: which gene has a say in which, how much, and where that was read.

One form for every read-out, the model's own and the baselines', and for what significance, heads and structures add to
it: they are layers, one number per edge. **Row is regulator, column is target**, everywhere. Edges are the entries that
are there, whatever their weight: a network is sparse even where all its weights are zeros.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from .errors import ModelInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

EDGE_COLUMNS = ("regulator", "target", "weight")
"""Columns that every list of edges begins with."""
LAYER_NAME_LENGTH = 64
"""Characters of the longest name of a layer."""


@dataclass(frozen=True, eq=False)
class GeneNetwork:
    """Directed, weighted edges between genes of one organism, read from one population of cells.

    Matrices are brought to one form: rows sorted, nothing twice, weights float32. Layers keep their type.

    Raises
    ------
    ModelInputError
        When genes repeat, a matrix does not fit them, a weight is not finite, a gene has an edge with itself, a layer
        has other edges than the weights, or the facts are not JSON.
    """

    genes: tuple[str, ...]
    """Feature ids of rows and columns."""
    weights: sp.csr_matrix
    """Regulators by targets, float32 [genes, genes]; every entry that is there is an edge."""
    readout: str
    """What the weights are, such as `attention` or `pearson`."""
    organism: str
    """Whose genes: the organism's name in an atlas."""
    population: str = "all"
    """Which cells, such as `cell_type=CL:0000084`."""
    cells: int = 0
    """How many."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Where it is from: model digest, release, options, seed, versions. Whatever JSON can say."""
    layers: Mapping[str, sp.csr_matrix] = field(default_factory=dict)
    """More of each edge, such as `q_value`, `z` or `sign`; NaN where it is not known."""

    def __post_init__(self) -> None:
        """Check and bring to one form."""
        genes = tuple(map(str, self.genes))
        if len(set(genes)) != len(genes) or any(not gene or "\0" in gene for gene in genes):
            raise ModelInputError("genes", _repeated(genes), "feature ids, each once, none empty")
        weights = _canonical("weights", self.weights, len(genes)).astype(np.float32)
        if not np.isfinite(weights.data).all():
            raise ModelInputError("weights", "nan or inf", "finite numbers")
        rows, columns = _places(weights)
        if (rows == columns).any():
            raise ModelInputError("weights", genes[int(rows[rows == columns][0])], "no edge from a gene to itself")
        layers = {name: _layer(name, one, weights) for name, one in self.layers.items()}
        for name, value in (("readout", self.readout), ("organism", self.organism), ("population", self.population)):
            if not isinstance(value, str) or not value:
                raise ModelInputError(name, value, "a name")
        try:
            facts = json.loads(json.dumps(dict(self.facts), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ModelInputError("facts", str(error)[:200], "what JSON can hold, no nan or inf") from error
        values = (genes, weights, int(self.cells), MappingProxyType(facts), MappingProxyType(layers))
        for name, value in zip(("genes", "weights", "cells", "facts", "layers"), values, strict=True):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        """Return the number of edges."""
        return int(self.weights.nnz)

    @property
    def regulators(self) -> tuple[str, ...]:
        """Genes with an edge to another one."""
        return tuple(self.genes[i] for i in np.flatnonzero(np.diff(self.weights.indptr)))

    @property
    def targets(self) -> tuple[str, ...]:
        """Genes with an edge from another one."""
        return tuple(self.genes[i] for i in np.unique(self.weights.indices))

    @property
    def digest(self) -> str:
        """Return the sha256 of everything the network says; equal networks, equal digest."""
        said = {name: getattr(self, name) for name in ("genes", "readout", "organism", "population", "cells")}
        said |= {"facts": dict(self.facts), "layers": sorted(self.layers)}
        found = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
        for matrix in (self.weights, *(self.layers[name] for name in sorted(self.layers))):
            found.update(str(matrix.data.dtype).encode())
            found.update(np.ascontiguousarray(matrix.data).tobytes())
        for places in (self.weights.indptr, self.weights.indices):
            found.update(places.astype(np.int64).tobytes())
        return found.hexdigest()

    def edges(self) -> pd.DataFrame:
        """Return regulator, target, weight and a column per layer; strongest first, ties by ids."""
        rows, columns = _places(self.weights)
        ids = np.array(self.genes, dtype=object)
        rank = np.empty(len(ids), dtype=np.int64)
        rank[np.argsort(ids, kind="stable")] = np.arange(len(ids))
        order = np.lexsort((rank[columns], rank[rows], -np.abs(self.weights.data.astype(np.float64))))
        found = {"regulator": ids[rows], "target": ids[columns], "weight": self.weights.data}
        found |= {name: one.data for name, one in self.layers.items()}
        return pd.DataFrame(found).iloc[order].reset_index(drop=True)

    def kept(self, keep: npt.NDArray[np.bool_]) -> GeneNetwork:
        """Return the network with some of its edges.

        Parameters
        ----------
        keep
            bool [edges], in the order of `weights.data`.
        """
        if keep.shape != self.weights.data.shape or keep.dtype != np.bool_:
            raise ModelInputError("keep", f"{keep.dtype} {keep.shape}", f"bool ({len(self)},)")
        rows, columns = _places(self.weights)
        rows, columns = rows[keep], columns[keep]

        def part(one: sp.csr_matrix) -> sp.csr_matrix:
            return sp.csr_matrix((one.data[keep], (rows, columns)), shape=one.shape)

        return replace(self, weights=part(self.weights), layers={name: part(one) for name, one in self.layers.items()})

    def subset(self, genes: Sequence[str]) -> GeneNetwork:
        """Return the network between some genes, in their order.

        Raises
        ------
        ModelInputError
            When one is not in the network.
        """
        place = {gene: i for i, gene in enumerate(self.genes)}
        if unknown := [gene for gene in genes if gene not in place]:
            raise ModelInputError("genes", unknown[0], f"genes of the network, such as {', '.join(self.genes[:3])}")
        rows = np.array([place[gene] for gene in genes], dtype=np.int64)
        layers = {name: one[rows][:, rows] for name, one in self.layers.items()}
        return replace(self, genes=tuple(genes), weights=self.weights[rows][:, rows], layers=layers)

    def with_layer(self, name: str, values: npt.NDArray) -> GeneNetwork:
        """Return the network with one more layer.

        Parameters
        ----------
        name
            Letters, digits and underscores.
        values
            A number per edge [edges], in the order of `weights.data`.
        """
        values = np.asarray(values)
        if values.shape != self.weights.data.shape:
            raise ModelInputError(name, f"shape {values.shape}", f"a number per edge ({len(self)},)")
        made = sp.csr_matrix((values, self.weights.indices, self.weights.indptr), shape=self.weights.shape)
        return replace(self, layers={**self.layers, name: made})


def _canonical(name: str, matrix: Any, genes: int) -> sp.csr_matrix:
    if not sp.issparse(matrix) or matrix.shape != (genes, genes):
        shape = getattr(matrix, "shape", None)
        raise ModelInputError(name, f"{type(matrix).__name__} {shape}", f"a sparse matrix of {genes} x {genes} genes")
    if matrix.dtype.kind not in "iufb":
        raise ModelInputError(name, str(matrix.dtype), "numbers")
    if matrix.format == "csr":
        try:
            matrix.check_format(full_check=True)  # a damaged file's places would be read beyond the end
        except ValueError as error:
            raise ModelInputError(name, str(error), "a matrix whose places are within it") from error
    found = sp.csr_matrix(matrix)
    if not found.has_canonical_format:
        found = found.copy()
        found.sum_duplicates()
    if found.nnz != matrix.nnz:
        raise ModelInputError(name, f"{matrix.nnz - found.nnz} edges twice", "every edge once")
    return found


def _layer(name: str, matrix: Any, weights: sp.csr_matrix) -> sp.csr_matrix:
    plain = isinstance(name, str) and name.isascii() and name.replace("_", "a").isalnum()
    if not plain or name in EDGE_COLUMNS or len(name) > LAYER_NAME_LENGTH:
        raise ModelInputError("layers", name, f"names of letters, digits and underscores, none of {EDGE_COLUMNS}")
    found = _canonical(name, matrix, weights.shape[0])
    if not np.array_equal(found.indptr, weights.indptr) or not np.array_equal(found.indices, weights.indices):
        raise ModelInputError(name, f"{found.nnz} entries", f"one for each of the {weights.nnz} edges, and no other")
    return found


def _places(weights: sp.csr_matrix) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    rows = np.repeat(np.arange(weights.shape[0]), np.diff(weights.indptr))
    return rows, weights.indices.astype(np.int64)


def _repeated(genes: Sequence[str]) -> str:
    seen: set[str] = set()
    for gene in genes:
        if gene in seen or not gene or "\0" in gene:
            return gene
        seen.add(gene)
    return ""
