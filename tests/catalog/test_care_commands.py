"""`panatlas validate`, `doctor` and `diff` through the command line: what is said and removed, and the exit codes."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from atlas import IngestOptions, content_hash, ingest, open_atlas
from catalog.cli import run
from tests.factories import make_adata, write_source

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.index


@pytest.fixture(scope="module")
def base(session_home: Path, tmp_path_factory) -> Path:
    """An atlas of one dataset with a release."""
    folder = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PANATLAS_HOME", str(session_home))
        source = write_source(folder / "a.h5ad", make_adata(40, 300), id="a")
        ingest(source, str(folder / "atlas"), IngestOptions(doublets=False, neighbours=False))
        assert run(["release", "v1", "--atlas", str(folder / "atlas"), "--json"]) == 0
    return folder / "atlas"


@pytest.fixture
def atlas(base: Path, session_home: Path, tmp_path: Path, monkeypatch) -> Path:
    """A copy of it, and a home of its own that shares the cache of references."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "cache").symlink_to((session_home / "cache").resolve(), target_is_directory=True)
    monkeypatch.setenv("PANATLAS_HOME", str(home))
    return shutil.copytree(base, home / "atlas")


def ask(capsys, *words: str) -> tuple[int, dict]:
    """Run a command with --json; return its exit code and what it printed."""
    capsys.readouterr()
    code = run([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def spoil(file: Path) -> None:
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"?")


def test_a_sound_atlas_ends_with_0_and_prints_its_content(atlas: Path, capsys) -> None:
    code, found = ask(capsys, "validate")
    assert (code, found["sound"], found["findings"]) == (0, True, [])
    assert found["content_hash"] == content_hash(open_atlas(str(atlas)))
    assert found["cells"] == {"homo_sapiens": 40}
    assert run(["validate"]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert found["content_hash"] in said.err


def test_a_fault_ends_with_3(atlas: Path, capsys) -> None:
    with closing(sqlite3.connect(atlas / "ledger" / "ledger.sqlite")) as db:
        db.execute("UPDATE dataset SET content_sha256 = 'another'")
        db.commit()
    code, found = ask(capsys, "validate")
    assert code == 3
    assert {f["code"] for f in found["findings"]} == {"ledger-differs", "datasets-differ"}


def test_a_release_is_checked_with_its_files(atlas: Path, capsys) -> None:
    assert ask(capsys, "validate", "--release", "v1")[0] == 0
    spoil(atlas / "releases" / "v1" / "splits.parquet")
    code, found = ask(capsys, "validate", "--release", "v1")
    assert code == 3
    assert [(f["code"], f["where"]) for f in found["findings"]] == [("release-differs", "releases/v1/splits.parquet")]
    assert ask(capsys, "validate")[0] == 0, "the store itself is whole"
    assert run(["validate", "--release", "v9"]) == 2
    assert run(["validate", "--atlas", str(atlas / "nowhere")]) == 4


def test_doctor_has_nothing_to_say_of_a_sound_atlas(atlas: Path, capsys) -> None:
    assert ask(capsys, "doctor", "--repair") == (0, {"found": [], "done": [], "left": []})


def test_a_release_that_was_never_finished_is_removed_on_request_only(atlas: Path, capsys) -> None:
    part = atlas / "releases" / ".part-abc"
    part.mkdir()
    (part / "splits.parquet").write_bytes(b"half")
    code, said = ask(capsys, "doctor")
    assert code == 4
    assert [f["code"] for f in said["left"]] == ["unfinished-part"]
    assert part.exists()
    code, said = ask(capsys, "doctor", "--repair")
    assert (code, said["left"]) == (0, [])
    assert str(part) in said["done"][0]
    assert not part.exists()
    assert ask(capsys, "validate", "--release", "v1")[0] == 0


def test_what_somebody_may_be_making_is_told_and_stays(atlas: Path, capsys) -> None:
    """A maker of releases holds a lock; others are known by what changed within the hour."""
    parts = [atlas / "releases" / ".part-locked", atlas / "tables" / ".part-young", atlas.parent / "models" / ".part-m"]
    for part in parts:
        part.mkdir(parents=True)
    old = time.time() - 7_200
    os.utime(parts[2], (old, old))
    handle = os.open(atlas / "releases", os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        code, said = ask(capsys, "doctor", "--repair")
    finally:
        os.close(handle)
    assert code == 0
    assert [f["code"] for f in said["left"]] == ["part-in-the-making"] * 2
    assert [part.exists() for part in parts] == [True, True, False]


def test_a_damaged_release_is_told_by_doctor(atlas: Path, capsys) -> None:
    spoil(atlas / "releases" / "v1" / "manifest.json")
    code, said = ask(capsys, "doctor")
    assert code == 4
    assert [(f["code"], f["where"]) for f in said["left"]] == [("release-differs", "releases/v1")]


def test_what_a_stopped_ingest_reserved_is_given_back(atlas: Path, capsys) -> None:
    with closing(sqlite3.connect(atlas / "ledger" / "ledger.sqlite")) as db:
        db.execute("INSERT INTO atlas VALUES ('in_flight', '1')")
        db.commit()
    code, said = ask(capsys, "doctor")
    assert (code, [f["code"] for f in said["left"]]) == (4, ["unfinished-ingest"])
    code, said = ask(capsys, "doctor", "--repair")
    assert (code, len(said["done"]), said["left"]) == (0, 1, [])


def test_diff_prints_what_is_different(atlas: Path, capsys) -> None:
    assert run(["release", "v2", "--validation", "donor:a/donor1"]) == 0
    code, found = ask(capsys, "diff", "v1", "v2")
    assert code == 0
    assert found["cells"] == {"added": 0, "removed": 0, "both": 40, "counts": 0}
    assert list(found["splits"]["settings"]) == ["pinned"]
    assert not found["same"]
    assert run(["diff", "v1", "v1"]) == 0
    assert "the same content" in capsys.readouterr().err
    assert run(["diff", "v1", "v9"]) == 2
