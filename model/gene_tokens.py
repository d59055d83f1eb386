"""Who a gene is: `GeneTokens`, the part of a token that does not depend on any cell.

A sum of what is known of the gene: its protein's vector through a learned projection and an adapter, a vector of its
ortholog group that all organisms share, one of its biotype, its position as a sinusoid, and, for genes without a
protein vector, two hashed vectors. Or, for the ablation, one free vector per gene. A batch makes each gene's token
once, however many cells have it. token_table.py holds what is looked up here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from .errors import ModelInputError
from .positions import sinusoid
from .token_table import ARRAYS, BIOTYPES, BUCKETS

if TYPE_CHECKING:
    from .config import TokenConfig
    from .token_table import TokenTable


class GeneTokens(nn.Module):
    """Tokens of genes, [rows, width].

    Parameters
    ----------
    config
        What they are made of.
    table
        What is known of each.
    width
        Features of a token.
    """

    def __init__(self, config: TokenConfig, table: TokenTable, width: int) -> None:
        super().__init__()
        self.config, self.table, self.width = config, table, width
        scale = width**-0.5
        self.protein = self.adapter = self.free = self.group = None
        if config.source == "learned":
            self.free = _embedding(len(table), width, scale)
        elif dim := table.vectors.shape[1]:
            # Protein vectors of language models differ in length by orders of magnitude between models.
            self.protein = nn.Sequential(nn.LayerNorm(dim, elementwise_affine=False), nn.Linear(dim, width))
            if config.adapter:
                self.adapter = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        if config.orthologs:
            self.group = _embedding(len(table.groups), width, scale)
        self.biotype = _embedding(len(BIOTYPES), width, scale)
        self.hashed = _embedding(BUCKETS, width, scale)
        self.place = nn.Parameter(torch.full((1,), scale)) if config.position else None

    def forward(self, genes: Tensor) -> Tensor:
        """Return the tokens of genes, int [rows]."""
        known, places = genes.long().unique(return_inverse=True)
        return self._make(known)[places]

    def _make(self, genes: Tensor) -> Tensor:
        rows, device = genes.cpu().numpy(), genes.device

        def look(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array[rows]).to(device, non_blocking=True)

        dtype = self.biotype.weight.dtype
        out = self.biotype(look(self.table.biotype))
        has_vector = look(self.table.has_vector)[:, None]
        if self.free is not None:
            out = out + self.free(genes)
        else:
            if self.protein is not None:
                token = self.protein(look(self.table.vectors).to(dtype))
                token = token if self.adapter is None else token + self.adapter(token)
                out = out + token * has_vector
            out = out + self.hashed(look(self.table.buckets)).sum(1) * ~has_vector
        if self.group is not None:
            group = look(self.table.group)
            out = out + self.group(group.clamp(min=0)) * (group >= 0)[:, None]
        if self.place is not None:
            out = out + self.place * sinusoid(look(self.table.position), self.width).to(dtype)
        return out

    def extended(self, table: TokenTable) -> GeneTokens:
        """Return tokens over a longer table; every gene and group that was there keeps its numbers to the bit.

        New genes of a free table start as the mean of the old ones, new groups as nothing.

        Raises
        ------
        ModelInputError
            When the first rows of the new table are not the old one's.
        """
        old, trained = len(self.table), f"the first {len(self.table)} genes as they were trained on"
        if table.vectors.shape[1] != self.table.vectors.shape[1]:
            allowed = f"protein vectors of {self.table.vectors.shape[1]} numbers, as it was trained on"
            raise ModelInputError("table", f"{table.vectors.shape[1]} numbers", allowed)
        for name in ("group", *(one for one in ARRAYS if one != "group")):
            before, after = getattr(self.table, name), getattr(table, name)[:old]
            if name == "group":
                before, after = (_names(t, a) for t, a in ((self.table, before), (table, after)))
            if len(table) < old or not np.array_equal(before, after):
                raise ModelInputError("table", f"another {name}", trained)
        if gone := sorted(set(self.table.groups) - set(table.groups)):
            raise ModelInputError("table", f"no group {gone[0]}", trained)
        new = GeneTokens(self.config, table, self.width).to(self.biotype.weight)
        state = {name: value for name, value in self.state_dict().items() if not name.startswith(("free.", "group."))}
        new.load_state_dict(state, strict=False)
        with torch.no_grad():
            if self.free is not None and new.free is not None:
                new.free.weight[:] = self.free.weight.mean(0)
                new.free.weight[:old] = self.free.weight
            if self.group is not None and new.group is not None:
                places = {name: place for place, name in enumerate(table.groups)}
                kept = [places[name] for name in self.table.groups]
                new.group.weight.zero_()
                new.group.weight[kept] = self.group.weight[: len(kept)]
        return new


def _embedding(count: int, width: int, scale: float) -> nn.Embedding:
    out = nn.Embedding(max(count, 1), width)
    nn.init.normal_(out.weight, std=scale)
    return out


def _names(table: TokenTable, groups: np.ndarray) -> np.ndarray:
    """Return group names of numbers, for two tables that number them differently."""
    return np.array([*table.groups, ""])[groups]
