"""Ingest with workers: the atlas of one process, whatever dies, runs full or is stopped on the way."""

from __future__ import annotations

import multiprocessing as mp
import os
import pickle
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import psutil
import pytest
import scipy.sparse as sp

from atlas import (
    AtlasInputError,
    ClusterError,
    IngestOptions,
    Receipt,
    Source,
    SourceError,
    StoreError,
    Workers,
    content_hash,
    ingest,
    ingest_with,
    open_atlas,
)
from atlas.handover import Asked, Failed, HandedOver, ask, hand_over
from atlas.ingest import with_neighbours
from atlas.ledger import Ledger
from atlas.look import SourceLook
from ontology import UnknownOrganismError
from tests.factories import make_adata, write_source
from tests.servers import Files, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.index
FAST = IngestOptions(doublets=False, neighbours=False)


def together(sources: list[Source], uri: str, crew: Workers, options: IngestOptions = FAST) -> list[Receipt]:
    with ingest_with(crew, sources, uri, options) as ingest_one:
        return [ingest_one(source) for source in sources]


class Three:
    """Sources a, b and c, an atlas of a, and what atlases of more hold that nobody disturbed."""

    def __init__(self, folder: Path) -> None:
        sizes = {"a": 20, "b": 1000, "c": 20}
        self.files = {name: folder / f"{name}.h5ad" for name in sizes}
        self.source = {
            name: write_source(self.files[name], make_adata(n, 200, seed=i), id=name)
            for i, (name, n) in enumerate(sizes.items())
        }
        uri = str(folder / "atlas")
        ingest(self.source["a"], uri, FAST)
        self.begun = shutil.copytree(uri, folder / "begun")
        self.hashes = {"a": hash_of(uri)}
        for name in "bc":
            ingest(self.source[name], uri, FAST)
            self.hashes[f"a{'bc'[: 'bc'.index(name) + 1]}"] = hash_of(uri)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Three:
    return Three(tmp_path_factory.mktemp("three"))


def held(uri: str) -> pd.DataFrame:
    """Return every cell's row of obs, joinids and all."""
    return open_atlas(uri).query("human", every_cell=True).obs()


def hash_of(uri: str) -> str:
    return content_hash(open_atlas(uri))


@contextmanager
def stalling() -> Iterator[tuple[str, list[str]]]:
    """Run a server that keeps whoever asks waiting, without an answer; the list says what was asked for."""
    go = threading.Event()

    class Stalling(Files):
        def do_GET(self) -> None:  # noqa: N802 - the name is http.server's
            self.server.seen.append(self.path)
            go.wait(60)

    with serving(Stalling, {}) as server:
        try:
            yield f"http://127.0.0.1:{server.server_port}/", server.seen
        finally:
            go.set()


def until(true: object) -> None:
    """Wait until a function returns something."""
    for _ in range(1200):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("waited a minute for nothing")


def running(group: int) -> list[str]:
    """Return the processes of a group that have not ended."""
    done = subprocess.run(["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True, check=True)
    rows = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    return [args for pgid, stat, args in rows if int(pgid) == group and not stat.startswith("Z")]


@contextmanager
def deadly(files: dict[str, bytes]) -> Iterator[tuple[str, list[int]]]:
    """Run a server of files that kills the worker that asks, so many times as the list says."""
    left = [0]

    class Deadly(Files):
        def do_GET(self) -> None:  # noqa: N802 - the name is http.server's
            if left[0]:
                left[0] -= 1
                for child in mp.active_children():
                    ends = psutil.Process(child.pid).net_connections()
                    if self.client_address[1] in [end.laddr.port for end in ends if end.laddr]:
                        os.kill(child.pid, signal.SIGKILL)
            super().do_GET()

    with serving(Deadly, files) as server:
        yield f"http://127.0.0.1:{server.server_port}/", left


@pytest.mark.slow
def test_two_workers_one_of_them_killed_make_the_atlas_and_the_receipts_of_one_process(tmp_path: Path) -> None:
    """Some of the sources depend on those before: copies of their cells, the same content, a name that is taken."""
    first, copied, broken = make_adata(40, 3000), make_adata(40, 3000)[:25].copy(), make_adata(seed=5)
    copied.obs_names = [f"again{i}" for i in range(25)]
    broken.X.data[3] = 0.5
    named = {"a": first, "copy": copied, "broken": broken, "b": make_adata(30, 400, seed=7)}
    sources = [write_source(tmp_path / f"{name}.h5ad", adata, id=name) for name, adata in named.items()]
    sources[1:1] = [replace(sources[0], constants={"sex": "female"})]
    sources += [write_source(tmp_path / "taken.h5ad", make_adata(seed=6), id="a")]
    options = IngestOptions(doublets=False)
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    with deadly({"copy.h5ad": (tmp_path / "copy.h5ad").read_bytes()}) as (server, left):
        sources[2] = replace(sources[2], uri=f"{server}copy.h5ad")
        meant = [ingest(source, one, options) for source in sources]
        left[0] = 1
        got = together(sources, two, Workers(count=2, scratch=tmp_path / "scratch"), options)
        assert left == [0]
    assert [r.status for r in meant] == ["written", "unchanged", "written", "rejected", "written", "rejected"]
    assert [replace(r, seconds=0) for r in got] == [replace(r, seconds=0) for r in meant]
    pd.testing.assert_frame_equal(held(two), held(one))
    assert hash_of(two) == hash_of(one)
    assert open_atlas(two).neighbours("human", 0, 65).nnz > 100
    told = [[(r["source_id"], r["status"]) for r in open_atlas(uri).receipts()] for uri in (one, two)]
    assert told[0] == told[1], "every receipt is in the ledger, in the order of the sources"
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.slow
def test_a_source_that_kills_every_worker_stops_no_other_and_a_rerun_finishes(tmp_path: Path, three: Three) -> None:
    uri, scratch = str(shutil.copytree(three.begun, tmp_path / "atlas")), tmp_path / "scratch"
    with deadly({"b.h5ad": three.files["b"].read_bytes()}) as (server, left):
        left[0] = 9
        sources = [replace(three.source["b"], uri=f"{server}b.h5ad"), three.source["c"]]
        with ingest_with(Workers(count=1, scratch=scratch), sources, uri, FAST) as ingest_one:
            until(lambda: left[0] < 9)
            assert hash_of(uri) == three.hashes["a"], "what a worker does, and how it ends, is nothing to the atlas"
            with pytest.raises(ClusterError, match=r"workers of b: 3 died"):
                ingest_one(sources[0])
            assert ingest_one(sources[1]).status == "written"
    assert left == [6], "looked at three times"
    assert list(scratch.iterdir()) == []
    assert ingest(three.source["b"], uri, FAST).status == "written"
    assert hash_of(uri) == three.hashes["abc"]


@pytest.mark.slow
def test_a_full_disk_where_workers_write_leaves_the_atlas_and_a_rerun_finishes(tmp_path: Path, three: Three) -> None:
    """By way of a cluster that is there already, whose workers' files may not grow beyond some size for a while."""
    from dask.distributed import Client, LocalCluster

    uri, sources = str(shutil.copytree(three.begun, tmp_path / "atlas")), [three.source["c"], three.source["b"]]
    quiet = {"dashboard_address": "127.0.0.1:0", "local_directory": str(tmp_path / "dask"), "silence_logs": 50}
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, **quiet) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        crew = Workers(scheduler=cluster.scheduler_address, scratch=tmp_path / "scratch")
        client.run(resource.setrlimit, resource.RLIMIT_FSIZE, (80_000, resource.RLIM_INFINITY))
        with ingest_with(crew, sources, uri, FAST) as ingest_one:
            assert ingest_one(sources[0]).status == "written"
            before = hash_of(uri)
            with pytest.raises(StoreError, match=rf"hand over of .*{socket.gethostname()}; free space"):
                ingest_one(sources[1])
        assert list((tmp_path / "scratch").iterdir()) == []
        assert hash_of(uri) == before
        client.run(resource.setrlimit, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert [r.status for r in together(sources, uri, crew)] == ["unchanged", "written"]
    assert list((tmp_path / "scratch").iterdir()) == []
    assert hash_of(uri) == three.hashes["abc"]


@pytest.mark.slow
def test_a_second_writer_is_told_who_writes_and_ctrl_c_leaves_no_trace(tmp_path: Path, three: Three) -> None:
    uri, scratch, b = str(shutil.copytree(three.begun, tmp_path / "atlas")), tmp_path / "scratch", three.source["b"]
    with stalling() as (server, asked):
        command = [sys.executable, "-m", "catalog.cli", "ingest", "human", "--source", f"{server}b.h5ad"]
        command += ["--atlas", uri, "--workers", "2", "--scratch", str(scratch)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        other = subprocess.Popen(command, start_new_session=True, **pipes)
        try:
            until(lambda: asked or other.poll() is not None)
            assert other.poll() is None, other.communicate()
            with pytest.raises(StoreError, match=f"process {other.pid} on {socket.gethostname()} is writing"):
                ingest(b, uri, FAST)
            with pytest.raises(StoreError, match="is writing"), ingest_with(Workers(count=1), [b], uri, FAST):
                pass
            assert [p.name[:9] for p in scratch.iterdir()] == ["handover-"]
            os.killpg(other.pid, signal.SIGINT)  # as a terminal does: to the process and all of its workers
            out, err = other.communicate(timeout=60)
        finally:
            if other.poll() is None:
                os.killpg(other.pid, signal.SIGKILL)
                other.communicate()
    assert (other.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert "panatlas ingest human" in err
    assert list(scratch.iterdir()) == []
    until(lambda: not running(other.pid))
    assert hash_of(uri) == three.hashes["a"]
    assert ingest(b, uri, FAST).status == "written"
    assert hash_of(uri) == three.hashes["ab"]


@pytest.mark.slow
def test_workers_are_started_anew_where_none_is_left(
    tmp_path: Path, three: Three, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dask does not replace a worker that dies while it starts, which a busy machine brings about."""
    monkeypatch.setattr("atlas.workers._NONE_LEFT_S", 1.0)
    uri = str(shutil.copytree(three.begun, tmp_path / "atlas"))
    with ingest_with(Workers(count=1), [three.source["c"]], uri, FAST) as ingest_one:
        (nanny,) = ingest_one._client.cluster.workers.values()
        ingest_one._client.sync(nanny.close)
        assert ingest_one(three.source["c"]).status == "written"


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return ask(IngestOptions(doublets=False), "human", tmp_path, None)


def test_what_is_handed_over_is_what_was_seen(tmp_path: Path, asked: Asked) -> None:
    adata = make_adata(50, 3000)
    adata.X = sp.csr_matrix(adata.X.multiply((np.arange(50) != 7)[:, None]))  # one cell has no counts
    source = write_source(tmp_path / "a.h5ad", adata, id="a")
    seen = pickle.loads(pickle.dumps(hand_over(source, asked)))
    assert isinstance(seen, HandedOver)
    with SourceLook(source, asked.options) as look:
        assert (seen.blank, seen.prove()) == (look.blank, look.prove())
        prepared, meant = seen.prepare("a"), look.prepare("a")
        assert prepared.receipt == meant.receipt
        pd.testing.assert_frame_equal(prepared.obs, meant.obs)
        assert len(prepared.obs) == 49
        np.testing.assert_array_equal(prepared.genes.measured, meant.genes.measured)
        counts, real = (sp.vstack(list(side.blocks(meant))) for side in (seen, look))
    assert counts.dtype == real.dtype
    assert (counts != real).nnz == 0
    eligible = with_neighbours(prepared)
    assert seen.neighbours(eligible).nnz > 100
    eligible[np.flatnonzero(eligible)[0]] = False
    assert seen.neighbours(eligible) is None, "found among other cells than asked for"
    seen.clear()
    assert not seen.folder.exists()


def test_nobody_looks_twice_at_what_the_atlas_has(tmp_path: Path, asked: Asked) -> None:
    uri = str(tmp_path / "atlas")
    source = write_source(tmp_path / "a.h5ad", id="a")
    written = ingest(source, uri, FAST)
    with Ledger(tmp_path / "atlas" / "ledger" / "ledger.sqlite") as ledger:
        asked = ask(FAST, "human", tmp_path, ledger)
    same = hand_over(source, asked)
    assert (same.content_sha256, same.folder, same.refused) == (None, None, ())
    other = hand_over(replace(source, constants={"sex": "female"}), asked)
    assert (other.content_sha256, other.folder) == (written.content_sha256, None)


def test_a_worker_that_would_work_otherwise_or_out_of_sight_refuses(tmp_path: Path, asked: Asked) -> None:
    source = write_source(tmp_path / "a.h5ad", id="a")
    other = hand_over(source, replace(asked, versions=asked.versions | {"overrides": "0" * 16}))
    with pytest.raises(ClusterError, match=rf"{socket.gethostname()}: it has overrides \w+, not 0000.*PANATLAS_HOME"):
        raise other.error()
    with pytest.raises(ClusterError, match=r"does not see .*gone; pass --scratch"):
        raise hand_over(source, replace(asked, scratch=tmp_path / "gone")).error()


@pytest.mark.parametrize(
    "error",
    [
        SourceError("a.h5ad", "a file", "nothing"),
        StoreError("./atlas", "open", "no"),
        UnknownOrganismError("x", ("y",)),
    ],
    ids=lambda e: type(e).__name__,
)
def test_an_error_comes_back_from_a_worker_as_it_was(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(Failed(type(error), error.args, error.__dict__))).error()
    assert (type(again), str(again), again.__dict__) == (type(error), str(error), error.__dict__)


@pytest.mark.parametrize(
    "fields", [{}, {"count": -1}, {"count": 2, "scheduler": "tcp://a:1"}, {"scheduler": "node1"}], ids=str
)
def test_workers_are_a_number_or_an_address(fields: dict[str, object]) -> None:
    with pytest.raises(AtlasInputError, match=r"workers|scheduler"):
        Workers(**fields)


def test_a_scheduler_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atlas.workers._CONNECT", "1s")
    crew = Workers(scheduler="tcp://127.0.0.1:9", scratch=tmp_path / "scratch")
    with pytest.raises(ClusterError, match=r"tcp://127.0.0.1:9.*start the scheduler"):
        together([], str(tmp_path / "atlas"), crew)
    assert list((tmp_path / "scratch").iterdir()) == []
