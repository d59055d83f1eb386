"""Doublets are scored within a sample, found when made on purpose, the same every time; the rest is told why."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import rankdata

from atlas import AtlasInputError
from atlas.doublets import assays_without_doublets, doublet_scores
from atlas.qc import DoubletLimits, QCPolicy

if TYPE_CHECKING:
    from pathlib import Path

GENES = 600
POLICY = QCPolicy(whole_transcriptome_genes=GENES, doublets=DoubletLimits(min_cells=40, max_cells=400))


def three_types(n: int, seed: int = 0) -> sp.csr_matrix:
    """Return cells of three unlike types, type by type."""
    rng = np.random.default_rng(seed)
    rates = rng.gamma(0.4, 1.5, (3, GENES))
    return sp.csr_matrix(rng.poisson(rates[np.sort(np.arange(n) % 3)]).astype(np.float32))


def with_doublets(counts: sp.csr_matrix, share: float = 0.1, seed: int = 0) -> tuple[sp.csr_matrix, np.ndarray]:
    """Return the cells, some of them added in pairs, and which those are."""
    n = counts.shape[0]
    k = int(n * share)
    pairs = np.random.default_rng(seed).permutation(n)[: 2 * k]
    singles = np.setdiff1d(np.arange(n), pairs)
    both = sp.vstack([counts[singles], counts[pairs[:k]] + counts[pairs[k:]]]).tocsr()
    return both, np.arange(both.shape[0]) >= len(singles)


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Return the chance that a doublet scores above a single cell."""
    ranks, n = rankdata(scores), positive.sum()
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (~positive).sum()))


def score(counts: sp.csr_matrix, samples=None, assays=None, policy: QCPolicy = POLICY, seed: int = 0):
    n = counts.shape[0]
    samples = np.full(n, "s") if samples is None else samples
    assays = np.full(n, "EFO:0009922") if assays is None else assays
    return doublet_scores(lambda rows: counts[rows], samples, assays, counts.shape[1], policy, seed=seed)


def test_doublets_made_on_purpose_score_high() -> None:
    counts, doublet = with_doublets(three_types(360))
    got = score(counts)
    assert got.scores.dtype == np.float32
    assert got.not_measured == {}
    assert np.all((got.scores >= 0) & (got.scores <= 1))
    assert auc(got.scores, doublet) > 0.75  # a third of the pairs are of one type, which nobody can see


def test_same_seed_same_scores_and_another_seed_others() -> None:
    counts = three_types(150)
    first = score(counts).scores
    np.testing.assert_array_equal(score(counts).scores, first)
    assert not np.array_equal(score(counts, seed=1).scores, first)


def test_a_sample_is_scored_as_if_it_were_alone() -> None:
    one, other = three_types(120, seed=1), three_types(150, seed=2)
    order = np.random.default_rng(0).permutation(270)
    samples = np.array(["one"] * 120 + ["other"] * 150)
    both = sp.vstack([one, other]).tocsr()[order]
    together = score(both, samples[order]).scores
    places = np.argsort(order)  # where each cell went
    alone = score(one[np.argsort(places[:120])]).scores
    np.testing.assert_array_equal(together[np.sort(places[:120])], alone)


def test_a_large_sample_is_dealt_into_hands_that_are_never_larger_than_said() -> None:
    counts, asked = three_types(250), []

    def rows(index: np.ndarray) -> sp.csr_matrix:
        asked.append(index)
        return counts[index]

    policy = dataclasses.replace(POLICY, doublets=DoubletLimits(min_cells=40, max_cells=100))
    got = doublet_scores(rows, np.full(250, "s"), np.full(250, "x"), GENES, policy)
    assert [len(i) for i in asked] == [84, 83, 83]
    assert sorted(np.concatenate(asked).tolist()) == list(range(250))
    assert all(np.all(np.diff(i) > 0) for i in asked)
    kinds = np.sort(np.arange(250) % 3)
    assert all(np.bincount(kinds[i]).min() >= 27 for i in asked)  # every hand holds every type
    assert not np.isnan(got.scores).any()


def test_small_samples_plates_and_sections_are_not_scored_and_it_is_said() -> None:
    counts = three_types(200)
    samples = np.array(["large"] * 120 + ["small"] * 30 + ["plate"] * 50)
    assays = np.array(["EFO:0009922"] * 150 + ["EFO:0008931"] * 50)
    got = score(counts, samples, assays)
    assert np.isnan(got.scores).tolist() == [False] * 120 + [True] * 80
    assert got.not_measured == {
        "in samples of fewer than 40 cells": 30,
        "Smart-seq2: cells are picked or sorted one to a well": 50,
    }
    assert [(f.code, f.count) for f in got.findings] == [("doublets-not-measured", 50), ("doublets-not-measured", 30)]


def test_a_panel_is_not_scored() -> None:
    got = score(three_types(100)[:, :33])
    assert np.isnan(got.scores).all()
    assert got.not_measured == {"33 measured genes are a panel": 100}


@pytest.mark.parametrize("counts", [sp.csr_matrix((80, GENES)), sp.csr_matrix(np.ones((80, GENES)))])
def test_cells_that_cannot_be_told_apart_get_no_score(counts: sp.csr_matrix) -> None:
    got = score(counts.astype(np.float32))
    assert np.isnan(got.scores).all()
    assert sum(got.not_measured.values()) == 80


def test_a_cell_without_genes_gets_no_score() -> None:
    counts = three_types(150).tolil()
    counts[7] = 0
    got = score(counts.tocsr())
    assert np.flatnonzero(np.isnan(got.scores)).tolist() == [7]
    assert got.not_measured == {"too few genes in the cell to place it": 1}


def test_no_cells_and_no_droplets() -> None:
    assert score(three_types(3)[:0]).not_measured == {}
    plates = score(three_types(3), assays=np.full(3, "EFO:0008931"))
    assert sum(plates.not_measured.values()) == 3


def test_bad_calls_name_what_is_wrong() -> None:
    with pytest.raises(AtlasInputError, match="assays"):
        score(three_types(50), assays=np.full(49, "x"))
    with pytest.raises(AtlasInputError, match="50 rows, as asked for"):
        doublet_scores(lambda _: three_types(50)[:9], np.full(50, "s"), np.full(50, "x"), GENES, POLICY)


def test_the_barred_assays_are_what_efo_calls_them() -> None:
    from cellxgene_ontology_guide.ontology_parser import OntologyParser

    efo, barred = OntologyParser(), assays_without_doublets()
    assert {i: efo.get_term_label(i) for i in barred} == {i: why.rpartition(": ")[0] for i, why in barred.items()}
    for family in ("EFO:0008994", "EFO:0010184", "EFO:0010961"):  # spatial, Smart-like, Visium
        assert {family, *efo.get_term_descendants(family)} <= set(barred)
    assert not {"EFO:0009922", "EFO:0009899", "EFO:0008780", "EFO:0008722", "EFO:0030059", "unknown"} & set(barred)


@pytest.mark.shared
def test_real_cells_added_in_pairs_score_high(shared: Path) -> None:
    import anndata as ad

    adata = ad.read_h5ad(shared / "data/human_pbmc3k_10x.h5ad")
    counts, doublet = with_doublets(adata.X.tocsr().astype(np.float32), share=0.08)
    got = score(counts, policy=QCPolicy())
    assert auc(got.scores, doublet) > 0.8
    above = got.scores > QCPolicy().doublets.max_score
    assert above[doublet].mean() > 0.05
    assert above[~doublet].mean() < 0.01
