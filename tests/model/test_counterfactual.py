"""Counterfactuals: nothing changes where nothing is swapped, and what is swapped is what the decoder gets."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from model import (
    Embedding,
    InferenceOptions,
    ModelInputError,
    Swap,
    TrainedModel,
    counterfactual_blocks,
    embed,
    make_ragged,
    mean_codes,
    read_cells,
)
from model.counterfactual_report import (
    Population,
    class_codes,
    compare_changes,
    control_swaps,
    decoded_means,
    halve,
    report_counterfactual,
    swaps_to,
)
from model.denoising import PIECE, counts_of
from tests.model.sharp_model import sharpened
from tests.model.small_runs import N_GENES, TYPES, small_adata, small_cells, small_start

OPTIONS = InferenceOptions(length=N_GENES, batch_size=50, device="cpu")
IDS = small_adata().var_names.tolist()
SOME = np.array([3, 90, 17, 44])


@cache
def sharp_model() -> TrainedModel:
    return sharpened(small_start().model, small_cells())


def made(swaps, numbers=SOME, genes=None, options=OPTIONS, **more):
    blocks = list(
        counterfactual_blocks(sharp_model(), small_cells(), swaps, numbers, genes=genes, options=options, **more)
    )
    factual, expected = (np.concatenate([getattr(one, name) for one in blocks]) for name in ("factual", "expected"))
    return factual, expected, blocks


def test_without_a_swap_and_at_weight_0_the_counterfactual_is_the_factual_to_the_bit():
    code = mean_codes(sharp_model(), small_cells(), options=OPTIONS)["cell_type"]
    for swaps in ([], [Swap("cell_type", code, 0.0)]):
        factual, expected, _ = made(swaps)
        assert factual.tobytes() == expected.tobytes()


def test_a_swap_for_ones_own_code_changes_nothing():
    for number in SOME:
        own = embed(sharp_model(), small_cells(), [number], options=OPTIONS)
        swaps = [Swap(token, own.part(token)[0]) for token in own.columns]
        factual, expected, _ = made(swaps, np.array([number]))
        np.testing.assert_allclose(expected, factual, rtol=1e-5)


def test_all_tokens_of_another_cell_make_the_other_cell():
    other = embed(sharp_model(), small_cells(), [90], options=OPTIONS)
    swaps = [Swap(token, other.part(token)[0]) for token in other.columns]
    depth = small_adata().X.sum(1)
    twin = int(np.flatnonzero(depth == depth[90])[0]) if (depth == depth[90]).sum() > 1 else 90
    _, expected, _ = made(swaps, np.array([twin]))
    factual, _, _ = made([], np.array([90]))
    np.testing.assert_allclose(expected, factual, rtol=1e-3)
    before, after, _ = made(swaps, np.array([3]))
    assert np.abs(np.log(after / before)).mean() > 0.03, "a swap does matter to this network"


def test_mixing_goes_from_ones_own_to_the_other_code():
    code = 3 * mean_codes(sharp_model(), small_cells(), np.arange(20), options=OPTIONS)["base"] + 1
    factual, whole, _ = made([Swap("base", code)])
    moved = [np.abs(made([Swap("base", code, weight)])[1] - factual).sum() for weight in (0.0, 0.25, 0.5, 1.0)]
    assert moved[0] == 0
    assert moved[-1] == pytest.approx(np.abs(whole - factual).sum())
    assert all(0 < less < moved[-1] * 1.5 for less in moved[1:3])
    assert moved[1] < moved[-1]


def test_what_is_decoded_is_what_the_network_generates_of_swapped_codes():
    model, cells = sharp_model(), small_cells()
    code = mean_codes(model, cells, np.arange(9), options=OPTIONS)["tissue"]
    genes = IDS[:40]
    assert len(genes) < PIECE, "one piece"
    factual, expected, _ = made([Swap("tissue", code, 0.7)], genes=genes)
    (read,) = read_cells(model, cells, SOME, OPTIONS)
    codes = list(read.encoded.compressed.codes)
    place = model.network.reader.names.index("tissue")
    codes[place] = 0.3 * codes[place] + 0.7 * torch.from_numpy(code)
    counts = small_adata().X[SOME][:, :40]
    tokens = torch.from_numpy(model.vocabulary.gene_tokens("homo_sapiens", genes))
    for told, given in ((factual, read.encoded.compressed.codes), (expected, codes)):
        with torch.no_grad():
            restored = model.network.compressor.restore(given)
            values = model.network.generate(
                restored, tokens.repeat(4), make_ragged([40] * 4), read.batch.depth, torch.ones(4)
            )
        shares = counts_of(model.config, values).reshape(4, 40).numpy()
        truth = shares / shares.sum(1, keepdims=True) * counts.sum(1, keepdims=True)
        np.testing.assert_allclose(told, truth, rtol=1e-4)


def test_counts_stay_on_the_scale_of_the_cell_and_columns_are_the_genes_asked_for():
    genes = [IDS[i] for i in np.random.default_rng(0).permutation(N_GENES)]
    factual, expected, blocks = made([], genes=genes)
    np.testing.assert_allclose(factual.sum(1), small_adata().X[SOME].sum(1), rtol=1e-5)
    np.testing.assert_allclose(expected.sum(1), factual.sum(1), rtol=1e-5)
    plain, _, _ = made([])
    np.testing.assert_allclose(factual, plain[:, [IDS.index(gene) for gene in genes]], rtol=1e-5)
    assert blocks[0].genes == blocks[0].genes_after == tuple(genes)
    np.testing.assert_allclose(blocks[0].depth, small_adata().X[SOME].sum(1))


def test_pieces_share_the_cells_molecules(monkeypatch):
    monkeypatch.setattr("model.counterfactual.PIECE", 40)
    factual, _, _ = made([])
    np.testing.assert_allclose(factual.sum(1), small_adata().X[SOME].sum(1), rtol=1e-5)


def test_batches_order_and_company_change_rounding_only_and_the_same_call_nothing():
    swaps = [Swap("cell_type", mean_codes(sharp_model(), small_cells(), np.arange(9), options=OPTIONS)["cell_type"])]
    first, other = made(swaps)[1], made(swaps, SOME[::-1], options=replace(OPTIONS, batch_size=3))[1]
    np.testing.assert_allclose(other[::-1], first, rtol=2e-3)  # weights that heed cells heed rounding
    assert made(swaps)[1].tobytes() == first.tobytes()


def test_means_of_codes_are_those_of_the_embedding():
    found = embed(sharp_model(), small_cells(), np.arange(70), options=OPTIONS)
    mean = mean_codes(sharp_model(), small_cells(), np.arange(70), options=OPTIONS)
    for token in found.columns:
        np.testing.assert_allclose(mean[token], found.part(token).mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("swaps", "genes", "said"),
    [
        ([Swap("colour", np.zeros(4, np.float32))], None, "token='colour'"),
        ([Swap("sex", np.zeros(99, np.float32))], None, "finite numbers for sex"),
        ([Swap("base", np.full(64, np.nan, np.float32))], None, "code"),
        ([], ["nonsense"], "genes='nonsense'"),
        ([], IDS[:2] * 2, "each gene once"),
        ([], [], "at least one"),
    ],
)
def test_slips_are_refused_before_anything_is_computed(swaps, genes, said):
    with pytest.raises(ModelInputError, match=said):
        counterfactual_blocks(sharp_model(), small_cells(), swaps, genes=genes, options=OPTIONS)


def test_genes_that_were_not_measured_weights_and_orthologs_are_checked_too():
    model, cells = sharp_model(), small_cells()
    code = mean_codes(model, cells, [0], options=OPTIONS)["base"]
    far = next(gene for gene in model.vocabulary.genes[0] if gene not in set(IDS))
    for words, said in (
        ({"swaps": [], "genes": [IDS[0], far]}, "measured"),
        ({"swaps": [Swap("base", code, 1.5)]}, "weight=1.5"),
        ({"swaps": [Swap("base", code)] * 2}, "each token once"),
        ({"swaps": [], "genes": IDS[:3], "orthologs": ("mus_musculus", IDS[:3])}, "orthologs='mus_musculus'"),
        ({"swaps": [], "genes": IDS[:3], "orthologs": ("homo_sapiens", IDS[:2])}, "one for each"),
    ):
        with pytest.raises(ModelInputError, match=said):
            counterfactual_blocks(model, cells, options=OPTIONS, **words)
    config = model.config.changed(tasks={"generate": False})
    blind = replace(model, network=model.network.__class__(config, model.vocabulary, model.table))
    with pytest.raises(ModelInputError, match="trained without generation"):
        counterfactual_blocks(blind, cells, [], options=OPTIONS)


def test_other_genes_can_be_decoded_in_the_place_of_ones_own():
    far = [gene for gene in sharp_model().vocabulary.genes[0] if gene not in set(IDS)][:30]
    factual, expected, blocks = made([], genes=IDS[:30], orthologs=("homo_sapiens", far))
    assert blocks[0].genes_after == tuple(far)
    assert not np.allclose(factual, expected)
    np.testing.assert_allclose(factual.sum(1), expected.sum(1), rtol=1e-5)
    same = made([], genes=IDS[:30], orthologs=("homo_sapiens", IDS[:30]))
    np.testing.assert_array_equal(same[0], same[1])


def populations():
    obs = small_adata().obs
    kinds, donors = (obs[name].to_numpy(dtype=object) for name in ("cell_type", "donor_id"))
    parts = [np.flatnonzero(kinds == kind) for kind in TYPES[:2]]
    return [Population(small_cells(), one, donors[one], donors[one]) for one in parts]


def test_two_donors_a_side_are_enough_whichever_they_share():
    source, target = populations()
    for mine, theirs in (("AB", "BC"), ("AB", "AB"), ("AB", "CD"), ("ABC", "CD"), ("ABCD", "ABC")):
        units = [np.resize(np.array(list(names), dtype=object), 40) for names in (mine, theirs)]
        cut = [replace(each, numbers=each.numbers[:40], groups=each.groups[:40], units=one)
               for each, one in zip((source, target), units, strict=True)]  # fmt: skip
        found = halve(*cut)
        assert not {*found.source.units, *found.target.units} & {*found.others.units, *found.reference.units}
        assert {*found.source.units, *found.others.units} == set(mine)
        assert {*found.target.units, *found.reference.units} == set(theirs)


def test_halves_share_no_donor_and_donors_of_both_sides_are_together():
    source, target = populations()
    found = halve(source, target)
    compared = set(found.source.units) | set(found.target.units)
    kept = set(found.others.units) | set(found.reference.units)
    assert not compared & kept
    assert len(compared) == len(kept) == 3
    for whole, parts in ((source, (found.source, found.others)), (target, (found.target, found.reference))):
        assert sorted(np.concatenate([one.numbers for one in parts])) == sorted(whole.numbers)
        assert set(zip(parts[0].numbers, parts[0].units, strict=True)) <= set(
            zip(whole.numbers, whole.units, strict=True)
        )
    assert found.groups == ("all",), "no donor has 20 cells on every side"
    assert halve(source, target).source.numbers.tolist() == found.source.numbers.tolist()
    assert {tuple(halve(source, target, seed).source.numbers) for seed in range(5)} != {tuple(found.source.numbers)}
    alone = replace(source, units=np.full(len(source.units), "one", dtype=object))
    with pytest.raises(ModelInputError, match="two or more"):
        halve(alone, replace(target, units=np.full(len(target.units), "one", dtype=object)))


def test_the_report_is_the_means_it_says_and_a_swap_to_ones_own_kind_is_no_change():
    source, target = populations()
    halves, model = halve(source, target), sharp_model()
    swaps = swaps_to(model, halves.reference, ["cell_type", "base"], 1.0, OPTIONS)
    truth = mean_codes(model, small_cells(), halves.reference.numbers, options=OPTIONS)
    assert [one.token for one in swaps] == ["cell_type", "base"]
    np.testing.assert_array_equal(swaps[1].code, truth["base"])
    genes = IDS[:60]
    report = report_counterfactual(model, halves, swaps, genes, options=OPTIONS)
    factual, expected, _ = made(swaps, halves.source.numbers, genes=genes)
    depth = small_adata().X[halves.source.numbers].sum(1, keepdims=True)
    table = report.changes.set_index("gene").loc[genes]
    np.testing.assert_allclose(table["factual"], (factual / depth).mean(0) * 1e4, rtol=1e-5)
    np.testing.assert_allclose(table["counterfactual"], (expected / depth).mean(0) * 1e4, rtol=1e-5)
    shares = (counts := small_adata().X.astype(np.float64)) / counts.sum(1, keepdims=True) * 1e4
    seen = [shares[part.numbers][:, :60].mean(0) for part in (halves.source, halves.target)]
    np.testing.assert_allclose(table["observed_change"], np.log2((seen[1] + 1) / (seen[0] + 1)))
    np.testing.assert_allclose(table["change"], np.log2((table["counterfactual"] + 1) / (table["factual"] + 1)))
    scores = report.scores.set_index("method")
    assert scores.index.tolist() == ["counterfactual", "over own class", "mean shift", "random swap", "no change"]
    own = mean_codes(model, small_cells(), halves.others.numbers, options=OPTIONS)
    means, _, _ = made([replace(one, before=own[one.token]) for one in swaps], halves.source.numbers, genes=genes)
    np.testing.assert_allclose(table["own_class"], (means / depth).mean(0) * 1e4, rtol=1e-5)
    truth = np.log2((table["counterfactual"] + 1) / (table["own_class"] + 1))
    np.testing.assert_allclose(table["change_over_own"], truth)
    assert scores.loc["mean shift", "spearman"] > 0.8, "types differ in the same way in both halves"
    assert scores.loc["no change", "explained"] == 0
    assert scores["source_cells"].tolist() == [len(halves.source.numbers)] * 5
    idle = report_counterfactual(model, halves, [replace(one, weight=0.0) for one in swaps], genes, options=OPTIONS)
    assert (idle.changes["change"] == 0).all()


def test_all_tokens_swapped_to_a_type_change_what_sets_the_reconstructions_of_the_types_apart():
    source, target = populations()
    halves, model = halve(source, target), sharp_model()
    swaps = swaps_to(model, halves.reference, list(model.network.reader.names), 1.0, OPTIONS)
    report = report_counterfactual(model, halves, swaps, IDS, options=OPTIONS)
    means = [
        (made([], part.numbers)[0] / small_adata().X[part.numbers].sum(1, keepdims=True)).mean(0) * 1e4
        for part in (halves.source, halves.target)
    ]
    apart = np.log2((means[1] + 1) / (means[0] + 1))
    assert spearmanr(report.changes["change"], apart).statistic > 0.7
    assert spearmanr(report.changes["change_over_own"], apart).statistic > 0.4


@pytest.mark.parametrize("step", [7, 1_000])
def test_baselines_are_means_of_the_own_class_and_of_as_many_cells_of_either(step):
    source, target = populations()
    halves, model = halve(source, target), sharp_model()
    swaps = swaps_to(model, halves.reference, ["base"], 0.5, OPTIONS)
    asked = []

    def read(name, part):
        asked.append(name)
        whole = embed(model, part.cells, part.numbers, options=OPTIONS)
        for start in range(0, len(whole), step):
            some = slice(start, start + step)
            yield Embedding(whole.numbers[some], whole.values[some], whole.columns)

    codes = class_codes(halves, read, 3)
    assert sorted(asked) == ["others", "reference"], "each is read once"
    (found,) = control_swaps(swaps, codes)
    assert (found.token, found.weight) == ("base", 0.5)
    sizes = [len(halves.others.numbers), len(halves.reference.numbers)]
    drawn = np.zeros(sum(sizes), dtype=bool)
    drawn[np.random.default_rng(3).permutation(sum(sizes))[: sizes[1]]] = True
    numbers = np.concatenate([halves.others.numbers, halves.reference.numbers])[drawn]
    target = (codes["target"]["base"], halves.reference.numbers)
    for code, of in ((found.code, numbers), (found.before, halves.others.numbers), target):
        truth = mean_codes(model, small_cells(), of, options=OPTIONS)["base"]
        np.testing.assert_allclose(code, truth, rtol=1e-4, atol=1e-6)
    with pytest.raises(ModelInputError, match="token='colour'"):
        swaps_to(model, halves.reference, ["colour"], 1.0, OPTIONS)


def test_groups_are_compared_on_their_own_and_blocks_may_hold_other_cells():
    obs = small_adata().obs
    numbers = np.arange(144)
    groups = np.where(numbers % 2, "odd", "even").astype(object)
    units = np.array([f"{one:03d}" for one in numbers], dtype=object)
    first = numbers < 84
    source, target = (Population(small_cells(), numbers[one], groups[one], units[one]) for one in (first, ~first))
    halves = halve(source, target)
    if halves.groups == ("all",):  # of 30 odd and 30 even cells a half may have 10
        halves = replace(halves, groups=("all", "even", "odd"))
    genes, swaps = IDS[:25], []
    whole = list(
        counterfactual_blocks(sharp_model(), small_cells(), swaps, source.numbers, genes=genes, options=OPTIONS)
    )
    means = decoded_means(whole, halves.source, halves.groups)
    factual, _, _ = made(swaps, halves.source.numbers, genes=genes)
    shares = factual / small_adata().X[halves.source.numbers].sum(1, keepdims=True) * 1e4
    odd = halves.source.groups == "odd"
    np.testing.assert_allclose(means[0], [shares.mean(0), shares[~odd].mean(0), shares[odd].mean(0)], rtol=1e-4)
    report = compare_changes(halves, means, means, (genes, genes))
    assert report.scores["group"].tolist() == [name for name in ("all", "even", "odd") for _ in range(5)]
    assert len(report.changes) == 75
    assert report.changes["q"].between(0, 1).all()
    assert len(obs) == 144
