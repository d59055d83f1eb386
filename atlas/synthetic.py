"""Synthetic cells: counts drawn by us over an organism's real gene table, for organisms without cells at hand.

They let every stage, from ingest to training, run on all organisms; they say nothing about any organism. So that nobody
takes them for real, the file carries a mark (`uns/synthetic`), which every ingest of it tells as a finding, and the
dataset's id, title, licence, donors, samples and cell names all say it too. They get no label: a synthetic cell is no
cell of any type. `fetch` calls this for `synthetic:` sources; the file then takes the same path as every other h5ad.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from ontology import get_organism, load_gene_table

from .landing import arriving

if TYPE_CHECKING:
    from pathlib import Path

    from ontology import GeneTable

    from .sources import Location

DEFAULT_CELLS = 240
N_GENES = 2_000  # measured genes of a synthetic cell: as many as a small panel of highly variable ones
MARKERS = 60  # genes of a program, raised eightfold in its cells
PROGRAMS = 3
DEPTH = 3_000.0  # median counts of a cell: a shallow droplet, deep enough for the screen
REVISION = 1  # raised whenever the same address would give other counts
MARK = "drawn by panatlas over the gene table; no cell was sequenced"


def make_synthetic(location: Location, folder: Path) -> Path:
    """Return an h5ad of synthetic cells, made where it is not there yet.

    Parameters
    ----------
    location
        Organism, and the options `cells` (240 unless said) and `seed` (0).
    folder
        Where the file is kept.

    Returns
    -------
    Path of the file. The same address, gene table and numpy release give the same counts on every machine.

    Raises
    ------
    ReferenceMissingError
        If no gene table of the organism is at hand; the message says what to run.
    """
    organism = get_organism(location.target)
    table = load_gene_table(organism)
    options = dict(location.options)
    n_cells, seed = int(options.get("cells", DEFAULT_CELLS)), int(options.get("seed", 0))
    stem = f"synthetic-{organism.name}-{REVISION}-{n_cells}-{seed}"
    target = folder / f"{stem}-{table.order_sha256[:12]}.h5ad"
    if target.is_file():
        return target
    rng = np.random.default_rng(_word(stem))
    chosen = _choose_genes(table)
    counts, donor = draw_counts(rng, n_cells, len(chosen))
    _write(target, counts, [str(gene) for gene in table.ids[chosen]], [f"{stem}-donor{d + 1}" for d in donor])
    return target


def _choose_genes(table: GeneTable) -> np.ndarray:
    """Return positions of the genes that are measured: core and mitochondrial ones first, then by a hash of the id."""
    listed = table.core | np.asarray(table.mito, dtype=bool) if table.mito is not None else table.core
    order = sorted(range(len(table)), key=lambda i: (not listed[i], _word(str(table.ids[i]))))
    return np.array(sorted(order[:N_GENES]), dtype=np.int64)


def draw_counts(rng: np.random.Generator, n_cells: int, n_genes: int) -> tuple[sp.csr_matrix, np.ndarray]:
    """Return negative binomial counts of cells of three programs and two donors, and each cell's donor.

    Parameters
    ----------
    rng
        Source of every draw.
    n_cells, n_genes
        Shape.

    Returns
    -------
    CSR float32 [cell, gene], every cell with counts, and int [cell].

    Notes
    -----
    Means of genes are log-normal; donors differ by a tenth in every gene, programs by `MARKERS` genes; a count is
    Poisson of a gamma of shape 2, the dispersion of a typical droplet gene (0.5).
    """
    means = rng.lognormal(0.0, 1.8, n_genes)
    donor_scale = rng.lognormal(0.0, 0.1, (2, n_genes))
    program = np.ones((PROGRAMS, n_genes))
    for row in program:
        row[rng.choice(n_genes, min(MARKERS, n_genes), replace=False)] = 8.0
    donor, kind = np.arange(n_cells) % 2, rng.integers(0, PROGRAMS, n_cells)
    depth = DEPTH * rng.lognormal(0.0, 0.3, n_cells)
    parts = []
    for start in range(0, n_cells, 4096):
        rows = slice(start, start + 4096)
        rate = means * donor_scale[donor[rows]] * program[kind[rows]]
        rate *= (depth[rows] / rate.sum(axis=1))[:, None]
        parts.append(sp.csr_matrix(rng.poisson(rng.gamma(2.0, rate / 2.0)).astype(np.float32)))
    return sp.vstack(parts, format="csr"), donor


def _write(target: Path, counts: sp.csr_matrix, genes: list[str], donors: list[str]) -> None:
    """Write the cells with their mark; the file appears whole."""
    import anndata as ad  # noqa: PLC0415 - only those who make synthetic cells wait for it

    names = pd.Index([f"{target.stem.rsplit('-', 1)[0]}-cell{i}" for i in range(counts.shape[0])])
    obs = pd.DataFrame({"donor_id": donors, "sample_id": donors}, index=names)
    adata = ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=genes), uns={"synthetic": MARK})
    with arriving(target.parent) as scratch:
        adata.write_h5ad(scratch / target.name, compression="gzip")


def _word(text: str) -> int:
    """Return a 64-bit number of a text, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
