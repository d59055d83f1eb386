"""Denoising: totals to the molecule, the same cell in any company, distributions as scipy has them, and real gain."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import gamma, nbinom, poisson

from loaders import AnnDataCells
from model import ModelInputError, Network, TrainedModel, denoising, make_ragged
from model.denoising import denoise, denoise_blocks, posterior, variance_of
from model.gene_panels import hashed_order, split_genes
from model.heads import ExpressionValues
from model.inference import InferenceOptions, read_cells
from tests.model.small_runs import N_GENES, small_adata, small_cells, small_config, small_start
from tests.model.small_trained import small_trained

ROOMY, TIGHT = InferenceOptions(length=120, batch_size=32), InferenceOptions(length=40, batch_size=32)
"""Contexts with zeros, and contexts that the expressed genes of a cell do not fit in; 150 genes were measured."""
WHOLE = InferenceOptions(length=N_GENES, batch_size=32)


@cache
def untrained(**losses) -> TrainedModel:
    """Return a network of first weights; its last layer is turned up, so that genes and cells differ clearly."""
    plain = small_start().model
    torch.manual_seed(3)
    network = Network(
        small_config().changed(losses=losses) if losses else small_config(), plain.vocabulary, plain.table
    )
    with torch.no_grad():
        network.head.layers[-1].weight *= 3
    return TrainedModel(network.eval(), plain.vocabulary, plain.ledger, {})


def measured_ids() -> list[str]:
    return small_adata().var_names.tolist()


def test_counts_add_up_to_the_depth_asked_for_and_no_gene_is_left_out():
    for options, told in ((ROOMY, "genes"), (TIGHT, "genes"), (WHOLE, "genes"), (ROOMY, "cell")):
        for times in (0.5, 3.0):
            found = denoise(untrained(), small_cells(), depth=times, told=told, options=options)
            assert found.genes == tuple(measured_ids())
            assert np.isfinite(found.expected).all()
            assert (found.expected > 0).all()
            assert (found.variance > found.expected).all()
            assert np.allclose(found.depth, times * small_adata().X.sum(1))
            assert np.allclose(found.expected.sum(1, dtype=np.float64), found.depth, rtol=1e-6)
            assert np.allclose(found.shares.sum(1, dtype=np.float64), 1, rtol=1e-6)


def test_a_cell_gets_the_same_alone_in_any_batch_in_any_order_and_whatever_else_is_asked_for():
    for options, told in ((ROOMY, "cell"), (TIGHT, "genes"), (WHOLE, "genes")):
        whole = denoise(untrained(), small_cells(), told=told, options=options)
        some = np.array([77, 3, 143, 3, 20])
        order = np.random.default_rng(1).permutation(N_GENES)[:31]
        genes = [measured_ids()[gene] for gene in order]
        for numbers, size in ((some, 2), (some, 64), (some[:1], 1)):
            sized = replace(options, batch_size=size)
            found = denoise(untrained(), small_cells(), numbers, genes=genes, told=told, options=sized)
            assert found.numbers.tolist() == numbers.tolist()
            assert found.genes == tuple(genes)
            for name in ("expected", "variance"):
                one, other = getattr(found, name), getattr(whole, name)[numbers][:, order]
                assert np.abs(one - other).max() <= 1e-5 * np.abs(other).max()


def test_the_same_call_gives_the_same_bytes_block_by_block_too():
    one = denoise(untrained(), small_cells(), options=ROOMY)
    torch.manual_seed(99)
    blocks = list(denoise_blocks(untrained(), small_cells(), options=ROOMY))
    assert [len(block.numbers) for block in blocks] == [32, 32, 32, 32, 16]
    for name in ("numbers", "expected", "variance", "depth"):
        assert np.concatenate([getattr(block, name) for block in blocks]).tobytes() == getattr(one, name).tobytes()


def unseen_shares(counts: np.ndarray) -> np.ndarray:
    """Return Good and Turing's share of the genes without molecules, [cells, 1]."""
    return ((counts == 1).sum(1, keepdims=True) + 1) / (counts.sum(1, keepdims=True) + 2)


def test_where_all_genes_are_alike_shares_are_those_of_counts_and_of_good_and_turing():
    plain = untrained(expression="nb")
    model = TrainedModel(deepcopy(plain.network), plain.vocabulary, plain.ledger, {})
    model.network.linear = None  # which knows what the counts are without the head
    with torch.no_grad():
        model.network.head.layers[-1].weight.zero_()
        model.network.head.layers[-1].bias.zero_()
    assert np.allclose(denoise(model, small_cells(), options=WHOLE).shares, 1 / N_GENES, rtol=1e-5)
    counts = small_adata().X.astype(np.float64)
    unseen, total = unseen_shares(counts), counts.sum(1, keepdims=True)
    for options in (ROOMY, TIGHT):
        order = np.argsort(-counts, axis=1, kind="stable")
        ranked = np.take_along_axis(counts, order, 1)
        inside = (np.arange(N_GENES) < options.length) & (ranked > 0)
        level = (ranked * inside).sum(1, keepdims=True) / inside.sum(1, keepdims=True)
        expected = np.where(inside, level, ranked) / total * (1 - unseen)
        expected += (ranked == 0) * unseen / (ranked == 0).sum(1, keepdims=True)
        found = denoise(model, small_cells(), options=options).shares
        assert np.allclose(np.sort(found, 1), np.sort(expected, 1), rtol=1e-5)


@pytest.mark.parametrize("told", ["genes", "cell"])
def test_genes_without_molecules_share_what_is_unseen_by_gene_means(told, monkeypatch):
    monkeypatch.setattr("model.denoising.PIECE", 1)  # so that each gene alone has what it is given
    plain, some = untrained(), np.arange(0, 144, 16)
    model = TrainedModel(deepcopy(plain.network), plain.vocabulary, plain.ledger, {})
    place = [model.vocabulary.genes[0].index(gene) for gene in measured_ids()]
    mean = np.random.default_rng(0).gamma(1.0, size=len(model.table))
    with torch.no_grad():
        model.network.linear.share.copy_(torch.from_numpy(np.log(mean)))
    zero = small_adata().X[some].astype(np.float64) == 0
    rest = zero * mean[place]
    expected = unseen_shares(small_adata().X[some].astype(np.float64)) * rest / rest.sum(1, keepdims=True)
    found = denoise(model, small_cells(), some, told=told, options=TIGHT).shares
    assert np.allclose(found[zero], expected[zero], rtol=1e-4)


def test_a_context_is_read_off_its_genes():
    model, numbers = untrained(expression="nb"), np.array([5, 9])
    for options in (ROOMY, WHOLE):
        read = next(read_cells(model, small_cells(), numbers, options))
        with torch.no_grad():
            depth, total = read.batch.depth * 2, read.rows.sum(read.batch.counts) * 2
            values = model.network.express(read.encoded, read.rows, depth, total)
        found = denoise(model, small_cells(), numbers, depth=2, options=options)
        for cell in range(2):
            mine = read.rows.owners.numpy() == cell
            counts, mean, theta = (x.double().numpy()[mine] for x in (read.batch.counts, values.mean, values.theta))
            used, part = counts > 0, 1 - unseen_shares(counts[None])[0]
            if options is WHOLE:
                used, part = np.ones_like(used), 1.0
            mu = part * mean[used] / mean[used].sum() * found.depth[cell]
            tokens = read.batch.genes.numpy()[mine][used]
            columns = [found.genes.index(model.vocabulary.genes[0][token]) for token in tokens]
            assert np.allclose(found.expected[cell, columns], mu, rtol=1e-5)
            variance = nbinom.var(theta[used], theta[used] / (theta[used] + mu))
            assert np.allclose(found.variance[cell, columns], variance, rtol=1e-4)


def test_told_from_the_cell_a_count_updates_the_gamma_prior_of_what_is_decoded():
    own, made = np.array([0, 1, 7, 400, 0, 2, 3.0]), np.array([0.3, 0.1, 0.2, 0.4, 1, 2, 0.5])
    theta, borders = np.array([2.0, 0.5, 3, 1, 1, 5, 0.1]), make_ragged([5, 2])
    values = ExpressionValues(*(torch.from_numpy(x) for x in (made, theta, np.zeros(7))))
    found, after = posterior(torch.from_numpy(own), torch.from_numpy(made), values, borders)
    assert np.allclose(after.theta.numpy(), theta + own)
    for mine in (np.array([1, 2, 3]), np.array([5, 6])):
        mean = made[mine] / made[mine].sum() * own[mine].sum()
        # scipy's gamma of shape theta and mean mu, times the Poisson of the count: mean of the posterior by quadrature
        told = []
        for x, mu, shape in zip(own[mine], mean, theta[mine], strict=True):
            rates = np.linspace(1e-6, 40 * max(x, mu), 400_001)
            weight = np.exp(gamma.logpdf(rates, shape, scale=mu / shape) + poisson.logpmf(x, rates))
            told.append((rates * weight).sum() / weight.sum())
        assert np.allclose(found.numpy()[mine], np.array(told) / np.sum(told) * own[mine].sum(), rtol=1e-3)
    assert found.sum().item() == pytest.approx(own.sum())


@pytest.mark.parametrize("theta", [0.05, 1.0, 40.0])
@pytest.mark.parametrize("zero_logit", [-6.0, 0.5, 3.0])
def test_variances_are_those_of_scipys_distribution(theta, zero_logit):
    config = small_config()
    mean, pi = np.array([0.01, 0.7, 30.0]), 1 / (1 + np.exp(-zero_logit))
    n, p = theta, theta / (theta + mean)
    within, among = nbinom.var(n, p), nbinom.mean(n, p)
    whole = (1 - pi) * within + pi * (1 - pi) * among**2  # law of total variance
    asked = torch.full((3,), theta), torch.full((3,), zero_logit)
    for kind, expected, variance in (
        ("zinb", (1 - pi) * mean, whole), ("zinb+mse", (1 - pi) * mean, whole), ("nb", mean, within)
    ):  # fmt: skip
        found = variance_of(config.changed(losses={"expression": kind}), torch.from_numpy(expected), *asked)
        assert np.allclose(found.numpy(), variance, rtol=1e-6), kind
    assert variance_of(config.changed(losses={"expression": "mse"}), torch.ones(3), *asked) is None
    assert denoise(untrained(expression="mse"), small_cells(), np.arange(3), options=ROOMY).variance is None


class TwoPanels(AnnDataCells):
    """Cells of two datasets, of which the second lacks thirty genes."""

    def measured(self, dataset: int, organism: int) -> np.ndarray:
        out = super().measured(dataset, organism).copy()
        out[30:60] &= dataset == 0
        return out


def test_genes_a_dataset_did_not_measure_are_not_made_up():
    adata = small_adata()
    adata.obs["dataset_id"] = ["a"] * 70 + ["b"] * 74
    adata.X[70:, 30:60] = 0
    cells = TwoPanels(adata, "human")
    found = denoise(untrained(), cells, options=replace(ROOMY, length=100))
    assert found.genes == tuple(measured_ids())
    lacking = np.zeros((144, N_GENES), bool)
    lacking[70:, 30:60] = True
    assert np.array_equal(np.isnan(found.expected), lacking)
    assert np.array_equal(np.isnan(found.variance), lacking)
    assert np.allclose(np.nansum(found.expected, 1), found.depth, rtol=1e-5)
    with pytest.raises(ModelInputError, match=f"{measured_ids()[31]}.*datasets measured"):
        denoise_blocks(untrained(), cells, np.arange(70, 80), genes=measured_ids()[29:33])


def test_a_cell_without_counts_is_expected_to_have_none():
    adata = small_adata()[:3].copy()
    adata.X[1] = 0
    found = denoise(untrained(), AnnDataCells(adata, "human"), options=ROOMY)
    assert found.depth[1] == 0
    assert not found.expected[1].any()
    assert not found.shares[1].any()
    assert np.allclose(found.expected[[0, 2]].sum(1), adata.X[[0, 2]].sum(1), rtol=1e-6)


def test_pieces_cover_all_genes_once_and_do_not_follow_their_order():
    vocabulary = untrained().vocabulary
    order = hashed_order(vocabulary, "homo_sapiens")
    assert np.array_equal(np.sort(order), vocabulary.organism_tokens("homo_sapiens"))
    assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 0.02
    pieces = split_genes(order[:1001], 300)
    assert sorted(map(len, pieces)) == [250, 250, 250, 251]
    assert np.array_equal(np.sort(np.concatenate(pieces)), np.sort(order[:1001]))
    assert split_genes(order[:0], 300) == []


def poisson_nll(unseen: np.ndarray, shares: np.ndarray) -> float:
    """Return the mean -log P of unseen molecules, nats per molecule."""
    mean = unseen.sum(1, keepdims=True) * shares / shares.sum(1, keepdims=True)
    return float((-poisson.logpmf(unseen, mean).sum(1) / unseen.sum(1)).mean())


def test_unseen_molecules_of_unseen_donors_are_told_better_than_by_the_seen_ones():
    adata = small_adata()[np.asarray(small_cells().column("split")) > 0].copy()
    seen = np.random.default_rng(4).binomial(adata.X.astype(int), 0.4)
    unseen = adata.X.astype(int) - seen
    adata.X = seen.astype(np.float32)
    raw = min(poisson_nll(unseen, seen + some) for some in (0.01, 0.03, 0.1, 0.3, 1, 3))
    for told in ("genes", "cell"):
        found = denoise(small_trained(), AnnDataCells(adata, "human"), depth=2.5, told=told, options=ROOMY)
        assert poisson_nll(unseen, found.expected) < raw - 0.02, told


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"depth": 0.0}, "depth=0.0.*above 0"),
        ({"depth": float("nan")}, "depth=nan"),
        ({"genes": ["ENSG_none", "ENSMUSG00000000001"]}, "ENSG_none, ENSMUSG00000000001.*genes of homo_sapiens"),
        ({"genes": []}, "at least one"),
        ({"told": "cells"}, "told='cells'"),
        ({"genes": "ENSG00000000003"}, "a list of feature ids"),
        ({"numbers": np.array([144])}, "numbers"),
    ],
)
def test_what_cannot_be_denoised_is_refused_at_once(asked, said):
    with pytest.raises(ModelInputError, match=said):
        denoise_blocks(untrained(), small_cells(), **{"numbers": None, **asked})


def test_a_gene_named_twice_and_a_result_too_large_for_one_piece_are_refused(monkeypatch):
    twice = measured_ids()[:2] + measured_ids()[:1]
    with pytest.raises(ModelInputError, match="each gene once"):
        denoise_blocks(untrained(), small_cells(), genes=twice)
    monkeypatch.setattr(denoising, "MOST", 144 * N_GENES - 1)
    with pytest.raises(ModelInputError, match=r"at most 143 of 150 genes; .*block by block"):
        denoise(untrained(), small_cells(), options=ROOMY)
