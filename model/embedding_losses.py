"""What the shape of the embedding is asked for: tokens of a cell that differ, views of a cell that agree.

Each takes tokens and returns a scalar. Formulas are scPRINT-2's as far as they are sound, stated above each function;
their weights are `LossConfig`'s.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .errors import ModelInputError

MARGIN = 0.4
"""Cosine at which two cells count neither as alike nor as different in `elastic_similarity`."""
TEMPERATURE = 0.3
"""Of the agreement's softmax; small is strict."""


def independence(tokens: Tensor) -> Tensor:
    """Return how alike the tokens of a cell are to each other, the mean over cells.

    Over ordered pairs s != t of a cell's T tokens of width d:
    1/2 mean cos(s, t)^2 + 1/2 / (mean |s - t| / sqrt(d) + 10^-3).

    Parameters
    ----------
    tokens
        [cells, T, d], T at least 2.

    Raises
    ------
    ModelInputError
        When there is only one token a cell.
    """
    if tokens.ndim != 3 or tokens.shape[1] < 2:
        raise ModelInputError("tokens", tuple(tokens.shape), "[cells, at least 2, features]")
    tokens = tokens.float()
    count, width = tokens.shape[1:]
    first, second = (pair.to(tokens.device) for pair in torch.triu_indices(count, count, 1))
    cosine = functional.cosine_similarity(tokens[:, first], tokens[:, second], dim=-1)
    # The gradient of a length at 0 is not defined; the small number keeps two equal tokens trainable.
    apart = ((tokens[:, first] - tokens[:, second]).square().sum(-1) + 1e-12).sqrt() / width**0.5
    return (0.5 * cosine.square().mean(1) + 0.5 / (apart.mean(1) + 1e-3)).mean()


def contrastive(first: Tensor, second: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Return how badly two views of the same cells find each other among the batch (InfoNCE, both ways).

    With c_ij = cos(a_i, b_j) / temperature: the mean over i of -log softmax_j(c_ij)[i], averaged with its transpose
    (van den Oord et al. 2018, arXiv:1807.03748).

    Parameters
    ----------
    first, second
        [cells, d]; row i of both is cell i.
    temperature
        Above 0.

    Raises
    ------
    ModelInputError
        When the views have other shapes than each other.
    """
    if first.shape != second.shape:
        raise ModelInputError("second", tuple(second.shape), f"{tuple(first.shape)}, as the first view")
    alike = functional.normalize(first.float(), dim=-1) @ functional.normalize(second.float(), dim=-1).T / temperature
    same = torch.arange(len(first), device=first.device)
    return (functional.cross_entropy(alike, same) + functional.cross_entropy(alike.T, same)) / 2


def elastic_similarity(embeddings: Tensor, margin: float = MARGIN) -> Tensor:
    """Return how undecided the cells' similarities are: the mean over pairs i != j of 1 - (max(cos_ij, 0) - margin)^2.

    Alike cells are drawn together and different ones pushed apart (scGPT's elastic cell similarity, Cui et al. 2024,
    doi:10.1038/s41592-024-02201-0). 0 for a single cell.
    """
    if len(embeddings) < 2:
        return embeddings.sum() * 0.0
    unit = functional.normalize(embeddings.float(), dim=-1)
    cosine = (unit @ unit.T).relu()
    others = ~torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    return (1 - (cosine[others] - margin).square()).mean()
