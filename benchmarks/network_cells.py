"""What networks are measured on: real cells, the references that fit them, and which genes are scored.

Files are read from the data folder beside the checkout. The matrices of McCalla et al. hold log2(1 + log2(1 + count)),
whatever their README says: undone, every value is a whole number, which is checked here. Used by networks.py.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from benchmarks.bench_data import SHARED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import anndata as ad

    from loaders import AnnDataCells
    from model import TrainedModel
    from model.grn_truths import EdgeTruth

REFERENCES = Path(os.environ.get("PANATLAS_BENCH_REFERENCES", SHARED / "bio" / "grn"))
EXPRESSED = {"regulators": 0.02, "targets": 0.05}
"""Share of the cells that express a gene which is scored; factors are told from few molecules."""
SETS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "hESC, Chen": (
        "human",
        "chen",
        ("hesc", "hesc_perturbation", "hesc_logof", "hesc_nishiyama", "hesc_binding", "hesc_literature", "collectri",
         "omnipath", "encode"),
    ),
    "mESC, Semrau": (
        "mouse",
        "semrau",
        ("mesc", "mesc_perturbation", "mesc_logof", "mesc_nishiyama", "mesc_binding", "mesc_literature",
         "dorothea_mouse"),
    ),
    "human pancreas, Baron": (
        "human",
        "human_pancreas_baron_cxg7.h5ad",
        ("collectri", "omnipath", "dorothea_human", "encode"),
    ),
    "mouse bone marrow, Paul": (
        "mouse",
        "mouse_bonemarrow_paul2015.h5ad",
        ("mdc", "mdc_perturbation", "mdc_binding", "dorothea_mouse"),
    ),
}  # fmt: skip
"""Organism, file (or name in the archive of McCalla et al.) and references of each set of cells."""
TYPES = "cell_type_ontology_term_id"
"""Column of the cell types, where a file has one."""
FEW_TARGETS = 150
"""Targets up to which a reference's are all scored, as far as they are expressed."""
NESTED = 0.9
"""Share of the edges of one reference in another from which on the two are one witness, not two."""


@dataclass(frozen=True, eq=False)
class NetworkStudy:
    """One set of cells with all that its networks are scored by."""

    name: str
    organism: str
    cells: AnnDataCells
    truths: Mapping[str, EdgeTruth]
    regulators: tuple[str, ...]
    targets: tuple[str, ...]
    types: tuple[str, ...] = ()
    """Of each cell, where the file tells."""

    @property
    def genes(self) -> tuple[str, ...]:
        """Return all genes, regulators first."""
        return tuple(dict.fromkeys([*self.regulators, *self.targets]))


def network_studies(model: TrainedModel, regulators: int, targets: int) -> Iterator[NetworkStudy]:
    """Yield each set of cells with its references and at most so many regulators and targets.

    Raises
    ------
    FileNotFoundError
        When the cells or the references are not there.
    """
    from loaders import AnnDataCells
    from model.grn_truths import read_truth

    for name, (organism, file, truths) in SETS.items():
        adata = _mccalla(file) if "." not in file else _read(file)
        cells = AnnDataCells(adata, organism)
        found = {truth: read_truth(REFERENCES, truth) for truth in truths}
        types = tuple(adata.obs[TYPES].astype(str)) if TYPES in adata.obs else ()
        yield NetworkStudy(name, organism, cells, found, *_genes(model, cells, found, regulators, targets), types)


def _read(file: str) -> ad.AnnData:
    import anndata as ad

    path = SHARED / "data" / file
    if not path.exists():
        raise FileNotFoundError(f"{path}: cells that this benchmark reads")
    adata = ad.read_h5ad(path)
    if adata.raw is not None:
        adata = adata.raw.to_adata()
    return ad.AnnData(adata.X, adata.obs[[name for name in (TYPES,) if name in adata.obs]], adata.var[[]])


def _mccalla(name: str) -> ad.AnnData:
    """Return the counts of a matrix of the archive."""
    import anndata as ad
    import pandas as pd
    import scipy.sparse as sp

    path = REFERENCES / "mccalla_benchmark.tar.xz"
    if not path.exists():
        raise FileNotFoundError(f"{path}: cells and references that this benchmark reads")
    with tarfile.open(path) as archive:
        found = archive.extractfile(f"./scRNA/{name}_rna_filtered_log2.tsv.gz")
        assert found is not None
        text = gzip.decompress(found.read())
    frame = pd.read_csv(io.BytesIO(text), sep="\t", index_col=0)
    counts = 2 ** (2 ** frame.to_numpy(dtype=np.float64).T - 1) - 1
    assert np.abs(counts - counts.round()).max() < 1e-6, "no longer log2(1 + log2(1 + count))"
    cells = pd.DataFrame(index=[str(one) for one in frame.columns])
    return ad.AnnData(
        sp.csr_matrix(counts.round().astype(np.float32)), cells, pd.DataFrame(index=frame.index.astype(str))
    )


def _genes(
    model: TrainedModel, cells: AnnDataCells, truths: Mapping[str, EdgeTruth], regulators: int, targets: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return targets that a reference names, drawn alike among expressed ones, and regulators that have most of them.

    Those of a reference of few targets are all taken, or a draw would leave nothing of it to be scored. Chosen once on
    all cells, so that seeds differ in cells alone. No gene is preferred for how it varies or how much of it there is:
    that would decide between read-outs. Regulators are ranked by the share of a reference's edges that is theirs, added
    up, so that a small strict reference has its regulators beside large ones.
    """
    from model.grn_query import gene_counts, usable_genes

    numbers = np.arange(len(cells), dtype=np.int64)
    usable = np.array(usable_genes(model, cells, numbers), dtype=object)
    counts, _ = gene_counts(cells, numbers, usable.tolist())
    share = np.asarray((counts > 0).mean(0)).ravel()
    named = np.isin(usable, sorted({gene for truth in truths.values() for gene in truth.targets}))
    there = usable[named & (share >= EXPRESSED["targets"])]
    short = [truth.targets for truth in truths.values() if len(truth.targets) <= FEW_TARGETS]
    first = np.isin(there, sorted({gene for genes in short for gene in genes}))
    drawn = np.random.default_rng(len(there)).permutation(there[~first])
    few = np.sort(np.concatenate([there[first], drawn])[:targets])
    known = dict.fromkeys(usable[share >= EXPRESSED["regulators"]].tolist(), 0.0)
    for truth in truths.values():
        mine = truth.edges[truth.edges["target"].isin(few) & truth.edges["regulator"].isin(known)]
        for gene, size in mine.groupby("regulator").size().items():
            known[str(gene)] += int(size) / len(mine)
    ranked = sorted((gene for gene in known if known[gene]), key=lambda gene: (-known[gene], gene))
    return tuple(sorted(ranked[:regulators])), tuple(few.tolist())


def some_cells(study: NetworkStudy, most: int, seed: int) -> npt.NDArray[np.int64]:
    """Return cells drawn without replacement, at most 80 % so that seeds differ."""
    n = len(study.cells)
    drawn = np.random.default_rng((seed, n)).permutation(n)[: min(most, int(0.8 * n))]
    return np.sort(drawn).astype(np.int64)


def other_truths(truths: Mapping[str, EdgeTruth], name: str) -> list[str]:
    """Return the references that are no part of one, nor it of them: ChIP with knock-down is a part of knock-down."""
    edges = {one: set(zip(known.edges["regulator"], known.edges["target"], strict=True))
             for one, known in truths.items()}  # fmt: skip
    mine = edges.pop(name)
    return [one for one, its in edges.items() if len(mine & its) < NESTED * min(len(mine), len(its))]


def narrowed(truth: EdgeTruth, study: NetworkStudy) -> EdgeTruth:
    """Return a reference with the edges to the study's targets: all that can be scored there, read many times faster.

    Other regulators' edges stay, as they tell which targets the reference names.
    """
    return replace(truth, edges=truth.edges[truth.edges["target"].isin(study.targets)])


def alike_expressed(study: NetworkStudy) -> NetworkStudy:
    """Return the study with genes that pass the cut of targets: factors in it may be expressed by fewer cells."""
    from model.grn_query import gene_counts

    counts, _ = gene_counts(study.cells, np.arange(len(study.cells), dtype=np.int64), study.genes)
    enough = np.asarray((counts > 0).mean(0)).ravel() >= EXPRESSED["targets"]
    kept = {gene for gene, one in zip(study.genes, enough, strict=True) if one}
    regulators, targets = (tuple(gene for gene in side if gene in kept) for side in (study.regulators, study.targets))
    return replace(study, regulators=regulators, targets=targets)


def factors(organism: str) -> set[str]:
    """Return the feature ids of a list of transcription factors."""
    names = (REFERENCES / {"human": "allTFs_hg38.txt", "mouse": "allTFs_mm.txt"}[organism]).read_text("utf-8").split()
    return set(_ids(names, organism))


def markers(organism: str) -> dict[str, list[str]]:
    """Return markers by cell type and tissue; of human cells, the list names no other's."""
    path = REFERENCES.parent / "markers" / "grnndata_celltype.gmt"
    if organism != "human" or not path.exists():
        return {}
    lines = [line.split("\t") for line in path.read_text("utf-8").splitlines()]
    return {f"{one[0]}, {one[1]}": _ids(one[2:], organism) for one in lines if len(one) > 2}


def _ids(names: list[str], organism: str) -> list[str]:
    from ontology import load_gene_table, resolve_genes

    table = load_gene_table(organism)
    index = resolve_genes(names, table).index
    return sorted({str(table.ids[at]) for at in index.tolist() if at >= 0})
