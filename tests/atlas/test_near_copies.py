"""Near-copies: planted ones are found, cells of the same type are not, and what is kept follows a rule that is told.

The oracle of Jaccard and of shared molecules is plain sets and numpy; planted copies have molecules moved to genes
drawn from the mean profile.
"""

from __future__ import annotations

import inspect

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas import AtlasInputError, IngestOptions, Source, find_near_copies, ingest, open_atlas
from atlas.copy_sketch import BANDS, LEVELS, MAX_BUCKET, ROWS, band_keys, candidate_pairs, element_hashes
from atlas.identity import gene_keys
from atlas.near_copies import MIN_GENES, MIN_SHARED
from tests.factories import gene_ids

QUICK = IngestOptions(doublets=False, neighbours=False)
N_GENES = 900


def draw(n: int, seed: int, depth: float = 2500.0) -> sp.csr_matrix:
    """Return different cells of one type: the same mean profile, gamma-Poisson noise."""
    profile = np.random.default_rng(0).lognormal(0, 1.5, N_GENES)
    rng = np.random.default_rng(seed)
    rate = rng.gamma(2.0, profile / profile.sum() * depth / 2, size=(n, N_GENES))
    return sp.csr_matrix(rng.poisson(rate).astype(np.float32))


def move(counts: sp.csr_matrix, share: float, seed: int) -> sp.csr_matrix:
    """Return the cells with a share of their molecules moved to genes drawn from the mean profile."""
    rng = np.random.default_rng(seed)
    mean = np.asarray(counts.sum(axis=0), dtype=float).ravel()
    dense = counts.toarray().astype(np.int64)
    kept = rng.binomial(dense, 1 - share)
    lost = (dense - kept).sum(axis=1)
    return sp.csr_matrix((kept + rng.multinomial(lost, mean / mean.sum())).astype(np.float32))


HASHES = element_hashes(gene_keys([f"g{i}" for i in range(N_GENES)])[0])


def elements(row: sp.csr_matrix) -> set[tuple[int, int]]:
    return {(g, 2**k) for g, c in zip(row.indices, row.data, strict=True) for k in range(LEVELS) if c >= 2**k}


def test_keys_agree_as_often_as_the_sets_are_alike():
    """The share of bands that agree is J^ROWS, within its error over 120 pairs."""
    counts = draw(120, 1, depth=6000)
    for share in (0.01, 0.03):
        moved = move(counts, share, 2)
        pairs = [(elements(a), elements(b)) for a, b in zip(counts, moved, strict=True)]
        expected = np.mean([(len(a & b) / len(a | b)) ** ROWS for a, b in pairs])
        found = (band_keys(counts, HASHES) == band_keys(moved, HASHES)).mean()
        assert found == pytest.approx(expected, abs=0.03)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_keys_do_not_depend_on_gene_order_or_on_the_other_cells(seed):
    rng = np.random.default_rng(seed)
    counts, order = draw(6, seed), rng.permutation(N_GENES)
    shuffled = sp.csr_matrix(counts[:, order])
    shuffled.sort_indices()
    keys = band_keys(counts, HASHES)
    assert np.array_equal(keys, band_keys(shuffled, HASHES[order]))
    assert np.array_equal(keys[2:4], band_keys(counts[2:4], HASHES))
    assert keys.shape == (6, BANDS)


def test_an_empty_cell_and_one_count_have_keys_too():
    counts = sp.csr_matrix(([5.0], ([1], [3])), shape=(2, N_GENES), dtype=np.float32)
    keys = band_keys(counts, HASHES)
    assert not (keys[0] == keys[1]).any()


def test_candidates_are_all_pairs_of_different_groups_that_share_a_key():
    rng = np.random.default_rng(3)
    keys = rng.integers(0, 40, (60, 3)).astype(np.uint32)
    group = rng.integers(0, 3, 60)
    expected = {
        (i, j) for i in range(60) for j in range(i + 1, 60) if group[i] != group[j] and (keys[i] == keys[j]).any()
    }
    pairs, untested = candidate_pairs(keys, group)
    assert (set(map(tuple, pairs.tolist())), untested) == (expected, 0)
    assert candidate_pairs(keys[:0], group[:0])[0].shape == (0, 2)


def test_cells_alike_by_the_hundreds_are_bounded_and_counted():
    n = 200
    pairs, untested = candidate_pairs(np.zeros((n, 1), np.uint32), np.arange(n))
    assert len(pairs) == n * MAX_BUCKET - MAX_BUCKET * (MAX_BUCKET + 1) // 2
    assert len(pairs) + untested == n * (n - 1) // 2


def test_pairs_that_are_left_untested_are_of_different_groups():
    rng = np.random.default_rng(5)
    keys, group = rng.integers(0, 3, (500, 2)).astype(np.uint32), rng.integers(0, 4, 500)
    expected = 0
    for band in keys.T:
        order = np.argsort(band, kind="stable")
        for key in range(3):
            alike = group[order[band[order] == key]]
            expected += sum((alike[: -MAX_BUCKET - 1][: i + 1] != alike[i + MAX_BUCKET + 1]).sum()
                            for i in range(len(alike) - MAX_BUCKET - 1))  # fmt: skip
    assert candidate_pairs(keys, group)[1] == expected > 1000
    assert candidate_pairs(np.zeros((300, 40), np.uint32), np.zeros(300, np.int64))[1] == 0


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """Three datasets: cells, the same type's other cells with 1, 3 and 5 % copies and exact ones, and shallow ones."""
    folder = tmp_path_factory.mktemp("near")
    genes = gene_ids(N_GENES)
    first = draw(150, 1)
    planted = [move(first[i * 20 : (i + 1) * 20], share, 5) for i, share in enumerate((0.01, 0.03, 0.05))]
    second = sp.vstack([*planted, first[100:105], draw(100, 9)], format="csr")
    shallow = draw(30, 4, depth=80)
    uri = str(folder / "atlas")
    for name, counts, labels in (("first", first, "T cell"), ("second", second, ""), ("shallow", shallow, "")):
        obs = pd.DataFrame({"cell_type": labels}, index=[f"{name}{i}" for i in range(counts.shape[0])])
        order = np.random.default_rng(len(name)).permutation(N_GENES)
        adata = ad.AnnData(sp.csr_matrix(counts[:, order]), obs, pd.DataFrame(index=np.array(genes)[order]))
        adata.write_h5ad(folder / f"{name}.h5ad")
        assert ingest(Source("human", str(folder / f"{name}.h5ad"), id=name), uri, QUICK).status == "written"
    return uri, first, second


@pytest.mark.index
def test_planted_copies_are_found_and_nothing_else(audited):
    uri, first, second = audited
    found = find_near_copies(open_atlas(uri), "human")
    names = set(zip(found.pairs["name_a"], found.pairs["name_b"], strict=True))
    expected = {(f"first{i}", f"second{i}") for i in range(60)} | {
        (f"first{100 + i}", f"second{60 + i}") for i in range(5)
    }
    assert names == expected
    kinds = found.pairs.set_index("name_b")["kind"]
    assert set(kinds[[f"second{60 + i}" for i in range(5)]]) == {"exact"}
    assert set(kinds[[f"second{i}" for i in range(20, 60)]]) == {"near"}
    assert (found.cells, found.shallow) == (315, 30)
    for row in found.pairs.itertuples():
        one = first[int(row.name_a.removeprefix("first"))].toarray()
        other = second[int(row.name_b.removeprefix("second"))].toarray()
        assert row.shared == pytest.approx(np.minimum(one, other).sum() / max(one.sum(), other.sum()))
        assert row.shared >= MIN_SHARED
    assert found.untested == 0
    assert found.by_datasets()["pairs"].sum() == 65
    alone = find_near_copies(open_atlas(uri), "human", min_shared=1.0, min_genes=N_GENES)
    assert (len(alone.pairs), list(alone.pairs.columns)) == (0, list(found.pairs.columns))


@pytest.mark.index
def test_the_keep_rule_is_told_and_nothing_is_changed(audited):
    uri = audited[0]
    before = open_atlas(uri).query("human", every_cell=True).obs(["is_primary_data", "soma_joinid"])
    pairs = find_near_copies(open_atlas(uri), "human").pairs.set_index("name_b")
    exact = pairs.loc[[f"second{60 + i}" for i in range(5)]]
    assert set(zip(exact["keep"], exact["why"], strict=True)) == {("a", "primary data")}
    near = pairs.loc[[f"second{i}" for i in range(60)]]
    assert set(near["keep"]) <= {"a", "b"}
    assert set(near["why"]) <= {"passes QC", "has a cell type"}
    assert set(near.loc[near["why"] == "has a cell type", "keep"]) == {"a"}
    pd.testing.assert_frame_equal(
        open_atlas(uri).query("human", every_cell=True).obs(["is_primary_data", "soma_joinid"]), before
    )
    stricter = find_near_copies(open_atlas(uri), "human", min_shared=0.98).pairs
    assert set(stricter["name_b"]) == set(pairs.index[pairs["shared"] >= 0.98])
    assert 20 <= len(stricter) < 65
    with pytest.raises(AtlasInputError, match="min_shared"):
        find_near_copies(open_atlas(uri), "human", min_shared=0.0)


@pytest.mark.index
def test_the_command_writes_the_table(audited, tmp_path, capsys):
    from catalog.cli import run
    from catalog.cli_copies import duplicates

    said = inspect.signature(duplicates).parameters
    assert (said["min_shared"].default, said["min_genes"].default) == (MIN_SHARED, MIN_GENES)
    out = tmp_path / "pairs.csv"
    words = ["duplicates", "human", "--atlas", audited[0], "--output", str(out)]
    assert run([*words, "--json"]) == 0
    assert '"pairs": 65' in capsys.readouterr().out
    table = pd.read_csv(out)
    assert len(table) == 65
    assert list(table.columns[:2]) == ["kind", "shared"]
    assert run(words) == 2  # it is there
    assert run([*words, "--force"]) == 0
    assert run(["duplicates", "mouse", "--atlas", audited[0]]) == 2


@pytest.mark.shared
@pytest.mark.index
def test_real_cells_of_the_same_types_are_no_copies_of_each_other(shared):
    """All pairs of 1,500 real pancreas cells, each as if of its own dataset: none is near another; moved ones are."""
    adata = ad.read_h5ad(shared / "data" / "human_pancreas_baron_cxg7.h5ad")
    counts = sp.csr_matrix((adata.raw.X if adata.raw is not None else adata.X)[:1500]).astype(np.float32)
    hashes = element_hashes(gene_keys([str(i) for i in range(counts.shape[1])])[0])
    keys = band_keys(counts, hashes)
    pairs, untested = candidate_pairs(keys, np.arange(len(keys)))
    assert untested == 0
    for i, j in pairs:
        one, other = counts[i].toarray(), counts[j].toarray()
        assert np.minimum(one, other).sum() / max(one.sum(), other.sum()) < MIN_SHARED
    for share in (0.01, 0.05):
        some = counts[:200]
        moved = move(some, share, 1)
        assert (band_keys(moved, hashes) == keys[:200]).any(axis=1).all()
        both = np.asarray(some.minimum(moved).sum(axis=1)).ravel()
        most = np.maximum(np.asarray(some.sum(axis=1)), np.asarray(moved.sum(axis=1))).ravel()
        assert (both / most >= MIN_SHARED).all()
