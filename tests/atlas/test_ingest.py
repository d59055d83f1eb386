"""An ingest: what goes in comes out, twice is once, rejected leaves no trace, killed leaves the atlas as it was."""

from __future__ import annotations

import multiprocessing as mp
import os
import shutil
import signal
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import tiledbsoma as soma

from atlas import IngestOptions, Source, SourceError, StoreError, ingest, open_atlas, store, summaries, write
from atlas.ledger import Ledger
from ontology import load_gene_table
from tests.factories import make_adata, write_source

if TYPE_CHECKING:
    from pathlib import Path

    import anndata as ad

pytestmark = pytest.mark.index
MODULE = sys.modules["atlas.ingest"]  # the facade gives the function of that name
FAST = IngestOptions(doublets=False, neighbours=False)


def tree(root: Path) -> dict[str, int]:
    """Return every file of the SOMA tree with its size, but for the ledger, which keeps receipts of rejections too.

    Enumeration files carry no timestamp; one that no schema refers to is left behind by a roll-back, and never read.
    """
    apart = {store.LEDGER, "__enumerations"}
    files = (p for p in root.rglob("*") if p.is_file() and not apart & set(p.relative_to(root).parts))
    return {str(p.relative_to(root)): p.stat().st_size for p in files}


def assert_counts(root: Path, dataset: str, adata: ad.AnnData) -> None:
    """Compare the stored counts with the input, cell by cell and gene by gene."""
    got = open_atlas(str(root)).query("human", every_cell=True).to_anndata()
    got = got[got.obs["dataset_id"] == dataset]
    meant = sp.csr_matrix(adata.X)
    wanted = pd.Index(got.obs["cell_name"]).get_indexer(adata.obs_names)
    assert (wanted >= 0).all()
    columns = got.var_names.get_indexer(adata.var_names)
    diff = got.X[wanted][:, columns] - meant
    assert diff.nnz == 0 or abs(diff).max() == 0
    assert got.X.sum() == meant.sum()


def test_counts_and_books(tmp_path: Path) -> None:
    adata = make_adata(60, 150)
    receipt = ingest(write_source(tmp_path / "a.h5ad", adata, id="first"), str(tmp_path / "atlas"), FAST)
    assert receipt.status == "written"
    assert all(t.balanced for t in (receipt.cells, receipt.genes, receipt.counts))
    assert (receipt.cells.came_in, receipt.cells.kept) == (60, 60)
    assert receipt.genes.kept == 150
    assert receipt.counts.kept == int(adata.X.sum())
    assert_counts(tmp_path / "atlas", "first", adata)
    obs = open_atlas(str(tmp_path / "atlas")).query("human", every_cell=True).obs()
    np.testing.assert_array_equal(obs["raw_sum"], np.asarray(adata.X.sum(axis=1)).ravel())
    np.testing.assert_array_equal(obs["nnz"], np.diff(adata.X.indptr))
    assert set(obs["cell_type"]) == {"T cell", "B cell"}
    assert set(obs["tissue_general"]) == {"blood"}
    assert (obs["n_measured_vars"] == 150).all()
    assert obs["soma_joinid"].tolist() == list(range(60))


def test_every_slow_stage_reports_its_progress_to_the_end(tmp_path: Path) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    options = IngestOptions(progress=lambda stage, done, total: seen.setdefault(stage, []).append((done, total)))
    adata = make_adata(130, 6000)  # enough cells and genes for doublets to be scored
    assert ingest(write_source(tmp_path / "a.h5ad", adata), str(tmp_path / "atlas"), options).status == "written"
    assert list(seen) == ["prove", "measure", "doublets", "write", "neighbours", "verify"]
    assert all(steps[-1] == (130, 130) for steps in seen.values())


def test_twice_is_once_whatever_the_file_is_called(tmp_path: Path) -> None:
    adata = make_adata()
    uri = str(tmp_path / "atlas")
    assert ingest(write_source(tmp_path / "a.h5ad", adata), uri, FAST).status == "written"
    before = tree(tmp_path / "atlas")
    assert ingest(write_source(tmp_path / "b.h5ad", adata), uri, FAST).status == "unchanged"
    adata.write_h5ad(tmp_path / "c.h5ad", compression="gzip")
    again = ingest(Source(id=None, organism="human", uri=str(tmp_path / "c.h5ad"), format="h5ad"), uri, FAST)
    assert again.status == "unchanged"
    assert again.input_sha256 != ingest(write_source(tmp_path / "b.h5ad", adata), uri, FAST).input_sha256
    assert tree(tmp_path / "atlas") == before


def test_second_dataset_second_organism_and_totals(tmp_path: Path) -> None:
    uri = str(tmp_path / "atlas")
    a, b = make_adata(30, 100, seed=1), make_adata(50, 140, seed=2)
    m = make_adata(20, 80, organism="mouse", seed=3)
    for name, adata, organism in (("a", a, "human"), ("m", m, "mouse"), ("b", b, "human")):
        assert (
            ingest(write_source(tmp_path / f"{name}.h5ad", adata, id=name, organism=organism), uri, FAST).status
            == "written"
        )
    for name, adata in (("a", a), ("b", b)):
        assert_counts(tmp_path / "atlas", name, adata)
    atlas = open_atlas(uri)
    assert (atlas.n_cells("human"), atlas.n_cells("mouse")) == (80, 20)
    with atlas.open() as root:
        human = root["census_data"]["homo_sapiens"]
        var = human.ms["RNA"].var.read().concat().to_pandas()
        x = human.ms["RNA"].X["raw"].read().tables().concat()
        presence = human.ms["RNA"]["feature_dataset_presence_matrix"].read().tables().concat().to_pandas()
        counts = root["census_info"]["summary_cell_counts"].read().concat().to_pandas()
        facts = root["census_info"]["summary"].read().concat().to_pandas().set_index("label")["value"]
    nnz = np.bincount(x["soma_dim_1"].to_numpy(), minlength=len(var))
    np.testing.assert_array_equal(var["nnz"], nnz)
    assert presence.groupby("soma_dim_0").size().to_dict() == {0: 100, 2: 140}
    measured = var.set_index("feature_id")["n_measured_obs"]
    assert measured[sorted(set(a.var_names) - set(b.var_names))].unique().tolist() == [30]
    assert measured[sorted(set(a.var_names) & set(b.var_names))].unique().tolist() == [80]
    assert facts["total_cell_count"] == "100"
    total = counts[(counts["category"] == "all")].set_index("organism")["total_cell_count"].to_dict()
    assert total == {"Homo sapiens": 80, "Mus musculus": 20}
    cells = counts[(counts["category"] == "cell_type") & (counts["organism"] == "Homo sapiens")]
    assert cells.set_index("label")["total_cell_count"].to_dict() == {"B cell": 40, "T cell": 40}


def test_duplicate_and_unknown_genes_and_empty_cells_are_tallied(tmp_path: Path) -> None:
    adata = make_adata(30, 60)
    adata.X = sp.csr_matrix(adata.X.multiply((np.arange(30) != 7)[:, None]))
    names = list(adata.var_names)
    names[1], names[2] = names[0] + ".3", "no-such-gene"
    adata.var_names = names
    receipt = ingest(write_source(tmp_path / "a.h5ad", adata, id="a"), str(tmp_path / "atlas"), FAST)
    assert receipt.status == "written"
    assert receipt.cells.dropped == {"no-counts": 1}
    assert (receipt.genes.kept, receipt.genes.merged, sum(receipt.genes.dropped.values())) == (58, 1, 1)
    lost = int(adata.X[:, 2].sum())
    assert receipt.counts.dropped.get("unmapped-genes", 0) == lost
    assert receipt.counts.balanced
    got = open_atlas(str(tmp_path / "atlas")).query("human", every_cell=True).to_anndata(genes=[names[0]])
    live = np.flatnonzero(np.arange(30) != 7)
    both = np.asarray(adata.X[live][:, [0, 1]].sum(axis=1)).ravel()
    np.testing.assert_array_equal(got.X.toarray().ravel(), both)
    codes = {f.code for f in receipt.findings}
    assert {"unmapped-genes", "duplicate-genes", "empty-cells"} <= codes


def test_copies_are_stored_but_not_primary(tmp_path: Path) -> None:
    """The same cells under other names, and again with most genes outside the core filtered away."""
    uri = str(tmp_path / "atlas")
    adata = make_adata(40, 400)
    ingest(write_source(tmp_path / "a.h5ad", adata, id="a"), uri, FAST)
    copy = adata[:25].copy()
    copy.obs_names = [f"again{i}" for i in range(25)]
    receipt = ingest(write_source(tmp_path / "b.h5ad", copy, id="b"), uri, FAST)
    assert {f.code: f.count for f in receipt.findings}["duplicate-cells"] == 25
    table = load_gene_table("human")
    core = np.isin(adata.var_names, table.ids[table.core])
    filtered = adata[25:, core | (np.arange(400) % 4 == 0)].copy()
    receipt = ingest(write_source(tmp_path / "c.h5ad", filtered, id="c"), uri, FAST)
    codes = {f.code: f.count for f in receipt.findings}
    assert codes["duplicate-core"] == 15
    assert "duplicate-cells" not in codes
    obs = open_atlas(uri).query("human", every_cell=True).obs(["dataset_id", "is_primary_data"])
    assert obs.groupby("dataset_id", observed=True)["is_primary_data"].sum().to_dict() == {"a": 40, "b": 0, "c": 0}


def test_cell_ids_survive_a_new_atlas_and_another_order_of_ingest(tmp_path: Path) -> None:
    a, b = (write_source(tmp_path / f"{n}.h5ad", make_adata(20, 80, seed=i), id=n) for i, n in enumerate("ab"))
    ids = []
    for name, order in (("x", (a, b)), ("y", (b, a))):
        for source in order:
            ingest(source, str(tmp_path / name), FAST)
        obs = open_atlas(str(tmp_path / name)).query("human", every_cell=True).obs()
        columns = ["dataset_id", "cell_name", "observation_joinid", "count_hash", "core_hash"]
        ids.append(set(obs[columns].astype(str).itertuples(index=False, name=None)))
    assert ids[0] == ids[1]


def test_dry_run_writes_nothing_and_tells_the_same_books(tmp_path: Path) -> None:
    source = write_source(tmp_path / "a.h5ad", id="a")
    plan = ingest(source, str(tmp_path / "atlas"), IngestOptions(doublets=False, dry_run=True))
    assert plan.status == "planned"
    assert not (tmp_path / "atlas").exists()
    done = ingest(source, str(tmp_path / "atlas"), FAST)
    assert (plan.cells, plan.genes, plan.counts, plan.flagged) == (done.cells, done.genes, done.counts, done.flagged)


def test_rejected_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    uri = str(tmp_path / "atlas")
    ingest(write_source(tmp_path / "a.h5ad", id="a"), uri, FAST)
    before = tree(tmp_path / "atlas")
    wrong = make_adata(seed=5)
    wrong.X.data[3] = 0.5
    other = make_adata(seed=6)
    other.obs["organism_ontology_term_id"] = "NCBITaxon:10090"
    mice = make_adata(seed=7)
    mice.var_names = [f"XENO{i}" for i in range(mice.n_vars)]
    taken = make_adata(seed=8)
    cases = {"f": (wrong, "f", None), "o": (other, "o", "wrong-organism"), "m": (mice, "m", "unknown-genes"),
             "t": (taken, "a", "dataset-id-taken")}  # fmt: skip
    for name, (adata, dataset, code) in cases.items():
        receipt = ingest(write_source(tmp_path / f"{name}.h5ad", adata, id=dataset), uri, FAST)
        assert receipt.status == "rejected", name
        assert receipt.findings, name
        assert code is None or code in {f.code for f in receipt.findings}
        assert all(f.remedy for f in receipt.findings)
    assert tree(tmp_path / "atlas") == before
    with Ledger(tmp_path / "atlas" / "ledger" / "ledger.sqlite") as ledger:
        assert [r["status"] for r in ledger.receipts()] == ["written", *["rejected"] * 4]


def test_a_failure_in_the_middle_is_undone_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path / "atlas")
    ingest(write_source(tmp_path / "a.h5ad", id="a"), uri, FAST)
    before = tree(tmp_path / "atlas")
    second = write_source(tmp_path / "b.h5ad", make_adata(seed=9), id="b")
    with monkeypatch.context() as patch:
        patch.setattr(
            summaries, "add_to_summaries", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        )
        with pytest.raises(OSError, match="No space left"):
            ingest(second, uri, FAST)
    assert tree(tmp_path / "atlas") == before
    assert open_atlas(uri).n_cells("human") == 40
    assert ingest(second, uri, FAST).status == "written"


def test_a_store_that_reads_back_differently_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path / "atlas")
    ingest(write_source(tmp_path / "a.h5ad", id="a"), uri, FAST)
    real = write._coordinates

    def off_by_one(block: sp.csr_matrix, first: int, into: tuple[np.ndarray, ...]):
        block = block.copy()
        block.data[0] += 1
        return real(block, first, into)

    monkeypatch.setattr(write, "_coordinates", off_by_one)
    with pytest.raises(StoreError, match="reads back differently"):
        ingest(write_source(tmp_path / "b.h5ad", make_adata(seed=9), id="b"), uri, FAST)
    assert open_atlas(uri).n_cells("human") == 40


def test_a_collection_without_our_ledger_is_left_alone(tmp_path: Path) -> None:
    """Undoing an ingest into somebody's Census copy, or an atlas whose ledger was lost, would have removed it."""
    uri = str(tmp_path / "atlas")
    ingest(write_source(tmp_path / "a.h5ad", id="a"), uri, FAST)
    shutil.rmtree(tmp_path / "atlas" / store.LEDGER)
    before = tree(tmp_path / "atlas")
    with pytest.raises(StoreError, match="without our ledger"):
        ingest(write_source(tmp_path / "b.h5ad", make_adata(seed=3), id="b"), uri, FAST)
    assert tree(tmp_path / "atlas") == before


def test_another_gene_table_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Columns of X are positions in the table an atlas was made with."""
    uri = str(tmp_path / "atlas")
    ingest(write_source(tmp_path / "a.h5ad", id="a"), uri, FAST)
    before = tree(tmp_path / "atlas")
    second = write_source(tmp_path / "b.h5ad", make_adata(seed=3), id="b")
    table = load_gene_table("human")
    other = SimpleNamespace(sha256="0" * 64, order_sha256="0" * 64, ids=table.ids)
    monkeypatch.setattr(MODULE, "load_gene_table", lambda _: other)
    with pytest.raises(StoreError, match="another gene table"):
        ingest(second, uri, FAST)
    assert "leftovers" not in caplog.text, "nothing was written, so nothing was removed"
    assert tree(tmp_path / "atlas") == before


def test_a_clock_behind_the_last_ingest_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path / "atlas")
    ingest(write_source(tmp_path / "a.h5ad", id="a"), uri, FAST)
    moment = open_atlas(uri).published_ms
    monkeypatch.setattr(MODULE, "now_ms", lambda: moment - 5000)
    with pytest.raises(StoreError, match=r"5\.0 s behind the last ingest"):
        ingest(write_source(tmp_path / "b.h5ad", make_adata(seed=3), id="b"), uri, FAST)
    assert open_atlas(uri).n_cells("human") == 40


def test_another_declaration_of_the_same_content_is_told(tmp_path: Path) -> None:
    uri = str(tmp_path / "atlas")
    ingest(write_source(tmp_path / "a.h5ad", id="a"), uri, FAST)
    again = ingest(write_source(tmp_path / "a.h5ad", id="a", constants={"sex": "female"}), uri, FAST)
    assert (again.status, [f.code for f in again.findings]) == ("unchanged", ["declaration-differs"])


def test_the_other_setting_of_neighbours_is_told(tmp_path: Path) -> None:
    uri = str(tmp_path / "atlas")
    source = write_source(tmp_path / "a.h5ad", id="a")
    assert ingest(source, uri, FAST).releases["neighbours"] == "no"
    with_them = IngestOptions(doublets=False)
    for _ in range(2):  # the receipt of the first asking does not hide what is stored
        again = ingest(source, uri, with_them)
        assert (again.status, [f.code for f in again.findings]) == ("unchanged", ["neighbours-differ"])
        assert "new atlas" in again.findings[0].remedy
    assert ingest(source, uri, FAST).findings == ()


def test_the_same_content_under_another_organism_is_rejected(tmp_path: Path) -> None:
    uri = str(tmp_path / "atlas")
    source = write_source(tmp_path / "a.h5ad", id="a")
    ingest(source, uri, FAST)
    wrong = ingest(Source(organism="mouse", uri=source.uri), uri, FAST)
    assert wrong.status == "rejected"
    assert [f.code for f in wrong.findings] == ["wrong-organism"]
    assert "panatlas ingest human" in wrong.findings[0].remedy


def test_every_published_dataset_has_its_receipt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The receipt is in the commit that publishes, so being stopped right after it loses nothing."""
    uri = str(tmp_path / "atlas")
    source = write_source(tmp_path / "a.h5ad", id="a")
    real = Ledger.publish

    def stop_after(self: Ledger, *args: object) -> None:
        real(self, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(Ledger, "publish", stop_after)
    with pytest.raises(KeyboardInterrupt):
        ingest(source, uri, FAST)
    assert [(r["status"], r["dataset_id"]) for r in open_atlas(uri).receipts()] == [("written", "a")]
    assert open_atlas(uri).query("human", every_cell=True).n_cells() == 40


def test_an_unreadable_source_is_the_sources_fault(tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        ingest(Source(organism="human", uri=str(tmp_path / ("x" * 300))), str(tmp_path / "atlas"), FAST)


def _ingest_and_die(source: Source, uri: str, stage: str) -> None:
    """Ingest, and be killed when the named stage of writing has just run."""
    home = write if hasattr(write, stage) else summaries
    real = getattr(home, stage)

    def die(*args: object) -> object:
        real(*args)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(home, stage, die)
    ingest(source, uri, FAST)


def test_kill_of_the_very_first_ingest_leaves_nothing_that_blocks_the_next(tmp_path: Path) -> None:
    uri = str(tmp_path / "atlas")
    adata = make_adata(seed=2)
    source = write_source(tmp_path / "b.h5ad", adata, id="b")
    process = mp.get_context("spawn").Process(target=_ingest_and_die, args=(source, uri, "write_counts"))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with pytest.raises(StoreError, match="nothing is published"):
        open_atlas(uri)
    assert ingest(source, uri, FAST).status == "written"
    assert_counts(tmp_path / "atlas", "b", adata)


@pytest.mark.parametrize("stage", ["write_counts", "write_obs", "add_to_summaries"])
def test_kill_leaves_the_published_atlas_and_a_rerun_finishes(tmp_path: Path, stage: str) -> None:
    uri = str(tmp_path / "atlas")
    a, b = make_adata(seed=1), make_adata(seed=2)
    ingest(write_source(tmp_path / "a.h5ad", a, id="a"), uri, FAST)
    source = write_source(tmp_path / "b.h5ad", b, id="b")
    process = mp.get_context("spawn").Process(target=_ingest_and_die, args=(source, uri, stage))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(open_atlas(uri).query("human", every_cell=True).obs(["soma_joinid"])) == 40
    assert ingest(source, uri, FAST).status == "written"
    assert_counts(tmp_path / "atlas", "a", a)
    assert_counts(tmp_path / "atlas", "b", b)
    with soma.SparseNDArray.open(store.array_uri(tmp_path / "atlas", "homo_sapiens", "ms/RNA/X/raw")) as x:
        assert x.nnz == a.X.nnz + b.X.nnz


def test_readers_at_the_published_moment_do_not_see_later_cells(tmp_path: Path) -> None:
    uri = str(tmp_path / "atlas")
    ingest(write_source(tmp_path / "a.h5ad", make_adata(seed=1), id="a"), uri, FAST)
    moment = open_atlas(uri).published_ms
    ingest(write_source(tmp_path / "b.h5ad", make_adata(seed=2), id="b"), uri, FAST)
    assert open_atlas(uri, at=moment).n_cells("human") == 40
    assert open_atlas(uri, at=moment).query("human", every_cell=True).to_anndata().n_obs == 40
    assert open_atlas(uri).n_cells("human") == 80
