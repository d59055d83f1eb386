"""Fine-tuning: only what is tuned moves, new labels are learnt, batches come together, and nothing leaks untold."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pytest
import torch

from loaders import (
    AnnDataCells,
    CollateConfig,
    Collator,
    LeakageError,
    RelabelledCells,
    SamplerConfig,
    SamplingPlan,
    make_sampler,
)
from model import (
    InferenceOptions,
    Machine,
    ModelInputError,
    Tuning,
    TuningPlan,
    annotate,
    count_weights,
    donor_splits,
    embed,
    finetune,
    label_accuracy,
    load_model,
    make_view,
    save_model,
    with_label,
)
from model.fitting import batches_of
from model.ledger import make_ledger
from model.mmd import mmd_between
from model.objective import Objective
from model.ragged import make_ragged
from model.tuning import OF_PROFILE, READING_BACK, freeze
from tests.model.small_runs import small_adata, small_cells, small_start
from tests.model.small_trained import small_trained

if TYPE_CHECKING:
    from pathlib import Path

    from model import TrainedModel, TrainingRun

pytestmark = pytest.mark.index
CPU = Machine(device="cpu", save_every=100, log_every=1)
OPTIONS = InferenceOptions(length=64, device="cpu")
QUICK = TuningPlan(steps=4, batch_size=16, length=64, looks=2, seed=1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory):
    """Return a model that has learnt the expression of some cells, and no label; saved, so that it has a digest."""
    return save_model(tmp_path_factory.mktemp("base") / "model", small_trained())


def tune(base: TrainedModel, cells, folder: Path, *labels: str, parts: str = "cells", plan=QUICK) -> TrainingRun:
    return finetune(base, cells, folder, tuning=Tuning(parts, labels), plan=plan, machine=CPU)


def own_cells() -> RelabelledCells:
    """Return the small cells with a label of a user's own, whose classes follow from the profile of a cell."""
    cells = small_cells()
    monocyte = cells.about["vocabulary"]["cell_type"].index("CL:0000576")
    return RelabelledCells(cells, {"my_state": np.where(cells.column("cell_type") == monocyte, "high", "low").tolist()})


def weights_of(model) -> dict[str, torch.Tensor]:
    return model.network.state_dict()


def test_only_the_cell_parts_move_and_what_is_read_off_genes_is_the_same_to_the_bit(base, tmp_path):
    run = tune(base, small_cells(), tmp_path / "run", "cell_type")
    before, after = weights_of(base), weights_of(run.model)
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    cell = {name for name in before if name.split(".")[0] in ("reader", "compressor", "labels")}
    cell |= {name for name in before if any(f".{part}." in name for part in READING_BACK)}
    cell |= {name for name in before if name.split(".")[:2] in [["linear", part] for part in OF_PROFILE]}
    assert moved <= cell
    for part in ("reader", "compressor", "labels", "trunk"):
        assert any(name.startswith(part) for name in moved), part
    facts = run.facts["tuned_weights"]
    names = dict(base.network.named_parameters())
    assert facts["tuned"] == sum(names[name].numel() for name in cell & names.keys()) == run.facts["trained_parameters"]
    assert facts["all"] == sum(one.numel() for one in names.values())
    assert (facts["tokens"], facts["expression"], facts["head"]) == (0, 0, 0)


def test_all_parts_move_where_all_are_tuned(base, tmp_path):
    run = tune(base, small_cells(), tmp_path / "run", "cell_type", parts="all")
    before, after = weights_of(base), weights_of(run.model)
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"tokens", "expression", "trunk", "reader", "compressor", "head", "labels", "linear"}
    assert run.facts["tuned_weights"]["tuned"] == run.facts["tuned_weights"]["all"]
    assert all(weights.requires_grad for weights in run.model.network.parameters())


def test_the_tuned_model_is_a_checkpoint_that_names_its_base_and_has_the_cells_of_both(base, tmp_path):
    cells = small_cells()
    plan = small_plan_ledger(cells)
    known = save_model(tmp_path / "known", replace(base, ledger=plan))
    run = tune(known, cells, tmp_path / "run", "cell_type", parts="all")
    found = load_model(tmp_path / "run" / "model")
    assert found.facts["base"] == run.facts["base"] == known.digest
    assert found.facts["recipe"]["tuning"] == {
        "parts": "all", "labels": ["cell_type"], "mmd": 0.0, "between": "dataset", "within": "cell_type",
    }  # fmt: skip
    assert len(found.ledger) > len(known.ledger)
    assert set(known.ledger.count_hash.tolist()) <= set(found.ledger.count_hash.tolist())
    sizes = np.bincount(cells.column("split"))
    seen = run.facts["seen"]
    assert {split: one["cells"] for split, one in seen.items()} == dict(
        zip(("train", "validation", "test"), sizes.tolist(), strict=True)
    )
    assert sum(one["trained"] for one in seen.values()) == seen["test"]["trained"] == sizes[2] > 0
    again = tune(found, cells, tmp_path / "next", "cell_type")
    assert again.facts["base"] == found.digest


def small_plan_ledger(cells):
    """Return a ledger of a model that was trained on the test cells."""
    plan = SamplingPlan(splits=("test",), config=SamplerConfig(kind="sequential"))
    sampler = make_sampler(cells, plan)
    return make_ledger(cells, sampler, {0: len(sampler)}, plan, chosen=False)


def test_the_same_call_gives_the_same_model_and_a_stopped_one_goes_on_to_it(base, tmp_path):
    whole = tune(base, own_cells(), tmp_path / "one", "my_state")
    how = {"tuning": Tuning("cells", ("my_state",)), "plan": QUICK, "machine": replace(CPU, minutes=1e-5)}
    runs = [finetune(base, own_cells(), tmp_path / "two", **how)]
    while not runs[-1].finished and len(runs) < 20:
        runs.append(finetune(base, own_cells(), tmp_path / "two", **how))
    assert len(runs) > 2
    assert runs[-1].model.digest == whole.model.digest
    assert finetune(base, own_cells(), tmp_path / "two", **how).facts["model"] == whole.model.digest


def test_a_label_of_ones_own_is_learnt_and_told_of_unseen_donors(base, tmp_path):
    cells = own_cells()
    plan = TuningPlan(steps=60, batch_size=32, length=100, looks=0, learning_rate=1e-2)
    run = tune(base, cells, tmp_path / "run", "my_state", plan=plan)
    tuned, held = run.model, np.flatnonzero(cells.column("split") == 2)
    assert tuned.config.cell.labels == (*base.config.cell.labels, "my_state")
    assert tuned.vocabulary.labels["my_state"].classes == ("high", "low")
    options = replace(OPTIONS, length=100)
    scores = label_accuracy(tuned, cells, "my_state", held, options)
    told = annotate(tuned, cells, held, options=options).of("my_state").leaf_terms
    words = np.array(cells.about["vocabulary"]["my_state"])[cells.codes("my_state", held)]
    assert scores == {
        "cells": len(held), "accuracy": (told == words).mean(),
        "balanced": pytest.approx(np.mean([(told[words == one] == one).mean() for one in ("high", "low")])),
    }  # fmt: skip
    assert scores["balanced"] > 0.7
    assert label_accuracy(base, cells, "my_state", held, options)["accuracy"] == 0, "which it had no word for"
    assert embed(tuned, cells, held[:4], options=OPTIONS).part("my_state").shape == (4, 32)


def test_new_classes_of_a_known_label_come_from_training_cells_and_the_rest_is_told(base, tmp_path):
    types = np.array(small_cells().about["vocabulary"]["cell_type"], dtype=object)[small_cells().column("cell_type")]
    splits = small_cells().column("split")
    types[(types == "CL:0000084") & (splits == 0)] = "CL:0000624"
    types[(types == "CL:0000236") & (splits == 1)] = "CL:0000788"
    types[(types == "CL:0000236") & (splits == 2)] = "CL:0000787"
    cells = RelabelledCells(small_cells(), {"cell_type": types.tolist()})
    run = tune(base, cells, tmp_path / "run", "cell_type")
    assert "CL:0000624" in run.model.vocabulary.labels["cell_type"].classes
    assert run.facts["unlearnt"] == {"cell_type": ["CL:0000787", "CL:0000788"]}
    added = {"label": "cell_type", "classes": ["CL:0000624"]}
    assert run.model.facts["added"] == [added]


def test_a_label_that_no_training_cell_has_is_refused(base, tmp_path):
    held = small_cells().column("split") > 0
    for label in ("cell_type", "my_state"):
        cells = RelabelledCells(small_cells(), {label: np.where(held, "CL:0000236", "unknown").tolist()})
        with pytest.raises(ModelInputError, match=r"no training cell has.*--column"):
            tune(base, cells, tmp_path / label, label)


def test_cells_without_a_batch_are_of_none():
    _, cells = batched_cells()
    words = np.array(cells.about["vocabulary"]["batch"], dtype=object)[cells.column("batch")]
    some = np.arange(len(words)) % 3 == 0
    told = RelabelledCells(cells, {"batch": np.where(some, "unknown", words).tolist()})
    tuning = Tuning("cells", ("cell_type",), mmd=1.0, between="batch")
    codes = batches_of(told, tuning)
    assert ((codes == -1).numpy() == some).all()
    assert len(codes.unique()) == 3
    one = RelabelledCells(cells, {"batch": np.where(some, "unknown", "a").tolist()})
    with pytest.raises(ModelInputError, match="two batches"):
        batches_of(one, tuning)


def batched_cells() -> tuple[AnnDataCells, RelabelledCells]:
    """Return cells of three types in two batches, one of which has the counts of 100 genes in another order."""
    adata = small_adata()
    batches = np.random.default_rng(3).integers(0, 2, adata.n_obs)
    adata.X = adata.X.copy()
    other, order = np.flatnonzero(batches == 1), np.random.default_rng(5).permutation(100)
    adata.X[np.ix_(other, np.arange(100))] = adata.X[np.ix_(other, order)]
    cells = AnnDataCells(adata, "human", {"donor": "donor_id", "split": "split"})
    return cells, RelabelledCells(cells, {"batch": np.array(["a", "b"])[batches].tolist()})


def test_batches_come_together_within_types_and_types_stay_apart(base, tmp_path):
    _, cells = batched_cells()
    plan = TuningPlan(steps=16, batch_size=48, length=100, looks=0, learning_rate=1e-2)
    held, options = np.flatnonzero(cells.column("split") > 0), replace(OPTIONS, length=100)
    found = {}
    for weight in (0.0, 10.0):
        tuning = Tuning("cells", ("cell_type",), mmd=weight, between="batch")
        model = finetune(base, cells, tmp_path / f"{weight}", tuning=tuning, plan=plan, machine=CPU).model
        codes = torch.from_numpy(embed(model, cells, held, options=options).part("cell_type").copy()).double()
        batches, types = (torch.from_numpy(cells.codes(n, held).astype(np.int64)) for n in ("batch", "cell_type"))
        apart = float(mmd_between(codes, batches, types))
        kinds = float(mmd_between(codes, types, torch.zeros_like(types)))
        found[weight] = apart, kinds
    assert found[10.0][0] < 0.5 * found[0.0][0], found
    assert found[10.0][1] > max(3 * abs(found[10.0][0]), 0.5 * found[0.0][1]), found


def test_the_discrepancy_is_a_term_of_the_loss_and_reaches_the_weights(base):
    _, cells = batched_cells()
    codes = torch.from_numpy(cells.column("batch").astype(np.int64))
    tuning = Tuning("cells", ("cell_type",), mmd=2.0, between="batch")
    objective = Objective(base.config, base.network, base.vocabulary, None, None, tuning, codes).eval()
    freeze(base.network, "cells")
    batch = Collator(base.vocabulary, cells, CollateConfig(length=64, neighbours=0)).collate(*[np.arange(24)] * 2)
    rows = make_ragged(batch.offsets.diff())
    generator = torch.Generator().manual_seed(0)
    terms = objective(base.network, batch, rows, generator, 0)
    encoded = base.network.encode(make_view(batch, rows))
    place = base.network.reader.names.index("cell_type")
    column = list(base.vocabulary.labels).index("cell_type")
    expected = 2 * mmd_between(encoded.compressed.codes[place], codes[batch.cell], batch.labels[:, column])
    assert torch.allclose(terms["mmd"], expected)
    assert not [name for name in terms if name.startswith(("denoise", "mask"))], "they would teach nothing"
    gradient = torch.autograd.grad(terms["mmd"], base.network.reader.start)[0]
    assert gradient.abs().sum() > 0
    base.network.requires_grad_(True)


def test_copied_cells_and_shared_donors_are_refused(base, tmp_path):
    adata = small_adata()
    shared = small_adata()
    shared.obs["split"] = ["train", "validation"] * 72
    shared.obs["donor_id"] = "d0"
    copied = ad.concat([adata, adata[adata.obs["split"] == "train"][:3].copy()], index_unique="-")
    copied.obs["donor_id"] = [*adata.obs["donor_id"], *["another"] * 3]
    copied.obs["split"] = [*adata.obs["split"], *["validation"] * 3]
    for number, (wrong, said) in enumerate(((shared, "donors"), (copied, "counts of cells"))):
        cells = AnnDataCells(wrong, "human", {"donor": "donor_id", "split": "split"})
        with pytest.raises(LeakageError, match=said):
            tune(base, cells, tmp_path / str(number), "cell_type")
        assert not (tmp_path / str(number) / "model").exists()


@pytest.mark.parametrize("seed", range(6))
def test_splits_are_of_whole_donors_and_near_the_shares(seed):
    rng = np.random.default_rng(seed)
    cells = RelabelledCells(small_cells(), {"donor": [f"x{i}" for i in rng.integers(0, 12, 144)]})
    found = donor_splits(cells, validation=0.25, test=0.15, seed=seed)
    donors = cells.column("donor")
    assert all(len(set(found[donors == one])) == 1 for one in np.unique(donors))
    largest = np.bincount(donors).max() / 144
    for split, share in (("validation", 0.25), ("test", 0.15)):
        assert 0 < (found == split).mean() <= share
        assert (found == split).mean() > share - largest
    assert np.array_equal(found, donor_splits(cells, validation=0.25, test=0.15, seed=seed))


def test_too_few_donors_are_told_and_two_are_enough():
    one = RelabelledCells(small_cells(), {"donor": ["x"] * 144})
    two = RelabelledCells(small_cells(), {"donor": ["x"] * 100 + ["y"] * 44})
    with pytest.raises(ModelInputError, match="2 donors"):
        donor_splits(one)
    assert set(donor_splits(one, validation=0.0)) == {"train"}
    assert (donor_splits(two) == "validation").tolist() == [False] * 100 + [True] * 44
    with pytest.raises(ModelInputError, match="less than 1"):
        donor_splits(two, validation=0.7, test=0.3)


@pytest.mark.parametrize(
    ("tuning", "said"),
    [
        ({"labels": ("mood",)}, "mood"),
        ({"labels": ("sex",)}, "no training cell has"),
        ({"labels": ("cell_type",), "mmd": 1.0, "between": "run"}, "run"),
        ({"labels": ("cell_type",), "mmd": 1.0}, "two batches"),
    ],
)
def test_what_cannot_be_tuned_is_refused_before_anything_is_written(base, tmp_path, tuning, said):
    with pytest.raises(ModelInputError, match=said):
        finetune(base, small_cells(), tmp_path / "run", tuning=Tuning(**tuning), plan=QUICK, machine=CPU)
    assert not (tmp_path / "run" / "start").exists()


def test_a_label_gets_a_token_and_what_is_read_off_genes_stays(base):
    grown = with_label(base, "my_state", ["low", "high"])
    before, after = weights_of(base), weights_of(grown)
    same = {name for name in before if before[name].shape == after[name].shape}
    assert set(before) - same == {
        "reader.start",
        *(f"linear.{one}" for one in ("into.weight", "into.bias", "back.weight")),
    }
    assert torch.equal(after["reader.start"][:-1], before["reader.start"])
    assert all(torch.equal(before[name], after[name]) for name in same)
    assert not after["labels.read.my_state.3.weight"].any()
    parts = count_weights(grown.network, "cells")
    assert parts["tuned"] > count_weights(base.network, "cells")["tuned"]
    again = with_label(grown, "my_state", ["middle"])
    assert again.vocabulary.labels["my_state"].classes == ("high", "low", "middle")
    for wrong in ("base", "a b", "x.y", ""):
        with pytest.raises(ModelInputError):
            with_label(base, wrong, ["a", "b"])
    with pytest.raises(ModelInputError, match="two classes"):
        with_label(base, "my_state", ["low"])


def test_an_organism_the_base_never_saw_is_added_on_the_way(base, tmp_path):
    cells = small_cells("mouse")
    model = tune(base, cells, tmp_path / "run", "cell_type", plan=replace(QUICK, steps=2)).model
    assert model.vocabulary.organisms == ("homo_sapiens", "mus_musculus")
    assert model.facts["added"][0]["organism"] == "mus_musculus"
    assert np.isfinite(embed(model, cells, np.arange(5), options=OPTIONS).values).all()


def test_untrained_bases_are_bases_too(tmp_path):
    start = small_start().model
    run = tune(start, small_cells(), tmp_path / "run", "cell_type")
    assert run.facts["base"] == ""
    assert len(run.facts["start"]) == 64
