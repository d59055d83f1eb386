"""The verdict: planted embeddings get the words they deserve."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from model import ModelInputError, VerdictOptions, judge_embedding, pca_of_counts

RNG = np.random.default_rng(0)
N = 400
KINDS, DONORS = RNG.integers(0, 4, N), np.arange(N) % 8
LABELS = pd.Series(np.array(["T", "B", "NK", "mono"])[KINDS], name="cell_type")
BATCHES = pd.Series([f"d{one}" for one in DONORS], name="donor_id")
CLEAR = RNG.normal(size=(N, 6)) + 6 * np.eye(6)[KINDS]
BLURRED = RNG.normal(size=(N, 6)) + 1.5 * np.eye(6)[KINDS]
FAST = VerdictOptions(draws=300)


def judge(values, baseline=None, **more):
    return judge_embedding(values, labels=LABELS, batches=BATCHES, baseline=baseline, options=FAST, **more)


def test_an_embedding_that_names_cells_better_beats_and_the_other_way_round_does_not():
    found = judge(CLEAR, BLURRED)
    assert (found.collapsed, found.beats) == (False, True)
    assert found.sentence.startswith("Not collapsed")
    assert "It beats PCA" in found.sentence
    assert "cell_type" in found.sentence
    assert "8 donor_ids" in found.sentence
    row = found.table.set_index("evidence").loc["naming"]
    assert row["difference"] == pytest.approx(row["embedding"] - row["baseline"])
    assert row["low"] > 0
    back = judge(BLURRED, CLEAR)
    assert back.beats is False
    assert "does not beat PCA" in back.sentence
    assert back.table.set_index("evidence").loc["naming", "high"] < 0


def test_the_same_embedding_is_not_told_apart_from_itself():
    turned = BLURRED @ np.linalg.qr(RNG.normal(size=(6, 6)))[0]
    found = judge(turned, BLURRED)
    assert found.beats is None
    assert "not told apart from PCA" in found.sentence


@pytest.mark.parametrize("kind", ["constant", "nearly constant", "rank one", "copies"])
def test_a_collapsed_embedding_is_called_so(kind):
    line = np.outer(RNG.normal(size=N), RNG.normal(size=6))
    values = {
        "constant": np.ones((N, 6)),
        "nearly constant": 5 + 1e-3 * RNG.normal(size=(N, 6)),
        "rank one": line + 1e-3 * RNG.normal(size=(N, 6)),
        "copies": CLEAR[np.arange(N) % 40],
    }[kind]
    found = judge(values, BLURRED)
    assert found.collapsed
    assert found.sentence.startswith("Collapsed: ")
    said = {"constant": "same way", "nearly constant": "same way", "rank one": "one direction", "copies": "differ"}
    assert said[kind] in found.sentence


def test_neighbours_of_the_same_donor_do_not_count():
    own = CLEAR + 0.0
    own[:, :] = RNG.normal(size=(N, 6))
    place = {(donor, kind): 30 * RNG.normal(size=6) for donor in range(8) for kind in range(4)}
    own += np.array([place[pair] for pair in zip(DONORS, KINDS, strict=True)])
    inside = judge_embedding(own, labels=LABELS, options=FAST).table.set_index("evidence")
    across = judge(own).table.set_index("evidence")
    assert inside.loc["naming", "embedding"] > 0.95, "clear within donors"
    assert across.loc["naming", "embedding"] < 0.6, "and of no use across them"


def test_what_batch_tells_is_told_before_and_after():
    batchy = CLEAR + 5 * np.eye(6)[DONORS % 6]
    found = judge(CLEAR, batchy, parts={"cell_type": CLEAR[:, :4], "base": batchy[:, 4:]})
    rows = found.variance.set_index("part")
    assert rows.index.tolist() == ["all", "cell_type", "base", "baseline"]
    assert abs(rows.loc["all", "batch"]) < 0.02
    assert rows.loc["baseline", "batch"] > 0.2
    assert rows.loc["base", "batch"] > 0.5
    assert rows.loc["cell_type", "label"] > rows.loc["all", "label"] > rows.loc["baseline", "label"]
    assert rows["dimensions"].tolist() == [6, 4, 2, 6]
    assert "mixed more" in found.sentence
    assert "mixed less" in judge(batchy, CLEAR).sentence


def test_without_counts_or_labels_less_is_said_and_nothing_made_up():
    alone = judge(CLEAR)
    assert alone.beats is None
    assert "Nothing says whether it beats PCA" in alone.sentence
    bare = judge_embedding(CLEAR)
    assert (bare.collapsed, bare.beats, len(bare.table)) == (False, None, 0)
    assert "cannot be said" in bare.sentence


def test_cells_without_a_label_are_left_out_and_many_are_drawn_from():
    some = LABELS.where(np.arange(N) % 2 == 0)
    some.iloc[2] = "unknown"
    found = judge_embedding(CLEAR, labels=some, batches=BATCHES, options=FAST)
    assert found.facts["looked_at"] == N // 2 - 1
    drawn = judge_embedding(CLEAR, labels=LABELS, batches=BATCHES, options=VerdictOptions(most=100, draws=50))
    assert drawn.facts["looked_at"] == 100
    again = judge_embedding(CLEAR, labels=LABELS, batches=BATCHES, options=VerdictOptions(most=100, draws=50))
    assert again.sentence == drawn.sentence
    pd.testing.assert_frame_equal(again.table, drawn.table)
    assert json.loads(json.dumps(drawn.facts)) == drawn.facts


def test_few_donors_are_not_what_is_drawn_anew():
    three = pd.Series(np.arange(N) % 3, name="donor_id").astype(str)
    found = judge_embedding(CLEAR, labels=LABELS, batches=three, baseline=BLURRED, options=FAST)
    assert found.facts["drawn_anew"] == "cells"
    assert "donor_ids" not in found.sentence.split("interval")[1]


def test_the_baseline_is_what_scanpy_makes():
    import anndata as ad
    import scanpy as sc

    counts = sp.csr_matrix(RNG.poisson(RNG.gamma(0.5, 2.0, (4, 120))[KINDS[:80]]).astype(np.float32))
    found = pca_of_counts(counts, 10)
    adata = ad.AnnData(counts.copy())
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.pca(adata, n_comps=10)
    np.testing.assert_allclose(np.abs(found), np.abs(adata.obsm["X_pca"]), rtol=1e-2, atol=1e-2)
    assert pca_of_counts(counts[:5]).shape == (5, 4)


@pytest.mark.parametrize(
    ("values", "words", "said"),
    [
        (CLEAR[:2], {}, "three or more"),
        (np.full((5, 2), np.nan), {}, "finite"),
        (CLEAR, {"baseline": CLEAR[:5]}, "same"),
        (CLEAR, {"labels": LABELS[:5]}, "5 cells"),
        (CLEAR, {"options": VerdictOptions(neighbours=0)}, "neighbours=0"),
    ],
)
def test_what_is_no_embedding_is_refused(values, words, said):
    with pytest.raises(ModelInputError, match=said):
        judge_embedding(values, **words)


def test_the_seed_decides_what_is_drawn_anew():
    rng = np.random.default_rng(0)
    kinds = pd.Series(np.repeat(["a", "b"], 30), name="kind")
    values = rng.normal(size=(60, 3)) + (kinds == "b").to_numpy()[:, None]
    tables = [
        judge_embedding(values, labels=kinds, options=VerdictOptions(neighbours=5, draws=20, seed=seed)).table
        for seed in (0, 0, 1)
    ]
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert (tables[0]["low"] != tables[2]["low"]).any()
