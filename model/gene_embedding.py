"""Genes as vectors: as the network reads them, whatever the cell (`embed_genes`), and as it leaves them in cells.

The first is what a gene is before any count: protein, place, ortholog group. The second, `embed_genes_in_cells`, is the
mean of what the trunk makes of a gene over the cells that show it, which depends on those cells: of one cell type, or
one condition. Cells are streamed, and only sums are held. `panatlas embed-genes` writes either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ontology import get_organism

from .embedding import gene_embeddings
from .errors import ModelInputError
from .inference import read_cells

if TYPE_CHECKING:
    import numpy.typing as npt

    from loaders import Cells

    from .checkpoint import TrainedModel
    from .inference import InferenceOptions

    Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class GeneVectors:
    """Genes of one or several organisms as vectors, in the order of the vocabulary."""

    ids: npt.NDArray[np.object_]
    """Feature ids, [genes]."""
    organisms: npt.NDArray[np.object_]
    """Whose gene each is, experiment names, [genes]."""
    values: npt.NDArray[np.float32]
    """[genes, width of the trunk]."""
    cells: npt.NDArray[np.int64] | None
    """Cells whose context had the gene, [genes]; None where no cells were read."""

    def __len__(self) -> int:
        """Return the number of genes."""
        return len(self.ids)


def embed_genes(model: TrainedModel, organism: str | None = None) -> GeneVectors:
    """Return gene tokens as the network reads them, before any cell.

    Parameters
    ----------
    model
        The model.
    organism
        Any spelling; None for all of the model's, one after another.

    Raises
    ------
    ModelInputError
        When the model has no genes of it.
    """
    names = model.vocabulary.organisms if organism is None else (organism,)
    found = [gene_embeddings(model, name) for name in names]
    known = [get_organism(name).experiment for name in names]
    ids = [gene for one in found for gene in one.ids]
    whose = np.repeat(np.array(known, dtype=object), [len(one.ids) for one in found])
    return GeneVectors(np.array(ids, dtype=object), whose, np.concatenate([one.values for one in found]), None)


def embed_genes_in_cells(
    model: TrainedModel,
    cells: Cells,
    numbers: Numbers | None = None,
    *,
    least_cells: int = 1,
    options: InferenceOptions | None = None,
) -> GeneVectors:
    """Return the mean, over the cells that show a gene, of what the trunk makes of it.

    Parameters
    ----------
    model
        The model.
    cells
        A pack, a store or an AnnData.
    numbers
        Which cells, int64 [n], such as those of one type; None for all.
    least_cells
        Cells that must show a gene; others are left out.
    options
        What is shown of each cell; None for the defaults. A gene's mean is over cells whose context has it: with
        contexts shorter than the expressed genes, that is a draw of them.

    Raises
    ------
    ModelInputError
        As `read_cells`, or when no gene is shown by so many cells.
    """
    if least_cells < 1:
        raise ModelInputError("least_cells", least_cells, "1 or more")
    vocabulary = model.vocabulary
    sums = torch.zeros((vocabulary.n_genes, model.config.trunk.width), dtype=torch.float64)
    shown = torch.zeros(vocabulary.n_genes, dtype=torch.int64)
    for read in read_cells(model, cells, numbers, options):
        tokens = read.batch.genes.long().cpu()
        sums.index_add_(0, tokens, read.encoded.genes.double().cpu())
        shown.index_add_(0, tokens, torch.ones_like(tokens))
    kept = shown >= least_cells
    if not bool(kept.any()):
        allowed = f"at most {int(shown.max())}, the cells that show the most common gene"
        raise ModelInputError("least_cells", least_cells, allowed)
    values = (sums[kept] / shown[kept, None]).float().numpy()
    rows, owners = np.flatnonzero(kept.numpy()), vocabulary.organism_of_tokens
    names = np.array(vocabulary.organisms, dtype=object)[owners[rows]]
    return GeneVectors(_ids_of_tokens(model)[rows], names, values, shown[kept].numpy())


def _ids_of_tokens(model: TrainedModel) -> npt.NDArray[np.object_]:
    """Return the feature id of each token."""
    vocabulary = model.vocabulary
    ids = np.empty(vocabulary.n_genes, dtype=object)
    for organism, genes in zip(vocabulary.organisms, vocabulary.genes, strict=True):
        ids[vocabulary.organism_tokens(organism)] = genes
    return ids
