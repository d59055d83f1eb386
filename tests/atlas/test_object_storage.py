"""An atlas on object storage is the same atlas: whatever server or writer fails, it is before or after, never between.

Against a real S3 server on this machine (`tests.object_server`), which can be told to fail.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import shutil
import signal
import sys
import threading
import time
from dataclasses import replace
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING

import pandas as pd
import pytest
import tiledbsoma as soma
from localbucket import S3Handler

from atlas import (
    AtlasInputError,
    IngestOptions,
    StoreError,
    content_hash,
    find_leftovers,
    ingest,
    lease,
    object_store,
    open_atlas,
    repair_atlas,
    side_folder,
    store,
    validate,
    write,
)
from atlas.ledger import Ledger, writer_lock
from atlas.object_roll_back import unpublished
from atlas.object_store import ObjectChangedError, ObjectPlace
from catalog import make_release, sql
from catalog.manifests import newest_release
from tests.factories import make_adata, write_source
from tests.object_server import BUCKET, ObjectServer, served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from atlas import Finding, Source

pytestmark = pytest.mark.index
FAST = IngestOptions(doublets=False, neighbours=False)
BASE = f"s3://{BUCKET}/base"
STUMBLING = (
    {"fault": "SlowDown", "every": 400},
    {"fault": "drop", "every": 500},
    {"fault": "drop-after", "method": "PUT", "part": "/ledger/", "every": 2},
    {"fault": "delay", "seconds": 0.1, "every": 150},
)
"""A server that is overloaded, slow, and loses connections and answers."""


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectServer]:
    with served() as running:
        yield running


@pytest.fixture(autouse=True)
def _sound(server: ObjectServer) -> None:
    server.faults()


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> list[Source]:
    folder = tmp_path_factory.mktemp("sources")
    return [write_source(folder / f"{n}.h5ad", make_adata(20, 80, seed=i), id=n) for i, n in enumerate("ab")]


@pytest.fixture(scope="module")
def local(sources: list[Source], tmp_path_factory) -> list[Path]:
    """Return a local atlas of the first source, and one of both."""
    one = tmp_path_factory.mktemp("local") / "one"
    assert ingest(sources[0], str(one), FAST).status == "written"
    both = shutil.copytree(one, one.parent / "both")
    assert ingest(sources[1], str(both), FAST).status == "written"
    return [one, both]


@pytest.fixture(scope="module")
def base(server: ObjectServer, local: list[Path]) -> str:
    """Put a local atlas into the bucket, as any tool for S3 would."""
    put(local[0], BASE)
    return BASE


def put(folder: Path, uri: str, *without: str) -> None:
    place = ObjectPlace.parse(uri)
    for file in (p for p in folder.rglob("*") if p.is_file() and not set(without) & set(p.parts)):
        (place / file.relative_to(folder).as_posix()).write(file.read_bytes(), None)


def tree(uri: str) -> list[str]:
    """Return the keys of the SOMA tree, but for enumerations no schema names, which a roll-back leaves."""
    parts = (name.split("/") for name in ObjectPlace.parse(uri).inside())
    return ["/".join(p) for p in parts if p[0] != store.LEDGER and "__enumerations" not in p]


def codes(found: tuple[Finding, ...]) -> list[str]:
    return [finding.code for finding in found]


def test_an_atlas_that_was_copied_to_s3_is_what_it_was(base: str, local: list[Path]) -> None:
    here, there = open_atlas(base), open_atlas(str(local[0]))
    assert here == replace(there, uri=base)
    pd.testing.assert_frame_equal(here.query("human").obs(), there.query("human").obs())
    assert (here.query("human").counts() != there.query("human").counts()).nnz == 0
    assert find_leftovers(base) == ()


def test_reading_survives_latency_errors_and_lost_connections(base: str, server: ObjectServer) -> None:
    whole = open_atlas(base).query("human").obs()
    for fault in ({"fault": "InternalError", "every": 5}, {"fault": "drop", "every": 4}):
        server.faults(fault, {"fault": "delay", "seconds": 0.05, "every": 3})
        pd.testing.assert_frame_equal(open_atlas(base).query("human").obs(), whole)


def test_official_clients_read_it_at_the_moment_that_is_printed(base: str) -> None:
    census = pytest.importorskip("cellxgene_census")
    at = open_atlas(base).published_ms
    context = soma.SOMATileDBContext(tiledb_config=object_store.tiledb_settings(), timestamp=at)
    with soma.Collection.open(base, context=context) as tree:
        assert tree["census_data"]["homo_sapiens"].obs.count == 20
    with census.open_soma(uri=base, context=context) as tree:
        adata = census.get_anndata(tree, "homo_sapiens", obs_column_names=["cell_type"])
    assert adata.X.sum() == open_atlas(base).query("human", every_cell=True).counts().sum()


def test_a_release_lies_beside_the_store_for_every_machine(
    base: str, server: ObjectServer, monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("atlas.mirror.cache_dir", lambda: tmp_path / "one")
    server.faults({"fault": "AccessDenied", "method": "PUT", "part": "/releases/", "after": 1})
    with pytest.raises(StoreError, match="the server refuses"):
        make_release(base, "r1", allow_leaks=True)
    server.faults()
    assert newest_release(side_folder(base)) is None
    made = make_release(base, "r1", allow_leaks=True)
    assert made.status == "written"
    assert made.folder.is_relative_to(tmp_path / "one")
    monkeypatch.setattr("atlas.mirror.cache_dir", lambda: tmp_path / "two")
    assert sql(base, "SELECT count(*) AS n FROM splits", release="r1")["n"].to_pylist() == [20]
    copied = side_folder(base) / "releases" / "r1"
    assert {p.name: p.read_bytes() for p in copied.iterdir()} == {p.name: p.read_bytes() for p in made.folder.iterdir()}
    monkeypatch.setattr("atlas.mirror._mirror", lambda _root: tmp_path / "three")  # who made r1 at the same time
    with pytest.raises(StoreError, match="a release r1 is there already"):
        make_release(base, "r1", split_by="dataset", allow_leaks=True)
    assert not (tmp_path / "three" / "releases" / "r1").exists()


def test_credentials_that_expire_while_writing_change_nothing_that_is_published(
    server: ObjectServer, local: list[Path], sources: list[Source]
) -> None:
    uri = f"s3://{BUCKET}/expired"
    put(local[0], uri)
    before, was = open_atlas(uri), tree(uri)
    server.faults({"fault": "ExpiredToken", "after": 600})
    with pytest.raises(StoreError, match="the credentials have expired; renew AWS_ACCESS_KEY_ID"):
        ingest(sources[1], uri, FAST)
    server.faults()
    assert open_atlas(uri) == before
    assert set(codes(find_leftovers(uri))) == {"unfinished-ingest", "unpublished-writes", "expired-lease"}
    assert len(repair_atlas(uri)) == 3
    assert find_leftovers(uri) == ()
    assert tree(uri) == was


def ingest_and_die(source: Source, uri: str) -> None:
    """Ingest, and be killed when obs has just been written."""
    lease.TTL_S = 4.0

    def die(*args: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    write.add_gene_totals = die
    ingest(source, uri, FAST)


@pytest.mark.slow
def test_after_a_lost_credential_and_a_kill_the_next_run_finishes_to_what_a_local_ingest_gives(
    server: ObjectServer, local: list[Path], sources: list[Source]
) -> None:
    uri = f"s3://{BUCKET}/killed"
    server.faults(*STUMBLING)
    assert ingest(sources[0], uri, FAST).status == "written"
    server.faults({"fault": "ExpiredToken", "after": 900})
    with pytest.raises(StoreError, match="the credentials have expired"):
        ingest(sources[1], uri, FAST)
    server.faults()
    assert repair_atlas(uri)  # gives the place back too, for which others would wait
    process = mp.get_context("spawn").Process(target=ingest_and_die, args=(sources[1], uri))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (found,) = find_leftovers(uri)
    assert found.code == "writer-at-work"
    assert f"process {process.pid} on " in found.found
    assert repair_atlas(uri) == (), "nobody takes away what a writer may be writing"
    with pytest.raises(StoreError, match=f"process {process.pid} on .* is writing .*its place is free in"):
        ingest(sources[1], uri, FAST)
    while codes(found := find_leftovers(uri)) == ["writer-at-work"]:
        time.sleep(0.5)
    assert set(codes(found)) == {"unfinished-ingest", "unpublished-writes", "expired-lease"}
    assert "b, 20 cells of homo_sapiens from 20" in found[0].found
    assert open_atlas(uri).n_cells("human") == 20
    server.faults(*STUMBLING)
    assert ingest(sources[1], uri, FAST).status == "written"
    server.faults()
    assert find_leftovers(uri) == ()
    done = validate(open_atlas(uri))
    assert done.findings == ()
    assert done.content_hash == content_hash(open_atlas(str(local[1])))


def test_a_roll_back_removes_the_keys_that_it_removes_as_files(local, tmp_path: Path) -> None:
    root = shutil.copytree(local[1], tmp_path / "atlas")
    at = open_atlas(str(local[1])).datasets[0].published_ms

    class Listed(ObjectPlace):
        def inside(self) -> list[str]:
            return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())

    listed = Listed(BUCKET, "none")
    gone = unpublished(listed, at)
    names = set(listed.inside())
    firsts = [name.split("/")[-2] == "__commits" for name in gone]
    assert firsts == sorted(firsts, reverse=True), "what makes the rest visible goes first"
    assert store.roll_back(root, at) > 0
    assert names - set(gone) == set(listed.inside())


def test_of_writers_at_once_exactly_one_gets_the_place(server: ObjectServer) -> None:
    place, held, late = ObjectPlace(BUCKET, "race/ledger") / lease.LEASE, [], []
    begin = threading.Barrier(4)

    def take(etag: str | None) -> None:
        begin.wait()
        try:
            held.append(lease.Lease(place, etag))
        except ObjectChangedError:
            late.append(1)

    for _ in range(3):  # where there is none, and where one is given back
        etag = now.etag if (now := place.read()) else None
        threads = [threading.Thread(target=take, args=(etag,)) for _ in range(4)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert len(held) == 1
        held.pop().give_back()
    assert len(late) == 9


def test_a_lease_outlives_a_renewal_whose_answer_was_lost_for_good(server: ObjectServer, monkeypatch) -> None:
    folder = ObjectPlace(BUCKET, "unsure/ledger")
    monkeypatch.setattr(lease.Lease, "_renew", lambda _self: None)
    monkeypatch.setattr(object_store, "TRIES", 1)
    object_store._client.cache_clear()
    with writer_lock(folder):
        held = lease._held[folder.parent]
        server.faults({"fault": "drop-after", "method": "PUT"})
        with pytest.raises(StoreError):
            held._write(held._etag, "held")
        server.faults()
        assert held._write(held._etag, "held") == (folder / lease.LEASE).read().etag
    object_store._client.cache_clear()


def test_a_second_writer_is_told_who_writes(base: str, sources: list[Source]) -> None:
    folder = ObjectPlace.parse(base) / store.LEDGER
    with writer_lock(folder), pytest.raises(StoreError, match=f"process {os.getpid()} on .* is writing"):
        ingest(sources[1], base, FAST)
    with writer_lock(folder):  # given back, it is free at once
        assert codes(find_leftovers(base)) == ["writer-at-work"]


def test_a_fork_of_the_writer_is_another_process(server: ObjectServer, monkeypatch) -> None:
    """What a process does not hold any more is free to itself at once; a fork of it never held it."""
    folder, own = ObjectPlace(BUCKET, "forked/ledger"), os.getpid()
    with writer_lock(folder), monkeypatch.context() as patch:
        patch.setattr(lease, "_held", {})
        assert lease.who(folder / lease.LEASE) == ""
        patch.setattr(os, "getpid", lambda: own + 1)
        assert f"process {own} on " in lease.who(folder / lease.LEASE)


def test_who_slept_through_its_lease_can_neither_write_nor_publish(base: str, monkeypatch) -> None:
    root = ObjectPlace.parse(base)
    folder = root / store.LEDGER
    monkeypatch.setattr(lease, "TTL_S", 0.5)
    monkeypatch.setattr(lease.Lease, "_renew", lambda _self: None)  # as of a process that is stopped
    with writer_lock(folder), Ledger(folder / "ledger.sqlite") as sleeper:
        sleeper.begin()
        while lease.who(folder / lease.LEASE):
            time.sleep(0.3)
        own = lease._held.pop(root)
        monkeypatch.setattr(lease, "TTL_S", 60.0)
        with writer_lock(folder), Ledger(folder / "ledger.sqlite") as other:
            assert other.in_flight
            other.abandon()
            with pytest.raises(StoreError, match="another process wrote the ledger since"):
                sleeper.abandon()
        lease._held[root] = own
        for step in (lambda: store.experiments(root), lambda: store.roll_back(root, 1), sleeper.begin):
            with pytest.raises(StoreError, match="lost its place as the atlas' writer"):
                step()
    assert open_atlas(base).n_cells("human") == 20
    assert find_leftovers(base) == ()


def test_a_write_is_done_once_though_its_answer_was_lost(server: ObjectServer) -> None:
    place = ObjectPlace(BUCKET, "lost/ledger/ledger.sqlite")
    server.faults({"fault": "drop-after", "method": "PUT", "every": 2})
    with Ledger(place) as ledger:
        ledger.begin()
        ledger.begin()
        ledger.abandon()
    server.faults()
    with Ledger.to_read(place) as ledger:
        assert not ledger.in_flight
    with pytest.raises(ObjectChangedError):
        place.write(b"", None)


def test_a_damaged_ledger_and_a_lost_one_are_named(server: ObjectServer, local: list[Path]) -> None:
    uri = f"s3://{BUCKET}/damaged"
    put(local[0], uri, "census_data", "census_info")
    place = ObjectPlace.parse(uri) / store.LEDGER / "ledger.sqlite"
    assert open_atlas(uri).n_cells("human") == 20
    assert place.read().data[18:20] == b"\2\2", "the file is one that is written through a WAL"
    place.write(b"no database" * 100, place.read().etag)
    assert codes(find_leftovers(uri)) == ["damaged-ledger"]
    with pytest.raises(StoreError, match="restore it from a copy"):
        open_atlas(uri)
    place.parent.remove(["ledger.sqlite"])
    assert codes(find_leftovers(uri)) == ["no-ledger"]


def test_a_server_that_ignores_conditions_is_refused_before_anything_is_written(
    server: ObjectServer, sources: list[Source], monkeypatch, tmp_path: Path
) -> None:
    """Permanent guard, on a server that knows If-None-Match and no If-Match (localbucket 1.2)."""
    (tmp_path / "bucket").mkdir()

    class Unconditional(S3Handler):
        data_root = tmp_path

        def log_message(self, *args: object) -> None:
            """Stay silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Unconditional) as other:
        thread = threading.Thread(target=other.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{other.server_port}")
        with pytest.raises(StoreError, match=r"ignores the condition of a write \(If-Match\)"):
            ingest(sources[0], "s3://bucket/atlas", FAST)
        other.shutdown()
        thread.join()
    assert [p.name for p in (tmp_path / "bucket" / "atlas").rglob("*") if p.is_file()] == [lease.LEASE]


@pytest.mark.parametrize("uri", ["s3://", "s3://bucket", "s3://bucket/", "s3://b/a/../c", "s3://b/a?region=x"])
def test_addresses_that_name_no_folder_are_refused(uri: str) -> None:
    with pytest.raises(AtlasInputError, match="s3://BUCKET/FOLDER"):
        open_atlas(uri)


def test_faults_of_set_up_say_what_to_do(server: ObjectServer, monkeypatch) -> None:
    with pytest.raises(StoreError, match="no atlas here"):
        open_atlas(f"s3://{BUCKET}/nothing")
    with pytest.raises(StoreError, match="make the bucket first"):
        open_atlas("s3://no-such-bucket/atlas")
    server.faults({"fault": "AccessDenied"})
    with pytest.raises(StoreError, match="check AWS_ACCESS_KEY_ID"):
        open_atlas(BASE)
    object_store._client.cache_clear()
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    with pytest.raises(StoreError, match=r"pip install 'panatlas\[s3\]'"):
        open_atlas(BASE)
    object_store._client.cache_clear()
