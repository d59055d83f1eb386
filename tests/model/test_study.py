"""The additive study: nothing twice, everything kept, differences paired by seed, no choice left out."""

from __future__ import annotations

import fcntl
import json
import shutil
from dataclasses import fields, replace

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from model import Beginning, Machine, ModelInputError, load_model, preset
from model.study import StudyPlan, compare, configure, find_variants, run_study, side_by_side, tabulate
from model.variants import BASE, VARIANTS, Variant
from tests.model.small_runs import small_cells

CPU = Machine(device="cpu", log_every=1)
EXPLODES = Variant("explodes", "test", "Leaves.", recipe={"learning_rate": 1e30, "warm_up": 0})
PLAN = StudyPlan(
    steps=4,
    seeds=1,
    variants=find_variants(["no-neighbours"]),
    network={
        "trunk": {"width": 16, "layers": 1, "heads": 2, "kv_heads": 1},
        "cell": {"width": 16, "layers": 1, "heads": 2},
        "expression": {"neighbours": 2},
    },
    recipe={"batch_size": 8, "data": {"collate": {"length": 40, "shortest": 20}, "plan": {"labels": ("cell_type",)}}},
    scored=16,
)
SIZES = {
    "expression.bins", "trunk.width", "trunk.layers", "trunk.heads", "trunk.latents", "trunk.mlp_ratio", "cell.width",
    "cell.layers", "cell.heads", "cell.fsq_levels", "losses.mse", "losses.kl_warm_up", "tasks.masked",
}  # fmt: skip
SAME_NUMBERS = {"trunk.checkpointing"}
TWINS = {"losses.generate": "tasks.generate"}


def test_every_choice_of_the_configuration_has_a_variant():
    varied = {f"{part}.{name}" for one in VARIANTS for part, new in one.network.items() for name in new}
    every = {f"{part.name}.{one.name}" for part in fields(preset()) for one in fields(getattr(preset(), part.name))}
    assert every - SIZES - SAME_NUMBERS - set(TWINS) == varied
    assert set(TWINS.values()) <= varied


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda one: one.name)
def test_a_variant_is_the_base_with_one_thing_changed(variant):
    plan = StudyPlan(size="tiny")
    (config, recipe), (other, changed) = configure(plan, BASE, 1), configure(plan, variant, 1)
    assert (config, recipe) != (other, changed)
    parts = [one.name for one in fields(config) if getattr(config, one.name) != getattr(other, one.name)]
    parts += [one.name for one in fields(recipe) if getattr(recipe, one.name) != getattr(changed, one.name)]
    assert len(parts) == 1
    assert changed.seed == changed.data.plan.config.seed == changed.data.collate.seed == 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory):
    """Return a study of the base, a variant that can be trained and one that cannot: folder, table, what it said."""
    folder, said = tmp_path_factory.mktemp("studies") / "whole", []
    rows = run_study(
        small_cells(), replace(PLAN, variants=(*PLAN.variants, EXPLODES)), folder, machine=CPU, show=said.append
    )
    return folder, rows, said


@pytest.fixture
def copied(whole, tmp_path):
    """Return a copy of that study."""
    return shutil.copytree(whole[0], tmp_path / "copied")


def test_a_study_trains_the_base_and_its_variants_and_keeps_their_weights(whole):
    folder, rows, said = whole
    assert [(one["variant"], one["seed"], one["state"]) for one in said] == [
        ("base", 0, "scored"), ("no-neighbours", 0, "scored"), ("explodes", 0, "failed"),
    ]  # fmt: skip
    assert load_model(folder / "base/seed-0/model").config.expression.neighbours == 2
    assert load_model(folder / "no-neighbours/seed-0/model").config.expression.neighbours == 0
    assert "diverged" in next(row["error"] for row in rows if row["variant"] == "explodes")


def test_a_study_does_what_is_missing_and_nothing_twice(whole, copied):
    said, plan = [], replace(PLAN, variants=(*PLAN.variants, EXPLODES))
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*.json")}
    assert run_study(small_cells(), plan, copied, machine=CPU, show=said.append) == whole[1]
    assert said == []
    assert before == {path: path.stat().st_mtime_ns for path in copied.rglob("*.json")}

    more = run_study(small_cells(), replace(PLAN, seeds=2, variants=()), copied, machine=CPU, show=said.append)
    assert [(one["variant"], one["seed"]) for one in said] == [("base", 1)]
    assert {row["variant"]: row["seeds"] for row in more if "seeds" in row} == {"base": 2, "no-neighbours": 1}
    digests = {load_model(copied / "base" / f"seed-{seed}" / "model").digest for seed in (0, 1)}
    assert len(digests) == 2
    with pytest.raises(ModelInputError, match="another recipe"):
        run_study(small_cells(), replace(PLAN, steps=5), copied, machine=CPU)


def test_a_study_that_is_stopped_goes_on_to_the_same_weights(whole, tmp_path):
    said, plan = [], replace(PLAN, variants=())
    assert run_study(small_cells(), plan, tmp_path, machine=replace(CPU, minutes=1e-3), show=said.append) == []
    assert [one["state"] for one in said] == ["stopped"]
    run_study(small_cells(), plan, tmp_path, machine=CPU)
    cut, uncut = (json.loads((folder / "base/seed-0/scores.json").read_text()) for folder in (tmp_path, whole[0]))
    assert cut["model"] == uncut["model"]
    assert cut["scores"] == uncut["scores"]


def test_what_another_process_is_at_is_left_to_it(tmp_path):
    said, plan = [], replace(PLAN, variants=())
    (tmp_path / "base").mkdir()
    with (tmp_path / "base" / ".seed-0.item.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run_study(small_cells(), plan, tmp_path, machine=CPU, show=said.append) == []
    assert [one["state"] for one in said] == ["elsewhere"]
    assert not (tmp_path / "base" / "seed-0").exists()


def test_variants_that_need_a_file_come_only_with_it(copied):
    plan, said = replace(PLAN, variants=find_variants(["tf-masks", "prior"])), []
    with pytest.raises(ModelInputError, match="have what they need"):
        run_study(small_cells(), plan, copied, machine=CPU, show=said.append)
    assert said == []
    some = Beginning(regulators=small_cells().genes()["feature_id"][:9].tolist())
    run_study(small_cells(), plan, copied, machine=CPU, beginning=some, show=said.append)
    assert [(one["variant"], one["state"]) for one in said] == [("tf-masks", "scored")]


@pytest.mark.parametrize(("score", "verdict"), [("denoise_nll", "better"), ("cell_type_accuracy", "worse")])
def test_intervals_are_students(score, verdict):
    values = [-0.30, -0.26, -0.33]
    found, oracle = compare(values, score), ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx((oracle.low, oracle.high), rel=1e-12)
    assert found["difference"] == pytest.approx(np.mean(values))
    assert found["verdict"] == verdict
    assert compare([-0.1, 0.2, -0.3], score)["verdict"] == "even"
    assert compare([-0.1], score) == {"difference": -0.1, "low": None, "high": None, "verdict": ""}


def test_differences_are_paired_by_seed(tmp_path):
    scores = {"base": {0: 5.0, 1: 1.0, 2: 2.0}, "fsq": {1: 1.5, 2: 2.25, 3: 9.0}}
    for name, seeds in scores.items():
        for seed, value in seeds.items():
            folder = tmp_path / name / f"seed-{seed}"
            folder.mkdir(parents=True)
            said = {"variant": name, "group": "cell", "seed": seed, "parameters": 7, "cells_per_s": 10.0 * seed}
            (folder / "scores.json").write_text(json.dumps(said | {"scores": {"denoise_nll": value}}))
    base, fsq = tabulate(tmp_path)
    assert base["mean"] == pytest.approx(8 / 3)
    assert (fsq["mean"], fsq["seeds"], fsq["cells_per_s"]) == (4.25, 3, 20.0)
    assert fsq["difference"] == pytest.approx(0.375)
    half = ttest_1samp([0.5, 0.25], 0).confidence_interval(0.95).high - 0.375
    assert fsq["high"] - fsq["low"] == pytest.approx(2 * half)
    assert side_by_side([base, fsq])[1]["denoise_nll"] == f"+0.3750 ± {half:.4f}"


@pytest.mark.parametrize(
    ("asked", "wrong"),
    [
        (lambda: find_variants(["crisscross"]), "variant='crisscross'"),
        (lambda: StudyPlan(seeds=0), "seeds=0"),
        (lambda: StudyPlan(variants=(BASE,)), "variants="),
        (lambda: configure(StudyPlan(recipe={"step": 3}), BASE, 0), "recipe='step'"),
        (lambda: configure(StudyPlan(network={"trunk": {"widht": 3}}), BASE, 0), "changed="),
    ],
)
def test_what_is_no_study_is_said(asked, wrong):
    with pytest.raises(ModelInputError, match=wrong):
        asked()
