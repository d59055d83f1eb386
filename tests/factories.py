"""Files and sources with sane defaults, so that a test states only what matters to it.

Counts are drawn from a gamma-Poisson; gene names are real ids of the organism's pinned table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from atlas import Source
from ontology import load_gene_table

if TYPE_CHECKING:
    from pathlib import Path


def make_counts(n_cells: int, n_genes: int, seed: int = 0, depth: float = 3.0) -> sp.csr_matrix:
    """Return sparse integer counts (float32), every cell with at least one count."""
    rng = np.random.default_rng(seed)
    rate = rng.gamma(0.3, depth, size=n_genes)
    dense = rng.poisson(rate * rng.uniform(0.5, 1.5, size=(n_cells, 1)))
    dense[np.arange(n_cells), rng.integers(0, n_genes, n_cells)] += 1
    return sp.csr_matrix(dense.astype(np.float32))


def gene_ids(n: int, organism: str = "human", seed: int = 0) -> list[str]:
    """Return `n` real gene ids in random order, core genes first in line so that both hashes are exercised."""
    table = load_gene_table(organism)
    rng = np.random.default_rng(seed)
    core, rest = np.flatnonzero(table.core), np.flatnonzero(~table.core)
    take = np.concatenate([core[: n // 2], rng.choice(rest, n - min(n // 2, len(core)), replace=False)])
    return [str(g) for g in table.ids[rng.permutation(take)]]


def make_adata(n_cells: int = 40, n_genes: int = 120, *, organism: str = "human", seed: int = 0) -> ad.AnnData:
    """Return an AnnData with raw counts and CELLxGENE-style obs."""
    counts = make_counts(n_cells, n_genes, seed)
    obs = pd.DataFrame(
        {
            "cell_type_ontology_term_id": np.where(np.arange(n_cells) % 2, "CL:0000084", "CL:0000236"),
            "tissue_ontology_term_id": "UBERON:0000178",
            "assay_ontology_term_id": "EFO:0009922",
            "disease_ontology_term_id": "PATO:0000461",
            "donor_id": [f"donor{i % 3}" for i in range(n_cells)],
            "suspension_type": "cell",
        },
        index=[f"cell{seed}_{i}" for i in range(n_cells)],
    )
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=gene_ids(n_genes, organism, seed)))


def write_source(path: Path, adata: ad.AnnData | None = None, *, id: str | None = None, **fields: object) -> Source:  # noqa: A002
    """Write an AnnData to `path` and return a source that points at it."""
    (adata if adata is not None else make_adata()).write_h5ad(path)
    defaults: dict[str, object] = {"organism": "human", "uri": str(path), "format": "h5ad"}
    return Source(id=id, **(defaults | fields))
