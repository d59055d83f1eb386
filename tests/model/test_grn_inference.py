"""`infer_grn`: genes of choice, edges from scores, facts that say what was done; the choice of genes beside scanpy."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import stats

from loaders import AnnDataCells
from model import InferenceOptions, ModelInputError
from model.grn_genes import GeneChoice, choose_genes
from model.grn_inference import infer_grn
from model.grn_query import gene_counts
from model.grn_scores import BY_NAME, READOUTS, score_edges
from model.grn_significance import NullOptions
from model.grn_tested import infer_tested_grn
from tests.model.grn_cells import FACTORS, IDS, ON_CPU, genes_of_small, model_with, regulon_cells, regulon_of
from tests.model.small_runs import N_GENES, small_adata, small_cells

if TYPE_CHECKING:
    import anndata as ad

EVERY = np.arange(144)
GIVEN = GeneChoice("given", genes=genes_of_small(6))


def log_adata(numbers: np.ndarray) -> ad.AnnData:
    """Return logs as a user of scanpy makes them."""
    adata = small_adata()[numbers].copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    return adata


def test_variable_genes_are_scanpys() -> None:
    adata = log_adata(EVERY)
    known = sc.pp.highly_variable_genes(adata, flavor="cell_ranger", n_top_genes=30, inplace=False)
    wanted = set(adata.var_names[known["highly_variable"]])
    regulators, targets = choose_genes(None, small_cells(), EVERY, GeneChoice(number=30, least_cells=0))
    assert len(targets) == 30
    assert set(targets) <= wanted
    assert regulators == targets
    assert list(targets) == sorted(targets, key=genes_of_small(N_GENES).index)


def test_genes_across_populations_differ_most_by_welchs_test() -> None:
    mine, others = EVERY[::2], EVERY[1::2]
    t = np.abs(
        stats.ttest_ind(*(log_adata(some).X.astype(float) for some in (mine, others)), equal_var=False).statistic
    )
    t[(small_adata()[mine].X > 0).sum(0) == 0] = 0  # a gene that none of them expresses has no network in them
    wanted = set(np.array(genes_of_small(N_GENES))[np.argsort(-np.nan_to_num(t))[:12]])
    choice = GeneChoice("across", 12, least_cells=0)
    assert set(choose_genes(None, small_cells(), mine, choice)[1]) == wanted
    assert set(choose_genes(None, small_cells(), mine, replace(choice, against=others))[1]) == wanted
    with pytest.raises(ModelInputError, match="both sides"):
        choose_genes(None, small_cells(), EVERY, choice)


def test_expressed_genes_and_listed_regulators() -> None:
    some = np.arange(4)
    counts = gene_counts(small_cells(), some, genes_of_small(N_GENES))[0].toarray()
    wanted = tuple(np.array(genes_of_small(N_GENES), dtype=object)[(counts > 0).sum(0) >= 3])
    assert 0 < len(wanted) < N_GENES
    assert choose_genes(None, small_cells(), some, GeneChoice("expressed")) == (wanted, wanted)
    silent = sorted(set(genes_of_small(N_GENES)) - set(wanted))[0]
    listed = (wanted[5], silent, wanted[2], "no gene")
    regulators, targets = choose_genes(None, small_cells(), some, GeneChoice("expressed", regulators=listed))
    assert regulators == (wanted[2], wanted[5])
    assert targets == wanted


def test_given_genes_stay_in_their_order_and_must_be_there() -> None:
    genes = genes_of_small(5)[::-1]
    assert choose_genes(None, small_cells(), EVERY, GeneChoice("given", genes=genes)) == (genes, genes)
    with pytest.raises(ModelInputError, match="no gene"):
        choose_genes(None, small_cells(), EVERY, GeneChoice("given", genes=(*genes, "no gene")))
    for wrong in ({"kind": "given"}, {"genes": genes}, {"kind": "best"}, {"number": 0}, {"against": EVERY}):
        with pytest.raises(ModelInputError):
            GeneChoice(**wrong)


class TwoPanels(AnnDataCells):
    """Cells of two datasets, of which the second, cells from 70 on, lacks thirty genes."""

    def measured(self, dataset: int, organism: int) -> np.ndarray:
        out = super().measured(dataset, organism).copy()
        out[30:60] &= dataset == 0
        return out


@pytest.fixture(scope="module")
def two_panels() -> TwoPanels:
    adata = small_adata()
    adata.obs["dataset_id"] = ["a"] * 70 + ["b"] * 74
    adata.X[70:, 30:60] = 0
    return TwoPanels(adata, "human")


@pytest.mark.parametrize("readout", [name for name in READOUTS if BY_NAME[name].apart])
def test_targets_in_blocks_are_the_network_of_all_at_once(readout: str) -> None:
    """What `Readout.apart` says of a read-out holds: a pair's score is the same whatever other targets are asked."""
    kind = "criss-cross" if readout == "criss_cross" else "exact"
    model = model_with(kind, 1) if BY_NAME[readout].needs_model else None
    genes = GeneChoice("given", genes=genes_of_small(11), regulators=genes_of_small(6, 3))
    inference = InferenceOptions(length=70, batch_size=32, device="cpu")
    options = replace(ON_CPU, inference=inference, contexts="trained", trees=5, per_target=4)
    numbers = EVERY[: 6 if readout in ("gradient", "perturbation") else 40]
    whole, parts = (
        infer_grn(
            model, small_cells(), numbers, readout=readout, genes=genes, options=replace(options, targets_at_once=at)
        )
        for at in (0, 4)
    )
    assert (whole.weights != 0).nnz == len(parts)
    np.testing.assert_allclose(parts.weights.toarray(), whole.weights.toarray(), rtol=1e-4, atol=1e-7)
    assert {**whole.facts, "options": 0} == {**parts.facts, "options": 0}


def test_what_depends_on_all_genes_is_not_asked_in_blocks() -> None:
    genes = GeneChoice("given", genes=genes_of_small(11))
    for readout, changes in (("pidc", {}), ("attention", {}), ("pearson", {"adjust": ("apc",)})):
        model = model_with("exact") if BY_NAME[readout].needs_model else None
        options = replace(ON_CPU, targets_at_once=4, **changes)
        with pytest.raises(ModelInputError, match="targets_at_once"):
            infer_grn(model, small_cells(), EVERY[:20], readout=readout, genes=genes, options=options)


def test_a_prior_network_elsewhere_is_refused_before_anything_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.grn_inference.score_edges", lambda *_, **__: pytest.fail("scored"))
    known = frozenset({("ENSG00000000000", "ENSG00000000001")})
    with pytest.raises(ModelInputError, match="known"):
        infer_grn(None, small_cells(), EVERY, readout="pearson", options=replace(ON_CPU, known=known))


def test_genes_that_one_dataset_lacks_are_not_chosen(two_panels: TwoPanels) -> None:
    """A pair is scored over all of the cells or not at all."""
    lacking = set(genes_of_small(30, 30))
    first = choose_genes(None, two_panels, np.arange(70), GeneChoice("expressed"))[1]
    assert lacking <= set(first), "the first dataset measured and expresses them"
    both = choose_genes(None, two_panels, EVERY, GeneChoice("expressed"))[1]
    assert set(first) - lacking <= set(both)
    assert not lacking & set(both)
    with pytest.raises(ModelInputError, match="measured in all of the cells"):
        choose_genes(None, two_panels, EVERY, GeneChoice("given", genes=genes_of_small(31)))


def test_a_gene_that_the_others_did_not_measure_is_not_unlike_them(two_panels: TwoPanels) -> None:
    mine = np.arange(70)
    lacking = set(genes_of_small(30, 30))
    by_t = choose_genes(None, two_panels, mine, GeneChoice("across", N_GENES))[1]
    assert not lacking & set(by_t)
    assert len(by_t) > 100
    assert lacking & set(choose_genes(None, two_panels, mine[:35], GeneChoice("across", 120, against=mine[35:]))[1])


def test_others_are_read_in_blocks_and_of_the_same_organism(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, choice = EVERY[::2], GeneChoice("across", 12)
    whole = choose_genes(None, small_cells(), mine, choice)
    read = []

    def counted(cells, numbers, genes):
        read.append(len(numbers))
        return gene_counts(cells, numbers, genes)

    monkeypatch.setattr("model.grn_genes.BLOCK", 10)
    monkeypatch.setattr("model.grn_genes.gene_counts", counted)
    assert choose_genes(None, small_cells(), mine, choice) == whole
    assert read == [72, *[10] * 7, 2]


def test_what_cannot_be_kept_is_refused_before_anything_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        pytest.fail("scored")

    for home in ("grn_inference", "grn_tested"):
        monkeypatch.setattr(f"model.{home}.score_edges", never)
    asked = {"readout": "pearson", "genes": GIVEN}
    with pytest.raises(ModelInputError, match=r"GiB.*fewer genes, named regulators or fewer permutations"):
        infer_tested_grn(None, small_cells(), **asked, null=NullOptions(permutations=10**8))
    monkeypatch.setattr("model.grn_postprocess.MOST_EDGES", 20)
    for infer in (infer_grn, infer_tested_grn):
        with pytest.raises(ModelInputError, match="keep 3 or fewer"):
            infer(None, small_cells(), **asked)


@pytest.mark.parametrize("readout", READOUTS)
def test_every_readout_becomes_a_network(readout: str) -> None:
    model = model_with("criss-cross" if readout == "criss_cross" else "exact") if BY_NAME[readout].needs_model else None
    numbers = np.arange(12)
    options = replace(ON_CPU, trees=10)
    network = infer_grn(
        model, small_cells(), numbers, readout=readout, genes=GIVEN, population="first", options=options
    )
    scores = score_edges(
        readout, model, small_cells(), numbers, regulators=GIVEN.genes, targets=GIVEN.genes, options=options
    )
    there = np.isfinite(scores.values) & (scores.values != 0)
    assert len(network) == there.sum() > 0
    np.testing.assert_array_equal(network.weights.toarray()[there], scores.values[there])
    assert (network.readout, network.organism, network.population) == (readout, "homo_sapiens", "first")
    assert network.cells == 12
    assert ("sign" in network.layers) == BY_NAME[readout].signed
    facts = json.loads(json.dumps(dict(network.facts)))
    assert facts["pairs"] == 30
    assert facts["pairs_without_score"] == int(np.isnan(scores.values).sum()) - 6
    assert (facts["model"] is None) == (model is None)
    values = np.nan_to_num(scores.values)
    assert np.allclose(values, values.T, atol=1e-5) == BY_NAME[readout].symmetric


def test_planted_regulons_are_the_strongest_edges_of_their_targets() -> None:
    genes = GeneChoice("expressed", regulators=FACTORS)
    options = replace(ON_CPU, per_target=1)
    found = infer_grn(None, regulon_cells(), readout="pearson", genes=genes, options=options).edges()
    best = dict(zip(found["target"], found["regulator"], strict=True))
    assert len(best) == len(found) == len(IDS)
    for factor in range(4):
        assert all(best[gene] == FACTORS[factor] for gene in regulon_of(factor))


def test_scores_are_adjusted_in_the_order_that_is_asked() -> None:
    asked = {"readout": "extra_trees", "genes": GeneChoice("given", genes=IDS[:8])}
    plain = replace(ON_CPU, trees=10)
    network = infer_grn(None, regulon_cells(), **asked, options=replace(plain, adjust=("symmetrise", "sinkhorn")))
    weights = network.weights.toarray()
    np.testing.assert_allclose(weights, weights.T, atol=1e-4)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-4)
    assert network.facts["options"]["adjust"] == ["symmetrise", "sinkhorn"]


def test_same_call_same_network() -> None:
    for readout in ("attention", "grnboost2"):
        model = model_with("exact") if readout == "attention" else None
        asked = {"readout": readout, "genes": GIVEN, "options": replace(ON_CPU, trees=5)}
        one, two = (infer_grn(model, small_cells(), np.arange(20), **asked) for _ in range(2))
        assert one.weights.data.tobytes() == two.weights.data.tobytes()
        assert one.facts == two.facts


def test_cells_of_two_organisms_are_no_population() -> None:
    cells = small_cells()
    with pytest.raises(ModelInputError, match="at least one cell"):
        infer_grn(None, cells, np.array([], dtype=int), readout="pearson")
    with pytest.raises(ModelInputError, match="a trained model"):
        infer_grn(None, cells, readout="gradient")
    assert pd.Series(READOUTS).is_unique
