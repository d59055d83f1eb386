"""Upkeep of an atlas on object storage does there what it does in a folder.

Against a real S3 server on this machine (`tests.object_server`).
"""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
import tiledbsoma as soma

from atlas import IngestOptions, consolidate, content_hash, find_leftovers, ingest, open_atlas, retract, store
from atlas.contexts import context_of, opened
from atlas.object_store import ObjectPlace
from tests.factories import make_adata, write_source
from tests.object_server import BUCKET, ObjectServer, served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.index
FAST = IngestOptions(doublets=False, neighbours=False)
MODULE = sys.modules["atlas.consolidate"]  # the facade gives the function of that name


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectServer]:
    with served() as running:
        yield running


def test_of_the_files_that_join_metadata_the_last_two_stay(server: ObjectServer) -> None:
    root = ObjectPlace(BUCKET, "bare")
    array, metadata = root / "x", root / "x" / "__fragment_meta"
    soma.SparseNDArray.create(str(array), type=pa.float32(), shape=(9, 9), context=context_of(array)).close()
    seen = []
    for row in range(4):
        store.tick()
        ones = pa.array([row]), pa.array([row]), pa.array([1.0], pa.float32())
        with opened(soma.SparseNDArray, array, "w") as handle:
            handle.write(pa.table(dict(zip(("soma_dim_0", "soma_dim_1", "soma_data"), ones, strict=True))))
        MODULE._join_metadata(root, array)
        seen.append(set(metadata.inside()))
    assert [len(names) for names in seen] == [0, 1, 2, 2]
    assert all(len(now - before) == 1 for before, now in itertools.pairwise(seen))
    assert seen[1] < seen[2], "whoever opened the array just now may be about to read what was the last"
    assert not seen[1] & seen[3]
    with opened(soma.SparseNDArray, array) as handle:
        assert handle.nnz == 4


@pytest.mark.slow
def test_consolidating_and_retracting_there_is_what_it_is_in_a_folder(
    server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "atlas", ObjectPlace(BUCKET, "atlas")
    for seed, name in enumerate("ab"):
        source = write_source(tmp_path / f"{name}.h5ad", make_adata(12, 60, seed=seed), id=name)
        assert ingest(source, str(here), FAST).status == "written"
    for file in (p for p in here.rglob("*") if p.is_file()):
        (there / file.relative_to(here).as_posix()).write(file.read_bytes(), None)
    before = open_atlas(str(there))
    monkeypatch.setattr(MODULE, "MOST_FRAGMENTS", 1)
    done = [consolidate(str(place)) for place in (here, there)]
    assert len({(one.status, *one.rewritten.items(), *one.joined.items()) for one in done}) == 1
    for place in (here, there):
        assert retract(str(place), "b", "why").rewritten == 12
    assert content_hash(open_atlas(str(there))) == content_hash(open_atlas(str(here)))
    assert open_atlas(str(there), at=before.published_ms) == before
    assert find_leftovers(str(there)) == ()
