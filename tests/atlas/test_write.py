"""What is asked before anything is written, and how blocks of cells become fragments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.sparse as sp
import tiledbsoma as soma

from atlas import IngestOptions, StoreError, ingest, write
from tests.factories import make_adata, write_source

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.index
FAST = IngestOptions(doublets=False, neighbours=False)


def test_an_atlas_of_another_schema_is_refused_before_reading_also_in_a_dry_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    uri = str(tmp_path / "atlas")
    ingest(write_source(tmp_path / "a.h5ad", id="a"), uri, FAST)
    with soma.Collection.open(uri, "w") as tree_:
        tree_.metadata["panatlas_schema_version"] = "0.1.0"
    source = write_source(tmp_path / "b.h5ad", make_adata(seed=3), id="b")
    monkeypatch.setattr("atlas.look.open_source", lambda *_: pytest.fail("read"))
    for dry_run in (True, False):
        with pytest.raises(StoreError, match=r"its schema is 0\.1\.0"):
            ingest(source, uri, IngestOptions(doublets=False, dry_run=dry_run))
    assert "leftovers" not in caplog.text


def test_cells_without_counts_at_the_end_are_written_like_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atlas.layout.NNZ_PER_FRAGMENT", 2)
    full = sp.csr_matrix(np.ones((2, 3), np.float32))
    blocks = [full, sp.csr_matrix((0, 3), dtype=np.float32), sp.csr_matrix((2, 3), dtype=np.float32)]
    written = [[t.num_rows for t in packed] for _, packed in write._fragments(blocks, 0)]
    assert written == [[2], [2]]
    assert [[t.num_rows for t in packed] for _, packed in write._fragments(blocks[1:2], 0)] == []
