"""What TileDB-SOMA does silently wrong, or slowly, and how an atlas keeps clear of it.

Others of these have their tests where they belong: categories lost by the handle that created a frame, and more than
127 of them (test_store); writers that add categories at once, which a lock keeps apart (test_ledger,
test_object_storage); rows out of order (test_store, test_record_store); a kill between two arrays (test_ingest,
test_doctor); vacuuming what a release reads (test_consolidate).
"""

from __future__ import annotations

import ast
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tiledbsoma as soma

from atlas import IngestOptions, consolidate, content_hash, ingest, layout, open_atlas, store, validate
from atlas.workers import _SETTINGS
from tests.factories import make_adata, write_source

ROOT = Path(__file__).resolve().parents[2]
FLOORS = ("ontology", "atlas", "loaders", "model", "catalog")


@pytest.mark.parametrize("options", [layout.x_options(10), layout.presence_options(10), layout.neighbour_options()])
def test_a_range_that_is_written_again_counts_once(tmp_path: Path, options: dict) -> None:
    """With duplicates allowed, which is TileDB-SOMA's own choice of speed, both would be added up."""
    uri = str(tmp_path / "x")
    soma.SparseNDArray.create(uri, type=pa.float32(), shape=(4, 10), platform_config=options).close()
    rows = {"soma_dim_0": np.array([0, 0, 1]), "soma_dim_1": np.array([2, 5, 1])}
    for values in ([1, 2, 3], [4, 5, 6]):
        with soma.SparseNDArray.open(uri, "w") as array:
            array.write(pa.table(rows | {"soma_data": pa.array(values, pa.float32())}))
        store.tick()
    with soma.SparseNDArray.open(uri) as array:
        found = array.read().tables().concat().to_pandas()
    assert found.to_numpy().tolist() == [[0, 2, 4], [0, 5, 5], [1, 1, 6]]


@pytest.mark.index
def test_nobody_asks_for_a_number_of_values_or_forks_and_categories_beyond_127_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without duplicates `nnz` is a scan of all that is stored; a fork with TileDB's context in it hangs."""
    monkeypatch.setattr(soma.SparseNDArray, "nnz", property(lambda _self: pytest.fail("asked for nnz")))
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked"))
    uri, meant = str(tmp_path / "atlas"), {}
    for seed, name in enumerate("ab"):
        adata = make_adata(140, 60, seed=seed)
        adata.obs["donor_id"] = ["of both", *(f"{name}{i}" for i in range(139))]
        meant |= dict(zip(adata.obs_names, adata.obs["donor_id"], strict=True))
        source = write_source(tmp_path / f"{name}.h5ad", adata, id=name)
        assert ingest(source, uri, IngestOptions(doublets=False)).status == "written"
    atlas = open_atlas(uri)
    obs = atlas.query("human", every_cell=True).obs(["cell_name", "donor_id"])
    assert dict(zip(obs["cell_name"], obs["donor_id"].astype(str), strict=True)) == meant
    assert obs["donor_id"].nunique() == 279
    assert validate(atlas).findings == ()
    before = content_hash(atlas)
    consolidate(uri)
    assert content_hash(open_atlas(uri)) == before


@pytest.fixture(scope="module")
def code() -> list[ast.AST]:
    """Return every node of the package's code."""
    paths = (path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py")))
    return [node for path in paths for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]


def test_every_process_of_ours_is_spawned(code: list[ast.AST]) -> None:
    named = {node.attr for node in code if isinstance(node, ast.Attribute)}
    assert not named & {"fork", "forkpty", "Pool", "Process", "ProcessPoolExecutor", "get_context"}
    assert not {"fork", "forkserver"} & {
        node.value for node in code if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    loaders = [
        {word.arg: word.value for word in node.keywords}
        for node in code
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "DataLoader"
    ]
    several = [words for words in loaders if "num_workers" in words]
    assert several, "somebody reads with several processes"
    assert {ast.literal_eval(words["multiprocessing_context"]) for words in several} == {"spawn"}
    assert _SETTINGS["distributed.worker.multiprocessing-method"] == "spawn"
