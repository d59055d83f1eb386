"""A small vocabulary of real genes and classes, and batches whose counts follow from their cell type."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from loaders.batch import CellBatch
from loaders.vocabulary import Vocabulary
from model.ragged import Ragged, make_ragged
from model.token_table import TokenTable, make_token_table
from ontology import LABELS, LabelSpace, load_gene_table, load_ontology, make_label_space

TYPES = ["CL:0000084", "CL:0000624", "CL:0000625", "CL:0000236", "CL:0000576"]
N_GENES = 120


@cache
def toy_vocabulary() -> Vocabulary:
    """Return 120 human and 40 mouse genes, cell types of CL, two sexes, two organisms, and no class of the others."""
    human = load_gene_table("human").ids[:N_GENES].tolist()
    mouse = load_gene_table("mouse").ids[:40].tolist()
    spaces: dict[str, LabelSpace] = {
        "cell_type": make_label_space(load_ontology("CL"), TYPES),
        "sex": flat("PATO:0000383", "PATO:0000384"),
        "organism": flat("NCBITaxon:10090", "NCBITaxon:9606"),
        "assay": flat("EFO:0009899", "EFO:0009922", "EFO:0008931"),
    }
    labels = {name: spaces.get(name, flat()) for name in LABELS}
    return Vocabulary(("homo_sapiens", "mus_musculus"), (tuple(human), tuple(mouse)), labels)


def flat(*ids: str) -> LabelSpace:
    """Return classes without a hierarchy."""
    return LabelSpace(tuple(ids), tuple(ids), len(ids), np.zeros((len(ids), len(ids)), bool), "toy")


@cache
def toy_table(dim: int = 12) -> TokenTable:
    """Return the vocabulary's gene tokens; half of the genes have made-up protein vectors."""
    table = make_token_table(toy_vocabulary(), dim=dim)
    table.has_vector[::2] = True
    table.vectors[::2] = np.random.default_rng(0).normal(size=table.vectors[::2].shape)
    return table


def toy_batch(
    seed: int = 0, sizes: tuple[int, ...] = (40, 25, 33, 60), neighbours: int = 3
) -> tuple[CellBatch, Ragged]:
    """Return human cells whose expression depends on their cell type; the last has no neighbour."""
    rng = np.random.default_rng(seed)
    rows, cells = make_ragged(list(sizes)), len(sizes)
    kinds = rng.integers(0, 5, cells)
    profiles = np.random.default_rng(99).gamma(0.5, 4.0, (5, N_GENES))
    genes = [np.sort(rng.permutation(N_GENES)[:size]) for size in sizes]
    means = [profiles[kind][mine] for kind, mine in zip(kinds, genes, strict=True)]
    counts = np.concatenate([rng.poisson(mean) for mean in means]).astype(np.float32)
    around = np.stack([np.concatenate([rng.poisson(mean) for mean in means]) for _ in range(neighbours)])
    distances = rng.random((cells, neighbours)).astype(np.float32) + 0.1
    around[:, rows.offsets[-2] :], distances[-1] = 0, np.inf
    inside = rows.sum(torch.from_numpy(counts))
    labels = np.full((cells, len(LABELS)), -1)
    labels[:, LABELS.index("cell_type")] = kinds
    labels[:, LABELS.index("sex")] = rng.integers(-1, 2, cells)
    labels[:, LABELS.index("organism")] = 1
    labels[:, LABELS.index("assay")] = rng.integers(0, 3, cells)
    number = torch.arange(cells)
    batch = CellBatch(
        torch.from_numpy(np.concatenate(genes)).int(), torch.from_numpy(counts), rows.offsets,
        torch.from_numpy(around.astype(np.float32)), torch.from_numpy(distances), inside * 1.5,
        rows.sum((torch.from_numpy(counts) > 0).int()).int() + 5, torch.full((cells,), N_GENES).int(),
        torch.from_numpy(labels), *torch.zeros(3, cells).long(), number, number,
    )  # fmt: skip
    batch.check(toy_vocabulary())
    return batch, rows
