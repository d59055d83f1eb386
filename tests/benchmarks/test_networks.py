"""The benchmark of networks: what its words rest on, what its baselines know, and that a stopped run goes on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import fisher_exact, ttest_1samp, ttest_rel

from benchmarks import network_cells, network_methods
from benchmarks.network_cells import NetworkStudy, alike_expressed, narrowed, other_truths
from benchmarks.network_methods import Bench, Method, Significance, hub_degree, some_of
from benchmarks.network_verdicts import Told, called_beside, claim, compared, interval, over_seeds, verdict, words
from model.grn_metrics import score_network
from model.grn_scores import EdgeScores, score_edges
from model.grn_significance import NullOptions, assess_edges
from model.grn_truths import EdgeTruth, read_truth
from tests.model.small_runs import small_adata, small_cells

REGULATORS = tuple(f"r{i}" for i in range(30))
TARGETS = tuple(f"t{i}" for i in range(120))


def truth_of(known: np.ndarray, regulators=REGULATORS, targets=TARGETS) -> EdgeTruth:
    pairs = [(regulators[i], targets[j]) for i, j in zip(*np.nonzero(known), strict=True)]
    frame = pd.DataFrame(pairs, columns=["regulator", "target"]).assign(sign=np.int8(0))
    return EdgeTruth("made", "homo_sapiens", "literature", frame, {}, "", "", "")


def told_of(known: np.ndarray, signal: float, seed: int) -> Told:
    scores = []
    for turn in range(3):
        values = np.random.default_rng((seed, turn)).normal(size=known.shape) + signal * known
        scores.append(score_network(EdgeScores(REGULATORS, TARGETS, values.astype(np.float32), None), truth_of(known)))
    return Told(scores, [0.5] * 3, 1.0)


def test_intervals_and_differences_are_students():
    values = np.random.default_rng(0).normal(1, 2, 12)
    theirs = ttest_1samp(values, 0).confidence_interval(0.95)
    assert interval(values) == pytest.approx((values.mean(), theirs.low, theirs.high))
    mean, half = map(float, over_seeds([1.0, 1.4, 1.1]).split(" ± "))
    theirs = ttest_1samp([1.0, 1.4, 1.1], 0).confidence_interval(0.95)
    assert (mean, half) == (pytest.approx(1.167, abs=1e-3), pytest.approx((theirs.high - theirs.low) / 2, abs=1e-3))
    known = np.random.default_rng(1).random((30, 120)) < 0.15
    one, other = told_of(known, 1.0, 1), told_of(known, 0.3, 2)
    theirs = ttest_rel(one.lifts.to_numpy(), other.lifts.loc[one.lifts.index].to_numpy()).confidence_interval(0.95)
    assert compared(one, other)[1:] == pytest.approx((theirs.low, theirs.high))


def test_the_verdict_says_who_lost_and_leaves_open_what_does_not_show():
    known = np.random.default_rng(1).random((30, 120)) < 0.15
    strong, weak, nothing, alike = (told_of(known, signal, seed) for seed, signal in enumerate((1.5, 0.4, 0.0, 0.0)))
    told = {"attention": weak, "gradient": nothing, "pearson": strong, "mean_product": alike}
    said = verdict(told, ("attention", "gradient"), ("pearson", "mean_product"))
    assert "best is attention" in said
    assert "best simple method is pearson" in said
    assert "The model against it: worse by -" in said
    assert "Pooled, pearson is first" in said
    assert words(compared(strong, weak)).startswith("better by +")
    assert words(compared(nothing, alike)).startswith("no difference that shows")
    assert words((0.3, np.nan, np.nan)).startswith("cannot be told")
    turned = verdict({"attention": strong, "pearson": weak}, ("attention",), ("pearson",))
    assert "The model against it: better by +" in turned


def study_of(known: np.ndarray) -> NetworkStudy:
    genes = tuple(small_adata().var_names[:40].tolist())
    truths = {"one": truth_of(known, genes[:10], genes[10:]), "other": truth_of(known[::-1], genes[:10], genes[10:])}
    return NetworkStudy("made", "human", small_cells(), truths, genes[:10], genes[10:])


def test_hub_degrees_know_no_edge_but_which_genes_have_many():
    rng = np.random.default_rng(2)
    known = rng.random((10, 30)) < np.linspace(0.1, 0.8, 10)[:, None]
    study = study_of(known)
    own, others = hub_degree(study, "one", []), hub_degree(study, "one", ["other"])
    product = (known.sum(1)[:, None] + 1) * (known.sum(0)[None, :] + 1)
    assert np.allclose(np.exp(own.values), product, rtol=1e-5)
    assert score_network(own, study.truths["one"]).pooled["lift"] > 1.3
    assert score_network(others, study.truths["one"]).pooled["lift"] < 1


def test_an_answer_is_kept_and_read_again_unless_what_it_depends_on_changed(tmp_path, monkeypatch):
    study, numbers = study_of(np.random.default_rng(2).random((10, 30)) < 0.3), np.arange(60)
    bench = Bench(None, "model", tmp_path)
    first, seconds = bench.ask(study, Method("pearson", "pearson"), numbers)
    again, same = bench.ask(study, Method("pearson", "pearson"), numbers)
    assert np.array_equal(first.values, again.values, equal_nan=True)
    assert np.array_equal(first.signs, again.signs)
    assert same == seconds
    bench.ask(study, Method("pearson", "pearson", null="genes"), numbers)
    bench.ask(study, Method("pearson", "pearson"), numbers[:50])
    assert len(list(tmp_path.iterdir())) == 3
    monkeypatch.setattr(network_methods, "sources_digest", lambda: "other sources")
    bench.ask(study, Method("pearson", "pearson"), numbers)
    assert len(list(tmp_path.iterdir())) == 4
    hubs, _ = bench.ask(study, Method("hubs", "mean_product", square=True), numbers)
    assert hubs.regulators == hubs.targets == study.genes


def test_fewer_cells_are_drawn_and_not_the_first_of_the_file(tmp_path):
    numbers = np.arange(100)
    few = some_of(numbers, 20)
    assert len(set(few.tolist())) == 20
    assert (np.diff(few) > 0).all()
    assert set(few.tolist()) <= set(numbers.tolist())
    assert few.max() > 60
    assert np.array_equal(few, some_of(numbers, 20))
    assert np.array_equal(some_of(numbers, 200), numbers)
    study, seen = study_of(np.random.default_rng(2).random((10, 30)) < 0.3), []

    class Watched(Bench):
        def read(self, study, method, numbers, cells=None):
            seen.append(numbers)
            return super().read(study, Method("pearson", "pearson"), numbers, cells)

    Watched(None, "model", tmp_path).ask(study, Method("gradient", "gradient"), numbers)
    assert len(seen[0]) == network_methods.SLOW_CELLS["gradient"]
    assert not np.array_equal(seen[0], numbers[:3])


def test_beyond_shuffled_cells_a_method_is_its_z(tmp_path):
    study, numbers = study_of(np.random.default_rng(2).random((10, 30)) < 0.3), np.arange(60)
    bench = Bench(None, "model", tmp_path)
    found, _ = bench.ask(study, Method("pearson, z", "pearson", shuffles=4), numbers)
    wanted = assess_edges(
        lambda cells, few: score_edges(
            "pearson", None, cells, few, regulators=study.regulators, targets=study.targets
        ),
        study.cells, numbers, NullOptions(permutations=4),
    )  # fmt: skip
    np.testing.assert_array_equal(found.values, wanted.z)
    assert not np.allclose(found.values, bench.ask(study, Method("pearson", "pearson"), numbers)[0].values)


def test_references_that_are_parts_of_each_other_are_no_others():
    rng = np.random.default_rng(3)
    whole, alone = rng.random((30, 120)) < 0.3, rng.random((30, 120)) < 0.3
    truths = {
        "part": truth_of(whole & (rng.random((30, 120)) < 0.2)),
        "whole": truth_of(whole),
        "alone": truth_of(alone),
    }
    assert [other_truths(truths, name) for name in truths] == [["alone"], ["alone"], ["part", "whole"]]


def test_a_claim_has_two_witnesses_and_none_against_it():
    known = np.random.default_rng(1).random((30, 120)) < 0.15
    strong, weak, nothing, alike = (told_of(known, signal, seed) for seed, signal in enumerate((1.5, 0.4, 0.0, 0.0)))
    better, worse = {"a": strong, "b": weak}, {"a": weak, "b": strong}
    apart = {"one": {"two"}, "two": {"one"}, "part": {"two"}}
    assert claim({"one": better, "two": better}, ("a", "b"), apart).startswith("better: better beside one +")
    assert claim({"one": worse, "two": worse}, ("a", "b"), apart).startswith("worse: worse beside one -")
    assert "one witness only" in claim({"one": better, "part": better}, ("a", "b"), apart)
    assert "one witness only" in claim({"one": better, "two": {"a": nothing, "b": alike}}, ("a", "b"), apart)
    assert "disagree" in claim({"one": better, "two": worse}, ("a", "b"), apart)
    assert claim({"one": {"a": nothing, "b": alike}}, ("a", "b"), apart).startswith("no difference that shows")
    assert "too few" in claim({"one": {"a": strong}}, ("a", "b"), apart)


def test_called_edges_are_judged_as_a_table_of_four():
    rng = np.random.default_rng(4)
    known = rng.random((30, 120)) < 0.2
    called = rng.random((30, 120)) < np.where(known, 0.3, 0.1)
    told = called_beside(EdgeScores(REGULATORS, TARGETS, called.astype(np.float32), None), truth_of(known))
    table = [[(called & known).sum(), (called & ~known).sum()], [(~called & known).sum(), (~called & ~known).sum()]]
    assert (told["called"], told["known"]) == (called.sum(), table[0][0])
    assert float(told["p"]) == pytest.approx(fisher_exact(table, "greater").pvalue, rel=0.06)
    precision = known[called].mean() / known.mean()
    assert float(told["precision / chance"]) == pytest.approx(precision, abs=0.006)
    odds = table[0][0] * table[1][1] / table[0][1] / table[1][0]
    assert float(told["odds ratio"].split()[0]) == pytest.approx(odds, abs=0.006)
    nobody = EdgeScores(REGULATORS, TARGETS, np.zeros((30, 120), np.float32), None)
    assert called_beside(nobody, truth_of(known)) == {}


def test_a_narrowed_reference_scores_the_same():
    rng = np.random.default_rng(5)
    genes = tuple(small_adata().var_names[:60].tolist())
    whole = truth_of(rng.random((20, 60)) < 0.3, genes[:20], genes)
    study = replace(study_of(rng.random((10, 30)) < 0.3), truths={"one": whole})
    less = narrowed(whole, study)
    assert 0 < len(less.edges) < len(whole.edges)
    scores = EdgeScores(study.regulators, study.targets, rng.random((10, 30)).astype(np.float32), None)
    one, other = score_network(scores, whole), score_network(scores, less)
    assert (one.pooled, one.universe) == (other.pooled, other.universe)
    assert one.per_regulator.equals(other.per_regulator)


def test_tested_edges_are_kept_and_read_again(tmp_path, monkeypatch):
    study, numbers = study_of(np.random.default_rng(2).random((10, 30)) < 0.3), np.arange(60)
    bench, method = Bench(None, "model", tmp_path), Method("pearson", "pearson")
    first = bench.significance(study, method, numbers, Significance(4))
    shuffled = bench.significance(study, method, numbers, Significance(4, shuffled=True))
    assert not np.array_equal(first["p_values"], shuffled["p_values"])
    monkeypatch.setattr(Bench, "read", lambda *_: pytest.fail("read again"))
    again = bench.significance(study, method, numbers, Significance(4))
    np.testing.assert_array_equal(again["q_values"], first["q_values"])


@pytest.mark.shared
def test_every_set_has_references_of_more_than_one_kind_that_are_no_parts_of_each_other(shared):
    for organism, _, names in network_cells.SETS.values():
        truths = {name: read_truth(shared / "bio" / "grn", name) for name in names}
        assert {truth.organism for truth in truths.values()} == {
            {"human": "homo_sapiens", "mouse": "mus_musculus"}[organism]
        }
        assert len({truth.kind for truth in truths.values()}) >= 2
        assert all(other_truths(truths, name) for name in names)


def test_hubs_are_looked_for_among_genes_of_one_cut_of_expression(monkeypatch):
    study = study_of(np.random.default_rng(2).random((10, 30)) < 0.3)
    share = (small_adata()[:, list(study.genes)].X > 0).mean(0)
    cut = float(np.median(share))
    monkeypatch.setitem(network_cells.EXPRESSED, "targets", cut)
    wanted = {gene for gene, one in zip(study.genes, share, strict=True) if one >= cut}
    assert set(study.regulators) - wanted, "a regulator that fewer cells express"
    assert set(alike_expressed(study).genes) == wanted


@pytest.mark.shared
@pytest.mark.parametrize(("name", "cells", "genes"), [("chen", 385, 8_595), ("semrau", 384, 10_243)])
def test_the_matrices_of_mccalla_are_counts_once_undone(shared, monkeypatch, name, cells, genes):
    monkeypatch.setattr(network_cells, "REFERENCES", shared / "bio" / "grn")
    adata = network_cells._mccalla(name)
    assert adata.shape == (cells, genes)
    assert (adata.X.data >= 1).all()
    assert (adata.X.data == adata.X.data.round()).all()
    assert {1, 2, 3, 4, 5, 6, 7} <= set(adata.X.data.tolist()), "no gaps, as scaled counts would have"
    assert np.asarray(adata.X.sum(1)).mean() > 500
