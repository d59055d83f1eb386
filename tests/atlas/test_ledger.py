"""The ledger reserves dense ranges, publishes exactly once, survives kills, and admits one writer."""

import multiprocessing as mp
import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from atlas import find_leftovers, open_atlas
from atlas.errors import StoreError
from atlas.findings import Receipt
from atlas.ledger import Ledger, now_ms, writer_lock
from atlas.ledger_rows import TABLES, ResultRow


def reserve(ledger: Ledger, name: str, n: int, organism: str = "homo_sapiens"):
    return ledger.reserve(name, organism, n, input_sha256=f"i{name}", content_sha256=f"c{name}", declaration=f"d{name}")


def publish(ledger: Ledger, name: str, moment: int) -> None:
    ledger.publish(name, moment, Receipt(name, "human", "written", "uri", dataset_id=name))


def test_ranges_are_dense_per_organism_and_aborted_ones_are_given_back(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        assert reserve(ledger, "a", 10).first_joinid == 0
        publish(ledger, "a", 100)
        assert reserve(ledger, "lost", 7).first_joinid == 10
        row = reserve(ledger, "b", 5)
        assert (row.first_joinid, row.dataset_joinid) == (10, 1)
        publish(ledger, "b", 200)
        row = reserve(ledger, "m", 3, "mus_musculus")
        assert (row.first_joinid, row.dataset_joinid) == (0, 2)
        publish(ledger, "m", 300)
        assert ledger.n_cells("homo_sapiens") == 15
        assert ledger.published_ms() == 300
        assert [d.dataset_id for d in ledger.datasets()] == ["a", "b", "m"]


def test_results_of_now_are_those_published_last_whatever_the_readers_clock_says(tmp_path: Path) -> None:
    later = now_ms() + 3_600_000  # by a writer whose clock is an hour ahead
    row = ResultRow("embedding/r1/0a1b2c3d4e5f/all", "homo_sapiens", "ms/RNA/obsm/x", 10, "0" * 64, "{}", later)
    with Ledger(tmp_path / "l.sqlite") as ledger:
        reserve(ledger, "a", 10)
        publish(ledger, "a", 100)
        ledger.publish_results([row])
        assert ledger.results() == ledger.state()[2] == [row]
        assert ledger.results(later - 1) == ledger.state(later - 1)[2] == []


def test_publishing_twice_or_without_reservation_is_refused(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        reserve(ledger, "a", 10)
        publish(ledger, "a", 100)
        for name in ("a", "nobody"):
            with pytest.raises(StoreError, match="no reservation"):
                publish(ledger, name, 200)
        with pytest.raises(StoreError, match="clock is"):
            publish(ledger, "a", 100)
        assert [r["status"] for r in ledger.receipts()] == ["written"]
        assert ledger.published_ms() == 100


def test_found_by_any_identity_once_published(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        reserve(ledger, "a", 10)
        assert ledger.find(dataset_id="a") is None
        publish(ledger, "a", 1)
        assert ledger.find(dataset_id="a") == ledger.find(input_sha256="ia") == ledger.find(content_sha256="ca")
        assert ledger.find(dataset_id="b") is None
        assert ledger.find(input_sha256="ia", organism="mus_musculus") is None
        assert ledger.find(input_sha256="ia", declaration="other") is None


def test_receipts_come_back_in_order(tmp_path: Path) -> None:
    receipts = [Receipt(f"s{i}", "human", "rejected", "uri") for i in range(3)]
    with Ledger(tmp_path / "l.sqlite") as ledger:
        for receipt in receipts:
            ledger.record(receipt)
    with Ledger(tmp_path / "l.sqlite") as ledger:
        assert [r["source_id"] for r in ledger.receipts()] == ["s0", "s1", "s2"]


def _die_in_flight(path: Path) -> None:
    ledger = Ledger(path)
    ledger.begin()
    reserve(ledger, "a", 10)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_ingest_is_seen_and_its_range_reused(tmp_path: Path) -> None:
    process = mp.get_context("spawn").Process(target=_die_in_flight, args=(tmp_path / "l.sqlite",))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with Ledger(tmp_path / "l.sqlite") as ledger:
        assert ledger.in_flight
        assert ledger.published_ms() == 0
        ledger.abandon()
        assert not ledger.in_flight
        assert ledger.datasets(published=False) == []
        assert reserve(ledger, "b", 2).first_joinid == 0


def test_a_second_writer_is_told_who_holds_the_atlas(tmp_path: Path) -> None:
    said = rf"process {os.getpid()} on .* is writing"
    with writer_lock(tmp_path), pytest.raises(StoreError, match=said), writer_lock(tmp_path):
        pass
    with writer_lock(tmp_path):
        pass


def test_a_damaged_ledger_is_named(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    path.write_bytes(b"this is not a database, not at all" * 100)
    with pytest.raises(StoreError, match="open ledger"):
        Ledger(path)


def test_a_ledger_is_read_without_writing_a_byte(tmp_path: Path) -> None:
    """As on a read-only mount: reading must not try to make the WAL's index, nor run a pragma."""
    folder = tmp_path / "ledger"
    with Ledger(folder / "l.sqlite") as ledger:
        reserve(ledger, "a", 10)
        publish(ledger, "a", 100)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with Ledger.to_read(folder / "l.sqlite") as ledger:
        assert [d.dataset_id for d in ledger.datasets()] == ["a"]
        assert ledger.published_ms() == 100
        with pytest.raises(StoreError, match="readonly"):
            reserve(ledger, "b", 1)
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.name in before} == before


def test_a_full_disk_is_told_and_nothing_of_the_transaction_stays(tmp_path: Path) -> None:
    """SQLite rolls back by itself where it meets a full disk, so that to roll back once more is an error of its own."""
    with Ledger(tmp_path / "l.sqlite") as ledger:
        reserve(ledger, "a", 10)
        publish(ledger, "a", 100)
        pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
        ledger._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreError, match="disk is full; what is published is as it was; make room there"):
            ledger.record(Receipt("x" * 100_000, "human", "rejected", "uri"))
        ledger._db.execute("PRAGMA max_page_count = 10000")
        ledger.begin()
        ledger.record(Receipt("b", "human", "rejected", "uri"))
        assert [r["source_id"] for r in ledger.receipts()] == ["a", "b"]


@pytest.mark.parametrize("begun", ["an empty file", "a journal", "tables"])
def test_who_is_stopped_while_the_ledger_is_made_leaves_one_of_nothing(tmp_path: Path, begun: str) -> None:
    path = tmp_path / "ledger" / "ledger.sqlite"
    path.parent.mkdir()
    path.touch()
    with closing(sqlite3.connect(path, isolation_level=None)) as stopped:
        if begun != "an empty file":
            stopped.execute("PRAGMA journal_mode=WAL")
        if begun == "tables":
            stopped.executescript(f"BEGIN IMMEDIATE; {TABLES.split(';')[0]};")  # and never committed
    with Ledger.to_read(path) as ledger:
        assert (ledger.state(), ledger.published_ms(), ledger.in_flight) == ((0, [], []), 0, False)
    with pytest.raises(StoreError, match="nothing is published here yet"):
        open_atlas(str(tmp_path))
    assert find_leftovers(str(tmp_path)) == ()
    with Ledger(path) as ledger:
        assert reserve(ledger, "a", 10).first_joinid == 0
