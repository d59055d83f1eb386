"""The verdict on an embedding: has it collapsed, does it beat PCA on these cells, and what does batch tell of it.

A sentence with its evidence: kNN across donors decides, as that is what an embedding is used for; silhouette, graph
connectivity and the mixing of batches stand beside it, each against principal components of the same cells with an
interval. embedding_evidence.py has the scores; `panatlas verdict` reads files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .embedding_evidence import (
    LEAST_UNITS,
    compare_scores,
    connected,
    describe_shape,
    mixing,
    name_by_neighbours,
    silhouettes,
    told_variance,
)
from .errors import ModelInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    import scipy.sparse as sp

    Values = npt.NDArray[np.floating]
    Codes = npt.NDArray[np.int64]

FEW_DIRECTIONS, ONE_DIRECTION, ALIKE, COPIES = 2.0, 0.9, 0.999, 0.5
"""An embedding has collapsed below this participation ratio, above this share of the first component or this mean
cosine, or with fewer distinct cells than this share."""
COMPONENTS, GENES, PER = 50, 2_000, 1e4
"""Of the baseline: components, most variable genes, and counts that cells are scaled to."""
EVIDENCE = {
    "naming": "cells named right by a vote of their nearest, of other donors",
    "purity": "nearest cells, of other donors, of the same label",
    "silhouette": "silhouette of the labels",
    "connectivity": "cells of a label that hang together in the graph of neighbours",
    "lisi": "mixing of batches within a label, inverse Simpson's index",
    "kbet": "cells whose neighbours are a draw of their label's batches",
}
"""What each row of the table is, mean over labels; more is better."""


@dataclass(frozen=True)
class VerdictOptions:
    """How the evidence is taken."""

    neighbours: int = 15
    """Nearest cells that vote."""
    most: int = 5_000
    """Cells that are looked at; of more, so many are drawn."""
    draws: int = 1_000
    """Times that donors or cells are drawn anew for an interval."""
    seed: int = 0
    """Of both draws."""


@dataclass(frozen=True, eq=False)
class Verdict:
    """What is to be said of an embedding."""

    sentence: str
    """All of it in words."""
    collapsed: bool
    """It uses too few directions to hold cells apart."""
    beats: bool | None
    """It names labels across batches better than the baseline (True) or worse (False); None where that is not told."""
    shape: Mapping[str, float]
    """What `describe_shape` says, over all cells."""
    table: pd.DataFrame
    """A row per kind of evidence: embedding, baseline, difference, low and high of its 95% interval, cells."""
    variance: pd.DataFrame
    """A row per part, and one of the baseline: dimensions, and the share of the variance that is told by `label`, by
    `batch`, and by batch beyond the label (`batch_within`)."""
    facts: Mapping[str, Any]
    """Cells, labels, batches, what was drawn anew, options; JSON values."""


def judge_embedding(
    values: Values,
    *,
    labels: pd.Series | None = None,
    batches: pd.Series | None = None,
    baseline: Values | None = None,
    parts: Mapping[str, Values] | None = None,
    options: VerdictOptions | None = None,
) -> Verdict:
    """Return the verdict on an embedding.

    Parameters
    ----------
    values
        [cells, dimensions].
    labels
        What cells are held to be, such as cell types; missing ones, empty ones and `unknown` are left out. Its name is
        used in words.
    batches
        What neighbours must not share, such as donors; its name is used in words.
    baseline
        Another embedding of the same cells, such as `pca_of_counts` makes, [cells, its dimensions].
    parts
        Columns of single tokens by name, whose variance is told apart, [cells, their dimensions].
    options
        None for the defaults.

    Raises
    ------
    ModelInputError
        When there are fewer than three cells, a value is not finite, or arrays are not of the same cells.
    """
    options = options or VerdictOptions()
    given = {"values": values, "baseline": baseline, **(parts or {})}
    _check(given, labels, batches, options)
    values = np.asarray(values)
    shape = describe_shape(values)
    reasons = _reasons(shape)
    known = np.ones(len(values), dtype=bool) if labels is None else _known(labels)
    if batches is not None:
        known &= batches.notna().to_numpy()
    drawn = np.flatnonzero(known)
    if len(drawn) > options.most:
        drawn = np.sort(np.random.default_rng(options.seed).permutation(drawn)[: options.most])
    kinds, n_kinds = _codes(labels, drawn)
    batch, n_batches = _codes(batches, drawn)
    over_batches = n_batches >= LEAST_UNITS
    units = batch if over_batches else np.arange(len(drawn))
    sides = [values[drawn], *([] if baseline is None else [np.asarray(baseline)[drawn]])]
    rows = []
    if len(drawn) > 2:
        found = [_evidence(one, (kinds, n_kinds), (batch, n_batches), options.neighbours) for one in sides]
        for name in found[0]:
            other = found[1][name] if len(found) > 1 else None
            rows.append(
                {"evidence": name, **compare_scores(found[0][name], other, kinds, units, options.draws, options.seed)}
            )
    table = pd.DataFrame(rows, columns=["evidence", *NUMBERS])
    facts = {
        "cells": len(values), "looked_at": len(drawn), "labels": n_kinds, "batches": n_batches,
        "label": None if labels is None else str(labels.name), "batch": None if batches is None else str(batches.name),
        "drawn_anew": "batches" if over_batches else "cells", "reasons": reasons,
        "neighbours": options.neighbours, "draws": options.draws, "seed": options.seed,
    }  # fmt: skip
    beats = _beats(table)
    sentence = " ".join(
        [_on_shape(shape, reasons, values.shape[1]), _on_naming(table, beats, facts), _on_mixing(table)]
    )
    variance = _variance({"all": values, **(parts or {}), "baseline": baseline}, drawn, labels, batches)
    return Verdict(sentence.strip(), bool(reasons), beats, shape, table, variance, facts)


NUMBERS = ("embedding", "baseline", "difference", "low", "high", "cells")
"""Columns of the table."""


def pca_of_counts(counts: sp.csr_matrix, n_components: int = COMPONENTS) -> npt.NDArray[np.float32]:
    """Return principal components of counts as scanpy makes them, the baseline of the verdict.

    Scaled to 10^4, log(1 + x), the 2,000 most variable genes, centred; not scaled gene by gene.

    Parameters
    ----------
    counts
        Raw counts [cells, genes].
    n_components
        At most; fewer where there are fewer cells or genes.
    """
    import anndata as ad  # noqa: PLC0415 - half a second
    import scanpy as sc  # noqa: PLC0415 - seconds

    adata = ad.AnnData(counts.astype(np.float32).tocsr())
    sc.pp.normalize_total(adata, target_sum=PER)
    sc.pp.log1p(adata)
    if adata.n_vars > GENES:
        sc.pp.highly_variable_genes(adata, n_top_genes=GENES)
        adata = adata[:, adata.var["highly_variable"]].copy()
    n_components = min(n_components, min(adata.shape) - 1)
    return np.asarray(sc.pp.pca(adata.X, n_comps=n_components, svd_solver="arpack", random_state=0), dtype=np.float32)


def _check(
    given: Mapping[str, Values | None], labels: pd.Series | None, batches: pd.Series | None, options: VerdictOptions
) -> None:
    n = len(np.asarray(given["values"]))
    for name, one in given.items():
        if one is None:
            continue
        array = np.asarray(one)
        if array.ndim != 2 or len(array) != n or n < 3 or array.shape[1] < 1:
            raise ModelInputError(name, f"shape {array.shape}", "[cells, dimensions], of the same three or more cells")
        if not np.isfinite(array).all():
            raise ModelInputError(name, "NaN or infinite", "finite numbers")
    for name, column in (("labels", labels), ("batches", batches)):
        if column is not None and len(column) != n:
            raise ModelInputError(name, f"{len(column)} cells", f"{n}, a value for each cell")
    for name in ("neighbours", "most", "draws"):
        if getattr(options, name) < 1:
            raise ModelInputError(name, getattr(options, name), "1 or more")


def _known(labels: pd.Series) -> npt.NDArray[np.bool_]:
    text = labels.astype(object)
    return (text.notna() & ~text.isin(["", "unknown", "nan", "na", "unannotated"])).to_numpy()


def _codes(column: pd.Series | None, drawn: Codes) -> tuple[Codes, int]:
    """Return numbers of the values of some cells, and how many there are; all 0 and none without a column."""
    if column is None:
        return np.zeros(len(drawn), dtype=np.int64), 0
    names, codes = np.unique(column.iloc[drawn].astype(str).to_numpy(dtype=object), return_inverse=True)
    return codes.astype(np.int64), len(names)


def _reasons(shape: Mapping[str, float]) -> list[str]:
    """Return why an embedding has collapsed; empty where it has not."""
    found = []
    if shape["mean_cosine"] > ALIKE:
        found.append(f"cells all point the same way (mean cosine {shape['mean_cosine']:.4f})")
    if shape["first_component"] > ONE_DIRECTION:
        found.append(f"{shape['first_component']:.0%} of its variance is in one direction")
    elif shape["participation_ratio"] < FEW_DIRECTIONS:
        found.append(f"it varies in some {shape['participation_ratio']:.1f} directions")
    if shape["distinct"] < COPIES:
        found.append(f"only {shape['distinct']:.0%} of the cells differ from each other")
    return found


def _evidence(
    values: Values, kinds: tuple[Codes, int], batches: tuple[Codes, int], k: int
) -> dict[str, npt.NDArray[np.float64]]:
    """Return the scores of each cell, by name."""
    out: dict[str, npt.NDArray[np.float64]] = {}
    if kinds[1] > 1:
        named, purity = name_by_neighbours(values, kinds[0], batches[0] if batches[1] > 1 else None, k)
        out = {"naming": named, "purity": purity, "silhouette": silhouettes(values, kinds[0])}
    if kinds[1]:
        out["connectivity"] = connected(values, kinds[0], k)
    if batches[1] > 1:
        out["lisi"], out["kbet"] = mixing(values, batches[0], kinds[0], 2 * k)
    return out


def _variance(
    parts: Mapping[str, Values | None], drawn: Codes, labels: pd.Series | None, batches: pd.Series | None
) -> pd.DataFrame:
    """Return what label and batch tell of each part."""
    kinds, n_kinds = _codes(labels, drawn)
    batch, n_batches = _codes(batches, drawn)
    both = kinds * max(n_batches, 1) + batch
    rows = []
    for name, values in parts.items():
        if values is None:
            continue
        some = np.asarray(values)[drawn]
        row: dict[str, Any] = {"part": name, "dimensions": some.shape[1]}
        row["label"] = told_variance(some, kinds) if n_kinds > 1 and len(some) else float("nan")
        row["batch"] = told_variance(some, batch) if n_batches > 1 and len(some) else float("nan")
        row["batch_within"] = float("nan")
        if n_kinds > 1 and n_batches > 1 and len(some):
            row["batch_within"] = told_variance(some, both) - row["label"]
        rows.append(row)
    return pd.DataFrame(rows)


def _beats(table: pd.DataFrame) -> bool | None:
    """Return whether naming is better than the baseline's, as far as its interval tells."""
    row = table[(table["evidence"] == "naming") & table["difference"].notna()]
    if row.empty or row["low"].iloc[0] <= 0 <= row["high"].iloc[0]:
        return None
    return bool(row["low"].iloc[0] > 0)


def _on_shape(shape: Mapping[str, float], reasons: list[str], dimensions: int) -> str:
    if reasons:
        return f"Collapsed: {'; '.join(reasons)}."
    return (
        f"Not collapsed: effective rank {shape['effective_rank']:.1f} of {dimensions}, {shape['first_component']:.0%} "
        f"of the variance in the first component, mean cosine {shape['mean_cosine']:.2f}."
    )


def _on_naming(table: pd.DataFrame, beats: bool | None, facts: Mapping[str, Any]) -> str:
    row = table[(table["evidence"] == "naming") & table["embedding"].notna()]
    if row.empty:
        return "Whether it tells cells apart cannot be said: that takes a label of two or more classes, in two batches."
    one = row.iloc[0]
    across = f" of another {facts['batch']}" if facts["batches"] > 1 else ""
    by = f"its nearest cells{across} name {facts['label']} right in {one['embedding']:.3f} of the cells, classes alike"
    if np.isnan(one["difference"]):
        return f"Nothing says whether it beats PCA, as no counts were given; {by}."
    word = {True: "It beats PCA", False: "It does not beat PCA", None: "It is not told apart from PCA"}[beats]
    anew = f"{facts['batches']} {facts['batch']}s" if facts["drawn_anew"] == "batches" else f"{one['cells']:.0f} cells"
    return (
        f"{word}: {by}, against {one['baseline']:.3f} (difference {one['difference']:+.3f}, 95% interval "
        f"{one['low']:+.3f} to {one['high']:+.3f} over {anew})."
    )


def _on_mixing(table: pd.DataFrame) -> str:
    row = table[(table["evidence"] == "lisi") & table["difference"].notna()]
    if row.empty:
        return ""
    one = row.iloc[0]
    word = "less" if one["high"] < 0 else "more" if one["low"] > 0 else "as much as far as can be told"
    return f"Batches are mixed {word}: {one['embedding']:.2f} against {one['baseline']:.2f} of what could be."
