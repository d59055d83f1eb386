"""Attention inside cells: `attend`, exact and packed, and `SelfAttention`, one door to every kind there is.

Rows of different cells never see each other. Cells of one length are one call of torch's fused kernel; cells of many
lengths are its packed kernel on a GPU and one call per cell on a CPU, so no padding is computed on either. Nothing is
dropped inside attention, in training or after: torch's kernel would go on dropping in evaluation, as scPRINT's does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from .errors import ModelInputError

if TYPE_CHECKING:
    from .config import TrunkConfig
    from .ragged import Ragged

PACKED_TYPES = (torch.float16, torch.bfloat16)
"""What the GPU's packed kernel takes."""


class Watch(Protocol):
    """Is shown the queries [rows, heads, d] and keys [rows, key heads, d] of each block, such as for gene networks."""

    def __call__(self, layer: int, query: Tensor, key: Tensor) -> None:
        """Look at one block."""


def attend(
    query: Tensor, key: Tensor, value: Tensor, rows_q: Ragged, rows_kv: Ragged, bias: Tensor | None = None
) -> Tensor:
    """Return softmax(Q K^T / sqrt(d) + bias) V inside each cell, [query rows, heads, d].

    Parameters
    ----------
    query
        [query rows, heads, d].
    key, value
        [key rows, key heads, d]; heads are a multiple of key heads (grouped-query attention).
    rows_q, rows_kv
        Borders of the cells in both; a query whose cell has no key gets zeros.
    bias
        [cells, longest query, longest key], added to the logits of all heads.

    Raises
    ------
    ModelInputError
        When the two sides are of different cells.
    """
    if len(rows_q) != len(rows_kv):
        raise ModelInputError("rows_kv", f"{len(rows_kv)} cells", f"{len(rows_q)}, as the queries")
    if not rows_q.total or not rows_kv.total:
        return torch.zeros_like(query)
    if rows_q.uniform and rows_kv.uniform:
        return rows_q.unpad(_fused(rows_q.pad(query), rows_kv.pad(key), rows_kv.pad(value), bias))
    if query.is_cuda and bias is None and query.dtype in PACKED_TYPES:
        return _packed(query, key, value, rows_q, rows_kv)
    parts = zip(query.split(rows_q.sizes), key.split(rows_kv.sizes), value.split(rows_kv.sizes), strict=True)
    found = []
    for cell, (q, k, v) in enumerate(parts):
        mine = None if bias is None else bias[cell : cell + 1, : len(q), : len(k)]
        found.append(_fused(q[None], k[None], v[None], mine)[0] if len(q) and len(k) else torch.zeros_like(q))
    return torch.cat(found)


def _fused(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Attend in cells of one length: [cells, rows, heads, d]."""
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    mask = None if bias is None else bias[:, None].to(query.dtype)
    grouped = query.shape[2] != key.shape[2]
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped).transpose(1, 2)


def _packed(query: Tensor, key: Tensor, value: Tensor, rows_q: Ragged, rows_kv: Ragged) -> Tensor:
    """Attend by the GPU's kernel for packed cells."""
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 - older torch has none, and needs none on a CPU

    borders = (rows_q.offsets.int(), rows_kv.offsets.int())
    grouped = query.shape[1] != key.shape[1]
    return varlen_attn(query, key, value, *borders, rows_q.longest, rows_kv.longest, enable_gqa=grouped)


class Heads(nn.Module):
    """Projects rows to heads: queries, or keys with values."""

    def __init__(self, width: int, heads: int, size: int, parts: int) -> None:
        super().__init__()
        self.heads, self.size, self.parts = heads, size, parts
        self.project = nn.Linear(width, parts * heads * size)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return `parts` tensors [rows, heads, size]."""
        return self.project(x).view(len(x), self.parts, self.heads, self.size).unbind(1)


class CrossAttention(nn.Module):
    """Rows read the rows of another array, cell by cell.

    Parameters
    ----------
    width, other
        Features of those that read, and of those that are read.
    heads
        Attention heads, of width / heads features.
    """

    def __init__(self, width: int, other: int, heads: int) -> None:
        super().__init__()
        size = width // heads
        self.query, self.key_value = Heads(width, heads, size, 1), Heads(other, heads, size, 2)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, read: Tensor, rows: Ragged, rows_read: Ragged) -> Tensor:
        """Return what each row read, [rows, width]."""
        key, value = self.key_value(read)
        return self.out(attend(self.query(x)[0], key, value, rows, rows_read).flatten(1))


class ExactAttention(nn.Module):
    """Every gene reads every gene of its cell, O(n^2) time; grouped keys; optional bias of the logits."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        size = config.width // config.heads
        self.query = Heads(config.width, config.heads, size, 1)
        self.key_value = Heads(config.width, config.kv_heads, size, 2)
        self.out = nn.Linear(config.width, config.width)

    def forward(
        self, x: Tensor, rows: Ragged, state: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, Tensor]]:
        """Return what each row read, the state unchanged (there is none), and queries with keys."""
        (query,), (key, value) = self.query(x), self.key_value(x)
        return self.out(attend(query, key, value, rows, rows, bias).flatten(1)), state, (query, key)


def make_self_attention(config: TrunkConfig) -> nn.Module:
    """Return the attention among genes that a configuration asks for.

    Every kind is called as `(x [rows, width], rows, state, bias)` and returns (what was read [rows, width], the state
    for the next block, (queries, keys)).
    """
    from .criss_cross import CrissCross  # noqa: PLC0415 - they are built from this file's parts
    from .performer import Performer  # noqa: PLC0415

    kinds = {"exact": ExactAttention, "criss-cross": CrissCross, "performer": Performer}
    return kinds[config.attention](config)
