"""A plan becomes a sampler: the cells it names, as often as it says, from files that are built once and proved."""

from __future__ import annotations

import pickle
import shutil
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from loaders import (
    CellsError,
    LoaderInputError,
    Sampler,
    SamplerConfig,
    SamplingPlan,
    Vocabulary,
    Weighting,
    group_weights,
    make_sampler,
)
from ontology import LabelSpace
from tests.loaders.toy_cells import ToyCells

CELLS = ToyCells(6000)
PLAIN = SamplingPlan(ontology_aware=False)
# CL:0000624 (CD4) and CL:0000625 (CD8) are T cells, CL:0000084
ABOVE = np.zeros((4, 4), dtype=bool)
ABOVE[[1, 2], 3] = True
TYPES = LabelSpace(("CL:0000236", "CL:0000624", "CL:0000625", "CL:0000084"), ("B", "CD4", "CD8", "T"), 3, ABOVE, "CL")
VOCABULARY = Vocabulary(("mus_musculus", "homo_sapiens"), (("M0",), ("H0",)), {"cell_type": TYPES})


def plan(**changes: Any) -> SamplingPlan:
    """Return a plan that knows no ontology, but for the changes."""
    config = {k: changes.pop(k) for k in list(changes) if k in ("kind", "replacement", "draws", "seed", "weighting")}
    return replace(PLAIN, config=SamplerConfig(**config), **changes)


def table(cells: ToyCells = CELLS, split: int = 0) -> pd.DataFrame:
    """Return the labels of the cells of a split, by cell number."""
    names = ("split", "organism", "cell_type", "tissue", "sex", "dataset", "nnz")
    frame = pd.DataFrame({name: cells.column(name) for name in names})
    return frame[frame["split"] == split]


def drawn(sampler: Sampler, by: pd.Series) -> pd.Series:
    """Return how often each value of a column came in an epoch."""
    return by.loc[sampler.draw(0, 0, len(sampler))].value_counts().reindex(by.unique(), fill_value=0).sort_index()


def fits(seen: pd.Series, expected: pd.Series) -> bool:
    """Tell whether realised draws follow what was expected, by a chi-squared test."""
    expected = expected.reindex(seen.index)
    return stats.chisquare(seen, expected / expected.sum() * seen.sum()).pvalue > 1e-4


def test_draws_follow_the_weights_of_joint_labels(tmp_path: Path) -> None:
    sampler = make_sampler(CELLS, plan(draws=200_000, weighting=Weighting(scale=50)), cache=tmp_path)
    cells = table()
    joint = cells["cell_type"] * 6 + cells["tissue"] * 2 + cells["sex"]
    sizes = joint.value_counts().sort_index()
    assert fits(drawn(sampler, joint), 50 * sizes / (50 + sizes))
    assert not fits(drawn(sampler, joint), sizes), "the test can tell them from uniform draws"


def test_splits_and_organisms_share_no_cell(tmp_path: Path) -> None:
    seen = []
    for split, organism in ((s, o) for s in ("train", "validation", "test") for o in ("mus_musculus", "homo_sapiens")):
        one = make_sampler(CELLS, plan(splits=(split,), organisms=(organism,), kind="sequential"), cache=tmp_path)
        cells = one.draw(0, 0, len(one))
        assert (np.diff(cells) > 0).all(), "sequential is in the cells' own order"
        assert set(CELLS.codes("organism", cells)) == {["mus_musculus", "homo_sapiens"].index(organism)}
        assert set(CELLS.codes("split", cells)) == {["train", "validation", "test"].index(split)}
        seen.append(cells)
    assert np.array_equal(np.sort(np.concatenate(seen)), np.arange(len(CELLS)))


def test_streams_of_other_choices_are_other_streams(tmp_path: Path) -> None:
    plans = [
        PLAIN, plan(splits=("test",)), plan(labels=("tissue",)), plan(organisms=("homo_sapiens",)), plan(seed=1),
        plan(kind="uniform"), plan(draws=10), plan(expressed_weights=True), SamplingPlan(),
    ]  # fmt: skip
    prints = [make_sampler(CELLS, one, VOCABULARY, tmp_path).fingerprint for one in plans]
    prints.append(make_sampler(ToyCells(6000, seed=1), PLAIN, cache=tmp_path).fingerprint)
    assert len(set(prints)) == len(prints)


def test_coarse_and_unknown_labels_come_as_often_as_what_they_may_be(tmp_path: Path) -> None:
    config = SamplerConfig(draws=300_000, weighting=Weighting(scale=10))
    sampler = make_sampler(CELLS, SamplingPlan(labels=("cell_type",), config=config), VOCABULARY, tmp_path)
    sizes = table()["cell_type"].value_counts().sort_index()  # T, B, CD4, CD8, unknown
    weights = (10 * sizes / (10 + sizes)).astype(float)
    sharp = weights[[1, 2, 3]]
    weights[0] = sizes[0] * weights[[2, 3]].sum() / sizes[[2, 3]].sum()
    weights[4] = sizes[4] * sharp.sum() / sizes[[1, 2, 3]].sum()
    seen = drawn(sampler, table()["cell_type"])
    assert fits(seen, weights)
    assert not fits(seen, 10 * sizes / (10 + sizes)), "the test can tell it from a sampler that knows no ontology"


def test_a_label_that_nobody_knows_takes_nothing_from_the_others(tmp_path: Path) -> None:
    nothing = LabelSpace((), (), 0, np.zeros((0, 0), dtype=bool), "none")
    words = Vocabulary(VOCABULARY.organisms, VOCABULARY.genes, {"cell_type": TYPES, "disease": nothing})
    one, two = (
        make_sampler(CELLS, SamplingPlan(labels=labels), words, tmp_path).shares()
        for labels in (("cell_type",), ("cell_type", "disease"))
    )
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("known", [("CL:0000236",), ()])
def test_a_value_that_a_checkpoint_does_not_know_is_unknown(tmp_path: Path, known: tuple[str, ...]) -> None:
    space = LabelSpace(known, known, len(known), np.zeros((len(known), len(known)), dtype=bool), "CL")
    words = Vocabulary(VOCABULARY.organisms, VOCABULARY.genes, {"cell_type": space})
    sampler = make_sampler(CELLS, SamplingPlan(labels=("cell_type",)), words, tmp_path)
    sizes = table()["cell_type"].value_counts().sort_index()
    # All at the rate of B cells; by their own weights where nothing at all is known.
    expected = sizes / sizes.sum() if known else group_weights(sizes, Weighting())
    np.testing.assert_allclose(sampler.shares(), expected, atol=1e-9)


def test_cells_that_express_more_come_more_often(tmp_path: Path) -> None:
    cells = ToyCells(2000, n_genes=3000)
    sampler = make_sampler(cells, plan(expressed_weights=True, labels=("tissue",), draws=200_000), cache=tmp_path)
    chosen = table(cells)[lambda t: t["tissue"] == 1]
    weights = 1 + 999 / (1 + np.exp(-0.003 * (chosen["nnz"] - 2000.0)))
    seen = pd.Series(sampler.draw(0, 0, 200_000)).value_counts().reindex(chosen.index, fill_value=0)
    assert fits(seen, weights)
    assert not fits(seen, weights * 0 + 1), "the test can tell it from cells alike"


def test_labels_of_whole_studies_count_less(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Scoped(ToyCells):
        @property
        def about(self) -> dict[str, Any]:
            return super().about | {"label_scopes": {"tissue": ["study", "cell", "study"], "sex": ["study"] * 3}}

    cells, labels = Scoped(6000), ("tissue", "sex", "dataset")
    sampler = make_sampler(cells, plan(labels=labels, study_confidence=0.5), cache=tmp_path)
    frame = table(cells)
    groups = frame.groupby(["tissue", "sex", "dataset"]).size()
    trust = np.where(groups.index.get_level_values("dataset") == 1, 0.5, 0.25)
    np.testing.assert_allclose(sampler.shares(), group_weights(groups, Weighting(), confidence=trust), atol=1e-9)
    mixed = make_sampler(cells, plan(labels=("sex",), study_confidence=0.5), cache=tmp_path)
    sizes = frame["sex"].value_counts().sort_index()
    np.testing.assert_allclose(mixed.shares(), group_weights(sizes, Weighting(), confidence=np.full(2, 0.5)), atol=1e-9)
    with pytest.raises(LoaderInputError, match="do not tell"):
        make_sampler(CELLS, plan(study_confidence=0.5), cache=tmp_path)


def test_how_cells_are_cut_into_blocks_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make_sampler(CELLS, plan(expressed_weights=True), VOCABULARY, tmp_path / "whole")
    for module in ("groups", "joint_labels"):
        monkeypatch.setattr(f"loaders.{module}.BLOCK", 501)
    parts = make_sampler(CELLS, plan(expressed_weights=True), VOCABULARY, tmp_path / "parts")
    assert parts.fingerprint == whole.fingerprint
    np.testing.assert_array_equal(parts.draw(0, 0, 6000), whole.draw(0, 0, 6000))
    for file in (whole.folder / "groups").iterdir():
        assert file.read_bytes() == (parts.folder / "groups" / file.name).read_bytes()


def test_memory_does_not_grow_with_the_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(ToyCells):
        """Labels that follow from the number of a cell, so that they take no memory themselves."""

        def codes(self, name: str, cells: np.ndarray) -> np.ndarray:
            sizes = {"cell_type": 5, "tissue": 3, "sex": 2, "nnz": 3000}
            return (cells * 2_654_435_761 % 1_000_003 % sizes.get(name, 1)).astype(np.int32)

        columns = CELLS.columns

    for module in ("groups", "joint_labels"):
        monkeypatch.setattr(f"loaders.{module}.BLOCK", 1 << 14)
    peaks = []
    for n in (100_000, 800_000):
        tracemalloc.start()
        make_sampler(Endless(n), plan(expressed_weights=True), cache=tmp_path).draw(0, 0, 1000)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0], f"{peaks} bytes, of which one number per cell alone would be {4 * 800_000}"


def test_groups_are_built_once_and_pickle_to_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_sampler(CELLS, plan(expressed_weights=True), VOCABULARY, tmp_path)
    monkeypatch.setattr("loaders.plan._build", lambda *_: pytest.fail("built again"))
    again = make_sampler(CELLS, plan(expressed_weights=True, seed=4), VOCABULARY, tmp_path)
    assert again.folder == first.folder, "another order needs no other groups"
    sent = pickle.dumps(first)
    assert len(sent) < 1500
    assert isinstance(first.groups.order, np.memmap)
    np.testing.assert_array_equal(pickle.loads(sent).draw(3, 0, 6000), first.draw(3, 0, 6000))


FILES = ["groups/order.npy", "groups/offsets.npy", "specific.npy", "weights.npy", "weight_sums.npy"]
HARMS = [(file, harm) for file in FILES for harm in ("flip", "cut", "remove")] + [("files.json", "remove")]


@pytest.mark.parametrize(("victim", "harm"), HARMS)
def test_damaged_groups_are_made_again(
    tmp_path: Path, victim: str, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    asked = replace(SamplingPlan(), expressed_weights=True)
    first = make_sampler(CELLS, asked, VOCABULARY, tmp_path)
    cells, file = first.draw(0, 0, 6000), first.folder / victim
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    if harm == "remove":
        file.unlink()
    else:
        file.write_bytes(data if harm == "flip" else data[:-1])
    again = make_sampler(CELLS, asked, VOCABULARY, tmp_path)
    assert "made again" in caplog.text
    np.testing.assert_array_equal(again.draw(0, 0, 6000), cells)


def test_a_copied_cache_is_proved_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_sampler(CELLS, PLAIN, cache=tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    monkeypatch.setattr("loaders.plan._build", lambda *_: pytest.fail("built again"))
    second = make_sampler(CELLS, PLAIN, cache=tmp_path / "two")
    np.testing.assert_array_equal(second.draw(0, 0, 600), first.draw(0, 0, 600))


def test_builders_at_once_make_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import loaders.plan as module

    built, build = [], module._build
    monkeypatch.setattr(module, "_build", lambda *given: (built.append(1), build(*given)))
    with ThreadPoolExecutor(6) as pool:
        samplers = list(pool.map(lambda _: make_sampler(CELLS, PLAIN, cache=tmp_path), range(6)))
    assert len(built) == 1
    assert len({tuple(one.draw(0, 0, 100)) for one in samplers}) == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == [".lock", samplers[0].folder.name]


def test_what_a_killed_builder_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".groups-part-killed", ".part-of-a-pack"):
        (tmp_path / name).mkdir()
    folder = make_sampler(CELLS, plan(expressed_weights=True), cache=tmp_path).folder
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([".lock", ".part-of-a-pack", folder.name])


def test_a_relative_cache_is_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sampler = make_sampler(CELLS, PLAIN, cache=Path("groups"))
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(sampler)).draw(0, 0, 99), sampler.draw(0, 0, 99))


def test_a_builder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(LoaderInputError, match="some cell belongs to"):
        make_sampler(ToyCells(3, seed=2), plan(splits=("test",)), cache=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"splits": ()}, "some of train, validation, test"),
        ({"splits": ("dev",)}, "some of train, validation, test"),
        ({"organisms": ("danio_rerio",)}, "mus_musculus, homo_sapiens"),
        ({"labels": ("celltype",)}, "cell_type"),
        ({"labels": ("depth",)}, "cell_type"),
        ({"study_confidence": 0.0}, "above 0"),
        ({"expressed_weights": True, "kind": "uniform"}, "with replacement"),
        ({"expressed_weights": True, "replacement": False}, "with replacement"),
    ],
)
def test_what_cannot_be_planned_is_said(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(LoaderInputError, match=said):
        make_sampler(CELLS, plan(**changes), cache=tmp_path)


def test_a_code_without_a_value_is_said(tmp_path: Path) -> None:
    class Broken(ToyCells):
        def codes(self, name: str, cells: np.ndarray) -> np.ndarray:
            return super().codes(name, cells) + (7 if name == "sex" else 0)

    with pytest.raises(CellsError, match=r"sex: codes 7\.\.8"):
        make_sampler(Broken(500), PLAIN, cache=tmp_path)


def test_an_organism_may_be_spelled_in_any_way(tmp_path: Path) -> None:
    found = {
        make_sampler(CELLS, plan(organisms=(name,)), cache=tmp_path).fingerprint
        for name in ("human", "homo_sapiens", "Homo sapiens", "NCBITaxon:9606")
    }
    assert len(found) == 1
    with pytest.raises(LoaderInputError, match="mus_musculus, homo_sapiens"):
        make_sampler(CELLS, plan(organisms=("unicorn",)), cache=tmp_path)
