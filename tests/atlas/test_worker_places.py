"""Where workers are and what they leave: clusters of other software, scratch folders with locks and without."""

from __future__ import annotations

import errno
import fcntl
import sys
from typing import IO, TYPE_CHECKING

import pytest
from dask.distributed import LocalCluster
from distributed import versions

from atlas import ClusterError, IngestOptions, Workers, ingest_with
from atlas.workers import _own_keys, _scratch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.index
OURS = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": "127.0.0.1:0"}


def enter(uri: str, crew: Workers) -> None:
    """Begin an ingest of nothing."""
    with ingest_with(crew, [], uri, IngestOptions()):
        pass


def lock_as_nfs(file: IO[str], how: int, flock: Callable[[IO[str], int], None] = fcntl.flock) -> None:
    """Lock a file as a client of NFS does: alone only what is open for writing."""
    if how & fcntl.LOCK_EX and not file.writable():
        raise OSError(errno.EBADF, "Bad file descriptor")
    flock(file, how)


def test_a_cluster_that_has_no_panatlas_or_another_is_refused_before_it_is_sent_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = versions._version_cached
    with LocalCluster(**OURS, local_directory=str(tmp_path / "dask")) as cluster:
        crew = Workers(scheduler=cluster.scheduler_address, scratch=tmp_path / "scratch")
        enter(str(tmp_path / "atlas"), crew)
        monkeypatch.setattr("atlas.workers.version", lambda _name: "9.9")
        with pytest.raises(ClusterError, match=r"the scheduler: it has panatlas .*; install 9\.9 there"):
            enter(str(tmp_path / "atlas"), crew)
        monkeypatch.setattr(versions, "_version_cached", lambda name: None if name == "panatlas" else known(name))
        with pytest.raises(ClusterError, match=r"it has no panatlas; install 9\.9 there"):
            enter(str(tmp_path / "atlas"), crew)


def test_workers_whom_anybody_could_send_work_are_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    assert _own_keys() is None
    assert "without the package cryptography" in caplog.text


def test_a_scratch_folder_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lock(_file: object, _how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("atlas.workers.fcntl.flock", lock)
    with (
        pytest.raises(ClusterError, match=r"cannot be locked .*No locks available.*--scratch"),
        _scratch(Workers(count=1, scratch=tmp_path)),
    ):
        pytest.fail("nobody may work there")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_goes_with_the_next_and_what_a_running_one_has_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atlas.workers._CONNECT", "1s")
    monkeypatch.setattr("atlas.workers.fcntl.flock", lock_as_nfs)
    left, used, mine = (tmp_path / name for name in ("handover-left", "handover-used", "mine"))
    for folder in (left, used, mine):
        folder.mkdir()
        (folder / "lock").touch()
    with (used / "lock").open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ClusterError):
            enter(str(tmp_path / "atlas"), Workers(scheduler="tcp://127.0.0.1:9", scratch=tmp_path))
    assert (left.exists(), used.exists(), mine.exists()) == (False, True, True)
