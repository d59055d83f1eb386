"""Snapshots: what went in comes out, by digest; whatever is not whole is named and never believed."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ontology import OntologyInputError, ReferenceMismatchError, ontology_release, snapshots
from ontology.snapshots import (
    KINDS,
    find_snapshot,
    list_snapshots,
    read_table,
    references_dir,
    save_bytes,
    save_table,
)

if TYPE_CHECKING:
    from pathlib import Path

ABOUT = {"source": "x.csv", "release": "mine 1"}
FRAME = pd.DataFrame({"id": ["a", "b"], "start": [0, -1]})


def test_a_table_comes_back(own_home: Path) -> None:
    made = save_table("genes", "sheep", FRAME, ABOUT | {"licence": "CC0"})
    assert (made.rows, made.licence, made.source, made.release) == (2, "CC0", "x.csv", "mine 1")
    assert made.path.parent == own_home / "references" / "genes"
    assert hashlib.sha256(made.path.read_bytes()).hexdigest() == made.sha256
    assert find_snapshot("genes", "sheep") == made
    assert read_table(made).equals(FRAME)
    assert find_snapshot("orthologs", "sheep") is None
    assert find_snapshot("genes", "cow") is None


def test_the_same_rows_give_the_same_bytes_whatever_their_index(own_home: Path) -> None:
    one = save_table("genes", "sheep", FRAME, ABOUT)
    assert save_table("genes", "cow", FRAME.set_index(pd.Index([7, 9])), ABOUT).sha256 == one.sha256
    assert save_table("genes", "pig", FRAME[::-1], ABOUT).sha256 != one.sha256


def test_a_new_one_replaces_the_old(own_home: Path) -> None:
    oldest = save_table("genes", "sheep", FRAME[1:], ABOUT)
    old = save_table("genes", "sheep", FRAME, ABOUT)
    save_bytes("genes", "sheep-0123456789ab", b"another's", ".txt", ABOUT)  # whose files look like the sheep's
    assert read_table(oldest).equals(FRAME[1:].reset_index(drop=True))  # a reader that found it a moment ago
    new = save_table("genes", "sheep", FRAME[:1], ABOUT | {"release": "mine 2"})
    assert find_snapshot("genes", "sheep") == new
    assert read_table(old).equals(FRAME)
    assert not oldest.path.exists()
    with pytest.raises(ReferenceMismatchError, match="find it again"):
        read_table(oldest)
    assert find_snapshot("genes", "sheep-0123456789ab") is not None
    assert new.path.exists()
    # The same bytes under another release keep their file.
    again = save_table("genes", "sheep", FRAME[:1], ABOUT | {"release": "mine 3"})
    assert again.path.exists()
    assert find_snapshot("genes", "sheep") == again


def test_bytes_of_any_file(own_home: Path) -> None:
    made = save_bytes("ontology", "PO", b"format-version: 1.2\n", ".obo", ABOUT)
    assert made.path.read_bytes() == b"format-version: 1.2\n"
    assert made.path.suffix == ".obo"
    assert made.rows == 20
    assert save_bytes("ontology", "PO", b"x", ".obo", ABOUT | {"rows": "7"}).rows == 7


def test_listing_is_in_order_and_of_this_home(tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list_snapshots() == ()
    for kind, name in (("orthologs", "cow"), ("genes", "sheep"), ("genes", "cow")):
        save_table(kind, name, FRAME, ABOUT)
    found = [(snapshot.kind, snapshot.name) for snapshot in list_snapshots()]
    assert found == [("genes", "cow"), ("genes", "sheep"), ("orthologs", "cow")]
    monkeypatch.setenv("PANATLAS_HOME", str(tmp_path / "elsewhere"))
    assert list_snapshots() == ()
    assert find_snapshot("genes", "cow") is None


def test_a_record_that_is_none_hides_no_other(own_home: Path, caplog: pytest.LogCaptureFixture) -> None:
    sound = [save_table("genes", "sheep", FRAME, ABOUT), save_bytes("ontology", "XX", b"x", ".txt", ABOUT)]
    before = ontology_release()
    for spoilt in ("genes/cow.json", "genes/a b.json", "protein_vectors/human-x.json", "ontology/YY.json"):
        path = own_home / "references" / spoilt
        path.parent.mkdir(exist_ok=True)
        path.write_text("{" if "x" in spoilt else "[" * 100_000)
    assert list(list_snapshots()) == sound
    for said in ("cow.json", "a b.json", "human-x.json", "YY.json"):
        assert said in caplog.text
    caplog.clear()
    assert ontology_release() == before
    assert "genes" not in caplog.text  # an ingest looks at no record it does not need
    assert list_snapshots("ontology") == (sound[1],)
    with pytest.raises(OntologyInputError, match="kind"):
        list_snapshots("cells")


def test_a_reader_meets_a_writer(own_home: Path) -> None:
    """Readers and writers at once: whatever is found can be read, and is what its record says."""
    frames = [FRAME.assign(start=[i, i]) for i in range(30)]
    save_table("genes", "cow", frames[0], ABOUT | {"release": "0"})

    def write(i: int) -> None:
        save_table("genes", "cow", frames[i], ABOUT | {"release": str(i)})

    with ThreadPoolExecutor(3) as pool:
        work = [pool.submit(write, i) for i in range(1, 30)]
        while not all(each.done() for each in work):
            found = find_snapshot("genes", "cow")
            assert found is not None
            with suppress(ReferenceMismatchError):  # twice replaced meanwhile: said, and never another's rows
                assert read_table(found)["start"].tolist() == [int(found.release)] * 2
        for each in work:
            each.result()
    files = [path.name for path in (own_home / "references" / "genes").iterdir() if path.suffix == ".parquet"]
    assert len(files) == 2


def test_a_snapshot_replaced_between_record_and_file_is_found(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = save_table("genes", "cow", FRAME, ABOUT)
    real, calls = snapshots._record, []

    def slow(kind: str, name: str) -> snapshots.Snapshot | None:
        calls.append(name)
        if len(calls) > 1:
            return real(kind, name)
        monkeypatch.setattr(snapshots, "_record", real)
        save_table("genes", "cow", FRAME[:1], ABOUT)
        save_table("genes", "cow", FRAME[1:], ABOUT)
        monkeypatch.setattr(snapshots, "_record", slow)
        return old

    monkeypatch.setattr(snapshots, "_record", slow)
    found = find_snapshot("genes", "cow")
    assert found is not None
    assert read_table(found)["id"].tolist() == ["b"]


def test_the_same_release_of_two_files_is_told_apart(own_home: Path) -> None:
    made, said = [], []
    for data in (b"leg", b"fin"):
        made.append(save_bytes("ontology", "XAO", data, ".txt", ABOUT | {"release": "unstated"}))
        said.append([part for part in ontology_release().split(";") if part.startswith("XAO")])
    assert said == [[f"XAO unstated {each.sha256[:12]}"] for each in made]
    assert said[0] != said[1]


@pytest.mark.parametrize(("kind", "name"), [("cells", "sheep"), ("genes", "../x"), ("genes", ""), ("genes", "a b")])
def test_kind_and_name_are_plain(kind: str, name: str, own_home: Path) -> None:
    with pytest.raises(OntologyInputError):
        save_table(kind, name, FRAME, ABOUT)
    with pytest.raises(OntologyInputError):
        find_snapshot(kind, name)
    assert not own_home.exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(name=st.text(max_size=80))
def test_no_name_leaves_the_folder(name: str, own_home: Path) -> None:
    for kind in KINDS:
        try:
            made = save_bytes(kind, name, b"x", ".bin", ABOUT)
        except OntologyInputError:
            continue
        assert made.path.resolve().parent == (references_dir() / kind).resolve()


@pytest.mark.parametrize("harm", ["changed", "cut", "gone"])
def test_a_file_that_is_not_what_was_kept(harm: str, own_home: Path) -> None:
    made = save_table("genes", "sheep", FRAME, ABOUT)
    data = made.path.read_bytes()
    if harm == "gone":
        made.path.unlink()
    else:
        made.path.write_bytes(data[:-9] if harm == "cut" else data + b"x")
    with pytest.raises(ReferenceMismatchError, match="fetch or import it again"):
        find_snapshot("genes", "sheep")
    assert save_table("genes", "sheep", FRAME, ABOUT).path.read_bytes() == data


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, "{}", '{"kind": "genes"}', "not json", "null", "3"])
def test_a_record_that_is_none(text: str, own_home: Path) -> None:
    made = save_table("genes", "sheep", FRAME, ABOUT)
    record = made.path.with_name("sheep.json")
    record.write_text(text)
    with pytest.raises(ReferenceMismatchError, match="fetch or import it again"):
        find_snapshot("genes", "sheep")
    # The remedy the message names must work.
    assert find_snapshot("genes", "cow") is None
    assert save_table("genes", "sheep", FRAME, ABOUT) == find_snapshot("genes", "sheep")


def test_a_record_cannot_point_elsewhere(own_home: Path, tmp_path: Path) -> None:
    """A record copied from another machine names a file beside itself, nothing above."""
    made = save_table("genes", "sheep", FRAME, ABOUT)
    (tmp_path / "secret").write_bytes(b"secret")
    digest = hashlib.sha256(b"secret").hexdigest()
    record = made.path.with_name("sheep.json")
    row = json.loads(record.read_text()) | {"file": "../../../secret", "sha256": digest}
    record.write_text(json.dumps(row))
    with pytest.raises(ReferenceMismatchError):
        find_snapshot("genes", "sheep")


def test_nothing_half_made_is_left(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    def full(_: int) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        save_table("genes", "sheep", FRAME, ABOUT)
    assert [path.name for path in own_home.rglob("*") if path.is_file()] == [".lock"]
    assert find_snapshot("genes", "sheep") is None
