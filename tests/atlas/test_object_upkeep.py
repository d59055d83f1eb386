"""Upkeep of an atlas on object storage does there what it does in a folder.

Against a real S3 server on this machine (`tests.object_server`).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from atlas import (
    IngestOptions,
    consolidate,
    content_hash,
    find_leftovers,
    ingest,
    layout,
    open_atlas,
    retract,
    validate,
)
from atlas.object_store import ObjectPlace
from tests.factories import make_adata, write_source
from tests.object_server import BUCKET, served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.index
FAST = IngestOptions(doublets=False, neighbours=False)
X = f"{layout.DATA}/homo_sapiens/{layout.X_RAW}"


@pytest.fixture
def uri(tmp_path: Path) -> Iterator[str]:
    """Give the address of an atlas of two datasets, which was put into the bucket as any tool for S3 would."""
    for seed, name in enumerate("ab"):
        source = write_source(tmp_path / f"{name}.h5ad", make_adata(12, 60, seed=seed), id=name)
        assert ingest(source, str(tmp_path / "atlas"), FAST).status == "written"
    with served():
        place = ObjectPlace(BUCKET, "atlas")
        for file in (p for p in (tmp_path / "atlas").rglob("*") if p.is_file()):
            (place / file.relative_to(tmp_path / "atlas").as_posix()).write(file.read_bytes(), None)
        yield str(place)


def test_consolidating_and_retracting_there_is_what_it_is_in_a_folder(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["atlas.consolidate"], "MOST_FRAGMENTS", 1)
    folder = str(tmp_path / "atlas")
    before, metadata = open_atlas(uri), ObjectPlace.parse(f"{uri}/{X}/__fragment_meta")
    there, here = consolidate(uri), consolidate(folder)
    assert (there.status, there.rewritten, there.joined) == (here.status, here.rewritten, here.joined)
    assert len(first := metadata.inside()) == 1
    for former in (first, None):
        source = write_source(
            tmp_path / "c.h5ad", make_adata(5, 60, seed=9 if former else 10), id="c" if former else "d"
        )
        assert ingest(source, uri, FAST).status == "written"
        assert consolidate(uri).joined[X] == 3 if former else 4
        last = metadata.inside()
        if former:
            assert set(first) < set(last), "whoever opened the array just now may be about to read it"
    assert len(last) == 2
    assert not set(first) & set(last)
    assert content_hash(open_atlas(uri, at=before.published_ms)) == content_hash(before)
    for name in "cd":
        retract(uri, name, "why")
    retract(uri, "a", "why")
    retract(folder, "a", "why")
    assert content_hash(open_atlas(uri)) == content_hash(open_atlas(folder))
    assert validate(uri).findings == ()
    assert find_leftovers(uri) == ()
    assert open_atlas(uri, at=before.published_ms).n_cells("human") == 24
