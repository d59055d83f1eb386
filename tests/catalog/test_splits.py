"""Splits: no group is ever parted, nothing else moves a group, pins are obeyed or refused by name."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog import CatalogInputError
from catalog.splits import (
    SPLIT_NAMES,
    SPLITS,
    Population,
    SplitPlan,
    assign_splits,
    describe_pins,
    describe_places,
    join_group,
    publication_of,
    split_of,
)
from ontology import UnknownOrganismError

BY = ("donor", "dataset", "organism")


def population(dataset: str, donor: str, publication: str = "", organism: str = "Homo sapiens") -> Population:
    return Population(organism, dataset, donor, publication, 10, 8)


@st.composite
def atlases(draw: st.DrawFn) -> list[Population]:
    """Datasets of some publications and organisms, donors named alike in many of them."""
    found = []
    for number in range(draw(st.integers(1, 8))):
        organism = draw(st.sampled_from(["Homo sapiens", "Mus musculus"]))
        publication = draw(st.sampled_from(["", "doi:10.1/a", "doi:10.1/b", "collection:c"]))
        donors = draw(st.sets(st.sampled_from(["d1", "d2", "d/3", "unknown"]), min_size=1))
        found += [population(f"set{number}", donor, publication, organism) for donor in sorted(donors)]
    return found


def where(places) -> dict[tuple[str, str], str]:
    return {(p.population.dataset_id, p.population.donor_id): p.split for p in places}


@given(atlases(), st.sampled_from(BY), st.integers(0, 50))
def test_no_donor_dataset_or_organism_is_parted(populations, by, seed):
    places = assign_splits(SplitPlan(by, seed), populations)
    assert [p.population for p in places] == populations
    together = defaultdict(set)
    for p in places:
        one = p.population
        together[one.dataset_id, one.donor_id].add(p.split)
        if one.publication:  # the same person in two datasets of one paper
            together[one.publication, one.organism, one.donor_id].add(p.split)
        if by == "dataset":
            together["dataset", one.dataset_id].add(p.split)
        if by == "organism":
            together["organism", one.organism].add(p.split)
    assert all(len(splits) == 1 for splits in together.values())


@given(atlases(), atlases(), st.sampled_from(BY), st.integers(0, 50))
def test_datasets_added_later_move_nothing(before, later, by, seed):
    added = [Population(p.organism, f"later-{p.dataset_id}", p.donor_id, p.publication, 1, 1) for p in later]
    old = where(assign_splits(SplitPlan(by, seed), before))
    new = where(assign_splits(SplitPlan(by, seed), [*added, *before]))
    assert {key: new[key] for key in old} == old


def test_the_seed_deals_differently_and_near_its_shares():
    groups = [("dataset", f"donor{i}") for i in range(4000)]
    first, second = ([split_of(seed, g) for g in groups] for seed in (1, 2))
    assert first != second
    for name, share in SPLITS:
        assert abs(first.count(name) / len(groups) - share) < 0.03  # five standard errors


def test_splits_of_datasets_without_publication_are_those_of_the_first_releases():
    """What version 0.1.0 gave, so that no rewrite moves splits that somebody has trained on."""
    dealt = ["validation", "validation", "train", "train", "test", "train", "train", "test"]
    assert [split_of(0, ("lungs", f"donor{i}")) for i in range(8)] == dealt
    assert population("lungs", "donor1").group("donor") == ("lungs", "donor1")
    assert population("lungs", "donor1").group("dataset") == ("lungs",)


@given(atlases(), st.data())
def test_a_pin_moves_its_groups_and_no_other(populations, data):
    by = data.draw(st.sampled_from(BY))
    kind = data.draw(st.sampled_from(BY[BY.index(by) :]))
    chosen = data.draw(st.sampled_from(populations))
    split = data.draw(st.sampled_from(SPLIT_NAMES))
    pin = chosen.named(kind)
    free = assign_splits(SplitPlan(by), populations)
    pinned = assign_splits(SplitPlan(by, pins={split: [pin]}), populations)
    moved = {p.group for p in free if p.population.named(kind) == pin}
    for before, after in zip(free, pinned, strict=True):
        assert after.pinned == (after.group in moved)
        assert after.split == (split if after.pinned else before.split)


def test_the_narrower_pin_wins():
    populations = [population(d, w) for d in ("one", "two") for w in ("a", "b")]
    pins = {"test": ["organism:human"], "validation": ["dataset:one"], "train": ["donor:one/b"]}
    assert where(assign_splits(SplitPlan(pins=pins), populations)) == {
        ("one", "a"): "validation",
        ("one", "b"): "train",
        ("two", "a"): "test",
        ("two", "b"): "test",
    }


def test_a_pin_takes_the_donor_along_into_every_dataset_of_the_publication():
    populations = [population(d, w, "doi:10.1/x") for d, w in (("one", "a"), ("two", "a"), ("two", "b"))]
    split = split_of(0, ("doi:10.1/x", "Homo sapiens", "b"))
    other = next(s for s in SPLIT_NAMES if s != split)
    places = where(assign_splits(SplitPlan(pins={other: ["dataset:one"]}), populations))
    assert places == {("one", "a"): other, ("two", "a"): other, ("two", "b"): split}


@pytest.mark.parametrize(
    ("by", "pins", "said"),
    [
        ("donor", {"test": ["one"]}, "donor:DATASET/DONOR, dataset:NAME or organism:NAME"),
        ("donor", {"test": ["dataset:"]}, "donor:DATASET/DONOR, dataset:NAME or organism:NAME"),
        ("donor", {"test": ["tissue:lung"]}, "donor:DATASET/DONOR, dataset:NAME or organism:NAME"),
        ("donor", {"dev": ["dataset:one"]}, "train, validation, test"),
        ("donor", {"test": ["dataset:onee"]}, "it has dataset:one, dataset:three"),
        ("donor", {"test": ["donor:two/a"]}, "donor:two/b"),
        ("donor", {"test": ["organism:mouse"]}, "it has organism:Homo sapiens"),
        ("dataset", {"test": ["donor:one/a"]}, "a whole dataset or more"),
        ("organism", {"test": ["dataset:one"]}, "a whole organism or more"),
        ("donor", {"test": ["dataset:one"], "train": ["dataset:one"]}, "--train dataset:one pins too"),
        ("donor", {"test": ["dataset:three"], "train": ["dataset:four"]}, "doi:10.1%2Fx/Homo sapiens/a"),
        ("cell", {}, "donor, dataset or organism"),
    ],
)
def test_what_cannot_be_pinned_is_refused_by_name(by, pins, said):
    populations = [population("one", "a"), population("two", "b")]
    populations += [population(name, "a", "doi:10.1/x") for name in ("three", "four")]
    with pytest.raises(CatalogInputError) as refused:
        assign_splits(SplitPlan(by, pins=pins), populations)
    assert said in str(refused.value)


def test_an_organism_nobody_knows_is_refused_with_the_nearest():
    with pytest.raises(UnknownOrganismError, match="mouse"):
        SplitPlan(pins={"test": ["organism:mosue"]})


def test_a_long_list_of_names_is_cut():
    with pytest.raises(CatalogInputError, match="and 488 more") as refused:
        assign_splits(SplitPlan(pins={"test": ["dataset:set7x"]}), [population(f"set{i}", "a") for i in range(500)])
    assert "dataset:set7," in str(refused.value), "the nearest come first"


def test_pins_are_spelled_one_way():
    spelled = [describe_pins(SplitPlan(pins={"test": [name, "dataset:b", "dataset:a"]})) for name in
               ("organism:mouse", "organism:Mus musculus", "organism:10090")]  # fmt: skip
    assert spelled[0] == spelled[1] == spelled[2]
    assert spelled[0] == {"train": [], "validation": [], "test": ["dataset:a", "dataset:b", "organism:Mus musculus"]}


def test_books_count_every_cell_once():
    populations = [population("one", "a", "doi:10.1/x"), population("two", "a", "doi:10.1/x"), population("two", "b")]
    pins = {"train": ["dataset:one"], "test": ["donor:two/b"]}
    assert describe_places(assign_splits(SplitPlan(pins=pins), populations)) == {
        "cells": {"train": 20, "validation": 0, "test": 10},
        "loadable": {"train": 16, "validation": 0, "test": 8},
        "groups": {"train": 1, "validation": 0, "test": 1},
    }


@pytest.mark.parametrize(
    "doi",
    ["10.1016/j.CELS.2016", "https://doi.org/10.1016/J.cels.2016", "http://dx.doi.org/10.1016/j.cels.2016",
     "doi: 10.1016/j.cels.2016", " 10.1016/j.cels.2016 "],
)  # fmt: skip
def test_a_publication_is_the_same_however_its_doi_is_written(doi):
    assert publication_of(doi, "ignored") == "doi:10.1016/j.cels.2016"


def test_without_doi_the_collection_counts_and_without_both_the_dataset():
    assert publication_of("", "283d65eb") == "collection:283d65eb"
    assert publication_of(" ", "") == ""


@given(st.lists(st.text(max_size=4), min_size=1, max_size=3), st.lists(st.text(max_size=4), min_size=1, max_size=3))
def test_two_groups_never_share_a_name(first, second):
    assert (join_group(first) == join_group(second)) == (first == second)
