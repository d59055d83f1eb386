"""The benchmark of kills: it tells where one fell, and it would tell an atlas that is neither before nor after."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import disturbed_atlas, kills, small_disks
from benchmarks.disturbed_atlas import DONE, IDLE, STAGES, UNDOING, State, Undisturbed, stage

EXPERIMENT = "census_data/drosophila_melanogaster"
BEGUN = State((), "", in_flight=True, left=frozenset({f"{EXPERIMENT}/ms/RNA/var/__commits/__1_1_x.wrt"}))
X, OBS, GRAPH = (
    f"{EXPERIMENT}/{name}/__commits/__2_2_y.wrt" for name in ("ms/RNA/X/raw", "obs", "ms/RNA/obsp/neighbours")
)
NOTHING = State((), "", in_flight=False, left=frozenset())
ONE, TWO, ALL = (State(tuple("abc"[:n]), f"h{n}", in_flight=False, left=frozenset()) for n in (1, 2, 3))


@pytest.mark.parametrize(
    ("before", "after", "meant"),
    [
        (NOTHING, NOTHING, IDLE),
        (NOTHING, BEGUN, STAGES[1]),
        (NOTHING, replace(BEGUN, left=BEGUN.left | {X}), STAGES[2]),
        (ONE, replace(ONE, in_flight=True, left=frozenset({X, OBS})), STAGES[3]),
        (ONE, replace(ONE, in_flight=True, left=frozenset({X, OBS, GRAPH})), STAGES[4]),
        (BEGUN, BEGUN, UNDOING),
        (replace(BEGUN, left=BEGUN.left | {X}), BEGUN, UNDOING),
        (BEGUN, replace(BEGUN, left=frozenset({X})), STAGES[2]),
        (BEGUN, ONE, IDLE),
        (ONE, ALL, DONE),
    ],
)
def test_where_a_kill_fell_is_told_by_what_it_left(before: State, after: State, meant: str) -> None:
    assert stage(before, after) == meant


@pytest.fixture
def meant(monkeypatch: pytest.MonkeyPatch) -> Undisturbed:
    made = Undisturbed.__new__(Undisturbed)
    made.hashes = {"": "", "a": "h1", "ab": "h2", "abc": "h3"}
    made.official = {"a": "o1", "ab": "o2", "abc": "o3"}
    monkeypatch.setattr("atlas.open_atlas", lambda uri: uri)
    monkeypatch.setattr(disturbed_atlas, "read_officially", lambda uri: uri)
    return made


def test_an_atlas_that_is_neither_before_nor_after_a_source_is_told(meant: Undisturbed) -> None:
    for before, after in ((NOTHING, NOTHING), (NOTHING, TWO), (ONE, ONE), (TWO, ALL)):
        assert meant.faults("o", before, after, official=False) == []
    for before, after in (
        (NOTHING, replace(TWO, hash="h1")),
        (ONE, replace(ONE, hash="other")),
        (TWO, ONE),
        (ONE, NOTHING),
        (ONE, replace(TWO, datasets=("a", "c"))),
    ):
        assert len(meant.faults("o", before, after, official=False)) == 1
    assert meant.faults("o2", ONE, TWO, official=True) == []
    assert len(meant.faults("o1", ONE, TWO, official=True)) == 1


def test_what_each_place_saw_stands_in_one_row() -> None:
    rows = [
        {"table": "where kills fell", "what": IDLE, "kills, folder": 2},
        {"table": "killed", "what": "S3", "kills": 3},
        {"table": "where kills fell", "what": IDLE, "kills, S3": 1},
    ]
    assert kills.merged(rows) == [rows[1], rows[0] | rows[2]]


def test_a_message_says_that_the_disk_is_full_or_it_does_not() -> None:
    assert small_disks.says_full("write of /a failed: No space left on device on the disk it is on; ...")
    assert small_disks.says_full("write ledger of /a failed: database or disk is full; ...")
    assert not small_disks.says_full("IO Error: Cannot write to file '/disk/atlas/x'")
