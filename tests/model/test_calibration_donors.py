"""Held-out donors: whole donors on one side or the other, none that the model learnt from, many rather than large."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model import ModelInputError, TrainedModel
from model.calibration_donors import held_out_donors
from model.ledger import Ledger
from tests.model.annotated_cells import N_DONORS, annotated_cells, annotating_model


def taught(numbers: np.ndarray, role: int = 2) -> TrainedModel:
    """Return the model with a ledger that says it has seen some cells."""
    hashes = np.sort(annotated_cells().codes("count_hash_high", numbers))
    empty = np.zeros(len(numbers), np.uint64)
    return replace(annotating_model(), ledger=Ledger(hashes, empty, np.full(len(numbers), role, np.uint8)))


def test_donors_are_whole_and_on_one_side_and_of_the_splits_that_were_asked_for():
    cells = annotated_cells()
    found = held_out_donors(annotating_model(), cells)
    here, there = (set(cells.codes("donor", some).tolist()) for some in (found.calibrating, found.testing))
    held = np.flatnonzero(cells.column("split") > 0)
    assert (len(here), len(there)) == (N_DONORS // 3, N_DONORS // 3)
    assert not here & there
    assert sorted([*found.calibrating, *found.testing]) == held.tolist()
    assert (found.seen_donors, found.seen_cells, found.source) == (0, 0, "validation, test")
    other = held_out_donors(annotating_model(), cells, seed=1)
    assert set(cells.codes("donor", other.testing).tolist()) != there
    third = held_out_donors(annotating_model(), cells, splits=("test",), testing=0.25)
    assert len(set(cells.codes("donor", third.testing).tolist())) == 3
    assert set(cells.codes("split", third.calibrating).tolist()) == {2}
    assert len(held_out_donors(annotating_model(), cells, splits=None, testing=0).calibrating) == len(cells)


def test_a_donor_of_one_cell_that_was_learnt_from_is_left_out_whole():
    cells = annotated_cells()
    held = np.flatnonzero(cells.column("split") == 1)
    first = held[:1]
    lost = cells.column("donor") == cells.column("donor")[first]
    found = held_out_donors(taught(first), cells, splits=("validation",))
    assert (found.seen_donors, found.seen_cells) == (1, int(lost.sum()))
    kept = np.concatenate([found.calibrating, found.testing])
    assert sorted(kept.tolist()) == np.setdiff1d(held, np.flatnonzero(lost)).tolist()
    assert held_out_donors(taught(first, role=0), cells).seen_donors == 0, "chosen by it, not learnt from it"
    assert held_out_donors(taught(first, role=1), cells).seen_donors == 1, "its split was trained on"
    with pytest.raises(ModelInputError, match="donors that the model was not trained on"):
        held_out_donors(taught(held), cells, splits=("validation",))


def test_known_cells_are_those_the_ledger_says_were_trained_on():
    cells = annotated_cells()
    train = np.flatnonzero(cells.column("split") == 0)
    assert held_out_donors(taught(train), cells).known.tolist() == train.tolist()
    assert not len(held_out_donors(taught(train, role=1), cells).known)


def test_many_donors_have_a_say_where_not_all_cells_are_read():
    cells = annotated_cells()
    donors = cells.column("donor")
    numbers = np.concatenate([np.flatnonzero(donors == 0), *(np.flatnonzero(donors == one)[:2] for one in range(1, 9))])
    found = held_out_donors(annotating_model(), cells, numbers, splits=None, testing=0, most=20)
    sizes = np.bincount(donors[found.calibrating])
    assert sizes.tolist() == [4, *[2] * 8], "2 of each is all that eight have; the first has what is left"
    assert len(held_out_donors(annotating_model(), cells, numbers, splits=None, testing=0, most=9).calibrating) == 9


def test_slips_are_told():
    cells, model = annotated_cells(), annotating_model()
    for how, said in (
        ({"splits": ("tests",)}, "train, validation, test"),
        ({"testing": 1.0}, "below 1"),
        ({"most": 0}, "1 cell"),
        ({"numbers": np.zeros(0, np.int64)}, "cells with counts"),
    ):
        with pytest.raises(ModelInputError, match=said):
            held_out_donors(model, cells, **how)
