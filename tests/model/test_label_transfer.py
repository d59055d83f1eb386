"""Labels from neighbours: votes by brute force, orthologs' counts by hand, and no label where there is none."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from loaders import AnnDataCells, RelabelledCells
from model import (
    InferenceOptions,
    ModelInputError,
    embed,
    labelled_cells,
    transfer_by_orthologs,
    transfer_labels,
    with_organism,
)
from model.label_transfer import vote
from ontology import load_gene_table, load_orthologs, one_to_one_orthologs
from tests.model.small_runs import small_cells
from tests.model.small_trained import small_trained

pytestmark = pytest.mark.index
OPTIONS = InferenceOptions(length=150, device="cpu")


def split(cells, *codes: int):
    return np.flatnonzero(np.isin(cells.column("split"), codes)).astype(np.int64)


def test_votes_are_those_of_brute_force():
    rng = np.random.default_rng(0)
    cells = small_cells()
    reference = labelled_cells(cells, "cell_type", np.arange(40))
    known, asked = rng.normal(size=(40, 3)), rng.normal(size=(9, 3))
    found = vote((known, asked), reference, np.arange(100, 109), 7, {"metric": "euclidean"})
    for row, point in enumerate(asked):
        distances = np.sqrt(((known - point) ** 2).sum(1))
        near = np.argsort(distances)[:7]
        weights = np.exp(-((distances[near] / distances[near].mean()) ** 2))
        shares = {one: weights[reference.values[near] == one].sum() / weights.sum() for one in set(reference.values)}
        best = max(shares, key=lambda one: shares[one])
        assert found.values[row] == best
        assert found.probability[row] == pytest.approx(shares[best], abs=1e-6)
        assert found.agreement[row] == pytest.approx((reference.values[near] == best).mean(), abs=1e-6)
        assert found.distance[row] == pytest.approx(distances[near].mean(), abs=1e-5)
    assert found.numbers.tolist() == list(range(100, 109))
    assert found.facts == {"metric": "euclidean", "neighbours": 7, "reference": 40, "classes": 3, "copies": 0}


def test_a_cell_has_no_vote_on_itself_nor_has_its_copy():
    model, cells = small_trained(), small_cells()
    lied = labelled_cells(cells, "cell_type", split(cells, 0))
    lied.values[7] = "a lie"
    told = transfer_labels(model, lied, cells, split(cells, 0), neighbours=1, options=OPTIONS)
    assert told.values[7] != "a lie"
    assert told.facts["copies"] == len(told)
    points = embed(model, cells, split(cells, 0), options=OPTIONS).values
    apart = np.sqrt(np.square(points[:, None].astype(float) - points[None]).sum(-1))
    np.fill_diagonal(apart, np.inf)
    assert told.values.tolist() == lied.values[apart.argmin(1)].tolist()
    assert transfer_by_orthologs(lied, cells, split(cells, 0), neighbours=1).values[7] != "a lie"
    alone = labelled_cells(cells, "cell_type", np.array([3]))
    with pytest.raises(ModelInputError, match="copies of one"):
        transfer_labels(model, alone, cells, np.array([3, 4]), options=OPTIONS)


def test_unseen_donors_get_mostly_the_right_label():
    model, cells = small_trained(), small_cells()
    reference = labelled_cells(cells, "cell_type", split(cells, 0))
    words = np.array(cells.about["vocabulary"]["cell_type"], dtype=object)
    held = split(cells, 1, 2)
    truth = words[cells.codes("cell_type", held)]
    for told in (
        transfer_labels(model, reference, cells, held, options=OPTIONS),
        transfer_by_orthologs(reference, cells, held),
    ):
        assert (told.values == truth).mean() > 0.9, told.facts
        assert ((told.probability > 0) & (told.probability <= 1) & (told.agreement <= 1)).all()
    alone = transfer_labels(model, reference, cells, held[3:4], options=OPTIONS)
    assert alone.values[0] == transfer_labels(model, reference, cells, held, options=OPTIONS).values[3]
    part = transfer_labels(model, reference, cells, held, token="base", options=OPTIONS)
    codes = [embed(model, cells, some, options=OPTIONS).part("base") for some in (reference.numbers, held)]
    assert part.values.tolist() == vote((codes[0], codes[1]), reference, held, 15, part.facts).values.tolist()


def pairs_of_cells(n_pairs: int = 60):
    """Return human and mouse cells of three types whose one-to-one orthologs have alike profiles, and other genes."""
    pairs = one_to_one_orthologs("homo_sapiens", "mus_musculus").iloc[:n_pairs]
    rng = np.random.default_rng(1)
    profiles = np.random.default_rng(2).gamma(0.4, 8.0, (3, n_pairs))
    out = []
    for organism, ids in (("human", pairs["first"]), ("mouse", pairs["second"])):
        others = [one for one in load_gene_table(organism).ids[:400].tolist() if one not in set(ids)][:40]
        kinds = rng.integers(0, 3, 90)
        noise = rng.poisson(5.0 if organism == "human" else 40.0, (90, len(others)))
        counts = np.concatenate([rng.poisson(profiles[kinds]), noise], 1).astype(np.float32)
        obs = pd.DataFrame({"cell_type": np.array(["T cell", "B cell", "monocyte"])[kinds]})
        obs.index = [f"{organism}{i}" for i in range(90)]
        adata = ad.AnnData(counts, obs, pd.DataFrame(index=[*ids, *others]))
        out.append(AnnDataCells(adata[:, rng.permutation(adata.n_vars)].copy(), organism))
    return out


def test_orthologs_carry_labels_between_organisms_and_other_genes_do_not_disturb():
    human, mouse = pairs_of_cells()
    found = transfer_by_orthologs(labelled_cells(human, "cell_type"), mouse, np.arange(5, 85))
    words = np.array(mouse.about["vocabulary"]["cell_type"], dtype=object)
    assert (found.values == words[mouse.codes("cell_type", np.arange(5, 85))]).mean() > 0.95
    assert found.facts["genes"] == 60
    back = transfer_by_orthologs(labelled_cells(mouse, "cell_type"), human)
    words = np.array(human.about["vocabulary"]["cell_type"], dtype=object)
    assert (back.values == words[human.column("cell_type")]).mean() > 0.95


def test_a_model_that_knows_both_organisms_moves_labels_between_them():
    human, mouse = pairs_of_cells()
    model = with_organism(small_trained(), "mouse")
    found = transfer_labels(model, labelled_cells(human, "cell_type"), mouse, options=OPTIONS)
    assert len(found) == 90
    assert set(found.values) <= set(human.about["vocabulary"]["cell_type"])


def test_one_to_one_pairs_are_of_the_table_both_ways_and_through_human():
    there = one_to_one_orthologs("homo_sapiens", "mus_musculus")
    back = one_to_one_orthologs("mus_musculus", "homo_sapiens")
    assert {*zip(there["first"], there["second"], strict=True)} == {*zip(back["second"], back["first"], strict=True)}
    mouse, zebrafish = (load_orthologs(one).linked() for one in ("mouse", "pig"))
    single = [
        dict(t.loc[t["type"] == "one2one", ["gene", "human_gene"]].to_numpy().tolist()) for t in (mouse, zebrafish)
    ]
    through = one_to_one_orthologs("mus_musculus", "sus_scrofa")
    assert len(through) > 1_000
    assert all(single[0][a] == single[1][b] for a, b in through.to_numpy().tolist())
    assert len(through) == len(set(single[0].values()) & set(single[1].values()))
    same = one_to_one_orthologs("mus_musculus", "mus_musculus")
    assert (same["first"] == same["second"]).all()


def test_what_cannot_be_transferred_is_refused():
    cells = small_cells()
    with pytest.raises(ModelInputError, match="unknown"):
        labelled_cells(cells, "disease")
    with pytest.raises(ModelInputError, match="a column of the cells"):
        labelled_cells(cells, "mood")
    reference = labelled_cells(cells, "cell_type", np.arange(20))
    with pytest.raises(ModelInputError, match="neighbours"):
        transfer_by_orthologs(reference, cells, neighbours=0)
    with pytest.raises(ModelInputError, match="token"):
        transfer_labels(small_trained(), reference, cells, np.arange(3), token="mood", options=OPTIONS)
    human, mouse = pairs_of_cells(30)
    other = AnnDataCells(
        ad.AnnData(np.ones((4, 40), np.float32), var=pd.DataFrame(index=load_gene_table("mouse").ids[-40:])), "mouse"
    )
    with pytest.raises(ModelInputError, match="measured on both sides"):
        transfer_by_orthologs(labelled_cells(human, "cell_type"), other)
    some = ["unknown"] * 30 + ["a"] * 60
    assert len(labelled_cells(RelabelledCells(mouse, {"mine": some}), "mine").numbers) == 60
