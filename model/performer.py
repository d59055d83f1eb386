"""Performer attention (FAVOR+, Choromanski et al. 2021, arXiv:2009.14794): softmax by random features, O(n).

exp(q k / sqrt(d)) is the mean over features w ~ N(0, I) of phi(q) phi(k), phi(x) = exp(w x' - |x'|^2 / 2) with
x' = x / d^(1/4); features are orthogonal in blocks, which lowers the variance, and are drawn once from a fixed seed, so
that a loaded network is the one that was saved. Sums run over each cell alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .attention import Heads

if TYPE_CHECKING:
    from .config import TrunkConfig
    from .ragged import Ragged

SEED = 0
"""Of the random features; they are part of what the network is."""


class Performer(nn.Module):
    """Every gene reads every gene of its cell, approximately, in time linear in their number."""

    features: Tensor

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        size = config.width // config.heads
        self.groups = config.heads // config.kv_heads
        self.query = Heads(config.width, config.heads, size, 1)
        self.key_value = Heads(config.width, config.kv_heads, size, 2)
        self.out = nn.Linear(config.width, config.width)
        self.register_buffer("features", orthogonal_features(config.latents, size), persistent=False)

    def forward(
        self, x: Tensor, rows: Ragged, state: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, Tensor]]:
        """Return what each row read, the state unchanged (there is none), and queries with keys."""
        assert bias is None, "the configuration refuses a prior with this kind"
        (query,), (key, value) = self.query(x), self.key_value(x)
        out = linear_attention(query, key, value, rows, self.features)
        return self.out(out.flatten(1).to(x.dtype)), state, (query, key)


def linear_attention(query: Tensor, key: Tensor, value: Tensor, rows: Ragged, features: Tensor) -> Tensor:
    """Return the approximate attention, [rows, heads, d], in at least float32.

    Parameters
    ----------
    query, key, value
        [rows, heads, d] and twice [rows, key heads, d].
    rows
        Borders of the cells.
    features
        [m, d], from `orthogonal_features`.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    logits_q, logits_k = (_logits(x.to(dtype), features.to(dtype)) for x in (query, key))
    # Constant factors per query, and per cell and head over its keys, cancel in the fraction; exponents stay below 0.
    phi_q = (logits_q - logits_q.amax(-1, keepdim=True)).exp()
    top = rows.pad(logits_k, -torch.inf).amax((1, 3)) if rows.longest else logits_k.new_zeros(len(rows), 1)
    phi_k = (logits_k - rows.spread(top)[..., None]).exp()
    padded = rows.pad(phi_k)
    read = torch.einsum("blhm,blhd->bhmd", padded, rows.pad(value.to(dtype)))
    norm = torch.einsum("blhm,bhm->blh", rows.pad(phi_q), padded.sum(1))
    found = torch.einsum("blhm,bhmd->blhd", rows.pad(phi_q), read)
    return rows.unpad(found / norm.clamp(min=torch.finfo(dtype).tiny)[..., None])


def _logits(x: Tensor, features: Tensor) -> Tensor:
    """Return w x' - |x'|^2 / 2, [rows, heads, m]."""
    scaled = x * x.shape[-1] ** -0.25
    return scaled @ features.T - scaled.square().sum(-1, keepdim=True) / 2


def orthogonal_features(count: int, size: int, seed: int = SEED) -> Tensor:
    """Return `count` directions of `size` dimensions, orthogonal in blocks, with the lengths of normal draws."""
    generator = torch.Generator().manual_seed(seed)
    blocks = []
    for _ in range(-(-count // size)):
        square = torch.randn(size, size, generator=generator, dtype=torch.float64)
        directions, upper = torch.linalg.qr(square)
        # Without the signs the directions are not uniform on the sphere, and the estimate is biased (Mezzadri 2007).
        blocks.append((directions * upper.diag().sign()).T)
    lengths = torch.randn(count, size, generator=generator, dtype=torch.float64).norm(dim=1, keepdim=True)
    return (torch.cat(blocks)[:count] * lengths).float()
