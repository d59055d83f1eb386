"""What a killed ingest leaves is named and taken back; what is nobody's to remove is only named."""

from __future__ import annotations

import multiprocessing as mp
import os
import shutil
import signal
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
import tiledbsoma as soma

from atlas import (
    IngestOptions,
    StoreError,
    content_hash,
    find_leftovers,
    ingest,
    layout,
    open_atlas,
    repair_atlas,
    store,
    write,
)
from atlas.ledger import Ledger, writer_lock
from tests.factories import make_adata, write_source

if TYPE_CHECKING:
    from pathlib import Path

    from atlas import Finding, Source

pytestmark = pytest.mark.index
FAST = IngestOptions(doublets=False, neighbours=False)


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> list[Source]:
    folder = tmp_path_factory.mktemp("sources")
    return [write_source(folder / f"{n}.h5ad", make_adata(20, 80, seed=i), id=n) for i, n in enumerate("ab")]


@pytest.fixture(scope="module")
def base(sources, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("base") / "atlas"
    assert ingest(sources[0], str(root), FAST).status == "written"
    return root


@pytest.fixture
def copy(base: Path, tmp_path: Path) -> Path:
    return shutil.copytree(base, tmp_path / "atlas")


def codes(found: tuple[Finding, ...]) -> list[str]:
    return [finding.code for finding in found]


def tree(root: Path) -> dict[str, int]:
    """Return every file of the SOMA tree, but for enumerations no schema names, which a roll-back leaves."""
    apart = {store.LEDGER, "__enumerations"}
    files = (p for p in root.rglob("*") if p.is_file() and not apart & set(p.relative_to(root).parts))
    return {str(p.relative_to(root)): p.stat().st_size for p in files}


def ingest_and_die(source: Source, uri: str, stage: str) -> None:
    """Ingest, and be killed when the named stage of writing has just run."""
    real = getattr(write, stage)

    def die(*args: object) -> object:
        real(*args)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(write, stage, die)
    ingest(source, uri, FAST)


def kill(source: Source, root: Path, stage: str) -> None:
    process = mp.get_context("spawn").Process(target=ingest_and_die, args=(source, str(root), stage))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def write_past_the_ledger(root: Path) -> None:
    uri = store.array_uri(root, "homo_sapiens", layout.X_RAW)
    with soma.SparseNDArray.open(uri, "w") as array:
        values = {"soma_dim_0": np.array([3]), "soma_dim_1": np.array([3]), "soma_data": np.array([9], np.float32)}
        array.write(pa.table(values))


def test_a_sound_atlas_has_no_leftovers_and_is_left_alone(copy: Path) -> None:
    before = tree(copy)
    assert find_leftovers(str(copy)) == ()
    assert repair_atlas(str(copy)) == ()
    assert tree(copy) == before


def test_a_killed_ingest_is_named_with_what_it_reserved_and_taken_back(
    base: Path, copy: Path, sources, tmp_path: Path
) -> None:
    undisturbed = shutil.copytree(base, tmp_path / "undisturbed")
    ingest(sources[1], str(undisturbed), FAST)
    before = tree(copy)
    kill(sources[1], copy, "write_obs")
    after = tree(copy)
    found = find_leftovers(str(copy))
    assert tree(copy) == after, "looking changes nothing"
    assert codes(found) == ["unfinished-ingest", "unpublished-writes"]
    assert "b, 20 cells of homo_sapiens from 20" in found[0].found
    assert found[1].count > 0
    said = repair_atlas(str(copy))
    assert len(said) == 2
    assert "b" in said[1]
    assert tree(copy) == before
    assert find_leftovers(str(copy)) == ()
    assert ingest(sources[1], str(copy), FAST).status == "written"
    assert content_hash(open_atlas(str(copy))) == content_hash(open_atlas(str(undisturbed)))


def test_a_killed_first_ingest_leaves_nothing_after_repair(tmp_path: Path, sources) -> None:
    kill(sources[0], tmp_path / "atlas", "write_counts")
    assert codes(find_leftovers(str(tmp_path / "atlas"))) == ["unfinished-ingest", "unpublished-writes"]
    assert repair_atlas(str(tmp_path / "atlas"))
    assert find_leftovers(str(tmp_path / "atlas")) == ()
    assert sorted(p.name for p in (tmp_path / "atlas").iterdir()) == [store.LEDGER]


def test_writes_past_the_ledger_are_named_and_removed(copy: Path) -> None:
    """Nobody would see them until the next ingest published them together with its own cells."""
    before = tree(copy)
    write_past_the_ledger(copy)
    (finding,) = find_leftovers(str(copy))
    assert finding.code == "unpublished-writes"
    assert "__fragments" in finding.found or "__commits" in finding.found
    assert repair_atlas(str(copy))
    assert tree(copy) == before


def test_a_running_ingest_is_not_mistaken_for_leftovers(copy: Path) -> None:
    write_past_the_ledger(copy)
    after = tree(copy)
    with writer_lock(copy / store.LEDGER):
        (finding,) = find_leftovers(str(copy))
        assert (finding.code, finding.severity) == ("writer-at-work", "info")
        assert f"process {os.getpid()}" in finding.found
        assert repair_atlas(str(copy)) == ()
    assert tree(copy) == after
    assert codes(find_leftovers(str(copy))) == ["unpublished-writes"], "the lock goes with its holder"


@pytest.mark.parametrize("left", ["nothing", "an empty ledger"])
def test_a_store_no_ledger_knows_is_never_removed(copy: Path, left: str) -> None:
    """A copy of the Census into which somebody tried to ingest has an empty ledger beside it."""
    before = tree(copy)
    shutil.rmtree(copy / store.LEDGER)
    if left == "an empty ledger":
        Ledger(copy / store.LEDGER / "ledger.sqlite").close()
    (finding,) = find_leftovers(str(copy))
    assert (finding.code, finding.severity) == ("no-ledger", "error")
    assert repair_atlas(str(copy)) == ()
    assert tree(copy) == before


def test_half_a_ledger_is_named(copy: Path) -> None:
    with closing(sqlite3.connect(copy / store.LEDGER / "ledger.sqlite")) as db:
        db.execute("DELETE FROM atlas")
        db.commit()
    (finding,) = find_leftovers(str(copy))
    assert finding.code == "damaged-ledger"
    assert "published moment is 0" in finding.found
    before = tree(copy)
    assert repair_atlas(str(copy)) == ()
    assert tree(copy) == before


def test_a_ledger_that_is_none_is_named(copy: Path) -> None:
    for file in (copy / store.LEDGER).glob("ledger.sqlite*"):
        file.unlink()
    (copy / store.LEDGER / "ledger.sqlite").write_bytes(b"no database" * 1_000)
    (finding,) = find_leftovers(str(copy))
    assert finding.code == "damaged-ledger"
    assert "restore" in finding.remedy


def test_a_lost_store_is_named(copy: Path) -> None:
    for path in copy.iterdir():
        if path.name != store.LEDGER:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert codes(find_leftovers(str(copy))) == ["lost-store"]
    assert repair_atlas(str(copy)) == ()


def test_no_atlas_is_an_error(tmp_path: Path) -> None:
    for ask in (find_leftovers, repair_atlas):
        with pytest.raises(StoreError, match="no atlas here"):
            ask(str(tmp_path))
