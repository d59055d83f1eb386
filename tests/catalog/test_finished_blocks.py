"""A task that was stopped goes on where it stopped and gives what it would have given; another one begins anew."""

from __future__ import annotations

import os

import numpy as np
import pytest

from catalog import finished_blocks as module
from catalog.care_commands import find_parts, remove_parts
from catalog.errors import CatalogInputError
from catalog.finished_blocks import finished_blocks
from ontology import home

N, BATCH = 23, 3
NUMBERS = np.arange(100, 100 + N)


class StoppedError(Exception):
    """Stands for a kill."""


class Verb:
    """Gives two arrays of each batch, and remembers where it began and what it worked out."""

    def __init__(self, stop: int = N + 1) -> None:
        self.begun, self.worked, self.stop = [], [], stop

    def __call__(self, first: int):
        self.begun.append(first)
        for start in range(first, N, BATCH):
            if start >= self.stop:
                raise StoppedError
            some = NUMBERS[start : start + BATCH]
            self.worked += some.tolist()
            yield {"square": (some**2)[:, None].astype(np.float32), "batch": np.full(len(some), start // BATCH)}


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.setenv("PANATLAS_HOME", str(tmp_path))
    monkeypatch.setattr(module, "BLOCK_CELLS", 7)  # 6, as far as batches have so many


def work(verb, decides="a", numbers=NUMBERS):
    """Return what a task gives, and what it told."""
    told = []
    with finished_blocks({"it": decides}, numbers, BATCH) as (_, finished):
        parts = list(finished.rows(verb, lambda cells, before: told.append((cells, before))))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, told


def left() -> list[str]:
    return [path.name for path in (home() / "tasks").iterdir()]


def test_rows_are_those_of_the_verb_and_nothing_is_left():
    found, told = work(Verb())
    np.testing.assert_array_equal(found["square"].ravel(), NUMBERS**2)
    np.testing.assert_array_equal(found["batch"], np.arange(N) // BATCH)
    assert (sum(cells for cells, _ in told), left()) == (N, [])


@pytest.mark.parametrize(("stop", "kept"), [(0, 0), (3, 0), (6, 6), (9, 6), (21, 18)])
def test_a_stopped_task_goes_on_with_the_same_batches(stop, kept):
    with pytest.raises(StoppedError):
        work(Verb(stop))
    assert len(left()) == (kept > 0), "what has no finished block leaves nothing"
    again = Verb()
    found, told = work(again)
    assert again.begun == [kept]
    assert again.worked == NUMBERS[kept:].tolist()
    for name, values in work(Verb())[0].items():
        np.testing.assert_array_equal(found[name], values)
    assert told[0] == (kept, True)
    assert left() == []


def test_a_damaged_block_and_what_follows_it_is_worked_out_again():
    with pytest.raises(StoppedError):
        work(Verb(18))
    (folder,) = (home() / "tasks").iterdir()
    second = sorted(folder.glob("*.npz"))[1]
    second.write_bytes(second.read_bytes()[:-30])
    again = Verb()
    found, _ = work(again)
    assert again.begun == [6]
    np.testing.assert_array_equal(found["square"].ravel(), NUMBERS**2)


@pytest.mark.parametrize(("decides", "numbers"), [("b", NUMBERS), ("a", NUMBERS[::-1])])
def test_another_task_begins_anew(decides, numbers):
    with pytest.raises(StoppedError):
        work(Verb(12))
    other = Verb()
    work(other, decides, numbers)
    assert other.begun == [0]
    assert len(left()) == 1, "the first one's are kept"


def test_two_processes_are_not_at_the_same_task():
    with (
        finished_blocks({}, NUMBERS, BATCH),
        pytest.raises(CatalogInputError, match="wait for it"),
        finished_blocks({}, NUMBERS, BATCH),
    ):
        pass
    with finished_blocks({}, NUMBERS, BATCH), finished_blocks({"other": 1}, NUMBERS, BATCH):
        pass


def test_doctor_finds_what_nobody_goes_on_with_and_leaves_a_task_at_work_alone():
    with pytest.raises(StoppedError):
        work(Verb(12))
    (folder,) = (home() / "tasks").iterdir()
    assert [one.code for one in find_parts([home() / "tasks"])] == ["part-in-the-making"], "it changed within the hour"
    for path in (folder, *folder.iterdir()):
        os.utime(path, (1, 1))
    with finished_blocks({"another": 1}, NUMBERS, BATCH):
        assert {one.code for one in find_parts([home() / "tasks"])} == {"part-in-the-making"}
        assert remove_parts([home() / "tasks"]) == []
    assert [one.code for one in find_parts([home() / "tasks"])] == ["unfinished-part"]
    assert len(remove_parts([home() / "tasks"])) == 1
    assert left() == []
