"""A dataset is taken out: what is left is what the others alone give, and every earlier moment reads as before."""

from __future__ import annotations

import multiprocessing as mp
import os
import shutil
import signal
from typing import TYPE_CHECKING

import anndata as ad
import cellxgene_census
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import tiledbsoma as soma

from atlas import (
    AtlasInputError,
    IngestOptions,
    ResultKey,
    content_hash,
    editions,
    find_leftovers,
    ingest,
    open_atlas,
    repair_atlas,
    retract,
    store,
    validate,
    write_results,
)
from tests.factories import make_adata, write_source

if TYPE_CHECKING:
    from pathlib import Path

    from atlas import Atlas, Source

pytestmark = pytest.mark.index
OPTIONS = IngestOptions(doublets=False)
FAST = IngestOptions(doublets=False, neighbours=False)
HUMAN = "homo_sapiens"
EMBEDDING, LABELS, ALONE = (ResultKey(kind, "r1", "0a1b2c3d4e5f") for kind in ("embedding", "labels", "imputed"))
NETWORK = ResultKey("grn-pearson", "r1", "none")
SHARED = 7
"""Cells of `a` that `b` has too."""


def with_copies(own: ad.AnnData, others: ad.AnnData) -> ad.AnnData:
    """Return a study that publishes some cells of another again."""
    both = ad.concat([own, others], join="outer", fill_value=0)
    both.X = sp.csr_matrix(both.X)
    both.obs_names = [f"own{i}" for i in range(both.n_obs)]
    return both


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Source]:
    folder = tmp_path_factory.mktemp("sources")
    a = make_adata(30, 120, seed=1)
    made = {
        "a": a,
        "b": with_copies(make_adata(24, 100, seed=2), a[:SHARED]),
        "c": make_adata(20, 110, seed=3),
        "m": make_adata(15, 80, organism="mouse", seed=4),
    }
    organism = {"m": "mouse"}
    return {n: write_source(folder / f"{n}.h5ad", x, id=n, organism=organism.get(n, "human")) for n, x in made.items()}


@pytest.fixture(scope="module")
def base(sources: dict[str, Source], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("base") / "atlas", sources, "abc")


@pytest.fixture
def copy(base: Path, tmp_path: Path) -> str:
    return str(shutil.copytree(base, tmp_path / "atlas"))


def build(root: Path, sources: dict[str, Source], names: str) -> Path:
    for name in names:
        assert ingest(sources[name], str(root), OPTIONS).status == "written"
    return root


def vectors(atlas: Atlas) -> np.ndarray:
    """Return an embedding of a cell that depends on the cell alone."""
    ids = atlas.query("human", every_cell=True).obs(["observation_joinid"])["observation_joinid"]
    return np.array([[int(i[:6], 16), int(i[6:12], 16)] for i in ids], np.float32)


def write_some_results(uri: str) -> None:
    """Write what models said of every third cell, of one dataset's cells alone, and a network."""
    atlas = open_atlas(uri)
    n, genes = atlas.n_cells("human"), len(atlas.genes("human"))
    cells = np.arange(0, n, 3)
    with write_results(uri, [(key, HUMAN) for key in (EMBEDDING, LABELS, ALONE, NETWORK)]) as writer:
        writer.matrix(EMBEDDING, HUMAN, (n, 2), {"command": "embed"}).append(cells, vectors(atlas)[cells])
        writer.matrix(ALONE, HUMAN, (n, genes), {}).append(np.arange(3), np.ones((3, 2)), np.array([5, 9]))
        names = [f"type of {first:.0f}" for first in vectors(atlas)[cells, 0]]
        writer.table(LABELS, HUMAN, pd.DataFrame({"soma_joinid": cells, "named": names}), {})
        weights = sp.csr_matrix(([0.5, 2.0], ([3, 8], [7, 1])), shape=(genes, genes), dtype=np.float32)
        network = writer.matrix(NETWORK, HUMAN, weights.shape, {"cells": n})
        network.append_sparse(weights)
        network.cells = n  # those it was read from


def census_of(uri: str, at: int | None) -> tuple[ad.AnnData, np.ndarray]:
    """Return what the official client reads at a moment: every human cell, and the presence matrix."""
    context = soma.SOMATileDBContext(timestamp=at)
    with cellxgene_census.open_soma(uri=uri, context=context) as census:
        cells = cellxgene_census.get_anndata(census, "Homo sapiens", obsm_layers=[EMBEDDING.member])
        return cells, cellxgene_census.get_presence_matrix(census, "Homo sapiens").toarray()


def same_cells(a: ad.AnnData, b: ad.AnnData) -> None:
    assert (a.X != b.X).nnz == 0
    np.testing.assert_array_equal(a.obsm[EMBEDDING.member], b.obsm[EMBEDDING.member])
    pd.testing.assert_frame_equal(a.obs.astype(str), b.obs.astype(str))
    pd.testing.assert_frame_equal(a.var, b.var)


def test_what_is_left_is_what_the_others_alone_give_and_before_it_all_is_as_it_was(
    copy: str, sources: dict[str, Source], tmp_path: Path
) -> None:
    write_some_results(copy)
    before, hash_before, read_before = open_atlas(copy), content_hash(open_atlas(copy)), census_of(copy, None)
    planned = retract(copy, "a", "why", dry_run=True)
    told = retract(copy, "a", " wrong donor ")
    assert planned.results == told.results
    assert [f for f in told.findings if f.code != "primary-restored"] == list(planned.findings)
    assert "results-dropped" in {f.code for f in planned.findings}
    assert (told.cells, told.rewritten, told.restored, told.reason) == (30, 51, SHARED, "wrong donor")
    after = open_atlas(copy)
    assert after.published_ms == told.published_ms > before.published_ms
    assert [(d.dataset_id, d.first_joinid, d.dataset_joinid) for d in after.datasets] == [
        ("b", 0, 1), ("c", 31, 2),
    ]  # fmt: skip
    fresh = open_atlas(str(build(tmp_path / "fresh", sources, "bc")))
    then = open_atlas(copy, at=before.published_ms)
    assert (then.published_ms, then.datasets) == (before.published_ms, before.datasets)
    assert [(row.key, row.sha256) for row in then.results] == [(row.key, row.sha256) for row in before.results]
    for atlas, meant in ((after, content_hash(fresh)), (then, hash_before)):
        checked = validate(atlas)
        assert (checked.sound, checked.findings, checked.content_hash) == (True, (), meant)
    assert not find_leftovers(copy)
    cells, presence = census_of(copy, before.published_ms)
    same_cells(cells, read_before[0])
    np.testing.assert_array_equal(presence, read_before[1])
    cells, presence = census_of(copy, None)
    meant, primary = fresh.query("human", every_cell=True).to_anndata(), after.query("human").obs()["is_primary_data"]
    assert (cells.X != meant.X).nnz == 0
    assert cells.obs["observation_joinid"].tolist() == meant.obs["observation_joinid"].tolist()
    genes = [len(ad.read_h5ad(sources[name].uri).var) for name in "bc"]
    assert presence.sum(axis=1).tolist() == [0, *genes]
    assert primary.all()
    followed_their_cells(after, cells)


def followed_their_cells(atlas: Atlas, cells: ad.AnnData) -> None:
    """Results are of every third cell of before: their values say of which cell they are."""
    meant = vectors(atlas)
    had = (np.arange(30, 81) % 3) == 0
    np.testing.assert_array_equal(cells.obsm[EMBEDDING.member], np.where(had[:, None], meant, 0))
    assert {row.key: row.cells for row in atlas.results} == {
        str(EMBEDDING): 17, str(LABELS): 17, str(NETWORK): 81,
    }  # fmt: skip
    with atlas.open() as tree:
        rna = tree["census_data"][HUMAN].ms["RNA"]
        labels = rna["labels"][LABELS.member].read().concat().to_pandas()
        network = rna["varp"][NETWORK.member].read().tables().concat().to_pandas()
        assert set(rna.X) == {"raw"}, "a result of the dataset's cells alone is gone with them"
    assert labels["soma_joinid"].tolist() == np.flatnonzero(had).tolist()
    assert labels["named"].tolist() == [f"type of {first:.0f}" for first in meant[had, 0]]
    assert network[["soma_dim_0", "soma_dim_1", "soma_data"]].to_numpy().tolist() == [[3, 7, 0.5], [8, 1, 2.0]]


@pytest.mark.slow
def test_an_organism_goes_with_its_last_dataset_and_may_come_back(sources: dict[str, Source], tmp_path: Path) -> None:
    uri = str(tmp_path / "atlas")
    assert [ingest(sources[name], uri, FAST).status for name in "mc"] == ["written"] * 2
    before = open_atlas(uri)
    retract(uri, "m", "not wanted")
    assert open_atlas(uri).organisms == (HUMAN,)
    with soma.Collection.open(f"{uri}/census_data") as data:
        assert list(data) == [HUMAN]
    refused = ingest(sources["m"], uri, FAST)
    assert (refused.status, [f.code for f in refused.findings]) == ("rejected", ["dataset-retracted"])
    assert "not wanted" in refused.findings[0].found
    corrected = write_source(tmp_path / "m.h5ad", make_adata(15, 80, organism="mouse", seed=4), id="m",
                             organism="mouse", constants={"sex": "male"})  # fmt: skip
    assert ingest(corrected, uri, FAST).status == "written"
    with open_atlas(uri).open() as tree:
        assert set(tree["census_data"]) == {HUMAN, "mus_musculus"}
    assert validate(uri).findings == ()
    assert [d.dataset_joinid for d in open_atlas(uri).datasets] == [1, 2], "a number is not given again"
    assert validate(open_atlas(uri, at=before.published_ms)).findings == (), "each moment has its own receipt"


def retract_and_die(uri: str) -> None:
    """Retract, and be killed when the new arrays have just become members."""
    real = editions.take_edition

    def die(*args: object) -> None:
        real(*args)
        os.kill(os.getpid(), signal.SIGKILL)

    editions.take_edition = die
    retract(uri, "a", "killed")


def tree(root: str) -> dict[str, int]:
    """Return every file of the SOMA tree, but for enumerations no schema names, which a roll-back leaves."""
    place = store.local_root(root)
    apart = {store.LEDGER, "__enumerations"}
    files = (p for p in place.rglob("*") if p.is_file() and not apart & set(p.relative_to(place).parts))
    return {str(p.relative_to(place)): p.stat().st_size for p in files}


@pytest.mark.slow
def test_a_killed_one_leaves_the_atlas_as_it_was_and_is_taken_back(base: Path, copy: str) -> None:
    before, files = open_atlas(copy), tree(copy)
    process = mp.get_context("spawn").Process(target=retract_and_die, args=(copy,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert open_atlas(copy) == before
    assert content_hash(open_atlas(copy)) == content_hash(open_atlas(str(base)))
    assert {f.code for f in find_leftovers(copy)} == {"unfinished-ingest", "unpublished-writes"}
    assert repair_atlas(copy)
    assert tree(copy) == files
    assert not find_leftovers(copy)
    assert sorted(p.name for p in (store.local_root(copy) / "census_data" / HUMAN).glob("[!_]*")) == ["ms", "obs"]


def test_copies_of_a_source_that_calls_cells_copies_itself_stay_as_they_are(
    sources: dict[str, Source], tmp_path: Path
) -> None:
    uri = str(tmp_path / "atlas")
    own = with_copies(make_adata(10, 100, seed=5), ad.read_h5ad(sources["a"].uri)[:SHARED])
    own.obs["is_primary_data"] = ["False", *["True"] * (own.n_obs - 1)]
    assert ingest(sources["a"], uri, FAST).status == "written"
    assert ingest(write_source(tmp_path / "own.h5ad", own, id="own"), uri, FAST).status == "written"
    told = retract(uri, "a", "withdrawn")
    assert told.restored == 0
    assert [(f.code, f.count) for f in told.findings] == [("primary-not-restored", SHARED)]
    primary = open_atlas(uri).query("human", every_cell=True).obs(["is_primary_data"])["is_primary_data"]
    assert primary.tolist() == [False] + [True] * 9 + [False] * SHARED
    with pytest.raises(AtlasInputError, match="remove the folder"):
        retract(uri, "own", "withdrawn")


def test_refusals_and_a_dry_run_change_nothing(copy: str) -> None:
    files, before = tree(copy), open_atlas(copy)
    with pytest.raises(AtlasInputError, match="nearest: a"):
        retract(copy, "aa", "why")
    with pytest.raises(AtlasInputError, match="reason"):
        retract(copy, "a", " ")
    told = retract(copy, "a", "why", dry_run=True)
    assert (told.status, told.cells, told.rewritten, told.published_ms) == ("planned", 30, 51, None)
    assert (tree(copy), open_atlas(copy)) == (files, before)
