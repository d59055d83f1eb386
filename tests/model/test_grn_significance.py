"""P-values are uniform on real shuffled cells, through the model's attention too; planted regulons are found."""

from __future__ import annotations

import re
from functools import cache

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control, kstest

from loaders import AnnDataCells
from model import ModelInputError
from model.grn_query import ReadoutOptions
from model.grn_scores import EdgeScores, score_edges
from model.grn_significance import NullOptions, _seed, assess_edges, pool_p_values, prove_room, standardise
from model.inference import InferenceOptions
from model.shuffled_cells import ShuffledCells, gene_totals
from ontology import load_gene_table
from tests.model.small_runs import small_adata, small_cells
from tests.model.small_trained import small_trained

ATTENTION = ReadoutOptions(inference=InferenceOptions(device="cpu", batch_size=64))


def reader(name: str, regulators, targets, model=None, options: ReadoutOptions | None = None):
    def read(cells, numbers) -> EdgeScores:
        return score_edges(name, model, cells, numbers, regulators=regulators, targets=targets, options=options)

    return read


@cache
def real_cells(folder: str) -> tuple[AnnDataCells, list[str]]:
    """Return 100 real blood cells, and their 160 genes of most counts."""
    adata = ad.read_h5ad(f"{folder}/data/human_pbmc3k_labelled.h5ad")
    adata = adata[np.random.default_rng(0).permutation(adata.n_obs)[:100]].to_memory()
    cells = AnnDataCells(ad.AnnData(adata.X, adata.obs[[]], adata.var[[]]), "human")
    total = gene_totals(cells, np.arange(100))[0, 0]
    return cells, cells.genes()["feature_id"].to_numpy()[np.argsort(-total, kind="stable")[:160]].tolist()


def apart(found, n: int) -> np.ndarray:
    """Return p-values of edges that share no gene: the diagonal between the first and the last genes."""
    return found.p_values[np.arange(n), np.arange(n)]


@pytest.mark.shared
@pytest.mark.parametrize(("name", "kind"), [("pearson", "genes"), ("spearman", "cells")])
def test_on_real_shuffled_cells_p_values_are_uniform_and_almost_nothing_is_called(shared, name, kind):
    cells, genes = real_cells(str(shared))
    read, some, runs_with_calls = reader(name, genes[::2], genes[1::2]), [], 0
    for seed in range(2):
        null = ShuffledCells(cells, kind=kind, seed=1_000 + seed)
        found = assess_edges(read, null, options=NullOptions(kind=kind, permutations=6, seed=seed))
        some.append(apart(found, 80))
        runs_with_calls += bool(found.called(0.1).any())
        assert np.mean(found.p_values <= 0.05) == pytest.approx(0.05, abs=0.02)
    assert kstest(np.concatenate(some), "uniform").pvalue > 0.01
    assert runs_with_calls <= 1


@pytest.mark.shared
def test_the_same_edges_of_the_real_cells_are_called(shared):
    cells, genes = real_cells(str(shared))
    for kind in ("genes", "cells"):
        options = NullOptions(kind=kind, permutations=6)
        found = assess_edges(reader("pearson", genes[::2], genes[1::2]), cells, options=options)
        assert 0.1 < found.called(0.05).mean() < 0.9


def test_through_a_models_own_attention_p_values_are_uniform_on_shuffled_cells():
    cells, model = small_cells(), small_trained()
    genes = small_adata().var_names[:60].tolist()
    read, some = reader("attention", genes[:30], genes[30:], model, ATTENTION), []
    numbers = np.arange(0, 144, 2)
    for seed in range(2):
        null = ShuffledCells(cells, numbers, bins=5, seed=500 + seed)
        options = NullOptions(permutations=6, shuffle_bins=5, pool_bins=2, seed=seed)
        found = assess_edges(read, null, numbers, options)
        some.append(apart(found, 30))
        assert np.mean(found.p_values <= 0.05) == pytest.approx(0.05, abs=0.035)
        assert not found.called(0.05).any()
    assert kstest(np.concatenate(some), "uniform").pvalue > 0.01


@cache
def planted(seed: int = 0) -> tuple[AnnDataCells, list[str], list[str], np.ndarray]:
    """Return cells with ten regulators, of which five drive twelve targets each, up or down, and sixty idle genes.

    To be read as counts: as shares of a cell, all genes depend on those that are driven.
    """
    rng, n = np.random.default_rng(seed), 300
    ids = load_gene_table("human").ids[:130].tolist()
    regulators, targets = ids[:10], ids[10:]
    activity = rng.normal(size=(n, 10))
    effect = np.zeros((10, 120))
    for one in range(5):
        effect[one, 12 * one : 12 * one + 12] = 0.7 * np.where(np.arange(12) % 3 == 0, -1, 1)
    base = rng.normal(1.2, 0.6, 130)
    logs = base + np.hstack([0.6 * activity, activity @ effect])
    counts = rng.poisson(np.exp(logs)).astype(np.float32)
    obs = pd.DataFrame({"donor_id": [f"d{i % 6}" for i in range(n)]}, index=[f"c{i}" for i in range(n)])
    return AnnDataCells(ad.AnnData(counts, obs, pd.DataFrame(index=ids)), "human"), regulators, targets, effect


@pytest.mark.parametrize("kind", ["genes", "cells"])
def test_planted_regulons_are_found_and_the_share_of_false_edges_is_kept(kind):
    shares, powers = [], []
    for seed in range(3):
        cells, regulators, targets, effect = planted(seed)
        options = NullOptions(kind=kind, permutations=10, shuffle_bins=6, pool_bins=2, seed=seed)
        read = reader("spearman", regulators, targets, options=ReadoutOptions(expression="counts"))
        found = assess_edges(read, cells, options=options)
        called = found.called(0.1)
        shares.append((called & (effect == 0)).sum() / max(called.sum(), 1))
        powers.append(called[effect != 0].mean())
        both = called & (effect != 0)
        assert (np.sign(effect)[both] == found.scores.signs[both]).mean() > 0.98
    assert np.mean(powers) > 0.85
    assert np.mean(shares) <= 0.1 + 0.03


def test_stability_tells_planted_edges_from_others_and_draws_donors_where_they_are_known():
    cells, regulators, targets, effect = planted()
    read = reader("spearman", regulators, targets)
    for resample, said in (("auto", "donors"), ("cells", "cells")):
        options = NullOptions(permutations=5, shuffle_bins=6, pool_bins=2, bootstraps=6, resample=resample)
        found = assess_edges(read, cells, options=options)
        assert found.resampled == said
        assert found.stability[effect != 0].mean() > 0.8
        assert found.stability[effect == 0].mean() < 0.1
        assert set(found.layers()) == {"z", "p_value", "q_value", "sign", "stability"}
    few = np.flatnonzero(cells.codes("donor", np.arange(300)) < 3)
    assert assess_edges(read, cells, few, options=NullOptions(permutations=3, bootstraps=1)).resampled == "cells"


def test_the_same_question_has_the_same_answer():
    cells, regulators, targets, _ = planted()
    options = NullOptions(permutations=4, bootstraps=2, seed=9)
    one, other = (assess_edges(reader("pearson", regulators, targets), cells, options=options) for _ in range(2))
    for name in ("z", "p_values", "q_values", "stability"):
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes()
    third = assess_edges(reader("pearson", regulators, targets), cells, options=NullOptions(permutations=4, seed=8))
    assert third.z.tobytes() != one.z.tobytes()


def test_what_does_not_depend_on_the_cells_is_no_evidence():
    cells, regulators, targets, _ = planted()

    def memory(_, numbers) -> EdgeScores:
        return EdgeScores(tuple(regulators), tuple(targets), np.arange(1200, dtype=np.float32).reshape(10, 120), None)

    found = assess_edges(memory, cells, options=NullOptions(permutations=3, pool_bins=2))
    assert (found.z == 0).all()
    assert (found.p_values == 1).all()
    assert not found.called(0.5).any()
    assert set(found.layers()) == {"z", "p_value", "q_value"}


def test_z_and_p_are_their_definitions_edge_by_edge():
    rng = np.random.default_rng(0)
    null = rng.normal(rng.normal(size=12), rng.gamma(4.0, 0.3, 12), (7, 12)).astype(np.float32)
    null[2:4, 3] = np.nan  # two shuffles said nothing of this edge
    null[:5, 5] = np.nan  # and too many of this one
    centre, spread, z = standardise(null)
    known = np.arange(12) != 5
    usual = np.mean([np.nanvar(null[:, edge].astype(np.float64), ddof=1) for edge in np.flatnonzero(known)])
    assert np.isnan([centre[5], spread[5], *z[:, 5]]).all()
    for edge in np.flatnonzero(known):
        there = np.flatnonzero(np.isfinite(null[:, edge]))
        x, n = null[there, edge].astype(np.float64), len(there)
        assert n == (5 if edge == 3 else 7)
        assert centre[edge] == pytest.approx(x.mean())
        assert spread[edge] == pytest.approx(np.sqrt((x.var(ddof=1) + usual) / 2 * (1 + 1 / n)))
        assert np.array_equal(np.flatnonzero(np.isfinite(z[:, edge])), there)
        for turn in range(n):
            rest = np.delete(x, turn)
            wide = np.sqrt((rest.var(ddof=1) + usual) / 2 * (1 + 1 / (n - 1)))
            assert z[there[turn], edge] == pytest.approx((x[turn] - rest.mean()) / wide, rel=1e-5)
    values = np.where(known, rng.normal(size=12) * 2, np.nan)
    values[0] = z[3, 7]  # as large as one of the null: that one counts
    p = pool_p_values(values, z)
    pool = z[np.isfinite(z)]
    assert len(pool) == 75
    for edge in np.flatnonzero(known):
        assert p[edge] == (1 + (pool >= values[edge]).sum()) / 76
    assert np.isnan(p[5])


def test_edges_of_a_pool_are_judged_by_it_alone():
    cells, regulators, targets, _ = planted()
    read = reader("pearson", regulators, targets)
    found = assess_edges(read, cells, options=NullOptions(permutations=3, pool_bins=2))
    total = gene_totals(cells, np.arange(300))[0, 0]
    place = {gene: one for one, gene in enumerate(cells.genes()["feature_id"].tolist())}
    high = [np.argsort(np.argsort([total[place[gene]] for gene in side])) >= len(side) / 2
            for side in (regulators, targets)]  # fmt: skip
    mine = np.ix_(np.flatnonzero(high[0]), np.flatnonzero(~high[1]))
    null = np.stack(
        [read(ShuffledCells(cells, seed=_seed(0, turn)), np.arange(300)).values[mine].ravel() for turn in range(3)]
    )
    centre, spread, z = standardise(null)
    ours = (found.scores.values[mine].ravel() - centre) / spread
    assert np.allclose(found.z[mine].ravel(), ours, rtol=1e-4)
    assert np.allclose(found.p_values[mine].ravel(), pool_p_values(ours, z))


def test_q_values_are_scipys_and_a_gene_with_itself_has_none():
    cells, regulators, targets, _ = planted()
    found = assess_edges(
        reader("pearson", regulators, [*regulators[:3], *targets]), cells, options=NullOptions(permutations=3)
    )
    own = np.zeros((10, 123), bool)
    own[np.arange(3), np.arange(3)] = True
    for array in (found.z, found.p_values, found.q_values):
        assert np.array_equal(np.isnan(array), own)
    assert np.allclose(found.q_values[~own], false_discovery_control(found.p_values[~own]))
    assert not found.called(0.9999)[own].any()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"permutations": 2}, "permutations=2.*3 or more"),
        ({"pool_bins": 0}, "pool_bins"),
        ({"bootstraps": -1}, "bootstraps"),
        ({"resample": "genes"}, "resample='genes'.*donors"),
        ({"fdr": 1.0}, "fdr"),
    ],
)
def test_options_that_cannot_be_are_refused_at_once(changes, said):
    with pytest.raises(ModelInputError, match=said):
        NullOptions(**changes)


def test_donors_that_are_not_known_cannot_be_drawn_and_a_read_out_has_to_keep_to_its_edges():
    cells, regulators, targets, _ = planted()
    one_donor = np.flatnonzero(cells.codes("donor", np.arange(300)) == 0)
    options = NullOptions(permutations=3, bootstraps=2, resample="donors")
    with pytest.raises(ModelInputError, match=r"donors.*1 known"):
        assess_edges(reader("pearson", regulators, targets), cells, one_donor, options)

    def moody(some, numbers) -> EdgeScores:
        left = targets[:3] if isinstance(some, ShuffledCells) else targets[:4]
        return score_edges("pearson", None, some, numbers, regulators=regulators, targets=left)

    with pytest.raises(ModelInputError, match="read_out"):
        assess_edges(moody, cells, options=NullOptions(permutations=3))


def test_shuffles_that_would_not_fit_are_refused_before_there_is_one():
    cells, regulators, targets, _ = planted()
    read, seen = reader("pearson", regulators, targets), []

    def counted(some, numbers) -> EdgeScores:
        seen.append(some)
        return read(some, numbers)

    with pytest.raises(ModelInputError, match=r"permutations=.*of 1200 pairs, .* GiB.*at most 4 GiB"):
        assess_edges(counted, cells, options=NullOptions(permutations=10**6))
    assert seen == [cells]
    prove_room(1200, NullOptions(permutations=10**5))
    most = int(re.search(r"4 GiB, (\d+) pairs", str(refused(10**9, NullOptions())))[1])
    assert most == pytest.approx(2**32 / (20 * 5.92), rel=1e-6)
    prove_room(most, NullOptions())
    refused(most + 1, NullOptions())
    refused(most, NullOptions(pool_bins=1))  # one pool has all the work at once


def refused(pairs: int, options: NullOptions) -> ModelInputError:
    with pytest.raises(ModelInputError, match="permutations") as told:
        prove_room(pairs, options)
    return told.value
