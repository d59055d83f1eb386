"""How well predicted expression explains counts: negative log likelihoods and one squared error, per cell.

Counts are negative binomial (mean mu, inverse dispersion theta; variance mu + mu^2 / theta), with or without zero
inflation (Lopez et al. 2018, doi:10.1038/s41592-018-0229-2). Everything is computed in float64, where gamma functions
of large counts still differ in their last digits; a context has too few genes for that to cost time. Only measured
genes are in a context, so every row counts. heads.py makes the parameters; losses are means over a cell's genes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from .ragged import Ragged

PER = 1e4
"""Molecules a cell's context is scaled to before the logarithm of `share_error`."""


def nb_log_likelihood(counts: Tensor, mean: Tensor, theta: Tensor) -> Tensor:
    """Return log NB(counts | mean, theta), element by element, float64.

    log NB = [lgamma(x + theta) - lgamma(theta) - x log theta]
           + x log mu - (x + theta) log(1 + mu / theta) - lgamma(x + 1)

    The bracket goes to 0 as theta grows, which leaves the Poisson distribution.

    Parameters
    ----------
    counts, mean, theta
        Whole numbers from 0; above 0; above 0. Same shape.
    """
    x, mu, theta = counts.double(), mean.double(), theta.double()
    bracket = torch.lgamma(x + theta) - torch.lgamma(theta) - x * theta.log()
    return bracket + torch.xlogy(x, mu) - (x + theta) * torch.log1p(mu / theta) - torch.lgamma(x + 1)


def zinb_log_likelihood(counts: Tensor, mean: Tensor, theta: Tensor, zero_logit: Tensor) -> Tensor:
    """Return log of pi [counts = 0] + (1 - pi) NB(counts | mean, theta), pi = sigmoid(zero_logit), float64.

    With z the logit: log(1 - pi) = -softplus(z), log pi = z - softplus(z), so a zero gives
    logaddexp(z, log NB(0)) - softplus(z) and any other count log NB(x) - softplus(z).
    """
    logit = zero_logit.double()
    plain = nb_log_likelihood(counts, mean, theta)
    return torch.where(counts == 0, torch.logaddexp(logit, plain), plain) - functional.softplus(logit)


def mean_per_cell(values: Tensor, rows: Ragged) -> Tensor:
    """Return the mean over each cell's genes, [cells]; 0 for a cell without any."""
    return rows.sum(values) / rows.offsets.diff().clamp(min=1)


def mean_among(values: Tensor, rows: Ragged, only: Tensor) -> Tensor:
    """Return each cell's mean over some of its genes, bool [rows], [cells]; 0 for a cell of none."""
    return rows.sum(values * only) / rows.sum(only.to(values.dtype)).clamp(min=1)


def share_error(counts: Tensor, mean: Tensor, rows: Ragged, only: Tensor | None = None) -> Tensor:
    """Return each cell's mean squared error of y = log(1 + 10^4 x / sum x), sums over the cell's context, [cells].

    The scale does not depend on depth, so that cells weigh alike; it is scanpy's, over the context.

    Parameters
    ----------
    counts, mean
        Observed, and predicted (zero inflation multiplied in), [rows].
    rows
        Borders of the cells.
    only
        Bool [rows]: genes the error is taken over; shares are of the whole context all the same. None for all.
    """
    error = (_log_share(counts, rows) - _log_share(mean, rows)) ** 2
    return mean_per_cell(error, rows) if only is None else mean_among(error, rows, only)


def _log_share(values: Tensor, rows: Ragged) -> Tensor:
    totals = rows.sum(values).clamp(min=torch.finfo(values.dtype).tiny)
    return torch.log1p(PER * values / rows.spread(totals))
