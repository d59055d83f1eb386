"""The verb `embed`: cells as vectors, one part per label and one of no label; and the genes as the model knows them.

A cell's vector is its codes side by side, what the network squeezes the cell tokens to (compression.py). The part of a
label holds what tells its classes apart; all parts together are the joint embedding. Parts and whole are the same
numbers, so they are returned once, with the columns that are whose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ontology import OntologyError, get_organism

from .errors import ModelInputError
from .inference import read_cells

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt

    from loaders import Cells

    from .checkpoint import TrainedModel
    from .inference import InferenceOptions

    Numbers = npt.NDArray[np.int64]

AT_ONCE = 8_192
"""Genes whose tokens are made at a time."""


@dataclass(frozen=True, eq=False)
class Embedding:
    """Cells as vectors."""

    numbers: Numbers
    """Which cells, int64 [cells]."""
    values: npt.NDArray[np.float32]
    """Codes of all tokens side by side, [cells, dimensions]."""
    columns: Mapping[str, slice]
    """Columns of each token in the order they stand: `base`, then the labels."""

    def __len__(self) -> int:
        """Return the number of cells."""
        return len(self.numbers)

    def part(self, token: str) -> npt.NDArray[np.float32]:
        """Return the columns of one token, [cells, its dimensions]; a view.

        Raises
        ------
        ModelInputError
            When there is no such token.
        """
        if token not in self.columns:
            raise ModelInputError("token", token, f"one of {', '.join(self.columns)}")
        return self.values[:, self.columns[token]]


@dataclass(frozen=True, eq=False)
class GeneEmbedding:
    """Genes of an organism as vectors, before any cell."""

    ids: tuple[str, ...]
    """Feature ids in the order of the vocabulary."""
    values: npt.NDArray[np.float32]
    """Their tokens, [genes, width]."""


def embed(
    model: TrainedModel, cells: Cells, numbers: Numbers | None = None, *, options: InferenceOptions | None = None
) -> Embedding:
    """Return the embedding of cells, some 1 kB per cell.

    Parameters
    ----------
    model
        The model.
    cells
        A pack, a store or an AnnData.
    numbers
        Which cells, int64 [n], in any order; None for all.
    options
        What is shown of each; None for the defaults.

    Raises
    ------
    ModelInputError
        As `read_cells`.
    """
    parts = list(embed_blocks(model, cells, numbers, options=options))
    values = np.concatenate([one.values for one in parts])
    return Embedding(np.concatenate([one.numbers for one in parts]), values, parts[0].columns)


def embed_blocks(
    model: TrainedModel, cells: Cells, numbers: Numbers | None = None, *, options: InferenceOptions | None = None
) -> Iterator[Embedding]:
    """Return the same as `embed`, a batch at a time, in order: for more cells than memory holds."""
    columns = _columns(model)
    found = read_cells(model, cells, numbers, options)
    return (Embedding(read.numbers, read.encoded.embedding.float().cpu().numpy(), columns) for read in found)


def gene_embeddings(model: TrainedModel, organism: str) -> GeneEmbedding:
    """Return what the model knows of each gene of an organism, whatever cell it is in.

    Parameters
    ----------
    model
        The model.
    organism
        Any spelling.

    Raises
    ------
    ModelInputError
        When the model has no genes of it.
    """
    vocabulary, known = model.vocabulary, ", ".join(model.vocabulary.organisms)
    try:
        name = get_organism(organism).experiment
    except OntologyError as error:
        raise ModelInputError("organism", organism, f"one of {known} ({error})") from error
    if name not in vocabulary.organisms:
        raise ModelInputError("organism", organism, f"one of {known}; with_organism adds another to a model")
    make = model.network.tokens
    tokens = torch.from_numpy(vocabulary.organism_tokens(name)).to(make.biotype.weight.device)
    with torch.no_grad():
        parts = [make(some).float().cpu().numpy() for some in tokens.split(AT_ONCE)]
    values = np.concatenate([np.zeros((0, make.width), np.float32), *parts])
    return GeneEmbedding(vocabulary.genes[vocabulary.organisms.index(name)], values)


def _columns(model: TrainedModel) -> dict[str, slice]:
    network, ends = model.network, np.cumsum(model.network.compressor.sizes).tolist()
    return {
        name: slice(end - size, end)
        for name, size, end in zip(network.reader.names, network.compressor.sizes, ends, strict=True)
    }
